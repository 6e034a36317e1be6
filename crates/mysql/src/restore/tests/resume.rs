//! A replay that was interrupted goes on, or says that it cannot.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tidemark_testkit::{MysqlVersion, wait_for};
use tidemark_types::ErrorClass;

use super::restored::{Place, assert_restored, stop};
use super::source::Source;
use crate::restore::{Ending, ReplayState, RestoreError};

const SCHEMA: &str = "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY AUTO_INCREMENT, k INT, v VARCHAR(200)); \
                      CREATE TABLE d.isam (a INT) ENGINE = MyISAM; INSERT INTO d.t (k) VALUES (0)";

fn load(source: &Source, transactions: u32) {
    let mut sql = "USE d;".to_owned();
    for i in 0..transactions {
        sql.push_str(&format!("INSERT INTO t (k, v) VALUES ({i}, REPEAT('x', 150));"));
    }
    source.server.sql(&sql);
}

/// Kills the private server of `place`, as the kernel would when memory is short.
fn kill9(place: &Place) {
    let path = place.launch.options.directory.join("server.pid");
    let pid: i32 = std::fs::read_to_string(path).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    wait_for("the killed server to end", Duration::from_secs(20), || {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| {
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with('Z'))
        })
    });
}

/// Replays up to the end and kills the server on the way, at the first sight of progress in the `n`th file.
async fn interrupt(place: &Place, source: &Source, first: &str) -> RestoreError {
    let files = source.files(first, &source.moment());
    let (mut replay, feeding) = place.begin(source, files).await.unwrap();
    let mut is_killed = false;
    let mut tell = |progress: crate::restore::ReplayProgress| {
        if !is_killed && progress.bytes > 300_000 {
            is_killed = true;
            kill9(place);
        }
    };
    let error = replay.apply(&mut tell).await.unwrap_err();
    feeding.join().unwrap().unwrap();
    error
}

async fn assert_a_killed_replay_goes_on(version: MysqlVersion) {
    let source = Source::new(version, &["max_binlog_size = 64M"], SCHEMA);
    load(&source, 20_000);
    let end = source.moment();
    let place = Place::new(&source);
    let error = interrupt(&place, &source, &source.base.file).await;
    assert!(matches!(error, RestoreError::ServerEnded { .. }), "{error}");
    let state = ReplayState::read(&place.launch.options.directory)
        .unwrap()
        .unwrap();
    assert!(state.applying_to.is_some(), "{state:?}");
    let first = state
        .applied
        .map_or(source.base.file.clone(), |applied| applied.file);
    let replayed = place
        .restore(&source, &first, &end, Ending::LeaveRunning)
        .await
        .unwrap();
    assert_restored(&source, &replayed, &end);
    stop(&source, &replayed);
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_97_goes_on_where_it_was_killed() {
    assert_a_killed_replay_goes_on(MysqlVersion::Mysql97).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_1011_goes_on_where_it_was_killed() {
    assert_a_killed_replay_goes_on(MysqlVersion::MariaDb1011).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_118_goes_on_where_it_was_killed() {
    assert_a_killed_replay_goes_on(MysqlVersion::MariaDb118).await;
}

/// What an engine without transactions was doing when it was killed is there, or not, or in part.
#[tokio::test(flavor = "multi_thread")]
async fn changes_without_transactions_are_not_repeated() {
    let source = Source::new(MysqlVersion::Mysql97, &[], SCHEMA);
    let rows = "INSERT INTO d.isam VALUES (1);".repeat(20_000);
    source.server.sql(&rows);
    let end = source.moment();
    let place = Place::new(&source);
    let error = interrupt(&place, &source, &source.base.file).await;
    assert!(matches!(error, RestoreError::ServerEnded { .. }), "{error}");
    let refused = place
        .restore(&source, &source.base.file, &end, Ending::Stop)
        .await
        .unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Conflict);
    assert!(refused.to_string().contains("applied in part"), "{refused}");
}

/// After a start of the host nothing is known of what reached its disks.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_of_the_host_in_between_means_to_begin_anew() {
    let source = Source::new(MysqlVersion::MariaDb1011, &[], SCHEMA);
    load(&source, 10_000);
    let place = Place::new(&source);
    interrupt(&place, &source, &source.base.file).await;
    let path = place.launch.options.directory.join("replay.json");
    let state = std::fs::read_to_string(&path).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::write(
        &path,
        state.replace(boot.trim(), "11111111-0000-0000-0000-000000000000"),
    )
    .unwrap();
    let refused = place
        .restore(&source, &source.base.file, &source.moment(), Ending::Stop)
        .await
        .unwrap_err();
    assert!(matches!(refused, RestoreError::CannotResume { .. }), "{refused}");
}

/// Whoever could write to the restored server may have done so.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_opened_goes_no_further() {
    let source = Source::new(MysqlVersion::MariaDb118, &[], SCHEMA);
    load(&source, 10);
    let middle = source.moment();
    load(&source, 10);
    let mut place = Place::new(&source);
    place.launch.options.is_read_only = false;
    let replayed = place
        .restore(&source, &source.base.file, &middle, Ending::LeaveRunning)
        .await
        .unwrap();
    assert_restored(&source, &replayed, &middle);
    stop(&source, &replayed);
    let refused = place
        .restore(&source, &middle.file, &source.moment(), Ending::Stop)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("opened for writes"), "{refused}");
}
