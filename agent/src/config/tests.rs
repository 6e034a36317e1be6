use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tidemark_mysql::basebackup::BackupMethod;
use tidemark_types::ByteSize;

use super::load::{Loaded, parse};
use super::*;

const SMALLEST: &str = r#"
[repository]
url = "file:///var/lib/tidemark"
[[server]]
name = "Shop-eu.1"
engine = "postgresql"
url = "postgresql://tidemark@localhost:5432/postgres"
"#;

fn environment(name: &str) -> Option<String> {
    (name == "SHOP_PASSWORD").then(|| "p@ss".to_owned())
}

fn read(text: &str) -> Loaded {
    parse(text, &environment).expect("a good configuration")
}

/// The problems of a configuration, as they are shown after the file's name.
fn problems(text: &str) -> Vec<String> {
    let problems = parse(text, &environment).expect_err("a bad configuration");
    problems
        .iter()
        .map(|problem| format!("{}: {problem}", problem.line))
        .collect()
}

/// The smallest configuration with one line more for its server.
fn with(line: &str) -> String {
    format!("{SMALLEST}{line}\n")
}

#[test]
fn the_smallest_configuration_has_the_documented_defaults() {
    let loaded = read(SMALLEST);
    assert_eq!(loaded.warnings, []);
    let wal = loaded.settings.servers[0].postgresql().unwrap();
    let server = &wal.server;
    assert_eq!(loaded.settings.http, None);
    assert_eq!(server.max_lag, Duration::from_secs(5));
    assert_eq!(server.heartbeat, Duration::from_secs(120));
    assert_eq!(wal.slot, "tidemark_shop_eu_1");
    assert_eq!(wal.application_name, "tidemark_Shop-eu.1");
    assert!(!wal.synchronous);
    assert_eq!(wal.max_slot_retained, None);
    let base = &server.base_backup;
    assert_eq!(base.schedule.to_string(), "0 2 * * *");
    assert_eq!(base.full_every, Duration::from_secs(30 * 86_400));
    assert_eq!((base.level, base.jobs), (3, 2));
    assert_eq!(base.verify_unchanged.fraction(), 0.01);
}

#[test]
fn every_key_is_read_and_a_base_backup_section_belongs_to_the_server_above_it() {
    let text = r#"
[repository]
url = "s3://backups/production"
endpoint = "https://s3.example.org"
region = "garage"
path_style = true
[http]
listen = "localhost:9610"
[[server]]
name = "a"
engine = "postgresql"
url = "postgresql://u@%2Frun%2Fpostgresql/postgres"
data_directory = "/data"
max_lag = "500ms"
slot = "mine"
application_name = "me"
synchronous = true
archive_spool = "/spool"
heartbeat = "30s"
[server.base_backup]
schedule = "30 3 * * 0"
full_every = "2w"
level = 9
jobs = 8
verify_unchanged = "2.5%"
[[server]]
name = "b"
engine = "postgresql"
url = "postgresql://u@h/postgres"
max_slot_retained = "64GiB"
"#;
    let settings = read(text).settings;
    assert_eq!(settings.repository.path_style, Some(true));
    assert_eq!(settings.http.unwrap().listen, "localhost:9610");
    let [a, b] = settings.servers.as_slice() else {
        panic!("two servers were written");
    };
    let (a, b) = (a.postgresql().unwrap(), b.postgresql().unwrap());
    assert_eq!(
        (a.slot.as_str(), a.application_name.as_str(), a.synchronous),
        ("mine", "me", true)
    );
    assert_eq!(a.archive_spool.as_deref(), Some(Path::new("/spool")));
    assert_eq!(a.server.base_backup.schedule.to_string(), "30 3 * * 0");
    assert_eq!((a.server.base_backup.level, a.server.base_backup.jobs), (9, 8));
    assert_eq!(b.server.base_backup.schedule.to_string(), "0 2 * * *");
    assert_eq!(b.max_slot_retained, Some(ByteSize(64 << 30)));
}

#[test]
fn a_mysql_server_has_keys_of_its_own() {
    let server = |lines: &str| {
        let text = SMALLEST.replace(
            "engine = \"postgresql\"\nurl = \"postgresql://tidemark@localhost:5432/postgres\"\n",
            "",
        );
        format!("{text}{lines}")
    };
    let loaded = read(&server(
        "engine = \"mariadb\"\nurl = \"mysql://tidemark@h:3307\"\nserver_id = 77\nsemi_sync = true\n",
    ));
    let [Server::Mysql(settings)] = loaded.settings.servers.as_slice() else {
        panic!("a MariaDB server was written");
    };
    assert_eq!(settings.flavor, tidemark_mysql::binlog::Flavor::MariaDb);
    assert_eq!((settings.server_id, settings.semi_sync), (Some(77), true));
    assert_eq!(settings.server.engine.label(), "mariadb");
    assert_eq!(
        problems(&server(
            "engine = \"mysql\"\nurl = \"postgresql://u@h/postgres\"\nslot = \"mine\"\nserver_id = 0\n"
        )),
        [
            "7: server.url: expected a URL that begins with mysql://",
            "8: server.slot: has no meaning for engine = \"mysql\"",
            "9: server.server_id: expected a number from 1 to 4294967295, found 0",
        ]
    );
    let loaded = read(&server(
        "engine = \"mysql\"\nurl = \"mysql://u@h\"\n[server.base_backup]\nmethod = \"clone\"\nscratch_directory = \"/s\"\n",
    ));
    let [Server::Mysql(settings)] = loaded.settings.servers.as_slice() else {
        panic!("a MySQL server was written");
    };
    assert_eq!(settings.copy.method, Some(BackupMethod::Clone));
    assert_eq!(settings.copy.scratch_directory.as_deref(), Some("/s".as_ref()));
    assert_eq!(
        problems(&server(
            "engine = \"mariadb\"\nurl = \"mysql://u@h\"\n[server.base_backup]\nmethod = \"clone\"\nscratch_directory = \"/s\"\n"
        )),
        [
            "9: server.base_backup.method: expected \"mariadb-backup\" or \"dump\", found \"clone\"",
            "10: server.base_backup.scratch_directory: has no meaning for engine = \"mariadb\"",
        ]
    );
    assert_eq!(
        problems(&with("[server.base_backup]\nprogram = \"/p\"")),
        ["9: server.base_backup.program: has no meaning for engine = \"postgresql\""]
    );
    assert_eq!(
        problems(&with("semi_sync = true")),
        ["8: server.semi_sync: has no meaning for engine = \"postgresql\""]
    );
}

#[test]
fn wrong_values_name_line_key_and_what_was_expected() {
    let cases = [
        (
            "max_lag = 5",
            "8: server.max_lag: expected a duration such as \"5s\" or \"1h 30m\", found 5",
        ),
        (
            "max_lag = \"0s\"",
            "8: server.max_lag: expected a duration from 1ms to 1h, found \"0s\"",
        ),
        (
            "max_lag = \"2h\"",
            "8: server.max_lag: expected a duration from 1ms to 1h, found \"2h\"",
        ),
        (
            "heartbeat = \"5m\"",
            "8: server.heartbeat: expected a duration from 1s to 140s, found \"5m\"",
        ),
        (
            "data_directory = \"main\"",
            "8: server.data_directory: expected an absolute path, found \"main\"",
        ),
        (
            "slot = \"Shop\"",
            "8: server.slot: expected a slot name: 1 to 63 lower-case letters, digits or underscores, found \"Shop\"",
        ),
        (
            "synchronous = \"yes\"",
            "8: server.synchronous: expected true or false, found \"yes\"",
        ),
        (
            "max_slot_retained = \"1MiB\"",
            "8: server.max_slot_retained: expected at least 32.0 MiB, found \"1MiB\"",
        ),
        (
            "data_directory = \"/data\"\narchive_spool = \"/data/spool\"",
            "9: server.archive_spool: expected a directory outside data_directory: \
             it would be part of every base backup",
        ),
        (
            "[server.base_backup]\nschedule = \"0 2 * *\"",
            "9: server.base_backup.schedule: \"0 2 * *\" is not a schedule (expected five cron fields, \
             minute hour day month weekday, such as \"0 2 * * *\")",
        ),
        (
            "[server.base_backup]\nlevel = 20",
            "9: server.base_backup.level: expected a whole number from 1 to 19, found 20",
        ),
        (
            "[server.base_backup]\njobs = 0",
            "9: server.base_backup.jobs: expected a whole number from 1 to 64, found 0",
        ),
        (
            "[server.base_backup]\nfull_every = \"0d\"",
            "9: server.base_backup.full_every: expected a duration from 1h to 3650d, found \"0d\"",
        ),
        (
            "[server.base_backup]\nverify_unchanged = 1",
            "9: server.base_backup.verify_unchanged: expected a percentage from \"0%\" to \"100%\", found 1",
        ),
        (
            "[http]\nlisten = \"9610\"",
            "9: http.listen: expected a host and a port such as \"127.0.0.1:9610\", found \"9610\"",
        ),
        (
            "max_lag = [\"5s\"]",
            "8: server.max_lag: invalid type: sequence, expected a single value",
        ),
    ];
    for (line, expected) in cases {
        assert_eq!(problems(&with(line)), [expected]);
    }
}

#[test]
fn unknown_keys_are_answered_with_the_key_that_was_meant() {
    let cases = [
        (
            "max_lagg = \"5s\"",
            "8: server.max_lagg: there is no such key; did you mean \"max_lag\"?",
        ),
        (
            "schedule = \"0 2 * * *\"",
            "8: server.schedule: there is no such key here; it belongs under [server.base_backup]",
        ),
        (
            "[server.base_backup]\ncolour = 1",
            "9: server.base_backup.colour: there is no such key; expected one of schedule, full_every, level, \
             jobs, verify_unchanged, method, scratch_directory, program",
        ),
        (
            "[htp]\nlisten = \"h:1\"",
            "8: htp: there is no such key; did you mean \"http\"?",
        ),
    ];
    for (line, expected) in cases {
        assert_eq!(problems(&with(line)), [expected]);
    }
}

#[test]
fn all_problems_are_reported_in_the_order_of_their_lines() {
    let text = r#"
[repository]
url = "ftp://host"
[[server]]
name = "a/b"
engine = "oracle"
[[server]]
name = "c"
engine = "postgresql"
url = "mysql://u:hush@h"
[[server]]
name = "c"
engine = "postgresql"
url = "postgresql://h"
"#;
    assert_eq!(
        problems(text),
        [
            "3: repository.url: unknown scheme ftp://: write file:///absolute/path or s3://bucket/prefix",
            "4: server.url: this key is required",
            "5: server.name: \"a/b\" cannot name a server (1 to 64 letters, digits, \"_\", \".\" or \"-\", \
             beginning with a letter or digit)",
            "6: server.engine: expected \"postgresql\", \"mysql\" or \"mariadb\", found \"oracle\"",
            "10: server.url: expected a URL that begins with postgresql://",
            "12: server.name: expected a name of its own, but line 8 has \"c\" too",
        ]
    );
}

#[test]
fn a_file_that_lacks_sections_or_is_no_toml_says_so() {
    assert_eq!(
        problems(""),
        [
            "1: repository: expected a section [repository] with a url",
            "1: server: expected at least one section [[server]]",
        ]
    );
    assert_eq!(
        problems("[repository]\nurl = \"file:///r\"\n[server]\nname = \"a\"\n"),
        ["3: server: expected [[server]] in double brackets, once for each server"]
    );
    let broken = problems("[repository]\nurl = file:///r\n");
    assert!(broken[0].starts_with("2: not valid TOML: "), "{broken:?}");
}

#[test]
fn settings_of_s3_are_refused_for_a_directory() {
    let text = SMALLEST.replace("[[server]]", "region = \"x\"\n[[server]]");
    assert_eq!(
        problems(&text),
        ["4: repository.region: has a meaning for s3:// repositories only"]
    );
}

#[test]
fn the_environment_fills_in_the_url_only_and_what_it_lacks_is_named() {
    let url = |url: &str| SMALLEST.replace("postgresql://tidemark@localhost:5432/postgres", url);
    let loaded = read(&url("postgresql://tidemark:${SHOP_PASSWORD}@localhost/postgres"));
    assert_eq!(loaded.warnings, []);
    let password = loaded.settings.servers[0]
        .postgresql()
        .unwrap()
        .connection
        .password
        .clone();
    assert_eq!(password.unwrap().expose(), "p@ss");
    assert_eq!(
        problems(&url("postgresql://tidemark:${NO_SUCH}@localhost/postgres")),
        ["7: server.url: the environment variable NO_SUCH is not set"]
    );
}

#[test]
fn a_password_in_clear_is_a_warning_that_does_not_repeat_it() {
    let text = SMALLEST.replace("tidemark@", "tidemark:hush@");
    let warnings = read(&text).warnings;
    let rendered: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        rendered,
        [
            "server.url: holds a password in clear: prefer password_file, a passfile, or ${NAME} for the environment"
        ]
    );
}

#[test]
fn a_bound_that_synchronous_mode_overrides_is_a_warning() {
    let warnings = read(&with("synchronous = true\nmax_slot_retained = \"1GiB\"")).warnings;
    assert_eq!(warnings.len(), 1);
    assert_eq!(
        (warnings[0].line, warnings[0].key.as_str()),
        (9, "server.max_slot_retained")
    );
}

#[test]
fn a_password_file_open_to_everybody_is_refused_and_one_that_is_not_is_read_anew_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    let path = file.display();
    let text = with(&format!("password_file = \"{path}\""));
    assert_eq!(
        problems(&text),
        [format!(
            "8: server.password_file: {path}: No such file or directory (os error 2)"
        )]
    );
    fs::write(&file, "first\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        problems(&text),
        [format!(
            "8: server.password_file: {path} is open to every user of this host: run chmod 600 {path}"
        )]
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let server = read(&text).settings.servers.remove(0);
    let password = || {
        server
            .postgresql()
            .unwrap()
            .connect_info()
            .unwrap()
            .password
            .unwrap()
            .expose()
            .to_owned()
    };
    assert_eq!(password(), "first");
    fs::write(&file, "second\n").unwrap();
    assert_eq!(password(), "second");
}

#[test]
fn the_document_lists_the_keys_that_the_types_have() {
    let document = include_str!("../../../docs/CONFIG.md");
    let mut documented: Vec<(String, String)> = Vec::new();
    let mut section = String::new();
    for line in document.lines() {
        if let Some(header) = line.strip_prefix("## `") {
            section = header.trim_end_matches('`').to_owned();
        } else if let Some(key) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) {
            documented.push((section.clone(), key.to_owned()));
        }
    }
    let mut existing: Vec<(String, String)> = Vec::new();
    for known in keys::sections().into_iter().skip(1) {
        assert!(!known.keys.is_empty(), "{} has keys", known.header);
        let plain = known.keys.iter().filter(|key| **key != "base_backup");
        existing.extend(plain.map(|key| (known.header.to_owned(), (*key).to_owned())));
    }
    documented.sort_unstable();
    existing.sort_unstable();
    assert_eq!(documented, existing);
}
