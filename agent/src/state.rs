//! What is going on with each server: written by the pipeline, read by HTTP and health. One lock, held for moments, so
//! that a reader always sees facts that belong together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tidemark_repository::Branch;
use tidemark_storage::StorageMetrics;
use tidemark_types::{Clock, ErrorClass, Generation, Position, ServerName, SystemClock, Timestamp};

use crate::config::{Engine, ServerSettings};
use crate::health::Thresholds;
use crate::lag::LagClock;
use crate::schedule::BackupKind;

/// The whole process, as HTTP shows it.
#[derive(Debug)]
pub struct AgentState {
    /// When it started.
    pub started: Timestamp,
    /// Its servers, in the order of the configuration.
    pub servers: Vec<Arc<ServerState>>,
    /// Requests to the repository.
    pub storage: Arc<StorageMetrics>,
}

/// One server, shared between the tasks that work for it and those that report.
#[derive(Debug)]
pub struct ServerState {
    name: ServerName,
    engine: Engine,
    thresholds: Thresholds,
    facts: Mutex<Facts>,
}

/// What the pipeline is at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Pipeline {
    /// Connecting, or comparing what is stored with what the server has.
    #[default]
    Starting,
    /// Receiving and storing.
    Streaming,
    /// Another agent holds the lease, alive.
    StandingBy {
        /// Who holds it.
        holder: String,
    },
    /// Stopped: what is stored, or who stores it, contradicts this agent. A human decides.
    Conflict {
        /// What contradicts what.
        reason: String,
    },
    /// Stopped by an error; transient ones are tried again.
    Failed {
        /// Which.
        reason: String,
        /// Its class.
        class: FailureClass,
    },
    /// Ended, on purpose.
    Stopped,
}

/// An [`ErrorClass`] that can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureClass(pub ErrorClass);

impl Serialize for FailureClass {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.label())
    }
}

impl Pipeline {
    /// Every label there is, for metrics that show all of them.
    pub const LABELS: [&'static str; 6] = [
        "starting",
        "streaming",
        "standing_by",
        "conflict",
        "failed",
        "stopped",
    ];

    /// The state without its details.
    pub fn label(&self) -> &'static str {
        match self {
            Pipeline::Starting => "starting",
            Pipeline::Streaming => "streaming",
            Pipeline::StandingBy { .. } => "standing_by",
            Pipeline::Conflict { .. } => "conflict",
            Pipeline::Failed { .. } => "failed",
            Pipeline::Stopped => "stopped",
        }
    }
}

/// The replication slot, as `pg_replication_slots` showed it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotFacts {
    /// Its name.
    pub name: String,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
    /// Log that it holds back, in bytes.
    pub retained_bytes: u64,
    /// Bytes that can still be written before it is in danger; `None`: no limit is set.
    pub safe_bytes: Option<u64>,
}

/// A complete base backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupFacts {
    /// Its id.
    pub id: String,
    /// Full or incremental.
    pub kind: BackupKind,
    /// When it began, by the agent's clock.
    pub began: Timestamp,
    /// When all files were read, by the agent's clock.
    pub ended: Timestamp,
    /// Bytes of the files it describes.
    pub size_bytes: u64,
    /// Bytes it added to the repository.
    pub stored_bytes: u64,
}

impl BackupFacts {
    /// How long it took.
    pub fn duration(&self) -> Duration {
        self.ended.since(self.began)
    }
}

/// Base backups of the present generation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct BackupsFacts {
    /// Whether the repository was asked about earlier ones yet; until then `newest` means nothing.
    pub known: bool,
    /// The newest complete one.
    pub newest: Option<BackupFacts>,
    /// When the one under way began.
    pub running_since: Option<Timestamp>,
    /// Failed attempts since the process started.
    pub failures: u64,
    /// Why the last attempt failed, if none succeeded since.
    pub last_failure: Option<String>,
}

impl BackupsFacts {
    /// Another one was taken. It is not the newest when the clock was set back: the repository lists them by that, too.
    pub fn note_taken(&mut self, taken: BackupFacts) {
        let known = self.newest.take();
        self.newest = known.filter(|known| known.began > taken.began).or(Some(taken));
        self.last_failure = None;
    }
}

/// Slices stored since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct UploadFacts {
    /// How many.
    pub count: u64,
    /// Bytes of log in them.
    pub plain_bytes: u64,
    /// Bytes of the objects.
    pub stored_bytes: u64,
}

/// Everything known about one server at one moment.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Facts {
    /// What the pipeline is at.
    pub pipeline: Pipeline,
    /// Since when, by the agent's clock; kept by [`ServerState::update`].
    pub pipeline_since: Option<Timestamp>,
    /// The identity it writes under.
    pub generation: Option<Generation>,
    /// The branch it streams.
    pub branch: Option<Branch>,
    /// How far bytes have reached the agent.
    pub received: Option<Position>,
    /// How far bytes have reached the repository.
    pub durable: Option<Position>,
    /// How far the server's log was known to reach.
    pub server_end: Option<Position>,
    /// Bytes of whole log files that lie between `durable` and `server_end`, where positions do not tell (binlogs).
    #[serde(skip)]
    pub files_behind: u64,
    /// How long until the server may purge log that is not durable; `None`: all closed files are.
    pub purge_in: Option<Duration>,
    /// When something was last heard from the server.
    pub last_contact: Option<Timestamp>,
    /// Which commits wait, and since when.
    #[serde(skip)]
    pub lag: LagClock,
    /// What the server says of us: `sync`, `quorum`, `potential`, `async`.
    pub sync_state: Option<String>,
    /// Slices stored.
    pub uploads: UploadFacts,
    /// Holes found since the process started.
    pub gaps: u64,
    /// The slot.
    pub slot: Option<SlotFacts>,
    /// Base backups.
    pub base_backups: BackupsFacts,
    /// What somebody must look at although work goes on, by a short name such as `unindexed_range`.
    pub alarms: BTreeMap<&'static str, String>,
}

impl Facts {
    /// Bytes of log that exist and are not durable.
    pub fn lag_bytes(&self) -> u64 {
        let end = self.server_end.max(self.received);
        let bytes = end
            .zip(self.durable)
            .map_or(0, |(end, durable)| end.bytes_since(durable));
        bytes.saturating_add(self.files_behind)
    }

    /// How long the oldest commit that is not durable has waited, as far as the agent knows of it.
    pub fn lag(&self, now: Timestamp) -> Duration {
        self.lag.lag(now)
    }

    /// Time of the newest commit that is durable, by the server's clock.
    pub fn last_durable_commit(&self) -> Option<Timestamp> {
        self.lag.last_durable_commit()
    }

    /// Bytes up to `position` have reached the agent.
    pub fn note_received(&mut self, position: Position, now: Timestamp) {
        self.received = Some(position);
        self.last_contact = Some(now);
        self.lag.received(position);
    }

    /// A commit whose record ends at `end` has reached the agent. Call in log order.
    pub fn note_commit(&mut self, end: Position, committed: Timestamp) {
        self.lag.commit(end, committed);
    }

    /// The server's log reaches to `end`, as it said itself.
    pub fn note_server_end(&mut self, end: Position, now: Timestamp) {
        self.note_server_log(end, end, now);
    }

    /// The server's log reaches to `end`, as it said itself, and commits lie before `commits` only.
    pub fn note_server_log(&mut self, commits: Position, end: Position, now: Timestamp) {
        self.server_end = Some(end);
        self.last_contact = Some(now);
        self.lag.server_end(commits, self.received, now);
    }

    /// Everything up to `position` is durable.
    pub fn note_durable(&mut self, position: Position) {
        self.durable = Some(position);
        self.lag.durable(position);
    }

    /// The stream begins anew at `begin` (a restart, a switch of branch, a gap): what waited before is forgotten.
    pub fn restart_at(&mut self, branch: Branch, begin: Position, durable: Position) {
        self.branch = Some(branch);
        self.received = Some(begin);
        self.durable = Some(durable);
        self.lag.restart();
    }
}

impl ServerState {
    /// A server of which nothing is known yet.
    pub fn new(settings: &ServerSettings) -> Arc<ServerState> {
        Arc::new(ServerState {
            name: settings.name.clone(),
            engine: settings.engine,
            thresholds: Thresholds::of(settings),
            facts: Mutex::new(Facts::default()),
        })
    }

    /// What the user calls it.
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// What it runs.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// What its health is measured against.
    pub fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    /// Changes what is known, and takes note of when the pipeline's state changed. Keep it short: nothing that waits.
    pub fn update<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> T {
        let mut facts = self.lock();
        let before = facts.pipeline.label();
        let answer = change(&mut facts);
        if facts.pipeline_since.is_none() || facts.pipeline.label() != before {
            facts.pipeline_since = Some(SystemClock.now());
        }
        answer
    }

    /// What is known now.
    pub fn facts(&self) -> Facts {
        self.lock().clone()
    }

    /// Facts stay facts when a task that was writing others panicked.
    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl ServerState {
    /// A server with ordinary thresholds.
    pub fn for_tests(name: &str) -> Arc<ServerState> {
        Arc::new(ServerState {
            name: name.parse().expect("a server's name"),
            engine: Engine::Postgresql,
            thresholds: Thresholds {
                lag: Duration::from_secs(50),
                schedule: "0 2 * * *".parse().expect("a schedule"),
            },
            facts: Mutex::new(Facts::default()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_base_backup_never_steps_back() {
        let mut backups = BackupsFacts::default();
        let mut take = |began: i64| {
            backups.note_taken(BackupFacts {
                id: began.to_string(),
                kind: BackupKind::Full,
                began: Timestamp(began),
                ended: Timestamp(began + 5),
                size_bytes: 1,
                stored_bytes: 1,
            });
            backups.newest.as_ref().map(|newest| newest.ended)
        };
        assert_eq!(take(100), Some(Timestamp(105)));
        assert_eq!(take(200), Some(Timestamp(205)));
        assert_eq!(take(150), Some(Timestamp(205)), "the clock was set back");
    }

    #[test]
    fn the_time_of_a_state_is_that_of_its_beginning() {
        let server = ServerState::for_tests("shop");
        let since = |pipeline: Pipeline| {
            server.update(|facts| facts.pipeline = pipeline);
            server.facts().pipeline_since
        };
        let begun = since(Pipeline::Starting);
        assert!(begun.is_some());
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(since(Pipeline::Starting), begun);
        assert!(since(Pipeline::Streaming) > begun);
    }
}
