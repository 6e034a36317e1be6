//! An event in the making: one that a border between two inputs divides.

use super::checksum::{CHECKSUM_BYTES, EventCrc};
use super::error::BinlogError;
use super::event::{BinlogOffset, EventHeader, EventType, HEADER_BYTES};
use super::format::compare_checksum;

/// Of a longer event only the beginning is kept, enough for all that [`super::Fact`] reads of it. A row or a statement
/// may have a gigabyte; nobody here reads it.
pub(super) const KEPT_BYTES_MAX: usize = 1 << 20;
/// Compressed transactions can only be looked into from their beginning on, and say in their last event what became of
/// them: of these more is kept.
const PAYLOAD_KEPT_BYTES_MAX: usize = 32 << 20;
/// Sets of GTIDs are wanted whole. Longer ones are no server's.
const WHOLE_KEPT_BYTES_MAX: usize = 64 << 20;

/// The bytes of an unfinished event.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) begin: BinlogOffset,
    /// Once its bytes were taken.
    header: Option<EventHeader>,
    /// Bytes taken so far.
    taken: usize,
    /// The header and the body, or its beginning.
    kept: Vec<u8>,
    /// The checksum behind them.
    trailer: Vec<u8>,
}

impl Assembly {
    pub(super) fn new() -> Assembly {
        Assembly {
            begin: BinlogOffset(0),
            header: None,
            taken: 0,
            kept: Vec::new(),
            trailer: Vec::with_capacity(CHECKSUM_BYTES),
        }
    }

    /// Begins an event, forgetting the one before. A buffer that a huge event left behind is given back.
    pub(super) fn start(&mut self, begin: BinlogOffset, crc: &mut EventCrc) {
        crc.reset();
        self.kept.clear();
        self.kept.shrink_to(KEPT_BYTES_MAX);
        self.trailer.clear();
        (self.begin, self.header, self.taken) = (begin, None, 0);
    }

    /// Bytes wanted next: the rest of the header, then the rest of the event.
    pub(super) fn wanted(&self) -> usize {
        let goal = match self.header {
            None => HEADER_BYTES,
            Some(header) => usize::try_from(header.length).unwrap_or(usize::MAX),
        };
        goal.saturating_sub(self.taken)
    }

    /// Adds bytes of the header, no more than are wanted. The header, once it is complete.
    pub(super) fn push_header(&mut self, bytes: &[u8], crc: &mut EventCrc) -> Option<EventHeader> {
        crc.add(bytes);
        self.kept.extend_from_slice(bytes);
        self.taken += bytes.len();
        self.header = EventHeader::parse(&self.kept);
        self.header
    }

    /// Adds bytes behind the header, no more than are wanted.
    pub(super) fn push(&mut self, bytes: &[u8], has_checksum: bool, crc: &mut EventCrc) {
        let trailer_bytes = if has_checksum { CHECKSUM_BYTES } else { 0 };
        let body_lacks = self.wanted().saturating_sub(trailer_bytes);
        let (body, trailer) = bytes.split_at_checked(body_lacks).unwrap_or((bytes, &[]));
        if has_checksum {
            crc.add(body);
        }
        let room = self.keep_max().saturating_sub(self.kept.len());
        self.kept.extend_from_slice(body.get(..room).unwrap_or(body));
        self.trailer.extend_from_slice(trailer);
        self.taken += bytes.len();
    }

    fn keep_max(&self) -> usize {
        match self.header.map(|header| header.kind) {
            Some(EventType::TRANSACTION_PAYLOAD) => PAYLOAD_KEPT_BYTES_MAX,
            Some(kind) if kind.is_kept_whole() => WHOLE_KEPT_BYTES_MAX,
            _ => KEPT_BYTES_MAX,
        }
    }

    pub(super) fn header(&self) -> Option<EventHeader> {
        self.header
    }

    /// The kept bytes, from the header on, without the checksum.
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Whether nothing of header and body was left out.
    pub(super) fn is_kept_whole(&self) -> bool {
        self.kept.len() + self.trailer.len() == self.taken
    }

    /// Compares a checksum with the one that stood behind the event.
    pub(super) fn compare_checksum(&self, header: EventHeader, found: u32) -> Result<(), BinlogError> {
        compare_checksum(self.begin, header.length, &self.trailer, found)
    }
}
