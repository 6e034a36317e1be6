//! PostgreSQL: the log by streaming replication, or by the archiver where a server cannot be streamed from ([`spool`]).

mod changes;
mod follow;
mod fork;
mod intake;
pub mod lsn_map;
mod mark;
mod slot;
pub mod source;
mod spool;
mod start;

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemark_postgres::{PostgresError, SqlClient, Started, WalStream};
use tidemark_repository::base::BackupHeader;
use tidemark_repository::lease::Lease;
use tidemark_repository::{Archive, Branch, GapRecord, LogPosition, SliceKey};
use tidemark_types::{Clock, ErrorClass, LogFiles, Lsn, SystemClock};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::follow::{Ended, Follower, STATUS_EVERY_MAX};
use self::intake::Intake;
use self::lsn_map::{branch_of, lsn_of};
use self::mark::{WalMarks, descends};
use self::source::Source;
use self::start::{Overlap, Start, begin_segment, branch_to_continue, continue_from};
use super::lease_keeper::{LeaseKeeper, Marks};
use super::shipper::Cadence;
use super::{LAST_MARK_MAX, LogPipeline, LogTask, Next, adopt_hint, backups, give_up, is_open};
use crate::config::PostgresqlSettings;
use crate::exit::{Failure, class_of};

pub use self::follow::FollowError;

/// Follows the log of one PostgreSQL server.
pub struct WalPipeline {
    task: LogTask,
    settings: Arc<PostgresqlSettings>,
    memory: Memory,
}

/// What is carried from one attempt to the next.
#[derive(Default)]
struct Memory {
    /// Where the server's WAL was damaged when it was met before.
    damage: BTreeSet<Lsn>,
    /// The server has removed what would be received again only to be compared.
    least_overlap: bool,
    /// Which host cannot continue what is stored, and why: there, the log after it is gone for good.
    broken_off: Option<BrokenOff>,
    /// The host that has just said so.
    removed_on: Option<String>,
    /// Another agent took the lease from this one.
    dispossessed: bool,
}

/// Why the log of a host does not go on where the archive ends.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BrokenOff {
    host: String,
    reason: &'static str,
}

impl LogPipeline for WalPipeline {
    async fn attempt(&mut self, cancel: &CancellationToken) -> anyhow::Result<Next> {
        self.task.starting();
        let mut source = Source::connect(&self.settings).await?;
        let archive = source
            .archive(&self.task.repository, &self.settings.server)
            .await?;
        self.task
            .state
            .update(|facts| facts.generation = Some(archive.record().generation));
        let Some(keeper) = self.take_lease(&archive, &source, cancel).await? else {
            return Ok(Next::Stop);
        };
        let outcome = match self.settings.archive_spool.clone() {
            None => self.follow(&mut source, &archive, keeper, cancel).await,
            Some(spool) => self.ship_spool(&spool, &source, &archive, keeper, cancel).await,
        };
        if let Err(error) = &outcome {
            self.memory.removed_on = is_removed(error).then(|| source.sql.host().to_owned());
            self.memory.dispossessed |= class_of(error) == ErrorClass::Conflict;
        }
        outcome
    }

    fn learn(&mut self, error: &anyhow::Error) -> bool {
        let memory = &mut self.memory;
        memory
            .damage
            .extend(error.downcast_ref::<FollowError>().and_then(FollowError::damage));
        let Some(host) = memory.removed_on.take() else {
            return false;
        };
        if std::mem::replace(&mut memory.least_overlap, true) {
            memory.broken_off = Some(BrokenOff {
                host,
                reason: "the server had removed the WAL",
            });
            tracing::error!(
                error = crate::exit::one_line(error),
                "the log that follows what is stored is gone"
            );
        }
        true
    }
}

impl WalPipeline {
    /// A pipeline that knows nothing yet.
    pub fn new(task: LogTask, settings: Arc<PostgresqlSettings>) -> WalPipeline {
        WalPipeline {
            task,
            settings,
            memory: Memory::default(),
        }
    }

    async fn take_lease(
        &self,
        archive: &Archive,
        source: &Source,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Option<LeaseKeeper>> {
        let (history, size) = (source.history.clone(), source.segment_size);
        let succeeds = move |found: &Lease| descends(&history, found, size);
        self.task
            .take_lease(archive, self.memory.dispossessed, succeeds, cancel)
            .await
    }

    /// Streams under the lease, and gives it back at the end.
    async fn follow(
        &mut self,
        source: &mut Source,
        archive: &Archive,
        mut keeper: LeaseKeeper,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Next> {
        source.store_histories(archive).await?;
        let (begin, stream) = match self.begin(source, archive).await {
            Ok(begun) => begun,
            Err(error) => return Err(give_up(keeper, error).await),
        };
        let files = LogFiles::Wal(source.segment_size);
        let branch = branch_of(begin.timeline);
        self.task
            .streaming(branch, files.lsn(begin.lsn), files.lsn(begin.whole));
        let stop = CancellationToken::new();
        let intake = self.intake(source, archive, begin);
        let (hold, synchronous, state) = (
            self.task.hold.subscribe(),
            self.settings.synchronous,
            Arc::clone(&self.task.state),
        );
        let status_every = source
            .sender_timeout
            .map_or(STATUS_EVERY_MAX, |timeout| STATUS_EVERY_MAX.min(timeout / 3));
        let follower = Follower::new(stream, intake, hold, synchronous, status_every, state).run(&stop);
        let mut follower = std::pin::pin!(follower);
        let sql = &source.sql;
        let marks = WalMarks {
            sql,
            segment_size: source.segment_size,
        };
        let ended = tokio::select! {
            ended = &mut follower => match ended {
                Ok(ended) => ended,
                Err(error) => return Err(give_up(keeper, error.into()).await),
            },
            Err(error) = keeper.keep(&marks) => {
                // Who lost the lease stops at once; else what was received is stored first.
                if class_of(&error) != ErrorClass::Conflict {
                    stop.cancel();
                    let _ = follower.await;
                }
                return Err(error);
            }
            Err(error) = slot::watch(sql, &self.settings, &self.task.state) => {
                stop.cancel();
                let _ = follower.await;
                if !error.is::<slot::GiveUp>() {
                    return Err(error);
                }
                tracing::error!(%error, "the log that follows is lost until the next base backup");
                let reason = "the replication slot was given up at max_slot_retained";
                self.memory.broken_off = Some(BrokenOff { host: sql.host().to_owned(), reason });
                slot::drop_slot(sql, &self.settings.slot).await?;
                return Ok(Next::Again);
            }
            () = cancel.cancelled() => {
                let mark = timeout(LAST_MARK_MAX, marks.mark()).await;
                stop.cancel();
                let ended = follower.await;
                keeper.release(mark.ok().and_then(Result::ok).flatten()).await;
                ended?
            }
        };
        Ok(if ended == Ended::Cancelled {
            Next::Stop
        } else {
            Next::Again
        })
    }

    fn intake(&self, source: &Source, archive: &Archive, start: Start) -> Intake {
        let cadence = if self.settings.synchronous {
            Cadence::AtOnce
        } else {
            Cadence::Within(self.settings.server.max_lag)
        };
        Intake::new(
            archive,
            source.segment_size,
            start,
            cadence,
            self.memory.damage.clone(),
            Arc::clone(&self.task.state),
        )
    }

    /// Finds out where to begin, and begins: where the archive ends, or past a gap.
    async fn begin(&mut self, source: &mut Source, archive: &Archive) -> anyhow::Result<(Start, WalStream)> {
        let size = source.segment_size;
        let backups = backups(archive).await?;
        let newest = backups.last().map(|backup| source::backup_end(backup, size));
        let branches = archive.branches().await?;
        let branch = branch_to_continue(&branches, &source.history, newest).map_err(|error| {
            Failure::new(ErrorClass::Conflict, error.to_string()).hint(adopt_hint(&self.settings.server))
        })?;
        self.hold_for_open_gap(source, archive, &backups).await?;
        let restart = slot::ensure(source, &self.settings.slot).await?;
        let oldest = restart
            .filter(|lsn| lsn.is_valid())
            .unwrap_or(source.identity.wal_end);
        let fresh = begin_segment(source.history.timeline_at(oldest), oldest, size);
        let Some(branch) = branch else {
            return self.start(source, fresh, None).await;
        };
        // Everything before the newest base backup is settled; listing it again would cost for nothing.
        let from_file = backups
            .last()
            .filter(|backup| backup.facts.begin.branch == branch.0)
            .map_or(0, |b| b.facts.begin.file);
        let mut slices = archive.slices(branch, from_file).await?;
        let overlap = if self.memory.least_overlap {
            Overlap::Least
        } else {
            Overlap::Compared
        };
        let Some(mut wanted) = continue_from(branch, &mut slices, &source.history, size, overlap) else {
            let end = slices.iter().map(SliceKey::end_position).max();
            let Some(end) = end.filter(|_| !backups.is_empty()) else {
                return self.start(source, fresh, None).await;
            };
            let reason = "nothing leads to what is stored of the log since the newest base backup";
            return self
                .begin_behind_gap(source, archive, fresh, (branch, end), reason)
                .await;
        };
        fork::compare_with_parent(
            archive,
            &source.history,
            wanted.timeline,
            size,
            &mut wanted.resume,
        )
        .await?;
        self.check_not_behind(source, &wanted)?;
        let stored_end = wanted.resume.durable;
        let broken_off = self
            .memory
            .broken_off
            .as_ref()
            .filter(|broken_off| broken_off.host == source.sql.host());
        let Some(BrokenOff { reason, .. }) = broken_off.cloned() else {
            return self.start(source, wanted, None).await;
        };
        let stored_end = (branch_of(wanted.timeline), stored_end);
        let begun = self
            .begin_behind_gap(source, archive, fresh, stored_end, reason)
            .await?;
        (self.memory.broken_off, self.memory.least_overlap) = (None, false);
        Ok(begun)
    }

    /// Begins anew, past a gap that it records.
    async fn begin_behind_gap(
        &self,
        source: &mut Source,
        archive: &Archive,
        fresh: Start,
        (branch, stored_end): (Branch, LogPosition),
        reason: &str,
    ) -> anyhow::Result<(Start, WalStream)> {
        let gap = GapRecord {
            branch,
            begin: stored_end,
            end: fresh.resume.start,
            found: SystemClock.now(),
            reason: reason.to_owned(),
        };
        let begun = self.start(source, fresh, Some(gap.clone())).await?;
        archive.record_gap(&gap).await?;
        self.hold_for_gap(&source.sql).await?;
        Ok(begun)
    }

    /// Asks for the stream.
    async fn start(
        &self,
        source: &mut Source,
        begin: Start,
        gap: Option<GapRecord>,
    ) -> anyhow::Result<(Start, WalStream)> {
        if let Some(gap) = &gap {
            let extent = format!(
                "from {} to {}: {}",
                lsn_of(gap.begin, source.segment_size),
                begin.lsn,
                gap.reason
            );
            self.task.alarm_gap(extent);
        }
        let client = source.take_replication()?;
        let slot = Some(self.settings.slot.as_str());
        match client.start_physical(slot, begin.lsn, begin.timeline).await {
            Ok(Started::Streaming(stream)) => Ok((begin, stream)),
            // The next attempt knows the next timeline's past.
            Ok(Started::TimelineEnded { next, switch, .. }) => {
                let message = format!("the server went on to timeline {next} at {switch} just now");
                Err(Failure::new(ErrorClass::Transient, message).into())
            }
            Err(error) => Err(slot::in_use(&error).unwrap_or_else(|| error.into())),
        }
    }

    /// A primary whose log ends before what is stored has lost WAL that it had sent.
    fn check_not_behind(&self, source: &Source, wanted: &Start) -> anyhow::Result<()> {
        let stored = lsn_of(wanted.resume.durable, source.segment_size);
        let same_timeline = wanted.timeline == source.identity.timeline;
        if !same_timeline || source.identity.wal_end >= stored {
            return Ok(());
        }
        let end = source.identity.wal_end;
        if source.in_recovery {
            let message =
                format!("the standby has replayed up to {end}, and the archive reaches to {stored}");
            return Err(Failure::new(ErrorClass::Transient, message).into());
        }
        let message = format!(
            "the server's WAL ends at {end}, and the archive holds it up to {stored}: the server lost WAL, or is a copy of another time"
        );
        Err(Failure::new(ErrorClass::Conflict, message)
            .hint(adopt_hint(&self.settings.server))
            .into())
    }

    /// A gap that no base backup has closed yet still forbids to report flushes to a server whose commits wait.
    async fn hold_for_open_gap(
        &self,
        source: &Source,
        archive: &Archive,
        backups: &[BackupHeader],
    ) -> anyhow::Result<()> {
        let gaps = archive.gaps().await?;
        if gaps.iter().any(|gap| is_open(gap, backups)) {
            self.hold_for_gap(&source.sql).await?;
        }
        Ok(())
    }

    async fn hold_for_gap(&self, sql: &SqlClient) -> anyhow::Result<()> {
        if slot::is_synchronous(sql, &self.settings).await? {
            self.task.hold_for_gap();
        }
        Ok(())
    }
}

/// Whether the log that was asked for is gone for good.
fn is_removed(error: &anyhow::Error) -> bool {
    let removed = |error: &PostgresError| {
        matches!(
            error,
            PostgresError::WalRemoved { .. } | PostgresError::SlotLost { .. }
        )
    };
    error.chain().any(|link| match link.downcast_ref() {
        Some(FollowError::Postgres(error)) => removed(error),
        _ => link.downcast_ref().is_some_and(removed),
    })
}
