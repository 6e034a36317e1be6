//! Real servers, each version installed: their files beside their vendor's own mysqlbinlog, at the moment of the test.

use std::fs;
use std::path::Path;
use std::thread;

use tidemark_testkit::{MysqlServer, MysqlVersion, Scratch, run};

use super::dump::parse;
use super::golden::assert_same;
use super::*;
use crate::gtid::{GtidSet, MariaDbState};

/// Concurrent sessions, so that transactions commit in groups, over files that end in the midst of the load.
fn load(server: &MysqlServer) {
    server.sql(
        "CREATE DATABASE d; \
         CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, session INT, v VARCHAR(300)); \
         CREATE TABLE d.m (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(300)) ENGINE = MyISAM",
    );
    thread::scope(|scope| {
        for session in 0..4 {
            scope.spawn(move || {
                let mut sql = String::new();
                for number in 0..60 {
                    sql += &format!(
                        "BEGIN; INSERT INTO d.t (session, v) VALUES ({session}, REPEAT('x', {number})); \
                         UPDATE d.t SET v = CONCAT(v, '!') WHERE id = LAST_INSERT_ID(); COMMIT; \
                         INSERT INTO d.m (v) VALUES ('{number}'); \
                         SET SESSION binlog_format = STATEMENT; INSERT INTO d.m (v) VALUES (RAND()); \
                         SET SESSION binlog_format = ROW;"
                    );
                }
                server.sql(&sql);
            });
        }
    });
    server.sql("ALTER TABLE d.t ADD COLUMN w INT; XA START 'x'; INSERT INTO d.t (w) VALUES (1); XA END 'x'; XA PREPARE 'x'");
}

fn assert_as_mysqlbinlog(server: &MysqlServer, file: &Path) -> Decoded {
    let bytes = fs::read(file).unwrap();
    let decoded = decode(&bytes);
    assert_eq!(decoded.error, None, "{}", file.display());
    // A copy: MariaDB notes checkpoints in the file in use at a time of its own.
    let scratch = Scratch::new("binlog");
    let copy = scratch.file("copy", &bytes);
    let dump = run(server.mysqlbinlog().arg(copy)).expect_success();
    assert_same(&bytes, &decoded, &parse(&dump));
    decoded
}

/// Each file begins with what the ones before it come to.
fn assert_files_join(files: &[Decoded], first_facts: &[(GtidSet, MariaDbState)]) {
    let (mut set, mut state) = (GtidSet::new(), MariaDbState::new());
    for (file, (previous, list)) in files.iter().zip(first_facts) {
        assert_eq!((previous, list), (&set, &state));
        for transaction in &file.transactions {
            match &transaction.gtid {
                TransactionGtid::MySql(gtid) => assert!(set.add(gtid)),
                TransactionGtid::MariaDb(gtid) => state.advance(*gtid),
                TransactionGtid::Anonymous => panic!("{transaction:?} has no GTID"),
            }
        }
    }
}

fn gtids_before(file: &Path) -> (GtidSet, MariaDbState) {
    let bytes = fs::read(file).unwrap();
    let (mut decoder, mut input) = (BinlogDecoder::new(), &bytes[..]);
    let mut before = (GtidSet::new(), MariaDbState::new());
    while let Some(event) = decoder.next(&mut input).unwrap() {
        match Fact::of(&event).unwrap() {
            Some(Fact::PreviousGtids(set)) => before.0 = set,
            Some(Fact::GtidList(state)) => before.1 = state,
            _ => {}
        }
    }
    before
}

fn assert_decoded_as_mysqlbinlog_does(version: MysqlVersion, options: &[&str]) {
    let server = MysqlServer::builder(version)
        .option("max_binlog_size = 16384")
        .options(options)
        .start();
    load(&server);

    // The file in use: its first event says so, and its checksum does not know of it.
    let files = server.binlog_files();
    let open = assert_as_mysqlbinlog(&server, files.last().unwrap());
    assert!(open.events[0].header.is_in_use());
    assert_eq!((open.end, open.open), (FileEnd::Open, None));

    server.kill9();
    server.start();
    server.sql("XA COMMIT 'x'");
    server.stop();
    let files = server.binlog_files();
    assert!(files.len() > 4, "{} files", files.len());
    let decoded: Vec<Decoded> = files
        .iter()
        .map(|file| assert_as_mysqlbinlog(&server, file))
        .collect();
    let before: Vec<_> = files.iter().map(|file| gtids_before(file)).collect();
    assert_files_join(&decoded, &before);
    let killed = decoded
        .iter()
        .filter(|file| file.events[0].header.is_in_use())
        .count();
    // MySQL's next start mends the file that the killed server left open; MariaDB's leaves it as it is.
    assert_eq!(killed, usize::from(version.is_mariadb()));

    let transactions: Vec<_> = decoded.iter().flat_map(|file| &file.transactions).collect();
    assert_eq!(
        transactions
            .iter()
            .filter(|transaction| transaction.kind == TransactionKind::Changes)
            .count(),
        4 * 60 * 3
    );
    let is_xa =
        |kind: &TransactionKind| matches!(kind, TransactionKind::XaPrepare(_) | TransactionKind::XaCommit(_));
    assert_eq!(
        transactions
            .iter()
            .filter(|transaction| is_xa(&transaction.kind))
            .count(),
        2
    );
}

#[test]
fn mysql_97() {
    assert_decoded_as_mysqlbinlog_does(MysqlVersion::Mysql97, &["binlog_rows_query_log_events = ON"]);
}

#[test]
fn mysql_97_compressed_without_checksums() {
    let options = ["binlog_transaction_compression = ON", "binlog_checksum = NONE"];
    assert_decoded_as_mysqlbinlog_does(MysqlVersion::Mysql97, &options);
}

#[test]
fn mariadb_1011() {
    assert_decoded_as_mysqlbinlog_does(MysqlVersion::MariaDb1011, &[]);
}

#[test]
fn mariadb_118_compressed() {
    let options = ["log_bin_compress = ON", "log_bin_compress_min_len = 10"];
    assert_decoded_as_mysqlbinlog_does(MysqlVersion::MariaDb118, &options);
}
