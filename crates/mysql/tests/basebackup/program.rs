//! `mariadb-backup` as a child: what it streams is a base backup, and what fails is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tidemark_mysql::basebackup::{
    BackupProgram, BaseBackupError, LogState, ProgramOptions, ProgramRun, ServerDescription,
    local_data_directory,
};
use tidemark_mysql::client::{ConnectOptions, Sql};
use tidemark_testkit::{MysqlServer, MysqlVersion, Scratch, ServerUser, TcpProxy, run, wait_for};
use tidemark_types::{ErrorClass, Secret};

use super::tree::Tree;

const PRIVILEGES: &str = "RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, REPLICATION SLAVE";
/// Everything that an option file gives a meaning to.
const PASSWORD: &str = r##"it's "q" #;\\n[mysqld]=!	x"##;

fn server(version: MysqlVersion) -> MysqlServer {
    let server = MysqlServer::builder(version).start();
    let password = PASSWORD.replace('\\', r"\\").replace('\'', r"\'");
    server.sql(&format!(
        "CREATE USER 'bk up'@'%' IDENTIFIED BY '{password}'; GRANT {PRIVILEGES} ON *.* TO 'bk up'@'%';
         CREATE DATABASE d; USE d;
         CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(2000));
         INSERT INTO t SELECT seq, REPEAT(MD5(seq), 20) FROM seq_1_to_20000;
         CREATE TABLE m (id INT PRIMARY KEY, v TEXT) ENGINE = MyISAM;
         INSERT INTO m SELECT seq, MD5(seq) FROM seq_1_to_1000;
         CREATE TABLE a (id INT PRIMARY KEY, v TEXT) ENGINE = Aria;
         INSERT INTO a SELECT seq, MD5(seq) FROM seq_1_to_1000;"
    ));
    server
}

fn options(server: &MysqlServer) -> ConnectOptions {
    ConnectOptions::parse(&format!("mysql://bk%20up@127.0.0.1:{}", server.port()))
        .unwrap()
        .with_password(Secret::new(PASSWORD))
}

async fn program(version: MysqlVersion) -> BackupProgram {
    let path = version.prefix().join("usr/bin/mariadb-backup");
    let found = BackupProgram::find(Some(&path), None).await.unwrap().unwrap();
    assert!(found.version.starts_with(version.number()), "{}", found.version);
    found
}

async fn read(mut run: ProgramRun, into: &Path) -> Result<usize, BaseBackupError> {
    let mut tree = Tree::new(into);
    while let Some(event) = run.next().await? {
        tree.take(event);
    }
    Ok(tree.files)
}

async fn restores(version: MysqlVersion) {
    let server = server(version);
    let elsewhere = Scratch::new("elsewhere");
    let directory = elsewhere.path().display();
    server.sql(&format!(
        "CREATE TABLE d.far (id INT PRIMARY KEY) DATA DIRECTORY = '{directory}'; INSERT INTO d.far VALUES (1)"
    ));
    let options = options(&server);
    let mut sql = Sql::connect(&options).await.unwrap();
    let host = &options.hosts[0];
    let data = local_data_directory(&mut sql, host, None).await.unwrap();
    assert_eq!(data, server.data_directory());
    let before = LogState::query(&mut sql).await.unwrap();
    let settings = ProgramOptions {
        connection: &options,
        host,
        data_directory: &data,
        threads: 2,
    };
    let scratch = Scratch::new("base");
    let base = scratch.path().join("data");
    let files = read(
        ProgramRun::start(&program(version).await, &settings).unwrap(),
        &base,
    )
    .await;
    assert!(files.unwrap() > 100);
    let after = LogState::query(&mut sql).await.unwrap();
    assert_eq!(before, after, "nothing was written meanwhile");
    server.sql("INSERT INTO d.t VALUES (0, 'later')");

    ServerUser::current().own_all(&base);
    run(version
        .tool("mariadb-backup")
        .arg("--prepare")
        .arg(format!("--target-dir={}", base.display())))
    .expect_success();
    let restored = MysqlServer::builder(version).create_with(|data| fs::rename(&base, data).unwrap());
    restored.start();
    // What leads to the original's table is left out, so that this server has its own.
    assert!(!restored.data_directory().join("d/far.isl").exists());
    let far = fs::read(elsewhere.path().join("d/far.ibd")).unwrap();
    restored.sql("UPDATE d.far SET id = 2");
    restored.stop();
    assert_eq!(fs::read(elsewhere.path().join("d/far.ibd")).unwrap(), far);
    restored.start();
    assert_eq!(
        (
            restored.sql("SELECT id FROM d.far"),
            server.sql("SELECT id FROM d.far")
        ),
        ("2".to_owned(), "1".to_owned())
    );
    let digest = "CHECKSUM TABLE d.m, d.a; SELECT COUNT(*), SUM(CRC32(v)) FROM d.t WHERE id > 0";
    assert_eq!(restored.sql(digest), server.sql(digest));
    assert_eq!(restored.sql("SELECT COUNT(*) FROM d.t"), "20000");
}

#[tokio::test]
async fn what_mariadb_1011_streams_restores() {
    restores(MysqlVersion::MariaDb1011).await;
}

#[tokio::test]
async fn what_mariadb_118_streams_restores() {
    restores(MysqlVersion::MariaDb118).await;
}

#[tokio::test]
async fn a_refused_login_is_told_in_the_programs_words() {
    let version = MysqlVersion::MariaDb118;
    let server = MysqlServer::start_new(version);
    let options = options(&server);
    let settings = ProgramOptions {
        connection: &options,
        host: &options.hosts[0],
        data_directory: &server.data_directory(),
        threads: 1,
    };
    let scratch = Scratch::new("base");
    let failed = read(
        ProgramRun::start(&program(version).await, &settings).unwrap(),
        scratch.path(),
    )
    .await;
    let message = failed.unwrap_err().to_string();
    assert!(message.contains("Access denied for user 'bk up'"), "{message}");
    assert!(
        !message.contains("it's"),
        "the password is nobody's to see: {message}"
    );
}

#[tokio::test]
async fn a_facts_sheet_says_what_a_fresh_host_must_know() {
    for version in MysqlVersion::ALL {
        let server = MysqlServer::start_new(version);
        let mut sql = Sql::connect(&ConnectOptions::socket(server.socket(), "root"))
            .await
            .unwrap();
        let facts = ServerDescription::query(&mut sql, true).await.unwrap();
        assert_eq!(facts.page_size().unwrap(), 16384);
        assert_eq!(facts.binlog_basename, "bin");
        assert_eq!(facts.settings["lower_case_table_names"], "0");
        assert!(facts.settings.contains_key("innodb_data_file_path"));
        let paths: Vec<&str> = facts.configuration_files.iter().map(|file| &*file.path).collect();
        assert!(
            paths.contains(&server.option_file().to_str().unwrap()),
            "{paths:?}"
        );
        assert_eq!(facts.server_uuid.is_none(), version.is_mariadb());
        if !version.is_mariadb() {
            assert!(paths.iter().any(|path| path.ends_with("/auto.cnf")), "{paths:?}");
        }
        let stored = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<ServerDescription>(&stored).unwrap(), facts);
    }
}

/// A script in the program's place.
fn start_stub(scratch: &Scratch, script: &str) -> ProgramRun {
    let path = scratch.file("mariadb-backup", format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let program = BackupProgram {
        path,
        version: "11.8.0-MariaDB".to_owned(),
    };
    let options = ConnectOptions::socket("/nowhere", "root");
    let settings = ProgramOptions {
        connection: &options,
        host: &options.hosts[0],
        data_directory: Path::new("/nowhere"),
        threads: 1,
    };
    ProgramRun::start(&program, &settings).unwrap()
}

async fn stub(script: &str) -> Result<usize, BaseBackupError> {
    let scratch = Scratch::new("stub");
    read(start_stub(&scratch, script), &scratch.path().join("data")).await
}

/// A store that is down must not stop the database: nobody takes what comes, and the program and its lock go.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_whose_stream_nobody_takes_is_ended_while_it_holds_the_lock() {
    let scratch = Scratch::new("stub");
    let ended = scratch.path().join("ended");
    // A payload of a terabyte of file g.
    let payload = r"printf 'XBSTCK01\000P\001\000\000\000g\000\000\000\000\000\001\000\000\000\000\000\000\000\000\000\000\000\000\000\000'";
    let script = format!(
        "echo '[00] Acquired locks for BACKUP STAGE BLOCK_COMMIT' >&2; {payload}; cat /dev/zero; echo > {}",
        ended.display()
    );
    let mut run = start_stub(&scratch, &script);
    tokio::task::block_in_place(|| {
        wait_for("the program to end", Duration::from_secs(120), || ended.exists());
    });
    let given_up = loop {
        match run.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the backup ended well"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(given_up, BaseBackupError::LockTooLong { .. }),
        "{given_up}"
    );
}

/// A file `f` without a byte, and one `g` that does not end.
const EMPTY_FILE: &str = r"printf 'XBSTCK01\000E\001\000\000\000f'";
const OPEN_FILE: &str = r"printf 'XBSTCK01\000S\001\000\000\000g\000\000\000\000\000\000\000\000'";

#[tokio::test]
async fn a_backup_came_about_only_when_the_program_says_so_twice_and_its_stream_has_an_end() {
    let says = "echo '[00] completed OK!' >&2";
    assert_eq!(stub(&format!("{EMPTY_FILE}; {says}")).await.unwrap(), 1);
    for script in [
        EMPTY_FILE.to_owned(),
        format!("{EMPTY_FILE}; {says}; exit 3"),
        format!("{EMPTY_FILE}; {says}; kill -9 $$"),
    ] {
        let error = stub(&script).await.unwrap_err();
        assert!(
            matches!(error, BaseBackupError::ProgramFailed { .. }),
            "{script}: {error}"
        );
    }
    for script in [
        format!("{OPEN_FILE}; {says}"),
        format!("printf XBST; {says}"),
        format!("echo nonsense here; {says}"),
    ] {
        let error = stub(&script).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Corrupt, "{script}: {error}");
    }
    let error = stub("echo 'mariabackup: Error: log block was overwritten' >&2; echo bye >&2; exit 1")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("log block was overwritten"), "{error}");
    assert!(error.class().is_transient());
}

#[tokio::test]
async fn a_program_of_another_series_is_refused() {
    let program = program(MysqlVersion::MariaDb1011).await;
    program.check_series("10.11.2-MariaDB-log").unwrap();
    let refused = program.check_series("11.8.3-MariaDB").unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Config);
    let searched = std::env::join_paths([Path::new("/nowhere"), program.path.parent().unwrap()]).unwrap();
    let found = BackupProgram::find(None, Some(&searched)).await.unwrap();
    assert_eq!(found.as_ref(), Some(&program));
    assert!(
        BackupProgram::find(Some(Path::new("/bin/true")), None)
            .await
            .is_err()
    );
}

/// What a tunnel leads to may be another server than the one whose files lie here.
#[tokio::test]
async fn a_server_behind_a_tunnel_is_not_taken_for_one_of_this_host() {
    let server = MysqlServer::start_new(MysqlVersion::MariaDb118);
    server.sql("CREATE USER far@'%' IDENTIFIED BY 'pw'");
    let tunnel = TcpProxy::start(server.address());
    for (port, is_here) in [(server.port(), true), (tunnel.address().port(), false)] {
        let options = ConnectOptions::parse(&format!("mysql://far@127.0.0.1:{port}")).unwrap();
        let options = options.with_password(Secret::new("pw"));
        let mut sql = Sql::connect(&options).await.unwrap();
        let found = local_data_directory(&mut sql, &options.hosts[0], None).await;
        assert_eq!(found.is_ok(), is_here, "{found:?}");
    }
    let link = Scratch::new("link");
    let socket = link.path().join("s");
    std::os::unix::fs::symlink(server.socket(), &socket).unwrap();
    let options = ConnectOptions::socket(&socket, "root");
    let mut sql = Sql::connect(&options).await.unwrap();
    let found = local_data_directory(&mut sql, &options.hosts[0], None)
        .await
        .unwrap();
    assert_eq!(found, server.data_directory());
}
