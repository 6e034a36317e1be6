//! What cannot be done is refused before anything is harmed, with a message that says why and the exit code for it.

use std::fs;
use std::path::{Path, PathBuf};

use tidemark_testkit::{
    Agent, Garage, PgVersion, PostgresServer, ProxyMode, Scratch, ServerUser, StopMode, TcpProxy,
    TestRepository, run, tidemark_restore,
};

use crate::protected::{
    NAME, PATIENCE, agent_for, is_in_state, protect, restore, restore_tool, wait_for_agent,
    wait_for_base_backup, wait_until_durable,
};

const VERSION: PgVersion = PgVersion::V17;

/// All stored objects whose key holds `part`.
fn objects(repository: &TestRepository, part: &str) -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("list the repository") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(repository.directory(), &mut found);
    found.retain(|path| path.to_string_lossy().contains(part));
    found.sort();
    found
}

fn flip_a_bit(object: &Path) {
    let mut bytes = fs::read(object).expect("read an object");
    let middle = bytes.len() * 2 / 3;
    bytes[middle] ^= 1;
    fs::write(object, bytes).expect("damage an object");
}

/// A repository with a base backup and some log behind it, the server gone.
fn archived() -> TestRepository {
    let repository = TestRepository::file();
    let (server, agent) = protect(VERSION, &repository);
    server.psql("CREATE TABLE t AS SELECT generate_series(1, 10000) AS id");
    for n in 0..3 {
        server.psql(&format!("INSERT INTO t VALUES ({n}); SELECT pg_switch_wal()"));
        wait_until_durable(&agent, &server);
    }
    agent.terminate(PATIENCE);
    repository
}

#[test]
fn another_cluster_under_the_same_name_is_refused() {
    let repository = TestRepository::file();
    let (server, agent) = protect(VERSION, &repository);
    agent.terminate(PATIENCE);
    let stranger = PostgresServer::start_new(VERSION);
    let agent = agent_for(&repository, &stranger, "").start();
    wait_for_agent(&agent, "a conflict", || is_in_state(&agent, "conflict"));
    let identity = "SELECT system_identifier FROM pg_control_system()";
    let log = agent.log_text();
    for expected in [server.psql(identity), stranger.psql(identity), "adopt".to_owned()] {
        assert!(log.contains(&expected), "{expected} is not in:\n{log}");
    }
    agent.kill9();
    agent.run("adopt", &["--server", NAME]).expect_success();
    agent.start();
    wait_for_base_backup(&agent);
    stranger.psql("CREATE TABLE of_the_new_one ()");
    wait_until_durable(&agent, &stranger);
    let restored = restore(&repository, VERSION).args(["--target-latest"]).start();
    assert_eq!(restored.psql(identity), stranger.psql(identity));
    assert_eq!(restored.psql("SELECT count(*) FROM of_the_new_one"), "0");
}

#[test]
fn a_directory_that_is_not_empty_is_left_alone() {
    let repository = archived();
    let mut restore = restore(&repository, VERSION).args(["--target-latest"]);
    fs::create_dir(restore.data_directory()).unwrap();
    let precious = restore.data_directory().join("precious");
    fs::write(&precious, "data").unwrap();
    let message = restore.run().expect_code(6);
    assert!(
        message.contains("is not empty") && message.contains("--delta"),
        "{message}"
    );
    assert_eq!(fs::read_to_string(precious).unwrap(), "data");
    assert_eq!(fs::read_dir(restore.data_directory()).unwrap().count(), 1);

    // Neither is the folder beside it that a restore needs.
    fs::remove_dir_all(restore.data_directory()).unwrap();
    let beside = restore.data_directory().with_file_name("data.tidemark");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("precious"), "data").unwrap();
    let message = restore.run().expect_code(6);
    assert!(message.contains("holds something else"), "{message}");
    assert_eq!(fs::read_to_string(beside.join("precious")).unwrap(), "data");
}

#[test]
fn targets_out_of_reach_are_refused_with_the_nearest_that_is_not() {
    let repository = archived();
    for target in [
        ["--target-time", "2020-01-01T00:00:00Z"],
        ["--target-time", "2099-01-01T00:00:00Z"],
        ["--target-lsn", "0/1000028"],
        ["--target-lsn", "F/0"],
    ] {
        let message = run(restore_tool(&repository, "plan").args(target)).expect_code(3);
        assert!(
            message.contains("hint: the nearest that can"),
            "{target:?}: {message}"
        );
        let mut restore = restore(&repository, VERSION).args(target);
        restore.run().expect_code(3);
        assert!(
            !restore.data_directory().exists(),
            "{target:?}: something was written"
        );
    }
    for target in [["--target-xid", "4000000000"], ["--target-name", "nowhere"]] {
        let message = run(restore_tool(&repository, "plan").args(target)).expect_code(3);
        assert!(message.contains(target[1]), "{message}");
    }
}

#[test]
fn a_time_without_a_zone_and_other_misuse_are_usage_errors() {
    let repository = archived();
    let plan = |arguments: &[&str]| run(restore_tool(&repository, "plan").args(arguments)).expect_code(2);
    let message = plan(&["--target-time", "2026-01-01 00:00:00"]);
    assert!(message.contains("zone"), "{message}");
    plan(&[]);
    plan(&["--target-latest", "--target-immediate"]);
    plan(&["--target-lsn", "nonsense"]);
}

#[test]
fn a_flipped_bit_in_any_object_stops_the_restore() {
    let repository = archived();
    for part in ["/base/", "/log/"] {
        let found = objects(&repository, part);
        let manifest = found.iter().find(|path| path.ends_with("manifest.zst"));
        let pack = found
            .iter()
            .find(|path| path.to_string_lossy().contains("/pack-"));
        let map = found.iter().find(|path| path.to_string_lossy().contains("/map-"));
        let slice = found.last().filter(|_| part == "/log/");
        let victims: Vec<_> = [manifest, pack, map, slice].into_iter().flatten().collect();
        assert!(!victims.is_empty(), "nothing under {part}");
        for victim in victims {
            let intact = fs::read(victim).unwrap();
            flip_a_bit(victim);
            let finished = restore(&repository, VERSION)
                .args(["--target-latest", "--verify-first"])
                .run();
            let code = finished.code();
            let message = finished.stdout + &finished.stderr;
            // A manifest that cannot be read is as if the backup were not there: no target is reachable by it.
            let expected: &[i32] = if Some(victim) == manifest { &[3, 4] } else { &[4] };
            assert!(
                code.is_some_and(|code| expected.contains(&code)),
                "{}: {code:?} {message}",
                victim.display()
            );
            fs::write(victim, intact).unwrap();
        }
    }
}

#[test]
fn a_missing_slice_is_a_gap() {
    let repository = archived();
    let slices = objects(&repository, "/log/");
    // The segment after the one that the base backup ends in, whatever slices hold it.
    let file_of = |path: &Path| path.file_name().unwrap().to_string_lossy()[..16].to_owned();
    let last_file = file_of(slices.last().unwrap());
    let removed = slices
        .iter()
        .rev()
        .map(|path| file_of(path))
        .find(|file| *file != last_file)
        .unwrap();
    for slice in slices.iter().filter(|path| file_of(path) == removed) {
        fs::remove_file(slice).unwrap();
    }
    let finished = run(restore_tool(&repository, "plan").args(["--target-latest", "--json"]));
    let code = finished.code();
    let text = finished.stdout + &finished.stderr;
    assert!(matches!(code, Some(3 | 4)), "{code:?} {text}");
}

#[test]
fn a_disk_without_room_is_found_before_anything_is_written() {
    let repository = archived();
    let scratch = Scratch::new("small");
    let disk = scratch.subdir("disk");
    let bin_dir = VERSION.bin_dir();
    let mut command = restore_tool(&repository, "restore");
    command
        .arg("--target-latest")
        .arg("--to")
        .arg(disk.join("data"))
        .arg("--pg-bin")
        .arg(bin_dir);
    // A file system of 8 MiB, seen by this command alone.
    let script = "mount -t tmpfs -o size=8m tmpfs \"$0\" && \"$@\"; code=$?; ls -A \"$0\"; exit $code";
    let mut wrapped = ServerUser::current().command("unshare");
    wrapped
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(&disk)
        .arg(command.get_program())
        .args(command.get_args());
    let finished = run(&mut wrapped);
    assert_eq!(finished.stdout, "", "something was written");
    let message = finished.expect_code(2);
    assert!(message.contains("has room for 8.0 MiB"), "{message}");
}

#[test]
fn a_repository_that_cannot_be_reached_is_said_to_be() {
    let garage = Garage::start_new();
    let proxy = TcpProxy::start(garage.endpoint().address);
    proxy.set(ProxyMode::Refuse);
    let repository = TestRepository::s3(&garage.endpoint().by_way_of(proxy.address()), "away");
    run(&mut tidemark_restore(&repository, "list")).expect_code(5);
    let mut nothing = TestRepository::file();
    let empty = run(&mut tidemark_restore(&nothing, "list"));
    assert_ne!(empty.code(), Some(1), "{}", empty.stderr);
    let path = nothing.directory().join("tidemark.json");
    fs::write(&path, "not json").unwrap();
    let message = run(&mut tidemark_restore(&nothing, "list")).expect_code(4);
    assert!(message.contains("tidemark.json"), "{message}");
    nothing = archived();
    let message =
        run(tidemark_restore(&nothing, "plan").args(["--server", "shoe", "--target-latest"])).expect_code(2);
    assert!(message.contains(NAME), "{message}");
}

#[test]
fn a_wrong_password_is_told_and_the_other_servers_go_on() {
    let server = PostgresServer::builder(VERSION)
        .hba("host all guarded 127.0.0.1/32 scram-sha-256")
        .start();
    server.psql("CREATE ROLE guarded SUPERUSER LOGIN PASSWORD 'right'");
    let other = PostgresServer::start_new(PgVersion::V15);
    let repository = TestRepository::file();
    let agent = Agent::builder(&repository)
        .postgres("guarded", &server.url_as("guarded"), "max_lag = \"50ms\"")
        .postgres("open", &other.url(), "max_lag = \"50ms\"")
        .env("PGPASSWORD", "wrong")
        .start();
    let state = |server: &str, state: &str| {
        let labels = [("server", server), ("state", state)];
        agent.metrics().values("tidemark_pipeline_state", &labels) == [1.0]
    };
    wait_for_agent(&agent, "the refusal", || state("guarded", "failed"));
    wait_for_agent(&agent, "the other server to be streamed", || {
        state("open", "streaming")
    });
    let log = agent.log_text();
    assert!(log.contains("password authentication failed"), "{log}");
    assert!(
        !log.contains("wrong\"") && !log.contains("=wrong"),
        "the password is in the log:\n{log}"
    );
    assert_eq!(agent.health().unwrap().status, 503);
    let check = agent.run("check", &["--server", "guarded"]);
    assert_ne!(check.code(), Some(0), "{}", check.stdout);
    server.stop(StopMode::Fast);
}
