//! Base backups of MySQL and MariaDB by a running agent: the first by itself, others when asked for, under load.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tidemark_testkit::{Agent, AgentBuilder, MysqlServer, MysqlVersion, Scratch, TestRepository};

use crate::protected::{NAME, newest_backup, wait_for_agent, wait_for_base_backup, wait_until_streaming};

const TABLES: &str = "CREATE DATABASE d; USE d;
    CREATE TABLE still (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(1000)); INSERT INTO still (v) VALUES (REPEAT('x', 1000));
    CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(1000));";
const DOUBLE: &str = "INSERT INTO d.still (v) SELECT v FROM d.still;";

/// A server with 16 MB that do not change, and an agent beside it.
fn protected(
    version: MysqlVersion,
    repository: &TestRepository,
    scratch: &Scratch,
) -> (MysqlServer, AgentBuilder) {
    let server = MysqlServer::start_new(version);
    if !version.is_mariadb() {
        server.sql("INSTALL PLUGIN clone SONAME 'mysql_clone.so'");
    }
    server.sql(&format!("{TABLES} {}", DOUBLE.repeat(14)));
    let method = if version.is_mariadb() {
        let program = version.prefix().join("usr/bin/mariadb-backup");
        format!("program = \"{}\"", program.display())
    } else {
        format!("scratch_directory = \"{}\"", clone_of(scratch).display())
    };
    let settings = format!("max_lag = \"50ms\"\nheartbeat = \"1s\"\n[server.base_backup]\n{method}");
    let agent = Agent::builder(repository).mysql(NAME, version, &server.root_url(), &settings);
    (server, agent)
}

fn clone_of(scratch: &Scratch) -> std::path::PathBuf {
    scratch.path().join("clone")
}

/// Bytes stored, as the line that `backup` prints says it: "… 31.0 MiB in 170 files, 1.2 MiB stored, 3s".
fn stored(printed: &str) -> f64 {
    let before = printed.split(" stored").next().unwrap();
    let (number, unit) = before.rsplit(", ").next().unwrap().split_once(' ').unwrap();
    let factor = match unit {
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        other => panic!("{other}"),
    };
    number.parse::<f64>().unwrap() * factor
}

fn base_backups(version: MysqlVersion) {
    let (repository, scratch) = (TestRepository::file(), Scratch::new("scratch"));
    let (server, agent) = protected(version, &repository, &scratch);
    let agent = agent.start();
    wait_until_streaming(&agent);
    wait_for_base_backup(&agent);
    let first = newest_backup(&agent);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                server.sql("INSERT INTO d.t (v) VALUES (REPEAT('y', 500))");
            }
        });
        let incremental = agent.run("backup", &["--server", NAME]);
        let full = agent.run("backup", &["--server", NAME, "--full"]);
        done.store(true, Ordering::Relaxed);
        let (incremental, full) = (incremental.expect_success(), full.expect_success());
        assert!(incremental.contains(" incremental: "), "{incremental}");
        assert!(full.contains(" full: "), "{full}");
        assert!(stored(&incremental) < stored(&full), "{incremental}{full}");
    });
    assert!(!clone_of(&scratch).exists());
    agent.terminate(crate::protected::PATIENCE);
    agent.start();
    wait_for_agent(&agent, "the newest base backup to be found", || {
        newest_backup(&agent) > first
    });
    assert!(server_is_unharmed(&server, &clone_of(&scratch)));
}

/// Nothing is left on its host, no lock is held.
fn server_is_unharmed(server: &MysqlServer, clone: &Path) -> bool {
    server
        .sql("CREATE TABLE d.after (i INT); DROP TABLE d.after; FLUSH TABLES WITH READ LOCK; UNLOCK TABLES");
    !clone.exists()
}

#[test]
fn by_clone() {
    base_backups(MysqlVersion::Mysql97);
}

#[test]
fn by_mariadb_backup_1011() {
    base_backups(MysqlVersion::MariaDb1011);
}

#[test]
fn by_mariadb_backup_118() {
    base_backups(MysqlVersion::MariaDb118);
}
