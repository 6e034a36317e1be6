//! What can be wrong with a log.

use tidemark_types::{ErrorClass, Lsn, TimelineId};

/// Bytes that are not the log they should be. Every variant says where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// The page magic belongs to no version this parser knows.
    #[error(
        "WAL page at {at} has magic {found:#06X}, which is no supported version's (PostgreSQL 13 to 18 on a \
         little-endian machine)"
    )]
    UnknownMagic {
        /// Start of the page.
        at: Lsn,
        /// The magic.
        found: u16,
    },
    /// A field of a page header is not what it must be: not plausible, or not what earlier pages said.
    #[error("WAL page at {at} has {field} {found:#X}, expected {expected:#X}")]
    Page {
        /// Start of the page.
        at: Lsn,
        /// Which field.
        field: PageField,
        /// What it must be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// A page belongs to an older timeline than the page before it.
    #[error("WAL page at {at} is of timeline {found}, but an earlier page is of timeline {seen}")]
    TimelineWentBack {
        /// Start of the page.
        at: Lsn,
        /// The newest timeline seen.
        seen: TimelineId,
        /// The page's timeline.
        found: TimelineId,
    },
    /// The page does not go on with the record that the pages before left unfinished, or goes on with one that none
    /// began.
    #[error("WAL page at {at} continues a record by {found} bytes, expected {expected}")]
    Continuation {
        /// Start of the page.
        at: Lsn,
        /// Bytes that the unfinished record lacks; zero when no record is unfinished.
        expected: u64,
        /// Bytes that the page says it continues; zero when it says that it continues no record.
        found: u64,
    },
    /// A record claims a length that none can have.
    #[error("WAL record at {at} has length {length}, expected 24 to {max}", max = super::record::RECORD_LENGTH_MAX)]
    RecordLength {
        /// Start of the record.
        at: Lsn,
        /// The claimed length in bytes.
        length: u32,
    },
    /// A record does not point back at the record before it.
    #[error("WAL record at {at} points back to {found}, but the record before it is at {expected}")]
    PreviousRecord {
        /// Start of the record.
        at: Lsn,
        /// Where the record before it begins.
        expected: Lsn,
        /// Where it points.
        found: Lsn,
    },
    /// A record's checksum is wrong.
    #[error("WAL record at {at} of {length} bytes has CRC {found:#010X}, expected {expected:#010X}")]
    Checksum {
        /// Start of the record.
        at: Lsn,
        /// Its length in bytes.
        length: u32,
        /// The checksum in its header.
        expected: u32,
        /// The checksum of its bytes.
        found: u32,
    },
    /// The checksum is right and the content still makes no sense: a format this parser does not know.
    #[error("WAL record at {at} of resource manager {rmgr} is malformed: {problem}")]
    Malformed {
        /// Start of the record.
        at: Lsn,
        /// Its resource manager's number.
        rmgr: u8,
        /// What makes no sense.
        problem: &'static str,
    },
}

/// A field of a page header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageField {
    /// `xlp_magic` differs from that of earlier pages.
    Magic,
    /// `xlp_info` has bits that no version sets, or the long-header bit in the wrong place.
    Flags,
    /// `xlp_pageaddr` is not where the page is.
    Address,
    /// `xlp_tli` is zero.
    Timeline,
    /// `xlp_sysid` differs from that of earlier pages.
    SystemId,
    /// `xlp_seg_size` is not the segment size in use.
    SegmentSize,
    /// `xlp_xlog_blcksz` is not 8192, the only one supported.
    BlockSize,
}

impl std::fmt::Display for PageField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PageField::Magic => "magic",
            PageField::Flags => "flags",
            PageField::Address => "address",
            PageField::Timeline => "timeline",
            PageField::SystemId => "system identifier",
            PageField::SegmentSize => "segment size",
            PageField::BlockSize => "block size",
        })
    }
}

impl WalError {
    /// Where the trouble begins: nothing from here to the next record that is returned was understood.
    pub fn position(&self) -> Lsn {
        match self {
            WalError::UnknownMagic { at, .. }
            | WalError::Page { at, .. }
            | WalError::TimelineWentBack { at, .. }
            | WalError::Continuation { at, .. }
            | WalError::RecordLength { at, .. }
            | WalError::PreviousRecord { at, .. }
            | WalError::Checksum { at, .. }
            | WalError::Malformed { at, .. } => *at,
        }
    }

    /// What kind of failure this is.
    pub fn class(&self) -> ErrorClass {
        match self {
            WalError::UnknownMagic { .. } | WalError::Malformed { .. } => ErrorClass::Permanent,
            WalError::Page { field, .. } => match field {
                PageField::SystemId => ErrorClass::Conflict,
                PageField::SegmentSize | PageField::BlockSize => ErrorClass::Permanent,
                PageField::Magic | PageField::Flags | PageField::Address | PageField::Timeline => {
                    ErrorClass::Corrupt
                }
            },
            WalError::TimelineWentBack { .. }
            | WalError::Continuation { .. }
            | WalError::RecordLength { .. }
            | WalError::PreviousRecord { .. }
            | WalError::Checksum { .. } => ErrorClass::Corrupt,
        }
    }
}
