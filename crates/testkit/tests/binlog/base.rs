//! Base backups of MySQL and MariaDB by a running agent: the first by itself, others when asked for, under load.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tidemark_testkit::{
    Agent, AgentBuilder, MysqlRestore, MysqlServer, MysqlVersion, Scratch, TestRepository, run,
};

use crate::protected::{
    NAME, PATIENCE, newest_backup, wait_for_agent, wait_for_base_backup, wait_until_durable,
    wait_until_streaming,
};

const TABLES: &str = "CREATE DATABASE d; USE d;
    CREATE TABLE still (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(1000)); INSERT INTO still (v) VALUES (REPEAT('x', 1000));
    CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(1000));";
const DOUBLE: &str = "INSERT INTO d.still (v) SELECT v FROM d.still;";

/// A server with 16 MB that do not change, and an agent beside it.
fn protected(
    version: MysqlVersion,
    options: &[&str],
    repository: &TestRepository,
    scratch: &Scratch,
) -> (MysqlServer, AgentBuilder) {
    let server = MysqlServer::builder(version).options(options).start();
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
    let (server, agent) = protected(version, &[], &repository, &scratch);
    let agent = agent.start();
    wait_until_streaming(&agent);
    wait_for_base_backup(&agent);
    let first = newest_backup(&agent);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = SetOnDrop(&done);
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
    agent.terminate(PATIENCE);
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

/// Written to all the while: what the base holds and what the log brings meet without a transaction lost or twice.
fn an_incremental_restores(version: MysqlVersion, options: &[&str]) {
    let (repository, scratch) = (TestRepository::file(), Scratch::new("scratch"));
    let (server, agent) = protected(version, options, &repository, &scratch);
    let agent = agent.start();
    wait_until_streaming(&agent);
    wait_for_base_backup(&agent);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = SetOnDrop(&done);
        for writer in 0..3 {
            let (server, done) = (&server, &done);
            scope.spawn(move || {
                for round in (0..).take_while(|_| !done.load(Ordering::Relaxed)) {
                    let id = (round * 7 + writer) % 16384 + 1;
                    server.sql(&format!(
                        "BEGIN; INSERT INTO d.t (v) VALUES (REPEAT('{writer}', 300));
                         UPDATE d.still SET v = REPEAT('{round}', 50) WHERE id = {id}; COMMIT"
                    ));
                }
            });
        }
        let backup = agent.run("backup", &["--server", NAME]).expect_success();
        assert!(backup.contains(" incremental: "), "{backup}");
    });
    wait_until_durable(&agent, &server);
    let executed = if version.is_mariadb() {
        "@@gtid_current_pos"
    } else {
        "@@gtid_executed"
    };
    let digest = format!("CHECKSUM TABLE d.t, d.still; SELECT COUNT(*), MAX(id) FROM d.t; SELECT {executed}");
    let expected = server.sql(&digest);
    server.kill9();
    agent.terminate(PATIENCE);
    let restore = MysqlRestore::new(&repository, NAME, version);
    let restored = restore.start(&["--target-latest"]);
    assert_eq!(restored.sql(&digest), expected);
    restored.stop();
    for table in ["t", "still"] {
        let file = restore.data_directory().join(format!("d/{table}.ibd"));
        run(version.tool("innochecksum").arg(file)).expect_success();
    }
}

/// Ends writers, also when an assertion fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_incremental_of_clones_restores() {
    an_incremental_restores(MysqlVersion::Mysql97, &[]);
}

/// What a clone holds could not be told, so the server is dumped: that is of one position.
#[test]
fn an_incremental_of_a_server_without_gtids_restores() {
    an_incremental_restores(
        MysqlVersion::Mysql97,
        &["gtid_mode = OFF", "enforce_gtid_consistency = OFF"],
    );
}

#[test]
fn an_incremental_of_mariadb_1011_restores() {
    an_incremental_restores(MysqlVersion::MariaDb1011, &[]);
}

#[test]
fn an_incremental_of_mariadb_118_restores() {
    an_incremental_restores(MysqlVersion::MariaDb118, &[]);
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
