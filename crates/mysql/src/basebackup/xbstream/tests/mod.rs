mod corpus;
mod live;
mod writer;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use writer::StreamWriter;

/// What comes of a stream that is fed in portions: the files, and how it ended.
fn files(stream: &[u8], portion: usize) -> Result<BTreeMap<String, Vec<u8>>, XbstreamError> {
    let mut reader = XbstreamReader::new();
    let mut files = FileTree::default();
    for input in stream.chunks(portion.max(1)) {
        reader.feed(Bytes::copy_from_slice(input));
        while let Some(event) = reader.poll()? {
            files.take(event);
        }
    }
    reader.finish()?;
    assert!(files.open.is_empty());
    Ok(files.files)
}

/// What `mbstream -x` makes of events.
#[derive(Default)]
struct FileTree {
    open: BTreeMap<u64, (String, Vec<u8>)>,
    files: BTreeMap<String, Vec<u8>>,
}

impl FileTree {
    fn take(&mut self, event: FileEvent) {
        match event {
            FileEvent::Begin { file, path, replaces } => {
                let before = self.files.remove(&*path);
                assert!(replaces || before.is_none(), "{path} came twice");
                self.open.insert(file, (path.to_string(), Vec::new()));
            }
            FileEvent::Data { file, offset, bytes } => {
                assert!(!bytes.is_empty());
                let (_, content) = self.open.get_mut(&file).unwrap();
                let begin = offset as usize;
                content.resize(content.len().max(begin + bytes.len()), 0);
                content[begin..begin + bytes.len()].copy_from_slice(&bytes);
            }
            FileEvent::End { file } => {
                let (path, content) = self.open.remove(&file).unwrap();
                self.files.insert(path, content);
            }
            FileEvent::Rename { from, to } => {
                if let Some(content) = self.files.remove(&*from) {
                    self.files.insert(to.to_string(), content);
                }
            }
            FileEvent::Remove { path } => {
                self.files.remove(&*path);
            }
            FileEvent::Directory { path } => panic!("{path}: the stream has no directories"),
        }
    }
}

fn tree(files: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
    files
        .iter()
        .map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec()))
        .collect()
}

/// Files that alternate, an empty one, one that is mended behind its end, one that has a hole, one that is copied again.
fn sample() -> StreamWriter {
    let mut stream = StreamWriter::default();
    stream.payload(0, "./d/a.ibd", 0, b"first ");
    stream.payload(0, "ib_logfile0", 0, b"redo");
    stream.payload(0, "d/a.ibd", 6, b"second");
    stream.end("d/a.ibd");
    stream.end("d/empty.frm");
    stream.payload(0, "aria_log.00000001", 0, b"header, records");
    stream.seek("aria_log.00000001", 2);
    stream.payload(0, "aria_log.00000001", 2, b"AD");
    stream.end("aria_log.00000001");
    stream.payload(0, "d/hole", 0, b"x");
    stream.seek("d/hole", 3);
    stream.payload(0, "d/hole", 3, b"y");
    stream.end("d/hole");
    stream.payload(0, "d/t.MAD", 0, b"before");
    stream.end("d/t.MAD");
    stream.payload(2, "d/t.MAD", 0, b"after");
    stream.end("d/t.MAD");
    stream.payload(0, "d/gone", 0, b"gone");
    stream.end("d/gone");
    stream.remove("d/gone");
    stream.rename("d/t.MAD", "d/u.MAD");
    stream.rename("d/never", "d/ever");
    stream.payload(0, "ib_logfile0", 4, b" more");
    stream.end("ib_logfile0");
    stream
}

#[test]
fn a_stream_is_the_files_that_it_holds_however_it_is_divided() {
    let stream = sample().bytes;
    let expected = tree(&[
        ("aria_log.00000001", b"heADer, records"),
        ("d/a.ibd", b"first second"),
        ("d/empty.frm", b""),
        ("d/hole", b"x\0\0y"),
        ("d/u.MAD", b"after"),
        ("ib_logfile0", b"redo more"),
    ]);
    for portion in [1, 2, 13, 14, 15, 64, stream.len()] {
        assert_eq!(
            files(&stream, portion).as_ref(),
            Ok(&expected),
            "portions of {portion}"
        );
    }
}

#[test]
fn a_stream_cut_anywhere_but_at_its_end_is_refused() {
    let stream = sample().bytes;
    for len in 1..stream.len() {
        assert!(files(&stream[..len], 7).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn a_changed_payload_is_found() {
    let mut stream = StreamWriter::default();
    stream.payload(0, "a", 0, b"payload");
    stream.end("a");
    let at = stream
        .bytes
        .windows(7)
        .position(|bytes| bytes == b"payload")
        .unwrap();
    stream.bytes[at] ^= 1;
    let expected = XbstreamError::Checksum {
        path: "a".to_owned(),
        offset: 0,
        length: 7,
    };
    assert_eq!(files(&stream.bytes, 3), Err(expected));
}

#[test]
fn chunks_out_of_order_are_refused() {
    let mut gap = StreamWriter::default();
    gap.payload(0, "a", 0, b"x");
    gap.payload(0, "a", 2, b"y");
    let mut late = StreamWriter::default();
    late.payload(0, "a", 5, b"x");
    let mut endless = StreamWriter::default();
    endless.payload(0, "a", 0, b"");
    endless.seek("a", u64::MAX);
    endless.payload(0, "a", u64::MAX, b"x");
    for stream in [gap, late, endless] {
        assert!(matches!(
            files(&stream.bytes, 9),
            Err(XbstreamError::Order { .. })
        ));
    }
    let mut open = StreamWriter::default();
    open.payload(0, "a", 0, b"x");
    open.rename("a", "b");
    assert!(matches!(files(&open.bytes, 9), Err(XbstreamError::State { .. })));
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for path in ["/etc/passwd", "../a", "d/../../a", ".", "d//a", "d/", "a\0b", ""] {
        let (mut end, mut rename) = (StreamWriter::default(), StreamWriter::default());
        end.end(path);
        rename.rename("a", path);
        for stream in [end, rename] {
            let refused = files(&stream.bytes, 5);
            assert!(
                matches!(refused, Err(XbstreamError::Path { .. })),
                "{path}: {refused:?}"
            );
        }
    }
    let mut long = StreamWriter::default();
    long.end(&"x".repeat(512));
    assert!(matches!(files(&long.bytes, 5), Err(XbstreamError::Path { .. })));
}

#[test]
fn unknown_chunks_are_refused() {
    let mut stream = StreamWriter::default();
    stream.payload(4, "a", 0, b"x");
    assert!(matches!(
        files(&stream.bytes, 5),
        Err(XbstreamError::Kind { flags: 4, .. })
    ));
    let mut stream = StreamWriter::default();
    stream.end("a");
    stream.bytes[9] = b'X';
    assert!(matches!(
        files(&stream.bytes, 5),
        Err(XbstreamError::Kind { kind: b'X', .. })
    ));
    assert_eq!(
        files(b"XBSTCK02xxxxxxxxxxxx", 5),
        Err(XbstreamError::Magic { at: 0 })
    );
}

proptest! {
    #[test]
    fn any_files_come_back(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
        turns in prop::collection::vec((0usize..6, 1usize..100), 0..40),
        portion in 1usize..200,
    ) {
        let mut stream = StreamWriter::default();
        let mut written = vec![0usize; contents.len()];
        let all = (0..contents.len()).map(|file| (file, usize::MAX));
        for (file, len) in turns.into_iter().map(|(file, len)| (file % contents.len(), len)).chain(all) {
            let begin = written[file];
            let end = contents[file].len().min(begin.saturating_add(len));
            if begin < end {
                stream.payload(0, &format!("f{file}"), begin as u64, &contents[file][begin..end]);
                written[file] = end;
            }
            if len == usize::MAX {
                stream.end(&format!("f{file}"));
            }
        }
        let expected = contents.into_iter().enumerate().map(|(file, bytes)| (format!("f{file}"), bytes)).collect();
        prop_assert_eq!(files(&stream.bytes, portion), Ok(expected));
    }
}
