//! Log that comes by `archive_command`, restored across a promotion.

use std::path::Path;

use tidemark_testkit::{Agent, PgVersion, PostgresServer, Scratch, TestRepository, program, wait_for};

use crate::protected::{
    PATIENCE, agent_for, durable, restore, wait_for_agent, wait_for_base_backup, wait_until_durable,
};

const VERSION: PgVersion = PgVersion::V17;

/// A server whose archiver hands its log to the spool.
fn archiving_server(spool: &Path) -> PostgresServer {
    let command = format!(
        "{} archive-wal --spool {} %p",
        program("tidemark-agent").display(),
        spool.display()
    );
    PostgresServer::builder(VERSION)
        .wal_segment_mib(1)
        .conf("archive_mode = on")
        .conf(&format!("archive_command = '{command}'"))
        .start()
}

fn spooling_agent(repository: &TestRepository, server: &PostgresServer, spool: &Path) -> Agent {
    let settings = format!("archive_spool = \"{}\"", spool.display());
    agent_for(repository, server, &settings).create()
}

/// Rows that take about a megabyte of log.
fn insert(server: &PostgresServer, what: &str) {
    server.psql(&format!(
        "INSERT INTO t SELECT '{what}', i, repeat(md5(i::text), 4) FROM generate_series(1, 4000) i"
    ));
}

/// Ends the open segment and waits until all of it is stored.
fn wait_until_stored(agent: &Agent, server: &PostgresServer) {
    let end = server.psql("SELECT pg_switch_wal() - '0/0'");
    let end: u64 = end.parse().expect("a position");
    wait_for_agent(agent, "the log to be stored", || durable(agent) >= end);
}

fn wait_until_replayed(standby: &PostgresServer, primary: &PostgresServer) {
    let end = primary.psql("SELECT pg_current_wal_flush_lsn()");
    wait_for("the standby to replay", PATIENCE, || {
        standby.psql(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")) == "t"
    });
}

/// A primary that is protected by way of a spool, and its standby.
fn with_standby(repository: &TestRepository, spool: &Path) -> (PostgresServer, Agent, PostgresServer) {
    let primary = archiving_server(spool);
    primary.psql("CREATE TABLE t (what text, n int, filler text)");
    let agent = spooling_agent(repository, &primary, spool);
    agent.start();
    wait_for_base_backup(&agent);
    insert(&primary, "before");
    let standby = primary.start_standby();
    wait_until_stored(&agent, &primary);
    (primary, agent, standby)
}

/// The primary dies in mid-segment: of its last rows the archive gets a `.partial` file, and the child's copy. What is
/// restored is all of the child.
fn assert_restored_across_a_promotion(
    repository: &TestRepository,
    spool: &Path,
    primary: &PostgresServer,
    standby: &PostgresServer,
) {
    primary.psql("INSERT INTO t VALUES ('in the segment of the fork', 0, '')");
    wait_until_replayed(standby, primary);
    primary.kill9();
    standby.promote();
    insert(standby, "on the child");

    let agent = spooling_agent(repository, standby, spool);
    agent.start();
    wait_until_stored(&agent, standby);
    let digest = standby.digest("t");
    standby.kill9();
    agent.kill9();

    let restored = restore(repository, VERSION).args(["--target-latest"]).start();
    assert_eq!(restored.report()["stopped_at"]["branch"], 2);
    assert_eq!(restored.client().digest("t"), digest);
    let rows = "SELECT count(*) FROM t WHERE what = 'in the segment of the fork'";
    assert_eq!(restored.psql(rows), "1");
}

#[test]
fn log_by_archive_command_is_restored_across_a_promotion() {
    let repository = TestRepository::file();
    let directories = Scratch::new("spool");
    let spool = directories.subdir("in");
    let (primary, agent, standby) = with_standby(&repository, &spool);
    agent.terminate(PATIENCE);
    assert_restored_across_a_promotion(&repository, &spool, &primary, &standby);
}

#[test]
fn log_that_was_streamed_into_the_segment_of_a_fork_goes_on_from_the_child() {
    let repository = TestRepository::file();
    let directories = Scratch::new("spool");
    let spool = directories.subdir("in");
    let (primary, agent, standby) = with_standby(&repository, &spool);
    agent.terminate(PATIENCE);
    let streaming = agent_for(&repository, &primary, "").start();
    primary.psql("INSERT INTO t VALUES ('streamed', 0, '')");
    wait_until_durable(&streaming, &primary);
    streaming.terminate(PATIENCE);
    assert_restored_across_a_promotion(&repository, &spool, &primary, &standby);
}
