//! Where to restore to, as asked for.

use std::fmt;

use serde::{Serialize, Serializer};
use tidemark_mysql::binlog::TransactionGtid;
use tidemark_types::{BinlogBasename, LogFiles, LogPosition, Lsn, Position, Timestamp};

use super::facts::TransactionId;
use crate::engine::Engine;

/// Where to restore to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To a time of the server's clock.
    Time(Timestamp),
    /// To a position in WAL.
    Lsn(Lsn),
    /// To a position in a binlog file.
    Binlog(BinlogPoint),
    /// To the end of a transaction.
    Transaction(TransactionId),
    /// To a named restore point.
    Name(String),
    /// To the end of the newest base backup.
    Immediate,
    /// To the last record that is stored.
    Latest,
}

/// A place in a binlog file. Several branches may have files of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BinlogPoint {
    /// What the file's name begins with.
    pub basename: BinlogBasename,
    /// The file's number, and the offset in it.
    pub at: LogPosition,
}

impl BinlogPoint {
    /// Reads `FILE:OFFSET`; `None` when the text is no such thing.
    pub fn parse(text: &str) -> Option<BinlogPoint> {
        let (file, offset) = text.rsplit_once(':')?;
        let (basename, file) = BinlogBasename::parse_file(file)?;
        let at = LogPosition {
            file,
            offset: offset.parse().ok()?,
        };
        Some(BinlogPoint { basename, at })
    }
}

impl Target {
    /// The position that it names, on a branch with these files; `None` when it names none, or one of other files.
    pub fn position_on(&self, files: LogFiles) -> Option<Position> {
        match (self, files) {
            (Target::Lsn(lsn), LogFiles::Wal(_)) => Some(files.lsn(*lsn)),
            (Target::Binlog(point), LogFiles::Binlog { basename, .. }) if basename == point.basename => {
                Some(files.position(point.at))
            }
            _ => None,
        }
    }

    /// Whether a server of this engine can have such a target.
    pub fn fits(&self, engine: Engine) -> bool {
        match self {
            Target::Time(_) | Target::Immediate | Target::Latest => true,
            Target::Lsn(_) | Target::Name(_) | Target::Transaction(TransactionId::Xid(_)) => {
                engine == Engine::Postgresql
            }
            Target::Binlog(_) => engine != Engine::Postgresql,
            Target::Transaction(TransactionId::Gtid(gtid)) => match gtid {
                TransactionGtid::MySql(_) => engine == Engine::Mysql,
                TransactionGtid::MariaDb(_) => engine == Engine::Mariadb,
                TransactionGtid::Anonymous => false,
            },
        }
    }
}

/// The option that asks for a position.
pub fn position_option(position: Position) -> String {
    match position.files {
        LogFiles::Wal(_) => format!("--target-lsn {position}"),
        LogFiles::Binlog { .. } => format!("--target-position {position}"),
    }
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
            Target::Binlog(point) => {
                write!(
                    f,
                    "position {}:{}",
                    point.basename.file_name(point.at.file),
                    point.at.offset
                )
            }
            Target::Transaction(transaction) => write!(f, "transaction {transaction}"),
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
