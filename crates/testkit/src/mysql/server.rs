//! A running, stopped or killed server.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::daemon::{Daemon, Signal};
use crate::install::MysqlVersion;
use crate::mysql::builder::MysqlBuilder;
use crate::mysql::client::MysqlClient;
use crate::port::Port;
use crate::scratch::Scratch;
use crate::slot::DaemonSlot;
use crate::user::ServerUser;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// A MySQL or MariaDB server with a data directory, a binlog directory, a port and a socket of its own, run as `postgres`
/// when the tests run as root. It is killed, and all of it removed, on drop, also when a test panics.
#[derive(Debug)]
pub struct MysqlServer {
    version: MysqlVersion,
    port: Port,
    /// Before the scratch: a server is ended before its files go.
    process: DaemonSlot,
    scratch: Scratch,
}

impl MysqlServer {
    /// Describes a new server.
    pub fn builder(version: MysqlVersion) -> MysqlBuilder {
        MysqlBuilder::new(version)
    }

    /// Starts a new server as it is by default: row format, GTIDs.
    #[track_caller]
    pub fn start_new(version: MysqlVersion) -> MysqlServer {
        MysqlBuilder::new(version).start()
    }

    pub(super) fn new(version: MysqlVersion, scratch: Scratch, port: Port) -> MysqlServer {
        MysqlServer {
            version,
            port,
            process: DaemonSlot::default(),
            scratch,
        }
    }

    /// The version.
    pub fn version(&self) -> MysqlVersion {
        self.version
    }

    /// The data directory.
    pub fn data_directory(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// The directory of the binlog files, `bin.000001` and on, and of `bin.index`.
    pub fn binlog_directory(&self) -> PathBuf {
        self.scratch.path().join("binlog")
    }

    /// The binlog files that are there, oldest first.
    pub fn binlog_files(&self) -> Vec<PathBuf> {
        let number = |path: &Path| path.extension()?.to_str()?.parse::<u32>().ok();
        let mut files: Vec<PathBuf> = fs::read_dir(self.binlog_directory())
            .expect("list the binlog directory")
            .map(|entry| entry.expect("read the binlog directory").path())
            .filter(|path| number(path).is_some())
            .collect();
        files.sort_by_key(|path| number(path));
        files
    }

    /// Ends the binlog file in use and begins another.
    #[track_caller]
    pub fn rotate(&self) {
        self.sql("FLUSH BINARY LOGS");
    }

    /// The unix socket.
    pub fn socket(&self) -> PathBuf {
        self.scratch.path().join("sock")
    }

    /// The port on 127.0.0.1, the same at every start.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where it listens on TCP.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// A URL over TCP, for an account of [`MysqlBuilder::account`].
    pub fn url_as(&self, user: &str) -> String {
        format!("mysql://{user}@127.0.0.1:{}", self.port())
    }

    /// A URL over the unix socket, as root.
    pub fn root_url(&self) -> String {
        format!("mysql://root@localhost/?socket={}", self.socket().display())
    }

    /// Starts it and waits until it answers. Panics, with the end of its log, when it does not.
    #[track_caller]
    pub fn start(&self) {
        self.try_start(START_TIMEOUT)
            .unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Starts it and waits until it answers. An error, with the end of its log, says that it ended, or did not answer
    /// within `timeout` and has been killed.
    pub fn try_start(&self, timeout: Duration) -> Result<()> {
        self.launch();
        self.process
            .wait_until_ready(timeout, || self.is_ready(), Daemon::kill9, |_| self.log_tail())
    }

    /// Spawns the server without waiting for anything. Panics when it is running already.
    #[track_caller]
    pub fn launch(&self) {
        let mut command = ServerUser::current().command(self.version.server_program());
        command.arg(format!("--defaults-file={}", self.option_file().display()));
        let log = self.scratch.path().join("stdout");
        self.process.launch("mysqld", &mut command, &log);
    }

    /// The file of its options, for those that are to hold from its next start on.
    pub fn option_file(&self) -> PathBuf {
        self.scratch.path().join("my.cnf")
    }

    /// Whether it greets (packet header, then protocol version 10): it does so when it accepts connections.
    fn is_ready(&self) -> bool {
        let greet = || {
            let mut stream = UnixStream::connect(self.socket()).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
            let mut greeting = [0; 5];
            stream.read_exact(&mut greeting).ok()?;
            Some(greeting[4])
        };
        greet() == Some(10)
    }

    /// Whether it is running.
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Stops it in order and waits for its end. Panics when it does not end within a minute.
    #[track_caller]
    pub fn stop(&self) {
        let Some(daemon) = self.process.take() else {
            return;
        };
        daemon.signal(Signal::TERM);
        daemon.wait(STOP_TIMEOUT);
    }

    /// Stops it in order and starts it again.
    #[track_caller]
    pub fn restart(&self) {
        self.stop();
        self.start();
    }

    /// Kills it, as a crash would (but for what the kernel holds).
    pub fn kill9(&self) {
        if let Some(daemon) = self.process.take() {
            daemon.kill9();
        }
    }

    /// What the server has logged, over all of its starts.
    pub fn log_text(&self) -> String {
        let read = |name: &str| fs::read(self.scratch.path().join(name)).unwrap_or_default();
        let text = [read("stdout"), read("error.log")].concat();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The vendor's client, as root.
    pub fn client(&self) -> MysqlClient {
        MysqlClient::new(self.version, &self.socket())
    }

    /// Runs SQL; see [`MysqlClient::query`]. Panics with the server's message when it fails.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.client().query(sql)
    }

    /// Runs SQL; an error carries the server's message.
    pub fn try_sql(&self, sql: &str) -> Result<String> {
        self.client().try_query(sql)
    }

    /// A command for one of the vendor's programs, set to connect to this server as root. See [`crate::run`].
    pub fn tool(&self, program: &str) -> Command {
        self.client().tool(program)
    }

    /// The vendor's mysqlbinlog, for files: in UTC, with rows left out.
    pub fn mysqlbinlog(&self) -> Command {
        let mut command = self.version.tool("mysqlbinlog");
        command.args(["--no-defaults", "--base64-output=DECODE-ROWS"]);
        command
    }
}
