//! Applying: batches of what is in place, each ended by the server at a position that it is given, and compared with what the
//! log holds.
//!
//! Invariants: after a batch the server has executed what the log up to its end holds, no more and no less; files before the
//! batch are not needed again.

use std::time::Duration;

use tidemark_types::Timestamp;
use tokio::sync::mpsc;

use super::RestoreError;
use super::control::{self, ApplierError, ApplierStatus};
use super::error::FailedTransaction;
use super::log::{Executed, Located, UnappliedSearch};
use super::relay::{ChainEnd, Placed, RelayLogs};
use super::server::PrivateServer;
use crate::binlog::BinlogOffset;

/// How often the applier is asked where it is.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// So often in a row the applier may be seen behind the end that it was given: it stops there within moments.
const OVERRUN_POLLS: u32 = 100;

/// How far a replay is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplayProgress {
    /// Bytes of the log that are applied, from where applying began.
    pub bytes: u64,
    /// Transactions that are applied.
    pub transactions: u64,
    /// When the last of them committed on the original, to about a MiB of its log.
    pub log_time: Option<Timestamp>,
}

/// A place among the files that are applied: the number of the file, from zero on, and the offset in it.
pub(super) type Place = (usize, BinlogOffset);

/// Applies file after file.
pub(super) struct Applier {
    relay: RelayLogs,
    incoming: mpsc::Receiver<Placed>,
    placed: Vec<Placed>,
    /// All before this is applied.
    at: Place,
    /// What was executed there.
    executed: Executed,
    /// Transactions from the beginning of the file that `at` lies in, which are applied already.
    applied_in_file: u64,
    is_pointed: bool,
    server_id: u32,
    transactions: u64,
    begin: BinlogOffset,
}

/// Where a batch ends.
pub(super) struct BatchEnd {
    /// The file, as the original called it.
    pub(super) file: String,
    /// The offset in it.
    pub(super) offset: BinlogOffset,
    number: usize,
}

impl Applier {
    /// Begins at `begin` in the first file, where `executed` was executed.
    pub(super) fn new(
        relay: RelayLogs,
        incoming: mpsc::Receiver<Placed>,
        begin: BinlogOffset,
        executed: Executed,
        server_id: u32,
    ) -> Applier {
        Applier {
            relay,
            incoming,
            placed: Vec::new(),
            at: (0, begin),
            executed,
            applied_in_file: 0,
            is_pointed: false,
            server_id,
            transactions: 0,
            begin,
        }
    }

    /// What lies in all files that are in place.
    pub(super) fn chain(&self) -> ChainEnd {
        self.placed
            .last()
            .map(|placed| placed.chain.clone())
            .unwrap_or_default()
    }

    /// Transactions that were applied.
    pub(super) fn transactions(&self) -> u64 {
        self.transactions
    }

    /// Waits until file `number` is in place.
    ///
    /// # Errors
    /// [`RestoreError::FeedEnded`].
    pub(super) async fn wait_for(&mut self, number: usize) -> Result<(), RestoreError> {
        while self.placed.len() <= number {
            let placed = self.incoming.recv().await.ok_or(RestoreError::FeedEnded {
                placed: self.placed.len(),
                files: self.relay.files().len(),
            })?;
            self.placed.push(placed);
        }
        Ok(())
    }

    /// Waits until there is something to apply, and says up to where; `None` when all is applied.
    ///
    /// # Errors
    /// [`RestoreError::FeedEnded`].
    pub(super) async fn next_batch(&mut self) -> Result<Option<BatchEnd>, RestoreError> {
        let files = self.relay.files();
        let is_first = !self.is_pointed;
        let next = if is_first { self.at.0 } else { self.at.0 + 1 };
        if next >= files.len() {
            return Ok(None);
        }
        self.wait_for(next).await?;
        while let Ok(placed) = self.incoming.try_recv() {
            self.placed.push(placed);
        }
        let number = self.placed.len() - 1;
        let last = self.placed.last().zip(self.relay.files().get(number));
        Ok(last.map(|(placed, file)| BatchEnd {
            file: file.name.clone(),
            offset: placed.facts.end,
            number,
        }))
    }

    /// Goes on where an interrupted replay left off, in data that has executed `has`, when it was applying up to `target`.
    ///
    /// # Errors
    /// [`RestoreError::CannotResume`] when the data does not tell, [`RestoreError::Io`].
    pub(super) fn go_on(
        &mut self,
        has: Executed,
        target: Place,
        in_flight: usize,
    ) -> Result<(), RestoreError> {
        let mut search = UnappliedSearch::new(&self.executed, has.clone(), in_flight);
        self.relay.look_through(self.at, target, &mut search)?;
        let found = search.end();
        if found.is_elsewhere {
            return Err(RestoreError::cannot_resume(format!(
                "the data stands at '{has}', which the log does not hold"
            )));
        }
        let is_unsafe = |located: &&Located| !super::log::is_all_or_nothing(&located.transaction);
        if let Some(located) = found.first.iter().find(is_unsafe) {
            let transaction = &located.transaction;
            return Err(RestoreError::cannot_resume(format!(
                "transaction {} was perhaps applied in part: it changes the schema, engines without transactions, or is XA",
                transaction.gtid
            )));
        }
        if let Executed::MySql(_) = has {
            // The server passes over what it has.
            return Ok(());
        }
        if found.has_applied_behind {
            return Err(RestoreError::cannot_resume(
                "its domains came to different places of the log, and the server cannot begin at two",
            ));
        }
        let first = found.first.first();
        self.at = first.map_or(target, |located| (located.file, located.transaction.begin));
        let before: u64 = self
            .placed
            .iter()
            .take(self.at.0)
            .map(|placed| placed.facts.transactions)
            .sum();
        self.applied_in_file = found.applied.saturating_sub(before);
        self.executed = has;
        Ok(())
    }

    /// Applies up to `end`, calling `tell` now and then.
    ///
    /// # Errors
    /// [`RestoreError::Transaction`], [`RestoreError::NotAsCounted`], and what the server or its connection says.
    pub(super) async fn apply(
        &mut self,
        server: &mut PrivateServer,
        end: &BatchEnd,
        tell: &mut (dyn FnMut(ReplayProgress) + Send),
    ) -> Result<(), RestoreError> {
        self.choose_server_id(server).await?;
        if !self.is_pointed {
            let (number, offset) = self.at;
            control::point_applier(server.sql(), number, offset, self.name(number)).await?;
            self.is_pointed = true;
        }
        let before = control::transaction_counter(server.sql()).await?;
        let until = (end.number, end.offset);
        if self.at != until {
            control::start_applier(server.sql(), end.number, end.offset).await?;
            let status = self.wait_for_end(server, until, tell).await?;
            self.check_status(server, &status, until).await?;
        }
        self.check_executed(server, before, end).await?;
        for number in self.at.0..end.number {
            self.relay.discard(number)?;
        }
        self.at = until;
        self.applied_in_file = self.facts(end.number).map_or(0, |facts| facts.transactions);
        tell(self.progress(until, 0));
        Ok(())
    }

    /// The number of the file that the original calls so.
    pub(super) fn number_named(&self, name: &str) -> Option<usize> {
        self.relay.files().iter().position(|file| file.name == name)
    }

    /// What was executed at the end of the last batch.
    pub(super) fn executed(&self) -> &Executed {
        &self.executed
    }

    fn name(&self, number: usize) -> &str {
        self.relay
            .files()
            .get(number)
            .map_or("", |file| file.name.as_str())
    }

    fn facts(&self, number: usize) -> Option<&super::log::FileFacts> {
        self.placed.get(number).map(|placed| &placed.facts)
    }

    /// Takes another number when events of the log carry ours.
    async fn choose_server_id(&mut self, server: &mut PrivateServer) -> Result<(), RestoreError> {
        let used = self.chain().server_ids;
        if !used.contains(&self.server_id) {
            return Ok(());
        }
        // A log of as many servers as there are numbers there is not.
        let free = (1..u32::MAX)
            .rev()
            .find(|id| !used.contains(id))
            .unwrap_or(self.server_id);
        control::set_server_id(server.sql(), free).await?;
        self.server_id = free;
        Ok(())
    }

    /// Polls the applier until it stops.
    async fn wait_for_end(
        &self,
        server: &mut PrivateServer,
        until: Place,
        tell: &mut (dyn FnMut(ReplayProgress) + Send),
    ) -> Result<ApplierStatus, RestoreError> {
        let mut overrun = 0;
        loop {
            let status = control::applier_status(server.sql()).await?;
            let place = self
                .relay
                .number_of(&status.file)
                .map(|number| (number, status.position));
            if !status.is_running {
                return Ok(status);
            }
            match place {
                Some(place) if place.0 <= until.0 => {
                    overrun = 0;
                    let transactions = self.count(server).await?;
                    tell(self.progress(place, transactions));
                }
                Some(_) | None => overrun += 1,
            }
            if overrun > OVERRUN_POLLS {
                return Err(RestoreError::NotAsCounted {
                    what: "the applier went on behind its end",
                    file: self.name(until.0).to_owned(),
                    expected: format!("{}:{}", RelayLogs::file_name(until.0), until.1),
                    found: format!("{}:{}", status.file, status.position),
                });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Transactions that were applied since the last batch, as far as the server tells while it works.
    async fn count(&self, server: &mut PrivateServer) -> Result<u64, RestoreError> {
        Ok(match (control::executed(server.sql()).await?, &self.executed) {
            (Executed::MySql(now), Executed::MySql(before)) => now.count().saturating_sub(before.count()),
            (_, _) => 0,
        })
    }

    fn progress(&self, place: Place, transactions: u64) -> ReplayProgress {
        let (number, offset) = place;
        let before: u64 = self
            .placed
            .iter()
            .take(number)
            .map(|placed| placed.facts.end.0)
            .sum();
        let marks = self.placed.iter().take(number + 1).enumerate().rev();
        let log_time = marks
            .flat_map(|(file, placed)| placed.facts.times.iter().rev().map(move |mark| (file, mark)))
            .find(|(file, mark)| *file < number || mark.end <= offset)
            .map(|(_, mark)| mark.commit_time);
        ReplayProgress {
            bytes: (before + offset.0).saturating_sub(self.begin.0),
            transactions: self.transactions + transactions,
            log_time,
        }
    }

    /// The applier has stopped: at the end that it was given, or because of an error.
    async fn check_status(
        &self,
        server: &mut PrivateServer,
        status: &ApplierStatus,
        until: Place,
    ) -> Result<(), RestoreError> {
        if let Some(error) = &status.error {
            let error = control::worker_error(server.sql())
                .await?
                .unwrap_or_else(|| error.clone());
            let has = control::executed(server.sql()).await?;
            return Err(self.failed(error, has, until));
        }
        // The event that ends a file need not count as read.
        let least = self
            .facts(until.0)
            .map_or(until.1, |facts| facts.last_transaction.min(until.1));
        let is_there = self.relay.number_of(&status.file) == Some(until.0)
            && (least..=until.1).contains(&status.position);
        if is_there {
            return Ok(());
        }
        Err(RestoreError::NotAsCounted {
            what: "the applier stopped elsewhere",
            file: self.name(until.0).to_owned(),
            expected: format!("{}:{}", RelayLogs::file_name(until.0), until.1),
            found: format!("{}:{}", status.file, status.position),
        })
    }

    /// Finds the transaction that failed: the one that the server names, else the first that is not applied.
    fn failed(&self, error: ApplierError, has: Executed, until: Place) -> RestoreError {
        let mut search = UnappliedSearch::new(&self.executed, has, usize::MAX);
        if let Err(error) = self.relay.look_through(self.at, until, &mut search) {
            return error;
        }
        let mut unapplied = search.end().first;
        let named = unapplied
            .iter()
            .position(|located| Some(located.transaction.gtid.to_string()) == error.gtid);
        let located = (!unapplied.is_empty()).then(|| unapplied.swap_remove(named.unwrap_or(0)));
        let (gtid, file, begin, end) = match located {
            Some(Located { file, transaction }) => (
                transaction.gtid.to_string(),
                file,
                transaction.begin,
                transaction.end,
            ),
            None => ("after the last one".to_owned(), until.0, until.1, until.1),
        };
        RestoreError::Transaction(FailedTransaction {
            gtid,
            file: self.name(file).to_owned(),
            begin,
            end,
            code: error.code,
            message: error.message,
        })
    }

    /// Compares what the server has executed with what the log holds: as a set in MySQL, by domain and count in MariaDB,
    /// whose positions look alike with and without what is missing.
    async fn check_executed(
        &mut self,
        server: &mut PrivateServer,
        counter_before: Option<u64>,
        end: &BatchEnd,
    ) -> Result<(), RestoreError> {
        let Some(expected) = self.facts(end.number).map(|facts| facts.executed.clone()) else {
            return Ok(());
        };
        let differs = |what, expected: String, found: String| RestoreError::NotAsCounted {
            what,
            file: end.file.clone(),
            expected,
            found,
        };
        let found = control::executed(server.sql()).await?;
        if found != expected {
            return Err(differs(
                "executed transactions",
                expected.to_string(),
                found.to_string(),
            ));
        }
        let files = self.placed.iter().take(end.number + 1).skip(self.at.0);
        let in_files: u64 = files.map(|placed| placed.facts.transactions).sum();
        let count = in_files.saturating_sub(self.applied_in_file);
        let counter_after = control::transaction_counter(server.sql()).await?;
        if let Some((before, after)) = counter_before.zip(counter_after)
            && after.saturating_sub(before) != count
        {
            let found = after.saturating_sub(before);
            return Err(differs(
                "number of transactions",
                count.to_string(),
                found.to_string(),
            ));
        }
        self.executed = expected;
        self.transactions += count;
        Ok(())
    }
}
