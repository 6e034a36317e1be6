//! `tidemark-agent` beside a test's servers.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::command::{Finished, run};
use crate::daemon::Signal;
use crate::http::{HttpResponse, http_get};
use crate::install::MysqlVersion;
use crate::port::Port;
use crate::scratch::Scratch;
use crate::slot::DaemonSlot;
use crate::tidemark::metrics::Metrics;
use crate::tidemark::program::program;
use crate::tidemark::repository::TestRepository;
use crate::user::ServerUser;
use crate::wait::wait_for;

const START_TIMEOUT: Duration = Duration::from_secs(30);
/// What fills a small disk at first.
const BALLAST: &str = "ballast";
const SMALL_DISK_MIB: u32 = 256;

/// What an agent shall be told; see [`Agent::builder`].
#[derive(Debug)]
pub struct AgentBuilder {
    configuration: String,
    environment: Vec<(String, String)>,
    small_disk: Option<SmallDisk>,
    port: Port,
}

/// A file system of its own for a file repository, seen by one agent alone.
#[derive(Debug)]
struct SmallDisk {
    directory: PathBuf,
    mib: u32,
}

impl AgentBuilder {
    /// Adds a PostgreSQL server. `settings` are further lines of its section, `[server.base_backup]` and the like last.
    pub fn postgres(mut self, name: &str, url: &str, settings: &str) -> AgentBuilder {
        self.configuration.push_str(&format!(
            "[[server]]\nname = \"{name}\"\nengine = \"postgresql\"\nurl = \"{url}\"\n{settings}\n"
        ));
        self
    }

    /// Adds a MySQL or MariaDB server. `settings` as for [`AgentBuilder::postgres`].
    pub fn mysql(mut self, name: &str, version: MysqlVersion, url: &str, settings: &str) -> AgentBuilder {
        let engine = if version.is_mariadb() { "mariadb" } else { "mysql" };
        self.configuration.push_str(&format!(
            "[[server]]\nname = \"{name}\"\nengine = \"{engine}\"\nurl = \"{url}\"\n{settings}\n"
        ));
        self
    }

    /// A variable for the agent's environment.
    pub fn env(mut self, name: &str, value: &str) -> AgentBuilder {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives `run` a disk for the file repository, empty at each start, with room for `mib` MiB until
    /// [`Agent::free_small_disk`]. Others see what is on it only by [`Agent::copy_small_disk`].
    pub fn small_disk(mut self, repository: &TestRepository, mib: u32) -> AgentBuilder {
        let directory = repository.directory().to_owned();
        self.small_disk = Some(SmallDisk { directory, mib });
        self
    }

    /// Starts `tidemark-agent run` and waits until it answers over HTTP. Panics, with its log, when it does not.
    #[track_caller]
    pub fn start(self) -> Agent {
        let agent = self.create();
        agent.start();
        agent
    }

    /// Writes the configuration only.
    pub fn create(self) -> Agent {
        let scratch = Scratch::new("agent");
        let config = scratch.file("agent.toml", &self.configuration);
        Agent {
            config,
            environment: self.environment,
            small_disk: self.small_disk,
            port: self.port,
            process: DaemonSlot::default(),
            scratch,
        }
    }
}

/// An agent with a configuration of its own, run as the servers' user. It is killed on drop.
#[derive(Debug)]
pub struct Agent {
    config: PathBuf,
    environment: Vec<(String, String)>,
    small_disk: Option<SmallDisk>,
    port: Port,
    /// Before the scratch: the agent is ended before its files go.
    process: DaemonSlot,
    scratch: Scratch,
}

impl Agent {
    /// Describes an agent that writes to `repository`.
    pub fn builder(repository: &TestRepository) -> AgentBuilder {
        let port = Port::reserve();
        AgentBuilder {
            configuration: format!(
                "{}[http]\nlisten = \"{}\"\n",
                repository.section(),
                port.address()
            ),
            environment: repository.environment().to_vec(),
            small_disk: None,
            port,
        }
    }

    /// Its configuration file: tests may change it before the next start.
    pub fn config_path(&self) -> &PathBuf {
        &self.config
    }

    /// Starts `run` and waits until it answers over HTTP. Panics, with its log, when it does not.
    #[track_caller]
    pub fn start(&self) {
        self.launch();
        wait_for("the agent to answer over HTTP", START_TIMEOUT, || {
            assert!(
                self.is_running(),
                "the agent ended; its log:\n{}",
                self.log_text()
            );
            self.health().is_ok()
        });
    }

    /// Starts `run` without waiting for anything. Panics when it runs already.
    #[track_caller]
    pub fn launch(&self) {
        let mut command = match &self.small_disk {
            Some(disk) => disk.around(&self.command("run")),
            None => self.command("run"),
        };
        self.process
            .launch("tidemark-agent", &mut command, &self.log_path());
    }

    /// Whether `run` is running.
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// The process id of `run`, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Kills `run` with SIGKILL.
    pub fn kill9(&self) {
        if let Some(daemon) = self.process.take() {
            daemon.kill9();
        }
    }

    /// Sends SIGTERM to `run` and returns how it ended. Panics, with its log, when it still runs after `timeout`.
    #[track_caller]
    pub fn terminate(&self, timeout: Duration) -> ExitStatus {
        let daemon = self.process.take().expect("the agent was started");
        daemon.signal(Signal::TERM);
        daemon.wait(timeout)
    }

    /// Waits until `run` ends by itself. Panics, with its log, when it still runs after `timeout`.
    #[track_caller]
    pub fn wait(&self, timeout: Duration) -> ExitStatus {
        let daemon = self.process.take().expect("the agent was started");
        daemon.wait(timeout)
    }

    /// Runs another command of the agent to its end, with the same configuration: `agent.run("backup", &["--full"])`.
    #[track_caller]
    pub fn run(&self, verb: &str, arguments: &[&str]) -> Finished {
        run(self.command(verb).args(arguments))
    }

    /// A command of the agent, with its configuration and environment.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = ServerUser::current().command(program("tidemark-agent"));
        command
            .arg(verb)
            .arg("--config")
            .arg(&self.config)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Frees room on the small disk, as an administrator would.
    #[track_caller]
    pub fn free_small_disk(&self) {
        let mut command = ServerUser::current().command("rm");
        run(command.arg(self.small_disk_root().join(BALLAST))).expect_success();
    }

    /// Copies what is on the small disk to where the repository lies for everybody else.
    #[track_caller]
    pub fn copy_small_disk(&self) {
        let disk = self.small_disk.as_ref().expect("the agent has a small disk");
        let mut command = ServerUser::current().command("cp");
        let from = self.small_disk_root().join(".");
        run(command.arg("-r").arg(from).arg(&disk.directory)).expect_success();
    }

    /// The small disk as it is seen from outside its namespace.
    fn small_disk_root(&self) -> PathBuf {
        let disk = self.small_disk.as_ref().expect("the agent has a small disk");
        let pid = self.pid().expect("the agent runs");
        PathBuf::from(format!("/proc/{pid}/root{}", disk.directory.display()))
    }

    /// What `/healthz` says.
    pub fn health(&self) -> io::Result<HttpResponse> {
        self.get("/healthz")
    }

    /// What it answers over HTTP.
    pub fn get(&self, path: &str) -> io::Result<HttpResponse> {
        http_get(self.port.address(), path)
    }

    /// Scrapes `/metrics`. Panics when the agent does not answer.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let answer = self
            .get("/metrics")
            .unwrap_or_else(|error| panic!("scrape: {error}"));
        assert_eq!(answer.status, 200, "{}", answer.body);
        Metrics::new(answer.body)
    }

    /// What `run` has logged, over all of its starts.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("agent.log")
    }
}

impl SmallDisk {
    /// `command` in a mount namespace of its own, with the disk in place; no privilege is needed.
    fn around(&self, command: &Command) -> Command {
        let ballast = SMALL_DISK_MIB - self.mib;
        let script = format!(
            "mount -t tmpfs -o size={SMALL_DISK_MIB}m tmpfs \"$0\" && fallocate -l {ballast}m \"$0/{BALLAST}\" && exec \"$@\""
        );
        let mut wrapped = ServerUser::current().command("unshare");
        wrapped
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .arg(&self.directory)
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                wrapped.env(name, value);
            }
        }
        wrapped
    }
}
