use super::*;
use proptest::prelude::*;

/// A header as the server's `tarCreateHeader` writes it.
fn header(name: &str, type_flag: u8, size: u64, link: &str) -> Vec<u8> {
    let mut block = vec![0u8; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000600 ");
    put(108, "0000147 ");
    put(116, "0000147 ");
    put(136, "15000000000 ");
    put(157, link);
    put(257, "ustar\x0000");
    if size < 1 << 33 {
        put(124, &format!("{size:011o} "));
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    block[156] = type_flag;
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, b'0', content.len() as u64, "");
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// All events of `bytes` fed in pieces of `piece`, with the data of each file joined.
fn events(bytes: &[u8], piece: usize) -> Result<Vec<TarEvent>, TarError> {
    let mut reader = TarReader::new();
    let mut events: Vec<TarEvent> = Vec::new();
    for chunk in bytes.chunks(piece) {
        reader.feed(Bytes::copy_from_slice(chunk));
        while let Some(event) = reader.poll()? {
            match (events.last_mut(), event) {
                (Some(TarEvent::Data(joined)), TarEvent::Data(more)) => {
                    *joined = [joined.as_ref(), more.as_ref()].concat().into();
                }
                (_, event) => events.push(event),
            }
        }
    }
    reader.finish().map(|()| events)
}

fn archive() -> Vec<u8> {
    let mut bytes = file("backup_label", b"START WAL LOCATION");
    bytes.extend(header("./pg_wal/", b'5', 0, ""));
    bytes.extend(header("pg_tblspc/16400", b'2', 0, "/srv/space"));
    bytes.extend(file("base/5/16384", &[7; 1024]));
    bytes.extend(file("empty", b""));
    bytes
}

fn expected() -> Vec<TarEvent> {
    let modified = Timestamp(0o15000000000 * 1_000_000);
    let file = |path: &str, size| TarEvent::File {
        path: path.to_owned(),
        size,
        mode: 0o600,
        modified,
    };
    vec![
        file("backup_label", 18),
        TarEvent::Data(Bytes::from_static(b"START WAL LOCATION")),
        TarEvent::FileEnd,
        TarEvent::Directory {
            path: "pg_wal".to_owned(),
            mode: 0o600,
        },
        TarEvent::Symlink {
            path: "pg_tblspc/16400".to_owned(),
            target: "/srv/space".to_owned(),
        },
        file("base/5/16384", 1024),
        TarEvent::Data(Bytes::from_static(&[7; 1024])),
        TarEvent::FileEnd,
        file("empty", 0),
        TarEvent::FileEnd,
    ]
}

#[test]
fn an_archive_is_the_same_in_pieces_of_any_size() {
    for piece in [1, 7, 511, 512, 513, 100_000] {
        assert_eq!(events(&archive(), piece), Ok(expected()), "pieces of {piece}");
    }
}

#[test]
fn closing_zero_blocks_may_be_there_or_not() {
    let mut bytes = archive();
    bytes.extend([0; 2 * BLOCK]);
    assert_eq!(events(&bytes, 4096), Ok(expected()));
    bytes.push(1);
    assert!(matches!(events(&bytes, 4096), Err(TarError::Trailing { .. })));
}

#[test]
fn an_archive_cut_anywhere_within_an_entry_is_noticed() {
    let whole = archive();
    let ends = [0, 1024, 1536, 2048, 3584, 4096];
    for cut in 0..whole.len() {
        let result = events(&whole[..cut], 333);
        assert_eq!(result.is_ok(), ends.contains(&cut), "cut at {cut}: {result:?}");
    }
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in ["../x", "a/../../x", "/etc/passwd", "a/.."] {
        let bytes = file(path, b"");
        assert!(
            matches!(events(&bytes, 512), Err(TarError::UnsafePath { .. })),
            "{path}"
        );
    }
}

#[test]
fn what_no_server_sends_is_refused() {
    assert!(matches!(
        events(&header("x", b'x', 0, ""), 512),
        Err(TarError::UnknownType { .. })
    ));
    let mut bytes = file("a", b"b");
    bytes[3] ^= 1;
    assert!(matches!(events(&bytes, 512), Err(TarError::Checksum { at: 0 })));
}

#[test]
fn sizes_past_eight_gigabytes_are_read() {
    let mut reader = TarReader::new();
    reader.feed(header("big", b'0', 12 << 30, "").into());
    assert!(matches!(reader.poll(), Ok(Some(TarEvent::File { size, .. })) if size == 12 << 30));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000), piece in 1usize..1000) {
        let _ = events(&bytes, piece);
    }

    #[test]
    fn a_damaged_archive_never_panics(at in 0usize..4608, value: u8, piece in 1usize..1000) {
        let mut bytes = archive();
        let at = at % bytes.len();
        bytes[at] = value;
        let _ = events(&bytes, piece);
    }

    #[test]
    fn damaged_headers_with_good_checksums_never_panic(at in 0usize..512, value: u8) {
        let mut bytes = archive();
        bytes[at] = value;
        seal(&mut bytes[..BLOCK]);
        let _ = events(&bytes, 100);
    }
}
