//! What a server has executed, in its vendor's terms.

use std::fmt;

use crate::binlog::{Flavor, TransactionGtid};
use crate::gtid::{GtidSet, MariaDbPosition, ParseGtidError};

/// What a server has executed: MySQL knows every transaction, MariaDB the last of each domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Executed {
    /// `gtid_executed`.
    MySql(GtidSet),
    /// `gtid_slave_pos`, `gtid_binlog_pos`.
    MariaDb(MariaDbPosition),
}

impl Executed {
    /// Nothing.
    pub fn nothing(flavor: Flavor) -> Executed {
        match flavor {
            Flavor::MySql => Executed::MySql(GtidSet::new()),
            Flavor::MariaDb => Executed::MariaDb(MariaDbPosition::new()),
        }
    }

    /// Reads what a server of `flavor` prints.
    ///
    /// # Errors
    /// The text is neither a set of GTIDs nor a position.
    pub fn parse(flavor: Flavor, text: &str) -> Result<Executed, ParseGtidError> {
        Ok(match flavor {
            Flavor::MySql => Executed::MySql(text.parse()?),
            Flavor::MariaDb => Executed::MariaDb(text.parse()?),
        })
    }

    /// Whose it is.
    pub fn flavor(&self) -> Flavor {
        match self {
            Executed::MySql(_) => Flavor::MySql,
            Executed::MariaDb(_) => Flavor::MariaDb,
        }
    }

    /// Goes on by one transaction. Whether it is new: in MySQL a server passes over one that it has, in MariaDB none is
    /// passed over.
    pub(crate) fn advance(&mut self, gtid: &TransactionGtid) -> bool {
        match (self, gtid) {
            (Executed::MySql(set), TransactionGtid::MySql(gtid)) => !set.contains(gtid) && set.add(gtid),
            (Executed::MariaDb(position), TransactionGtid::MariaDb(gtid)) => {
                position.advance(*gtid);
                true
            }
            (_, _) => true,
        }
    }
}

/// As servers print it.
impl fmt::Display for Executed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Executed::MySql(set) => set.fmt(f),
            Executed::MariaDb(position) => position.fmt(f),
        }
    }
}

impl fmt::Display for TransactionGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransactionGtid::MySql(gtid) => gtid.fmt(f),
            TransactionGtid::MariaDb(gtid) => gtid.fmt(f),
            TransactionGtid::Anonymous => f.write_str("without a GTID"),
        }
    }
}
