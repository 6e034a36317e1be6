//! What must not be applied is not; what cannot be applied says so; what a server would pass over in silence is applied.

use std::path::PathBuf;

use tidemark_testkit::{MysqlVersion, Scratch};
use tidemark_types::ErrorClass;

use super::restored::{Place, assert_restored, stop};
use super::source::Source;
use crate::binlog::{BinlogDecoder, BinlogOffset, Fact, Transactions};
use crate::restore::{Ending, FileEnding, LogError, LogFile, RestoreError};

const SCHEMA: &str = "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v VARCHAR(20)); \
                      INSERT INTO d.t VALUES (1, 'one'), (2, 'two'), (3, 'three')";

/// A row is not there that a transaction changes: it is named, what lies before it is in, and nothing behind.
async fn assert_a_failing_transaction_is_named(version: MysqlVersion) {
    let source = Source::new(version, &[], SCHEMA);
    // The base does not hold it, and no log tells.
    source
        .server
        .sql("SET sql_log_bin = 0; INSERT INTO d.t VALUES (9, 'nine')");
    source.server.sql("INSERT INTO d.t VALUES (4, 'four')");
    let before = source.moment();
    source.server.sql("UPDATE d.t SET v = 'neuf' WHERE id = 9");
    let failing = source.moment();
    source.server.sql("INSERT INTO d.t VALUES (5, 'five')");
    let place = Place::new(&source);
    let error = place
        .restore(&source, &source.base.file, &source.moment(), Ending::Stop)
        .await
        .unwrap_err();
    assert_eq!(error.class(), ErrorClass::CheckFailed);
    let RestoreError::Transaction(failed) = &error else {
        panic!("{error}");
    };
    let last = failing.executed.rsplit(['-', ':']).next().unwrap();
    assert!(failed.gtid.ends_with(last), "{failed:?}, {}", failing.executed);
    assert_eq!((&failed.file, failed.begin), (&before.file, before.offset));
    assert_eq!((failed.end, failed.code), (failing.offset, 1032), "{failed:?}");
    // As the message advises.
    let place = Place::new(&source);
    let replayed = place
        .restore(&source, &source.base.file, &before, Ending::Stop)
        .await
        .unwrap();
    assert_eq!(replayed.executed.to_string(), before.executed);
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_97_names_the_transaction_that_fails() {
    assert_a_failing_transaction_is_named(MysqlVersion::Mysql97).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_names_the_transaction_that_fails() {
    assert_a_failing_transaction_is_named(MysqlVersion::MariaDb118).await;
    assert_a_failing_transaction_is_named(MysqlVersion::MariaDb1011).await;
}

async fn refuse(source: &Source, change: impl FnOnce(&mut Vec<(LogFile, PathBuf)>)) -> LogError {
    let mut files = source.files(&source.base.file, &source.moment());
    change(&mut files);
    let place = Place::new(source);
    let (mut replay, feeding) = place.begin(source, files).await.unwrap();
    let applied = replay.apply(&mut |_| {}).await;
    assert!(
        matches!(applied, Err(RestoreError::FeedEnded { .. })),
        "{applied:?}"
    );
    replay.stop().await.unwrap();
    match feeding.join().unwrap().unwrap_err() {
        RestoreError::Log(error) => error,
        error => panic!("{error}"),
    }
}

/// What is missing, damaged or cut through never reaches a server.
async fn assert_a_log_with_holes_is_refused(version: MysqlVersion) {
    let source = Source::new(version, &[], SCHEMA);
    for id in 4..8 {
        source
            .server
            .sql(&format!("INSERT INTO d.t VALUES ({id}, 'x'); FLUSH BINARY LOGS"));
    }
    let missing = refuse(&source, |files| drop(files.remove(2))).await;
    assert!(matches!(missing, LogError::NotJoined { .. }), "{missing}");
    assert_eq!(missing.class(), ErrorClass::Corrupt);

    let late = refuse(&source, |files| drop(files.remove(0))).await;
    // The offset of the base is meant for another file; what lies before this one is in neither.
    assert!(
        matches!(late, LogError::BehindBase { .. } | LogError::Start { .. }),
        "{late}"
    );

    let scratch = Scratch::new("damage");
    let damaged = refuse(&source, |files| {
        let mut bytes = std::fs::read(&files[1].1).unwrap();
        let middle = bytes.len() - 60;
        bytes[middle] ^= 1;
        files[1].1 = scratch.file("damaged", bytes);
    })
    .await;
    assert!(matches!(damaged, LogError::Damaged { .. }), "{damaged}");

    // Without its last transaction; the event that ends it would not tell.
    let short = refuse(&source, |files| {
        let bytes = std::fs::read(&files[1].1).unwrap();
        let mut reader = BinlogDecoder::new();
        let mut transactions = Transactions::new();
        let mut input = &bytes[..];
        let mut end = 0;
        while let Some(event) = reader.next(&mut input).unwrap() {
            let fact = Fact::of(&event).unwrap();
            if let Some(transaction) = transactions.add(&event, fact.as_ref()).unwrap() {
                end = usize::try_from(transaction.begin.0).unwrap();
            }
        }
        assert!(end > 0);
        files[1].1 = scratch.file("short", &bytes[..end]);
    })
    .await;
    assert!(matches!(short, LogError::NotJoined { .. }), "{short}");

    let through = refuse(&source, |files| {
        let last = files.last_mut().unwrap();
        let FileEnding::Cut(end) = last.0.ending else {
            panic!("{last:?}")
        };
        last.0.ending = FileEnding::Cut(BinlogOffset(end.0 - 31));
    })
    .await;
    assert!(
        matches!(through, LogError::Cut { .. } | LogError::Start { .. }),
        "{through}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_97_is_not_given_a_log_with_holes() {
    assert_a_log_with_holes_is_refused(MysqlVersion::Mysql97).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_118_is_not_given_a_log_with_holes() {
    assert_a_log_with_holes_is_refused(MysqlVersion::MariaDb118).await;
}

/// A configuration from production: the number that our server would take, variables that were persisted into the data, and a
/// source to follow.
async fn assert_production_does_not_get_in_the_way(version: MysqlVersion) {
    let ours = u32::MAX - 1;
    let follow = if version.is_mariadb() {
        "CHANGE MASTER TO master_host = '127.0.0.1', master_port = 1, master_user = 'x';"
    } else {
        "SET PERSIST server_id = 4294967294; SET PERSIST max_connections = 3; \
         CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 1, SOURCE_USER = 'x';"
    };
    let options = [format!("server_id = {ours}"), "log_slave_updates = ON".to_owned()];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let source = Source::new(version, &options, &format!("{follow} {SCHEMA}"));
    source
        .server
        .sql("INSERT INTO d.t VALUES (4, 'four'); UPDATE d.t SET v = 'deux' WHERE id = 2");
    let end = source.moment();
    let place = Place::new(&source);
    assert_eq!(place.launch.options.server_id, ours);
    let replayed = place
        .restore(&source, &source.base.file, &end, Ending::LeaveRunning)
        .await
        .unwrap();
    assert_restored(&source, &replayed, &end);
    assert_eq!(replayed.transactions, 2);
    stop(&source, &replayed);
    assert!(!place.launch.data_directory.join("master.info").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_97_does_not_pass_over_events_of_its_own_number() {
    assert_production_does_not_get_in_the_way(MysqlVersion::Mysql97).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_does_not_pass_over_events_of_its_own_number() {
    assert_production_does_not_get_in_the_way(MysqlVersion::MariaDb1011).await;
    assert_production_does_not_get_in_the_way(MysqlVersion::MariaDb118).await;
}

/// A base that is not what its manifest says must not be rolled forward.
#[tokio::test(flavor = "multi_thread")]
async fn another_backups_base_is_refused() {
    let mut source = Source::new(MysqlVersion::Mysql97, &[], SCHEMA);
    source.base.executed = source.base.executed.replace(":1-", ":2-");
    let place = Place::new(&source);
    let error = place
        .restore(&source, &source.base.file, &source.base, Ending::Stop)
        .await
        .unwrap_err();
    assert!(matches!(error, RestoreError::OtherBase { .. }), "{error}");
}
