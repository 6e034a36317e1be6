//! A running, stopped or killed server.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::command::run;
use crate::daemon::{Daemon, Signal};
use crate::install::PgVersion;
use crate::port::Port;
use crate::postgres::builder::Builder;
use crate::postgres::crash;
use crate::psql::Psql;
use crate::scratch::Scratch;
use crate::slot::DaemonSlot;
use crate::user::ServerUser;
use crate::wait::holds_within;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// How a server is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for clients to leave.
    Smart,
    /// Ends sessions, writes a shutdown checkpoint.
    Fast,
    /// Ends without a checkpoint; the next start recovers.
    Immediate,
}

/// How the server is run at every start.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    pub(super) environment: Vec<(String, String)>,
    pub(super) checksums: bool,
}

impl Default for Launch {
    fn default() -> Launch {
        Launch {
            environment: Vec::new(),
            checksums: true,
        }
    }
}

/// A PostgreSQL server with a data directory, a port and a socket directory of its own, run as `postgres` when the
/// tests run as root. It is stopped, and all of it removed, on drop, also when a test panics.
#[derive(Debug)]
pub struct PostgresServer {
    version: PgVersion,
    data: PathBuf,
    sockets: PathBuf,
    port: Port,
    launch: Launch,
    /// Before the scratch: a server is ended before its files go.
    process: DaemonSlot,
    scratch: Scratch,
}

impl PostgresServer {
    /// Describes a new server.
    pub fn builder(version: PgVersion) -> Builder {
        Builder::new(version)
    }

    /// Starts a new server as it is by default: 16 MiB segments, data checksums, `wal_level = replica`.
    #[track_caller]
    pub fn start_new(version: PgVersion) -> PostgresServer {
        Builder::new(version).start()
    }

    /// Takes over a data directory that is already there, such as a restored one. Does not start it; the directory
    /// is left in place on drop.
    pub fn on_data_directory(version: PgVersion, data: &Path) -> PostgresServer {
        PostgresServer::new(version, Scratch::new("pg"), data.to_owned(), Launch::default())
    }

    pub(super) fn new(version: PgVersion, scratch: Scratch, data: PathBuf, launch: Launch) -> PostgresServer {
        let sockets = scratch.subdir("sock");
        PostgresServer {
            version,
            data,
            sockets,
            port: Port::reserve(),
            launch,
            process: DaemonSlot::default(),
            scratch,
        }
    }

    /// The same, with variables for its environment, at every start.
    pub fn with_environment(mut self, variables: &[(String, String)]) -> PostgresServer {
        self.launch.environment.extend_from_slice(variables);
        self
    }

    /// The major version.
    pub fn version(&self) -> PgVersion {
        self.version
    }

    /// The data directory.
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// The directory of its unix socket.
    pub fn socket_directory(&self) -> &Path {
        &self.sockets
    }

    /// The port, the same at every start, for the unix socket and on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where it listens on TCP.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// A URL over TCP, as superuser, of the database `postgres`.
    pub fn url(&self) -> String {
        self.url_as("postgres")
    }

    /// A URL over TCP, as `user`, of the database `postgres`.
    pub fn url_as(&self, user: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/postgres", self.port())
    }

    /// A URL over the unix socket, as superuser, of the database `postgres`.
    pub fn socket_url(&self) -> String {
        let directory = self.sockets.to_string_lossy().replace('/', "%2F");
        format!("postgresql://postgres@{directory}:{}/postgres", self.port())
    }

    /// A key-value connection string over TCP, as superuser, of the database `postgres`.
    pub fn conninfo(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres",
            self.port()
        )
    }

    /// Starts it and waits until it answers. Panics, with the end of its log, when it does not.
    #[track_caller]
    pub fn start(&self) {
        self.try_start(START_TIMEOUT)
            .unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Starts it and waits until it accepts connections (a standby: once it is consistent). An error, with the end of
    /// its log, says that it ended, or was still not ready after `timeout` and has been killed.
    pub fn try_start(&self, timeout: Duration) -> Result<()> {
        self.launch();
        self.process
            .wait_until_ready(timeout, || self.is_ready(), crash::kill_all, Daemon::log_tail)
    }

    /// Spawns the server without waiting for anything. Panics when it is running already.
    #[track_caller]
    pub fn launch(&self) {
        let mut command = self.postgres_command();
        let log = self.log_path();
        self.process.launch("postgres", &mut command, &log);
    }

    fn postgres_command(&self) -> Command {
        // The server itself and not pg_ctl: it stays our child, so that its end can be awaited.
        let mut command = self.version.tool("postgres");
        command
            .arg("-D")
            .arg(&self.data)
            .arg(format!("--port={}", self.port()))
            .arg(format!("--unix_socket_directories={}", self.sockets.display()))
            .arg("--listen_addresses=127.0.0.1")
            .envs(self.launch.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Whether the postmaster says that connections are accepted (the status line of its pid file, as pg_ctl reads it).
    fn is_ready(&self) -> bool {
        const PID_LINE: usize = 0;
        const STATUS_LINE: usize = 7;
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let pid = lines.get(PID_LINE).and_then(|line| line.parse().ok());
        let status = lines.get(STATUS_LINE).map(|line| line.trim());
        pid.is_some() && pid == self.pid() && matches!(status, Some("ready" | "standby"))
    }

    /// Whether its postmaster is running.
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// The postmaster's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Stops it and waits for its end. Panics when it does not end within a minute.
    #[track_caller]
    pub fn stop(&self, mode: StopMode) {
        let Some(daemon) = self.process.take() else {
            return;
        };
        daemon.signal(match mode {
            StopMode::Smart => Signal::TERM,
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        });
        daemon.wait(STOP_TIMEOUT);
    }

    /// Stops it in fast mode and starts it again.
    #[track_caller]
    pub fn restart(&self) {
        self.stop(StopMode::Fast);
        self.start();
    }

    /// Kills all of its processes at once, as a crash of the machine would (but for what the kernel holds).
    pub fn kill9(&self) {
        if let Some(daemon) = self.process.take() {
            crash::kill_all(&daemon);
        }
    }

    /// What the server has logged, over all of its starts.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// psql for its database `postgres`.
    pub fn client(&self) -> Psql {
        Psql::new(self.version, &self.sockets, self.port())
    }

    /// Runs SQL; see [`Psql::query`]. Panics with the server's message when it fails.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        self.client().query(sql)
    }

    /// Runs SQL; an error carries the server's message.
    pub fn try_psql(&self, sql: &str) -> Result<String> {
        self.client().try_query(sql)
    }

    /// A command for one of the version's programs, set to connect to this server. See [`run`] to run it.
    pub fn tool(&self, program: &str) -> Command {
        self.client().tool(program)
    }

    /// An order-independent digest of a table's rows; see [`Psql::digest`].
    #[track_caller]
    pub fn digest(&self, table: &str) -> String {
        self.client().digest(table)
    }

    /// Makes a tablespace in a directory of its own, which is returned.
    #[track_caller]
    pub fn create_tablespace(&self, name: &str) -> PathBuf {
        let location = self.scratch.subdir(&format!("tablespace-{name}"));
        self.psql(&format!(
            "CREATE TABLESPACE {name} LOCATION '{}'",
            location.display()
        ));
        location
    }

    /// Makes a standby of this running server with pg_basebackup, streaming from it, and starts it. It has no
    /// tablespaces of its own: panics when this server has any.
    #[track_caller]
    pub fn start_standby(&self) -> PostgresServer {
        let standby = self.create_standby();
        standby.start();
        standby
    }

    /// As [`PostgresServer::start_standby`], without starting it.
    #[track_caller]
    pub fn create_standby(&self) -> PostgresServer {
        self.refuse_tablespaces();
        let scratch = Scratch::new("pg");
        let data = scratch.path().join("data");
        let mut backup = self.version.tool("pg_basebackup");
        backup
            .arg("-D")
            .arg(&data)
            .args([
                "--dbname",
                &self.conninfo(),
                "--wal-method=stream",
                "--checkpoint=fast",
                "--no-sync",
            ])
            .arg("--write-recovery-conf");
        run(&mut backup).expect_success();
        PostgresServer::new(self.version, scratch, data, self.launch.clone())
    }

    /// A byte-for-byte copy of this stopped or killed server: a cloned disk. Not started. Panics while this server
    /// runs, or when it has tablespaces.
    #[track_caller]
    pub fn copy_files(&self) -> PostgresServer {
        assert!(!self.is_running(), "a running server's files cannot be copied");
        self.refuse_tablespaces();
        let scratch = Scratch::new("pg");
        let data = scratch.path().join("data");
        run(ServerUser::current()
            .command("cp")
            .arg("-a")
            .arg(&self.data)
            .arg(&data))
        .expect_success();
        // Left by a killed server; in the copy it would name a stranger's process.
        let _ = fs::remove_file(data.join("postmaster.pid"));
        PostgresServer::new(self.version, scratch, data, self.launch.clone())
    }

    /// Promotes a standby and waits until it accepts writes.
    #[track_caller]
    pub fn promote(&self) {
        assert_eq!(
            self.psql("SELECT pg_promote(true, 60)"),
            "t",
            "the standby was not promoted"
        );
    }

    #[track_caller]
    fn refuse_tablespaces(&self) {
        let mut links = fs::read_dir(self.data.join("pg_tblspc")).expect("read pg_tblspc");
        assert!(
            links.next().is_none(),
            "a server with tablespaces cannot be copied"
        );
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("log")
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let Some(daemon) = self.process.take() else {
            return;
        };
        // An immediate shutdown frees the server's shared memory, which SIGKILL would leave behind.
        if daemon.is_running() {
            daemon.signal(Signal::QUIT);
            if !holds_within(Duration::from_secs(5), || !daemon.is_running()) {
                crash::kill_all(&daemon);
            }
        }
    }
}
