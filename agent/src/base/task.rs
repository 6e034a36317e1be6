//! `run`'s share in base backups: one task per server, which takes them when they are due.

use std::sync::Arc;
use std::time::Duration;

use tidemark_repository::base::withdraw_dead;
use tidemark_repository::{Archive, Repository};
use tidemark_types::{ByteSize, Clock, SystemClock, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::durable::LogWriter;
use super::history::{Stored, shown};
use super::host;
use super::take::{Job, Taken, describe_damage, take};
use crate::config::Server;
use crate::exit::{class_of, one_line};
use crate::schedule::{BackupHistory, BackupKind, Cause, Decision, decide};
use crate::state::{Pipeline, ServerState};

/// The schedule is looked at again at least this often: a clock may be set, a laptop may sleep.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Pause after the repository could not be asked.
const RETRY_PAUSE: Duration = Duration::from_secs(30);

/// What the task of one server's base backups works with.
pub struct BackupTask {
    /// The server.
    pub server: Server,
    /// Where its base backups go.
    pub repository: Repository,
    /// What its log is at, and where progress is told.
    pub state: Arc<ServerState>,
    /// Told when a base backup may be due.
    pub due: Arc<Notify>,
    /// Held while a gap is open; a base backup behind the gap releases it.
    pub hold: watch::Sender<bool>,
}

/// What the repository said last, and what failed since.
#[derive(Default)]
struct Memory {
    history: Option<BackupHistory>,
    last_failure: Option<Timestamp>,
    failures_in_a_row: u32,
}

impl BackupTask {
    /// Works until told to stop. Failures are logged, shown, and tried again as the schedule says.
    pub async fn run(self, cancel: CancellationToken) {
        let mut memory = Memory::default();
        loop {
            let pause = match self.round(&mut memory, &cancel).await {
                Ok(until) => until.since(SystemClock.now()).min(LOOK_EVERY),
                Err(_) if cancel.is_cancelled() => return,
                Err(error) => {
                    tracing::warn!(
                        error = one_line(&error),
                        "it is not known whether a base backup is due; asking again"
                    );
                    RETRY_PAUSE
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                // Streaming began, or a gap was found: what was known may be old.
                () = self.due.notified() => memory.history = None,
                () = sleep(pause) => {}
            }
        }
    }

    /// Takes what is due; returns when to look again.
    async fn round(&self, memory: &mut Memory, cancel: &CancellationToken) -> anyhow::Result<Timestamp> {
        let Some(archive) = self.archive().await? else {
            // Told when streaming begins.
            return Ok(SystemClock.now().plus(LOOK_EVERY));
        };
        if memory.history.is_none() {
            self.look(&archive, memory).await?;
        }
        if let Decision::Wait { until } = self.decide(memory) {
            return Ok(until);
        }
        // Somebody may have taken one by hand since.
        self.look(&archive, memory).await?;
        match self.decide(memory) {
            Decision::Wait { until } => return Ok(until),
            Decision::Due { kind, cause } => self.attempt(&archive, kind, cause, memory, cancel).await,
        }
        Ok(SystemClock.now())
    }

    /// The archive, while its log is being streamed.
    async fn archive(&self) -> anyhow::Result<Option<Archive>> {
        let (is_streaming, generation) = self.state.update(|facts| {
            let is_streaming = facts.pipeline == Pipeline::Streaming;
            (is_streaming, facts.generation)
        });
        match generation.filter(|_| is_streaming) {
            Some(generation) => Ok(Some(
                self.repository
                    .archive(&self.server.common().name, Some(generation))
                    .await?,
            )),
            None => Ok(None),
        }
    }

    async fn look(&self, archive: &Archive, memory: &mut Memory) -> anyhow::Result<()> {
        // A gap that is found while the repository is listed is not in the list: it is the next look's.
        let (hold, gaps) = (self.hold.subscribe(), self.gaps());
        let stored = Stored::list(archive).await?;
        let history = stored.history();
        memory.history = Some(history);
        if history.newest_began.is_some() && !history.gap_since {
            // Everything before the last gap is in a backup: what is acknowledged from here on can be restored.
            self.hold
                .send_if_modified(|held| !hold.has_changed().unwrap_or(true) && std::mem::take(held));
            self.state.update(|facts| {
                if facts.gaps == gaps {
                    facts.alarms.remove("gap");
                }
            });
        }
        self.state.update(|facts| {
            facts.base_backups.known = true;
            facts.base_backups.newest = stored.newest();
        });
        Ok(())
    }

    fn gaps(&self) -> u64 {
        self.state.update(|facts| facts.gaps)
    }

    fn decide(&self, memory: &Memory) -> Decision {
        let history = BackupHistory {
            last_failure: memory.last_failure,
            failures_in_a_row: memory.failures_in_a_row,
            ..memory.history.unwrap_or_default()
        };
        let settings = &self.server.common().base_backup;
        decide(
            &settings.schedule,
            settings.full_every,
            &history,
            SystemClock.now(),
        )
    }

    /// Takes one, and shows what came of it.
    async fn attempt(
        &self,
        archive: &Archive,
        kind: BackupKind,
        cause: Cause,
        memory: &mut Memory,
        cancel: &CancellationToken,
    ) {
        tracing::info!(kind = kind.label(), "base backup begins: {}", cause.label());
        let running_since = Some(SystemClock.now());
        self.state
            .update(|facts| facts.base_backups.running_since = running_since);
        let result = self.take(archive, kind, cancel).await;
        self.state.update(|facts| facts.base_backups.running_since = None);
        match result {
            Ok(taken) => {
                self.succeeded(&taken);
                *memory = Memory::default();
            }
            Err(_) if cancel.is_cancelled() => tracing::info!("the base backup was called off"),
            Err(error) => {
                memory.last_failure = Some(SystemClock.now());
                memory.failures_in_a_row = memory.failures_in_a_row.saturating_add(1);
                self.failed(&error);
            }
        }
    }

    async fn take(
        &self,
        archive: &Archive,
        kind: BackupKind,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Taken> {
        for dead in withdraw_dead(&archive.base(), SystemClock.now(), host::is_gone).await? {
            tracing::warn!(backup = %dead.backup, "a base backup died here; what it stored is removed by upkeep");
        }
        let job = Job {
            server: self.server.clone(),
            archive: archive.clone(),
            kind,
            log: LogWriter::Here(Arc::clone(&self.state)),
            progress: Arc::default(),
        };
        take(&job, cancel).await
    }

    fn succeeded(&self, taken: &Taken) {
        let newest = shown(&taken.header);
        tracing::info!(
            backup = newest.id,
            kind = newest.kind.label(),
            size = %ByteSize(newest.size_bytes),
            stored = %ByteSize(newest.stored_bytes),
            duration = ?newest.duration(),
            "base backup complete"
        );
        self.state.update(|facts| {
            facts.base_backups.note_taken(newest);
            match &taken.distrusted {
                Some(reason) => facts.alarms.insert("base_backup_distrusted", reason.clone()),
                None => facts.alarms.remove("base_backup_distrusted"),
            };
            match taken.bad_pages {
                0 => facts.alarms.remove("damaged_pages"),
                pages => facts
                    .alarms
                    .insert("damaged_pages", describe_damage(taken, pages)),
            };
        });
    }

    fn failed(&self, error: &anyhow::Error) {
        let reason = one_line(error);
        if class_of(error).is_transient() {
            tracing::warn!(error = reason, "the base backup failed; trying again");
        } else {
            tracing::error!(error = reason, "the base backup failed; trying again");
        }
        self.state.update(|facts| {
            facts.base_backups.failures += 1;
            facts.base_backups.last_failure = Some(reason);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_repository::base::{BackupFacts, BackupWriter, LogPosition};
    use tidemark_storage::{Fault, FaultyStorage, MemoryStorage, Operation, Trigger};

    /// A base backup of nothing.
    async fn back_up(archive: &Archive) -> Taken {
        let now = Timestamp(0);
        let position = || LogPosition {
            branch: 1,
            file: 2,
            offset: 40,
            text: String::new(),
        };
        let facts = BackupFacts {
            engine: "postgresql".to_owned(),
            server_version: "17.11".to_owned(),
            begin: position(),
            end: position(),
            started: now,
            stopped: now,
            engine_facts: serde_json::Value::Null,
        };
        let writer = BackupWriter::begin(archive.base(), host::intent(now, None), None, |_| false).await;
        Taken {
            header: writer.unwrap().finish(Vec::new(), facts).await.unwrap(),
            complete: Timestamp(7_000_000),
            bad_pages: 0,
            distrusted: None,
        }
    }

    /// The task of a server with one base backup.
    async fn task(storage: &FaultyStorage) -> (BackupTask, Archive, Taken) {
        let server = crate::config::server_for_tests("shop");
        let (repository, archive) = crate::testing::shop(storage.clone(), 1 << 24).await;
        let taken = back_up(&archive).await;
        let task = BackupTask {
            server,
            repository,
            state: ServerState::for_tests("shop"),
            due: Arc::default(),
            hold: watch::Sender::new(false),
        };
        (task, archive, taken)
    }

    #[tokio::test]
    async fn the_newest_base_backup_is_shown_alike_when_it_was_taken_and_when_it_was_found() {
        let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()));
        let (task, archive, taken) = task(&storage).await;
        let newest = || task.state.facts().base_backups.newest;
        task.succeeded(&taken);
        let shown = newest();
        assert!(shown.is_some());
        task.look(&archive, &mut Memory::default()).await.unwrap();
        assert_eq!(newest(), shown);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gap_found_while_the_repository_is_listed_is_not_taken_for_closed() {
        let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()));
        let (task, archive, _) = task(&storage).await;
        let found = || {
            task.hold.send_replace(true);
            task.state.update(|facts| {
                facts.gaps += 1;
                facts.alarms.insert("gap", "some".to_owned());
            });
        };
        let is_open = || (*task.hold.borrow(), task.state.facts().alarms.contains_key("gap"));
        let mut memory = Memory::default();
        // The second one while the first is still held.
        for _ in 0..2 {
            let slow = Fault::Slow(Duration::from_secs(10));
            storage.inject(Trigger::next(Operation::List).on_keys_with("gaps"), slow);
            let gap = async {
                sleep(Duration::from_secs(5)).await;
                found();
            };
            let (looked, ()) = tokio::join!(task.look(&archive, &mut memory), gap);
            looked.unwrap();
            assert_eq!(is_open(), (true, true));
        }
        task.look(&archive, &mut memory).await.unwrap();
        assert_eq!(is_open(), (false, false));
    }
}
