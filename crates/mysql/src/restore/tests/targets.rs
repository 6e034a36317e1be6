//! A server stands where the log was cut: everything before is in, nothing behind.

use tidemark_testkit::MysqlVersion;

use super::restored::{Place, assert_restored, stop};
use super::source::Source;
use crate::restore::Ending;

const SCHEMA: &str = "CREATE DATABASE d; USE d; \
    CREATE TABLE t (id INT PRIMARY KEY, k INT, v VARCHAR(200), KEY (k)); \
    CREATE TABLE no_key (a INT, b VARCHAR(20)); \
    CREATE TABLE isam (a INT) ENGINE = MyISAM; \
    CREATE TABLE held (id INT PRIMARY KEY); \
    CREATE TABLE big (id INT PRIMARY KEY, v LONGBLOB); \
    INSERT INTO t VALUES (1, 1, 'one'), (2, 2, 'two'), (3, 3, 'three')";

/// Statements of all kinds; `round` keeps keys apart.
fn load(source: &Source, round: u32) {
    let base = round * 1000;
    let mut sql = "USE d;".to_owned();
    for i in 0..200 {
        let id = base + 10 + i;
        sql.push_str(&format!(
            "INSERT INTO t VALUES ({id}, {i}, REPEAT('x', 100)); \
             BEGIN; UPDATE t SET k = k + 1 WHERE id <= {id}; INSERT INTO no_key VALUES ({i}, 'a'), ({i}, 'a'); COMMIT;"
        ));
    }
    sql.push_str(&format!(
        "INSERT INTO isam VALUES ({round}), ({round}); DELETE FROM no_key WHERE a = 7 LIMIT 1; \
         CREATE TABLE made_{round} AS SELECT * FROM t; ALTER TABLE made_{round} ADD COLUMN more INT DEFAULT 5; \
         CREATE USER u{round}@localhost IDENTIFIED BY 'Secret-{round}'; GRANT SELECT ON d.* TO u{round}@localhost; \
         FLUSH BINARY LOGS; FLUSH BINARY LOGS; \
         BEGIN; INSERT INTO big VALUES ({base}, REPEAT('b', 9000000)); INSERT INTO big VALUES ({base} + 1, REPEAT('c', 9000000)); \
         COMMIT; INSERT INTO big VALUES ({base} + 2, REPEAT('d', 18000000)); \
         XA START 'done{round}'; INSERT INTO t VALUES ({base} + 1, 0, 'done'); XA END 'done{round}'; XA PREPARE 'done{round}'; \
         XA COMMIT 'done{round}'; \
         XA START 'open{round}', 'branch', 7; INSERT INTO held VALUES ({base}); XA END 'open{round}', 'branch', 7; \
         XA PREPARE 'open{round}', 'branch', 7;"
    ));
    source.server.sql(&sql);
    // Of another domain, or with a tag.
    let set_apart = if source.version().is_mariadb() {
        "SET gtid_domain_id = 7"
    } else if source.base.executed.is_empty() {
        "DO 0"
    } else {
        "SET gtid_next = 'AUTOMATIC:apart'"
    };
    source.server.sql(&format!(
        "{set_apart}; USE d; INSERT INTO held VALUES ({base} + 5); UPDATE held SET id = {base} + 6 WHERE id = {base} + 5"
    ));
    // In a session of its own: a prepared transaction holds the one that prepared it.
    source.server.sql(&format!(
        "USE d; INSERT INTO t VALUES ({base} + 3, 0, 'last'); DELETE FROM t WHERE id = {base} + 3"
    ));
}

async fn assert_stands_where_the_log_is_cut(version: MysqlVersion, options: &[&str]) {
    let mut all = vec!["max_allowed_packet = 64M"];
    all.extend(options);
    let source = Source::new(version, &all, SCHEMA);
    load(&source, 1);
    let middle = source.moment();
    load(&source, 2);
    let end = source.moment();
    assert_ne!(middle.checksums, end.checksums);
    let place = Place::new(&source);
    let base_file = source.base.file.clone();

    // To the middle of a file, then, as nobody wrote, on to the end.
    let replayed = place
        .restore(&source, &base_file, &middle, Ending::LeaveRunning)
        .await
        .unwrap();
    assert_restored(&source, &replayed, &middle);
    assert_eq!(replayed.prepared.len(), 1);
    stop(&source, &replayed);
    let first = replayed.place.unwrap().file;
    assert_eq!(first, middle.file);
    let replayed = place
        .restore(&source, &first, &end, Ending::LeaveRunning)
        .await
        .unwrap();
    assert_restored(&source, &replayed, &end);
    assert_eq!(replayed.prepared.len(), 2);
    stop(&source, &replayed);
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_97_stands_where_the_log_is_cut() {
    assert_stands_where_the_log_is_cut(MysqlVersion::Mysql97, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_97_with_compression_and_small_files() {
    let options = ["binlog_transaction_compression = ON", "max_binlog_size = 16K"];
    assert_stands_where_the_log_is_cut(MysqlVersion::Mysql97, &options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_1011_stands_where_the_log_is_cut() {
    assert_stands_where_the_log_is_cut(MysqlVersion::MariaDb1011, &["max_binlog_size = 16K"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_118_without_checksums_stands_where_the_log_is_cut() {
    assert_stands_where_the_log_is_cut(
        MysqlVersion::MariaDb118,
        &["binlog_checksum = NONE", "log_bin_compress = ON"],
    )
    .await;
}

/// Without GTIDs positions alone tell what is applied.
#[tokio::test(flavor = "multi_thread")]
async fn mysql_97_without_gtids_stands_where_the_log_is_cut() {
    let options = ["gtid_mode = OFF", "enforce_gtid_consistency = OFF"];
    assert_stands_where_the_log_is_cut(MysqlVersion::Mysql97, &options).await;
}
