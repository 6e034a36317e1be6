//! Preflight on real servers: what is found, and that the remedies mend it.

use tidemark_testkit::{MysqlServer, MysqlVersion};
use tidemark_types::{Finding, Secret, Severity};

use super::*;
use crate::client::{BinlogStream, ConnectOptions, ReplicaIdentity, Sql};
use crate::replication::{DumpRequest, Replica};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(future)
}

fn agent(server: &MysqlServer) -> ConnectOptions {
    let options = ConnectOptions::parse(&server.url_as("tide")).unwrap();
    options.with_password(Secret::new("sesame"))
}

fn wanted(copies_files: bool) -> Wanted {
    Wanted {
        semi_sync: true,
        server_id: None,
        identity: Some(ReplicaIdentity::new("test")),
        copies_files,
    }
}

async fn look(server: &MysqlServer, wanted: &Wanted) -> Vec<Finding> {
    let mut sql = Sql::connect(&agent(server)).await.unwrap();
    findings(&SourceFacts::query(&mut sql).await.unwrap(), wanted)
}

fn subjects(list: &[Finding]) -> Vec<&str> {
    let at_risk = list
        .iter()
        .filter(|finding| finding.severity >= Severity::Warning);
    at_risk.map(|finding| finding.subject).collect()
}

/// Finds `expected`, runs what each finding says, and finds nothing more.
fn assert_mended(version: MysqlVersion, options: &[&str], copies_files: bool, expected: &[&str]) {
    let server = MysqlServer::builder(version)
        .options(options)
        .account("tide", "sesame", "USAGE")
        .start();
    server.sql("CREATE DATABASE d; CREATE TABLE d.old (id INT) ENGINE = MyISAM; CREATE VIEW d.v AS SELECT 1");
    // What our account may not see comes to light when it may.
    let mut seen = Vec::new();
    for _ in 0..2 {
        for finding in block_on(look(&server, &wanted(copies_files))) {
            if finding.severity >= Severity::Warning {
                seen.push(finding.subject);
                let remedy = finding
                    .remedy
                    .unwrap_or_else(|| panic!("{} has a remedy", finding.subject));
                server.sql(&remedy);
            }
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, expected, "{version}");
    let left = block_on(look(&server, &wanted(copies_files)));
    assert_eq!(subjects(&left), [""; 0], "{left:?}");
    // The privileges that were granted do for a stream, and the agent's own is none of "other replicas".
    block_on(async {
        let mut sql = Sql::connect(&agent(&server)).await.unwrap();
        let identity = ReplicaIdentity::new("test");
        let replica = Replica {
            server_id: sql.unused_server_id(&identity).await.unwrap(),
            uuid: identity.uuid,
            heartbeat: std::time::Duration::from_secs(1),
            semi_sync: true,
        };
        // Not from the oldest: with GTIDs on, MySQL sends no file that holds transactions without.
        let file = sql.log_end().await.unwrap().file;
        let request = DumpRequest {
            file: &file,
            position: crate::binlog::BinlogOffset::FIRST_EVENT,
            ends_with_log: false,
        };
        let mut stream = BinlogStream::start(&agent(&server), &replica, &request)
            .await
            .unwrap();
        stream.next().await.unwrap();
        let facts = SourceFacts::query(&mut sql).await.unwrap();
        assert_eq!(facts.semi_sync_replicas, 1);
        let left = findings(&facts, &wanted(copies_files));
        assert_eq!(subjects(&left), [""; 0], "while the agent streams: {left:?}");
        let others = Wanted {
            identity: Some(ReplicaIdentity::new("another")),
            ..wanted(copies_files)
        };
        let found = findings(&facts, &others);
        assert_eq!(
            subjects(&found),
            ["semi-sync replicas"],
            "beside another replica: {found:?}"
        );
    });
}

#[test]
fn what_is_wrong_with_mysql_is_mended_by_the_remedies() {
    let options = [
        "binlog_format = STATEMENT",
        "binlog_checksum = NONE",
        "gtid_mode = OFF",
        "enforce_gtid_consistency = OFF",
        "binlog_expire_logs_seconds = 3600",
    ];
    let expected = [
        "binlog_checksum",
        "binlog_format",
        "clone plugin",
        "gtid_mode",
        "innodb_flush_log_at_trx_commit",
        "privileges",
        "retention",
        "semi-sync",
        "semi-sync timeout",
        "sync_binlog",
        "tables",
    ];
    assert_mended(MysqlVersion::Mysql97, &options, true, &expected);
}

#[test]
fn what_is_wrong_with_mariadb_is_mended_by_the_remedies() {
    let options = [
        "binlog_format = MIXED",
        "gtid_strict_mode = OFF",
        "expire_logs_days = 1",
        "rpl_semi_sync_master_wait_point = AFTER_COMMIT",
    ];
    let expected = [
        "binlog_format",
        "gtid_strict_mode",
        "innodb_flush_log_at_trx_commit",
        "privileges",
        "retention",
        "semi-sync",
        "semi-sync timeout",
        "semi-sync wait point",
        "sync_binlog",
        "tables",
    ];
    for (version, copies_files) in [
        (MysqlVersion::MariaDb1011, true),
        (MysqlVersion::MariaDb118, false),
    ] {
        assert_mended(version, &options, copies_files, &expected);
    }
}

#[test]
fn a_server_without_a_binlog_can_be_looked_at() {
    for version in [MysqlVersion::Mysql97, MysqlVersion::MariaDb118] {
        let server = MysqlServer::builder(version)
            .option("skip_log_bin")
            .account("tide", "sesame", "ALL PRIVILEGES")
            .start();
        let found = block_on(look(&server, &wanted(true)));
        assert!(subjects(&found).contains(&"log_bin"), "{version}: {found:?}");
    }
}

#[test]
fn databases_left_out_of_the_log_are_found() {
    for version in [MysqlVersion::Mysql97, MysqlVersion::MariaDb1011] {
        let server = MysqlServer::builder(version)
            .option("binlog_ignore_db = scratch")
            .account("tide", "sesame", "ALL PRIVILEGES")
            .start();
        let found = block_on(look(&server, &wanted(true)));
        assert!(
            subjects(&found).contains(&"binlog_ignore_db"),
            "{version}: {found:?}"
        );
    }
}

/// Roles count when they are switched on.
#[test]
fn privileges_of_roles_count() {
    for version in [MysqlVersion::Mysql97, MysqlVersion::MariaDb118] {
        let server = MysqlServer::builder(version)
            .account("tide", "sesame", "SELECT")
            .start();
        let default_role = match version {
            MysqlVersion::Mysql97 => "SET DEFAULT ROLE backup TO tide@'%'",
            _ => "SET DEFAULT ROLE backup FOR tide@'%'",
        };
        server.sql(&format!(
            "CREATE ROLE backup; GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO backup; GRANT backup TO tide@'%'; {default_role}"
        ));
        let facts = block_on(async {
            let mut sql = Sql::connect(&agent(&server)).await.unwrap();
            SourceFacts::query(&mut sql).await.unwrap()
        });
        let watch = match version.is_mariadb() {
            true => "BINLOG MONITOR",
            false => "REPLICATION CLIENT",
        };
        for privilege in ["SELECT", "REPLICATION SLAVE", watch] {
            assert!(
                facts.privileges.has(privilege),
                "{version}: {privilege} of {:?}",
                facts.privileges
            );
        }
        assert!(!facts.privileges.has("RELOAD"));
        assert_eq!(facts.binlog_files.map(|files| files.len()), Some(1));
    }
}
