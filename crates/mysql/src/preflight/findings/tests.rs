//! Each rule over facts that trip it, and none over facts that do not.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{ForeignTable, LogFilter, Privileges};
use super::*;
use crate::client::{BinlogFile, ConnectedReplica, ServerFacts, ServerVersion};

/// A server with nothing to complain about.
fn sound(flavor: Flavor) -> SourceFacts {
    let of_both = [
        ("binlog_checksum", "CRC32"),
        ("binlog_expire_logs_seconds", "2592000"),
        ("binlog_format", "ROW"),
        ("binlog_row_image", "FULL"),
        ("innodb_flush_log_at_trx_commit", "1"),
        ("sync_binlog", "1"),
    ];
    let of_flavor: &[(&str, &str)] = match flavor {
        Flavor::MySql => &[
            ("binlog_encryption", "OFF"),
            ("binlog_expire_logs_auto_purge", "ON"),
            ("gtid_mode", "ON"),
            ("log_replica_updates", "ON"),
            ("rpl_semi_sync_source_enabled", "ON"),
            ("rpl_semi_sync_source_timeout", "4294967295"),
            ("rpl_semi_sync_source_wait_for_replica_count", "1"),
            ("rpl_semi_sync_source_wait_no_replica", "ON"),
            ("rpl_semi_sync_source_wait_point", "AFTER_SYNC"),
        ],
        Flavor::MariaDb => &[
            ("encrypt_binlog", "OFF"),
            ("expire_logs_days", "30.000000"),
            ("gtid_strict_mode", "ON"),
            ("log_slave_updates", "OFF"),
            ("max_binlog_total_size", "0"),
            ("rpl_semi_sync_master_enabled", "ON"),
            ("rpl_semi_sync_master_timeout", "4294967295"),
            ("rpl_semi_sync_master_wait_no_slave", "ON"),
            ("rpl_semi_sync_master_wait_point", "AFTER_SYNC"),
            ("wsrep_on", "OFF"),
        ],
    };
    let settings = of_both.iter().chain(of_flavor);
    let privileges = match flavor {
        Flavor::MySql => {
            "GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `t`@`%`\nGRANT BACKUP_ADMIN ON *.* TO `t`@`%`"
        }
        Flavor::MariaDb => "GRANT ALL PRIVILEGES ON *.* TO `t`@`%` IDENTIFIED BY PASSWORD '*X'",
    };
    SourceFacts {
        server: ServerFacts {
            version: ServerVersion {
                flavor,
                number: (9, 7, 0),
                text: "9.7.0".to_owned(),
            },
            server_id: 1,
            uuid: None,
            uid: None,
            log_bin: true,
            log_bin_basename: Some("/data/bin".to_owned()),
            gtid_mode: None,
        },
        host: "h:3306".to_owned(),
        account: "'t'@'%'".to_owned(),
        is_private: true,
        privileges: Privileges::of_grants(privileges.lines()),
        settings: settings
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        plugins: BTreeSet::from(["clone".to_owned()]),
        binlog_files: Some(vec![BinlogFile {
            name: "bin.000001".to_owned(),
            bytes: 5 << 20,
        }]),
        log_filter: Some(LogFilter::default()),
        foreign_tables: Vec::new(),
        replicas: Some(Vec::new()),
        semi_sync_replicas: 0,
        is_replica: Some(false),
        clock_ahead_micros: Some(1000),
        clock_uncertainty: Duration::from_millis(1),
    }
}

fn wanted() -> Wanted {
    Wanted {
        semi_sync: true,
        server_id: Some(4000),
        identity: Some(ReplicaIdentity::new("test")),
        copies_files: true,
    }
}

/// What is found beside what is well.
fn complaints(facts: &SourceFacts, wanted: &Wanted) -> Vec<Finding> {
    let mut list = findings(facts, wanted);
    list.retain(|finding| finding.severity > Severity::Ok);
    list
}

/// The one complaint that is not there about a sound server.
#[track_caller]
fn the_complaint(facts: &SourceFacts, wanted: &Wanted) -> Finding {
    let list = complaints(facts, wanted);
    let mut others = list
        .into_iter()
        .filter(|finding| !finding.message.contains("on purpose"));
    let first = others.next().expect("a complaint");
    assert_eq!(others.collect::<Vec<_>>(), []);
    first
}

fn with(flavor: Flavor, settings: &[(&str, &str)]) -> SourceFacts {
    let mut facts = sound(flavor);
    let changed = settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    facts.settings.extend(changed.collect::<BTreeMap<_, _>>());
    facts
}

#[test]
fn a_sound_server_gives_no_complaint() {
    for flavor in [Flavor::MySql, Flavor::MariaDb] {
        let without = Wanted {
            semi_sync: false,
            ..wanted()
        };
        assert_eq!(complaints(&sound(flavor), &without), []);
        // What semi-synchronous mode does on purpose is said.
        let list = complaints(&sound(flavor), &wanted());
        assert_eq!(list.len(), 1, "{list:?}");
        assert_eq!((list[0].severity, list[0].subject), (Severity::Note, "semi-sync"));
    }
}

#[test]
fn settings_that_put_the_log_at_risk_are_found_with_what_mends_them() {
    use Flavor::{MariaDb, MySql};
    use Severity::{Error, Note, Warning};
    for (flavor, name, value, severity, remedy) in [
        (
            MySql,
            "binlog_format",
            "STATEMENT",
            Error,
            "SET PERSIST binlog_format = ROW;",
        ),
        (
            MariaDb,
            "binlog_format",
            "MIXED",
            Warning,
            "SET GLOBAL binlog_format = ROW;  -- and binlog_format = ROW",
        ),
        (
            MySql,
            "binlog_row_image",
            "MINIMAL",
            Note,
            "SET PERSIST binlog_row_image = FULL;",
        ),
        (
            MySql,
            "binlog_checksum",
            "NONE",
            Warning,
            "SET PERSIST binlog_checksum = CRC32;",
        ),
        (
            MariaDb,
            "sync_binlog",
            "0",
            Warning,
            "SET GLOBAL sync_binlog = 1;",
        ),
        (
            MySql,
            "innodb_flush_log_at_trx_commit",
            "2",
            Warning,
            "SET PERSIST innodb_flush_log_at_trx_commit = 1;",
        ),
        (
            MariaDb,
            "gtid_strict_mode",
            "OFF",
            Warning,
            "SET GLOBAL gtid_strict_mode = ON;",
        ),
        (
            MariaDb,
            "max_binlog_total_size",
            "1073741824",
            Warning,
            "SET GLOBAL max_binlog_total_size = 0;",
        ),
        (
            MySql,
            "gtid_mode",
            "ON_PERMISSIVE",
            Warning,
            "SET PERSIST gtid_mode = ON;",
        ),
    ] {
        let found = the_complaint(&with(flavor, &[(name, value)]), &wanted());
        assert_eq!((found.severity, found.subject), (severity, name));
        assert!(found.message.contains(name), "{}", found.message);
        let mends = found.remedy.expect("a remedy");
        assert!(mends.starts_with(remedy), "{mends}");
    }
    let off = the_complaint(&with(MySql, &[("gtid_mode", "OFF")]), &wanted());
    assert_eq!(off.remedy.expect("a remedy").lines().count(), 4);
    let encrypted = the_complaint(&with(MariaDb, &[("encrypt_binlog", "ON")]), &wanted());
    assert_eq!(
        (encrypted.severity, encrypted.subject),
        (Warning, "binlog encryption")
    );
}

#[test]
fn a_server_without_a_binlog_is_told_that_alone_of_its_log() {
    let mut facts = with(Flavor::MySql, &[("sync_binlog", "0")]);
    facts.server.log_bin = false;
    facts.binlog_files = None;
    facts.log_filter = None;
    facts.clock_ahead_micros = None;
    let found = the_complaint(&facts, &wanted());
    assert_eq!((found.severity, found.subject), (Severity::Error, "log_bin"));
    assert!(
        found
            .remedy
            .expect("a remedy")
            .starts_with("log_bin = binlog  -- under [mysqld]")
    );
}

#[test]
fn retention_is_weighed_against_an_outage() {
    let found = |flavor, settings: &[_]| the_complaint(&with(flavor, settings), &wanted());
    let hour = found(Flavor::MySql, &[("binlog_expire_logs_seconds", "3600")]);
    assert_eq!((hour.severity, hour.subject), (Severity::Warning, "retention"));
    assert!(hour.message.contains("removed after 1h"), "{}", hour.message);
    let half_a_day = found(
        Flavor::MariaDb,
        &[
            ("binlog_expire_logs_seconds", "0"),
            ("expire_logs_days", "0.500000"),
        ],
    );
    assert!(
        half_a_day.message.contains("removed after 12h"),
        "{}",
        half_a_day.message
    );
    for settings in [
        [("binlog_expire_logs_seconds", "0")],
        [("binlog_expire_logs_auto_purge", "OFF")],
    ] {
        let never = found(Flavor::MySql, &settings);
        assert_eq!((never.severity, never.subject), (Severity::Note, "retention"));
        assert!(
            never.message.contains("never removed by age"),
            "{}",
            never.message
        );
    }
}

#[test]
fn databases_that_the_log_leaves_out_are_an_error() {
    let mut facts = sound(Flavor::MariaDb);
    facts.log_filter = Some(LogFilter {
        only: "shop".to_owned(),
        without: String::new(),
    });
    let found = the_complaint(&facts, &wanted());
    assert_eq!((found.severity, found.subject), (Severity::Error, "binlog_do_db"));
    facts.log_filter = Some(LogFilter {
        only: String::new(),
        without: "tmp".to_owned(),
    });
    let found = the_complaint(&facts, &wanted());
    assert_eq!(
        (found.severity, found.subject),
        (Severity::Error, "binlog_ignore_db")
    );
    assert!(found.message.contains("tmp"));
}

#[test]
fn missing_privileges_are_granted_by_the_remedy() {
    let mut facts = sound(Flavor::MySql);
    facts.privileges = Privileges::of_grants(
        "GRANT SELECT, REPLICATION SLAVE ON *.* TO `t`@`%`\nGRANT REPLICATION CLIENT ON `d`.* TO `t`@`%`\nGRANT `r`@`%` TO `t`@`%`"
            .lines(),
    );
    let found = the_complaint(&facts, &wanted());
    assert_eq!((found.severity, found.subject), (Severity::Error, "privileges"));
    let remedy = "GRANT REPLICATION CLIENT, BACKUP_ADMIN ON *.* TO 't'@'%';";
    assert_eq!(found.remedy.as_deref(), Some(remedy));
    assert!(
        found
            .message
            .contains("seeing which binlog files there are and base backups of files")
    );
    let dumps = Wanted {
        copies_files: false,
        ..wanted()
    };
    let found = the_complaint(&facts, &dumps);
    assert!(found.remedy.expect("a remedy").contains("LOCK TABLES"));
}

#[test]
fn a_connection_in_clear_is_told() {
    let mut facts = sound(Flavor::MySql);
    facts.is_private = false;
    let found = the_complaint(&facts, &wanted());
    assert_eq!((found.severity, found.subject), (Severity::Warning, "TLS"));
}

#[test]
fn replicas_and_clusters_must_log_what_they_get() {
    let mut facts = with(Flavor::MySql, &[("log_replica_updates", "OFF")]);
    assert_eq!(
        complaints(&facts, &wanted()).len(),
        1,
        "a source logs what is its own"
    );
    facts.is_replica = Some(true);
    let found = the_complaint(&facts, &wanted());
    assert_eq!(
        (found.severity, found.subject),
        (Severity::Error, "log_replica_updates")
    );
    let galera = with(
        Flavor::MariaDb,
        &[("wsrep_on", "ON"), ("log_slave_updates", "ON")],
    );
    let found = the_complaint(&galera, &wanted());
    assert_eq!((found.severity, found.subject), (Severity::Warning, "wsrep_on"));
    let galera = with(Flavor::MariaDb, &[("wsrep_on", "ON")]);
    let found = complaints(&galera, &wanted());
    assert!(
        found
            .iter()
            .any(|finding| finding.message.contains("log_slave_updates is off"))
    );
}

#[test]
fn a_replica_needs_a_number_of_its_own() {
    let numbered = |server_id| Wanted {
        server_id: Some(server_id),
        ..wanted()
    };
    let mut facts = sound(Flavor::MySql);
    assert_eq!(the_complaint(&facts, &numbered(1)).severity, Severity::Error);
    facts.replicas = Some(vec![ConnectedReplica {
        server_id: 4000,
        uuid: None,
    }]);
    assert_eq!(the_complaint(&facts, &numbered(4000)).severity, Severity::Note);
    facts.server.server_id = 0;
    assert!(
        the_complaint(&facts, &numbered(1))
            .message
            .contains("serves no replica")
    );
}

#[test]
fn tables_that_are_not_innodb_are_named() {
    let mut facts = sound(Flavor::MySql);
    facts.foreign_tables = (0..7)
        .map(|number| ForeignTable {
            schema: "d`1".to_owned(),
            name: format!("t{number}"),
            engine: "MyISAM".to_owned(),
        })
        .collect();
    let found = the_complaint(&facts, &wanted());
    assert_eq!((found.severity, found.subject), (Severity::Warning, "tables"));
    assert!(
        found
            .message
            .contains("7 tables are not InnoDB's: d`1.t0 (MyISAM), "),
        "{}",
        found.message
    );
    assert!(found.message.contains("and 2 more"), "{}", found.message);
    let remedy = found.remedy.expect("a remedy");
    assert_eq!(remedy.lines().count(), 5);
    assert!(
        remedy.starts_with("ALTER TABLE `d``1`.`t0` ENGINE = InnoDB;"),
        "{remedy}"
    );
}

#[test]
fn a_clone_needs_its_plugin() {
    let mut facts = sound(Flavor::MySql);
    facts.plugins.clear();
    let found = the_complaint(&facts, &wanted());
    assert_eq!(
        (found.severity, found.subject),
        (Severity::Warning, "clone plugin")
    );
    let dumps = Wanted {
        copies_files: false,
        semi_sync: false,
        ..wanted()
    };
    facts.privileges = Privileges::of_grants(["GRANT ALL PRIVILEGES ON *.* TO `t`@`%`"].into_iter());
    let found = the_complaint(&facts, &dumps);
    assert_eq!((found.severity, found.subject), (Severity::Note, "clone plugin"));
}

#[test]
fn clocks_that_disagree_are_told() {
    let mut facts = sound(Flavor::MySql);
    facts.clock_ahead_micros = Some(-5_000_000);
    let found = the_complaint(&facts, &wanted());
    assert!(
        found.message.contains("5.0 s behind this host's"),
        "{}",
        found.message
    );
}

#[test]
fn semi_synchronous_commits_wait_for_the_repository_and_nobody_else() {
    use Flavor::{MariaDb, MySql};
    use Severity::{Error, Warning};
    for (flavor, name, value, severity, subject) in [
        (MySql, "rpl_semi_sync_source_enabled", "OFF", Error, "semi-sync"),
        (MariaDb, "rpl_semi_sync_master_enabled", "OFF", Error, "semi-sync"),
        (
            MySql,
            "rpl_semi_sync_source_timeout",
            "10000",
            Warning,
            "semi-sync timeout",
        ),
        (
            MariaDb,
            "rpl_semi_sync_master_wait_point",
            "AFTER_COMMIT",
            Warning,
            "semi-sync wait point",
        ),
        (
            MySql,
            "rpl_semi_sync_source_wait_no_replica",
            "OFF",
            Warning,
            "semi-sync without replicas",
        ),
    ] {
        let found = the_complaint(&with(flavor, &[(name, value)]), &wanted());
        assert_eq!((found.severity, found.subject), (severity, subject), "{name}");
        assert!(found.remedy.expect("a remedy").contains(name));
    }
    let mut bare = sound(MySql);
    bare.settings.retain(|name, _| !name.starts_with("rpl_semi_sync"));
    assert!(
        the_complaint(&bare, &wanted())
            .remedy
            .expect("a remedy")
            .contains("INSTALL PLUGIN")
    );

    // Another replica's answer counts like ours: one more is to be waited for.
    let mut facts = sound(MySql);
    facts.semi_sync_replicas = 1;
    let found = the_complaint(&facts, &wanted());
    assert_eq!(found.subject, "semi-sync replicas");
    let remedy = "SET PERSIST rpl_semi_sync_source_wait_for_replica_count = 2;";
    assert_eq!(found.remedy.as_deref(), Some(remedy));
    let identity = ReplicaIdentity::new("test");
    facts.replicas = Some(vec![ConnectedReplica {
        server_id: 9,
        uuid: Some(identity.uuid),
    }]);
    assert_eq!(
        complaints(&facts, &wanted()).len(),
        1,
        "the agent itself is no other"
    );
    let mut facts = sound(MariaDb);
    facts.semi_sync_replicas = 1;
    assert!(
        the_complaint(&facts, &wanted())
            .remedy
            .expect("a remedy")
            .contains("switch")
    );
}
