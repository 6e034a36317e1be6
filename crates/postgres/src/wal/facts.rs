//! What a record says beyond "these pages changed": ends of transactions, restore points, checkpoints, relation files
//! and databases made, cut or dropped.
//!
//! Numbers of operations and layouts: `catalog/pg_control.h`, `access/xlog_internal.h`, `catalog/storage_xlog.h`,
//! `commands/dbcommands_xlog.h`, `commands/tablespace.h` of each major version. Transaction records are in
//! [`super::transaction`]. Records that say none of this are no fact: the great mass of them.

use std::borrow::Cow;

use tidemark_types::{Lsn, TimelineId, Timestamp};

use super::block::{Fork, Relation};
use super::error::WalError;
use super::record::{Record, ResourceManager};
use super::transaction::{self, Completion, Prepare};
use super::version::WalVersion;
use tidemark_types::ByteReader;

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact<'a> {
    /// A transaction committed, be it a prepared one.
    Commit(Completion<'a>),
    /// A transaction aborted, be it a prepared one.
    Abort(Completion<'a>),
    /// A transaction was prepared for two-phase commit.
    Prepare(Prepare<'a>),
    /// `pg_create_restore_point`.
    RestorePoint {
        /// When.
        time: Timestamp,
        /// Its name; bytes that are not UTF-8 are replaced.
        name: Cow<'a, str>,
    },
    /// A checkpoint was completed.
    Checkpoint {
        /// Where redo from it begins.
        redo: Lsn,
        /// The timeline.
        timeline: TimelineId,
        /// The timeline before it, if this checkpoint begins a new one; else the same.
        previous_timeline: TimelineId,
        /// Whether full-page images are written.
        full_page_writes: bool,
        /// Since 17.
        wal_level: Option<WalLevel>,
        /// Written at shutdown: nothing runs.
        is_shutdown: bool,
    },
    /// A checkpoint began here: its redo position (since 17).
    CheckpointRedo {
        /// The wal_level at that moment.
        wal_level: WalLevel,
    },
    /// Recovery ended and a timeline began.
    EndOfRecovery {
        /// When.
        time: Timestamp,
        /// The new timeline.
        timeline: TimelineId,
        /// The timeline it left.
        previous_timeline: TimelineId,
        /// Since 17.
        wal_level: Option<WalLevel>,
    },
    /// full_page_writes was switched.
    FullPageWrites(
        /// On or off from here on.
        bool,
    ),
    /// Settings that matter to a standby changed at a server start.
    ParameterChange {
        /// The wal_level from here on.
        wal_level: WalLevel,
    },
    /// The rest of the segment is empty.
    SegmentSwitch,
    /// An unfinished record was given up after a crash.
    OverwriteContinuation {
        /// Where the record that was given up begins.
        overwritten: Lsn,
        /// When.
        time: Timestamp,
    },
    /// A fork of a relation was made.
    RelationCreate {
        /// The relation.
        relation: Relation,
        /// Its fork.
        fork: Fork,
    },
    /// A relation was cut.
    RelationTruncate {
        /// The relation.
        relation: Relation,
        /// Its length from here on, in blocks of the main fork.
        blocks: u32,
        /// Which forks were cut.
        forks: TruncatedForks,
    },
    /// A database's directory was made; also when a database moves to another tablespace.
    DatabaseCreate {
        /// The database's directory.
        database: DatabaseDirectory,
        /// The directory it was copied from, where files were copied past the log (before 15, and strategy file_copy).
        copied_from: Option<DatabaseDirectory>,
    },
    /// A database's directories were removed.
    DatabaseDrop {
        /// The directories, one for each of its tablespaces.
        directories: Vec<DatabaseDirectory>,
    },
    /// A tablespace was made.
    TablespaceCreate {
        /// Its OID.
        tablespace: u32,
        /// Where it lies; bytes that are not UTF-8 are replaced.
        path: Cow<'a, str>,
    },
    /// A tablespace was dropped.
    TablespaceDrop {
        /// Its OID.
        tablespace: u32,
    },
}

/// The setting `wal_level`, by its numbers in the log (`access/xlog.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Not enough for a backup: bulk changes bypass the log.
    Minimal,
    /// Enough for archiving and standbys.
    Replica,
    /// Enough for logical decoding.
    Logical,
}

impl WalLevel {
    fn read(reader: &mut ByteReader<'_>) -> Option<WalLevel> {
        match reader.i32()? {
            0 => Some(WalLevel::Minimal),
            1 => Some(WalLevel::Replica),
            2 => Some(WalLevel::Logical),
            _ => None,
        }
    }
}

/// Which forks a truncation cuts (`SMGR_TRUNCATE_HEAP`, `_VM`, `_FSM`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TruncatedForks(u32);

impl TruncatedForks {
    /// Whether `fork` is cut.
    pub fn contains(self, fork: Fork) -> bool {
        let flag = match fork {
            Fork::Main => 0x1,
            Fork::Visibility => 0x2,
            Fork::FreeSpace => 0x4,
            Fork::Init => return false,
        };
        self.0 & flag != 0
    }
}

/// The directory of one database in one tablespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseDirectory {
    /// OID of the tablespace.
    pub tablespace: u32,
    /// OID of the database.
    pub database: u32,
}

impl<'a> Fact<'a> {
    /// The fact that `record` states, if it states one.
    ///
    /// # Errors
    /// [`WalError::Malformed`] when the record is of a kind that states a fact, and its content makes no sense.
    #[inline]
    pub fn of(record: &Record<'a>) -> Result<Option<Fact<'a>>, WalError> {
        let read = match record.manager {
            ResourceManager::XLOG => xlog,
            ResourceManager::TRANSACTION => transaction::read,
            ResourceManager::STORAGE => storage,
            ResourceManager::DATABASE => database,
            ResourceManager::TABLESPACE => tablespace,
            _ => return Ok(None),
        };
        let main = record.main.unwrap_or_default();
        read(record, &mut ByteReader::new(main)).map_err(|problem| WalError::Malformed {
            at: record.begin,
            rmgr: record.manager.0,
            problem,
        })
    }

    /// Whether a client may have been told of it, so that it must not be lost: a commit or a prepared transaction.
    pub fn carries_commit(&self) -> bool {
        matches!(self, Fact::Commit(_) | Fact::Prepare(_))
    }

    /// When a transaction ended here: the times that time targets are measured by, those of commits and aborts.
    pub fn end_time(&self) -> Option<Timestamp> {
        match self {
            Fact::Commit(end) | Fact::Abort(end) => Some(end.time),
            _ => None,
        }
    }

    /// The wal_level, where the record tells it.
    pub fn wal_level(&self) -> Option<WalLevel> {
        match self {
            Fact::ParameterChange { wal_level } | Fact::CheckpointRedo { wal_level } => Some(*wal_level),
            Fact::Checkpoint { wal_level, .. } | Fact::EndOfRecovery { wal_level, .. } => *wal_level,
            _ => None,
        }
    }
}

/// A fact, none, or what makes no sense.
pub(super) type Reading<'a> = Result<Option<Fact<'a>>, &'static str>;

fn xlog<'a>(record: &Record<'a>, reader: &mut ByteReader<'a>) -> Reading<'a> {
    let fact = match record.operation() {
        0x00 | 0x10 => checkpoint(record, reader),
        0x40 => Some(Fact::SegmentSwitch),
        0x60 => parameter_change(reader),
        0x70 => restore_point(reader),
        0x80 => reader.u8().map(|on| Fact::FullPageWrites(on != 0)),
        0x90 => end_of_recovery(record, reader),
        0xD0 => overwrite_continuation(reader),
        0xE0 if record.version >= WalVersion::V17 => {
            WalLevel::read(reader).map(|wal_level| Fact::CheckpointRedo { wal_level })
        }
        // No-op, next OID, backup end, full-page images.
        _ => return Ok(None),
    };
    fact.map(Some).ok_or("an XLOG record of another form")
}

fn checkpoint<'a>(record: &Record<'_>, reader: &mut ByteReader<'_>) -> Option<Fact<'a>> {
    let redo = Lsn(reader.u64()?);
    let timeline = TimelineId(reader.u32()?);
    let previous_timeline = TimelineId(reader.u32()?);
    let full_page_writes = reader.u8()? != 0;
    reader.take(3)?;
    let wal_level = if record.version >= WalVersion::V17 {
        Some(WalLevel::read(reader)?)
    } else {
        None
    };
    Some(Fact::Checkpoint {
        redo,
        timeline,
        previous_timeline,
        full_page_writes,
        wal_level,
        is_shutdown: record.operation() == 0x00,
    })
}

fn parameter_change<'a>(reader: &mut ByteReader<'_>) -> Option<Fact<'a>> {
    // max_connections, max_worker_processes, max_wal_senders, max_prepared_xacts, max_locks_per_xact
    reader.take(20)?;
    let wal_level = WalLevel::read(reader)?;
    Some(Fact::ParameterChange { wal_level })
}

fn restore_point<'a>(reader: &mut ByteReader<'a>) -> Option<Fact<'a>> {
    let time = Timestamp::from_postgres(reader.i64()?);
    // 64 bytes, with whatever was in memory behind the NUL.
    let name = String::from_utf8_lossy(reader.c_string()?);
    Some(Fact::RestorePoint { time, name })
}

fn end_of_recovery<'a>(record: &Record<'_>, reader: &mut ByteReader<'_>) -> Option<Fact<'a>> {
    Some(Fact::EndOfRecovery {
        time: Timestamp::from_postgres(reader.i64()?),
        timeline: TimelineId(reader.u32()?),
        previous_timeline: TimelineId(reader.u32()?),
        wal_level: if record.version >= WalVersion::V17 {
            Some(WalLevel::read(reader)?)
        } else {
            None
        },
    })
}

fn overwrite_continuation<'a>(reader: &mut ByteReader<'_>) -> Option<Fact<'a>> {
    Some(Fact::OverwriteContinuation {
        overwritten: Lsn(reader.u64()?),
        time: Timestamp::from_postgres(reader.i64()?),
    })
}

fn storage<'a>(record: &Record<'a>, reader: &mut ByteReader<'a>) -> Reading<'a> {
    let mut read = || match record.operation() {
        0x10 => Some(Fact::RelationCreate {
            relation: Relation::read(reader)?,
            fork: Fork::from_number(reader.u32()?)?,
        }),
        0x20 => {
            let blocks = reader.u32()?;
            Some(Fact::RelationTruncate {
                blocks,
                relation: Relation::read(reader)?,
                forks: TruncatedForks(reader.u32()?),
            })
        }
        _ => None,
    };
    read().map(Some).ok_or("a storage record of another form")
}

fn database<'a>(record: &Record<'a>, reader: &mut ByteReader<'a>) -> Reading<'a> {
    let copies = record.version < WalVersion::V15;
    let mut read = || match record.operation() {
        0x00 => {
            let database = directory(reader)?;
            let copied_from = Some(directory(reader)?);
            Some(Fact::DatabaseCreate {
                database,
                copied_from,
            })
        }
        0x10 if !copies => Some(Fact::DatabaseCreate {
            database: directory(reader)?,
            copied_from: None,
        }),
        0x10 | 0x20 => database_drop(reader),
        _ => None,
    };
    read().map(Some).ok_or("a database record of another form")
}

fn directory(reader: &mut ByteReader<'_>) -> Option<DatabaseDirectory> {
    let database = reader.u32()?;
    Some(DatabaseDirectory {
        database,
        tablespace: reader.u32()?,
    })
}

fn database_drop<'a>(reader: &mut ByteReader<'_>) -> Option<Fact<'a>> {
    let database = reader.u32()?;
    let count = reader.count()?;
    let mut tablespaces = ByteReader::new(reader.items(count, 4)?);
    let directories = std::iter::from_fn(|| tablespaces.u32())
        .map(|tablespace| DatabaseDirectory { tablespace, database })
        .collect();
    Some(Fact::DatabaseDrop { directories })
}

fn tablespace<'a>(record: &Record<'a>, reader: &mut ByteReader<'a>) -> Reading<'a> {
    let mut read = || match record.operation() {
        0x00 => Some(Fact::TablespaceCreate {
            tablespace: reader.u32()?,
            path: String::from_utf8_lossy(reader.c_string()?),
        }),
        0x10 => Some(Fact::TablespaceDrop {
            tablespace: reader.u32()?,
        }),
        _ => None,
    };
    read().map(Some).ok_or("a tablespace record of another form")
}
