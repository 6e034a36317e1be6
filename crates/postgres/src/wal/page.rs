//! Page headers (`XLogPageHeaderData`, `XLogLongPageHeaderData` in the server's `access/xlog_internal.h`).
//!
//! Owns the layout and what a header must say by itself and beside the headers before it. What a continuation means
//! for the record in hand is the decoder's.

use tidemark_types::{Lsn, TimelineId, WalSegmentSize};

use super::error::{PageField, WalError};
use super::version::WalVersion;
use tidemark_types::ByteReader;

/// The size of a WAL page. `configure --with-wal-blocksize` can change it; such builds are refused.
pub(crate) const PAGE_BYTES: u64 = 8192;
/// A short header with its padding.
pub(crate) const SHORT_HEADER_BYTES: usize = 24;
/// The long header, at the start of each segment only.
pub(crate) const LONG_HEADER_BYTES: usize = 40;

const FIRST_IS_CONTINUATION: u16 = 0x0001;
const LONG_HEADER: u16 = 0x0002;
const FIRST_IS_OVERWRITE: u16 = 0x0008;
const KNOWN_FLAGS: u16 = 0x000F;

/// What the page headers say about the log as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageInfo {
    /// The server's major version, by the page magic.
    pub version: WalVersion,
    /// The timeline of the newest page.
    pub timeline: TimelineId,
    /// The system identifier; known once a segment's first page was seen.
    pub system_id: Option<u64>,
}

/// A page header that passed every check.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageHeader {
    pub(crate) version: WalVersion,
    pub(crate) timeline: TimelineId,
    pub(crate) system_id: Option<u64>,
    /// Bytes on this page and later ones that belong to a record begun earlier; zero for none.
    pub(crate) continued_bytes: u64,
    /// The record that the page before left unfinished was given up in a crash: this page begins with
    /// XLOG_OVERWRITE_CONTRECORD in its place (13.5, 14.1 and later).
    pub(crate) gives_up_unfinished: bool,
}

/// The header size of the page at `at`.
pub(crate) fn header_bytes(at: Lsn, segment_size: WalSegmentSize) -> usize {
    if segment_size.offset_of(at) == 0 {
        LONG_HEADER_BYTES
    } else {
        SHORT_HEADER_BYTES
    }
}

impl PageHeader {
    /// Parses and checks the header of the page at `at`, against what earlier pages said and the timeline it must not
    /// fall behind; `bytes` has the length that [`header_bytes`] asks for.
    /// The checks are those of `XLogReaderValidatePageHeader` in the server's `xlogreader.c`.
    pub(crate) fn parse(
        bytes: &[u8],
        at: Lsn,
        segment_size: WalSegmentSize,
        seen: Option<&PageInfo>,
        timeline_min: Option<TimelineId>,
    ) -> Result<PageHeader, WalError> {
        let fail = |field, expected, found| WalError::Page {
            at,
            field,
            expected,
            found,
        };
        let truncated = || fail(PageField::Flags, LONG_HEADER_BYTES as u64, bytes.len() as u64);
        let mut reader = ByteReader::new(bytes);
        let mut fields = || {
            Some((
                reader.u16()?,
                reader.u16()?,
                reader.u32()?,
                reader.u64()?,
                reader.u32()?,
            ))
        };
        let (magic, flags, timeline, address, continued) = fields().ok_or_else(truncated)?;
        let version = WalVersion::from_magic(magic).ok_or(WalError::UnknownMagic { at, found: magic })?;
        let must_be = |field, expected: u64, found: u64| {
            if expected == found {
                Ok(())
            } else {
                Err(fail(field, expected, found))
            }
        };
        if let Some(seen) = seen {
            must_be(PageField::Magic, seen.version.magic().into(), magic.into())?;
        }
        let is_long = segment_size.offset_of(at) == 0;
        let flags_expected = (flags & KNOWN_FLAGS & !LONG_HEADER) | if is_long { LONG_HEADER } else { 0 };
        must_be(PageField::Flags, flags_expected.into(), flags.into())?;
        must_be(PageField::Address, at.0, address)?;
        if timeline == 0 {
            return Err(fail(PageField::Timeline, 1, 0));
        }
        let system_id = if is_long {
            let mut reader = ByteReader::new(bytes.get(SHORT_HEADER_BYTES..).ok_or_else(truncated)?);
            let mut fields = || Some((reader.u64()?, reader.u32()?, reader.u32()?));
            let (system_id, segment_bytes, block_bytes) = fields().ok_or_else(truncated)?;
            must_be(PageField::BlockSize, PAGE_BYTES, block_bytes.into())?;
            must_be(PageField::SegmentSize, segment_size.bytes(), segment_bytes.into())?;
            if let Some(expected) = seen.and_then(|seen| seen.system_id) {
                must_be(PageField::SystemId, expected, system_id)?;
            }
            Some(system_id)
        } else {
            None
        };
        let timeline = TimelineId(timeline);
        if let Some(seen) = timeline_min.filter(|seen| timeline < *seen) {
            return Err(WalError::TimelineWentBack {
                at,
                seen,
                found: timeline,
            });
        }
        let is_continued = flags & FIRST_IS_CONTINUATION != 0;
        Ok(PageHeader {
            version,
            timeline,
            system_id,
            continued_bytes: if is_continued { continued.into() } else { 0 },
            gives_up_unfinished: flags & FIRST_IS_OVERWRITE != 0,
        })
    }

    /// What is known of the log after this page.
    pub(crate) fn update(&self, seen: Option<PageInfo>) -> PageInfo {
        PageInfo {
            version: self.version,
            timeline: self.timeline,
            system_id: self.system_id.or(seen.and_then(|seen| seen.system_id)),
        }
    }
}
