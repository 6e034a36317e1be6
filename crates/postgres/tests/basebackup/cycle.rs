//! Back up under load, lay down, recover to a target in a private server, look at the rows.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tidemark_postgres::basebackup::{BackupSession, BaseBackupError};
use tidemark_postgres::restore::{
    CommandWord, PrivateConfig, RecoverySettings, RecoveryTarget, ReplayProgress, RestoreError,
    RestoredServer, ServerLaunch, ServerPrograms, ServerState, TargetAction, restore_command,
};
use tidemark_testkit::{PgVersion, PostgresServer, Psql, Scratch, ServerUser, run};
use tidemark_types::Lsn;

use super::support::{Copied, connect, copy_backup, copy_wal};

const PATIENCE: Duration = Duration::from_secs(60);

/// A data directory for a restore: owned by the servers' user, as restores leave it.
fn data_directory(scratch: &Scratch) -> PathBuf {
    let data = scratch.subdir("data");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    data
}

fn settings(copied: &Copied, target: RecoveryTarget, action: TargetAction, wal: &Path) -> RecoverySettings {
    let source = format!("{}/pg_wal", wal.display());
    let script = "test -f \"$0/$1\" && cp \"$0/$1\" \"$2\"";
    let words = [
        CommandWord::Literal("sh"),
        CommandWord::Literal("-c"),
        CommandWord::Literal(script),
        CommandWord::Literal(&source),
        CommandWord::FileName,
        CommandWord::Path,
    ];
    RecoverySettings {
        target,
        timeline: copied.stop.label.timeline,
        action,
        restore_command: restore_command(&words),
    }
}

fn launch(version: PgVersion, copied: &Copied, data: &Path, scratch: &Scratch) -> RestoredServer {
    let programs = ServerPrograms::find(version.major(), Some(&version.bin_dir()), None).unwrap();
    let requirements = copied.control.requirements.max(copied.facts.requirements);
    RestoredServer::start(ServerLaunch {
        programs,
        data_directory: data.to_owned(),
        config: PrivateConfig::new(
            scratch.path().join("private"),
            25999,
            requirements,
            copied.control.wal_segment_size,
        ),
        user: copied.facts.bootstrap_superuser.clone(),
        database: "template1".to_owned(),
    })
    .expect("start")
}

async fn wait_until(
    server: &mut RestoredServer,
    mut done: impl FnMut(&ServerState) -> bool,
) -> Result<ServerState, RestoreError> {
    let begun = Instant::now();
    loop {
        let state = server.state().await?;
        if done(&state) {
            return Ok(state);
        }
        assert!(begun.elapsed() < PATIENCE, "still {state:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_paused(state: &ServerState) -> bool {
    matches!(
        state,
        ServerState::Recovering(ReplayProgress { paused: true, .. })
    )
}

async fn count(server: &RestoredServer, statement: &str) -> i64 {
    let client = server.connect(Some("postgres")).await.expect("connect");
    client.query_one(statement, &[]).await.expect("count").get(0)
}

/// Writes all the while: hot updates, inserts, and a table that shrinks and grows.
fn start_load(server: &PostgresServer) -> std::process::Child {
    run(server.tool("pgbench").args(["-i", "-s", "3", "-q", "postgres"])).expect_success();
    server
        .tool("pgbench")
        .args(["-n", "-c", "4", "-T", "600", "postgres"])
        .spawn()
        .expect("start pgbench")
}

async fn a_backup_under_load_recovers_to_its_target(version: PgVersion) {
    let server = PostgresServer::builder(version)
        .conf("max_connections = 300")
        .start();
    let space = server.create_tablespace("space");
    server.psql(
        "CREATE TABLE kept (id int) TABLESPACE space; INSERT INTO kept SELECT generate_series(1, 50000);
         CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 1000) AS id;
         ALTER SYSTEM SET shared_preload_libraries = 'not_on_this_host';
         ALTER SYSTEM SET recovery_target_time = '2001-01-01'; CHECKPOINT",
    );
    let mut load = start_load(&server);
    let scratch = Scratch::new("cycle");
    let data = data_directory(&scratch);
    let copied = copy_backup(&server, &data, |oid| scratch.path().join(format!("space-{oid}"))).await;
    load.kill().unwrap();
    load.wait().unwrap();
    assert!(space.is_absolute() && copied.stop.tablespaces[0].location == space);
    assert_eq!(copied.bad, [], "torn pages must not be taken for bad ones");
    server.psql("INSERT INTO kept SELECT generate_series(50001, 50100)");
    let target: Lsn = server
        .psql("SELECT pg_current_wal_insert_lsn()")
        .trim()
        .parse()
        .unwrap();
    server.psql("INSERT INTO kept SELECT generate_series(60001, 60100)");
    copy_wal(&server, scratch.path());
    server.kill9();

    settings(
        &copied,
        RecoveryTarget::Lsn(target),
        TargetAction::Pause,
        scratch.path(),
    )
    .write(&data)
    .unwrap();
    let mut restored = launch(version, &copied, &data, &scratch);
    let state = wait_until(&mut restored, is_paused).await.unwrap();
    let ServerState::Recovering(progress) = state else {
        panic!("{state:?}")
    };
    assert!(
        progress.replayed.unwrap() >= target && progress.last_commit.is_some(),
        "{progress:?}"
    );
    assert_eq!(count(&restored, "SELECT count(*) FROM kept").await, 50_100);
    restored.promote(PATIENCE).await.unwrap();
    assert_eq!(
        count(&restored, "SELECT count(*) FROM kept WHERE id > 60000").await,
        0
    );
    assert_eq!(count(&restored, "SELECT count(*) FROM fleeting").await, 0);
    let psql = Psql::new(version, &scratch.path().join("private"), 25999);
    run(psql
        .tool("pg_amcheck")
        .args(["--all", "--install-missing", "--heapallindexed"]))
    .expect_success();
    restored.shut_down(PATIENCE).await.unwrap();
    run(version.tool("pg_checksums").arg("--check").arg("-D").arg(&data)).expect_success();
}

#[tokio::test]
async fn a_backup_under_load_recovers_to_its_target_15() {
    a_backup_under_load_recovers_to_its_target(PgVersion::V15).await;
}

#[tokio::test]
async fn a_backup_under_load_recovers_to_its_target_17() {
    a_backup_under_load_recovers_to_its_target(PgVersion::V17).await;
}

#[tokio::test]
async fn a_backup_under_load_recovers_to_its_target_18() {
    a_backup_under_load_recovers_to_its_target(PgVersion::V18).await;
}

#[tokio::test]
async fn a_server_told_to_shut_down_at_its_target_has_not_failed() {
    let version = PgVersion::V17;
    let server = PostgresServer::start_new(version);
    let scratch = Scratch::new("shutdown");
    let data = data_directory(&scratch);
    let copied = copy_backup(&server, &data, |_| unreachable!()).await;
    copy_wal(&server, scratch.path());
    settings(
        &copied,
        RecoveryTarget::Immediate,
        TargetAction::Shutdown,
        scratch.path(),
    )
    .write(&data)
    .unwrap();
    let mut restored = launch(version, &copied, &data, &scratch);
    let state = wait_until(&mut restored, |state| matches!(state, ServerState::Ended(_)))
        .await
        .unwrap();
    assert!(matches!(state, ServerState::Ended(status) if status.success()));
}

#[tokio::test]
async fn a_server_that_cannot_reach_its_target_says_why() {
    let version = PgVersion::V18;
    let server = PostgresServer::start_new(version);
    let scratch = Scratch::new("beyond");
    let data = data_directory(&scratch);
    let copied = copy_backup(&server, &data, |_| unreachable!()).await;
    copy_wal(&server, scratch.path());
    let target = RecoveryTarget::Lsn(Lsn(u64::MAX >> 8));
    settings(&copied, target, TargetAction::Pause, scratch.path())
        .write(&data)
        .unwrap();
    let mut restored = launch(version, &copied, &data, &scratch);
    let error = wait_until(&mut restored, |_| false).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("recovery ended before configured recovery target was reached"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_left_running_goes_on_and_a_dropped_one_ends() {
    let version = PgVersion::V15;
    let server = PostgresServer::start_new(version);
    let scratch = Scratch::new("left");
    let data = data_directory(&scratch);
    let copied = copy_backup(&server, &data, |_| unreachable!()).await;
    copy_wal(&server, scratch.path());
    settings(
        &copied,
        RecoveryTarget::Immediate,
        TargetAction::Promote,
        scratch.path(),
    )
    .write(&data)
    .unwrap();
    let mut restored = launch(version, &copied, &data, &scratch);
    wait_until(&mut restored, |state| matches!(state, ServerState::Promoted(_)))
        .await
        .unwrap();
    let left = restored.leave_running();
    let psql = Psql::new(version, &left.socket_directory, left.port);
    assert_eq!(psql.query("SELECT current_setting('archive_mode')").trim(), "off");
    let mut stop = ServerUser::current().command(version.bin_dir().join("pg_ctl"));
    run(stop.arg("stop").arg("-w").arg("-D").arg(&data)).expect_success();

    let again = launch(version, &copied, &data, &scratch);
    let pid_file = data.join("postmaster.pid");
    tidemark_testkit::wait_for("the server's pid file", PATIENCE, || pid_file.exists());
    drop(again);
    tidemark_testkit::wait_for("the dropped server's end", PATIENCE, || !pid_file.exists());
}

#[tokio::test]
async fn a_standby_can_be_backed_up_until_it_is_promoted() {
    let version = PgVersion::V17;
    let primary = PostgresServer::start_new(version);
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id; CHECKPOINT");
    let standby = primary.start_standby();
    let scratch = Scratch::new("standby");
    let data = data_directory(&scratch);
    let copied = copy_backup(&standby, &data, |_| unreachable!()).await;
    assert!(copied.stop.label.from_standby && copied.bad.is_empty());
    primary.psql("INSERT INTO t VALUES (0)");
    copy_wal(&primary, scratch.path());
    settings(
        &copied,
        RecoveryTarget::Immediate,
        TargetAction::Pause,
        scratch.path(),
    )
    .write(&data)
    .unwrap();
    let mut restored = launch(version, &copied, &data, &scratch);
    wait_until(&mut restored, is_paused).await.unwrap();
    assert!(count(&restored, "SELECT count(*) FROM t").await >= 1000);

    let session = BackupSession::start(connect(&standby).await, "doomed", true)
        .await
        .unwrap();
    standby.promote();
    assert!(matches!(
        session.check().await,
        Err(BaseBackupError::Promoted { .. })
    ));
    assert!(matches!(
        session.stop().await,
        Err(BaseBackupError::Promoted { .. })
    ));
}
