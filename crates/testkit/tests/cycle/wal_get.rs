//! `wal-get` that cannot answer: recovery waits or ends, and never opens the server early.

use std::fs;
use std::process::Command;
use std::thread;
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

/// Waits until `server` ends, and makes sure that it ended because its log could not be had, and not because it took
/// what it had for all of it.
#[track_caller]
fn assert_ends_without_opening(server: &PostgresServer) {
    wait_for("the server to end", PATIENCE, || !server.is_running());
    let log = server.log_text();
    // Of a file that is known not to be there nothing is logged: see RestoreArchivedFile in xlogarchive.c.
    assert!(
        log.contains("could not restore file"),
        "the server took the failure for the end of its log:\n{log}"
    );
    let promoted = server.data_directory().join("pg_wal/00000002.history");
    assert!(!promoted.exists(), "the server opened without its log:\n{log}");
}

/// Starts `server` and waits until it has recovered and holds the rows `expected` of `t`.
#[track_caller]
fn assert_recovers(server: &PostgresServer, expected: &str) {
    const ROWS: &str = "SELECT string_agg(n::text, ',' ORDER BY n) FROM t WHERE NOT pg_is_in_recovery()";
    server.launch();
    wait_for("recovery to end", PATIENCE, || {
        server.try_psql(ROWS).is_ok_and(|rows| rows == expected)
    });
}

/// The process of a running `wal-get` that serves the restore into the data directory of `server`.
fn wal_get_for(server: &PostgresServer) -> Option<String> {
    let mut state = server.data_directory().as_os_str().to_owned();
    state.push(".tidemark");
    let state = state.to_string_lossy().into_owned();
    let is_it = |pid: &str| {
        let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&str> = arguments.split('\0').collect();
        words.get(1..4) == Some(&["wal-get", "--state", &state])
    };
    let processes = fs::read_dir("/proc").expect("list processes");
    let mut names = processes.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.find(|name| is_it(name))
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
    // Killed in the middle of a request that gets no answer.
    proxy.set(ProxyMode::Hang);
    restored.launch();
    wait_for("the server to ask for its log", PATIENCE, || {
        wal_get_for(&restored).is_some()
    });
    thread::sleep(Duration::from_secs(1));
    let process = wal_get_for(&restored).expect("it waits for an answer");
    run(Command::new("kill").args(["-9", &process])).expect_success();
    assert_ends_without_opening(&restored);

    proxy.set(ProxyMode::Refuse);
    assert!(
        !opens_early(&restored),
        "the server opened without its log:\n{}",
        restored.log_text()
    );
    restored.kill9();
    proxy.set(ProxyMode::Pass);
    assert_recovers(&restored, "1");
}

#[test]
fn a_panic_in_wal_get_ends_recovery_instead_of_opening_the_server() {
    let repository = TestRepository::file();
    with_rows(&repository, PgVersion::V18);
    let mut restore = restore(&repository, PgVersion::V18).args(["--target-latest"]);
    let server = laid_down(&mut restore, PgVersion::V18);
    let settings = server.data_directory().join("postgresql.auto.conf");
    let intact = fs::read_to_string(&settings).unwrap();
    // Its runtime cannot start a thread then, and panics.
    let harmed = intact.replace(
        "restore_command = '",
        "restore_command = 'exec prlimit --nproc=1 ",
    );
    assert_ne!(harmed, intact);
    fs::write(&settings, harmed).unwrap();
    server.launch();
    assert_ends_without_opening(&server);
    let log = server.log_text();
    assert!(log.contains("panicked at"), "nothing panicked:\n{log}");

    fs::write(&settings, intact).unwrap();
    assert_recovers(&server, "1,2,3");
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
        assert_recovers(&server, "1,2,3");
    }
}
