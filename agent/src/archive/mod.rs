//! Streams one server's log to the repository. What all engines share stands here: trying again, the lease, the shipper;
//! how a server is followed stands in a module for each engine.

mod backups;
mod lease_keeper;
pub mod mysql;
pub mod postgresql;
mod shipper;

use std::sync::Arc;
use std::time::Duration;

use tidemark_repository::lease::Lease;
use tidemark_repository::{Archive, Branch, Repository};
use tidemark_types::{ErrorClass, Position};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::lease_keeper::LeaseKeeper;
use self::mysql::BinlogPipeline;
use self::postgresql::WalPipeline;
use crate::config::{Server, ServerSettings};
use crate::exit::{class_of, hint_of, one_line};
use crate::state::{FailureClass, Pipeline, ServerState};

pub use self::backups::{adopt_hint, backups, is_open};
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

/// What the task of one server's log works with, whatever the server runs.
pub struct LogTask {
    /// The server.
    pub server: Server,
    /// Where its log goes.
    pub repository: Repository,
    /// Where progress is told.
    pub state: Arc<ServerState>,
    /// Whether a live lease of another agent is ignored.
    pub take_over: bool,
    /// Told when streaming began, and when a gap was found: a base backup may be due.
    pub backups_due: Arc<tokio::sync::Notify>,
    /// Held while nothing must be acknowledged, because of a gap; released by the base backup that closes it.
    pub hold: watch::Sender<bool>,
}

/// What an attempt came to.
enum Next {
    Again,
    Stop,
}

/// One engine's way to follow a server's log.
trait LogPipeline: Send {
    /// Connects, finds where to begin, and follows until something ends it.
    fn attempt(&mut self, cancel: &CancellationToken) -> impl Future<Output = anyhow::Result<Next>> + Send;

    /// Takes a failed attempt to heart. Whether the next one goes about it in another way, and need not wait.
    fn learn(&mut self, error: &anyhow::Error) -> bool;
}

impl LogTask {
    /// Works until told to stop. Errors are logged, shown, and tried again.
    pub async fn run(self, cancel: CancellationToken) {
        let state = Arc::clone(&self.state);
        match self.server.clone() {
            Server::Postgresql(settings) => {
                drive(WalPipeline::new(self, settings), &state, &cancel).await;
            }
            Server::Mysql(settings) => {
                drive(BinlogPipeline::new(self, settings), &state, &cancel).await;
            }
        }
        state.update(|facts| facts.pipeline = Pipeline::Stopped);
    }

    fn common(&self) -> &Arc<ServerSettings> {
        self.server.common()
    }

    /// A failure stays visible until something works again.
    fn starting(&self) {
        self.state.update(|facts| {
            if !matches!(
                facts.pipeline,
                Pipeline::Failed { .. } | Pipeline::Conflict { .. }
            ) {
                facts.pipeline = Pipeline::Starting;
            }
        });
    }

    /// Waits for the lease; `None` when told to stop before. `succeeds` tells that this server's log descends from the
    /// holder's.
    async fn take_lease(
        &self,
        archive: &Archive,
        dispossessed: bool,
        succeeds: impl Fn(&Lease) -> bool,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Option<LeaseKeeper>> {
        let mut me = lease_keeper::identity(&hex_id(), archive.record().generation);
        if dispossessed {
            // Once another agent was found at work, only its silence makes room for this one.
            me.boot_id = format!("{} after a conflict", me.boot_id);
        }
        let succeeds = |found: &Lease| self.take_over || succeeds(found);
        let (settings, state) = (Arc::clone(self.common()), Arc::clone(&self.state));
        match LeaseKeeper::take(archive.clone(), settings, state, me, succeeds, cancel).await {
            Err(error) if class_of(&error) == ErrorClass::Cancelled => Ok(None),
            other => other.map(Some),
        }
    }

    /// Streaming begins at `begin`; what is stored ends with a whole record at `whole`.
    fn streaming(&self, branch: Branch, begin: Position, whole: Position) {
        self.state.update(|facts| {
            facts.pipeline = Pipeline::Streaming;
            facts.restart_at(branch, begin, whole);
        });
        self.backups_due.notify_one();
        tracing::info!(position = %begin, %branch, "streaming");
    }

    /// Tells of a gap: the log misses `extent`, and a base backup follows at once.
    fn alarm_gap(&self, extent: String) {
        tracing::error!(extent, "the log has a gap; a base backup follows at once");
        self.state.update(|facts| {
            facts.gaps += 1;
            facts.alarms.insert("gap", extent);
        });
    }

    /// Acknowledges nothing until a base backup has closed the gap.
    fn hold_for_gap(&self) {
        tracing::error!(
            "commits wait until a base backup has closed the gap: acknowledging now would acknowledge what is lost"
        );
        self.hold.send_replace(true);
    }
}

/// Tries again and again, until told to stop.
async fn drive(mut pipeline: impl LogPipeline, state: &ServerState, cancel: &CancellationToken) {
    let mut pause = PAUSE_MIN;
    loop {
        let began = Instant::now();
        let result = pipeline.attempt(cancel).await;
        if began.elapsed() > GOOD_ATTEMPT {
            pause = PAUSE_MIN;
        }
        let wait = match result {
            Ok(Next::Stop) => return,
            Ok(Next::Again) => PAUSE_MIN,
            Err(_) if cancel.is_cancelled() => return,
            Err(error) if pipeline.learn(&error) => PAUSE_MIN,
            Err(error) => failed(state, &error, &mut pause),
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep(wait) => {}
        }
    }
}

/// Shows a failure and says how long to wait.
fn failed(state: &ServerState, error: &anyhow::Error, pause: &mut Duration) -> Duration {
    let (class, reason) = (class_of(error), one_line(error));
    if class == ErrorClass::Conflict {
        // Whoever decides reads it here: nobody ran a command that could print it.
        let reason = hint_of(error).map_or_else(|| reason.clone(), |hint| format!("{reason}; {hint}"));
        tracing::error!(error = reason, "stopped: this needs a decision");
        state.update(|facts| facts.pipeline = Pipeline::Conflict { reason });
        return CONFLICT_PAUSE;
    }
    if class.is_transient() {
        tracing::warn!(error = reason, pause = ?*pause, "the server's log is not being streamed; trying again");
    } else {
        tracing::error!(error = reason, pause = ?*pause, "the server's log cannot be streamed; trying again");
    }
    state.update(|facts| {
        facts.pipeline = Pipeline::Failed {
            reason,
            class: FailureClass(class),
        }
    });
    std::mem::replace(pause, (*pause * 2).min(PAUSE_MAX))
}

/// Gives the lease back where the log contradicts what is stored: nothing more is written until somebody has decided,
/// and `adopt`, or the right agent, need not wait for it to go stale.
async fn give_up(keeper: LeaseKeeper, error: anyhow::Error) -> anyhow::Error {
    if class_of(&error) == ErrorClass::Conflict {
        keeper.release(None).await;
    }
    error
}

fn hex_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
