//! The checksum of a record: CRC-32C over its body, then over its header up to the checksum (`ValidXLogRecord` in the
//! server's `xlogreader.c`).

use crc_fast::{CrcAlgorithm, Digest};

use super::record::{CHECKED_HEADER_BYTES, RECORD_HEADER_BYTES};

/// A running record checksum. One is kept and reused: making a digest copies its tables' keys.
#[derive(Debug, Clone)]
pub(crate) struct RecordCrc {
    digest: Digest,
}

impl RecordCrc {
    pub(crate) fn new() -> RecordCrc {
        RecordCrc {
            digest: Digest::new(CrcAlgorithm::Crc32Iscsi),
        }
    }

    /// Forgets what was added.
    pub(crate) fn reset(&mut self) {
        self.digest.reset();
    }

    /// Adds the next bytes of the body.
    #[inline]
    pub(crate) fn add_body(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// Adds the header and returns the checksum. `None` when `header` is shorter than the checked part.
    #[inline]
    pub(crate) fn finish(&mut self, header: &[u8]) -> Option<u32> {
        self.digest.update(header.get(..CHECKED_HEADER_BYTES)?);
        let [.., a, b, c, d] = self.digest.finalize_reset().to_be_bytes();
        Some(u32::from_be_bytes([a, b, c, d]))
    }

    /// The checksum of a whole record.
    #[inline]
    pub(crate) fn of_record(&mut self, record: &[u8]) -> Option<u32> {
        self.reset();
        self.add_body(record.get(RECORD_HEADER_BYTES..)?);
        self.finish(record)
    }
}
