//! What every cycle begins with: a server, a repository and an agent between them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tidemark_testkit::{
    Agent, AgentBuilder, PgVersion, PostgresServer, Restore, TestRepository, holds_within, run,
    tidemark_restore,
};

/// What the server is called in the repository.
pub const NAME: &str = "shop";

/// How the agent is known to the server in synchronous mode: the default for [`NAME`].
pub const APPLICATION: &str = "tidemark_shop";

/// Long enough for a machine that does much else; nothing that works waits for it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How base backups are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseMethod {
    /// From the data directory, in parallel.
    Local,
    /// By the server, over a replication connection.
    Remote,
}

/// An agent for `server` that ships at once and reads base backups from the data directory. `settings` are further lines
/// of the server's section.
pub fn agent_for(repository: &TestRepository, server: &PostgresServer, settings: &str) -> AgentBuilder {
    agent_by(repository, server, BaseMethod::Local, settings)
}

/// As [`agent_for`], with base backups by `method`.
pub fn agent_by(
    repository: &TestRepository,
    server: &PostgresServer,
    method: BaseMethod,
    settings: &str,
) -> AgentBuilder {
    let data = match method {
        BaseMethod::Local => format!("data_directory = \"{}\"\n", server.data_directory().display()),
        BaseMethod::Remote => String::new(),
    };
    let settings = format!("max_lag = \"50ms\"\nheartbeat = \"1s\"\n{data}{settings}");
    Agent::builder(repository).postgres(NAME, &server.url(), &settings)
}

/// Waits until `condition` holds of the agent. Panics with its metrics and log when it does not.
#[track_caller]
pub fn wait_for_agent(agent: &Agent, what: &str, condition: impl FnMut() -> bool) {
    let held = holds_within(PATIENCE, condition);
    if !held && agent.is_running() {
        eprintln!("{}", agent.metrics().text());
    }
    assert!(
        held,
        "waited in vain for {what}; the agent's log:\n{}",
        agent.log_text()
    );
}

/// Whether the agent's pipeline is in `state`.
pub fn is_in_state(agent: &Agent, state: &str) -> bool {
    let labels = [("server", NAME), ("state", state)];
    agent.metrics().values("tidemark_pipeline_state", &labels) == [1.0]
}

/// Waits until the agent streams.
#[track_caller]
pub fn wait_until_streaming(agent: &Agent) {
    wait_for_agent(agent, "streaming", || is_in_state(agent, "streaming"));
}

/// Waits until the repository holds a base backup.
#[track_caller]
pub fn wait_for_base_backup(agent: &Agent) {
    wait_for_agent(agent, "a base backup", || newest_backup(agent).is_some());
}

/// When the newest base backup was complete, in seconds since 1970.
pub fn newest_backup(agent: &Agent) -> Option<f64> {
    let ends = agent
        .metrics()
        .values("tidemark_base_backup_end_timestamp_seconds", &[("server", NAME)]);
    ends.first().copied()
}

/// Takes another base backup by hand.
#[track_caller]
pub fn take_backup(agent: &Agent, arguments: &[&str]) -> String {
    agent
        .run("backup", &[&["--server", NAME], arguments].concat())
        .expect_success()
}

/// The end of what the repository holds, as a number.
pub fn durable(agent: &Agent) -> u64 {
    let values = agent
        .metrics()
        .values("tidemark_durable_position_bytes", &[("server", NAME)]);
    values.first().map_or(0, |position| *position as u64)
}

/// Waits until the repository holds everything that `server` has committed up to now.
#[track_caller]
pub fn wait_until_durable(agent: &Agent, server: &PostgresServer) {
    // What holds no commit is shipped later, so a commit goes last.
    let end = server.psql(
        "SELECT pg_logical_emit_message(true, 'end', 'of what must be durable'); \
         SELECT pg_current_wal_flush_lsn() - '0/0'",
    );
    let end: u64 = end
        .lines()
        .last()
        .and_then(|line| line.parse().ok())
        .expect("a position");
    wait_for_agent(agent, "the log to be durable", || durable(agent) >= end);
}

/// A server of `version` with an agent that has made its first base backup into `repository`.
pub fn protect(version: PgVersion, repository: &TestRepository) -> (PostgresServer, Agent) {
    let server = PostgresServer::start_new(version);
    let agent = agent_for(repository, &server, "").start();
    wait_for_base_backup(&agent);
    (server, agent)
}

/// A restore of the server.
pub fn restore(repository: &TestRepository, version: PgVersion) -> Restore {
    Restore::new(repository, NAME, version)
}

/// `tidemark-restore VERB --server`.
pub fn restore_tool(repository: &TestRepository, verb: &str) -> Command {
    let mut command = tidemark_restore(repository, verb);
    command.args(["--server", NAME]);
    command
}

/// Writes the newest timeline's log as plain segment files into `directory`.
#[track_caller]
pub fn export(repository: &TestRepository, directory: &Path) {
    run(restore_tool(repository, "export").arg("--output").arg(directory)).expect_success();
}
