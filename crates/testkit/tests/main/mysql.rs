//! MySQL and MariaDB servers start, stop, crash and log.

use std::time::Duration;

use tidemark_testkit::{MysqlServer, MysqlVersion, run};

fn assert_life_cycle(version: MysqlVersion) {
    let server = MysqlServer::builder(version)
        .option("max_connections = 17")
        .account("tidemark", "secret", "REPLICATION SLAVE")
        .start();
    assert!(server.sql("SELECT version()").starts_with(version.number()));
    assert_eq!(server.sql("SELECT @@max_connections"), "17");
    server.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); INSERT INTO d.t VALUES (1), (2), (3)",
    );
    let checksum = server.sql("CHECKSUM TABLE d.t");
    assert!(server.try_sql("SELECT * FROM nowhere.at_all").is_err());

    server.kill9();
    assert!(!server.is_running());
    assert!(server.try_sql("SELECT 1").is_err());
    server.start();
    assert_eq!(server.sql("CHECKSUM TABLE d.t"), checksum);
    let pid = server.pid();
    server.restart();
    assert!(server.pid().is_some() && server.pid() != pid);

    // One file for each start, and one for the rotation.
    server.rotate();
    let files = server.binlog_files();
    assert_eq!(files.last().unwrap().file_name().unwrap(), "bin.000004");
    let dump = run(server.mysqlbinlog().arg(&files[0])).expect_success();
    assert!(dump.contains("CREATE TABLE d.t"), "{dump}");
    let rows = run(server.tool("mysqldump").arg("d")).expect_success();
    assert!(rows.contains("INSERT INTO `t` VALUES"), "{rows}");

    // Over TCP, as the account.
    let mut client = version.tool("mysql");
    client
        .args([
            "--no-defaults",
            "--host=127.0.0.1",
            "--user=tidemark",
            "--password=secret",
        ])
        .arg(format!("--port={}", server.port()))
        .args(["--batch", "--skip-column-names", "-e", "SELECT current_user()"]);
    assert_eq!(run(&mut client).expect_success().trim(), "tidemark@%");
}

#[test]
fn mysql_97_lives_through_stops_and_crashes() {
    assert_life_cycle(MysqlVersion::Mysql97);
}

#[test]
fn mariadb_1011_lives_through_stops_and_crashes() {
    assert_life_cycle(MysqlVersion::MariaDb1011);
}

#[test]
fn mariadb_118_lives_through_stops_and_crashes() {
    assert_life_cycle(MysqlVersion::MariaDb118);
}

#[test]
fn a_server_that_cannot_start_tells_why() {
    let server = MysqlServer::builder(MysqlVersion::MariaDb1011).create();
    let options = std::fs::read_to_string(server.option_file()).unwrap();
    std::fs::write(server.option_file(), options + "no_such_option = 1\n").unwrap();
    let error = server.try_start(Duration::from_secs(20)).unwrap_err();
    assert!(format!("{error:#}").contains("no_such_option"), "{error:#}");
    assert!(!server.is_running());
}
