//! Transaction records: commit, abort, prepare (`access/xact.h`; `ParseCommitRecord` and its siblings in the server's
//! `xactdesc.c`).

use tidemark_types::Timestamp;

use super::block::{RELATION_BYTES, Relation};
use super::facts::{Fact, Reading};
use super::record::Record;
use super::version::WalVersion;
use tidemark_types::ByteReader;

/// How a transaction ended: a commit or an abort record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion<'a> {
    /// When, by the server's clock. Not monotonic in the log.
    pub time: Timestamp,
    /// The transaction that ended. For a prepared one this is not the xid in the record's header.
    pub xid: u32,
    /// Whether it was a prepared transaction.
    pub is_prepared: bool,
    /// Its subtransactions.
    pub subtransactions: Subtransactions<'a>,
    /// Relations whose files go with it: dropped by a commit, or made by what was aborted.
    pub dropped: DroppedRelations<'a>,
}

/// A transaction prepared for two-phase commit. The relations that its end will drop are told again by the record that
/// ends it, so they are not read here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare<'a> {
    /// When.
    pub time: Timestamp,
    /// The transaction.
    pub xid: u32,
    /// Its global identifier, as given by the client.
    pub gid: &'a [u8],
}

/// The xids of subtransactions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Subtransactions<'a>(&'a [u8]);

impl<'a> Subtransactions<'a> {
    /// How many.
    pub fn len(self) -> usize {
        self.0.len() / 4
    }

    /// None at all.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The xids, ascending.
    pub fn iter(self) -> impl Iterator<Item = u32> + 'a {
        let mut reader = ByteReader::new(self.0);
        std::iter::from_fn(move || reader.u32())
    }
}

/// Relations whose files, all forks of them, are removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DroppedRelations<'a>(&'a [u8]);

impl<'a> DroppedRelations<'a> {
    /// How many.
    pub fn len(self) -> usize {
        self.0.len() / RELATION_BYTES
    }

    /// None at all.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The relations.
    pub fn iter(self) -> impl Iterator<Item = Relation> + 'a {
        let mut reader = ByteReader::new(self.0);
        std::iter::from_fn(move || Relation::read(&mut reader))
    }
}

const OPERATION_MASK: u8 = 0x70;
const HAS_INFO: u8 = 0x80;

const HAS_DATABASE: u32 = 1 << 0;
const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
const HAS_DROPPED_RELATIONS: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;
const HAS_DROPPED_STATISTICS: u32 = 1 << 8;

const INVALIDATION_BYTES: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Commit,
    Abort,
}

pub(super) fn read<'a>(record: &Record<'a>, reader: &mut ByteReader<'a>) -> Reading<'a> {
    let fact = match record.info & OPERATION_MASK {
        0x00 | 0x30 => completion(Outcome::Commit, record, reader).map(Fact::Commit),
        0x20 | 0x40 => completion(Outcome::Abort, record, reader).map(Fact::Abort),
        0x10 => prepare(record, reader).map(Fact::Prepare),
        // Assignments of subtransactions, cache invalidations.
        _ => return Ok(None),
    };
    fact.map(Some).ok_or("a transaction record of another form")
}

fn completion<'a>(
    outcome: Outcome,
    record: &Record<'a>,
    reader: &mut ByteReader<'a>,
) -> Option<Completion<'a>> {
    let mut end = Completion {
        time: Timestamp::from_postgres(reader.i64()?),
        xid: record.xid,
        is_prepared: matches!(record.info & OPERATION_MASK, 0x30 | 0x40),
        subtransactions: Subtransactions::default(),
        dropped: DroppedRelations::default(),
    };
    let flags = if record.info & HAS_INFO == 0 {
        0
    } else {
        reader.u32()?
    };
    if flags & HAS_DATABASE != 0 {
        reader.take(8)?;
    }
    if flags & HAS_SUBTRANSACTIONS != 0 {
        end.subtransactions = Subtransactions(counted(reader, 4)?);
    }
    if flags & HAS_DROPPED_RELATIONS != 0 {
        end.dropped = DroppedRelations(counted(reader, RELATION_BYTES)?);
    }
    if flags & HAS_DROPPED_STATISTICS != 0 {
        // Object ids became 64 bits wide in 18.
        let size = if record.version >= WalVersion::V18 { 16 } else { 12 };
        counted(reader, size)?;
    }
    if flags & HAS_INVALIDATIONS != 0 && outcome == Outcome::Commit {
        counted(reader, INVALIDATION_BYTES)?;
    }
    if flags & HAS_TWO_PHASE != 0 {
        end.xid = reader.u32()?;
    }
    // Then the global identifier and the replication origin, which nobody here needs.
    Some(end)
}

/// A list behind its count.
fn counted<'a>(reader: &mut ByteReader<'a>, size: usize) -> Option<&'a [u8]> {
    let count = reader.count()?;
    reader.items(count, size)
}

fn prepare<'a>(record: &Record<'a>, reader: &mut ByteReader<'a>) -> Option<Prepare<'a>> {
    let _magic_and_length = reader.take(8)?;
    let xid = reader.u32()?;
    let _database = reader.u32()?;
    let time = Timestamp::from_postgres(reader.i64()?);
    // Owner; numbers of subtransactions, of relations to drop at commit and at abort, since 15 of statistics likewise,
    // and of invalidations; the flag for the relation cache's file with its padding.
    let numbers = if record.version >= WalVersion::V15 { 7 } else { 5 };
    reader.take(4 * numbers + 2)?;
    let gid_bytes = usize::from(reader.u16()?);
    let _origin = reader.take(16)?;
    let gid = reader.take(gid_bytes)?;
    Some(Prepare {
        time,
        xid,
        gid: gid.strip_suffix(b"\0").unwrap_or(gid),
    })
}
