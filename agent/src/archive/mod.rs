//! Streams one server's log to the repository: connects, takes the lease, finds where to begin, follows, and begins
//! again when a connection or a timeline ends. Where a server cannot be streamed from, [`spool`] stands in.

mod changes;
mod follow;
mod fork;
mod intake;
mod lease_keeper;
pub mod lsn_map;
mod shipper;
mod slot;
pub mod source;
mod spool;
mod start;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tidemark_postgres::{PostgresError, SqlClient, Started, WalStream};
use tidemark_repository::base::BackupHeader;
use tidemark_repository::{Archive, Branch, GapRecord, LogPosition, Repository, SliceKey};
use tidemark_types::{Clock, ErrorClass, Lsn, SystemClock, WalSegmentSize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::follow::{Ended, Follower, STATUS_EVERY_MAX};
use self::intake::Intake;
use self::lease_keeper::LeaseKeeper;
use self::lsn_map::{branch_of, lsn_of};
use self::shipper::Cadence;
use self::source::Source;
use self::start::{Overlap, Start, begin_segment, branch_to_continue, continue_from};
use crate::config::ServerSettings;
use crate::exit::{Failure, class_of, hint_of, one_line};
use crate::state::{FailureClass, Pipeline, ServerState};

pub use self::follow::FollowError;
pub use self::shipper::Causes;

/// Pauses between attempts grow from here …
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// … to here.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// An attempt that lived this long was a good one: the next failure begins with a short pause again.
const GOOD_ATTEMPT: Duration = Duration::from_secs(60);
/// A conflict is for a human; looking again now and then finds out when it is over.
const CONFLICT_PAUSE: Duration = tidemark_repository::lease::STALE_AFTER;
/// How long the server is asked for its clock while the agent stops.
const LAST_MARK_MAX: Duration = Duration::from_secs(2);

/// What the task of one server's log works with.
pub struct LogTask {
    /// The server.
    pub settings: Arc<ServerSettings>,
    /// Where its log goes.
    pub repository: Repository,
    /// Where progress is told.
    pub state: Arc<ServerState>,
    /// Whether a live lease of another agent is ignored.
    pub take_over: bool,
    /// Told when streaming began, and when a gap was found: a base backup may be due.
    pub backups_due: Arc<tokio::sync::Notify>,
    /// Held while flushes must not be reported, because of a gap; released by the base backup that closes it.
    pub hold: watch::Sender<bool>,
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

/// What an attempt came to.
enum Next {
    Again,
    Stop,
}

impl LogTask {
    /// Works until told to stop. Errors are logged, shown, and tried again.
    pub async fn run(self, cancel: CancellationToken) {
        let mut memory = Memory::default();
        let mut pause = PAUSE_MIN;
        loop {
            let began = Instant::now();
            let result = self.attempt(&mut memory, &cancel).await;
            if began.elapsed() > GOOD_ATTEMPT {
                pause = PAUSE_MIN;
            }
            let wait = match result {
                Ok(Next::Stop) => break,
                Ok(Next::Again) => PAUSE_MIN,
                Err(_) if cancel.is_cancelled() => break,
                Err(error) => self.failed(&error, &mut memory, &mut pause),
            };
            tokio::select! {
                () = cancel.cancelled() => break,
                () = sleep(wait) => {}
            }
        }
        self.state.update(|facts| facts.pipeline = Pipeline::Stopped);
    }

    /// Shows a failure and says how long to wait.
    fn failed(&self, error: &anyhow::Error, memory: &mut Memory, pause: &mut Duration) -> Duration {
        let (class, reason) = (class_of(error), one_line(error));
        memory
            .damage
            .extend(error.downcast_ref::<FollowError>().and_then(FollowError::damage));
        if let Some(host) = memory.removed_on.take() {
            if std::mem::replace(&mut memory.least_overlap, true) {
                memory.broken_off = Some(BrokenOff {
                    host,
                    reason: "the server had removed the WAL",
                });
                tracing::error!(error = reason, "the log that follows what is stored is gone");
            }
            return PAUSE_MIN;
        }
        if class == ErrorClass::Conflict {
            // Whoever decides reads it here: nobody ran a command that could print it.
            let reason = hint_of(error).map_or_else(|| reason.clone(), |hint| format!("{reason}; {hint}"));
            tracing::error!(error = reason, "stopped: this needs a decision");
            self.state
                .update(|facts| facts.pipeline = Pipeline::Conflict { reason });
            return CONFLICT_PAUSE;
        }
        if class.is_transient() {
            tracing::warn!(error = reason, pause = ?*pause, "the server's log is not being streamed; trying again");
        } else {
            tracing::error!(error = reason, pause = ?*pause, "the server's log cannot be streamed; trying again");
        }
        self.state.update(|facts| {
            facts.pipeline = Pipeline::Failed {
                reason,
                class: FailureClass(class),
            }
        });
        std::mem::replace(pause, (*pause * 2).min(PAUSE_MAX))
    }

    async fn attempt(&self, memory: &mut Memory, cancel: &CancellationToken) -> anyhow::Result<Next> {
        self.state.update(|facts| {
            // A failure stays visible until something works again.
            if !matches!(
                facts.pipeline,
                Pipeline::Failed { .. } | Pipeline::Conflict { .. }
            ) {
                facts.pipeline = Pipeline::Starting;
            }
        });
        let mut source = Source::connect(&self.settings).await?;
        let archive = source.archive(&self.repository, &self.settings).await?;
        self.state
            .update(|facts| facts.generation = Some(archive.record().generation));
        let Some(keeper) = self.take_lease(&archive, &source, memory, cancel).await? else {
            return Ok(Next::Stop);
        };
        let outcome = match &self.settings.archive_spool {
            None => self.follow(&mut source, &archive, keeper, memory, cancel).await,
            Some(spool) => {
                self.ship_spool(spool, &source, &archive, keeper, memory, cancel)
                    .await
            }
        };
        if let Err(error) = &outcome {
            memory.removed_on = is_removed(error).then(|| source.sql.host().to_owned());
            memory.dispossessed |= class_of(error) == ErrorClass::Conflict;
        }
        outcome
    }

    async fn take_lease(
        &self,
        archive: &Archive,
        source: &Source,
        memory: &Memory,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Option<LeaseKeeper>> {
        let mut me = lease_keeper::identity(&hex_id(), archive.record().generation);
        if memory.dispossessed {
            // Once another agent was found at work, only its silence makes room for this one.
            me.boot_id = format!("{} after a conflict", me.boot_id);
        }
        let (history, size, take_over) = (source.history.clone(), source.segment_size, self.take_over);
        let succeeds = move |found: &tidemark_repository::lease::Lease| {
            take_over || lease_keeper::descends(&history, found, size)
        };
        let (settings, state) = (Arc::clone(&self.settings), Arc::clone(&self.state));
        match LeaseKeeper::take(archive.clone(), settings, state, me, succeeds, cancel).await {
            Err(error) if class_of(&error) == ErrorClass::Cancelled => Ok(None),
            other => other.map(Some),
        }
    }

    /// Streams under the lease, and gives it back at the end.
    async fn follow(
        &self,
        source: &mut Source,
        archive: &Archive,
        mut keeper: LeaseKeeper,
        memory: &mut Memory,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Next> {
        source.store_histories(archive).await?;
        let (begin, stream) = match self.begin(source, archive, memory).await {
            Ok(begun) => begun,
            Err(error) => return Err(give_up(keeper, error, source.segment_size).await),
        };
        self.state.update(|facts| {
            facts.pipeline = Pipeline::Streaming;
            facts.restart_at(begin.timeline, begin.lsn, begin.whole);
        });
        self.backups_due.notify_one();
        tracing::info!(position = %begin.lsn, timeline = %begin.timeline, "streaming");
        let stop = CancellationToken::new();
        let intake = self.intake(source, archive, begin, memory);
        let (hold, synchronous, state) = (
            self.hold.subscribe(),
            self.settings.synchronous,
            Arc::clone(&self.state),
        );
        let status_every = source
            .sender_timeout
            .map_or(STATUS_EVERY_MAX, |timeout| STATUS_EVERY_MAX.min(timeout / 3));
        let follower = Follower::new(stream, intake, hold, synchronous, status_every, state).run(&stop);
        let mut follower = std::pin::pin!(follower);
        let (sql, size) = (&source.sql, source.segment_size);
        let ended = tokio::select! {
            ended = &mut follower => match ended {
                Ok(ended) => ended,
                Err(error) => return Err(give_up(keeper, error.into(), size).await),
            },
            Err(error) = keeper.keep(sql, size) => {
                // Who lost the lease stops at once; else what was received is stored first.
                if class_of(&error) != ErrorClass::Conflict {
                    stop.cancel();
                    let _ = follower.await;
                }
                return Err(error);
            }
            Err(error) = slot::watch(sql, &self.settings, &self.state) => {
                stop.cancel();
                let _ = follower.await;
                if !error.is::<slot::GiveUp>() {
                    return Err(error);
                }
                tracing::error!(%error, "the log that follows is lost until the next base backup");
                let reason = "the replication slot was given up at max_slot_retained";
                memory.broken_off = Some(BrokenOff { host: sql.host().to_owned(), reason });
                slot::drop_slot(sql, &self.settings.slot).await?;
                return Ok(Next::Again);
            }
            () = cancel.cancelled() => {
                let mark = timeout(LAST_MARK_MAX, lease_keeper::mark(sql, size)).await;
                stop.cancel();
                let ended = follower.await;
                keeper.release(mark.ok().and_then(Result::ok).flatten(), size).await;
                ended?
            }
        };
        Ok(if ended == Ended::Cancelled {
            Next::Stop
        } else {
            Next::Again
        })
    }

    fn intake(&self, source: &Source, archive: &Archive, start: Start, memory: &Memory) -> Intake {
        let cadence = if self.settings.synchronous {
            Cadence::AtOnce
        } else {
            Cadence::Within(self.settings.max_lag)
        };
        Intake::new(
            archive,
            source.segment_size,
            start,
            cadence,
            memory.damage.clone(),
            Arc::clone(&self.state),
        )
    }

    /// Finds out where to begin, and begins: where the archive ends, or past a gap.
    async fn begin(
        &self,
        source: &mut Source,
        archive: &Archive,
        memory: &mut Memory,
    ) -> anyhow::Result<(Start, WalStream)> {
        let size = source.segment_size;
        let backups = source::backups(archive).await?;
        let newest = backups.last().map(|backup| source::backup_end(backup, size));
        let branches = archive.branches().await?;
        let branch = branch_to_continue(&branches, &source.history, newest).map_err(|error| {
            Failure::new(ErrorClass::Conflict, error.to_string()).hint(source::adopt_hint(&self.settings))
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
        let overlap = if memory.least_overlap {
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
        let broken_off = memory
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
        (memory.broken_off, memory.least_overlap) = (None, false);
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
            tracing::error!(extent, "the log has a gap; a base backup follows at once");
            self.state.update(|facts| {
                facts.gaps += 1;
                facts.alarms.insert("gap", extent);
            });
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
            .hint(source::adopt_hint(&self.settings))
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
        if gaps.iter().any(|gap| source::is_open(gap, backups)) {
            self.hold_for_gap(&source.sql).await?;
        }
        Ok(())
    }

    async fn hold_for_gap(&self, sql: &SqlClient) -> anyhow::Result<()> {
        if slot::is_synchronous(sql, &self.settings).await? {
            tracing::error!(
                "commits wait until a base backup has closed the gap: acknowledging now would acknowledge what is lost"
            );
            self.hold.send_replace(true);
        }
        Ok(())
    }
}

/// Gives the lease back where the log contradicts what is stored: nothing more is written until somebody has decided,
/// and `adopt`, or the right agent, need not wait for it to go stale.
async fn give_up(keeper: LeaseKeeper, error: anyhow::Error, size: WalSegmentSize) -> anyhow::Error {
    if class_of(&error) == ErrorClass::Conflict {
        keeper.release(None, size).await;
    }
    error
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

fn hex_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
