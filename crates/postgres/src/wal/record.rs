//! Records: the fixed header, its checks, and a whole record as the decoder hands it out.
//!
//! Layout: `XLogRecord` in the server's `access/xlogrecord.h`.

use std::fmt;

use tidemark_types::Lsn;

use super::block::BlockRef;
use super::version::WalVersion;
use tidemark_types::ByteReader;

/// The fixed header.
pub(crate) const RECORD_HEADER_BYTES: usize = 24;
/// The part of the fixed header that the checksum covers: all but the checksum.
pub(crate) const CHECKED_HEADER_BYTES: usize = 20;
/// The longest record (`XLogRecordMaxSize`, 1020 MiB, since 16; what earlier servers can read is no longer).
pub(crate) const RECORD_LENGTH_MAX: u32 = 1020 << 20;

/// The number of the resource manager that a record belongs to (`access/rmgrlist.h`, the same in 13 to 18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResourceManager(pub u8);

impl ResourceManager {
    /// Checkpoints, restore points, full-page images, segment switches.
    pub const XLOG: ResourceManager = ResourceManager(0);
    /// Ends of transactions.
    pub const TRANSACTION: ResourceManager = ResourceManager(1);
    /// Relation files: made, truncated.
    pub const STORAGE: ResourceManager = ResourceManager(2);
    /// Databases: made, dropped.
    pub const DATABASE: ResourceManager = ResourceManager(4);
    /// Tablespaces: made, dropped.
    pub const TABLESPACE: ResourceManager = ResourceManager(5);

    const NAMES: [&'static str; 22] = [
        "XLOG",
        "Transaction",
        "Storage",
        "CLOG",
        "Database",
        "Tablespace",
        "MultiXact",
        "RelMap",
        "Standby",
        "Heap2",
        "Heap",
        "Btree",
        "Hash",
        "Gin",
        "Gist",
        "Sequence",
        "SPGist",
        "BRIN",
        "CommitTs",
        "ReplicationOrigin",
        "Generic",
        "LogicalMessage",
    ];
    const CUSTOM_MIN: u8 = 128;

    /// Whether a server of this version can write such records. Extensions have numbers from 128 on, since 15.
    pub(crate) fn is_known(self, version: WalVersion) -> bool {
        usize::from(self.0) < ResourceManager::NAMES.len()
            || (self.0 >= ResourceManager::CUSTOM_MIN && version >= WalVersion::V15)
    }

    /// Whether its records are facts that must be read whole, however long they are.
    pub(crate) fn is_kept_whole(self) -> bool {
        [
            ResourceManager::XLOG,
            ResourceManager::TRANSACTION,
            ResourceManager::STORAGE,
            ResourceManager::DATABASE,
            ResourceManager::TABLESPACE,
        ]
        .contains(&self)
    }
}

/// The name that `pg_waldump` prints; `custom` and the number in three digits for an extension's.
impl fmt::Display for ResourceManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ResourceManager::NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "custom{:03}", self.0),
        }
    }
}

/// The fixed header of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordHeader {
    pub(crate) length: u32,
    pub(crate) xid: u32,
    pub(crate) previous: Lsn,
    pub(crate) info: u8,
    pub(crate) manager: ResourceManager,
    pub(crate) crc: u32,
}

impl RecordHeader {
    #[inline]
    pub(crate) fn parse(bytes: &[u8]) -> Option<RecordHeader> {
        let mut reader = ByteReader::new(bytes);
        let length = reader.u32()?;
        let xid = reader.u32()?;
        let previous = Lsn(reader.u64()?);
        let info = reader.u8()?;
        let manager = ResourceManager(reader.u8()?);
        reader.u16()?;
        Some(RecordHeader {
            length,
            xid,
            previous,
            info,
            manager,
            crc: reader.u32()?,
        })
    }
}

/// One complete record whose checksum holds.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Where its header starts, past the page header if the record is a page's first: the server's `ReadRecPtr`.
    pub begin: Lsn,
    /// Where it ends: the server's `EndRecPtr`. A multiple of eight; exactly at a page's start, not past that page's
    /// header, if the record fills the page before it. A segment switch ends where its segment does.
    pub end: Lsn,
    /// Where the record before it begins.
    pub previous: Lsn,
    /// The (sub)transaction that wrote it; zero for none.
    pub xid: u32,
    /// The transaction that `xid` is a subtransaction of, on the first record of `xid` at wal_level logical (14 on).
    pub top_level_xid: Option<u32>,
    /// Whose record it is.
    pub manager: ResourceManager,
    /// The resource manager's flags and operation; the low four bits are general.
    pub info: u8,
    /// Its length in the log, page headers and padding not counted.
    pub length: u32,
    /// The version that wrote it.
    pub version: WalVersion,
    /// The pages it changes, in order of their ids.
    pub blocks: &'a [BlockRef],
    /// The resource manager's own data; `None` when the record was too long to be held ([`super::WalDecoder`]).
    pub main: Option<&'a [u8]>,
}

impl Record<'_> {
    /// The operation: the bits of `info` that are the resource manager's.
    pub fn operation(&self) -> u8 {
        self.info & 0xF0
    }

    /// Whether the rest of the segment after this record is empty (`XLOG_SWITCH`).
    pub fn is_segment_switch(&self) -> bool {
        is_segment_switch(self.manager, self.info)
    }
}

pub(crate) fn is_segment_switch(manager: ResourceManager, info: u8) -> bool {
    manager == ResourceManager::XLOG && info & 0xF0 == 0x40
}
