//! Targets in what an agent has archived. What is expected comes from the server itself: where it stood, which GTID it
//! had given last and what time it was after each transaction.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tidemark_testkit::{Finished, MysqlServer, MysqlVersion, Scratch, TestRepository, run};

use crate::protected::{
    PATIENCE, Place, agent_for, log_end, restore_tool, server, wait_for_base_backup, wait_until_durable,
    wait_until_durable_on, wait_until_streaming,
};

/// What the server said of itself when nothing was under way.
#[derive(Debug)]
struct Moment {
    place: Place,
    gtid: String,
    /// Whole seconds on MariaDB, whose log has no more.
    time: String,
}

impl Moment {
    fn of(server: &MysqlServer) -> Moment {
        let (gtid, time) = if server.version().is_mariadb() {
            let time = "SELECT DATE_FORMAT(UTC_TIMESTAMP(), '%Y-%m-%dT%H:%i:%sZ')";
            (server.sql("SELECT @@gtid_binlog_pos"), time)
        } else {
            // uuid:1-7 on a server that has given every number of its own.
            let executed = server.sql("SELECT @@gtid_executed");
            let (uuid, numbers) = executed.rsplit_once(':').expect("a set of one server");
            let last = numbers.rsplit('-').next().expect("a number");
            let time = "SELECT DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%fZ')";
            (format!("{uuid}:{last}"), time)
        };
        let moment = Moment {
            place: log_end(server),
            gtid,
            time: server.sql(time),
        };
        // Whatever comes next is in another second, which is all that MariaDB tells.
        server.sql("DO SLEEP(1.1)");
        moment
    }

    /// After `sql`.
    fn after(server: &MysqlServer, sql: &str) -> Moment {
        server.sql(sql);
        Moment::of(server)
    }

    fn position(&self) -> String {
        let (file, offset) = self.place;
        format!("bin.{file:06}:{offset}")
    }
}

fn tool(repository: &TestRepository, verb: &str, arguments: &[&str]) -> Finished {
    run(restore_tool(repository, verb).args(arguments))
}

fn json(repository: &TestRepository, verb: &str, arguments: &[&str]) -> Value {
    let text = tool(repository, verb, &[arguments, &["--json"]].concat()).expect_success();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// Where the log is cut.
fn cut(repository: &TestRepository, target: &[&str]) -> String {
    let plan = json(repository, "plan", target);
    plan["log"]["end"].as_str().expect("a position").to_owned()
}

/// Every way to name a moment cuts the log where its transaction ends; `next` is one transaction later.
fn assert_moment(repository: &TestRepository, version: MysqlVersion, moment: &Moment, next: &Moment) {
    let end_of = |moment: &Moment| {
        let end = cut(repository, &["--target-gtid", &moment.gtid]);
        // MariaDB notes checkpoints behind a transaction at a time of its own.
        let is_in_file = end.starts_with(&format!("bin.{:06}:", moment.place.0));
        assert!(
            end == moment.position() || (version.is_mariadb() && is_in_file),
            "{end} {moment:?}"
        );
        end
    };
    let (end, next_end) = (end_of(moment), end_of(next));
    for target in [
        &["--target-time", &moment.time] as &[&str],
        &["--target-position", &moment.position()],
        &["--target-position", &end],
        &["--target-gtid", &next.gtid, "--exclusive"],
        &["--target-position", &next_end, "--exclusive"],
    ] {
        assert_eq!(cut(repository, target), end, "{target:?}");
    }
}

/// One transaction each. The big one reaches over several grains of the log.
const WORK: [&str; 7] = [
    "BEGIN; INSERT INTO d.t (v) VALUES ('a'), ('b'); UPDATE d.t SET v = 'c'; COMMIT",
    "INSERT INTO d.m VALUES (1)",
    "ALTER TABLE d.t ADD COLUMN w INT",
    "BEGIN; INSERT INTO d.t (v) VALUES (REPEAT('x', 9000000)); INSERT INTO d.t (v) VALUES (REPEAT('y', 9000000)); \
     INSERT INTO d.t (v) VALUES (REPEAT('z', 9000000)); COMMIT",
    "INSERT INTO d.t (v) VALUES ('after the big one')",
    "FLUSH BINARY LOGS; INSERT INTO d.t (v) VALUES ('in another file')",
    "INSERT INTO d.t (v) VALUES ('the last')",
];

fn assert_targets(version: MysqlVersion) {
    let repository = TestRepository::file();
    let server = server(version).option("max_allowed_packet = 64M").start();
    server.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, v LONGBLOB); CREATE TABLE d.m (v INT)",
    );
    let agent = agent_for(&repository, &server, "").start();
    wait_until_streaming(&agent);
    wait_for_base_backup(&agent);
    let mut moments = Vec::new();
    for (number, sql) in WORK.iter().enumerate() {
        moments.push(Moment::after(&server, sql));
        if number == 2 {
            wait_until_durable(&agent, &server);
            agent.kill9();
            agent.start();
        }
    }
    wait_until_durable(&agent, &server);
    agent.terminate(PATIENCE);

    // A commit of the test kit's own lies between the third and the fourth.
    for pair in moments[..3].windows(2).chain(moments[3..].windows(2)) {
        assert_moment(&repository, version, &pair[0], &pair[1]);
    }
    // Within a transaction: it stays out.
    let (file, offset) = moments[3].place;
    let within = format!("bin.{file:06}:{}", offset - 100);
    let before = cut(&repository, &["--target-gtid", &moments[3].gtid, "--exclusive"]);
    assert_eq!(cut(&repository, &["--target-position", &within]), before);
    assert_window(&repository, version);
    assert_refusals(&repository, version);
}

/// What `list` says can be reached can be.
fn assert_window(repository: &TestRepository, version: MysqlVersion) {
    let listed = json(repository, "list", &[]);
    let engine = if version.is_mariadb() { "mariadb" } else { "mysql" };
    assert_eq!(listed[0]["engine"], engine);
    assert_eq!(listed[0]["branches"][0]["branch"], 1);
    let window = &listed[0]["recovery_windows"][0];
    for (option, key) in [
        ("--target-time", "earliest_time"),
        ("--target-time", "latest_time"),
        ("--target-position", "earliest_position"),
        ("--target-position", "latest_position"),
    ] {
        let value = window[key]
            .as_str()
            .unwrap_or_else(|| panic!("{key} of {window}"));
        tool(repository, "plan", &[option, value]).expect_success();
    }
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
    let (of_mysql, of_mariadb) = ("3e11fa47-71ca-11e1-9e33-c80aa9429562:23", "0-1-999999");
    let (mysql, mariadb) = if version.is_mariadb() { (2, 3) } else { (3, 2) };
    plan(&["--target-gtid", of_mysql], mysql);
    plan(&["--target-gtid", of_mariadb], mariadb);
    plan(&["--target-gtid", "nonsense"], 2);
    plan(&["--target-position", "nonsense"], 2);
    plan(&["--target-latest", "--timeline", "1"], 2);
    plan(&["--target-latest", "--branch", "7"], 2);
    let message = plan(&["--target-position", "bin.000099:4"], 3);
    assert!(message.contains("hint: the nearest that can"), "{message}");
}

#[test]
fn targets_of_mysql_97() {
    assert_targets(MysqlVersion::Mysql97);
}

#[test]
fn targets_of_mariadb_1011() {
    assert_targets(MysqlVersion::MariaDb1011);
}

#[test]
fn targets_of_mariadb_118() {
    assert_targets(MysqlVersion::MariaDb118);
}

/// Exports with `arguments` into `output`; the names of the files.
fn export(repository: &TestRepository, output: &Path, arguments: &[&str]) -> Vec<String> {
    let to = ["--output", output.to_str().expect("a plain path")];
    let summary = json(repository, "export", &[&to, arguments].concat());
    serde_json::from_value(summary["files"].clone()).expect("names")
}

/// What a server had sent and lost in a crash of its host stays on its branch, whose file has the name of another.
#[test]
fn a_tail_that_was_rolled_back_is_left_behind() {
    let repository = TestRepository::file();
    let server = server(MysqlVersion::Mysql97).start();
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)");
    let agent = agent_for(&repository, &server, "").start();
    wait_until_streaming(&agent);
    wait_for_base_backup(&agent);
    server.rotate();
    let kept = Moment::after(&server, "INSERT INTO d.t VALUES (1)");
    let lost = Moment::after(&server, "INSERT INTO d.t VALUES (2)");
    wait_until_durable(&agent, &server);
    server.kill9();
    let newest = server.binlog_files().pop().expect("a file");
    let bytes = fs::read(&newest).expect("read the binlog");
    let end = usize::try_from(kept.place.1).expect("an offset");
    fs::write(&newest, &bytes[..end]).expect("cut the binlog");
    server.start();
    let after = Moment::after(&server, "INSERT INTO d.t VALUES (3)");
    wait_until_durable_on(&agent, &server, 2);
    agent.terminate(PATIENCE);

    let plan = json(&repository, "plan", &["--target-time", &after.time]);
    assert_eq!(plan["log"]["end"], after.position());
    assert_eq!(
        (plan["branch"].as_u64(), plan["dead_ends"][0]["branch"].as_u64()),
        (Some(2), Some(1))
    );
    assert_eq!(cut(&repository, &["--target-gtid", &kept.gtid]), kept.position());
    let text = tool(&repository, "plan", &["--target-latest"]).expect_success();
    assert!(text.contains("left behind"), "{text}");
    let old = ["--branch", "1", "--target-gtid", &lost.gtid];
    assert_eq!(cut(&repository, &old), lost.position());

    let scratch = Scratch::new("exported");
    let (old, new, all) = (
        scratch.subdir("old"),
        scratch.subdir("new"),
        scratch.subdir("all"),
    );
    let name = newest
        .file_name()
        .expect("a name")
        .to_str()
        .expect("plain text")
        .to_owned();
    assert_eq!(export(&repository, &old, &["--branch", "1"]).last(), Some(&name));
    assert_eq!(export(&repository, &new, &["--branch", "2"]).first(), Some(&name));
    assert!(export(&repository, &all, &[]).contains(&name));
    let exported = |directory: &Path| fs::read(directory.join(&name)).expect("read what was exported");
    assert!(exported(&old).len() > end, "with what was lost");
    // The server marks the file that was in use when it was killed, and leaves it so.
    assert_eq!(exported(&new)[22..], bytes[22..end]);
    assert_eq!(exported(&all), exported(&new));
    let again = tool(
        &repository,
        "export",
        &["--output", all.to_str().expect("a plain path")],
    );
    assert!(again.expect_code(6).contains("is there already"));
}
