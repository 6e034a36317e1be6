//! What planning learns by reading slices: the ends of transactions in them, and restore points.

use std::collections::HashMap;
use std::fmt;

use serde::{Serialize, Serializer};
use tidemark_mysql::binlog::TransactionGtid;
use tidemark_types::{Position, Timestamp};

/// Which transaction, in its engine's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionId {
    /// PostgreSQL's number of it; used again after four billion others.
    Xid(u32),
    /// MySQL's or MariaDB's global one.
    Gtid(TransactionGtid),
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransactionId::Xid(xid) => xid.fmt(f),
            TransactionId::Gtid(TransactionGtid::MySql(gtid)) => gtid.fmt(f),
            TransactionId::Gtid(TransactionGtid::MariaDb(gtid)) => gtid.fmt(f),
            TransactionId::Gtid(TransactionGtid::Anonymous) => f.write_str("without a GTID"),
        }
    }
}

impl Serialize for TransactionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How a transaction ended, or that it was prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndingKind {
    /// It committed.
    Commit,
    /// It aborted.
    Abort,
    /// It was prepared for two-phase commit.
    Prepare,
}

/// The end of a transaction: in WAL its commit, abort or prepare record, in binlogs all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ending {
    /// Where the record, or the transaction, begins.
    pub begin: Position,
    /// Where it ends.
    pub end: Position,
    /// What it says.
    pub kind: EndingKind,
    /// When, by the server's clock.
    pub time: Timestamp,
    /// The transaction.
    pub transaction: TransactionId,
    /// It, or one of its subtransactions, is the one that is looked for.
    #[serde(skip)]
    pub is_wanted: bool,
}

/// A named restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    /// Where its record begins.
    pub begin: Position,
    /// When it was made.
    pub time: Timestamp,
    /// Its name.
    pub name: String,
}

/// Where a record of WAL, or a transaction of a binlog, begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RecordSpan {
    /// Its first byte.
    pub begin: Position,
    /// The byte after its last.
    pub end: Position,
}

impl From<&Ending> for RecordSpan {
    fn from(ending: &Ending) -> RecordSpan {
        RecordSpan {
            begin: ending.begin,
            end: ending.end,
        }
    }
}

/// What the records, or transactions, that end in one slice say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SliceFacts {
    /// Ends of transactions, in log order.
    pub endings: Vec<Ending>,
    /// Restore points, in log order.
    pub points: Vec<RestorePoint>,
    /// The last record, or transaction.
    pub last: Option<RecordSpan>,
}

impl SliceFacts {
    /// Forgets what a search for one transaction does not need, so that searching a long log takes little memory: keeps
    /// what was looked for, its neighbours, and the first and the last.
    pub fn keep_wanted(&mut self) {
        let wanted: Vec<bool> = self.endings.iter().map(|ending| ending.is_wanted).collect();
        let at = |index: Option<usize>| {
            index
                .and_then(|index| wanted.get(index))
                .copied()
                .unwrap_or(false)
        };
        let last = wanted.len().saturating_sub(1);
        let mut index = 0;
        self.endings.retain(|_| {
            let near = at(Some(index)) || at(index.checked_sub(1)) || at(index.checked_add(1));
            let keep = near || index == 0 || index == last;
            index += 1;
            keep
        });
    }
}

/// Which slice: the number of the line, and of the slice in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceId {
    /// The line.
    pub line: usize,
    /// The slice.
    pub slice: usize,
}

/// The facts of the slices that were read so far.
#[derive(Debug, Default)]
pub struct Known(HashMap<SliceId, SliceFacts>);

impl Known {
    /// What is known of one slice.
    pub fn get(&self, id: SliceId) -> Option<&SliceFacts> {
        self.0.get(&id)
    }

    /// Takes the facts of a slice in.
    pub fn insert(&mut self, id: SliceId, facts: SliceFacts) {
        self.0.insert(id, facts);
    }
}
