//! Runs `mariadb-backup` on the database's host, and hands on what it streams.
//!
//! The program reads the data files itself and asks the server, over SQL, to hold still where it must. It is told who it is
//! by an option file that only we can read: what stands among a process's arguments is everybody's to see. Whether a backup
//! came about is judged by three things: its exit code, the line it says at its end, and a stream that has an end.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{BaseBackupError, FileEvent, LogState, XbstreamReader};
use crate::client::{ConnectOptions, Host, SslMode};
use crate::gtid::MariaDbPosition;

/// What the program is called, its newer name first.
const NAMES: [&str; 2] = ["mariadb-backup", "mariabackup"];
/// Where packages put it, beside the environment's PATH.
const DIRECTORIES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/local/mysql/bin"];
/// What it says when it succeeded, and only then.
const SUCCESS: &str = "completed OK!";
/// Lines of its messages that are kept for an error …
const LINES_KEPT: usize = 20;
/// … and the longest of them, in bytes.
const LINE_LEN_MAX: usize = 2000;
/// What it says when it holds a lock that writers wait for, in BLOCK_DDL and BLOCK_COMMIT, …
const LOCKED: &str = "BACKUP STAGE BLOCK_";
/// … and when it has let go.
const UNLOCKED: &str = "All tables unlocked";
/// How long it may hold the lock while nobody takes what it streams …
const LOCKED_PATIENCE: Duration = Duration::from_secs(20);
/// … and how often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How much of the stream is read at once: what a pipe holds.
const READ_LEN: usize = 64 << 10;
/// Such reads that wait to be taken.
const CHUNKS_WAITING: usize = 32;

/// The file in which the program tells the position of the backup: the name of versions from 11.0 on, and the older one.
pub const BINLOG_INFO_FILES: [&str; 2] = ["mariadb_backup_binlog_info", "xtrabackup_binlog_info"];

/// Reads the position of a backup from the file that tells it, among `files`: name, offset and GTIDs, apart by tabs.
///
/// # Errors
/// [`BaseBackupError::Info`] when there is none, or it makes no sense.
pub fn read_binlog_info(files: &HashMap<String, Vec<u8>>) -> Result<LogState, BaseBackupError> {
    let found = BINLOG_INFO_FILES
        .iter()
        .find_map(|name| Some((*name, files.get(*name)?)));
    let [name, _] = BINLOG_INFO_FILES;
    let (name, bytes) = found.ok_or_else(|| BaseBackupError::Info {
        name,
        problem: "it is missing".to_owned(),
    })?;
    let text = String::from_utf8_lossy(bytes);
    let problem = || BaseBackupError::Info {
        name,
        problem: format!("it says \"{}\"", text.trim()),
    };
    let mut fields = text.trim_end().split('\t');
    let (file, offset) = fields.next().zip(fields.next()).ok_or_else(problem)?;
    let gtids: MariaDbPosition = fields.next().unwrap_or_default().parse().map_err(|_| problem())?;
    Ok(LogState {
        file: file.to_owned(),
        offset: offset.parse().map_err(|_| problem())?,
        gtid_executed: None,
        gtid_binlog_pos: Some(gtids.to_string()),
        gtid_binlog_state: None,
        gtid_slave_pos: None,
    })
}

/// A `mariadb-backup` that is installed on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupProgram {
    /// Where it is.
    pub path: PathBuf,
    /// Its version, such as `10.11.18-MariaDB`.
    pub version: String,
}

impl BackupProgram {
    /// Finds it: `named` and nothing else if that is given, else on `search_path` (the environment's PATH) and where packages
    /// install it. `None` when there is none.
    ///
    /// # Errors
    /// [`BaseBackupError::Program`] for one that is named, or found, and does not tell its version.
    pub async fn find(
        named: Option<&Path>,
        search_path: Option<&OsStr>,
    ) -> Result<Option<BackupProgram>, BaseBackupError> {
        let found = match named {
            Some(path) => Some(path.to_owned()),
            None => candidates(search_path).find(|path| path.is_file()),
        };
        let Some(path) = found else { return Ok(None) };
        let version = version_of(&path).await?;
        Ok(Some(BackupProgram { path, version }))
    }

    /// Makes sure that it is made for a server of `version`: it knows the redo log of its own series only.
    ///
    /// # Errors
    /// [`BaseBackupError::ProgramVersion`].
    pub fn check_series(&self, version: &str) -> Result<(), BaseBackupError> {
        if series(&self.version) == series(version) {
            return Ok(());
        }
        Err(BaseBackupError::ProgramVersion {
            path: self.path.clone(),
            found: self.version.clone(),
            server: version.to_owned(),
        })
    }
}

fn candidates(search_path: Option<&OsStr>) -> impl Iterator<Item = PathBuf> {
    let searched: Vec<PathBuf> = search_path
        .map(|path| std::env::split_paths(path).collect())
        .unwrap_or_default();
    let directories = searched.into_iter().chain(DIRECTORIES.map(PathBuf::from));
    directories.flat_map(|directory| NAMES.map(|name| directory.join(name)))
}

/// "… based on MariaDB server 10.11.18-MariaDB debian-linux-gnu (x86_64)", on one of its outputs.
async fn version_of(path: &Path) -> Result<String, BaseBackupError> {
    let problem = |problem: String| BaseBackupError::Program {
        path: path.to_owned(),
        problem,
    };
    let output = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .await;
    let output = output.map_err(|error| problem(error.to_string()))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let version = text
        .split_once("based on MariaDB server ")
        .and_then(|(_, rest)| rest.split_whitespace().next());
    version
        .map(str::to_owned)
        .ok_or_else(|| problem(format!("it does not tell its version: \"{}\"", text.trim())))
}

/// The first two numbers of a version.
fn series(version: &str) -> Vec<&str> {
    version.split(['.', '-']).take(2).collect()
}

/// What a backup is to be taken of.
#[derive(Debug, Clone)]
pub struct ProgramOptions<'a> {
    /// How to reach the server. A program takes one host.
    pub connection: &'a ConnectOptions,
    /// The host of `connection` that serves.
    pub host: &'a Host,
    /// The server's data directory.
    pub data_directory: &'a Path,
    /// Files that are read at once.
    pub threads: usize,
}

/// A backup that runs. Killed when it is dropped; the server then takes its locks back.
#[derive(Debug)]
pub struct ProgramRun {
    path: PathBuf,
    child: Child,
    chunks: mpsc::Receiver<Bytes>,
    /// Reads the stream; `None` when that has ended.
    pump: Option<JoinHandle<Result<(), BaseBackupError>>>,
    messages: JoinHandle<Messages>,
    stream: XbstreamReader,
    /// Files that are passing and not handed on.
    passing: HashSet<u64>,
    left_out: Vec<String>,
    /// Holds a password. The program reads it at its start; it goes when the first bytes come.
    option_file: Option<NamedTempFile>,
}

impl ProgramRun {
    /// Starts the program.
    ///
    /// # Errors
    /// [`BaseBackupError::Program`] when it cannot be started.
    pub fn start(
        program: &BackupProgram,
        options: &ProgramOptions<'_>,
    ) -> Result<ProgramRun, BaseBackupError> {
        let problem = |error: std::io::Error| BaseBackupError::Program {
            path: program.path.clone(),
            problem: error.to_string(),
        };
        let mut option_file = NamedTempFile::new().map_err(problem)?;
        option_file
            .write_all(option_text(options).as_bytes())
            .map_err(problem)?;
        let mut defaults = std::ffi::OsString::from("--defaults-file=");
        defaults.push(option_file.path());
        let mut child = Command::new(&program.path)
            .arg(defaults)
            .args(["--backup", "--stream=xbstream"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(problem)?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            unreachable!("both are pipes")
        };
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
        let holds_lock = Arc::new(AtomicBool::new(false));
        let pump = pump(program.path.clone(), stdout, sender, Arc::clone(&holds_lock));
        Ok(ProgramRun {
            path: program.path.clone(),
            child,
            chunks,
            pump: Some(tokio::spawn(pump)),
            messages: tokio::spawn(Messages::read(stderr, holds_lock)),
            stream: XbstreamReader::new(),
            passing: HashSet::new(),
            left_out: Vec::new(),
            option_file: Some(option_file),
        })
    }

    /// The next event; `None` when the backup is complete. May be dropped at any time: nothing is lost.
    ///
    /// # Errors
    /// [`BaseBackupError::Stream`] for a stream that makes no sense; [`BaseBackupError::ProgramFailed`] when the program
    /// failed. Nothing of the backup may be kept then.
    pub async fn next(&mut self) -> Result<Option<FileEvent>, BaseBackupError> {
        loop {
            if let Some(event) = self.stream.poll()? {
                if self.is_handed_on(&event) {
                    return Ok(Some(event));
                }
                continue;
            }
            if let Some(bytes) = self.chunks.recv().await {
                self.option_file = None;
                self.stream.feed(bytes);
                continue;
            }
            if self.pump.is_none() {
                return Ok(None);
            }
            self.finish().await?;
            self.pump = None;
        }
    }

    /// An `.isl` file says where a table lies that was made outside the data directory. Its copy lies inside; a server that
    /// is started on the copy must not be led to the original.
    fn is_handed_on(&mut self, event: &FileEvent) -> bool {
        match event {
            FileEvent::Begin { file, path, .. } if path.ends_with(".isl") => {
                self.left_out.push(path.to_string());
                self.passing.insert(*file);
                false
            }
            FileEvent::Data { file, .. } => !self.passing.contains(file),
            FileEvent::End { file } => !self.passing.remove(file),
            _ => true,
        }
    }

    /// Files that are no part of the backup although the program streamed them.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// The stream is over: judges what it was.
    async fn finish(&mut self) -> Result<(), BaseBackupError> {
        if let Some(pump) = &mut self.pump {
            let pumped = pump.await;
            pumped.map_err(|error| self.problem(error.to_string()))??;
        }
        let status = self.child.wait().await;
        let status = status.map_err(|error| self.problem(error.to_string()))?;
        let messages = (&mut self.messages).await;
        let messages = messages.map_err(|error| self.problem(error.to_string()))?;
        if !status.success() || !messages.says_success {
            return Err(BaseBackupError::ProgramFailed {
                path: self.path.clone(),
                status: status.to_string(),
                messages: messages.telling(),
            });
        }
        Ok(self.stream.finish()?)
    }

    fn problem(&self, problem: String) -> BaseBackupError {
        BaseBackupError::Program {
            path: self.path.clone(),
            problem,
        }
    }
}

/// Reads the stream ahead of whoever takes it. While the program holds the server's lock it must not wait for long: a store
/// that is down must not stop the database. When nobody takes anything the stream is closed, and the program ends by that.
async fn pump(
    path: PathBuf,
    mut stdout: ChildStdout,
    chunks: mpsc::Sender<Bytes>,
    holds_lock: Arc<AtomicBool>,
) -> Result<(), BaseBackupError> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_LEN);
        let read = stdout.read_buf(&mut buffer).await;
        let read = read.map_err(|error| BaseBackupError::Program {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        if read == 0 {
            return Ok(());
        }
        let mut held = Duration::ZERO;
        let permit = loop {
            match timeout(LOOK_EVERY, chunks.reserve()).await {
                Ok(Ok(permit)) => break permit,
                // The backup was given up.
                Ok(Err(_)) => return Ok(()),
                Err(_) if holds_lock.load(Ordering::Relaxed) => held += LOOK_EVERY,
                Err(_) => held = Duration::ZERO,
            }
            if held >= LOCKED_PATIENCE {
                let seconds = LOCKED_PATIENCE.as_secs();
                return Err(BaseBackupError::LockTooLong { seconds });
            }
        };
        permit.send(buffer.split().freeze());
    }
}

/// What the program said.
#[derive(Debug, Default)]
struct Messages {
    last: VecDeque<String>,
    says_success: bool,
}

impl Messages {
    /// Also finds out whether the program holds a lock that others wait for: it tells each stage (`BACKUP STAGE` in MariaDB's
    /// manual), and when it lets go.
    async fn read(stderr: ChildStderr, holds_lock: Arc<AtomicBool>) -> Messages {
        let mut messages = Messages::default();
        let mut lines = BufReader::new(stderr).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let line = line.get(..LINE_LEN_MAX).unwrap_or(&line);
            let line = String::from_utf8_lossy(line).trim_end().to_owned();
            tracing::debug!(line, "mariadb-backup");
            messages.says_success |= line.ends_with(SUCCESS);
            if line.contains(LOCKED) {
                holds_lock.store(true, Ordering::Relaxed);
            } else if line.ends_with(UNLOCKED) {
                holds_lock.store(false, Ordering::Relaxed);
            }
            messages.last.push_back(line);
            if messages.last.len() > LINES_KEPT {
                messages.last.pop_front();
            }
        }
        messages
    }

    /// The lines that tell of an error, or the last ones when none says so of itself.
    fn telling(&self) -> String {
        let is_error = |line: &&String| line.to_ascii_lowercase().contains("error");
        let mut telling: Vec<&str> = self.last.iter().filter(is_error).map(String::as_str).collect();
        if telling.is_empty() {
            telling = self.last.iter().rev().take(3).map(String::as_str).collect();
            telling.reverse();
        }
        telling.join("; ")
    }
}

/// What the program is told.
fn option_text(options: &ProgramOptions<'_>) -> String {
    let mut text = String::from("[mariadb-backup]\n");
    let mut set = |key: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key}={}", quoted(value));
    };
    match options.host {
        Host::Socket(path) => {
            set("socket", &path.to_string_lossy());
            // From 11.4 on the client wants TLS everywhere.
            set("skip-ssl", "1");
        }
        Host::Tcp { name, port } => {
            set("host", name);
            set("port", &port.to_string());
            set("protocol", "tcp");
        }
    }
    set("user", &options.connection.user);
    if let Some(password) = &options.connection.password {
        set("password", password.expose());
    }
    let tls = &options.connection.tls;
    if matches!(options.host, Host::Tcp { .. }) {
        match tls.mode {
            SslMode::Disabled => set("skip-ssl", "1"),
            SslMode::Preferred => set("skip-ssl-verify-server-cert", "1"),
            SslMode::Required => {
                set("ssl", "1");
                set("skip-ssl-verify-server-cert", "1");
            }
            SslMode::VerifyCa | SslMode::VerifyIdentity => set("ssl-verify-server-cert", "1"),
        }
        if let Some(ca) = &tls.ca {
            set("ssl-ca", &ca.to_string_lossy());
        }
        if let Some(client) = &tls.client {
            set("ssl-cert", &client.certificate.to_string_lossy());
            set("ssl-key", &client.key.to_string_lossy());
        }
    }
    set("datadir", &options.data_directory.to_string_lossy());
    set("parallel", &options.threads.to_string());
    text
}

/// A value as option files have it: in double quotes, with the escapes of their manual page.
fn quoted(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in value.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
