//! What every test begins with: a server, a repository and an agent between them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tidemark_testkit::{
    Agent, AgentBuilder, MysqlBuilder, MysqlServer, MysqlVersion, TestRepository, holds_within, run,
    tidemark_restore,
};

/// What the server is called in the repository.
pub const NAME: &str = "orders";

/// All versions.
pub const VERSIONS: [MysqlVersion; 3] = [
    MysqlVersion::Mysql97,
    MysqlVersion::MariaDb1011,
    MysqlVersion::MariaDb118,
];

/// Long enough for a machine that does much else; nothing that works waits for it.
pub const PATIENCE: Duration = Duration::from_secs(120);

const USER: &str = "tidemark";
const PASSWORD: &str = "backup-Pass1";

/// A server with an account for the agent, which comes over TCP.
pub fn server(version: MysqlVersion) -> MysqlBuilder {
    let privileges = if version.is_mariadb() {
        "REPLICATION SLAVE, BINLOG MONITOR, REPLICATION MASTER ADMIN, RELOAD, PROCESS, LOCK TABLES, SELECT, \
         SHOW VIEW, TRIGGER, EVENT, CONNECTION ADMIN"
    } else {
        "REPLICATION SLAVE, REPLICATION CLIENT, RELOAD, PROCESS, LOCK TABLES, SELECT, SHOW VIEW, TRIGGER, EVENT, \
         BACKUP_ADMIN, XA_RECOVER_ADMIN"
    };
    MysqlServer::builder(version).account(USER, PASSWORD, privileges)
}

/// An agent for `server` that ships at once. `settings` are further lines of the server's section.
pub fn agent_for(repository: &TestRepository, server: &MysqlServer, settings: &str) -> AgentBuilder {
    let method = if server.version().is_mariadb() {
        let program = server.version().prefix().join("usr/bin/mariadb-backup");
        format!("program = \"{}\"", program.display())
    } else {
        server.sql("INSTALL PLUGIN clone SONAME 'mysql_clone.so'");
        String::new()
    };
    agent_with(repository, server, settings, &method)
}

/// As [`agent_for`], by way of a dump.
pub fn agent_that_dumps(repository: &TestRepository, server: &MysqlServer) -> AgentBuilder {
    agent_with(repository, server, "", "method = \"dump\"")
}

fn agent_with(
    repository: &TestRepository,
    server: &MysqlServer,
    settings: &str,
    base_backup: &str,
) -> AgentBuilder {
    let settings =
        format!("max_lag = \"50ms\"\nheartbeat = \"1s\"\n{settings}[server.base_backup]\n{base_backup}\n");
    Agent::builder(repository)
        .mysql(NAME, server.version(), &server.url_as(USER), &settings)
        .env("MYSQL_PWD", PASSWORD)
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

/// Waits until the agent streams.
#[track_caller]
pub fn wait_until_streaming(agent: &Agent) {
    let labels = [("server", NAME), ("state", "streaming")];
    wait_for_agent(agent, "streaming", || {
        agent.metrics().values("tidemark_pipeline_state", &labels) == [1.0]
    });
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

/// A file's number and an offset in it.
pub type Place = (u64, u64);

/// `bin.000003:198` as a place.
fn place(file: &str, offset: &str) -> Option<Place> {
    Some((file.rsplit_once('.')?.1.parse().ok()?, offset.parse().ok()?))
}

/// The branch that is written, and the end of what the repository holds of it.
pub fn durable(agent: &Agent) -> Option<(u64, Place)> {
    let status: serde_json::Value = serde_json::from_str(&agent.get("/status").ok()?.body).ok()?;
    let server = &status["servers"][0];
    let (file, offset) = server["durable"].as_str()?.rsplit_once(':')?;
    Some((server["branch"].as_u64()?, place(file, offset)?))
}

/// Where the server's log ends.
#[track_caller]
pub fn log_end(server: &MysqlServer) -> Place {
    let statement = if server.version().is_mariadb() {
        "SHOW MASTER STATUS"
    } else {
        "SHOW BINARY LOG STATUS"
    };
    let answer = server.sql(statement);
    let mut columns = answer.split('\t');
    let (file, offset) = (
        columns.next().unwrap_or_default(),
        columns.next().unwrap_or_default(),
    );
    place(file, offset).unwrap_or_else(|| panic!("no position in {answer:?}"))
}

/// Waits until the repository holds everything that `server` has committed up to now, on branch `branch`.
#[track_caller]
pub fn wait_until_durable_on(agent: &Agent, server: &MysqlServer, branch: u64) {
    // What holds no commit is shipped later, so a commit goes last.
    server.sql("CREATE DATABASE IF NOT EXISTS mark; DROP DATABASE mark");
    let end = log_end(server);
    wait_for_agent(agent, &format!("the log to be durable up to {end:?}"), || {
        durable(agent).is_some_and(|(written, durable)| written == branch && durable >= end)
    });
}

/// As [`wait_until_durable_on`], on the first branch.
#[track_caller]
pub fn wait_until_durable(agent: &Agent, server: &MysqlServer) {
    wait_until_durable_on(agent, server, 1);
}

/// `tidemark-restore VERB --server`.
pub fn restore_tool(repository: &TestRepository, verb: &str) -> Command {
    let mut command = tidemark_restore(repository, verb);
    command.args(["--server", NAME]);
    command
}

/// Writes the newest branch's log as plain binlog files into `directory`.
#[track_caller]
pub fn export(repository: &TestRepository, directory: &Path) {
    run(restore_tool(repository, "export").arg("--output").arg(directory)).expect_success();
}
