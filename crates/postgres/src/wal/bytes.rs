//! What the server's byte order and alignment make of the log.
//!
//! WAL is written in the byte order of the server's processor. Only little-endian is read here
//! ([`tidemark_types::ByteReader`]): a big-endian server's page magic is not a known one, so its log is refused at the first
//! page.

/// `value` rounded up to the server's MAXALIGN, 8 on every 64-bit platform.
pub(crate) fn max_align(value: u64) -> u64 {
    value.saturating_add(7) & !7
}
