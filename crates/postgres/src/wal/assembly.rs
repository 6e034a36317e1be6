//! A record in the making: one that crosses a page, or a border between two inputs.

use tidemark_types::Lsn;

use super::bytes::max_align;
use super::crc::RecordCrc;
use super::record::{RECORD_HEADER_BYTES, RecordHeader};

/// Of a longer record only the beginning is kept, enough for all its headers, unless its resource manager's records
/// are facts. A logical message may be half a gigabyte; nobody here reads it.
pub(crate) const HELD_BYTES_MAX: usize = 1 << 20;

/// Bytes of the length field, the first of a record, which never crosses a page.
pub(crate) const LENGTH_BYTES: u64 = 4;

/// The bytes of an unfinished record.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) begin: Lsn,
    /// The claimed length; zero until it was read.
    pub(crate) length: u32,
    /// Bytes taken so far, padding included.
    taken: u64,
    kept: Vec<u8>,
    keep_max: usize,
}

impl Assembly {
    pub(crate) fn new() -> Assembly {
        Assembly {
            begin: Lsn::INVALID,
            length: 0,
            taken: 0,
            kept: Vec::new(),
            keep_max: HELD_BYTES_MAX,
        }
    }

    /// Begins a record, forgetting the one before. A buffer that a huge record left behind is given back.
    pub(crate) fn start(&mut self, begin: Lsn, crc: &mut RecordCrc) {
        crc.reset();
        self.kept.clear();
        self.kept.shrink_to(HELD_BYTES_MAX);
        *self = Assembly {
            begin,
            kept: std::mem::take(&mut self.kept),
            ..Assembly::new()
        };
    }

    /// Keeps every byte of this record, however many.
    pub(crate) fn keep_whole(&mut self) {
        self.keep_max = usize::MAX;
    }

    /// Whether a record was begun and not finished.
    pub(crate) fn is_begun(&self) -> bool {
        self.taken > 0
    }

    /// Bytes that the record still lacks, padding left out: what the next page must say that it continues.
    pub(crate) fn lacking(&self) -> u64 {
        u64::from(self.length).saturating_sub(self.taken)
    }

    /// Bytes wanted next: the length field, then the rest of the header, then the rest of the record and its padding.
    pub(crate) fn wanted(&self) -> u64 {
        let goal = if self.taken < LENGTH_BYTES {
            LENGTH_BYTES
        } else if self.taken < RECORD_HEADER_BYTES as u64 {
            RECORD_HEADER_BYTES as u64
        } else {
            max_align(self.length.into())
        };
        goal.saturating_sub(self.taken)
    }

    /// Adds the next bytes of the record.
    pub(crate) fn push(&mut self, bytes: &[u8], crc: &mut RecordCrc) {
        if self.taken >= RECORD_HEADER_BYTES as u64 {
            let unpadded = usize::try_from(self.lacking()).unwrap_or(usize::MAX);
            crc.add_body(bytes.get(..unpadded).unwrap_or(bytes));
        }
        let room = self.keep_max.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        self.taken += bytes.len() as u64;
    }

    /// How many bytes were taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// The length field, once it is there.
    pub(crate) fn length_field(&self) -> Option<u32> {
        self.kept
            .first_chunk::<4>()
            .map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// The fixed header, once it is there.
    pub(crate) fn header(&self) -> Option<RecordHeader> {
        RecordHeader::parse(&self.kept)
    }

    /// The kept bytes: the record without its padding, or the beginning of a long one.
    pub(crate) fn bytes(&self) -> &[u8] {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        self.kept.get(..length).unwrap_or(&self.kept)
    }

    /// Marks the record as handed out or given up; its bytes stay readable until the next one starts.
    pub(crate) fn finish(&mut self) {
        self.taken = 0;
    }
}
