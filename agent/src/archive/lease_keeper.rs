//! Takes, keeps and gives back the lease of one server.

use std::sync::Arc;
use std::time::Duration;

use tidemark_repository::lease::{
    Claim, Covered, Lease, StoredLease, claim, is_lost, read_lease, write_lease,
};
use tidemark_repository::{Archive, Branch, RepositoryError};
use tidemark_types::{Clock, ErrorClass, Generation, Position, SystemClock, Timestamp};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::shipper::Causes;
use crate::base::host;
use crate::config::ServerSettings;
use crate::exit::Failure;
use crate::state::{Pipeline, ServerState};

/// How often a lease that somebody else holds is looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Pause after a rewrite that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// A commit's time is taken before its record is written, and sent later still: what the server's clock said less
/// this much is covered by what it had written then.
const COVER_MARGIN: Duration = Duration::from_secs(10);
/// A server that can be asked for its clock and the end of its log.
pub trait Marks: Sync {
    /// Asks. `None` on a replica, whose clock says nothing about the source's commits.
    ///
    /// # Errors
    /// What the server says.
    fn mark(&self) -> impl Future<Output = anyhow::Result<Option<Mark>>> + Send;
}

/// The holder of one server's lease.
pub struct LeaseKeeper {
    archive: Archive,
    settings: Arc<ServerSettings>,
    state: Arc<ServerState>,
    lease: Lease,
}

/// The server's clock and the end of its log, in this order: everything committed up to that time, less a margin, lies
/// before that end.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// The clock.
    pub time: Timestamp,
    /// The branch of `end`.
    pub branch: Branch,
    /// The end of the log.
    pub end: Position,
}

/// Who this process is; the rest of a lease is filled in when it is taken.
pub fn identity(writer: &str, generation: Generation) -> Lease {
    Lease {
        number: 0,
        writer: writer.to_owned(),
        host: host::host_name(),
        boot_id: host::boot_id(),
        pid: std::process::id(),
        generation,
        beat: SystemClock.now(),
        released: false,
        covered: None,
    }
}

impl LeaseKeeper {
    /// Takes the lease as `me`, waiting for another's to go stale unless `succeeds` finds that ours follows it.
    ///
    /// # Errors
    /// What the repository says; `Cancelled`.
    pub async fn take(
        archive: Archive,
        settings: Arc<ServerSettings>,
        state: Arc<ServerState>,
        me: Lease,
        succeeds: impl Fn(&Lease) -> bool,
        cancel: &CancellationToken,
    ) -> anyhow::Result<LeaseKeeper> {
        loop {
            let found = read_lease(&**archive.storage(), &settings.name).await?;
            let now = SystemClock.now();
            let holder = found.as_ref().map(|found| &found.lease);
            match claim(holder, &me, holder.is_some_and(&succeeds), now) {
                Claim::Take(number) => {
                    let covered = holder
                        .filter(|held| held.generation == me.generation)
                        .and_then(|held| held.covered);
                    let lease = Lease {
                        number,
                        beat: now,
                        covered,
                        ..me
                    };
                    write_lease(&**archive.storage(), &settings.name, &lease, found.as_ref()).await?;
                    tracing::info!(number, "took the lease");
                    return Ok(LeaseKeeper {
                        archive,
                        settings,
                        state,
                        lease,
                    });
                }
                Claim::Wait { until } => {
                    let holder = holder
                        .map(|held| format!("{} (pid {})", held.host, held.pid))
                        .unwrap_or_default();
                    tracing::info!(%holder, %until, "another agent streams this server; standing by until its lease is stale");
                    state.update(|facts| facts.pipeline = Pipeline::StandingBy { holder });
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(Failure::new(ErrorClass::Cancelled, "told to stop").into()),
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Rewrites the lease every heartbeat, until somebody else's is found. `server` is asked for its clock.
    ///
    /// # Errors
    /// `Conflict` when another agent took over; what the server says; never returns otherwise. May be dropped.
    pub async fn keep(&mut self, server: &impl Marks) -> anyhow::Result<()> {
        let mut next = Instant::now() + self.settings.heartbeat.min(RETRY_PAUSE);
        loop {
            sleep_until(next).await;
            let mark = server.mark().await?;
            let deadline = Instant::now() + self.settings.heartbeat / 2;
            while mark.is_some_and(|mark| !self.is_durable(mark)) && Instant::now() < deadline {
                sleep(Duration::from_millis(200)).await;
            }
            next = match self.beat(mark, false).await {
                Ok(()) => Instant::now() + self.settings.heartbeat,
                Err(error) if error.class() == ErrorClass::Transient => {
                    tracing::warn!(error = %Causes(&error), "the lease could not be rewritten; trying again");
                    Instant::now() + RETRY_PAUSE
                }
                Err(error) => return Err(error.into()),
            };
        }
    }

    fn is_durable(&self, mark: Mark) -> bool {
        self.durable_past(mark).is_some()
    }

    /// How far the log of the mark's branch is durable, when that is past the mark. What is being stored may be of
    /// another branch, left long ago, and its positions say nothing.
    fn durable_past(&self, mark: Mark) -> Option<Position> {
        self.state.update(|facts| {
            facts
                .durable
                .filter(|durable| facts.branch == Some(mark.branch) && *durable >= mark.end)
        })
    }

    async fn beat(&mut self, mark: Option<Mark>, released: bool) -> Result<(), RepositoryError> {
        let storage = &**self.archive.storage();
        let found = read_lease(storage, &self.settings.name).await?;
        if is_lost(&self.lease, found.as_ref().map(|found| &found.lease)) {
            return Err(self.lost(found));
        }
        self.lease.beat = SystemClock.now();
        self.lease.released = released;
        if let Some(mark) = mark
            && let Some(durable) = self.durable_past(mark)
        {
            self.lease.covered = Some(Covered {
                time: mark.time.minus(COVER_MARGIN),
                branch: mark.branch,
                position: durable.at,
            });
        }
        write_lease(storage, &self.settings.name, &self.lease, found.as_ref()).await
    }

    fn lost(&self, found: Option<StoredLease>) -> RepositoryError {
        let holder = found
            .map(|found| format!("pid {} on {}", found.lease.pid, found.lease.host))
            .unwrap_or_default();
        RepositoryError::Conflict {
            object: format!("the lease of {}", self.settings.name),
            problem: format!("another agent ({holder}) took over; this one stopped to stream the server"),
        }
    }

    /// Gives the lease back, so that another agent need not wait. `mark` was made before the last log was stored.
    pub async fn release(mut self, mark: Option<Mark>) {
        if let Err(error) = self.beat(mark, true).await {
            tracing::warn!(error = %Causes(&error), "the lease could not be given back; the next agent may have to wait");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_storage::MemoryStorage;
    use tidemark_types::{LogFiles, Lsn, WalSegmentSize};

    #[tokio::test]
    async fn positions_of_another_branch_than_the_servers_cover_nothing() {
        let size = WalSegmentSize::DEFAULT;
        let at = |lsn| LogFiles::Wal(size).lsn(Lsn(lsn));
        let (_, archive) = crate::testing::shop(MemoryStorage::new(), size.bytes()).await;
        let state = ServerState::for_tests("shop");
        let mut keeper = LeaseKeeper::take(
            archive,
            Arc::clone(crate::config::server_for_tests("shop").common()),
            Arc::clone(&state),
            identity("me", Generation(1)),
            |_| false,
            &CancellationToken::new(),
        )
        .await
        .unwrap();
        // The old primary went past the fork before it died; the new one has not come as far.
        let mark = Mark {
            time: Timestamp(60_000_000),
            branch: Branch(2),
            end: at(0x700_0100),
        };
        state.update(|facts| facts.restart_at(Branch(1), at(0x900_0000), at(0x900_0000)));
        keeper.beat(Some(mark), false).await.unwrap();
        assert_eq!(keeper.lease.covered, None);
        state.update(|facts| facts.restart_at(Branch(2), at(0x800_0000), at(0x800_0000)));
        keeper.beat(Some(mark), false).await.unwrap();
        let covered = keeper.lease.covered.unwrap();
        assert_eq!((covered.branch, covered.time), (Branch(2), Timestamp(50_000_000)));
        assert_eq!(covered.position, at(0x800_0000).at);
    }
}
