//! Writes a log by hand, page headers and checksums included: for versions that are not installed here, and for cases
//! that a server can hardly be brought to write.

use crc_fast::{CrcAlgorithm, Digest};
use tidemark_types::Lsn;

use crate::wal::WalVersion;

const SEGMENT: u64 = 1 << 20;
const PAGE: u64 = 8192;
pub(super) const SYSTEM_ID: u64 = 7_000_000_000_000_000_001;

pub(super) struct Writer {
    pub(super) version: WalVersion,
    pub(super) timeline: u32,
    pub(super) start: Lsn,
    pub(super) bytes: Vec<u8>,
    previous: Lsn,
}

impl Writer {
    pub(super) fn new(version: WalVersion) -> Writer {
        Writer::starting_at(Lsn(3 * SEGMENT), version)
    }

    /// A log that starts at this page's start.
    pub(super) fn starting_at(start: Lsn, version: WalVersion) -> Writer {
        let mut writer = Writer {
            version,
            timeline: 1,
            start,
            bytes: Vec::new(),
            previous: Lsn(start.0 - 64),
        };
        writer.page_header(0, 0);
        writer
    }

    pub(super) fn at(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }

    pub(super) fn page_header(&mut self, flags: u16, continued: u32) {
        let at = self.at().0;
        assert_eq!(at % PAGE, 0);
        let is_long = at.is_multiple_of(SEGMENT);
        let flags = flags | if is_long { 2 } else { 0 };
        self.bytes.extend(self.version.magic().to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(continued.to_le_bytes());
        self.bytes.extend([0; 4]);
        if is_long {
            self.bytes.extend(SYSTEM_ID.to_le_bytes());
            self.bytes.extend((SEGMENT as u32).to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }

    /// The bytes of a record with this body, wherever it lies.
    pub(super) fn encode(&self, manager: u8, info: u8, body: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        record.extend((24 + body.len() as u32).to_le_bytes());
        record.extend(77u32.to_le_bytes());
        record.extend(self.previous.0.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let mut crc = Digest::new(CrcAlgorithm::Crc32Iscsi);
        crc.update(body);
        crc.update(&record);
        record.extend((crc.finalize() as u32).to_le_bytes());
        record.extend(body);
        record
    }

    /// Writes a record and returns where it begins.
    pub(super) fn record(&mut self, manager: u8, info: u8, body: &[u8]) -> Lsn {
        let record = self.encode(manager, info, body);
        self.write(&record)
    }

    pub(super) fn write(&mut self, record: &[u8]) -> Lsn {
        if self.at().0.is_multiple_of(PAGE) {
            self.page_header(0, 0);
        }
        let begin = self.at();
        let mut rest = record;
        while !rest.is_empty() {
            if self.at().0.is_multiple_of(PAGE) {
                self.page_header(1, rest.len() as u32);
            }
            let room = (PAGE - self.at().0 % PAGE) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.previous = begin;
        begin
    }

    /// A record that changes nothing, of `length` bytes with its header.
    pub(super) fn filler(&mut self, length: u32) -> Lsn {
        let body = main_data(&vec![7; (length - 29) as usize]);
        assert_eq!(body.len() as u32 + 24, length);
        self.record(21, 0, &body)
    }

    /// Fills the page up to `left` bytes before its end.
    pub(super) fn fill_page(&mut self, left: u64) {
        if self.at().0.is_multiple_of(PAGE) {
            self.page_header(0, 0);
        }
        let length = PAGE - self.at().0 % PAGE - left;
        self.filler(length as u32);
        assert_eq!((self.at().0 + left) % PAGE, 0);
    }

    pub(super) fn zeros_to(&mut self, unit: u64) {
        let length = self.bytes.len().next_multiple_of(unit as usize);
        self.bytes.resize(length, 0);
    }
}

/// Main data in its long form.
pub(super) fn main_data(data: &[u8]) -> Vec<u8> {
    let mut body = vec![254];
    body.extend((data.len() as u32).to_le_bytes());
    body.extend(data);
    body
}
