//! Where to restore to, as asked for.

use std::fmt;

use serde::{Serialize, Serializer};
use tidemark_types::{Lsn, Timestamp};

/// Where to restore to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To a time of the server's clock.
    Time(Timestamp),
    /// To a position in the log.
    Lsn(Lsn),
    /// To the end of a transaction.
    Xid(u32),
    /// To a named restore point.
    Name(String),
    /// To the end of the newest base backup.
    Immediate,
    /// To the last record that is stored.
    Latest,
}

/// Which of two readings is meant where a target has two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The one that comes first in the log.
    First,
    /// The one that comes last.
    Last,
}

/// A target and how it is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The target.
    pub target: Target,
    /// Stop just before it.
    pub exclusive: bool,
    /// Which reading is meant.
    pub pick: Option<Pick>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Time(time) => write!(f, "time {time}"),
            Target::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Target::Xid(xid) => write!(f, "transaction {xid}"),
            Target::Name(name) => write!(f, "restore point \"{name}\""),
            Target::Immediate => f.write_str("end of the newest base backup"),
            Target::Latest => f.write_str("latest"),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
