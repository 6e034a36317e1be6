//! Restores over an earlier data directory, and to whom what is restored belongs.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tidemark_testkit::{
    Agent, Daemon, Finished, Garage, PgVersion, PostgresServer, ProxyMode, Scratch, ServerUser, Signal,
    TcpProxy, TestRepository, run, wait_for,
};

use crate::protected::{
    PATIENCE, agent_for, restore, restore_tool, take_backup, wait_for_base_backup, wait_until_durable,
};

const TABLES: [&str; 3] = ["settled", "busy", "elsewhere"];

fn digest(digest_of: impl Fn(&str) -> String) -> String {
    TABLES.map(digest_of).join("; ")
}

/// A server with a tablespace, and much that does not change; and where its tablespace is.
fn server_with_tables(version: PgVersion) -> (PostgresServer, PathBuf) {
    let server = PostgresServer::start_new(version);
    let location = server.create_tablespace("far");
    // Random text: what does not compress must be fetched at its length.
    server.psql(
        "CREATE TABLE settled AS SELECT n, md5(random()::text) || md5(random()::text) AS filler \
             FROM generate_series(1, 200000) AS n; \
         CREATE TABLE busy AS SELECT n, 0 AS changes FROM generate_series(1, 10000) AS n; \
         CREATE TABLE doomed AS SELECT n FROM generate_series(1, 10000) AS n; \
         CREATE TABLE elsewhere TABLESPACE far AS SELECT n FROM generate_series(1, 10000) AS n; \
         VACUUM FREEZE; CHECKPOINT",
    );
    (server, location)
}

fn protected(repository: &TestRepository, version: PgVersion) -> (PostgresServer, Agent, PathBuf) {
    let (server, location) = server_with_tables(version);
    let agent = agent_for(repository, &server, "").start();
    wait_for_base_backup(&agent);
    wait_until_durable(&agent, &server);
    (server, agent, location)
}

fn mapping(old: &Path, new: &Path) -> String {
    format!("{}={}", old.display(), new.display())
}

/// The files below a directory with their contents, in order.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("list a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).expect("read a file");
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

/// What a disk, a person and another server may do to a data directory.
fn damage(data: &Path, files: &[String]) {
    let [settled, busy, elsewhere] = files else {
        panic!("{files:?}")
    };
    let file = fs::File::options().write(true).open(data.join(settled)).unwrap();
    file.write_all_at(b"bytes that are not the page's", 3 * 8192 + 1000)
        .unwrap();
    let file = fs::File::options().write(true).open(data.join(busy)).unwrap();
    file.set_len(8192).unwrap();
    fs::remove_file(data.join(elsewhere)).unwrap();
    for stranger in [
        "stranger",
        "base/99999",
        "standby.signal",
        "pg_wal/0000000900000009000000FF",
    ] {
        fs::write(data.join(stranger), "it does not belong here").unwrap();
    }
    let dropped = data.join("base/7777777");
    fs::create_dir(&dropped).unwrap();
    ServerUser::current().own(&dropped);
    fs::write(dropped.join("1"), "nor does this").unwrap();
    // One where a file must be, which leads to what is not ours.
    let outside = data.with_file_name("outside");
    fs::write(&outside, "precious").unwrap();
    fs::remove_file(data.join("PG_VERSION")).unwrap();
    std::os::unix::fs::symlink(&outside, data.join("PG_VERSION")).unwrap();
}

#[test]
fn over_an_earlier_directory_only_what_differs_is_fetched() {
    const VERSION: PgVersion = PgVersion::V18;
    let garage = Garage::start_new();
    let proxy = TcpProxy::start(garage.endpoint().address);
    let repository = TestRepository::s3(&garage.endpoint().by_way_of(proxy.address()), "delta");
    let (server, agent, location) = protected(&repository, VERSION);
    agent.terminate(PATIENCE);

    let mut over = restore(&repository, VERSION);
    let far = over.subdir("far");
    over = over.args([
        "--target-latest",
        "--jobs",
        "1",
        "--tablespace",
        &mapping(&location, &far),
    ]);
    let before = proxy.forwarded();
    over.run().expect_success();
    let whole = proxy.forwarded() - before;

    // Time goes by, and another backup is made, most of which lies in the first one's packs.
    agent.start();
    server.psql("UPDATE busy SET changes = changes + 1; DROP TABLE doomed; UPDATE elsewhere SET n = n + 1");
    take_backup(&agent, &[]);
    server.psql("UPDATE busy SET changes = changes + 1 WHERE n % 7 = 0");
    wait_until_durable(&agent, &server);
    let expected = digest(|table| server.digest(table));
    let files = server
        .psql("SELECT pg_relation_filepath(name) FROM unnest('{settled,busy,elsewhere}'::text[]) AS name");
    let files: Vec<String> = files.lines().map(str::to_owned).collect();
    server.kill9();
    agent.terminate(PATIENCE);
    damage(over.data_directory(), &files);

    let outside = over.data_directory().with_file_name("outside");
    let before = proxy.forwarded();
    let restored = over.args(["--delta"]).start();
    let differing = proxy.forwarded() - before;
    assert_eq!(
        digest(|table| restored.client().digest(table)),
        expected,
        "{}",
        restored.report()
    );
    assert!(
        differing < whole / 3,
        "{differing} bytes were moved, and {whole} for the whole of it"
    );
    assert_eq!(restored.report()["plan"]["base"]["kind"], "incremental");
    let data = restored.data_directory().to_owned();
    for stranger in [
        "stranger",
        "base/99999",
        "base/7777777",
        "pg_wal/0000000900000009000000FF",
    ] {
        assert!(!data.join(stranger).exists(), "{stranger} is still there");
    }
    assert_eq!(fs::read_to_string(outside).unwrap(), "precious");

    // It is a running server's now.
    let refused = delta(&repository, VERSION, &data, &["--target-latest"]);
    let message = refused.expect_code(6);
    assert!(message.contains("postmaster.pid"), "{message}");
    assert_eq!(digest(|table| restored.client().digest(table)), expected);
    restored.assert_sound();
}

#[test]
fn a_restore_that_is_called_off_leaves_no_server_and_is_done_again_over_what_it_left() {
    const VERSION: PgVersion = PgVersion::V17;
    let garage = Garage::start_new();
    let proxy = TcpProxy::start(garage.endpoint().address);
    let repository = TestRepository::s3(&garage.endpoint().by_way_of(proxy.address()), "called-off");
    let (server, agent, location) = protected(&repository, VERSION);
    server.psql("INSERT INTO settled SELECT n, md5(random()::text) FROM generate_series(1, 100000) AS n");
    let expected = digest(|table| server.digest(table));
    wait_until_durable(&agent, &server);
    server.kill9();
    agent.kill9();
    let scratch = Scratch::new("called-off");
    let (data, far) = (scratch.path().join("data"), scratch.subdir("far"));
    let mut command = restore_tool(&repository, "restore");
    command
        .args(["--target-latest", "--start", "--pg-bin"])
        .arg(VERSION.bin_dir());
    command.args(["--tablespace", &mapping(&location, &far)]);
    command.arg("--to").arg(&data);
    // The log takes seconds at this rate, so that the server is still waiting for it when nothing comes any more.
    proxy.set(ProxyMode::Throttle(3 << 20));
    let restoring = Daemon::spawn("tidemark-restore", &mut command, &scratch.path().join("log"));
    let pid = data.join("postmaster.pid");
    let settings = data.join("postgresql.auto.conf");
    wait_for("the files to be laid down", PATIENCE, || {
        settings.exists() && data.join("recovery.signal").exists()
    });
    proxy.set(ProxyMode::Hang);
    wait_for("the server to start", PATIENCE, || pid.exists());
    restoring.signal(Signal::INT);
    let status = restoring.wait(PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", restoring.log_text());
    assert!(
        restoring.log_text().contains("called off"),
        "{}",
        restoring.log_text()
    );
    wait_for("its server to end", PATIENCE, || !pid.exists());

    proxy.set(ProxyMode::Pass);
    run(command.arg("--delta").args(["--action", "shutdown"])).expect_success();
    let restored = PostgresServer::on_data_directory(VERSION, &data);
    fs::remove_file(data.join("recovery.signal")).unwrap();
    restored.start();
    assert_eq!(digest(|table| restored.digest(table)), expected);
}

/// A restore with `--delta` over `data`.
fn delta(repository: &TestRepository, version: PgVersion, data: &Path, arguments: &[&str]) -> Finished {
    let mut command = restore_tool(repository, "restore");
    command.arg("--delta").arg("--to").arg(data);
    run(command.arg("--pg-bin").arg(version.bin_dir()).args(arguments))
}

#[test]
fn a_tablespace_that_goes_elsewhere_is_left_as_it_was() {
    const VERSION: PgVersion = PgVersion::V15;
    let repository = TestRepository::file();
    let (server, agent, location) = protected(&repository, VERSION);
    let expected = digest(|table| server.digest(table));
    server.kill9();
    agent.kill9();
    let mut over = restore(&repository, VERSION);
    let (first, second) = (over.subdir("first"), over.subdir("second"));
    over = over.args(["--target-latest", "--tablespace", &mapping(&location, &first)]);
    over.run().expect_success();
    let data = over.data_directory().to_owned();

    // Another server's by now: `first` has a file that the backup knows nothing of.
    fs::write(first.join("of another server"), "precious").unwrap();
    let untouched = contents(&first);
    let arguments = ["--target-latest", "--tablespace", &mapping(&location, &second)];
    let in_the_way = second.join("in the way");
    fs::write(&in_the_way, "precious").unwrap();
    let message = delta(&repository, VERSION, &data, &arguments).expect_code(6);
    assert!(message.contains("second is not empty"), "{message}");
    assert_eq!(fs::read_to_string(&in_the_way).unwrap(), "precious");
    fs::remove_file(in_the_way).unwrap();

    delta(&repository, VERSION, &data, &arguments).expect_success();
    assert!(
        contents(&first) == untouched,
        "the earlier tablespace was touched"
    );
    let restored = PostgresServer::on_data_directory(VERSION, &data);
    restored.launch();
    wait_for("recovery to end", PATIENCE, || {
        let answer = restored.try_psql("SELECT pg_is_in_recovery()");
        answer.is_ok_and(|answer| answer == "f")
    });
    assert_eq!(digest(|table| restored.digest(table)), expected);
    let moved = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'far'";
    assert_eq!(restored.psql(moved), second.to_string_lossy());
}

#[test]
fn what_is_no_data_directory_is_not_restored_over() {
    let repository = TestRepository::file();
    let (_server, _agent, _) = protected(&repository, PgVersion::V17);
    let scratch = Scratch::new("home");
    let home = scratch.subdir("home");
    fs::write(home.join("thesis.tex"), "precious").unwrap();
    let message = delta(&repository, PgVersion::V17, &home, &["--target-latest"]).expect_code(6);
    assert!(message.contains("no data directory"), "{message}");
    assert_eq!(contents(&home).len(), 1);
}

/// The same command as the user who runs the tests, not as the servers' user.
fn as_ourselves(command: &Command) -> Command {
    let mut ours = Command::new(command.get_program());
    ours.args(command.get_args()).current_dir("/");
    ours
}

#[test]
fn what_root_restores_belongs_to_the_servers_user() {
    const VERSION: PgVersion = PgVersion::V17;
    let repository = TestRepository::file();
    let server = PostgresServer::start_new(VERSION);
    let owner = fs::metadata(server.data_directory()).unwrap().uid();
    let agent = agent_for(&repository, &server, "").start();
    wait_for_base_backup(&agent);
    let scratch = Scratch::new("owner");
    let command = |name: &str, owner: &[&str]| {
        let mut command = restore_tool(&repository, "restore");
        command.args(["--target-immediate", "--jobs", "16"]).args(owner);
        command.arg("--to").arg(scratch.path().join(name));
        command.arg("--pg-bin").arg(VERSION.bin_dir());
        command
    };
    // Only root can give files away.
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut by_servers_user = command("refused", &["--owner", "postgres"]);
    if is_root || owner != 0 {
        let message = run(&mut by_servers_user).expect_code(2);
        assert!(message.contains("--owner"), "{message}");
        assert!(!scratch.path().join("refused").exists());
    }
    if !is_root {
        return;
    }
    let message = run(&mut as_ourselves(&command(
        "nobody",
        &["--owner", "no-such-user"],
    )))
    .expect_code(2);
    assert!(message.contains("no-such-user"), "{message}");
    assert!(!scratch.path().join("nobody").exists());
    // What root sees and the server would not.
    let closed = scratch.subdir("closed");
    std::os::unix::fs::chown(&closed, Some(0), Some(0)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let program = closed.join("tidemark-restore");
    fs::copy(by_servers_user.get_program(), &program).unwrap();
    let open = command("open", &[]);
    let mut from_closed = Command::new(&program);
    from_closed.args(open.get_args());
    for mut refused in [as_ourselves(&command("closed/data", &[])), from_closed] {
        let message = run(&mut refused).expect_code(2);
        assert!(message.contains("is closed"), "{message}");
    }
    assert_eq!(fs::read_dir(&closed).unwrap().count(), 1, "something was written");
    assert!(!scratch.path().join("open").exists());
    // Named, and by default the owner of the directory above.
    for (name, named) in [("named", &["--owner", "postgres"][..]), ("unnamed", &[])] {
        let mut command = as_ourselves(&command(name, named));
        run(command.args(["--start", "--action", "shutdown"])).expect_success();
        let data = scratch.path().join(name);
        let strangers: Vec<PathBuf> = every_path(&data)
            .into_iter()
            .filter(|path| fs::symlink_metadata(path).unwrap().uid() != owner)
            .collect();
        assert!(
            strangers.is_empty(),
            "{name}: {strangers:?} belong to somebody else"
        );
    }
}

fn every_path(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    for entry in fs::read_dir(directory).expect("list a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(every_path(&path));
        } else {
            found.push(path);
        }
    }
    found
}
