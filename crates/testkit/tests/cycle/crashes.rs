//! Agents and servers killed at awkward moments: what was acknowledged is there, and what is stored stays of one piece.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use tidemark_testkit::{PgVersion, PostgresServer, TestRepository, Workload, wait_for};

use crate::protected::{
    NAME, PATIENCE, agent_for, is_in_state, protect, restore, wait_for_agent, wait_for_base_backup,
    wait_until_durable, wait_until_streaming,
};

#[test]
fn a_server_killed_within_a_record_of_many_segments_is_followed_past_it() {
    let server = PostgresServer::builder(PgVersion::V15)
        .wal_segment_mib(1)
        .conf("max_wal_size = 1GB")
        .start();
    server.psql("CREATE TABLE t (what text)");
    let repository = TestRepository::file();
    let agent = agent_for(&repository, &server, "").start();
    wait_for_base_backup(&agent);
    for round in 0..4_u64 {
        server.psql(&format!("INSERT INTO t VALUES ('before crash {round}')"));
        let client = server.client();
        let writer = thread::spawn(move || {
            // A logical message is one record, however long; these are about thirty segments each.
            let _ = client.try_query(
                "SELECT pg_logical_emit_message(false, 'long', repeat('x', 30000000)) FROM generate_series(1, 50)",
            );
        });
        let segment =
            "SELECT pg_current_wal_lsn() - '0/0' >= 1048576 * 20 + coalesce(nullif(:'b', '')::numeric, 0)";
        let begin = server.psql("SELECT pg_current_wal_lsn() - '0/0'");
        let segment = segment.replace(":'b'", &format!("'{begin}'"));
        wait_for("the record to cross segments", PATIENCE, || {
            server.try_psql(&segment).is_ok_and(|crossed| crossed == "t")
        });
        thread::sleep(Duration::from_millis(round * 37));
        server.kill9();
        writer.join().expect("the writer ended with its server");
        server.start();
    }
    server.psql("INSERT INTO t VALUES ('after')");
    wait_until_durable(&agent, &server);
    let expected = server.digest("t");
    server.kill9();
    let restored = restore(&repository, PgVersion::V15)
        .args(["--target-latest"])
        .start();
    assert_eq!(restored.client().digest("t"), expected);
}

#[test]
fn two_agents_of_one_server_in_restart_loops_lose_nothing() {
    let repository = TestRepository::file();
    let (server, first) = protect(PgVersion::V18, &repository);
    Workload::create_table(&server.client());
    let second = agent_for(&repository, &server, "").create();
    let workload = Workload::builder(&server.url()).writers(2).start();
    for round in 0..6_u64 {
        second.start();
        thread::sleep(Duration::from_millis(100 + round * 90));
        first.kill9();
        first.start();
        thread::sleep(Duration::from_millis(round * 50));
        second.kill9();
    }
    let commits = workload.stop();
    // The other one's claim may have to be given up first; nobody but this agent lives.
    first.kill9();
    first.start();
    wait_until_streaming(&first);
    wait_until_durable(&first, &server);
    assert!(is_in_state(&first, "streaming"));
    server.kill9();
    let restored = restore(&repository, PgVersion::V18)
        .args(["--target-latest"])
        .start();
    assert_eq!(Workload::missing(restored.client(), &commits), []);
}

#[test]
fn an_agent_killed_at_many_points_under_load_loses_nothing() {
    let repository = TestRepository::file();
    let server = PostgresServer::builder(PgVersion::V17).wal_segment_mib(1).start();
    Workload::create_table(&server.client());
    let agent = agent_for(&repository, &server, "").start();
    let workload = Workload::builder(&server.url())
        .writers(3)
        .payload_bytes(1000)
        .start();
    for round in 0..15_u64 {
        // From before it has connected to well into streaming, and into the first base backups.
        thread::sleep(Duration::from_millis(round * 31));
        agent.kill9();
        agent.launch();
    }
    wait_for_agent(&agent, "the agent to answer", || agent.health().is_ok());
    wait_for_base_backup(&agent);
    let before = workload.count();
    wait_for("commits to go on", PATIENCE, || workload.count() > before + 50);
    let commits = workload.stop();
    wait_until_durable(&agent, &server);
    server.kill9();
    let restored = restore(&repository, PgVersion::V17)
        .args(["--target-latest"])
        .start();
    assert_eq!(Workload::missing(restored.client(), &commits), []);
    restored.assert_sound();
}

#[test]
fn a_stopped_agent_has_shipped_what_it_received() {
    let repository = TestRepository::file();
    let (server, agent) = protect(PgVersion::V15, &repository);
    agent.terminate(PATIENCE);
    server.psql("CREATE TABLE t AS SELECT 1 AS n");
    agent.start();
    wait_until_streaming(&agent);
    server.psql("INSERT INTO t VALUES (2)");
    wait_until_durable(&agent, &server);
    server.psql("INSERT INTO t VALUES (3)");
    server.stop(tidemark_testkit::StopMode::Fast);
    assert!(agent.terminate(PATIENCE).success());
    let restored = restore(&repository, PgVersion::V15)
        .args(["--target-latest"])
        .start();
    assert_eq!(
        restored.psql("SELECT string_agg(n::text, ',' ORDER BY n) FROM t"),
        "1,2,3"
    );
}

/// Slices are stored side by side: a later one may be there, and the first of all not.
#[test]
fn an_agent_killed_before_its_very_first_slice_was_stored_begins_anew() {
    let repository = TestRepository::file();
    let (server, agent) = protect(PgVersion::V17, &repository);
    server.psql("CREATE TABLE t (n int)");
    for n in 0..5 {
        server.psql(&format!("INSERT INTO t VALUES ({n})"));
        wait_until_durable(&agent, &server);
    }
    agent.kill9();
    let stored = repository.directory().join("servers").join(NAME).join("0001");
    fs::remove_dir_all(stored.join("base")).unwrap();
    let log = stored.join("log/00000001");
    let name_of = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut slices: Vec<String> = fs::read_dir(&log).unwrap().map(name_of).collect();
    slices.sort();
    // What is left begins within a file, and nothing leads there.
    let is_within = |name: &&String| !name[17..].starts_with("0000000000-");
    let left = slices.iter().rfind(is_within).expect("a slice within a file");
    for slice in slices.iter().filter(|name| *name != left) {
        fs::remove_file(log.join(slice)).unwrap();
    }
    server.psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");

    agent.start();
    wait_for_base_backup(&agent);
    server.psql("INSERT INTO t VALUES (5)");
    wait_until_durable(&agent, &server);
    agent.terminate(PATIENCE);
    let restored = restore(&repository, PgVersion::V17)
        .args(["--target-latest"])
        .start();
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "6");
}
