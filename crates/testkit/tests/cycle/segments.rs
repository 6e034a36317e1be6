//! What is stored of the log is what pg_receivewal writes from the same server, byte for byte, whatever was killed on
//! the way.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use tidemark_testkit::{
    Daemon, PgVersion, PostgresServer, Scratch, StopMode, TestRepository, Workload, wait_for,
};

use crate::protected::{
    PATIENCE, agent_for, durable, export, restore, take_backup, wait_for_agent, wait_for_base_backup,
    wait_until_durable, wait_until_streaming,
};

const SLOT: &str = "receivewal";

/// pg_receivewal beside the agent, on a slot of its own.
fn receive_wal(server: &PostgresServer, directory: &Path, log: &Path) -> Daemon {
    let mut command = server.tool("pg_receivewal");
    command.args(["--slot", SLOT, "--directory"]).arg(directory);
    Daemon::spawn("pg_receivewal", &mut command, log)
}

/// The names of the complete segments in `directory`.
fn segments(directory: &Path) -> Vec<String> {
    const NAME_LEN: usize = 24;
    let entries = fs::read_dir(directory).expect("list segments");
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.len() == NAME_LEN).collect();
    names.sort();
    names
}

/// Writes about `mib` MiB of log beside what else is going on.
fn fill(server: &PostgresServer, mib: u32) {
    server.psql(&format!(
        "INSERT INTO filler SELECT repeat(md5(random()::text), 30) FROM generate_series(1, {mib} * 1024)"
    ));
}

fn assert_stored_equals_received(version: PgVersion, segment_mib: u32, rounds: u32) {
    let server = PostgresServer::builder(version)
        .wal_segment_mib(segment_mib)
        .start();
    server.psql(&format!(
        "SELECT pg_create_physical_replication_slot('{SLOT}', true); \
         CREATE TABLE filler (t text)"
    ));
    Workload::create_table(&server.client());
    let repository = TestRepository::file();
    let agent = agent_for(&repository, &server, "").start();
    wait_until_streaming(&agent);
    let scratch = Scratch::new("receivewal");
    let received = scratch.subdir("received");
    let receiver = receive_wal(&server, &received, &scratch.path().join("log"));
    let workload = Workload::builder(&server.url())
        .writers(2)
        .payload_bytes(500)
        .start();

    for round in 0..rounds {
        fill(&server, segment_mib.div_ceil(2));
        // Anywhere: while it starts, while it compares, while it streams.
        thread::sleep(Duration::from_millis(u64::from(round % 4) * 150));
        agent.kill9();
        agent.start();
        match round {
            1 => server.restart(),
            2 => {
                server.kill9();
                server.start();
            }
            _ => {}
        }
    }
    let commits = workload.stop();
    assert!(!commits.is_empty());
    let last = server.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn()) FROM pg_switch_wal()");
    wait_until_durable(&agent, &server);
    wait_for("pg_receivewal to finish the last segment", PATIENCE, || {
        segments(&received).contains(&last)
    });
    drop(receiver);
    agent.terminate(PATIENCE);
    server.stop(StopMode::Immediate);

    let exported = scratch.subdir("exported");
    export(&repository, &exported);
    let expected = segments(&received);
    assert!(expected.len() >= 3, "too little to compare: {expected:?}");
    let stored = segments(&exported);
    for name in &expected {
        assert!(stored.contains(name), "{name} is not among {stored:?}");
        let (ours, theirs) = (
            fs::read(exported.join(name)).unwrap(),
            fs::read(received.join(name)).unwrap(),
        );
        assert!(ours == theirs, "{name} differs from what pg_receivewal wrote");
    }
}

#[test]
fn segments_of_1_mib_are_what_pg_receivewal_writes() {
    assert_stored_equals_received(PgVersion::V15, 1, 8);
}

#[test]
fn segments_of_16_mib_are_what_pg_receivewal_writes() {
    assert_stored_equals_received(PgVersion::V17, 16, 6);
}

#[test]
fn segments_of_64_mib_are_what_pg_receivewal_writes() {
    assert_stored_equals_received(PgVersion::V18, 64, 5);
}

/// A segment of several grains that was switched early ends in grains of zeros, where nothing tells the servers apart.
#[test]
fn an_agent_goes_on_behind_a_segment_switch() {
    let version = PgVersion::V17;
    let server = PostgresServer::builder(version).wal_segment_mib(64).start();
    server.psql("CREATE TABLE filler (t text)");
    let repository = TestRepository::file();
    let agent = agent_for(&repository, &server, "").start();
    wait_for_base_backup(&agent);
    fill(&server, 1);
    server.psql("SELECT pg_switch_wal()");
    let segment_end = server.psql("SELECT ((pg_current_wal_lsn() - '0/0')::bigint >> 26) << 26");
    let segment_end: u64 = segment_end.parse().expect("a position");
    wait_for_agent(&agent, "the switched segment", || durable(&agent) >= segment_end);
    agent.kill9();
    fill(&server, 1);
    agent.start();
    wait_until_durable(&agent, &server);
    assert!(!agent.log_text().contains("damaged"), "{}", agent.log_text());
    // Reads the log since the full one, from where the agent began again.
    take_backup(&agent, &[]);
    agent.terminate(PATIENCE);
    let restored = restore(&repository, version).args(["--target-latest"]).start();
    assert_eq!(restored.psql("SELECT count(*) FROM filler"), "2048");
}
