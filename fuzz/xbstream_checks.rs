//! What the fuzz target of the backup stream's reader checks. Also run over the committed corpus by the mysql crate's
//! tests, on stable Rust.

use std::collections::BTreeMap;

use super::writer::StreamWriter;
use crate::basebackup::{FileEvent, XbstreamReader};

/// Reads a stream to its end, in inputs of `portion` bytes; what was seen, as text, runs of data taken together.
fn read(stream: &[u8], portion: usize) -> Vec<String> {
    let mut reader = XbstreamReader::new();
    let mut seen = Vec::new();
    let mut data: BTreeMap<u64, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    for input in stream.chunks(portion.max(1)) {
        reader.feed(bytes::Bytes::copy_from_slice(input));
        loop {
            assert!(seen.len() <= stream.len(), "the reader makes no progress");
            match reader.poll() {
                Ok(None) => break,
                Ok(Some(FileEvent::Data { file, offset, bytes })) => {
                    assert!(!bytes.is_empty());
                    let runs = data.entry(file).or_default();
                    match runs.last_mut() {
                        Some((begin, run)) if *begin + run.len() as u64 == offset => {
                            run.extend_from_slice(&bytes);
                        }
                        _ => runs.push((offset, bytes.to_vec())),
                    }
                }
                Ok(Some(FileEvent::End { file })) => seen.push(format!("{file} {:?}", data.remove(&file))),
                Ok(Some(event)) => seen.push(format!("{event:?}")),
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
    }
    seen.push(format!("{:?}", reader.finish()));
    seen
}

/// Any bytes, as a stream or as chunks under checksums that hold: no panic, and the same events and errors however the
/// bytes are divided. The first byte says how, the second what the bytes are.
pub fn xbstream(data: &[u8]) {
    let [portion, mode, bytes @ ..] = data else {
        return;
    };
    let stream = if mode & 1 == 0 {
        bytes.to_vec()
    } else {
        chunks(bytes)
    };
    assert_eq!(read(&stream, stream.len()), read(&stream, usize::from(*portion)));
}

/// A stream of chunks whose types, files, offsets and lengths are these bytes.
fn chunks(mut bytes: &[u8]) -> Vec<u8> {
    let mut stream = StreamWriter::default();
    while let [kind, file, offset, length, rest @ ..] = bytes {
        let (payload, behind) = rest.split_at_checked(usize::from(*length)).unwrap_or((rest, &[]));
        let (path, offset) = (format!("d/{}", file % 4), u64::from(*offset));
        match kind % 6 {
            0 => stream.payload(0, &path, offset, payload),
            1 => stream.end(&path),
            2 => stream.seek(&path, offset),
            3 => stream.rename(&path, &format!("d/{}", offset % 4)),
            4 => stream.remove(&path),
            _ => stream.payload(2, &path, offset, payload),
        }
        bytes = behind;
    }
    stream.bytes
}
