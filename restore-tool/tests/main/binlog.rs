//! `list`, `plan` and `export` over the binlogs of real servers. What is expected comes from the server itself: where it
//! stood, which GTID it had given last and what time it was after each transaction.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tidemark_mysql::archive::BranchEnd;
use tidemark_testkit::{Finished, MysqlServer, MysqlVersion, Scratch, TestRepository, run};
use tidemark_types::{Timestamp, parse_time};

use crate::archive::{BinlogArchive, File};

/// What the server said of itself when nothing was under way.
#[derive(Debug, Clone)]
struct Moment {
    file: u64,
    offset: u64,
    gtid: String,
    /// Whole seconds on MariaDB, whose log has no more.
    time: String,
}

impl Moment {
    fn of(server: &MysqlServer) -> Moment {
        let is_mariadb = server.version().is_mariadb();
        let (status, time) = if is_mariadb {
            ("SHOW MASTER STATUS", "SELECT UNIX_TIMESTAMP()")
        } else {
            ("SHOW BINARY LOG STATUS", "SELECT UNIX_TIMESTAMP(NOW(6))")
        };
        let status = server.sql(status);
        let mut columns = status.split('\t');
        let (file, offset) = (columns.next().unwrap(), columns.next().unwrap());
        let gtid = if is_mariadb {
            server.sql("SELECT @@gtid_binlog_pos")
        } else {
            // uuid:1-7 on a server that has given every number of its own.
            let executed = server.sql("SELECT @@gtid_executed");
            let (uuid, numbers) = executed.rsplit_once(':').unwrap();
            format!("{uuid}:{}", numbers.rsplit('-').next().unwrap())
        };
        let seconds = server.sql(time);
        let (whole, micros) = seconds.split_once('.').unwrap_or((&seconds, "0"));
        let micros = whole.parse::<i64>().unwrap() * 1_000_000 + micros.parse::<i64>().unwrap();
        // Whatever comes next is in another second, which is all that MariaDB tells.
        server.sql("DO SLEEP(1.1)");
        Moment {
            file: file.rsplit_once('.').unwrap().1.parse().unwrap(),
            offset: offset.parse().unwrap(),
            gtid,
            time: Timestamp(micros).to_string(),
        }
    }

    fn position(&self) -> String {
        format!("bin.{:06}:{}", self.file, self.offset)
    }
}

/// The program on `repository`, for the server that [`BinlogArchive`] makes.
fn tool(repository: &TestRepository, verb: &str, arguments: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark-restore"));
    command.args([verb, "--repository", repository.url()]);
    command.args(["--server", "orders"]).args(arguments);
    run(&mut command)
}

fn json(repository: &TestRepository, verb: &str, arguments: &[&str]) -> Value {
    let text = tool(repository, verb, &[arguments, &["--json"]].concat()).expect_success();
    serde_json::from_str(&text).unwrap()
}

/// Where the log is cut.
fn cut(repository: &TestRepository, target: &[&str]) -> String {
    json(repository, "plan", target)["log"]["end"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn read_files(server: &MysqlServer) -> Vec<File> {
    let paths = server.binlog_files();
    let last = paths.last().cloned();
    let read = |path: PathBuf| File::read(&path, Some(&path) != last.as_ref());
    paths.into_iter().map(read).collect()
}

/// Exports with `arguments`, and compares each file with `expected` and with what the vendor's program makes of it.
fn assert_exports(server: &MysqlServer, repository: &TestRepository, arguments: &[&str], expected: &[File]) {
    let scratch = Scratch::new("export");
    let output = scratch.path().join("binlog");
    let to = ["--output", output.to_str().unwrap()];
    let summary = json(repository, "export", &[&to, arguments].concat());
    let names: Vec<String> = expected
        .iter()
        .map(|file| format!("bin.{:06}", file.number))
        .collect();
    assert_eq!(summary["files"], serde_json::json!(names));
    for (file, name) in expected.iter().zip(names) {
        let exported = output.join(name);
        assert!(
            fs::read(&exported).unwrap() == file.bytes,
            "{} differs",
            exported.display()
        );
        assert_reads(server, &exported);
    }
    let again = tool(repository, "export", &[&to, arguments].concat()).expect_code(6);
    assert!(again.contains("is there already"), "{again}");
}

fn assert_reads(server: &MysqlServer, file: &Path) {
    run(server.mysqlbinlog().arg("--verify-binlog-checksum").arg(file)).expect_success();
}

/// Every way to name a moment cuts the log where the server stood then; `next` is the one after it.
fn assert_moment(repository: &TestRepository, moment: &Moment, next: &Moment) {
    for target in [
        vec!["--target-time", &moment.time],
        vec!["--target-gtid", &moment.gtid],
        vec!["--target-position", &moment.position()],
        vec!["--target-gtid", &next.gtid, "--exclusive"],
        vec!["--target-position", &next.position(), "--exclusive"],
    ] {
        assert_eq!(cut(repository, &target), moment.position(), "{target:?}");
    }
}

fn assert_plans(version: MysqlVersion) {
    // Only whole transactions over a grain and more show whether reading begins in the right place.
    let server = MysqlServer::builder(version)
        .option("max_allowed_packet = 64M")
        .start();
    server.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, v LONGBLOB); \
         CREATE TABLE d.m (v INT) ENGINE = MyISAM; INSERT INTO d.t (v) VALUES ('base')",
    );
    let base = Moment::of(&server);
    let work = [
        "BEGIN; INSERT INTO d.t (v) VALUES ('a'), ('b'); UPDATE d.t SET v = 'c'; COMMIT",
        "INSERT INTO d.m VALUES (1)",
        "ALTER TABLE d.t ADD COLUMN w INT",
        "BEGIN; INSERT INTO d.t (v) VALUES (REPEAT('x', 9000000)); INSERT INTO d.t (v) VALUES (REPEAT('y', 9000000)); \
         INSERT INTO d.t (v) VALUES (REPEAT('z', 9000000)); COMMIT",
        "INSERT INTO d.t (v) VALUES ('after the big one')",
        "FLUSH BINARY LOGS; INSERT INTO d.t (v) VALUES ('in another file')",
        "INSERT INTO d.t (v) VALUES ('in the last file')",
    ];
    let mut moments = vec![base.clone()];
    for sql in work {
        server.sql(sql);
        moments.push(Moment::of(&server));
    }
    let last = moments.last().unwrap().clone();
    server.stop();

    let repository = TestRepository::file();
    let mut archive = BinlogArchive::new(repository.url(), version);
    let files = read_files(&server);
    archive.store(1, None, &files, 150_000);
    archive.back_up(
        1,
        base.file,
        base.offset,
        parse_time(&base.time, Timestamp(0)).unwrap(),
    );

    for pair in moments.windows(2) {
        assert_moment(&repository, &pair[0], &pair[1]);
    }
    assert_eq!(cut(&repository, &["--target-latest"]), last.position());
    assert_eq!(cut(&repository, &["--target-immediate"]), base.position());
    // Within a transaction: it stays out.
    let within = format!("bin.{:06}:{}", moments[4].file, moments[4].offset - 1);
    assert_eq!(
        cut(&repository, &["--target-position", &within]),
        moments[3].position()
    );
    assert_listed(&repository, version, &base, &last);
    assert_refusals(&repository, version);
    assert_exports(&server, &repository, &[], &files);
    let first = format!("bin.{:06}:4", files[0].number);
    assert_exports(&server, &repository, &["--to", &first], &files[..1]);
}

fn assert_listed(repository: &TestRepository, version: MysqlVersion, base: &Moment, last: &Moment) {
    let listed = json(repository, "list", &[]);
    let server = &listed[0];
    let engine = if version.is_mariadb() { "mariadb" } else { "mysql" };
    assert_eq!(server["engine"], engine);
    assert_eq!(server["branches"][0]["branch"], 1);
    let window = &server["recovery_windows"][0];
    assert_eq!(window["earliest_position"], base.position());
    let latest = window["latest_time"].as_str().unwrap();
    assert_eq!(cut(repository, &["--target-time", latest]), last.position());
    let earliest = window["earliest_time"].as_str().unwrap();
    assert_eq!(cut(repository, &["--target-time", earliest]), base.position());
    let text = tool(repository, "list", &[]).expect_success();
    assert!(
        text.contains("branch 1") && text.contains("(position bin."),
        "{text}"
    );
}

fn assert_refusals(repository: &TestRepository, version: MysqlVersion) {
    let plan = |target: &[&str], code| tool(repository, "plan", target).expect_code(code);
    for target in [
        ["--target-lsn", "0/1000028"],
        ["--target-xid", "744"],
        ["--target-name", "before"],
    ] {
        let message = plan(&target, 2);
        assert!(
            message.contains("--target-gtid") && message.contains("--target-position"),
            "{message}"
        );
    }
    let gtid_of_the_other = if version.is_mariadb() {
        "3e11fa47-71ca-11e1-9e33-c80aa9429562:23"
    } else {
        "0-1-23"
    };
    plan(&["--target-gtid", gtid_of_the_other], 2);
    plan(&["--target-gtid", "nonsense"], 2);
    plan(&["--target-position", "nonsense"], 2);
    plan(&["--target-latest", "--timeline", "1"], 2);
    plan(&["--target-latest", "--branch", "7"], 2);
    let message = plan(&["--target-position", "bin.000099:4"], 3);
    assert!(message.contains("hint: the nearest that can"), "{message}");
    let unknown = gtid_of_the_other_number(version);
    plan(&["--target-gtid", unknown], 3);
    let restore = tool(
        repository,
        "restore",
        &["--target-latest", "--to", "/nonexistent/tidemark"],
    )
    .expect_code(2);
    assert!(restore.contains("cannot be restored yet"), "{restore}");
}

/// A GTID that no server of these tests has given.
fn gtid_of_the_other_number(version: MysqlVersion) -> &'static str {
    if version.is_mariadb() {
        "0-1-999999"
    } else {
        "3e11fa47-71ca-11e1-9e33-c80aa9429562:23"
    }
}

#[test]
fn mysql_97_is_planned_listed_and_exported() {
    assert_plans(MysqlVersion::Mysql97);
}

#[test]
fn mariadb_1011_is_planned_listed_and_exported() {
    assert_plans(MysqlVersion::MariaDb1011);
}

#[test]
fn mariadb_118_is_planned_listed_and_exported() {
    assert_plans(MysqlVersion::MariaDb118);
}

/// A server came back without the end of its log, and wrote other transactions into a file of the same name.
#[test]
fn a_tail_that_was_rolled_back_is_left_behind() {
    let version = MysqlVersion::Mysql97;
    let server = MysqlServer::start_new(version);
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)");
    let base = Moment::of(&server);
    server.sql("FLUSH BINARY LOGS; INSERT INTO d.t VALUES (1)");
    let kept = Moment::of(&server);
    server.sql("INSERT INTO d.t VALUES (2)");
    let lost = Moment::of(&server);
    server.stop();
    let before = read_files(&server);

    // What it has of the last file when it is back, and what it goes on to write.
    let last = server.binlog_files().pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    fs::write(&last, &bytes[..usize::try_from(kept.offset).unwrap()]).unwrap();
    server.start();
    server.sql("INSERT INTO d.t VALUES (3)");
    let after = Moment::of(&server);
    server.stop();
    let fork = kept.file;
    let again: Vec<File> = read_files(&server)
        .into_iter()
        .filter(|file| file.number >= fork)
        .collect();

    let repository = TestRepository::file();
    let mut archive = BinlogArchive::new(repository.url(), version);
    archive.store(1, None, &before, 100);
    let follows = BranchEnd {
        branch: 1,
        file: fork,
        offset: 0,
    };
    archive.store(2, Some(follows), &again, 100);
    archive.back_up(
        1,
        base.file,
        base.offset,
        parse_time(&base.time, Timestamp(0)).unwrap(),
    );

    let plan = json(&repository, "plan", &["--target-latest"]);
    assert_eq!(plan["log"]["end"], after.position());
    assert_eq!(
        (&plan["branch"], &plan["dead_ends"][0]["branch"]),
        (&Value::from(2), &Value::from(1))
    );
    assert_eq!(cut(&repository, &["--target-gtid", &kept.gtid]), kept.position());
    let old = ["--branch", "1", "--target-gtid", &lost.gtid];
    assert_eq!(cut(&repository, &old), lost.position());
    assert!(
        tool(&repository, "plan", &["--target-latest"])
            .expect_success()
            .contains("left behind")
    );

    // Both branches have the file of the fork.
    assert_exports(&server, &repository, &["--branch", "1"], &before);
    assert_exports(&server, &repository, &["--branch", "2"], &again);
    let through: Vec<File> = before
        .into_iter()
        .filter(|file| file.number < fork)
        .chain(again)
        .collect();
    assert_exports(&server, &repository, &[], &through);
}
