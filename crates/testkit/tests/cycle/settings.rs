//! Settings that the server raised after the backup: replay demands as much, and the restore gives it.

use tidemark_testkit::{PgVersion, TestRepository};

use crate::protected::{protect, restore, wait_until_durable};

/// Above what a restored server is given unasked.
const RAISED: [(&str, u32); 4] = [
    ("max_worker_processes", 40),
    ("max_wal_senders", 40),
    ("max_prepared_transactions", 150),
    ("max_locks_per_transaction", 200),
];

fn assert_raised_settings_are_followed(version: PgVersion) {
    let repository = TestRepository::file();
    let (server, agent) = protect(version, &repository);
    server.psql("CREATE TABLE t AS SELECT 0 AS n");
    // Two halts. What the first demanded the log takes back, and replay may demand it again when it resumes.
    let set = |name: &str, value: u32| {
        server.psql(&format!("ALTER SYSTEM SET {name} = {value}"));
    };
    set("max_connections", 300);
    server.restart();
    server.psql("INSERT INTO t VALUES (1)");
    set("max_connections", 50);
    server.restart();
    server.psql("INSERT INTO t VALUES (2)");
    for (name, value) in RAISED {
        set(name, value);
    }
    server.restart();
    server.psql("INSERT INTO t VALUES (3)");
    server.psql("BEGIN; INSERT INTO t VALUES (4); PREPARE TRANSACTION 'undecided'");
    wait_until_durable(&agent, &server);
    server.kill9();
    agent.kill9();

    let restored = restore(&repository, version).args(["--target-latest"]).start();
    assert_eq!(
        restored.psql("SELECT string_agg(n::text, ',' ORDER BY n) FROM t"),
        "0,1,2,3",
        "{}",
        restored.report()
    );
    assert_eq!(restored.psql("SELECT gid FROM pg_prepared_xacts"), "undecided");
    for (name, value) in [("max_connections", 300)].into_iter().chain(RAISED) {
        assert_eq!(
            restored.psql(&format!("SHOW {name}")),
            value.to_string(),
            "{name}"
        );
    }
}

#[test]
fn settings_raised_after_the_backup_do_not_stop_replay_of_15() {
    assert_raised_settings_are_followed(PgVersion::V15);
}

#[test]
fn settings_raised_after_the_backup_do_not_stop_replay_of_18() {
    assert_raised_settings_are_followed(PgVersion::V18);
}
