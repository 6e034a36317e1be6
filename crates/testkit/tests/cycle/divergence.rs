//! Two servers that share a past and a name: their logs are never spliced.

use tidemark_testkit::{Agent, PgVersion, PostgresServer, StopMode, TestRepository};

use crate::protected::{
    NAME, PATIENCE, agent_for, is_in_state, protect, restore, wait_for_agent, wait_for_base_backup,
    wait_until_durable, wait_until_streaming,
};

const ROWS: u32 = 40;

fn write(server: &PostgresServer, origin: &str, from: u32) {
    // Of equal length on both sides: only their contents tell the two logs apart.
    for n in from..from + ROWS {
        server.psql(&format!("INSERT INTO t VALUES ({n}, '{origin}')"));
    }
}

/// Whatever can be restored is one of the two histories up to some point: what was common, then rows of one side
/// without a hole.
fn assert_nothing_is_spliced(repository: &TestRepository, version: PgVersion) {
    let refused = match restore(repository, version).args(["--target-latest"]).try_start() {
        Err(failed) => failed.1,
        Ok(restored) => {
            let found =
                restored.psql("SELECT coalesce(string_agg(DISTINCT origin, ','), '') FROM t WHERE n > 40");
            assert!(
                ["", "original", "the clone"].contains(&found.as_str()),
                "rows of both: {found}"
            );
            let found = restored.psql("SELECT count(*) = max(n) AND min(n) = 1 FROM t");
            assert_eq!(found, "t", "rows are missing in between");
            return;
        }
    };
    refused.expect_code(6);
}

/// Either of the two has stopped, or found out when it started.
fn one_is_in_conflict(agents: &[&Agent]) -> bool {
    agents.iter().any(|agent| is_in_state(agent, "conflict"))
}

#[test]
fn a_clone_that_goes_on_alone_is_a_conflict() {
    let repository = TestRepository::file();
    let (original, agent) = protect(PgVersion::V17, &repository);
    original.psql("CREATE TABLE t (n int, origin text)");
    write(&original, "original", 1);
    wait_until_durable(&agent, &original);
    agent.terminate(PATIENCE);
    original.stop(StopMode::Fast);
    let clone = original.copy_files();
    original.start();
    clone.start();

    agent.start();
    wait_until_streaming(&agent);
    write(&original, "original", 41);
    write(&clone, "the clone", 41);
    wait_until_durable(&agent, &original);
    let other = agent_for(&repository, &clone, "").start();
    wait_for_agent(&other, "a conflict", || one_is_in_conflict(&[&agent, &other]));
    write(&original, "original", 81);
    write(&clone, "the clone", 81);
    agent.kill9();
    other.kill9();
    assert_nothing_is_spliced(&repository, PgVersion::V17);
}

#[test]
fn agents_of_two_clones_in_restart_loops_never_splice() {
    let repository = TestRepository::file();
    let (original, agent) = protect(PgVersion::V18, &repository);
    original.psql("CREATE TABLE t (n int, origin text)");
    write(&original, "original", 1);
    wait_until_durable(&agent, &original);
    original.stop(StopMode::Immediate);
    agent.kill9();
    let clone = original.copy_files();
    original.start();
    clone.start();
    let other = agent_for(&repository, &clone, "").create();

    for round in 1..=4 {
        write(&original, "original", 40 * round + 1);
        write(&clone, "the clone", 40 * round + 1);
        agent.start();
        other.start();
        wait_for_agent(&other, "a decision", || {
            one_is_in_conflict(&[&agent, &other]) || is_in_state(&other, "streaming")
        });
        agent.kill9();
        other.kill9();
    }
    assert_nothing_is_spliced(&repository, PgVersion::V18);
}

#[test]
fn a_server_that_lost_log_which_is_stored_is_a_conflict_until_it_is_adopted() {
    let repository = TestRepository::file();
    let (server, agent) = protect(PgVersion::V15, &repository);
    server.psql("CREATE TABLE t (n int, origin text)");
    wait_until_durable(&agent, &server);
    server.stop(StopMode::Immediate);
    let older = server.copy_files();
    server.start();
    write(&server, "original", 1);
    wait_until_durable(&agent, &server);
    agent.terminate(PATIENCE);
    server.kill9();

    older.start();
    let agent = agent_for(&repository, &older, "").start();
    wait_for_agent(&agent, "a conflict", || is_in_state(&agent, "conflict"));
    write(&older, "the clone", 1);
    agent.terminate(PATIENCE);
    let restored = restore(&repository, PgVersion::V15)
        .args(["--target-latest"])
        .start();
    assert_eq!(restored.psql("SELECT DISTINCT origin FROM t"), "original");

    agent.run("adopt", &["--server", NAME]).expect_success();
    agent.start();
    wait_for_base_backup(&agent);
    wait_until_durable(&agent, &older);
    agent.kill9();
    let restored = restore(&repository, PgVersion::V15)
        .args(["--target-latest"])
        .start();
    assert_eq!(restored.psql("SELECT DISTINCT origin FROM t"), "the clone");
    let earlier = restore(&repository, PgVersion::V15)
        .args(["--target-latest", "--generation", "1"])
        .start();
    assert_eq!(earlier.psql("SELECT DISTINCT origin FROM t"), "original");
}

/// Has `clone`, a copy that went its own way, promoted.
fn promote_clone(clone: &PostgresServer) {
    clone.stop(StopMode::Fast);
    std::fs::write(clone.data_directory().join("standby.signal"), "").unwrap();
    clone.start();
    clone.promote();
}

#[test]
fn a_clone_that_was_promoted_is_not_spliced_to_what_it_never_had() {
    let repository = TestRepository::file();
    let (original, agent) = protect(PgVersion::V17, &repository);
    original.psql("CREATE TABLE t (n int, origin text)");
    wait_until_durable(&agent, &original);
    agent.terminate(PATIENCE);
    original.stop(StopMode::Fast);
    let clone = original.copy_files();
    original.start();
    agent.start();
    wait_until_streaming(&agent);
    // The archive reaches past the place where the clone will leave the timeline.
    original.psql("INSERT INTO t SELECT i, 'original' FROM generate_series(1, 20000) i");
    wait_until_durable(&agent, &original);
    agent.terminate(PATIENCE);
    original.stop(StopMode::Fast);

    clone.start();
    clone.psql("INSERT INTO t SELECT i, 'the clone' FROM generate_series(1, 100) i");
    promote_clone(&clone);
    clone.psql("INSERT INTO t VALUES (0, 'the clone')");
    let agent = agent_for(&repository, &clone, "").start();
    wait_for_agent(&agent, "a conflict", || is_in_state(&agent, "conflict"));
    agent.kill9();
    let child = repository
        .directory()
        .join("servers")
        .join(NAME)
        .join("0001/log/00000002");
    assert!(!child.exists(), "something of the clone was stored");
    let restored = restore(&repository, PgVersion::V17)
        .args(["--timeline", "1", "--target-latest"])
        .start();
    assert_eq!(restored.psql("SELECT DISTINCT origin FROM t"), "original");
}
