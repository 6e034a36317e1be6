//! A restored server as a child process: started, watched over SQL, promoted or shut down, and left running.
//!
//! `postgres` itself is spawned, not pg_ctl: pg_ctl reports success for servers that die of FATAL a moment later, and
//! for ones that are still replaying. The server gets a process group of its own, so that an interrupt typed at the
//! restore does not reach it. What it did is learnt from SQL and from its exit, never from its log's wording.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tidemark_types::{Lsn, Timestamp};
use tokio::process::{Child, Command};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use super::RestoreError;
use super::finder::ServerPrograms;
use super::private_config::PrivateConfig;
use super::recovery_config::give_to_owner;

/// How long a single question may take; a server this slow is asked again later.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a condition is looked at while waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Lines of the log that go into an error.
const LOG_TAIL_LINES: usize = 20;

/// What to start.
#[derive(Debug, Clone)]
pub struct ServerLaunch {
    /// The programs.
    pub programs: ServerPrograms,
    /// The restored data directory. The server runs as its owner.
    pub data_directory: PathBuf,
    /// The private configuration.
    pub config: PrivateConfig,
    /// The role to connect as: [`crate::basebackup::ServerFacts::bootstrap_superuser`].
    pub user: String,
    /// The database to connect to; "template1" is always there.
    pub database: String,
}

/// How far a server in recovery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayProgress {
    /// End of the last replayed record; `None` before the first.
    pub replayed: Option<Lsn>,
    /// Time of the last replayed commit or abort; `None` before the first.
    pub last_commit: Option<Timestamp>,
    /// Replay stands still: at the target, with [`super::TargetAction::Pause`].
    pub paused: bool,
}

/// What a restored server is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerState {
    /// Not yet accepting connections: starting, or replaying towards consistency.
    Starting,
    /// Readable, in recovery.
    Recovering(ReplayProgress),
    /// Out of recovery, open for writes; with the last position it replayed to.
    Promoted(ReplayProgress),
    /// Ended by itself. Success is what [`super::TargetAction::Shutdown`] leads to.
    Ended(ExitStatus),
}

/// A server that goes on after us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftRunning {
    /// Its process id; also in `postmaster.pid` of the data directory.
    pub pid: u32,
    /// Directory of its socket.
    pub socket_directory: PathBuf,
    /// Part of the socket's name.
    pub port: u16,
    /// Its log file.
    pub log_file: PathBuf,
}

/// A restored server. Dropping it shuts the server down (without waiting), so that a failed restore leaves none
/// behind; [`RestoredServer::leave_running`] keeps it.
pub struct RestoredServer {
    launch: ServerLaunch,
    child: Option<Child>,
    client: Option<Client>,
}

impl RestoredServer {
    /// Makes the private directory, writes the configuration and spawns the server. Does not wait for it.
    ///
    /// # Errors
    /// [`RestoreError::OwnedByRoot`], or [`RestoreError::Io`].
    pub fn start(launch: ServerLaunch) -> Result<RestoredServer, RestoreError> {
        let data = &launch.data_directory;
        let owner = std::fs::metadata(data).map_err(RestoreError::io("look at", data))?;
        let as_root = rustix::process::geteuid().is_root();
        if as_root && owner.uid() == 0 {
            return Err(RestoreError::OwnedByRoot { path: data.clone() });
        }
        prepare_directory(data, &launch.config.directory)?;
        launch.config.write()?;
        let log_path = launch.config.log_file();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(RestoreError::io("open", &log_path))?;
        let errors = log.try_clone().map_err(RestoreError::io("open", &log_path))?;
        let program = launch.programs.program("postgres");
        let mut command = Command::new(&program);
        command
            .args(launch.config.arguments(data))
            // The directory we were started in may be closed to the server's user.
            .current_dir(data)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        if as_root {
            command.uid(owner.uid()).gid(owner.gid());
        }
        let child = command.spawn().map_err(RestoreError::io("start", &program))?;
        Ok(RestoredServer {
            launch,
            child: Some(child),
            client: None,
        })
    }

    /// What the server is doing right now. Ask again as often as progress is to be shown.
    ///
    /// # Errors
    /// [`RestoreError::ServerEnded`] when it failed; [`RestoreError::Sql`] when it refuses us for a reason that will
    /// not pass, such as an unknown role.
    pub async fn state(&mut self) -> Result<ServerState, RestoreError> {
        if let Some(status) = self.exit_status()? {
            return if status.success() {
                Ok(ServerState::Ended(status))
            } else {
                Err(self.ended(status))
            };
        }
        match tokio::time::timeout(QUERY_TIMEOUT, self.ask()).await {
            Ok(Ok(state)) => Ok(state),
            Ok(Err(error)) if is_passing(&error) => {
                self.client = None;
                Ok(ServerState::Starting)
            }
            Ok(Err(error)) => Err(RestoreError::sql("ask the restored server for its state")(error)),
            Err(_) => {
                self.client = None;
                Ok(ServerState::Starting)
            }
        }
    }

    /// Ends recovery where it stands (paused at the target, say) and waits until the server is open for writes.
    ///
    /// # Errors
    /// [`RestoreError::Timeout`], [`RestoreError::ServerEnded`], [`RestoreError::Sql`].
    pub async fn promote(&mut self, timeout: Duration) -> Result<(), RestoreError> {
        const OPERATION: &str = "promote the restored server";
        let client = self.connected().await.map_err(RestoreError::sql(OPERATION))?;
        client
            .query_one("SELECT pg_promote(false)", &[])
            .await
            .map_err(RestoreError::sql(OPERATION))?;
        let promoted = async {
            loop {
                match self.state().await? {
                    ServerState::Promoted(_) => return Ok(()),
                    ServerState::Ended(status) => return Err(self.ended(status)),
                    ServerState::Starting | ServerState::Recovering(_) => {
                        tokio::time::sleep(POLL_INTERVAL).await;
                    }
                }
            }
        };
        match tokio::time::timeout(timeout, promoted).await {
            Ok(result) => result,
            Err(_) => Err(self.timeout(OPERATION, timeout)),
        }
    }

    /// Shuts the server down ("fast": sessions are ended, data is checkpointed) and waits for its end.
    ///
    /// # Errors
    /// [`RestoreError::Timeout`], after which the server is still going down; [`RestoreError::ServerEnded`] when it
    /// ended in another way than asked.
    pub async fn shut_down(mut self, timeout: Duration) -> Result<(), RestoreError> {
        const OPERATION: &str = "shut the restored server down";
        self.client = None;
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        signal(&child, Signal::INT);
        match tokio::time::timeout(timeout, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.ended(status)),
            Ok(Err(error)) => Err(RestoreError::io(
                "wait for",
                &self.launch.programs.program("postgres"),
            )(error)),
            Err(_) => Err(self.timeout(OPERATION, timeout)),
        }
    }

    /// Leaves the server running and says where it is.
    pub fn leave_running(mut self) -> LeftRunning {
        let pid = self.child.take().and_then(|child| child.id()).unwrap_or_default();
        LeftRunning {
            pid,
            socket_directory: self.launch.config.directory.clone(),
            port: self.launch.config.port,
            log_file: self.launch.config.log_file(),
        }
    }

    /// The process id, while the server runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// A connection of its own to the server, for checks; `None` for `database` means the launch's.
    ///
    /// # Errors
    /// [`RestoreError::Sql`].
    pub async fn connect(&self, database: Option<&str>) -> Result<Client, RestoreError> {
        self.open(database)
            .await
            .map_err(RestoreError::sql("connect to the restored server"))
    }

    fn exit_status(&mut self) -> Result<Option<ExitStatus>, RestoreError> {
        let program = self.launch.programs.program("postgres");
        match &mut self.child {
            Some(child) => child.try_wait().map_err(RestoreError::io("wait for", &program)),
            None => Ok(None),
        }
    }

    async fn ask(&mut self) -> Result<ServerState, tokio_postgres::Error> {
        // pg_is_wal_replay_paused was replaced by a function that tells a request from the fact; both refuse to answer
        // after a promotion.
        let paused = if self.launch.programs.version.major() >= 14 {
            "pg_get_wal_replay_pause_state() = 'paused'"
        } else {
            "pg_is_wal_replay_paused()"
        };
        let statement = format!(
            "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text,
                    (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint,
                    CASE WHEN pg_is_in_recovery() THEN {paused} ELSE false END"
        );
        let client = self.connected().await?;
        let row = client.query_one(&statement, &[]).await?;
        let progress = ReplayProgress {
            replayed: row
                .try_get::<_, Option<String>>(1)?
                .and_then(|lsn| lsn.parse().ok()),
            last_commit: row.try_get::<_, Option<i64>>(2)?.map(Timestamp),
            paused: row.try_get(3)?,
        };
        let in_recovery: bool = row.try_get(0)?;
        Ok(if in_recovery {
            ServerState::Recovering(progress)
        } else {
            ServerState::Promoted(progress)
        })
    }

    async fn connected(&mut self) -> Result<&Client, tokio_postgres::Error> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.open(None).await?,
        };
        Ok(self.client.insert(client))
    }

    async fn open(&self, database: Option<&str>) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(&self.launch.config.directory)
            .port(self.launch.config.port)
            .user(&self.launch.user)
            .dbname(database.unwrap_or(&self.launch.database))
            .application_name("tidemark-restore")
            .connect(NoTls)
            .await?;
        // Ends with the client: it owns nothing else.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the restored server ended");
            }
        });
        Ok(client)
    }

    fn ended(&self, status: ExitStatus) -> RestoreError {
        let log = self.launch.config.log_file();
        RestoreError::ServerEnded {
            status: status.to_string(),
            log_tail: log_tail(&log),
            log,
        }
    }

    fn timeout(&self, operation: &'static str, after: Duration) -> RestoreError {
        RestoreError::Timeout {
            operation,
            after,
            log: self.launch.config.log_file(),
        }
    }
}

impl Drop for RestoredServer {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            signal(child, Signal::INT);
        }
    }
}

/// Whether an error says "not yet" or "not any more" and not "never": no socket yet, starting up, going down, or the
/// question crossed a promotion.
fn is_passing(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        None => true,
        Some(code) => [
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        ]
        .contains(code),
    }
}

/// The child has not been waited for to its end, so its process id is still its own.
fn signal(child: &Child, signal: Signal) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = rustix::process::kill_process(pid, signal)
    {
        tracing::warn!(%error, "could not signal the restored server");
    }
}

/// The private directory: only the server's user may enter it.
fn prepare_directory(data_directory: &Path, directory: &Path) -> Result<(), RestoreError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .and_then(|()| give_to_owner(data_directory, directory))
        .map_err(RestoreError::io("make", directory))
}

/// The last lines of the log, as far as it can be read.
fn log_tail(log: &Path) -> String {
    let text = std::fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(LOG_TAIL_LINES)..)
        .unwrap_or_default()
        .join("\n")
}
