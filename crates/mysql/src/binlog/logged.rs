//! Which transactions lie in a log: what joins one of its files to the next.

use std::fmt;

use super::decoder::BinlogDecoder;
use super::error::BinlogError;
use super::facts::Fact;
use super::transaction::{TransactionGtid, Transactions};
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

    /// Adds a transaction. False when it is in the log already, or its number is none: only MySQL can tell.
    pub fn add(&mut self, gtid: &TransactionGtid) -> bool {
        match (self, gtid) {
            (Logged::MySql(set), TransactionGtid::MySql(gtid)) => !set.contains(gtid) && set.add(gtid),
            (Logged::MariaDb(state), TransactionGtid::MariaDb(gtid)) => {
                state.advance(*gtid);
                true
            }
            (_, _) => true,
        }
    }
}

/// Reads a file for the transactions that lie in the log up to its end.
#[derive(Debug, Default)]
pub struct LoggedReader {
    decoder: BinlogDecoder,
    transactions: Transactions,
    logged: Option<Logged>,
}

impl LoggedReader {
    /// A reader of a file from its first byte on.
    pub fn new() -> LoggedReader {
        LoggedReader::default()
    }

    /// Adds the next bytes of the file.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), BinlogError> {
        while let Some(event) = self.decoder.next(&mut bytes)? {
            let fact = Fact::of(&event)?;
            let ended = self.transactions.add(&event, fact.as_ref())?;
            if let (Some(logged), Some(transaction)) = (&mut self.logged, ended) {
                logged.add(&transaction.gtid);
            }
            if let Some(before) = fact.as_ref().and_then(Logged::before) {
                self.logged = Some(before);
            }
        }
        Ok(())
    }

    /// What lies in the log up to the last whole transaction that was read; `None` before the file said what lies before
    /// it.
    pub fn logged(&self) -> Option<&Logged> {
        self.logged.as_ref()
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
