//! `tidemark-restore restore` of MySQL and MariaDB, and the servers that it leaves running.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::command::{Finished, run};
use crate::install::MysqlVersion;
use crate::mysql::MysqlClient;
use crate::scratch::Scratch;
use crate::tidemark::repository::TestRepository;
use crate::tidemark::restore::tidemark_restore;
use crate::wait::wait_for;

/// Long enough for a server that writes a full buffer pool on a busy machine.
const STOP_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs of `tidemark-restore restore --start` into one directory of their own.
#[derive(Debug)]
pub struct MysqlRestore<'r> {
    repository: &'r TestRepository,
    server: String,
    version: MysqlVersion,
    scratch: Scratch,
}

impl<'r> MysqlRestore<'r> {
    /// Of the server called `server`, by the program of `version`.
    pub fn new(repository: &'r TestRepository, server: &str, version: MysqlVersion) -> MysqlRestore<'r> {
        MysqlRestore {
            repository,
            server: server.to_owned(),
            version,
            scratch: Scratch::new("restore"),
        }
    }

    /// The data directory that it makes.
    pub fn data_directory(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// The command, with further arguments, such as `["--target-latest"]`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tidemark_restore(self.repository, "restore");
        command
            .args(["--server", &self.server, "--json", "--start", "--to"])
            .arg(self.data_directory())
            .arg("--mysqld")
            .arg(self.version.server_program())
            .args(arguments);
        command
    }

    /// Runs it to its end, whatever that is.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Finished {
        run(&mut self.command(arguments))
    }

    /// Runs it; the server that it leaves, with its report. Panics, with its outputs, when it fails.
    #[track_caller]
    pub fn start(&self, arguments: &[&str]) -> RestoredMysql<'_> {
        let finished = self.run(arguments);
        assert!(
            finished.status.success(),
            "{arguments:?}: {}\n{}{}\n{}",
            finished.status,
            finished.stdout,
            finished.stderr,
            self.server_log()
        );
        let report: Value = serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("{error} in the report:\n{}", finished.stdout));
        RestoredMysql {
            restore: self,
            report,
        }
    }

    /// What the server that it started has logged.
    fn server_log(&self) -> String {
        let path = self.scratch.path().join("data.tidemark/server/server.log");
        std::fs::read_to_string(path).unwrap_or_default()
    }
}

/// A server that `restore --start` has left. It is stopped on drop.
#[derive(Debug)]
pub struct RestoredMysql<'m> {
    /// Its files lie there.
    restore: &'m MysqlRestore<'m>,
    report: Value,
}

impl RestoredMysql<'_> {
    /// What the restore reported, as JSON.
    pub fn report(&self) -> &Value {
        &self.report
    }

    /// Runs SQL on it, as root. Panics when the restore left no server running.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.client()
            .expect("the restore left a server running")
            .query(sql)
    }

    /// Stops it in order, and waits for its end.
    #[track_caller]
    pub fn stop(self) {
        drop(self);
    }

    fn client(&self) -> Option<MysqlClient> {
        let socket = self.report["socket"].as_str()?;
        Some(MysqlClient::new(self.restore.version, Path::new(socket)))
    }
}

impl Drop for RestoredMysql<'_> {
    fn drop(&mut self) {
        let Some((client, pid)) = self.client().zip(self.report["pid"].as_u64()) else {
            return;
        };
        if client.try_query("SHUTDOWN").is_err() {
            return;
        }
        let stat = format!("/proc/{pid}/stat");
        // Nobody reaps it where its starter has ended: gone, or a zombie.
        let has_ended = || {
            let stat = std::fs::read_to_string(&stat).unwrap_or_default();
            let state = stat.rsplit(')').next().unwrap_or_default();
            state.trim_start().starts_with('Z') || state.is_empty()
        };
        if !std::thread::panicking() {
            wait_for("the restored server to end", STOP_TIMEOUT, has_ended);
        }
    }
}
