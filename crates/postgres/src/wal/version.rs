//! The WAL formats of the supported major versions, told apart by the page magic.

use std::fmt;

/// A major version's WAL format. Ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalVersion {
    /// PostgreSQL 13.
    V13,
    /// PostgreSQL 14.
    V14,
    /// PostgreSQL 15.
    V15,
    /// PostgreSQL 16.
    V16,
    /// PostgreSQL 17.
    V17,
    /// PostgreSQL 18.
    V18,
}

impl WalVersion {
    /// Every supported version, oldest first.
    pub const ALL: [WalVersion; 6] = [
        WalVersion::V13,
        WalVersion::V14,
        WalVersion::V15,
        WalVersion::V16,
        WalVersion::V17,
        WalVersion::V18,
    ];

    /// `XLOG_PAGE_MAGIC` of the version (`access/xlog_internal.h`).
    pub fn magic(self) -> u16 {
        match self {
            WalVersion::V13 => 0xD106,
            WalVersion::V14 => 0xD10D,
            WalVersion::V15 => 0xD110,
            WalVersion::V16 => 0xD113,
            WalVersion::V17 => 0xD116,
            WalVersion::V18 => 0xD118,
        }
    }

    /// The version whose pages carry `magic`.
    pub fn from_magic(magic: u16) -> Option<WalVersion> {
        WalVersion::ALL
            .into_iter()
            .find(|version| version.magic() == magic)
    }

    /// The major version number, 13 to 18.
    pub fn major(self) -> u32 {
        match self {
            WalVersion::V13 => 13,
            WalVersion::V14 => 14,
            WalVersion::V15 => 15,
            WalVersion::V16 => 16,
            WalVersion::V17 => 17,
            WalVersion::V18 => 18,
        }
    }
}

impl fmt::Display for WalVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL {}", self.major())
    }
}
