//! A dump: one consistent snapshot of a server as SQL statements in files, read over several connections at once.
//!
//! Our own, because nothing else fits: the vendors' `mysqldump` and `mariadb-dump` read over one connection, `mydumper` would
//! have to be installed in the right version wherever an agent runs, and of neither could the pages be compared with an
//! earlier backup's while they come. What a dump holds is SQL and nothing else: executed in the order of its paths, by the
//! vendor's own client if need be, it makes the server anew.
//!
//! | files | hold |
//! | --- | --- |
//! | `dump/10-databases.sql` | databases |
//! | `dump/20-sequences.sql` | MariaDB's sequences and where they stand |
//! | `dump/30-tables/*.sql` | tables, one in each, without triggers |
//! | `dump/40-data/*.sql` | rows; any number at once |
//! | `dump/50-routines.sql` | functions and procedures |
//! | `dump/60-views.sql` | views, at first in outline, so that their order does not matter |
//! | `dump/70-triggers.sql` | triggers |
//! | `dump/80-events.sql` | events |
//! | `dump/90-accounts.sql` | accounts, roles and grants |
//!
//! Consistent: under one global read lock every connection begins its snapshot, the log's position is read, and all that is
//! not kept in versions is read too: the tables of other engines than InnoDB, and the definitions of everything but tables.
//! Then the lock goes; it is given up before it is had when a long statement stands in its way. A table whose definition
//! changes later makes its reader fail ("Table definition has changed"), and the dump with it.
//!
//! Exact: numbers with a fraction come with as many digits as they have, binary data in hexadecimal, text in utf8mb4 or, in
//! character sets that do not map to it one to one, as the bytes it is. Rows of over 64 MiB are refused. Left out, and named
//! in the manifest: the history of MariaDB's versioned tables, what the user may not see.

mod accounts;
mod catalog;
mod column;
mod output;
mod script;
mod snapshot;
mod table;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::output::Output;
use self::snapshot::take;
use super::{BaseBackupError, FileEvent, LogState};
use crate::client::ConnectOptions;

/// Events that wait to be taken.
const EVENTS_WAITING: usize = 16;

/// What is known of a dump at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpFacts {
    /// The point of the log that the dump is of.
    pub point: LogState,
    /// What is not in it although the server has it.
    pub missing: Vec<String>,
}

/// A dump that runs. It ends when it is dropped.
#[derive(Debug)]
pub struct DumpRun {
    events: mpsc::Receiver<FileEvent>,
    work: JoinSet<Result<DumpFacts, BaseBackupError>>,
    facts: Option<DumpFacts>,
}

impl DumpRun {
    /// Begins a dump over `connections` connections, and one more for the lock.
    pub fn start(options: ConnectOptions, connections: usize) -> DumpRun {
        let (sender, events) = mpsc::channel(EVENTS_WAITING);
        let mut work = JoinSet::new();
        work.spawn(async move { take(&options, connections.max(1), Output::new(sender)).await });
        DumpRun {
            events,
            work,
            facts: None,
        }
    }

    /// The next event; `None` when the dump is complete. May be dropped at any time: nothing is lost.
    ///
    /// # Errors
    /// What the server says; [`BaseBackupError::DumpPrivileges`], [`BaseBackupError::PreparedTransactions`].
    pub async fn next(&mut self) -> Result<Option<FileEvent>, BaseBackupError> {
        if let Some(event) = self.events.recv().await {
            return Ok(Some(event));
        }
        if let Some(done) = self.work.join_next().await {
            let done = done.map_err(|error| match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => BaseBackupError::Cancelled,
            });
            self.facts = Some(done??);
        }
        Ok(None)
    }

    /// What is known of the dump when it is complete.
    pub fn facts(&self) -> Option<&DumpFacts> {
        self.facts.as_ref()
    }
}
