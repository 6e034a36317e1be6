//! Writes streams as mariadb-backup does, and some that it does not.

use crc_fast::{CrcAlgorithm, checksum};

/// A stream being written.
#[derive(Default)]
pub struct StreamWriter {
    pub bytes: Vec<u8>,
}

impl StreamWriter {
    fn head(&mut self, flags: u8, kind: u8, path: &str) {
        self.bytes.extend_from_slice(b"XBSTCK01");
        self.bytes.extend_from_slice(&[flags, kind]);
        self.text(path);
    }

    fn text(&mut self, text: &str) {
        self.bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub fn payload(&mut self, flags: u8, path: &str, offset: u64, payload: &[u8]) {
        self.head(flags, b'P', path);
        self.bytes
            .extend_from_slice(&(payload.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(&offset.to_le_bytes());
        let crc = checksum(CrcAlgorithm::Crc32IsoHdlc, payload) as u32;
        self.bytes.extend_from_slice(&crc.to_le_bytes());
        self.bytes.extend_from_slice(payload);
    }

    pub fn end(&mut self, path: &str) {
        self.head(0, b'E', path);
    }

    pub fn seek(&mut self, path: &str, offset: u64) {
        self.head(0, b'S', path);
        self.bytes.extend_from_slice(&offset.to_le_bytes());
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        self.head(0, b'R', from);
        self.text(to);
    }

    pub fn remove(&mut self, path: &str) {
        self.head(0, b'D', path);
    }
}
