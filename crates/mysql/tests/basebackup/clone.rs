//! `CLONE LOCAL`: a clone restores, nothing is lost in silence, and nothing is left behind.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tidemark_mysql::basebackup::{
    BaseBackupError, DirectoryRead, ScratchDirectory, check_clonable, clone, local_data_directory,
};
use tidemark_mysql::client::{ConnectOptions, Sql};
use tidemark_testkit::{MysqlServer, MysqlVersion, Scratch, wait_for};
use tokio_util::sync::CancellationToken;

use super::tree::Tree;

const VERSION: MysqlVersion = MysqlVersion::Mysql97;
const PATIENCE: Duration = Duration::from_secs(60);

fn server() -> MysqlServer {
    let server = MysqlServer::start_new(VERSION);
    server.sql(
        "INSTALL PLUGIN clone SONAME 'mysql_clone.so';
         CREATE DATABASE d; CREATE DATABASE nothing; USE d;
         CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(1000));
         SET SESSION cte_max_recursion_depth = 100000;
         INSERT INTO t (v) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
             SELECT REPEAT(SHA2(i, 256), 10) FROM n;",
    );
    server
}

async fn connect(server: &MysqlServer) -> (ConnectOptions, Sql) {
    let options = ConnectOptions::socket(server.socket(), "root");
    let sql = Sql::connect(&options).await.unwrap();
    (options, sql)
}

fn place(scratch: &Scratch) -> PathBuf {
    scratch.path().join("clone of it's")
}

#[tokio::test]
async fn a_clone_restores_and_tells_its_position_when_a_server_starts_on_it() {
    let server = server();
    let (options, mut sql) = connect(&server).await;
    let data = local_data_directory(&mut sql, &options.hosts[0], None)
        .await
        .unwrap();
    check_clonable(&mut sql, &data).await.unwrap();
    let home = Scratch::new("clone");
    let scratch = ScratchDirectory::new(place(&home));
    let (before, after) = clone(sql, &options, &data, &scratch, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(before, after, "nothing was written meanwhile");
    server.sql("INSERT INTO d.t VALUES (1000000, 'later')");

    let base = home.path().join("base");
    let mut tree = Tree::new(&base);
    let mut reading = DirectoryRead::open(scratch.path()).await.unwrap();
    assert!(reading.total_bytes() > 40 << 20);
    while let Some(event) = reading.next().await.unwrap() {
        tree.take(event);
    }
    scratch.remove().await.unwrap();
    assert!(!place(&home).exists());

    let restored = MysqlServer::builder(VERSION).create_with(|data| fs::rename(&base, data).unwrap());
    restored.start();
    assert_eq!(restored.sql("SELECT COUNT(*), MAX(id) FROM d.t"), "20000\t20000");
    assert_eq!(restored.sql("SHOW TABLES FROM nothing"), "");
    let told = restored
        .sql("SELECT binlog_file, binlog_position, gtid_executed FROM performance_schema.clone_status");
    let (file, offset, gtids) = (before.file, before.offset, before.gtid_executed.unwrap());
    assert_eq!(told, format!("{file}\t{offset}\t{gtids}"));
    assert_eq!(restored.sql("SELECT @@gtid_executed"), gtids);
}

#[tokio::test]
async fn tables_that_a_clone_would_lose_are_named() {
    let server = server();
    let (_, mut sql) = connect(&server).await;
    server
        .sql("CREATE TABLE d.my_table (i INT) ENGINE = MyISAM; CREATE TABLE d.gone (i INT) ENGINE = MEMORY");
    let refused = check_clonable(&mut sql, &server.data_directory())
        .await
        .unwrap_err();
    match &refused {
        BaseBackupError::NotInnoDb { tables } => assert_eq!(tables, &["d.gone", "d.my_table"]),
        other => panic!("{other}"),
    }
    assert!(refused.to_string().contains("d.my_table"));
    server.sql("DROP TABLE d.gone; ALTER TABLE d.my_table ENGINE = InnoDB; UNINSTALL PLUGIN clone");
    let refused = check_clonable(&mut sql, &server.data_directory())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("INSTALL PLUGIN clone"), "{refused}");
}

#[tokio::test]
async fn a_server_without_gtids_is_not_cloned() {
    let server = MysqlServer::builder(VERSION)
        .options(&["gtid_mode = ON_PERMISSIVE"])
        .start();
    server.sql("INSTALL PLUGIN clone SONAME 'mysql_clone.so'");
    let (_, mut sql) = connect(&server).await;
    match check_clonable(&mut sql, &server.data_directory())
        .await
        .unwrap_err()
    {
        BaseBackupError::NoGtids { mode } => assert_eq!(mode, "ON_PERMISSIVE"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn files_outside_the_data_directory_are_named() {
    let elsewhere = Scratch::new("elsewhere");
    let directory = elsewhere.path().display().to_string();
    let server = MysqlServer::builder(VERSION)
        .option(&format!("innodb_directories = {directory}"))
        .start();
    server.sql(&format!(
        "INSTALL PLUGIN clone SONAME 'mysql_clone.so'; CREATE DATABASE d; \
         CREATE TABLE d.far (id INT PRIMARY KEY) DATA DIRECTORY = '{directory}'; CREATE TABLE d.near (id INT PRIMARY KEY)"
    ));
    let (_, mut sql) = connect(&server).await;
    match check_clonable(&mut sql, &server.data_directory())
        .await
        .unwrap_err()
    {
        BaseBackupError::Outside { files } => assert_eq!(files, [format!("{directory}/d/far.ibd")]),
        other => panic!("{other}"),
    }
    server.sql("DROP TABLE d.far");
    check_clonable(&mut sql, &server.data_directory()).await.unwrap();
}

#[tokio::test]
async fn what_an_earlier_process_left_is_removed_and_what_fails_leaves_nothing() {
    let server = server();
    let home = Scratch::new("clone");
    fs::create_dir_all(place(&home).join("d")).unwrap();
    fs::write(place(&home).join("d/left.ibd"), "left").unwrap();
    // The server refuses: it may not write there.
    let scratch = ScratchDirectory::new(PathBuf::from("/proc/clone"));
    let (options, sql) = connect(&server).await;
    let cancel = CancellationToken::new();
    let failed = clone(sql, &options, &server.data_directory(), &scratch, &cancel).await;
    assert!(failed.is_err());

    let scratch = ScratchDirectory::new(place(&home));
    let (options, sql) = connect(&server).await;
    let data = server.data_directory();
    clone(sql, &options, &data, &scratch, &cancel).await.unwrap();
    assert!(place(&home).join("mysql.ibd").exists());
    assert!(!place(&home).join("d/left.ibd").exists());
    drop(scratch);
    assert!(!place(&home).exists());
}

#[tokio::test]
async fn a_clone_that_is_called_off_ends_and_leaves_nothing() {
    let server = server();
    let home = Scratch::new("clone");
    let scratch = ScratchDirectory::new(place(&home));
    let (options, sql) = connect(&server).await;
    // An ALTER TABLE that waits for a reader makes a clone that blocks DDL wait.
    let (_, mut reader) = connect(&server).await;
    reader.execute("read", "START TRANSACTION").await.unwrap();
    reader.query("read", "SELECT * FROM d.t LIMIT 1").await.unwrap();
    server.sql("SET GLOBAL clone_block_ddl = ON");
    let client = server.client();
    let altering = std::thread::spawn(move || client.try_query("ALTER TABLE d.t ADD COLUMN w INT"));
    let waits = |what: &str| {
        server.sql(&format!(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE {what}"
        ))
    };
    wait_for("ALTER TABLE to wait", PATIENCE, || {
        waits("state = 'Waiting for table metadata lock'") == "1"
    });

    let cancel = CancellationToken::new();
    let data = server.data_directory();
    let cloning = clone(sql, &options, &data, &scratch, &cancel);
    let cancelling = async {
        while waits("info LIKE 'CLONE%'") != "1" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cancel.cancel();
    };
    let (done, ()) = tokio::join!(cloning, cancelling);
    assert!(matches!(done, Err(BaseBackupError::Cancelled)), "{done:?}");
    wait_for("the clone to end", PATIENCE, || {
        waits("info LIKE 'CLONE%'") == "0"
    });
    drop(reader);
    altering.join().unwrap().unwrap();
    drop(scratch);
    assert!(!place(&home).exists());
}

/// The process that asked for a clone is gone; the server goes on with it.
#[tokio::test]
async fn an_abandoned_clone_does_not_stand_in_the_way() {
    let server = server();
    server.sql(&"INSERT INTO d.t (v) SELECT v FROM d.t;".repeat(2));
    let home = Scratch::new("clone");
    let statement = format!(
        "CLONE LOCAL DATA DIRECTORY = '{}'",
        place(&home).display().to_string().replace('\'', "\\'")
    );
    // Abandoned again and again, so that some are met at work.
    for _ in 0..3 {
        let mut child = server
            .tool("mysql")
            .arg(format!("--execute={statement}"))
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the clone to begin", PATIENCE, || {
            place(&home).join("#clone").exists()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        let (options, sql) = connect(&server).await;
        let scratch = ScratchDirectory::new(place(&home));
        let cancel = CancellationToken::new();
        clone(sql, &options, &server.data_directory(), &scratch, &cancel)
            .await
            .unwrap();
        assert!(place(&home).join("d/t.ibd").exists());
    }
}

#[tokio::test]
async fn a_server_elsewhere_is_not_cloned() {
    let (server, other) = (MysqlServer::start_new(VERSION), MysqlServer::start_new(VERSION));
    let (options, mut sql) = connect(&server).await;
    let named = other.data_directory();
    let refused = local_data_directory(&mut sql, &options.hosts[0], Some(&named))
        .await
        .unwrap_err();
    assert!(matches!(refused, BaseBackupError::Elsewhere { .. }), "{refused}");
    fs::copy(named.join("auto.cnf"), server.data_directory().join("auto.cnf")).unwrap();
    let refused = local_data_directory(&mut sql, &options.hosts[0], None)
        .await
        .unwrap_err();
    assert!(matches!(refused, BaseBackupError::Elsewhere { .. }), "{refused}");
}
