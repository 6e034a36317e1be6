//! Applying: batches of what is in place, each ended by the server at a position that it is given, and compared with what the
//! log holds.
//!
//! Invariants: after a batch the server has executed what the log up to its end holds, no more and no less; files before the
//! batch are not needed again.

use std::time::Duration;

use tidemark_types::Timestamp;

use super::RestoreError;
use super::control::{self, ApplierError, ApplierStatus};
use super::error::FailedTransaction;
use super::log::{Executed, FailureSearch, Located, LogPlace};
use super::relay::{ChainEnd, FeedEnd, Placed, RelayLogs};
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
    feed: FeedEnd,
    placed: Vec<Placed>,
    /// So many files are behind us.
    done: usize,
    /// The server reads on at the end of the last file that is behind us.
    is_pointed: bool,
    /// What was executed there.
    executed: Executed,
    server_id: u32,
    transactions: u64,
    /// Where applying begins in the first file.
    begin: BinlogOffset,
}

/// Files that are applied in one go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    begin: Place,
    end: Place,
}

impl Applier {
    /// Begins at `begin` in the first file, with a server that has executed `executed`.
    pub(super) fn new(
        relay: RelayLogs,
        feed: FeedEnd,
        begin: BinlogOffset,
        executed: Executed,
        server_id: u32,
    ) -> Applier {
        Applier {
            relay,
            feed,
            placed: Vec::new(),
            done: 0,
            is_pointed: false,
            executed,
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

    /// What was executed at the end of the last batch.
    pub(super) fn executed(&self) -> &Executed {
        &self.executed
    }

    /// The file that a batch ends in, as the original called it, and the offset there.
    pub(super) fn end_of(&self, batch: Batch) -> Option<LogPlace> {
        self.place(batch.end)
    }

    /// The end of all that is behind us; `None` before the first file.
    pub(super) fn end(&self) -> Option<LogPlace> {
        let last = self.done.checked_sub(1)?;
        self.place((last, self.facts(last)?.end))
    }

    fn place(&self, place: Place) -> Option<LogPlace> {
        self.relay.files().get(place.0).map(|file| file.place(place.1))
    }

    /// Waits until there is something to apply, and says what; `None` when all is. What the data has already is passed over.
    ///
    /// # Errors
    /// [`RestoreError::FeedEnded`].
    pub(super) async fn next_batch(&mut self) -> Result<Option<Batch>, RestoreError> {
        let files = self.relay.files().len();
        while self.done < files {
            while self.placed.len() <= self.done {
                let placed = self.feed.placed.recv().await.ok_or(RestoreError::FeedEnded {
                    placed: self.placed.len(),
                    files,
                })?;
                self.placed.push(placed);
            }
            while let Ok(placed) = self.feed.placed.try_recv() {
                self.placed.push(placed);
            }
            if let Some(batch) = self.batch() {
                return Ok(Some(batch));
            }
            self.is_pointed = false;
            self.go_past(self.done)?;
        }
        Ok(None)
    }

    /// The next file, and those that follow it and are applied from their beginning on; `None` when the data has all of it.
    fn batch(&self) -> Option<Batch> {
        let first = self.facts(self.done)?;
        let begin = (self.done, first.apply_from?);
        let is_whole = |placed: &&Placed| placed.facts.apply_from == Some(BinlogOffset::FIRST_EVENT);
        let following = self
            .placed
            .iter()
            .skip(self.done + 1)
            .take_while(is_whole)
            .count();
        let last = self.done + following;
        Some(Batch {
            begin,
            end: (last, self.facts(last)?.end),
        })
    }

    /// Files up to this one are behind us, and not needed again but for the last, which the server may stand in.
    fn go_past(&mut self, number: usize) -> Result<(), RestoreError> {
        for number in self.done.saturating_sub(1)..number {
            self.relay.discard(number)?;
        }
        self.done = number + 1;
        // Nobody to tell: the feed is through.
        let _ = self.feed.applied.send(self.done);
        Ok(())
    }

    /// Applies a batch, calling `tell` now and then.
    ///
    /// # Errors
    /// [`RestoreError::Transaction`], [`RestoreError::NotAsCounted`], and what the server or its connection says.
    pub(super) async fn apply(
        &mut self,
        server: &mut PrivateServer,
        batch: Batch,
        tell: &mut (dyn FnMut(ReplayProgress) + Send),
    ) -> Result<(), RestoreError> {
        self.choose_server_id(server).await?;
        let (number, offset) = batch.begin;
        if !self.is_pointed || offset != BinlogOffset::FIRST_EVENT {
            control::point_applier(server.sql(), number, offset, self.name(number)).await?;
            self.is_pointed = true;
        }
        let counter = control::transaction_counter(server.sql()).await?;
        if batch.begin != batch.end {
            let (last, end) = batch.end;
            control::start_applier(server.sql(), last, end).await?;
            let status = self.wait_for_end(server, batch.end, tell).await?;
            self.check_status(server, &status, batch).await?;
        }
        self.check_executed(server, counter, batch).await?;
        self.go_past(batch.end.0)?;
        tell(self.progress(batch.end, 0));
        Ok(())
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
        batch: Batch,
    ) -> Result<(), RestoreError> {
        if let Some(error) = &status.error {
            let error = control::worker_error(server.sql())
                .await?
                .unwrap_or_else(|| error.clone());
            let has = control::executed(server.sql()).await?;
            return Err(self.failed(error, has, batch));
        }
        let (number, end) = batch.end;
        // The event that ends a file need not count as read.
        let least = self
            .facts(number)
            .map_or(end, |facts| facts.last_transaction.min(end));
        let is_there =
            self.relay.number_of(&status.file) == Some(number) && (least..=end).contains(&status.position);
        if is_there {
            return Ok(());
        }
        Err(RestoreError::NotAsCounted {
            what: "the applier stopped elsewhere",
            file: self.name(number).to_owned(),
            expected: format!("{}:{end}", RelayLogs::file_name(number)),
            found: format!("{}:{}", status.file, status.position),
        })
    }

    /// Finds the transaction that failed.
    fn failed(&self, error: ApplierError, has: Executed, batch: Batch) -> RestoreError {
        let mut search = FailureSearch::new(&self.executed, has, error.gtid);
        if let Err(error) = self.relay.look_through(batch.begin, batch.end, &mut search) {
            return error;
        }
        let (gtid, file, begin, end) = match search.found() {
            Some(Located { file, transaction }) => (
                transaction.gtid.to_string(),
                file,
                transaction.begin,
                transaction.end,
            ),
            None => (
                "after the last one".to_owned(),
                batch.end.0,
                batch.end.1,
                batch.end.1,
            ),
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
        batch: Batch,
    ) -> Result<(), RestoreError> {
        let (first, last) = (batch.begin.0, batch.end.0);
        let Some(expected) = self.facts(last).map(|facts| facts.executed.clone()) else {
            return Ok(());
        };
        let differs = |what, expected: String, found: String| RestoreError::NotAsCounted {
            what,
            file: self.name(last).to_owned(),
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
        let files = self.placed.iter().take(last + 1).skip(first);
        let count: u64 = files.map(|placed| placed.facts.transactions).sum();
        let counter_after = control::transaction_counter(server.sql()).await?;
        let counted = counter_before.zip(counter_after);
        if let Some(found) = counted.map(|(before, after)| after.saturating_sub(before))
            && found != count
        {
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
