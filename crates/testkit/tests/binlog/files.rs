//! What is stored of the binlog are the server's own files, byte for byte, whatever was killed on the way.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use tidemark_testkit::{MysqlServer, MysqlVersion, MysqlWorkload, Scratch, TestRepository, run};

use crate::protected::{
    PATIENCE, agent_for, export, log_end, server, wait_until_durable, wait_until_streaming,
};

/// DDL, several statements a transaction, events of several packets, XA, tables without transactions or a primary key.
fn everything(server: &MysqlServer, round: u32) {
    server.sql(&format!(
        "CREATE DATABASE d{round}; USE d{round};
         CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT); CREATE TABLE n (id INT, v TEXT);
         CREATE TABLE m (id INT) ENGINE = MyISAM;
         BEGIN; INSERT INTO t VALUES (1, 'one'); UPDATE t SET v = 'two'; INSERT INTO n VALUES (1, 'x'), (1, 'x'); COMMIT;
         INSERT INTO t VALUES (2, REPEAT('x', 17000000)); DELETE FROM n LIMIT 1; INSERT INTO m VALUES (1), (2);
         XA START 'a{round}'; INSERT INTO t VALUES (3, 'xa'); XA END 'a{round}'; XA PREPARE 'a{round}'; XA COMMIT 'a{round}';
         ALTER TABLE t ADD COLUMN w INT; TRUNCATE TABLE m; DROP TABLE n"
    ));
}

/// Compares the files that `server` has closed with those in `exported`. How many there are.
fn compare(server: &MysqlServer, exported: &Path) -> usize {
    let files = server.binlog_files();
    let mut compared = 0;
    for path in files.iter().take(files.len() - 1) {
        let name = path.file_name().expect("a name");
        let Ok(ours) = fs::read(exported.join(name)) else {
            assert_eq!(compared, 0, "{name:?} is missing behind others");
            continue;
        };
        let theirs = fs::read(path).expect("read the server's file");
        assert!(
            ours == theirs,
            "{name:?} is not the server's: {} and {} bytes",
            ours.len(),
            theirs.len()
        );
        compared += 1;
    }
    compared
}

/// Kills the agent again and again under load, restarts the server in mid-file, and compares.
fn assert_files_are_the_servers(version: MysqlVersion, options: &[&str], settings: &str) {
    let server = server(version)
        .option("max_allowed_packet = 64M")
        .options(options)
        .start();
    let repository = TestRepository::file();
    let agent = agent_for(&repository, &server, settings).start();
    wait_until_streaming(&agent);
    let workload = MysqlWorkload::start(&server.client(), 3, 2000);
    for round in 0..5 {
        everything(&server, round);
        if round == 2 {
            server.restart();
        } else {
            server.rotate();
        }
        // Anywhere: while it starts, while it compares, while it streams.
        thread::sleep(Duration::from_millis(u64::from(round % 4) * 150));
        agent.kill9();
        agent.start();
    }
    assert!(!workload.stop().is_empty());
    server.rotate();
    wait_until_durable(&agent, &server);
    agent.terminate(PATIENCE);
    let scratch = Scratch::new("exported");
    let exported = scratch.subdir("files");
    export(&repository, &exported);
    server.stop();
    assert!(compare(&server, &exported) >= 6);
    for entry in fs::read_dir(&exported).expect("list") {
        let path = entry.expect("an entry").path();
        run(server.mysqlbinlog().arg("--verify-binlog-checksum").arg(&path)).expect_success();
    }
}

#[test]
fn mysql_files_are_the_servers() {
    assert_files_are_the_servers(
        MysqlVersion::Mysql97,
        &["binlog_transaction_compression = ON"],
        "",
    );
}

#[test]
fn mysql_small_files_without_checksums_are_the_servers() {
    assert_files_are_the_servers(
        MysqlVersion::Mysql97,
        &["max_binlog_size = 65536", "binlog_checksum = NONE"],
        "",
    );
}

#[test]
fn mariadb_1011_files_are_the_servers() {
    assert_files_are_the_servers(MysqlVersion::MariaDb1011, &["max_binlog_size = 65536"], "");
}

#[test]
fn mariadb_118_files_are_the_servers() {
    assert_files_are_the_servers(
        MysqlVersion::MariaDb118,
        &["log_bin_compress = ON", "binlog_checksum = NONE"],
        "",
    );
}

const DIRECTORY: &str = "log_source = \"directory\"\n";

#[test]
fn mysql_files_that_are_read_are_the_servers() {
    assert_files_are_the_servers(MysqlVersion::Mysql97, &["max_binlog_size = 65536"], DIRECTORY);
}

#[test]
fn mariadb_files_that_are_read_are_the_servers() {
    assert_files_are_the_servers(MysqlVersion::MariaDb118, &[], DIRECTORY);
}

/// A file of several grains is gone on with in its middle, at an event that a grain's border cuts.
#[test]
fn a_large_file_is_gone_on_with_in_its_middle() {
    for version in [MysqlVersion::Mysql97, MysqlVersion::MariaDb118] {
        let server = server(version).start();
        let repository = TestRepository::file();
        let agent = agent_for(&repository, &server, "").start();
        wait_until_streaming(&agent);
        server.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY AUTO_INCREMENT, v LONGTEXT)");
        for _ in 0..3 {
            server.sql(
                "INSERT INTO d.t (v) VALUES (REPEAT('a', 7000000)); INSERT INTO d.t (v) VALUES (REPEAT('b', 6500000))",
            );
            wait_until_durable(&agent, &server);
            agent.kill9();
            agent.start();
        }
        let (file, offset) = log_end(&server);
        assert!(
            offset > 40_000_000,
            "one file of three grains, not {offset} bytes of {file}"
        );
        let from_start = agent.log_text().matches(":0 branch=1").count();
        assert_eq!(
            from_start,
            2,
            "only before the first border: {}",
            agent.log_text()
        );
        server.rotate();
        wait_until_durable(&agent, &server);
        agent.terminate(PATIENCE);
        let scratch = Scratch::new("exported");
        export(&repository, &scratch.subdir("files"));
        assert!(compare(&server, &scratch.path().join("files")) >= 1);
    }
}
