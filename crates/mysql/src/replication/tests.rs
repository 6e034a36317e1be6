//! The words by themselves. Between a replica and real sources: the tests of `client`.

use proptest::prelude::*;

use super::*;
use crate::ServerError;
use crate::binlog::{BinlogOffset, Flavor};
use crate::gtid::ServerUuid;

fn replica(server_id: u32, semi_sync: bool) -> Replica {
    let mut uuid = [7; 16];
    uuid[..4].copy_from_slice(&server_id.to_be_bytes());
    Replica {
        server_id,
        uuid: ServerUuid(uuid),
        heartbeat: std::time::Duration::from_secs(1),
        semi_sync,
    }
}

#[test]
fn positions_past_four_gigabytes_take_another_command() {
    let request = |position| DumpRequest {
        file: "bin.000007",
        position: BinlogOffset(position),
        ends_with_log: true,
    };
    let replica = replica(9, false);
    let short = request(4).command(&replica, Flavor::MySql).unwrap();
    assert_eq!(short, b"\x12\x04\0\0\0\x03\0\x09\0\0\0bin.000007");
    let long = request(1 << 32).command(&replica, Flavor::MySql).unwrap();
    assert_eq!(
        long,
        b"\x1e\x03\0\x09\0\0\0\x0a\0\0\0bin.000007\0\0\0\0\x01\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0"
    );
    assert_eq!(request(1 << 32).command(&replica, Flavor::MariaDb), None);
}

#[test]
fn packets_of_a_dump() {
    let event = |bytes, wants_acknowledgement| SourcePacket::Event {
        bytes,
        wants_acknowledgement,
    };
    assert_eq!(SourcePacket::read(b"\0event", false), Ok(event(b"event", false)));
    assert_eq!(
        SourcePacket::read(b"\0\xEF\x01event", true),
        Ok(event(b"event", true))
    );
    assert_eq!(
        SourcePacket::read(b"\0\xEF\0event", true),
        Ok(event(b"event", false))
    );
    assert!(SourcePacket::read(b"\0event", true).is_err());
    assert_eq!(
        SourcePacket::read(b"\xFE\0\0\x02\0", false),
        Ok(SourcePacket::End)
    );
    let error = SourcePacket::Error(ServerError {
        code: 1236,
        sqlstate: "HY000".to_owned(),
        message: "gone".to_owned(),
    });
    assert_eq!(SourcePacket::read(b"\xFF\xD4\x04#HY000gone", false), Ok(error));
    let none = SourcePacket::read(b"\x03x", false).unwrap_err();
    assert_eq!(
        none.to_string(),
        "packet of 2 bytes is none of a binlog dump (it begins with Some(3))"
    );
}

/// Events are counted; what lies in no file, or not here, counts for nothing.
#[test]
fn a_dump_is_followed_by_its_events() {
    let event = |kind: u8, end: u32, flags: u16, body: &[u8]| {
        let mut bytes = vec![0, 0, 0, 0, kind, 1, 0, 0, 0];
        bytes.extend((19 + body.len() as u32).to_le_bytes());
        bytes.extend(end.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(body);
        bytes
    };
    let rotate = |position: u64| event(4, 0, 0x20, &[&position.to_le_bytes()[..], b"bin.000007"].concat());
    let (format, query, heartbeat) = (
        event(15, 126, 0, &[0; 103]),
        event(2, 0, 0, b"x"),
        event(27, 126, 0, b"bin"),
    );
    let mut dump = Dump::new();
    assert!(dump.take(&query, true).is_err() && dump.take(&[], true).is_err());
    let from_4 = rotate(4);
    let file = "bin.000007";
    let begin = BinlogOffset::FIRST_EVENT;
    assert_eq!(
        dump.take(&from_4, true),
        Ok(Dumped::File {
            file,
            position: begin
        })
    );
    assert_eq!(
        dump.take(&format, true),
        Ok(Dumped::Event {
            begin,
            bytes: &format,
            ends: true
        })
    );
    assert_eq!(dump.take(&heartbeat, true), Ok(Dumped::Aside(&heartbeat)));
    assert_eq!(dump.position(), Some((file, BinlogOffset(126))));
    assert_eq!(
        dump.take(&query, true),
        Ok(Dumped::Event {
            begin: BinlogOffset(126),
            bytes: &query,
            ends: true
        })
    );
    assert_eq!(dump.position(), Some((file, BinlogOffset(146))));
    // In mid-file, past 4 GiB, with a format that does not say that it is sent again.
    let position = BinlogOffset((1 << 32) + 9);
    let from_middle = rotate(position.0);
    assert_eq!(dump.take(&from_middle, true), Ok(Dumped::File { file, position }));
    assert_eq!(dump.take(&format, true), Ok(Dumped::Format(&format)));
    assert_eq!(
        dump.take(&query, true),
        Ok(Dumped::Event {
            begin: position,
            bytes: &query,
            ends: true
        })
    );
}

/// Long events come in parts, which are counted one by one.
#[test]
fn a_long_event_comes_in_parts() {
    let header = |kind: u8, length: u32, flags: u16| {
        let mut bytes = vec![0, 0, 0, 0, kind, 1, 0, 0, 0];
        bytes.extend(length.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(flags.to_le_bytes());
        bytes
    };
    let rotate = [
        header(4, 37, 0x20),
        4_u64.to_le_bytes().to_vec(),
        b"bin.000007".to_vec(),
    ]
    .concat();
    let part = |begin, bytes, ends| {
        Ok(Dumped::Event {
            begin: BinlogOffset(begin),
            bytes,
            ends,
        })
    };
    let mut dump = Dump::new();
    dump.take(&rotate, true).unwrap();
    let first = header(30, 119, 0);
    assert_eq!(dump.take(&first, false), part(4, &first, false));
    assert!(!dump.is_between_events());
    assert_eq!(dump.take(&[7; 60], false), part(23, &[7; 60], false));
    assert_eq!(dump.take(&[8; 40], true), part(83, &[8; 40], true));
    assert!(dump.is_between_events());
    // Of another length than it says: too long, too short.
    assert!(dump.take(&[&first[..], &[0; 101]].concat(), true).is_err());
    assert!(dump.take(&first, true).is_err());
}

proptest! {
    #[test]
    fn any_payload_never_panics(payload in proptest::collection::vec(any::<u8>(), 0..40), semi_sync: bool) {
        let _ = SourcePacket::read(&payload, semi_sync);
    }
}
