//! Where exactly a restore ends: on idle servers, at a commit, between two that are close, with clocks that jump.

use std::thread;
use std::time::Duration;

use tidemark_testkit::{Agent, PgVersion, PostgresServer, TestRepository, faketime_library, run};

use crate::protected::{
    agent_for, protect, restore, restore_tool, wait_for_agent, wait_for_base_backup, wait_until_durable,
};

/// The time of `xid`'s commit, as the server wrote it into the log.
fn commit_time(server: &PostgresServer, xid: &str) -> String {
    let time = "to_char(pg_xact_commit_timestamp('{}'::xid) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    server.psql(&format!("SELECT {}", time.replace("{}", xid)))
}

/// Inserts a row in a transaction of its own and returns the transaction's id.
fn insert(server: &PostgresServer, n: u32) -> String {
    server.psql(&format!(
        "BEGIN; INSERT INTO t VALUES ({n}); SELECT pg_current_xact_id(); COMMIT"
    ))
}

fn now(server: &PostgresServer) -> String {
    server.psql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
}

fn restored_rows(repository: &TestRepository, version: PgVersion, target: &[&str]) -> String {
    let restored = restore(repository, version).args(target.iter().copied()).start();
    restored.psql("SELECT coalesce(string_agg(n::text, ',' ORDER BY n), '') FROM t")
}

/// A server that remembers commit times, with its agent and first base backup; its table `t` is empty.
fn with_commit_times(version: PgVersion, repository: &TestRepository) -> (PostgresServer, Agent) {
    let server = PostgresServer::builder(version)
        .conf("track_commit_timestamp = on")
        .start();
    server.psql("CREATE TABLE t (n int)");
    let agent = agent_for(repository, &server, "").start();
    wait_for_base_backup(&agent);
    (server, agent)
}

#[test]
fn a_target_exactly_at_a_commit_includes_it_and_exclusive_does_not() {
    let repository = TestRepository::file();
    let (server, agent) = with_commit_times(PgVersion::V15, &repository);
    let xids: Vec<String> = (1..=4).map(|n| insert(&server, n)).collect();
    let times: Vec<String> = xids.iter().map(|xid| commit_time(&server, xid)).collect();
    wait_until_durable(&agent, &server);
    server.kill9();
    let at = |target: &[&str]| restored_rows(&repository, PgVersion::V15, target);
    assert_eq!(at(&["--target-time", &times[1]]), "1,2");
    assert_eq!(at(&["--target-time", &times[1], "--exclusive"]), "1");
    assert_eq!(at(&["--target-xid", &xids[2]]), "1,2,3");
    assert_eq!(at(&["--target-xid", &xids[2], "--exclusive"]), "1,2");
    assert_eq!(at(&["--target-time", &times[0], "--exclusive"]), "");
}

#[test]
fn a_target_between_two_commits_close_together_tells_them_apart() {
    let repository = TestRepository::file();
    let (server, agent) = with_commit_times(PgVersion::V17, &repository);
    // Many commits back to back on one connection: neighbours are far less than a millisecond apart.
    server.psql("DO $$ BEGIN FOR i IN 1..200 LOOP INSERT INTO t VALUES (i); COMMIT; END LOOP; END $$");
    let closest = "SELECT n, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM ( \
         SELECT n, pg_xact_commit_timestamp(xmin) AS at, \
                lead(pg_xact_commit_timestamp(xmin)) OVER (ORDER BY n) - pg_xact_commit_timestamp(xmin) AS apart FROM t \
         ) AS commits WHERE apart > interval '0' AND apart < interval '1 millisecond' ORDER BY apart LIMIT 1";
    let closest = server.psql(closest);
    let (n, time) = closest.split_once('|').expect("two commits of one millisecond");
    wait_until_durable(&agent, &server);
    server.kill9();
    let restored = restore(&repository, PgVersion::V17)
        .args(["--target-time", time])
        .start();
    assert_eq!(
        restored.psql("SELECT max(n) || ' of ' || count(*) FROM t"),
        format!("{n} of {n}")
    );
}

/// What `list` shows as the ends of the recovery window can be planned.
fn assert_windows_can_be_reached(repository: &TestRepository) {
    let listing = run(restore_tool(repository, "list").arg("--json")).expect_success();
    let listing: serde_json::Value = serde_json::from_str(&listing).expect("JSON");
    let window = &listing[0]["recovery_windows"][0];
    for (option, bound) in [
        ("--target-time", "earliest_time"),
        ("--target-time", "latest_time"),
        ("--target-lsn", "earliest_position"),
        ("--target-lsn", "latest_position"),
    ] {
        let bound = window[bound]
            .as_str()
            .unwrap_or_else(|| panic!("{bound} in {listing}"));
        run(restore_tool(repository, "plan").args([option, bound])).expect_success();
    }
}

#[test]
fn an_idle_database_is_restored_to_a_time_after_its_last_commit() {
    let repository = TestRepository::file();
    let (server, agent) = protect(PgVersion::V18, &repository);
    server.psql("CREATE TABLE t AS SELECT 1 AS n");
    wait_until_durable(&agent, &server);
    let later = now(&server);
    // Nothing is committed any more. That `later` is covered is known by the agent's word alone.
    let plan = || run(restore_tool(&repository, "plan").args(["--target-time", &later]));
    wait_for_agent(&agent, "the time to be covered", || {
        thread::sleep(Duration::from_millis(500));
        plan().code() == Some(0)
    });
    assert_windows_can_be_reached(&repository);
    server.kill9();
    agent.kill9();
    assert_eq!(
        restored_rows(&repository, PgVersion::V18, &["--target-time", &later]),
        "1"
    );
}

#[test]
fn a_database_idle_since_before_its_backup_is_restored_to_the_backups_end() {
    use PgVersion::{V15, V17, V18};
    for (version, target) in [
        (V15, "--target-immediate"),
        (V17, "--target-latest"),
        (V18, "--target-immediate"),
    ] {
        let repository = TestRepository::file();
        let server = PostgresServer::start_new(version);
        server.psql("CREATE TABLE t AS SELECT 7 AS n");
        let agent = agent_for(&repository, &server, "").start();
        wait_for_base_backup(&agent);
        server.kill9();
        agent.kill9();
        assert_eq!(
            restored_rows(&repository, version, &[target]),
            "7",
            "{target} of {version}"
        );
    }
}

#[test]
fn a_commit_stamped_an_hour_ahead_makes_times_ambiguous_and_it_is_said() {
    let repository = TestRepository::file();
    let faketime = faketime_library();
    let scratch = tidemark_testkit::Scratch::new("faketime");
    let offset = scratch.file("offset", "+0");
    let server = PostgresServer::builder(PgVersion::V15)
        .conf("track_commit_timestamp = on")
        .env("LD_PRELOAD", faketime.to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .start();
    server.psql("CREATE TABLE t (n int)");
    let agent = agent_for(&repository, &server, "").start();
    wait_for_base_backup(&agent);
    insert(&server, 1);
    std::fs::write(&offset, "+1h").unwrap();
    let ahead = insert(&server, 2);
    std::fs::write(&offset, "+0").unwrap();
    let after = insert(&server, 3);
    insert(&server, 4);
    let (ahead, after) = (commit_time(&server, &ahead), commit_time(&server, &after));
    assert!(ahead > after, "the clock was not ahead: {ahead} and {after}");
    wait_until_durable(&agent, &server);
    server.kill9();

    let refused = run(restore_tool(&repository, "plan").args(["--target-time", &after]));
    let message = refused.expect_code(3);
    assert!(
        message.contains("--first") && message.contains("--last"),
        "{message}"
    );
    let at = |pick| restored_rows(&repository, PgVersion::V15, &["--target-time", &after, pick]);
    assert_eq!(at("--first"), "1");
    assert_eq!(at("--last"), "1,2,3");
    assert_eq!(
        restored_rows(&repository, PgVersion::V15, &["--target-latest"]),
        "1,2,3,4"
    );
}

#[test]
fn a_prepared_transaction_is_restored_as_prepared() {
    let repository = TestRepository::file();
    let server = PostgresServer::builder(PgVersion::V17)
        .conf("max_prepared_transactions = 5")
        .start();
    server.psql("CREATE TABLE t (n int)");
    let agent = agent_for(&repository, &server, "").start();
    wait_for_base_backup(&agent);
    insert(&server, 1);
    server.psql("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'undecided'");
    wait_until_durable(&agent, &server);
    server.kill9();
    let restored = restore(&repository, PgVersion::V17)
        .args(["--target-latest"])
        .start();
    assert_eq!(restored.psql("SELECT gid FROM pg_prepared_xacts"), "undecided");
    assert_eq!(restored.psql("SELECT string_agg(n::text, ',') FROM t"), "1");
    restored.psql("COMMIT PREPARED 'undecided'");
    assert_eq!(
        restored.psql("SELECT string_agg(n::text, ',' ORDER BY n) FROM t"),
        "1,2"
    );
}

#[test]
fn a_restored_server_ends_as_it_was_asked_to() {
    let repository = TestRepository::file();
    let (server, agent) = protect(PgVersion::V18, &repository);
    server.psql("CREATE TABLE t AS SELECT 1 AS n");
    wait_until_durable(&agent, &server);
    server.kill9();
    let restored = |action: &str| {
        let arguments = ["--target-latest", "--action", action];
        restore(&repository, PgVersion::V18).args(arguments).start()
    };
    let promoted = restored("promote");
    assert_eq!(promoted.psql("SELECT pg_is_in_recovery()"), "f");
    promoted.psql("INSERT INTO t VALUES (2)");
    assert_eq!(promoted.psql("SHOW archive_mode"), "off");
    let paused = restored("pause");
    assert_eq!(paused.psql("SELECT pg_get_wal_replay_pause_state()"), "paused");
    assert_eq!(paused.psql("SELECT n FROM t"), "1");
    let shut_down = restored("shutdown");
    assert!(!shut_down.data_directory().join("postmaster.pid").exists());
    assert_eq!(shut_down.report()["state"], "shut down");
}
