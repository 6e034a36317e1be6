//! Which transactions lie in a log: what joins one of its files to the next.

use std::fmt;

use super::facts::Fact;
use super::transaction::TransactionGtid;
use crate::gtid::{GtidSet, MariaDbState};

/// The transactions of a log up to some point: what a file says of those before it, and what its reader adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Logged {
    /// MySQL: all of them.
    MySql(GtidSet),
    /// MariaDB: the last of each server in each domain.
    MariaDb(MariaDbState),
}

impl Logged {
    /// What lies before a file, if that is what `fact` tells.
    pub fn before(fact: &Fact<'_>) -> Option<Logged> {
        match fact {
            Fact::PreviousGtids(set) => Some(Logged::MySql(set.clone())),
            Fact::GtidList(state) => Some(Logged::MariaDb(state.clone())),
            _ => None,
        }
    }

    /// Adds a transaction. False when it is in the log already, which only MySQL can tell.
    pub fn add(&mut self, gtid: &TransactionGtid) -> bool {
        match (self, gtid) {
            (Logged::MySql(set), TransactionGtid::MySql(gtid)) => set.add(gtid),
            (Logged::MariaDb(state), TransactionGtid::MariaDb(gtid)) => {
                state.advance(*gtid);
                true
            }
            (_, _) => true,
        }
    }
}

/// As the vendors print it.
impl fmt::Display for Logged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Logged::MySql(set) => set.fmt(f),
            Logged::MariaDb(state) => state.fmt(f),
        }
    }
}
