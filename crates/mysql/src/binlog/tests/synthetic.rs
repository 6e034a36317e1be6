//! Logs as servers do not write them, or not on demand.

use super::writer::Writer;
use super::*;

fn mysql() -> Writer {
    Writer::new(Flavor::MySql, ChecksumAlgorithm::Crc32)
}

fn mariadb() -> Writer {
    Writer::new(Flavor::MariaDb, ChecksumAlgorithm::None)
}

fn offset(bytes: &[u8]) -> BinlogOffset {
    BinlogOffset(bytes.len() as u64)
}

#[test]
fn a_file_must_begin_as_a_binlog_does() {
    assert_eq!(
        decode(b"\x7FELF").error,
        Some(BinlogError::Magic { found: *b"\x7FELF" })
    );
    let encrypted = decode(b"\xFDbin\x01\x04\x00\x00").error.unwrap();
    assert_eq!(encrypted, BinlogError::Encrypted { at: BinlogOffset(0) });
    assert_eq!(encrypted.class(), tidemark_types::ErrorClass::Config);
    assert_eq!(
        decode(b"\xFEb").end,
        FileEnd::Torn {
            begin: BinlogOffset(0)
        }
    );
    assert_eq!(decode(b"\xFEbin").end, FileEnd::Open);

    let first = mysql().bytes.len();
    let mut writer = mysql();
    writer.query("BEGIN");
    let headless = [b"\xFEbin", &writer.bytes[first..]].concat();
    assert!(matches!(
        decode(&headless).error,
        Some(BinlogError::EventOrder {
            at: BinlogOffset(4),
            ..
        })
    ));
}

#[test]
fn an_encrypted_file_of_mariadb_is_refused() {
    let mut writer = mariadb();
    let at = offset(&writer.bytes);
    writer.event(EventType::START_ENCRYPTION, 0, &[0; 17]);
    let error = decode(&writer.bytes).error.unwrap();
    assert_eq!(error, BinlogError::Encrypted { at });
    let text =
        "binlog is encrypted by the server (at offset 256); read it over a replication connection instead";
    assert_eq!(error.to_string(), text);
}

#[test]
fn nothing_follows_the_end() {
    for kind in [EventType::ROTATE, EventType::STOP] {
        let mut writer = mysql();
        writer.event(kind, 0, b"\x04\0\0\0\0\0\0\0bin.000002");
        assert_eq!(decode(&writer.bytes).end, FileEnd::Closed);
        let at = offset(&writer.bytes);
        writer.query("CREATE TABLE t (i INT)");
        assert_eq!(decode(&writer.bytes).error, Some(BinlogError::AfterEnd { at }));
    }
}

#[test]
fn a_second_format_description_is_refused() {
    let mut writer = mysql();
    let at = offset(&writer.bytes);
    let description = writer.bytes[4 + 19..writer.bytes.len() - 4].to_vec();
    writer.event(EventType::FORMAT_DESCRIPTION, 0, &description);
    let error = decode(&writer.bytes).error.unwrap();
    assert_eq!(error.position(), at);
    assert!(matches!(error, BinlogError::EventOrder { .. }), "{error}");
}

/// An event that was cut out of the middle shows in the positions of those behind it.
#[test]
fn a_hole_shows_in_the_positions() {
    let mut writer = mysql();
    let at = offset(&writer.bytes);
    writer.gtid(1);
    let behind = writer.bytes.len();
    writer.query("DROP TABLE t");
    writer.bytes.drain(usize::try_from(at.0).unwrap()..behind);
    assert!(
        matches!(decode(&writer.bytes).error, Some(BinlogError::EndPosition { at: found, .. }) if found == at)
    );
}

/// Past 4 GiB an event tells the lowest 32 bits of where it ends.
#[test]
fn positions_past_four_gigabytes() {
    let mut writer = mysql();
    let begin = writer.bytes.len();
    writer.query("DROP TABLE t");
    let format = BinlogDecoder::new();
    let mut decoder = format;
    decoder.next(&mut &writer.bytes[..begin]).unwrap();
    let at = BinlogOffset((1 << 32) + begin as u64);
    let mut joined = BinlogDecoder::join(at, decoder.format().unwrap().clone());
    let mut input = &writer.bytes[begin..];
    let event = joined.next(&mut input).unwrap().unwrap();
    assert_eq!(
        (event.begin, event.end),
        (at, at.plus(writer.bytes.len() as u64 - begin as u64))
    );
}

/// A damaged length is neither waited for nor allocated.
#[test]
fn lengths_that_cannot_be() {
    for length in [0u32, 18, 22, (1 << 30) + (1 << 16) + 1, u32::MAX] {
        let mut bytes = mysql().bytes;
        let at = offset(&bytes);
        bytes.extend([0, 0, 0, 0, 2, 77, 0, 0, 0]);
        bytes.extend(length.to_le_bytes());
        bytes.extend([0; 6]);
        for portion in [1, 7, usize::MAX] {
            assert_eq!(
                decode_in_parts(&bytes, &[portion]).error,
                Some(BinlogError::Length { at, length })
            );
        }
    }
    // The longest that may be is waited for, in no more memory than came.
    let mut bytes = mysql().bytes;
    let begin = offset(&bytes);
    bytes.extend([0, 0, 0, 0, 2, 77, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0]);
    assert_eq!(decode(&bytes).end, FileEnd::Torn { begin });
}

/// Of a statement over 1 MiB that comes in portions the beginning is held; its checksum is verified all the same.
#[test]
fn long_events_are_held_in_part() {
    let mut writer = mysql();
    writer.gtid(1);
    writer.query(&format!("CREATE TABLE t (i INT) -- {}", "x".repeat(3 << 20)));
    let whole = decode(&writer.bytes);
    let parts = decode_in_parts(&writer.bytes, &[100_000]);
    assert!(whole.events[2].is_whole && !parts.events[2].is_whole);
    assert_eq!(whole.transactions, parts.transactions);
    assert_eq!(whole.transactions[0].kind, TransactionKind::Ddl);
    let last = writer.bytes.len() - 10;
    writer.bytes[last] ^= 1;
    let error = decode_in_parts(&writer.bytes, &[100_000]).error.unwrap();
    assert!(matches!(error, BinlogError::Checksum { .. }), "{error}");
    assert_eq!(Some(error), decode(&writer.bytes).error);
}

#[test]
fn transactions_end_as_the_servers_see_it() {
    let mut writer = mysql();
    let rows = [1, 0, 0, 0, 0, 0, 1, 0, 2, 0];
    writer.gtid(1);
    writer.query("BEGIN");
    writer.query("SAVEPOINT `s`");
    writer.event(EventType::WRITE_ROWS, 0, &rows);
    writer.query("ROLLBACK TO `s`");
    writer.commit();
    writer.gtid(2);
    writer.query("BEGIN");
    writer.query("INSERT INTO m VALUES (1)");
    writer.query("ROLLBACK");
    writer.gtid(3);
    writer.event(EventType::INCIDENT, 0, b"\x01\0\x04lost");
    writer.event(EventType::INCIDENT, 0, b"\x01\0\x00");
    writer.event(EventType(200), 0x80, b"to be ignored");
    writer.gtid(4);
    writer.query("XA COMMIT X'78',X'',1");
    let decoded = decode(&writer.bytes);
    assert_eq!(decoded.error, None);
    let kinds: Vec<_> = decoded
        .transactions
        .iter()
        .map(|found| (&found.kind, found.ended_by))
        .collect();
    assert_eq!(kinds[0], (&TransactionKind::Changes, TransactionEnd::Xid));
    assert_eq!(kinds[1], (&TransactionKind::Changes, TransactionEnd::Rollback));
    assert_eq!(kinds[2], (&TransactionKind::Incident, TransactionEnd::Incident));
    assert!(matches!(
        kinds[3],
        (TransactionKind::XaCommit(_), TransactionEnd::Statement)
    ));
    // Without a commit time, the clock when the last statement was logged: two seconds after it began.
    assert_eq!(decoded.transactions[1].commit_time.0, 1_700_000_002_000_000);
    assert_eq!(decoded.transactions[1].time_source, TimeSource::Statement);
}

#[test]
fn transactions_of_mariadb_end_as_the_server_sees_it() {
    let mut writer = mariadb();
    writer.mariadb_gtid(1, 0x01);
    writer.query("INSERT INTO m VALUES (1)");
    writer.event(EventType::BINLOG_CHECKPOINT, 0, b"\x0A\0\0\0bin.000001");
    writer.mariadb_gtid(2, 0x0C);
    writer.query("CREATE TABLE t (i INT)");
    writer.event(EventType::ANNOTATE_ROWS, 0, b"CREATE TABLE t SELECT 1");
    writer.commit();
    writer.mariadb_gtid(3, 0);
    let decoded = decode(&writer.bytes);
    assert_eq!(decoded.error, None);
    assert_eq!(decoded.transactions.len(), 2);
    assert!(decoded.transactions[1].contains_ddl);
    assert_eq!(
        decoded.open.map(|open| open.begin),
        decoded.transactions.last().map(|last| last.end)
    );
}

/// What can only be where events are missing.
#[test]
fn cut_transactions_are_told() {
    let cut = |write: &dyn Fn(&mut Writer)| {
        let mut writer = mysql();
        let begin = offset(&writer.bytes);
        writer.gtid(1);
        writer.query("BEGIN");
        let at = offset(&writer.bytes);
        write(&mut writer);
        match decode(&writer.bytes).error {
            Some(BinlogError::TransactionCut {
                begin: told,
                at: told_at,
                ..
            }) => (told, told_at) == (begin, at),
            _ => false,
        }
    };
    assert!(cut(&|writer| writer.gtid(2)));
    assert!(cut(&|writer| writer.query("BEGIN")));
    assert!(cut(&|writer| writer.event(
        EventType::ROTATE,
        0,
        b"\x04\0\0\0\0\0\0\0bin.000002"
    )));
    let outside = |write: &dyn Fn(&mut Writer)| {
        let mut writer = mysql();
        write(&mut writer);
        matches!(decode(&writer.bytes).error, Some(BinlogError::Malformed { .. }))
    };
    assert!(outside(&|writer| writer.commit()));
    assert!(outside(&|writer| writer.query("BEGIN")));
    assert!(outside(&|writer| {
        writer.gtid(1);
        writer.query("COMMIT");
    }));
    assert!(outside(&|writer| writer.event(
        EventType::WRITE_ROWS,
        0,
        &[0; 10]
    )));
}

#[test]
fn unknown_events_are_told_unless_they_may_be_ignored() {
    let mut writer = mysql();
    let at = offset(&writer.bytes);
    writer.event(EventType(200), 0, b"?");
    let kind = EventType(200);
    assert_eq!(
        decode(&writer.bytes).error,
        Some(BinlogError::UnknownEvent { at, kind })
    );
}

/// A payload of events that are compressed as told.
fn payload(compression: u8, claimed: u32, events: &[u8]) -> Vec<u8> {
    let mut body = vec![2, 1, compression, 1, 5, 254];
    body.truncate(3);
    if compression == 255 {
        body = vec![2, 3, 252, 255, 0];
    }
    body.extend([1, 4, 253]);
    body.extend(&(events.len() as u32).to_le_bytes()[..3]);
    body.extend([3, 4, 253]);
    body.extend(&claimed.to_le_bytes()[..3]);
    body.push(0);
    body.extend(events);
    body
}

/// Events as they lie in a payload: without checksums.
fn inner_events(write: impl Fn(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::new(Flavor::MySql, ChecksumAlgorithm::None);
    let begin = writer.bytes.len();
    write(&mut writer);
    writer.bytes.split_off(begin)
}

fn decode_payload(compression: u8, claimed: usize, events: &[u8]) -> Decoded {
    let mut writer = mysql();
    writer.gtid(1);
    let body = payload(compression, u32::try_from(claimed).unwrap(), events);
    writer.event(EventType::TRANSACTION_PAYLOAD, 0, &body);
    decode(&writer.bytes)
}

#[test]
fn payloads_hold_what_they_claim() {
    let plain = inner_events(|writer| {
        writer.query("BEGIN");
        writer.event(EventType::WRITE_ROWS, 0, &vec![1; 3 << 20]);
        writer.commit();
    });
    let squeezed = zstd::encode_all(&plain[..], 3).unwrap();
    let expected = [EventType::QUERY, EventType::WRITE_ROWS, EventType::XID];
    for (compression, bytes) in [(0, &squeezed), (255, &plain)] {
        let decoded = decode_payload(compression, plain.len(), bytes);
        assert_eq!(decoded.error, None);
        assert_eq!(decoded.events[2].inner, expected);
        assert_eq!(decoded.transactions[0].ended_by, TransactionEnd::Payload);
    }
    let is_malformed = |decoded: Decoded| matches!(decoded.error, Some(BinlogError::Malformed { .. }));
    // More than it claims, less than it claims, cut, damaged, nested, of another kind.
    assert!(is_malformed(decode_payload(0, plain.len() - 1, &squeezed)));
    assert!(is_malformed(decode_payload(0, plain.len() + 1, &squeezed)));
    assert!(is_malformed(decode_payload(
        0,
        plain.len(),
        &squeezed[..squeezed.len() - 5]
    )));
    assert!(is_malformed(decode_payload(0, plain.len(), &plain)));
    assert!(is_malformed(decode_payload(7, plain.len(), &squeezed)));
    let nested = inner_events(|writer| writer.event(EventType::TRANSACTION_PAYLOAD, 0, &[]));
    assert!(is_malformed(decode_payload(255, nested.len(), &nested)));
    let cut = &plain[..plain.len() - 1];
    assert!(is_malformed(decode_payload(255, cut.len(), cut)));
}

/// A few compressed bytes that become many are not followed past what they claim.
#[test]
fn a_payload_that_swells_is_left_early() {
    let rows = inner_events(|writer| writer.event(EventType::WRITE_ROWS, 0, &[1; 100]));
    let plain = rows.repeat(100_000);
    let squeezed = zstd::encode_all(&plain[..], 3).unwrap();
    assert!(squeezed.len() < plain.len() / 1000);
    let decoded = decode_payload(0, 1000, &squeezed);
    assert!(matches!(decoded.error, Some(BinlogError::Malformed { .. })));
    assert!(
        decoded.events[2].inner.len() < 3000,
        "{} events",
        decoded.events[2].inner.len()
    );
}

#[test]
fn xa_transactions_in_payloads() {
    let prepare = |is_one_phase: u8| {
        let events = inner_events(|writer| {
            writer.query("XA START X'78',X'',1");
            writer.event(EventType::WRITE_ROWS, 0, &[1; 10]);
            writer.query("XA END X'78',X'',1");
            let mut body = vec![is_one_phase, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
            body.push(b'x');
            writer.event(EventType::XA_PREPARE, 0, &body);
        });
        decode_payload(255, events.len(), &events)
            .transactions
            .remove(0)
            .kind
    };
    assert!(matches!(prepare(0), TransactionKind::XaPrepare(id) if id.to_string() == "X'78',X'',1"));
    assert_eq!(prepare(1), TransactionKind::Changes);
}

/// What a source sends beside the events of its files.
#[test]
fn what_is_in_no_file_is_told_apart() {
    let decoder = decode(&mysql().bytes);
    let mut header = decoder.events[0].header;
    assert!(header.is_in_file());
    header.end_position = 0;
    assert!(!header.is_in_file(), "a format description sent again");
    header.kind = EventType::ROTATE;
    assert!(header.is_in_file());
    header.flags = 0x20;
    assert!(!header.is_in_file(), "an artificial rotate");
    header.flags = 0;
    for kind in [EventType::HEARTBEAT, EventType::HEARTBEAT_V2] {
        header.kind = kind;
        assert!(!header.is_in_file());
    }
}

/// As MySQL 9.7 and MariaDB 11.8 send it, with a checksum and, to a replica that knows of none, without.
#[test]
fn artificial_rotates_with_and_without_a_checksum() {
    let header = |length: u8| [0, 0, 0, 0, 4, 77, 0, 0, 0, length, 0, 0, 0, 0, 0, 0, 0, 0x20, 0];
    let body = b"\x04\0\0\0\0\0\0\0bin.000001";
    let bare = [&header(37)[..], body].concat();
    let checked = [&header(41)[..], body, b"\xa9\x1ayB"].concat();
    let expected = ArtificialRotate {
        file: "bin.000001".into(),
        position: BinlogOffset(4),
    };
    for packet in [&bare, &checked] {
        assert_eq!(ArtificialRotate::of_packet(packet).as_ref(), Some(&expected));
        for cut in 0..packet.len() {
            assert_eq!(ArtificialRotate::of_packet(&packet[..cut]), None);
        }
    }
    // The last event of a file is another matter.
    let mut real = bare;
    real[17] = 0;
    assert_eq!(ArtificialRotate::of_packet(&real), None);
}

#[test]
fn packets_are_checked() {
    let mut writer = mysql();
    let begin = writer.bytes.len();
    let body = b"\x01\x0Abin.000007\x02\x09\xFE\x05\0\0\0\x01\0\0\0\0";
    writer.event(EventType::HEARTBEAT_V2, 0, body);
    let mut decoder = BinlogDecoder::new();
    decoder.next(&mut &writer.bytes[..begin]).unwrap();
    let format = decoder.format().unwrap();
    let packet = &writer.bytes[begin..];
    let event = Event::of_packet(packet, format).unwrap();
    assert_eq!(event.begin, BinlogOffset(begin as u64));
    let heartbeat = Fact::Heartbeat {
        file: "bin.000007".into(),
        position: (1 << 32) + 5,
    };
    assert_eq!(Fact::of(&event), Ok(Some(heartbeat)));
    assert!(matches!(
        Event::of_packet(&packet[..30], format),
        Err(BinlogError::Length { .. })
    ));
    let mut damaged = packet.to_vec();
    damaged[25] ^= 1;
    assert!(matches!(
        Event::of_packet(&damaged, format),
        Err(BinlogError::Checksum { .. })
    ));
}
