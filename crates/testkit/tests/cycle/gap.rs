//! A hole in the log: said, closed by a base backup, and never acknowledged across in synchronous mode.

use std::sync::mpsc;
use std::thread;

use tidemark_testkit::{PgVersion, PostgresServer, TestRepository, run, wait_for};

use crate::protected::{
    APPLICATION, PATIENCE, agent_for, durable, is_in_state, newest_backup, restore, restore_tool,
    wait_for_agent, wait_for_base_backup, wait_until_streaming,
};

/// The process that makes checkpoints, held or let go: no base backup begins while it is held.
fn signal_checkpointer(server: &PostgresServer, signal: &str) {
    let pid = server.psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'");
    let status = std::process::Command::new("kill").args([signal, &pid]).status();
    assert!(status.expect("run kill").success());
}

/// Makes the log go on without the agent, until what it needs is gone.
fn lose_wal(server: &PostgresServer) {
    server.psql(&format!("SELECT pg_drop_replication_slot('{APPLICATION}')"));
    for n in 0..4 {
        server.psql(&format!(
            "INSERT INTO t VALUES ({n}, 'in the gap'); SELECT pg_switch_wal(); CHECKPOINT"
        ));
    }
}

#[test]
fn a_gap_in_synchronous_mode_acknowledges_nothing_until_a_base_backup() {
    let server = PostgresServer::builder(PgVersion::V17)
        .wal_segment_mib(1)
        .conf("wal_keep_size = 0")
        .conf("max_wal_size = 2MB")
        .conf("min_wal_size = 2MB")
        .start();
    server.psql("CREATE TABLE t (n int, what text)");
    let repository = TestRepository::file();
    let agent = agent_for(&repository, &server, "synchronous = true\n").start();
    wait_for_base_backup(&agent);
    let first_backup = newest_backup(&agent);
    agent.kill9();
    lose_wal(&server);
    server.psql(&format!(
        "ALTER SYSTEM SET synchronous_standby_names = '{APPLICATION}'; SELECT pg_reload_conf()"
    ));
    wait_for("the setting to take effect", PATIENCE, || {
        server.psql("SHOW synchronous_standby_names") == APPLICATION
    });

    signal_checkpointer(&server, "-STOP");
    agent.start();
    wait_for_agent(&agent, "the gap to be found", || {
        agent.metrics().value("tidemark_gaps_total", &[]) >= 1.0
    });
    let (sender, receiver) = mpsc::sync_channel(1);
    let client = server.client();
    let writer = thread::spawn(move || {
        client.query("INSERT INTO t VALUES (100, 'after the gap')");
        sender.send(()).expect("the test listens");
    });
    let waits =
        "SELECT pg_current_wal_flush_lsn() - '0/0' FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait_for("the commit to wait", PATIENCE, || !server.psql(waits).is_empty());
    let end: u64 = server.psql(waits).parse().expect("a position");
    wait_for_agent(&agent, "the commit to be in the repository", || {
        durable(&agent) >= end
    });
    // It is durable, and yet of no use: what came before it is lost, and no base backup stands behind it.
    assert!(receiver.try_recv().is_err(), "acknowledged across a gap");
    assert!(!server.psql(waits).is_empty(), "acknowledged across a gap");

    signal_checkpointer(&server, "-CONT");
    wait_for_agent(&agent, "the commit to be acknowledged", || {
        receiver.try_recv().is_ok()
    });
    writer.join().expect("the commit succeeded");
    assert!(
        newest_backup(&agent) > first_backup,
        "acknowledged before the base backup"
    );
    assert!(is_in_state(&agent, "streaming"));
    server.kill9();
    let restored = restore(&repository, PgVersion::V17)
        .args(["--target-latest"])
        .start();
    assert_eq!(restored.psql("SELECT what FROM t WHERE n = 100"), "after the gap");
}

#[test]
fn a_gap_is_recorded_and_closed_by_a_base_backup() {
    let server = PostgresServer::builder(PgVersion::V15)
        .wal_segment_mib(1)
        .conf("max_wal_size = 2MB")
        .conf("min_wal_size = 2MB")
        .start();
    server.psql("CREATE TABLE t (n int, what text)");
    let repository = TestRepository::file();
    let agent = agent_for(&repository, &server, "").start();
    wait_for_base_backup(&agent);
    let first_backup = newest_backup(&agent);
    agent.kill9();
    lose_wal(&server);
    let lost = server.psql("SELECT pg_current_wal_lsn()");
    for _ in 0..4 {
        server.psql("INSERT INTO t VALUES (9, 'in the gap'); SELECT pg_switch_wal(); CHECKPOINT");
    }
    agent.start();
    wait_until_streaming(&agent);
    wait_for_agent(&agent, "a base backup after the gap", || {
        newest_backup(&agent) > first_backup
    });
    assert_eq!(agent.metrics().value("tidemark_gaps_total", &[]), 1.0);
    let listing = run(&mut restore_tool(&repository, "list")).expect_success();
    assert!(listing.contains("gap"), "{listing}");
    let refused = run(restore_tool(&repository, "plan").args(["--target-lsn", &lost]));
    let message = refused.expect_code(3);
    assert!(message.contains("hint: the nearest that can"), "{message}");
}
