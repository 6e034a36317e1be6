//! Each rule over facts that trip it, and none over facts that do not.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::{RoleFacts, Setting, SlotStatus};
use super::*;
use crate::version::ServerVersion;
use tidemark_types::Lsn;

fn setting(value: &str, unit: Option<&str>) -> Setting {
    Setting {
        value: value.to_owned(),
        unit: unit.map(str::to_owned),
    }
}

/// A server with nothing to complain about.
fn sound() -> ServerFacts {
    let plain = [
        ("wal_level", "replica"),
        ("full_page_writes", "on"),
        ("fsync", "on"),
        ("data_checksums", "on"),
        ("max_wal_senders", "10"),
        ("max_replication_slots", "10"),
        ("archive_mode", "off"),
        ("archive_command", "(disabled)"),
        ("synchronous_standby_names", ""),
        ("synchronous_commit", "on"),
        ("data_directory", "/data"),
        ("server_encoding", "UTF8"),
    ];
    let mut settings: BTreeMap<_, _> = plain
        .iter()
        .map(|(name, value)| ((*name).to_owned(), setting(value, None)))
        .collect();
    settings.insert("max_slot_wal_keep_size".to_owned(), setting("1024", Some("MB")));
    ServerFacts {
        version: ServerVersion(170_011),
        host: "h:5432".to_owned(),
        system_id: 7,
        in_recovery: false,
        settings,
        wal_senders_used: 1,
        slots_used: 1,
        role: RoleFacts {
            name: "tidemark".to_owned(),
            superuser: false,
            replication: true,
            reads_all_settings: true,
            reads_all_stats: true,
            checkpoints: true,
            runs_backup_functions: true,
            switches_wal: true,
            makes_restore_points: true,
        },
        slot: Some(SlotStatus {
            slot_name: "tidemark_shop".to_owned(),
            slot_type: "physical".to_owned(),
            active: true,
            active_pid: Some(1),
            restart_lsn: Some(Lsn(1)),
            wal_status: Some(WalStatus::Reserved),
            safe_wal_size: None,
            invalidation_reason: None,
            retained_bytes: 5,
        }),
        tablespaces: Vec::new(),
        clock_ahead_micros: 1000,
        clock_uncertainty: Duration::from_millis(1),
    }
}

fn wanted() -> Wanted {
    Wanted {
        slot: "tidemark_shop".to_owned(),
        application_name: "tidemark".to_owned(),
        data_directory: Some(PathBuf::from("/data")),
        ..Wanted::default()
    }
}

fn worst(facts: &ServerFacts, wanted: &Wanted, subject: &str) -> Finding {
    let mut list = findings(facts, wanted);
    list.retain(|finding| finding.subject == subject);
    list.into_iter()
        .max_by_key(|finding| finding.severity)
        .expect("a finding on the subject")
}

#[test]
fn a_sound_server_gives_nothing_but_ok() {
    for finding in findings(&sound(), &wanted()) {
        assert_eq!(finding.severity, Severity::Ok, "{finding:?}");
    }
}

#[test]
fn settings_that_trip_a_rule() {
    for (name, value, severity, remedy) in [
        (
            "wal_level",
            "minimal",
            Severity::Error,
            "ALTER SYSTEM SET wal_level = 'replica'; -- then restart the server",
        ),
        (
            "full_page_writes",
            "off",
            Severity::Warning,
            "ALTER SYSTEM SET full_page_writes = 'on'; SELECT pg_reload_conf();",
        ),
        (
            "fsync",
            "off",
            Severity::Warning,
            "ALTER SYSTEM SET fsync = 'on'; SELECT pg_reload_conf();",
        ),
        (
            "max_wal_senders",
            "1",
            Severity::Warning,
            "ALTER SYSTEM SET max_wal_senders = '3'; -- then restart the server",
        ),
        (
            "max_slot_wal_keep_size",
            "-1",
            Severity::Warning,
            "ALTER SYSTEM SET max_slot_wal_keep_size = '64GB'; SELECT pg_reload_conf();",
        ),
        (
            "idle_replication_slot_timeout",
            "60",
            Severity::Warning,
            "ALTER SYSTEM SET idle_replication_slot_timeout = '0'; SELECT pg_reload_conf();",
        ),
        (
            "archive_mode",
            "always",
            Severity::Warning,
            "ALTER SYSTEM SET archive_mode = 'on'; -- then restart the server",
        ),
    ] {
        let mut facts = sound();
        facts.settings.insert(name.to_owned(), setting(value, None));
        let finding = worst(&facts, &wanted(), name);
        assert_eq!(
            (finding.severity, finding.remedy.as_deref()),
            (severity, Some(remedy)),
            "{name}"
        );
    }
}

#[test]
fn missing_rights_come_with_their_grant() {
    let mut facts = sound();
    facts.role.replication = false;
    facts.role.runs_backup_functions = false;
    let remedy = |subject: &str| worst(&facts, &wanted(), subject).remedy;
    assert_eq!(
        remedy("replication right").as_deref(),
        Some("ALTER ROLE \"tidemark\" REPLICATION;")
    );
    assert_eq!(
        remedy("backup right").as_deref(),
        Some(
            "GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean), \
             pg_catalog.pg_backup_stop(boolean) TO \"tidemark\";"
        )
    );
}

#[test]
fn a_lost_slot_is_an_error_and_a_missing_one_is_not() {
    let mut facts = sound();
    if let Some(slot) = &mut facts.slot {
        slot.wal_status = Some(WalStatus::Lost);
    }
    let finding = worst(&facts, &wanted(), "slot");
    assert_eq!(finding.severity, Severity::Error);
    assert_eq!(
        finding.remedy.as_deref(),
        Some("SELECT pg_drop_replication_slot('tidemark_shop');")
    );
    facts.slot = None;
    assert_eq!(worst(&facts, &wanted(), "slot").severity, Severity::Note);
}

#[test]
fn synchronous_mode_is_checked_both_ways() {
    let mut facts = sound();
    let mut wanted = wanted();
    wanted.synchronous = true;
    facts.settings.insert(
        "synchronous_standby_names".to_owned(),
        setting("FIRST 1 (a, b)", None),
    );
    let finding = worst(&facts, &wanted, "synchronous_standby_names");
    assert_eq!(
        finding.remedy.as_deref(),
        Some(
            "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (\"tidemark\", a, b)'; SELECT pg_reload_conf();"
        )
    );
    facts
        .settings
        .insert("synchronous_standby_names".to_owned(), setting("*", None));
    facts
        .settings
        .insert("synchronous_commit".to_owned(), setting("local", None));
    assert_eq!(
        worst(&facts, &wanted, "synchronous_commit").severity,
        Severity::Warning
    );
    wanted.synchronous = false;
    assert_eq!(
        worst(&facts, &wanted, "synchronous_standby_names").severity,
        Severity::Warning
    );
}

#[test]
fn identity_clock_and_password() {
    let mut facts = sound();
    let mut wanted = wanted();
    facts.clock_ahead_micros = -3_500_000;
    assert!(worst(&facts, &wanted, "clock").message.contains("3.5 s behind"));
    wanted.system_id = Some(8);
    let identity = worst(&facts, &wanted, "system identifier");
    assert_eq!(identity.severity, Severity::Error);
    assert!(identity.remedy.is_some_and(|remedy| remedy.contains("adopt")));
    wanted.password_in_url = true;
    assert_eq!(worst(&facts, &wanted, "password").severity, Severity::Warning);
}

#[test]
fn a_server_that_archives_into_a_spool_needs_no_replication() {
    let mut facts = sound();
    facts.role.superuser = false;
    facts.role.replication = false;
    facts
        .settings
        .insert("archive_mode".to_owned(), setting("on", None));
    facts
        .settings
        .insert("max_wal_senders".to_owned(), setting("0", None));
    let mut wanted = wanted();
    wanted.archive_spool = Some(PathBuf::from("/spool"));
    let errors = |wanted: &Wanted| -> Vec<Finding> {
        let found = findings(&facts, wanted).into_iter();
        found
            .filter(|finding| finding.severity == Severity::Error)
            .collect()
    };
    let found = errors(&wanted);
    assert_eq!(found.len(), 1, "{found:?}");
    let remedy = found[0].remedy.as_deref().unwrap_or_default();
    assert!(remedy.contains("archive-wal --spool /spool %p"), "{remedy}");
    wanted.data_directory = None;
    let found = errors(&wanted);
    assert!(
        found.iter().any(|finding| finding.subject == "replication right"),
        "base backups come over one: {found:?}"
    );
}
