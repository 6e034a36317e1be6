//! `tidemark-restore`, and the servers that it leaves running.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::command::{Finished, run};
use crate::install::PgVersion;
use crate::psql::Psql;
use crate::scratch::Scratch;
use crate::tidemark::program::program;
use crate::tidemark::repository::TestRepository;
use crate::user::ServerUser;

/// The command `tidemark-restore VERB --repository URL`, run as the servers' user. See [`run`] to run it.
pub fn tidemark_restore(repository: &TestRepository, verb: &str) -> Command {
    let mut command = ServerUser::current().command(program("tidemark-restore"));
    command
        .args([verb, "--repository", repository.url()])
        .envs(repository.environment().iter().map(|(name, value)| (name, value)));
    command
}

/// A run of `tidemark-restore restore` into a directory of its own.
#[derive(Debug)]
pub struct Restore {
    version: PgVersion,
    command: Command,
    data: PathBuf,
    scratch: Scratch,
}

impl Restore {
    /// Describes one of the server called `server`, by the programs of `version`.
    pub fn new(repository: &TestRepository, server: &str, version: PgVersion) -> Restore {
        let scratch = Scratch::new("restore");
        let data = scratch.path().join("data");
        let mut command = tidemark_restore(repository, "restore");
        command
            .args(["--server", server, "--json"])
            .arg("--to")
            .arg(&data)
            .arg("--pg-bin")
            .arg(version.bin_dir());
        Restore {
            version,
            command,
            data,
            scratch,
        }
    }

    /// Further arguments, such as `["--target-name", "before-the-flood"]`.
    pub fn args<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Restore {
        self.command.args(arguments);
        self
    }

    /// A variable for its environment, and so for the server that it starts.
    pub fn env(mut self, name: &str, value: &str) -> Restore {
        self.command.env(name, value);
        self
    }

    /// The data directory that it makes.
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// A directory of its own beside the data directory, for tablespaces and the like.
    pub fn subdir(&self, name: &str) -> PathBuf {
        self.scratch.subdir(name)
    }

    /// Runs it to its end, without starting a server unless the arguments say so.
    #[track_caller]
    pub fn run(&mut self) -> Finished {
        run(&mut self.command)
    }

    /// Runs it with `--start`. Panics, with its outputs and the end of the server's log, when it fails.
    #[track_caller]
    pub fn start(self) -> RestoredServer {
        self.try_start().unwrap_or_else(|failed| {
            let (restore, finished) = *failed;
            panic!(
                "{:?}: {}\n{}{}\n{}",
                restore.command,
                finished.status,
                finished.stdout,
                finished.stderr,
                restore.server_log()
            )
        })
    }

    /// Runs it with `--start`; an error says how it ended.
    #[track_caller]
    pub fn try_start(mut self) -> Result<RestoredServer, Box<(Restore, Finished)>> {
        self.command.arg("--start");
        let finished = self.run();
        if !finished.status.success() {
            return Err(Box::new((self, finished)));
        }
        let report: Value = serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("{error} in the report:\n{}", finished.stdout));
        let text = |key: &str| report[key].as_str().map(PathBuf::from);
        let (socket, port) = (text("socket"), report["port"].as_u64());
        let client = socket.zip(port).map(|(socket, port)| {
            let port = u16::try_from(port).expect("a port is a number of 16 bits");
            Psql::new(self.version, &socket, port)
        });
        Ok(RestoredServer {
            version: self.version,
            data: self.data,
            client,
            report,
            _scratch: self.scratch,
        })
    }

    /// What the server that it started has logged, wherever that lies beside the data directory.
    fn server_log(&self) -> String {
        let mut state = self.data.clone().into_os_string();
        state.push(".tidemark");
        let logs = std::fs::read_dir(PathBuf::from(state)).into_iter().flatten();
        let logs = logs.filter_map(|entry| Some(entry.ok()?.path()));
        logs.filter(|path| path.to_string_lossy().ends_with("log"))
            .map(|path| std::fs::read_to_string(path).unwrap_or_default())
            .collect()
    }
}

/// A server that `restore --start` has made. It is stopped, and removed, on drop.
#[derive(Debug)]
pub struct RestoredServer {
    version: PgVersion,
    data: PathBuf,
    client: Option<Psql>,
    report: Value,
    /// Its files: they go after it was stopped.
    _scratch: Scratch,
}

impl RestoredServer {
    /// psql for its database `postgres`. Panics when the restore left no server running.
    #[track_caller]
    pub fn client(&self) -> &Psql {
        self.client.as_ref().expect("the restore left a server running")
    }

    /// Runs SQL on it; see [`Psql::query`].
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        self.client().query(sql)
    }

    /// What the restore reported, as JSON.
    pub fn report(&self) -> &Value {
        &self.report
    }

    /// Its data directory.
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// Checks it as an operator would: pg_amcheck over all databases, then, stopped, pg_checksums. Panics with what
    /// they found.
    #[track_caller]
    pub fn assert_sound(&self) {
        run(self
            .client()
            .tool("pg_amcheck")
            .args(["--all", "--install-missing", "--heapallindexed"]))
        .expect_success();
        self.stop();
        run(self
            .version
            .tool("pg_checksums")
            .arg("--check")
            .arg("-D")
            .arg(&self.data))
        .expect_success();
    }

    /// Stops it in fast mode, for checks of its files.
    #[track_caller]
    pub fn stop(&self) {
        run(&mut self.pg_ctl_stop("fast")).expect_success();
    }

    fn pg_ctl_stop(&self, mode: &str) -> Command {
        let mut command = self.version.tool("pg_ctl");
        command
            .arg("-D")
            .arg(&self.data)
            .args(["-w", "-s", "-m", mode, "stop"]);
        command
    }
}

impl Drop for RestoredServer {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            // Already stopped, or gone with its directory: nothing is left to end.
            let _ = self.pg_ctl_stop("immediate").output();
        }
    }
}
