//! Writes binlogs, of any content, well-formed.

use crate::binlog::{ChecksumAlgorithm, EventType, Flavor};

/// A binlog file in the making.
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
    checksum: ChecksumAlgorithm,
}

/// CRC-32 as in zlib, bit by bit: another way to the same number.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

impl Writer {
    /// A file that has its format description.
    pub(crate) fn new(flavor: Flavor, checksum: ChecksumAlgorithm) -> Writer {
        let mut writer = Writer {
            bytes: b"\xFEbin".to_vec(),
            checksum: ChecksumAlgorithm::Crc32,
        };
        let (version, types) = match flavor {
            Flavor::MySql => ("9.7.4", 42),
            Flavor::MariaDb => ("11.8.6-MariaDB", 171),
        };
        let mut body = 4u16.to_le_bytes().to_vec();
        body.extend(version.bytes());
        body.resize(2 + 50 + 4, 0);
        body.push(19);
        body.extend((1..=types).map(|kind| match EventType(kind) {
            EventType::QUERY | EventType::QUERY_COMPRESSED => 13,
            EventType::EXECUTE_LOAD_QUERY => 26,
            EventType::TABLE_MAP => 8,
            EventType(23..=25 | 166..=168) => 8,
            EventType(30..=32 | 39 | 169..=171) => 10,
            _ => 0,
        }));
        body.push(u8::from(checksum == ChecksumAlgorithm::Crc32));
        writer.event(EventType::FORMAT_DESCRIPTION, 0, &body);
        writer.checksum = checksum;
        writer
    }

    /// Adds an event.
    pub(crate) fn event(&mut self, kind: EventType, flags: u16, body: &[u8]) {
        let begin = self.bytes.len();
        let has_checksum = self.checksum == ChecksumAlgorithm::Crc32;
        let length = (19 + body.len() + if has_checksum { 4 } else { 0 }) as u32;
        self.bytes.extend(1_700_000_000u32.to_le_bytes());
        self.bytes.push(kind.0);
        self.bytes.extend(77u32.to_le_bytes());
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend((begin as u32 + length).to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(body);
        if has_checksum {
            let checksum = crc32(&self.bytes[begin..]);
            self.bytes.extend(checksum.to_le_bytes());
        }
    }

    /// Adds a statement.
    pub(crate) fn query(&mut self, text: &str) {
        let mut body = vec![9, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0];
        body.extend(b"d\0");
        body.extend(text.bytes());
        self.event(EventType::QUERY, 0, &body);
    }

    /// Adds a GTID event of MySQL, without times.
    pub(crate) fn gtid(&mut self, number: u64) {
        let mut body = vec![0];
        body.extend([0xAB; 16]);
        body.extend(number.to_le_bytes());
        body.push(2);
        body.extend([0; 16]);
        self.event(EventType::GTID, 0, &body);
    }

    /// Adds a GTID event of MariaDB with these flags.
    pub(crate) fn mariadb_gtid(&mut self, sequence: u64, flags: u8) {
        let mut body = sequence.to_le_bytes().to_vec();
        body.extend(5u32.to_le_bytes());
        body.push(flags);
        body.extend([0; 6]);
        self.event(EventType::MARIADB_GTID, 0, &body);
    }

    /// Adds the commit of an engine with transactions.
    pub(crate) fn commit(&mut self) {
        self.event(EventType::XID, 0, &[7; 8]);
    }
}
