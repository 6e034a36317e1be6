//! The whole cycle: write, back up, write on, kill, restore, compare; and what lies behind the target is absent.

use std::path::{Path, PathBuf};

use tidemark_testkit::{
    Agent, Daemon, MysqlRestore, MysqlServer, MysqlVersion, RestoredMysql, Signal, TestRepository, wait_for,
};

use crate::protected::{
    NAME, PATIENCE, agent_for, agent_that_dumps, server, wait_for_base_backup, wait_until_durable,
    wait_until_streaming,
};

const SCHEMA: &str = "CREATE DATABASE d; USE d; \
    CREATE TABLE t (id INT PRIMARY KEY, k INT, v VARCHAR(300), KEY (k)); \
    CREATE TABLE no_key (a INT, b VARCHAR(20)); CREATE TABLE held (id INT PRIMARY KEY);";

/// Statements of all kinds; `round` keeps keys apart.
fn load(server: &MysqlServer, round: u32) {
    let base = round * 1000;
    let mut sql = "USE d;".to_owned();
    for i in 0..300 {
        let id = base + 10 + i;
        sql.push_str(&format!(
            "INSERT INTO t VALUES ({id}, {i}, REPEAT('x', 200)); \
             BEGIN; UPDATE t SET k = k + 1 WHERE id <= {id}; INSERT INTO no_key VALUES ({i}, 'a'), ({i}, 'a'); COMMIT;"
        ));
    }
    sql.push_str(&format!(
        "DELETE FROM no_key WHERE a = 7 LIMIT 1; CREATE TABLE made_{round} AS SELECT * FROM t; \
         ALTER TABLE made_{round} ADD COLUMN more INT DEFAULT 5; FLUSH BINARY LOGS; \
         XA START 'open{round}'; INSERT INTO held VALUES ({base}); XA END 'open{round}'; XA PREPARE 'open{round}';"
    ));
    server.sql(&sql);
    server.sql(&format!("INSERT INTO d.t VALUES ({base}, 0, 'last')"));
}

/// A moment of the original, in all the ways to name it.
struct Moment {
    position: String,
    gtid: String,
    /// MySQL's set, MariaDB's position.
    executed: String,
    digest: String,
}

fn digest(sql: impl Fn(&str) -> String) -> String {
    let tables = "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables \
                  WHERE table_schema = 'd' ORDER BY 1";
    let tables = sql(tables).replace('\n', ", ");
    sql(&format!("CHECKSUM TABLE {tables}; SELECT COUNT(*) FROM d.t"))
}

fn moment(server: &MysqlServer) -> Moment {
    let (status, executed) = if server.version().is_mariadb() {
        ("SHOW MASTER STATUS", "SELECT @@gtid_binlog_pos")
    } else {
        ("SHOW BINARY LOG STATUS", "SELECT @@gtid_executed")
    };
    let status = server.sql(status);
    let mut columns = status.split('\t');
    let (file, offset) = (columns.next().unwrap(), columns.next().unwrap());
    let executed = server.sql(executed).replace('\n', "");
    let gtid = if server.version().is_mariadb() {
        executed.clone()
    } else {
        let (uuid, numbers) = executed.rsplit_once(':').unwrap();
        format!("{uuid}:{}", numbers.rsplit('-').next().unwrap())
    };
    Moment {
        position: format!("{file}:{offset}"),
        gtid,
        executed,
        digest: digest(|sql| server.sql(sql)),
    }
}

#[track_caller]
fn assert_at(restored: &RestoredMysql<'_>, moment: &Moment, version: MysqlVersion) {
    assert_eq!(digest(|sql| restored.sql(sql)), moment.digest);
    let executed = if version.is_mariadb() {
        "SELECT @@gtid_current_pos"
    } else {
        "SELECT @@gtid_executed"
    };
    assert_eq!(restored.sql(executed).replace('\n', ""), moment.executed);
    let stopped_at = &restored.report()["stopped_at"];
    assert_eq!(stopped_at["gtid_set"], moment.executed, "{stopped_at}");
    // MariaDB notes checkpoints behind the last transaction, at a time of its own.
    let place = |text: &str| -> (String, u64) {
        let (file, offset) = text.rsplit_once(':').unwrap();
        (file.to_owned(), offset.parse().unwrap())
    };
    let (stopped, wanted) = (
        place(stopped_at["position"].as_str().unwrap()),
        place(&moment.position),
    );
    assert_eq!(stopped.0, wanted.0);
    assert!(
        stopped.1 == wanted.1 || version.is_mariadb() && stopped.1 < wanted.1,
        "{stopped_at}"
    );
}

/// An original with a base backup taken while it held something, and its agent.
fn protected(version: MysqlVersion, repository: &TestRepository) -> (MysqlServer, Agent) {
    let server = server(version).start();
    server.sql(SCHEMA);
    server.sql("INSERT INTO d.t VALUES (1, 1, 'before the base backup')");
    let agent = agent_for(repository, &server, "").start();
    wait_until_streaming(&agent);
    wait_for_base_backup(&agent);
    (server, agent)
}

fn restores(version: MysqlVersion) {
    let repository = TestRepository::file();
    let (server, agent) = protected(version, &repository);
    load(&server, 1);
    let middle = moment(&server);
    load(&server, 2);
    wait_until_durable(&agent, &server);
    let end = moment(&server);
    server.kill9();
    agent.terminate(PATIENCE);

    let restore = MysqlRestore::new(&repository, NAME, version);
    let pause = ["--action", "pause"];
    let at = |target: &[&str]| restore.start(&[target, &pause].concat());
    let restored = at(&["--target-position", &middle.position, "--verify-first"]);
    assert_at(&restored, &middle, version);
    assert_eq!(
        restored.report()["prepared_xa"].as_array().map(Vec::len),
        Some(1),
        "{}",
        restored.report()
    );
    // MariaDB tells where it was configured only to whom may read files.
    if !version.is_mariadb() {
        let configuration = restored.report()["configuration"].as_str();
        let configuration = Path::new(configuration.expect("it is laid beside the data"));
        assert!(
            configuration
                .join(server.option_file().strip_prefix("/").unwrap())
                .is_file()
        );
    }
    // Nobody can write to it, so that it can go on.
    restored.stop();
    let restored = at(&["--target-latest", "--resume"]);
    assert_at(&restored, &end, version);
    assert_eq!(restored.sql("XA RECOVER").lines().count(), 2);
    restored.stop();

    let other = MysqlRestore::new(&repository, NAME, version);
    let restored = other.start(&["--target-gtid", &middle.gtid]);
    assert_at(&restored, &middle, version);
    restored.sql("CREATE TABLE d.open_for_writes (i INT)");
    restored.stop();
    let refused = other.run(&["--target-latest", "--resume"]);
    assert_eq!(refused.status.code(), Some(6), "{}", refused.stderr);
    assert!(refused.stderr.contains("opened for writes"), "{}", refused.stderr);
}

#[test]
fn mysql_97_is_restored() {
    restores(MysqlVersion::Mysql97);
}

#[test]
fn mariadb_1011_is_restored() {
    restores(MysqlVersion::MariaDb1011);
}

#[test]
fn mariadb_118_is_restored() {
    restores(MysqlVersion::MariaDb118);
}

/// Commits of one second are told apart: by MySQL's microseconds, and by GTID before and after.
#[test]
fn targets_within_a_second() {
    let repository = TestRepository::file();
    let (server, agent) = protected(MysqlVersion::Mysql97, &repository);
    let inserts: Vec<String> = (100..160)
        .map(|id| format!("INSERT INTO d.t VALUES ({id}, 0, '');"))
        .collect();
    let before = server.sql("SELECT @@gtid_executed");
    server.sql(&inserts.concat());
    wait_until_durable(&agent, &server);
    let (uuid, numbers) = before.rsplit_once(':').unwrap();
    let last: u32 = numbers.rsplit('-').next().unwrap().parse().unwrap();
    server.kill9();
    agent.terminate(PATIENCE);
    let rows = |arguments: &[&str]| {
        let restore = MysqlRestore::new(&repository, NAME, MysqlVersion::Mysql97);
        let restored = restore.start(arguments);
        let time = restored.report()["stopped_at"]["commit_time"]
            .as_str()
            .unwrap()
            .to_owned();
        (restored.sql("SELECT COUNT(*) FROM d.t WHERE id >= 100"), time)
    };
    let gtid = format!("{uuid}:{}", last + 20);
    let (count, time) = rows(&["--target-gtid", &gtid]);
    assert_eq!(count, "20");
    assert_eq!(rows(&["--target-gtid", &gtid, "--exclusive"]).0, "19");
    // The time of a commit, to the microsecond: it is in, and what follows is not.
    let (count, same) = rows(&["--target-time", &time]);
    assert_eq!((count.as_str(), same), ("20", time));
}

/// Where files cannot be copied, the base is a dump: a server is made anew of its statements.
fn a_dump_is_restored(version: MysqlVersion) {
    let repository = TestRepository::file();
    let server = server(version).start();
    server.sql(SCHEMA);
    server.sql(
        "USE d; INSERT INTO t VALUES (1, 1, 'it''s; \\n a \\\\ text'); CREATE TABLE isam (a INT) ENGINE = MyISAM; \
         INSERT INTO isam VALUES (1); CREATE VIEW w AS SELECT a FROM isam; \
         CREATE USER app@localhost IDENTIFIED BY 'Secret-1'; GRANT SELECT ON d.* TO app@localhost;",
    );
    let agent = agent_that_dumps(&repository, &server).start();
    wait_until_streaming(&agent);
    wait_for_base_backup(&agent);
    server.sql("INSERT INTO d.isam VALUES (2)");
    load(&server, 1);
    wait_until_durable(&agent, &server);
    let end = moment(&server);
    server.kill9();
    agent.terminate(PATIENCE);
    let restore = MysqlRestore::new(&repository, NAME, version);
    let restored = restore.start(&["--target-latest"]);
    assert_at(&restored, &end, version);
    assert_eq!(restored.sql("SELECT SUM(a) FROM d.w"), "3");
    assert!(restored.sql("SHOW GRANTS FOR app@localhost").contains("`d`.*"));
}

#[test]
fn a_dump_of_mysql_is_restored() {
    a_dump_is_restored(MysqlVersion::Mysql97);
}

#[test]
fn a_dump_of_mariadb_is_restored() {
    a_dump_is_restored(MysqlVersion::MariaDb1011);
    a_dump_is_restored(MysqlVersion::MariaDb118);
}

/// The restore is killed while its server applies; the server lives on, and the next restore ends it and goes on.
fn a_killed_restore_goes_on(version: MysqlVersion) {
    let repository = TestRepository::file();
    let (server, agent) = protected(version, &repository);
    let rows = "INSERT INTO d.no_key VALUES (1, 'x');".repeat(30_000);
    server.sql(&rows);
    wait_until_durable(&agent, &server);
    let end = moment(&server);
    agent.terminate(PATIENCE);

    let restore = MysqlRestore::new(&repository, NAME, version);
    let running = start_and_wait_until_it_applies(&restore);
    running.kill9();
    let restored = restore.start(&["--target-latest", "--resume", "--action", "pause"]);
    assert_at(&restored, &end, version);
}

#[test]
fn a_killed_restore_of_mysql_goes_on() {
    a_killed_restore_goes_on(MysqlVersion::Mysql97);
}

#[test]
fn a_killed_restore_of_mariadb_goes_on() {
    a_killed_restore_goes_on(MysqlVersion::MariaDb118);
}

/// A crash leaves a file without its end, and a transaction in the middle; what it had begun never happened.
fn a_log_with_a_crash_in_it_is_restored(version: MysqlVersion) {
    let repository = TestRepository::file();
    let (server, agent) = protected(version, &repository);
    server.sql("INSERT INTO d.t VALUES (5, 5, 'before the crash')");
    wait_until_durable(&agent, &server);
    let before = moment(&server);
    server.kill9();
    server.start();
    server.sql("INSERT INTO d.t VALUES (6, 6, 'after the crash')");
    wait_until_durable(&agent, &server);
    let end = moment(&server);
    agent.terminate(PATIENCE);
    let restore = MysqlRestore::new(&repository, NAME, version);
    let pause = ["--action", "pause"];
    let restored = restore.start(&[&["--target-gtid", &before.gtid], &pause[..]].concat());
    assert_at(&restored, &before, version);
    restored.stop();
    let restored = restore.start(&[&["--target-latest", "--resume"], &pause[..]].concat());
    assert_at(&restored, &end, version);
}

#[test]
fn a_log_with_a_crash_in_it_is_restored_by_mysql() {
    a_log_with_a_crash_in_it_is_restored(MysqlVersion::Mysql97);
}

#[test]
fn a_log_with_a_crash_in_it_is_restored_by_mariadb() {
    a_log_with_a_crash_in_it_is_restored(MysqlVersion::MariaDb1011);
    a_log_with_a_crash_in_it_is_restored(MysqlVersion::MariaDb118);
}

/// A bit that flips in the repository stops a restore before a server reads it, with or without looking beforehand.
#[test]
fn damage_in_the_log_is_found_before_a_server_reads_it() {
    let repository = TestRepository::file();
    let (server, agent) = protected(MysqlVersion::MariaDb118, &repository);
    load(&server, 1);
    wait_until_durable(&agent, &server);
    server.kill9();
    agent.terminate(PATIENCE);
    let mut slices = Vec::new();
    slices_below(repository.directory(), &mut slices);
    let largest = slices.into_iter().max_by_key(|(bytes, _)| *bytes);
    let (_, path) = largest.expect("slices are stored");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    for more in [&["--target-latest"][..], &["--target-latest", "--verify-first"]] {
        let restore = MysqlRestore::new(&repository, NAME, MysqlVersion::MariaDb118);
        let failed = restore.run(more);
        assert_eq!(failed.status.code(), Some(4), "{}", failed.stderr);
        assert_eq!(
            restore.data_directory().exists(),
            more.len() == 1,
            "{}",
            failed.stderr
        );
    }
}

/// Slices of the log below a directory, with their lengths.
fn slices_below(directory: &Path, found: &mut Vec<(u64, PathBuf)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let (path, metadata) = (entry.path(), entry.metadata().unwrap());
        if metadata.is_dir() {
            slices_below(&path, found);
        } else if path.to_string_lossy().contains("/log/") {
            found.push((metadata.len(), path));
        }
    }
}

/// Called off in the middle, it leaves no server behind, and goes on later.
#[test]
fn a_restore_that_is_called_off_goes_on() {
    let version = MysqlVersion::MariaDb1011;
    let repository = TestRepository::file();
    let (server, agent) = protected(version, &repository);
    server.sql(&"INSERT INTO d.no_key VALUES (1, 'x');".repeat(30_000));
    wait_until_durable(&agent, &server);
    let end = moment(&server);
    agent.terminate(PATIENCE);

    let restore = MysqlRestore::new(&repository, NAME, version);
    let running = start_and_wait_until_it_applies(&restore);
    running.signal(Signal::TERM);
    assert_eq!(running.wait(PATIENCE).code(), Some(1));
    let left = restore
        .data_directory()
        .with_file_name("data.tidemark/server/server.pid");
    assert!(!left.exists(), "{}", running.log_text());
    let restored = restore.start(&["--target-latest", "--resume", "--action", "pause"]);
    assert_at(&restored, &end, version);
}

fn start_and_wait_until_it_applies(restore: &MysqlRestore<'_>) -> Daemon {
    let log = restore.data_directory().with_file_name("restore.log");
    let running = Daemon::spawn(
        "tidemark-restore",
        &mut restore.command(&["--target-latest"]),
        &log,
    );
    let state = restore
        .data_directory()
        .with_file_name("data.tidemark/server/replay.json");
    wait_for("the log to be applied", PATIENCE, || {
        std::fs::read_to_string(&state).is_ok_and(|state| !state.contains("\"applying_to\": null"))
    });
    running
}
