//! Room that ends: on the repository's disk, and on the server's for what a slot holds back. And a server whose place is
//! taken by another.

use tidemark_testkit::{
    Agent, Garage, PgVersion, PostgresServer, ProxyMode, TcpProxy, TestRepository, wait_for,
};

use crate::protected::{
    APPLICATION, NAME, PATIENCE, agent_for, newest_backup, restore, wait_for_agent, wait_for_base_backup,
    wait_until_durable, wait_until_streaming,
};

const VERSION: PgVersion = PgVersion::V17;

/// Writes about `mib` MiB of log that hardly compresses.
fn fill(server: &PostgresServer, mib: u32) {
    server.psql(&format!(
        "INSERT INTO filler SELECT string_agg(sha256((random() * n)::text::bytea)::text, '') \
         FROM generate_series(1, {mib} * 128) AS row, generate_series(1, 110) AS n GROUP BY row"
    ));
}

fn alarmed(agent: &Agent) -> bool {
    agent.health().is_ok_and(|health| health.status == 503)
}

/// What was filled in, and the row behind it, are restored.
fn assert_restored(repository: &TestRepository) {
    let restored = restore(repository, VERSION).args(["--target-latest"]).start();
    assert_eq!(
        restored.psql("SELECT count(*) FROM filler"),
        (64 * 128 + 1).to_string()
    );
}

#[test]
fn a_repository_without_room_is_said_and_gone_on_with_once_it_has_some() {
    let server = PostgresServer::start_new(VERSION);
    server.psql("CREATE TABLE filler (t text)");
    let repository = TestRepository::file();
    let agent = agent_for(&repository, &server, "")
        .small_disk(&repository, 24)
        .start();
    wait_for_base_backup(&agent);
    fill(&server, 64);
    wait_for_agent(&agent, "the full disk to be told", || {
        agent.log_text().contains("no space left on the file system")
    });
    wait_for_agent(&agent, "the health to turn", || alarmed(&agent));
    server.psql("INSERT INTO filler VALUES ('committed while the repository was full')");
    agent.free_small_disk();
    wait_until_durable(&agent, &server);
    wait_for_agent(&agent, "the health to turn back", || !alarmed(&agent));
    agent.copy_small_disk();
    server.kill9();
    assert_restored(&repository);
}

#[test]
fn a_slot_that_holds_back_too_much_is_given_up_and_a_base_backup_closes_the_gap() {
    let garage = Garage::start_new();
    let endpoint = garage.endpoint();
    let proxy = TcpProxy::start(endpoint.address);
    let repository = TestRepository::s3(&endpoint.by_way_of(proxy.address()), "slot");
    let server = PostgresServer::builder(VERSION)
        .wal_segment_mib(1)
        .conf("max_wal_size = 2MB")
        .conf("min_wal_size = 2MB")
        .start();
    server.psql("CREATE TABLE filler (t text)");
    let agent = agent_for(&repository, &server, "max_slot_retained = \"32MiB\"\n").start();
    wait_for_base_backup(&agent);
    let first_backup = newest_backup(&agent);
    proxy.set(ProxyMode::Hang);
    fill(&server, 64);
    let slots = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{APPLICATION}'");
    wait_for("the slot to be given up", PATIENCE, || server.psql(&slots) == "0");
    server.psql("CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT");
    proxy.set(ProxyMode::Pass);
    wait_for_agent(&agent, "a base backup after the gap", || {
        newest_backup(&agent) > first_backup
    });
    assert_eq!(
        agent.metrics().value("tidemark_gaps_total", &[("server", NAME)]),
        1.0
    );
    server.psql("INSERT INTO filler VALUES ('after the gap')");
    wait_until_durable(&agent, &server);
    server.kill9();
    assert_restored(&repository);
}

#[test]
fn an_agent_with_both_hosts_in_its_url_follows_a_failover_by_itself() {
    let repository = TestRepository::file();
    let primary = PostgresServer::start_new(VERSION);
    primary.psql("CREATE TABLE t (what text)");
    let standby = primary.start_standby();
    let url = format!(
        "postgresql://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=read-write",
        standby.port(),
        primary.port()
    );
    let settings = "max_lag = \"50ms\"\nheartbeat = \"1s\"\n";
    let agent = Agent::builder(&repository).postgres(NAME, &url, settings).start();
    wait_for_base_backup(&agent);
    primary.psql("INSERT INTO t VALUES ('1 before')");
    wait_until_durable(&agent, &primary);
    wait_for_agent(&agent, "the standby to replay", || {
        standby.psql("TABLE t") == "1 before"
    });
    let before = primary.psql("SELECT pg_current_wal_insert_lsn()");
    primary.kill9();
    standby.promote();
    standby.psql("INSERT INTO t VALUES ('2 after')");
    wait_until_streaming(&agent);
    wait_until_durable(&agent, &standby);
    standby.kill9();
    let rows = |target: &[&str]| {
        let restored = restore(&repository, VERSION).args(target.iter().copied()).start();
        restored.psql("SELECT string_agg(what, ', ' ORDER BY what) FROM t")
    };
    assert_eq!(rows(&["--target-latest"]), "1 before, 2 after");
    assert_eq!(rows(&["--target-lsn", &before]), "1 before");
}
