//! The restored server as a child process: started on the laid-down data, asked over its socket, stopped or left running.
//!
//! Nobody knows the original's passwords, and without its grant tables a server refuses to apply GRANT and CREATE USER. So the
//! server makes an account of ours when it starts, from a file of its own user (`init_file`), with a password that is new each
//! time. Without a binlog this leaves no trace in GTIDs. It is removed when the server is left to others, and by the next
//! start after a crash.
//!
//! The server gets a process group of its own, so that an interrupt typed at the restore does not reach it. What it did is
//! learnt from SQL and from its exit, never from its log's wording.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tidemark_types::Secret;
use tokio::process::{Child, Command};

use super::RestoreError;
use super::options::{PrivateOptions, Purpose};
use super::owner::ServerUser;
use super::program::ServerProgram;
use crate::binlog::Flavor;
use crate::client::{ConnectOptions, Sql};
use crate::error::MysqlError;

/// Our account in the restored server.
const ACCOUNT: &str = "'tidemark-restore'@'localhost'";
const ACCOUNT_NAME: &str = "tidemark-restore";
/// How long the process of a server may outlive its connections.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a starting server is tried.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long one statement may take: flushing a large buffer pool's log, or waiting for workers.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(600);
/// How long an orderly stop may take: all that is dirty in the buffer pool is written.
const STOP_TIMEOUT: Duration = Duration::from_secs(3600);
/// Lines of the log that go into an error.
const LOG_TAIL_LINES: usize = 20;

/// What to start.
#[derive(Debug, Clone)]
pub struct ServerLaunch {
    /// The program.
    pub program: ServerProgram,
    /// The restored data directory. The server runs as its owner.
    pub data_directory: PathBuf,
    /// How to run it.
    pub options: PrivateOptions,
}

/// A server that goes on after us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftRunning {
    /// Its process id.
    pub pid: u32,
    /// Its socket.
    pub socket: PathBuf,
    /// Its log file.
    pub log_file: PathBuf,
}

/// A running server. Dropping it stops it in order (without waiting), so that a failed restore leaves none behind.
pub(super) struct PrivateServer {
    launch: ServerLaunch,
    /// `None` when it was stopped or left to others.
    child: Option<Child>,
    sql: Sql,
    connect: ConnectOptions,
}

impl PrivateServer {
    /// Makes the private directory, starts the server and waits until it answers. However long: a server may have to recover,
    /// and ends by itself when it cannot.
    ///
    /// # Errors
    /// [`RestoreError::OwnedByRoot`], [`RestoreError::Io`], [`RestoreError::Setting`], [`RestoreError::ServerEnded`],
    /// [`RestoreError::Sql`].
    pub(super) async fn start(launch: ServerLaunch, purpose: Purpose) -> Result<PrivateServer, RestoreError> {
        let user = write_options(&launch, purpose)?;
        let options = &launch.options;
        let password = new_password()?;
        let statements = account_statements(launch.program.flavor, purpose, &password);
        user.write(&options.init_file(), statements.as_bytes())?;
        let mut child = spawn(&launch, user)?;
        let connect = ConnectOptions::socket(options.socket(), ACCOUNT_NAME).with_password(password);
        let answered = wait_for_answer(&launch, &mut child, &connect).await;
        let sql = match answered {
            Ok(sql) => sql,
            Err(error) => {
                signal(&child, Signal::TERM);
                // However it ends: the error says more.
                let _ = tokio::time::timeout(STOP_TIMEOUT, child.wait()).await;
                return Err(error);
            }
        };
        // It holds a password, and has been read.
        let init_file = options.init_file();
        std::fs::remove_file(&init_file).map_err(RestoreError::io("remove", &init_file))?;
        Ok(PrivateServer {
            launch,
            child: Some(child),
            sql,
            connect,
        })
    }

    /// What it was started with.
    pub(super) fn launch(&self) -> &ServerLaunch {
        &self.launch
    }

    /// Whose server it is.
    pub(super) fn flavor(&self) -> Flavor {
        self.launch.program.flavor
    }

    /// The connection to it. When that fails, [`PrivateServer::explain`] says why.
    pub(super) fn sql(&mut self) -> &mut Sql {
        &mut self.sql
    }

    /// Another connection to it.
    pub(super) async fn connect(&self) -> Result<Sql, MysqlError> {
        Ok(Sql::connect(&self.connect).await?.with_timeout(STATEMENT_TIMEOUT))
    }

    /// Turns the failure of a statement into what is behind it: a server that ended says more than a lost connection.
    pub(super) async fn explain(&mut self, error: RestoreError) -> RestoreError {
        if !matches!(&error, RestoreError::Sql(sql) if sql.server_error().is_none()) {
            return error;
        }
        let Some(child) = &mut self.child else {
            return error;
        };
        // The connection is lost a moment before the process is gone.
        match tokio::time::timeout(END_TIMEOUT, child.wait()).await {
            Ok(Ok(status)) => ended(&self.launch, status),
            Ok(Err(_)) | Err(_) => error,
        }
    }

    /// Stops it in order and waits for its end.
    ///
    /// # Errors
    /// [`RestoreError::Timeout`], after which it still goes down; [`RestoreError::ServerEnded`] when it ended otherwise.
    pub(super) async fn stop(mut self) -> Result<(), RestoreError> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        signal(&child, Signal::TERM);
        match tokio::time::timeout(STOP_TIMEOUT, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(ended(&self.launch, status)),
            Ok(Err(error)) => Err(RestoreError::io("wait for", &self.launch.program.path)(error)),
            Err(_) => Err(RestoreError::Timeout {
                operation: "stop the restored server",
                after: STOP_TIMEOUT,
                log: self.launch.options.log_file(),
            }),
        }
    }

    /// Removes our account. What was granted to the connection stays with it.
    pub(super) async fn remove_account(&mut self) -> Result<(), RestoreError> {
        const OPERATION: &str = "remove the account of the restore";
        let is_read_only = self.launch.options.is_read_only;
        if self.flavor() == Flavor::MySql && is_read_only {
            self.sql
                .execute(OPERATION, "SET GLOBAL super_read_only = OFF")
                .await?;
        }
        self.sql
            .execute(OPERATION, &format!("DROP USER IF EXISTS {ACCOUNT}"))
            .await?;
        if self.flavor() == Flavor::MySql && is_read_only {
            self.sql
                .execute(OPERATION, "SET GLOBAL super_read_only = ON")
                .await?;
        }
        Ok(())
    }

    /// Leaves the server running and says where it is.
    pub(super) fn leave_running(mut self) -> LeftRunning {
        LeftRunning {
            pid: self.child.take().and_then(|child| child.id()).unwrap_or_default(),
            socket: self.launch.options.socket(),
            log_file: self.launch.options.log_file(),
        }
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            signal(child, Signal::TERM);
        }
    }
}

/// Makes the private directory and writes the option file.
fn write_options(launch: &ServerLaunch, purpose: Purpose) -> Result<ServerUser, RestoreError> {
    let user = ServerUser::of(&launch.data_directory)?;
    let options = &launch.options;
    for directory in [
        &options.directory,
        &options.temporary_directory(),
        &options.relay_directory(),
    ] {
        user.make_directory(directory)?;
    }
    let text = options.text(&launch.program, &launch.data_directory, purpose)?;
    user.write(&options.option_file(), text.as_bytes())?;
    Ok(user)
}

/// Makes a new server in the data directory, which is there and empty: its system tables, and a root without a password, who
/// comes by the socket only.
///
/// # Errors
/// [`RestoreError::NoServer`] when a program is not there; [`RestoreError::ServerEnded`] when it failed.
pub(super) async fn initialise(launch: &ServerLaunch) -> Result<(), RestoreError> {
    let user = write_options(launch, Purpose::Initialise)?;
    let program = &launch.program;
    let mut command = match program.flavor {
        Flavor::MySql => {
            let mut command = Command::new(&program.path);
            command
                .arg(defaults_argument(&launch.options))
                .arg("--initialize-insecure");
            command
        }
        Flavor::MariaDb => {
            let mut command = Command::new(program.sibling("mariadb-install-db"));
            command
                .arg(defaults_argument(&launch.options))
                .arg(format!("--datadir={}", launch.data_directory.display()))
                .args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
            if let Some(base) = program.base() {
                command.arg(format!("--basedir={}", base.display()));
            }
            command
        }
    };
    let status = in_private(&mut command, launch, user)?
        .status()
        .await
        .map_err(|error| RestoreError::NoServer {
            path: command.as_std().get_program().into(),
            problem: error.to_string(),
        })?;
    if status.success() {
        return Ok(());
    }
    Err(ended(launch, status))
}

/// `command` as the server's user, its output in the server's log.
fn in_private<'c>(
    command: &'c mut Command,
    launch: &ServerLaunch,
    user: ServerUser,
) -> Result<&'c mut Command, RestoreError> {
    let log_path = launch.options.log_file();
    user.create_if_absent(&log_path)?;
    let log = || {
        std::fs::File::options()
            .append(true)
            .open(&log_path)
            .map_err(RestoreError::io("open", &log_path))
    };
    command
        // The directory we were started in may be closed to the server's user.
        .current_dir(&launch.data_directory)
        .stdin(Stdio::null())
        .stdout(log()?)
        .stderr(log()?)
        .process_group(0);
    if let Some((user_id, group_id)) = user.ids() {
        command.uid(user_id).gid(group_id);
    }
    Ok(command)
}

/// Ends the server that an earlier restore left in the same private directory, if one is still there: its restore was killed,
/// or it was left running. Stops it in order.
///
/// # Errors
/// [`RestoreError::Timeout`].
pub(super) async fn end_earlier(options: &PrivateOptions) -> Result<(), RestoreError> {
    let Some(pid) = earlier(options) else {
        return Ok(());
    };
    tracing::info!(
        pid = pid.as_raw_nonzero().get(),
        "ending the server of an earlier restore"
    );
    if let Err(error) = rustix::process::kill_process(pid, Signal::TERM) {
        tracing::warn!(%error, "could not signal the server of an earlier restore");
    }
    let gone = async {
        while earlier(options).is_some() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    tokio::time::timeout(STOP_TIMEOUT, gone)
        .await
        .map_err(|_| RestoreError::Timeout {
            operation: "stop the server of an earlier restore",
            after: STOP_TIMEOUT,
            log: options.log_file(),
        })
}

/// The process that the pid file names, if it is a server that runs by our option file: numbers of processes are used again.
fn earlier(options: &PrivateOptions) -> Option<Pid> {
    let text = std::fs::read_to_string(options.pid_file()).ok()?;
    let pid: i32 = text.trim().parse().ok()?;
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let ours = defaults_argument(options);
    let is_ours = arguments
        .split(|byte| *byte == 0)
        .any(|argument| argument == ours.as_bytes());
    is_ours.then(|| Pid::from_raw(pid)).flatten()
}

fn defaults_argument(options: &PrivateOptions) -> String {
    format!("--defaults-file={}", options.option_file().display())
}

fn spawn(launch: &ServerLaunch, user: ServerUser) -> Result<Child, RestoreError> {
    let program = &launch.program.path;
    let mut command = Command::new(program);
    command.arg(defaults_argument(&launch.options));
    in_private(&mut command, launch, user)?
        .spawn()
        .map_err(RestoreError::io("start", program))
}

/// Tries to connect until the server lets us in, refuses us, or ends.
async fn wait_for_answer(
    launch: &ServerLaunch,
    child: &mut Child,
    connect: &ConnectOptions,
) -> Result<Sql, RestoreError> {
    loop {
        let status = child
            .try_wait()
            .map_err(RestoreError::io("wait for", &launch.program.path))?;
        if let Some(status) = status {
            return Err(ended(launch, status));
        }
        match Sql::connect(connect).await {
            Ok(sql) => return Ok(sql.with_timeout(STATEMENT_TIMEOUT)),
            Err(error) if is_passing(&error) => tokio::time::sleep(POLL_INTERVAL).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether a failure to connect says "not yet": there is no socket, or nobody behind it.
fn is_passing(error: &MysqlError) -> bool {
    match error {
        MysqlError::NoHost { attempts } => attempts.iter().all(is_passing),
        MysqlError::Connect { .. } | MysqlError::ConnectionLost { .. } | MysqlError::Timeout { .. } => true,
        _ => false,
    }
}

/// Statements of an `init_file`: one a line. The account is made anew, with a password of no meaning to anybody.
fn account_statements(flavor: Flavor, purpose: Purpose, password: &Secret) -> String {
    let password = password.expose();
    let identified = match flavor {
        Flavor::MySql => format!("IDENTIFIED WITH caching_sha2_password BY '{password}'"),
        Flavor::MariaDb => format!("IDENTIFIED VIA mysql_native_password USING PASSWORD('{password}')"),
    };
    let mut statements = format!(
        "DROP USER IF EXISTS {ACCOUNT};\nCREATE USER {ACCOUNT} {identified};\nGRANT ALL ON *.* TO {ACCOUNT} WITH GRANT \
         OPTION;\n"
    );
    if purpose == Purpose::Load {
        // A dump grants PROXY, which only those may who have it, whatever else they may.
        statements.push_str(
            "INSERT INTO mysql.proxies_priv (Host, User, Proxied_host, Proxied_user, With_grant, Grantor) \
             VALUES ('localhost', 'tidemark-restore', '', '', 1, '');\nFLUSH PRIVILEGES;\n",
        );
    }
    statements
}

/// 128 bits that nobody guesses, in a form that every password policy takes.
fn new_password() -> Result<Secret, RestoreError> {
    let mut bytes = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).map_err(|_| {
        RestoreError::Answer {
            operation: "make a password for the restored server",
            answer: "no random bytes from the operating system".to_owned(),
        }
    })?;
    let mut password = "Tm-".to_owned();
    for byte in bytes {
        password.push_str(&format!("{byte:02x}"));
    }
    Ok(Secret::new(password))
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

fn ended(launch: &ServerLaunch, status: ExitStatus) -> RestoreError {
    let log = launch.options.log_file();
    RestoreError::ServerEnded {
        status: status.to_string(),
        log_tail: log_tail(&log),
        log,
    }
}

/// The last lines of the log, as far as it can be read.
pub(super) fn log_tail(log: &Path) -> String {
    let text = std::fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(LOG_TAIL_LINES)..);
    tail.unwrap_or_default().join("\n")
}
