//! `wal-get` that cannot answer: recovery waits or ends, and never opens the server early.

use std::fs;
use std::time::Duration;

use tidemark_testkit::{
    Garage, PgVersion, PostgresServer, ProxyMode, Restore, ServerUser, TcpProxy, TestRepository,
    holds_within, run, wait_for,
};

use crate::protected::{PATIENCE, agent_for, protect, restore, wait_for_base_backup, wait_until_durable};

/// Exit codes at or above it end recovery; those below, but for 0, mean that there is no more log.
const ABORTS: i32 = 126;

fn with_rows(repository: &TestRepository, version: PgVersion) {
    let (server, agent) = protect(version, repository);
    server.psql("CREATE TABLE t (n int)");
    for n in 1..=3 {
        server.psql(&format!("INSERT INTO t VALUES ({n}); SELECT pg_switch_wal()"));
    }
    wait_until_durable(&agent, &server);
    server.kill9();
    agent.terminate(PATIENCE);
}

/// Lays the files down without starting a server, and returns the server that an operator would start.
fn laid_down(restore: &mut Restore, version: PgVersion) -> PostgresServer {
    restore.run().expect_success();
    PostgresServer::on_data_directory(version, restore.data_directory())
}

/// Whether `server`, started on a log that cannot be had, opens for writes within a while.
fn opens_early(server: &PostgresServer) -> bool {
    server.launch();
    let opened = holds_within(Duration::from_secs(8), || {
        !server.is_running()
            || server
                .try_psql("SELECT pg_is_in_recovery()")
                .is_ok_and(|answer| answer == "f")
    });
    opened && server.is_running()
}

#[test]
fn misuse_is_never_taken_for_the_end_of_the_log() {
    let repository = TestRepository::file();
    with_rows(&repository, PgVersion::V17);
    let mut restore = restore(&repository, PgVersion::V17).args(["--target-latest"]);
    restore.run().expect_success();
    let mut state = restore.data_directory().as_os_str().to_owned();
    state.push(".tidemark");
    let state = state.to_string_lossy().into_owned();
    let segment = "000000010000000000000003";
    let calls: [&[&str]; 7] = [
        &[],
        &["--nonsense"],
        &["--state"],
        &["--state", &state],
        &["--state", &state, segment],
        &["--state", "/nowhere", segment, "/tmp/tidemark-nowhere"],
        &["--state", &state, "../../etc/passwd", "/tmp/tidemark-nowhere"],
    ];
    for arguments in calls {
        let program = tidemark_testkit::tidemark_restore(&repository, "wal-get")
            .get_program()
            .to_owned();
        let finished = run(ServerUser::current()
            .command(program)
            .arg("wal-get")
            .args(arguments));
        let code = finished.code().unwrap_or(i32::MAX);
        assert!(code >= ABORTS, "{arguments:?}: {code} {}", finished.stderr);
    }
}

#[test]
fn a_dead_store_keeps_recovery_waiting_or_ends_it() {
    let garage = Garage::start_new();
    let proxy = TcpProxy::start(garage.endpoint().address);
    let repository = TestRepository::s3(&garage.endpoint().by_way_of(proxy.address()), "dead");
    let server = PostgresServer::start_new(PgVersion::V18);
    server.psql("CREATE TABLE t (n int)");
    let agent = agent_for(&repository, &server, "").start();
    wait_for_base_backup(&agent);
    server.psql("INSERT INTO t VALUES (1)");
    wait_until_durable(&agent, &server);
    server.kill9();
    agent.kill9();

    let mut restore = restore(&repository, PgVersion::V18).args(["--target-latest"]);
    let restored = laid_down(&mut restore, PgVersion::V18).with_environment(repository.environment());
    proxy.set(ProxyMode::Refuse);
    assert!(
        !opens_early(&restored),
        "the server opened without its log:\n{}",
        restored.log_text()
    );
    restored.kill9();
    proxy.set(ProxyMode::Pass);
    restored.launch();
    wait_for("recovery to end", PATIENCE, || {
        restored
            .try_psql("SELECT n FROM t WHERE NOT pg_is_in_recovery()")
            .is_ok_and(|rows| rows == "1")
    });
}

#[test]
fn damaged_or_missing_log_ends_recovery_instead_of_opening_the_server() {
    for harm in ["removed", "damaged", "no repository"] {
        let repository = TestRepository::file();
        with_rows(&repository, PgVersion::V15);
        let mut restore = restore(&repository, PgVersion::V15).args(["--target-latest"]);
        let server = laid_down(&mut restore, PgVersion::V15);
        let log = repository.directory().join("servers/shop/0001/log/00000001");
        for slice in fs::read_dir(&log).unwrap() {
            let slice = slice.unwrap().path();
            match harm {
                "removed" => fs::remove_file(slice).unwrap(),
                "damaged" => {
                    let mut bytes = fs::read(&slice).unwrap();
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 0x10;
                    fs::write(slice, bytes).unwrap();
                }
                _ => {}
            }
        }
        if harm == "no repository" {
            fs::rename(&log, log.with_file_name("elsewhere")).unwrap();
        }
        assert!(
            !opens_early(&server),
            "{harm}: the server opened without its log:\n{}",
            server.log_text()
        );
    }
}

#[test]
fn a_restored_server_that_is_started_by_hand_recovers_to_its_target() {
    for version in PgVersion::ALL {
        let repository = TestRepository::file();
        with_rows(&repository, version);
        let mut restore = restore(&repository, version).args(["--target-latest"]);
        let server = laid_down(&mut restore, version);
        server.launch();
        wait_for("recovery to end", PATIENCE, || {
            server
                .try_psql("SELECT pg_is_in_recovery()")
                .is_ok_and(|answer| answer == "f")
        });
        assert_eq!(
            server.psql("SELECT string_agg(n::text, ',' ORDER BY n) FROM t"),
            "1,2,3"
        );
    }
}
