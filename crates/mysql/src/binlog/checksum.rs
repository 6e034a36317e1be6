//! The checksum of an event: CRC-32 as in zlib over all of it but the checksum itself, which is its last four bytes
//! (`Log_event_footer::event_checksum_test` in MySQL's `binlog_event.cpp`).

use crc_fast::{CrcAlgorithm, Digest};

/// Length of the checksum behind an event.
pub(super) const CHECKSUM_BYTES: usize = 4;

/// A running checksum. One is kept and reused: making a digest copies its tables' keys.
#[derive(Debug, Clone)]
pub(super) struct EventCrc {
    digest: Digest,
}

impl EventCrc {
    pub(super) fn new() -> EventCrc {
        EventCrc {
            digest: Digest::new(CrcAlgorithm::Crc32IsoHdlc),
        }
    }

    /// Adds the next bytes of the event.
    #[inline]
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// The checksum of what was added; begins anew.
    #[inline]
    pub(super) fn finish(&mut self) -> u32 {
        let [.., a, b, c, d] = self.digest.finalize_reset().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    /// Forgets what was added.
    pub(super) fn reset(&mut self) {
        self.digest.reset();
    }
}
