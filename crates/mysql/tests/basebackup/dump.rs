//! Dumps: what the vendor's own client makes of one is the server as it was at one point of its log.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use tidemark_mysql::basebackup::{BaseBackupError, DumpFacts, DumpRun};
use tidemark_mysql::client::ConnectOptions;
use tidemark_testkit::{MysqlServer, MysqlVersion, Scratch, run};
use tidemark_types::Secret;

use super::tree::Tree;

/// Everything that both vendors have.
const LOAD: &str = r#"
CREATE DATABASE d DEFAULT CHARACTER SET latin1; CREATE DATABASE `we;ird ``db`; USE d;
SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO';
CREATE TABLE numbers (id INT PRIMARY KEY AUTO_INCREMENT, t TINYINT, u BIGINT UNSIGNED, d DECIMAL(40, 20), f FLOAT, g DOUBLE,
    b BIT(17), y YEAR, z INT(6) ZEROFILL, i INT INVISIBLE DEFAULT 7) CHARACTER SET utf8mb4;
CREATE TABLE computed (v INT AS (t + 1) VIRTUAL, t INT, n INT GENERATED ALWAYS AS (t * 2) STORED, KEY (n)); INSERT INTO computed (t) VALUES (1), (NULL), (3);
INSERT INTO numbers (id, t, u, d, f, g, b, y, z) VALUES
    (0, -128, 18446744073709551615, -1.00000000000000000001, 1.1, 1.1, b'10000000000000001', 2026, 42),
    (5, 127, 0, 0, 16777217, -0e0, 0, 1901, 1), (6, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (7, 0, 1, 99999999999999999999.5, 3.4028234e38, 1.7976931348623157e308, 1, 0, 0),
    (8, 0, 1, 0.1, 1e-45, 4.9e-324, 1, 0, 0), (9, 0, 1, 0.1, 0.333333343, 0.1e0 + 0.2e0, 1, 0, 0);
CREATE TABLE texts (id INT PRIMARY KEY, a VARCHAR(100) CHARACTER SET latin1, b TEXT CHARACTER SET utf8mb4, c CHAR(20) CHARACTER SET ucs2,
    e VARCHAR(50) CHARACTER SET sjis, s ENUM('a''b', 'c,d', 'é') CHARACTER SET latin2, m SET('x', 'y'), q BLOB, r VARBINARY(50), k BINARY(4), j JSON,
    KEY (b(10))) COMMENT 'a ''comment''; with\nlines';
INSERT INTO texts VALUES (1, 'caf\u00e9 é \\ '' " \0 \n \r \Z;', '😀 \n;;0\n', 'ça', _sjis 0x835C835C, 'é', 'x,y', UNHEX('00FF0A0D1A275C'), '', 'ab', '{"a": [1.5, null, "é;\\n"]}');
INSERT INTO texts (id, b) VALUES (2, NULL), (3, ''), (4, REPEAT('x;\n', 300000));
INSERT INTO texts (id, q) VALUES (5, REPEAT(UNHEX('00FE'), 700000));
CREATE TABLE times (id INT PRIMARY KEY, d DATE, t TIME(6), dt DATETIME(3), ts TIMESTAMP(6) NULL);
SET time_zone = '+05:00';
INSERT INTO times VALUES (1, '0000-00-00', '-838:59:59.000000', '9999-12-31 23:59:59.999', '2026-03-29 02:30:00.123456'), (2, '2026-02-00', '00:00:00.000001', NULL, '1970-01-02 00:00:01');
CREATE TABLE places (id INT PRIMARY KEY, g GEOMETRY NOT NULL, SPATIAL KEY (g)); INSERT INTO places VALUES (1, ST_GeomFromText('POINT(1 2)')), (2, ST_GeomFromText('LINESTRING(0 0,1 1.5)'));
CREATE TABLE parent (id INT PRIMARY KEY); CREATE TABLE child (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE);
INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1), (2, 2);
CREATE TABLE my (id INT PRIMARY KEY, v TEXT) ENGINE = MyISAM; INSERT INTO my VALUES (1, 'one'), (2, NULL);
CREATE TABLE `od``d;na/me` (`co``l;1` INT, `b"` INT) PARTITION BY HASH (`co``l;1`) PARTITIONS 3; INSERT INTO `od``d;na/me` VALUES (1, 2), (3, 4);
CREATE TABLE nothing (id INT PRIMARY KEY);
CREATE TABLE `we;ird ``db`.t (id INT PRIMARY KEY); INSERT INTO `we;ird ``db`.t VALUES (1);
CREATE TABLE audit (id INT PRIMARY KEY AUTO_INCREMENT, what VARCHAR(100));
SET SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT';
CREATE VIEW "a_first" AS SELECT v.id, v.twice FROM d.z_last v; 
"#;

const ROUTINES: &str = r#"USE d//
CREATE FUNCTION twice(x INT) RETURNS INT DETERMINISTIC RETURN x * 2//
CREATE OR REPLACE VIEW z_last AS SELECT id, twice(id) AS twice FROM numbers//
CREATE OR REPLACE VIEW a_first AS SELECT v.id, v.twice, 'it''s;;0' AS t FROM d.z_last v//
CREATE PROCEDURE p(IN a INT) BEGIN DECLARE b INT; SET b = a; -- ;
    INSERT INTO audit (what) VALUES (CONCAT('p;', b)); END//
CREATE TRIGGER second AFTER INSERT ON parent FOR EACH ROW INSERT INTO audit (what) VALUES ('second')//
CREATE TRIGGER first_ AFTER INSERT ON parent FOR EACH ROW PRECEDES second BEGIN INSERT INTO audit (what) VALUES ('first'); END//
CREATE EVENT ev ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 00:00:00' DO DELETE FROM audit WHERE id < 0//
CREATE ROLE reader//
GRANT SELECT ON d.* TO reader//
CREATE USER 'app''s'@'%' IDENTIFIED BY 'Secret-1;x'//
GRANT INSERT, UPDATE (id) ON d.parent TO 'app''s'@'%'//
GRANT reader TO 'app''s'@'%' WITH ADMIN OPTION//
GRANT EXECUTE ON PROCEDURE d.p TO 'app''s'@'%'//
"#;

const MARIADB_ONLY: &str = "USE d;
CREATE SEQUENCE s START WITH 100 INCREMENT BY 10 CACHE 5; SELECT NEXTVAL(s), NEXTVAL(s);
CREATE TABLE addresses (id INT PRIMARY KEY, u UUID, a INET6); INSERT INTO addresses VALUES (1, '123e4567-e89b-12d3-a456-426614174000', '2001:db8::1');
CREATE TABLE versioned (id INT PRIMARY KEY, x INT) WITH SYSTEM VERSIONING; INSERT INTO versioned VALUES (1, 1); UPDATE versioned SET x = 2;
SET DEFAULT ROLE reader FOR 'app''s'@'%';";
const MYSQL_ONLY: &str = "USE d;
CREATE TABLE vectors (id INT PRIMARY KEY, v VECTOR(3)); INSERT INTO vectors VALUES (1, STRING_TO_VECTOR('[1.5, -2, 3e-7]'));
CREATE TABLE functional (id INT PRIMARY KEY, j JSON, KEY ((CAST(j->>'$.a' AS UNSIGNED)))); INSERT INTO functional VALUES (1, '{\"a\": 5}');
ALTER USER 'app''s'@'%' DEFAULT ROLE reader;";

fn server(version: MysqlVersion) -> MysqlServer {
    let server = MysqlServer::start_new(version);
    let routines = format!("DELIMITER //\n{ROUTINES}DELIMITER ;\n");
    let load = LOAD.replace(
        "CREATE VIEW \"a_first\" AS SELECT v.id, v.twice FROM d.z_last v; \n",
        "",
    );
    server.sql(&load);
    server.sql(&routines);
    server.sql(if version.is_mariadb() {
        MARIADB_ONLY
    } else {
        MYSQL_ONLY
    });
    server
}

async fn dump(
    options: ConnectOptions,
    connections: usize,
    into: &Path,
) -> Result<DumpFacts, BaseBackupError> {
    let mut run = DumpRun::start(options, connections);
    let mut tree = Tree::new(into);
    while let Some(event) = run.next().await? {
        tree.take(event);
    }
    Ok(run.facts().unwrap().clone())
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Executes all files in the order of their paths, by the vendor's client.
fn load(server: &MysqlServer, directory: &Path) {
    for path in files_below(&directory.join("dump")) {
        let mut client = server
            .tool("mysql")
            .args(["--binary-mode"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        client
            .stdin
            .take()
            .unwrap()
            .write_all(&fs::read(&path).unwrap())
            .unwrap();
        assert!(client.wait().unwrap().success(), "{}", path.display());
    }
}

/// All that can be told of a server's own objects.
fn description(server: &MysqlServer) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    let own = "NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')";
    let tables = server.sql(&format!(
        "SELECT CONCAT('`', REPLACE(table_schema, '`', '``'), '`.`', REPLACE(table_name, '`', '``'), '`'), table_type \
         FROM information_schema.tables WHERE table_schema {own} ORDER BY 1"
    ));
    for line in tables.lines() {
        let (name, kind) = line.split_once('\t').unwrap();
        told.insert(
            format!("definition {name}"),
            server.sql(&format!("SHOW CREATE TABLE {name}")),
        );
        match kind {
            // Of virtual columns a checksum says something else each time (MariaDB 10.11).
            _ if name.ends_with("`computed`") => told.insert(
                format!("rows {name}"),
                server.sql(&format!("SELECT * FROM {name}")),
            ),
            "VIEW" | "SEQUENCE" => told.insert(
                format!("rows {name}"),
                server.sql(&format!("SELECT * FROM {name}")),
            ),
            _ => told.insert(
                format!("checksum {name}"),
                server.sql(&format!("CHECKSUM TABLE {name} EXTENDED")),
            ),
        };
    }
    for (what, statement) in [
        (
            "schemata",
            format!("SELECT * FROM information_schema.schemata WHERE schema_name {own} ORDER BY schema_name"),
        ),
        (
            "routines",
            format!(
                "SELECT routine_schema, routine_name, routine_type, routine_definition, definer, sql_mode FROM information_schema.routines WHERE routine_schema {own} ORDER BY 1, 2"
            ),
        ),
        (
            "triggers",
            format!(
                "SELECT trigger_name, event_object_table, action_order, action_statement, sql_mode FROM information_schema.triggers WHERE trigger_schema {own} ORDER BY 1"
            ),
        ),
        (
            "events",
            format!(
                "SELECT event_name, event_definition, starts, status, time_zone FROM information_schema.events WHERE event_schema {own} ORDER BY 1"
            ),
        ),
        (
            "accounts",
            "SHOW GRANTS FOR 'app''s'@'%'; SHOW GRANTS FOR reader; SHOW CREATE USER 'app''s'@'%'".to_owned(),
        ),
    ] {
        told.insert(what.to_owned(), server.sql(&statement));
    }
    told
}

#[track_caller]
fn assert_alike(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) {
    for (what, told) in one {
        // History is not dumped, and what is inserted is of now.
        if what != "checksum `d`.`versioned`" {
            assert_eq!(other.get(what), Some(told), "{what}");
        }
    }
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
}

async fn dumps(version: MysqlVersion) {
    let server = server(version);
    let (before, scratch) = (description(&server), Scratch::new("dump"));
    let facts = dump(ConnectOptions::socket(server.socket(), "root"), 3, scratch.path())
        .await
        .unwrap();
    let mut missing = facts.missing.iter().map(String::as_str);
    if version.is_mariadb() {
        assert_eq!(missing.next(), Some("history of d.versioned"));
        // The host's name, under skip_name_resolve.
        let host = run(&mut Command::new("hostname")).expect_success();
        let ignored = format!("account 'root'@'{}', which is not in force", host.trim());
        assert_eq!(missing.next(), Some(&*ignored));
    }
    assert_eq!(missing.next(), None);
    let restored = MysqlServer::start_new(version);
    load(&restored, scratch.path());
    let after = description(&restored);
    assert_alike(&before, &after);
    restored.sql("INSERT INTO d.parent VALUES (3)");
    assert_eq!(
        restored.sql("SELECT GROUP_CONCAT(what ORDER BY id) FROM d.audit"),
        "first,second"
    );
    if version.is_mariadb() {
        assert_eq!(restored.sql("SELECT id, x FROM d.versioned"), "1\t2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_mysql_makes_the_server_anew() {
    dumps(MysqlVersion::Mysql97).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_mariadb_1011_makes_the_server_anew() {
    dumps(MysqlVersion::MariaDb1011).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_mariadb_118_makes_the_server_anew() {
    dumps(MysqlVersion::MariaDb118).await;
}

/// Every transaction is one row in each of two tables: as many are in the dump as the log had at its point.
async fn is_of_one_point(version: MysqlVersion) {
    let server = MysqlServer::start_new(version);
    server.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE a (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(500));
         CREATE TABLE b LIKE a; CREATE TABLE m (id INT PRIMARY KEY AUTO_INCREMENT) ENGINE = MyISAM",
    );
    let gtid = if version.is_mariadb() {
        "@@gtid_binlog_pos"
    } else {
        "@@gtid_executed"
    };
    let count = |text: &str| text.rsplit(['-', ':']).next().unwrap().parse::<u64>().unwrap();
    let begun = count(&server.sql(&format!("SELECT {gtid}")));
    let scratch = Scratch::new("dump");
    let done = AtomicBool::new(false);
    let transaction = "BEGIN; INSERT INTO d.a (v) VALUES (REPEAT('a', 400)); INSERT INTO d.b (v) VALUES (REPEAT('b', 400)); COMMIT;";
    let facts = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    server.sql(&transaction.repeat(20));
                }
            });
        }
        let options = ConnectOptions::socket(server.socket(), "root");
        let facts = tokio::task::block_in_place(|| {
            let runtime = tokio::runtime::Handle::current();
            while server.sql("SELECT COUNT(*) > 200 FROM d.a") != "1" {}
            runtime.block_on(dump(options, 2, scratch.path()))
        });
        done.store(true, Ordering::Relaxed);
        facts.unwrap()
    });
    let restored = MysqlServer::start_new(version);
    load(&restored, scratch.path());
    let point = facts.point.gtid_executed.or(facts.point.gtid_binlog_pos).unwrap();
    let expected = (count(&point) - begun).to_string();
    assert_eq!(restored.sql("SELECT COUNT(*) FROM d.a"), expected);
    assert_eq!(restored.sql("SELECT COUNT(*) FROM d.b"), expected);
    assert_eq!(server.sql("FLUSH TABLES WITH READ LOCK; UNLOCK TABLES"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_mysql_under_load_is_of_one_point() {
    is_of_one_point(MysqlVersion::Mysql97).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_mariadb_under_load_is_of_one_point() {
    is_of_one_point(MysqlVersion::MariaDb118).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_dumped_whole_is_refused() {
    for version in [MysqlVersion::Mysql97, MysqlVersion::MariaDb1011] {
        let server = MysqlServer::builder(version)
            .account("little", "pw", "SELECT, RELOAD")
            .start();
        let scratch = Scratch::new("dump");
        let options = ConnectOptions::parse(&server.url_as("little"))
            .unwrap()
            .with_password(Secret::new("pw"));
        let refused = dump(options, 1, scratch.path()).await.unwrap_err();
        let message = refused.to_string();
        assert!(
            message.contains("GRANT SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON *.*"),
            "{message}"
        );

        server.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); XA START 'x'; INSERT INTO d.t VALUES (1); XA END 'x'; XA PREPARE 'x'");
        let options = ConnectOptions::socket(server.socket(), "root");
        let refused = dump(options, 1, &scratch.path().join("2")).await.unwrap_err();
        assert!(
            matches!(refused, BaseBackupError::PreparedTransactions { count: 1 }),
            "{refused}"
        );
        assert!(refused.class().is_transient());
    }
}

/// A store that is down must not stop the database: nobody takes what comes, and the lock goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_nobody_takes_lets_the_lock_go() {
    let server = MysqlServer::start_new(MysqlVersion::MariaDb118);
    server.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE m (id INT PRIMARY KEY, v VARCHAR(2000)) ENGINE = MyISAM;
         INSERT INTO m SELECT seq, REPEAT('x', 2000) FROM seq_1_to_20000",
    );
    let mut dump = DumpRun::start(ConnectOptions::socket(server.socket(), "root"), 1);
    let first = dump.next().await.unwrap();
    assert!(first.is_some());
    // This waits as long as the lock is held.
    tokio::task::block_in_place(|| server.sql("INSERT INTO d.m VALUES (0, 'after')"));
    let given_up = loop {
        match dump.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the dump ended well"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(given_up, BaseBackupError::LockTooLong { .. }),
        "{given_up}"
    );
    assert!(given_up.class().is_transient());
}
