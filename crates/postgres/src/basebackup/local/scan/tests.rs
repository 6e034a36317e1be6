use super::*;

const CATALOG: u32 = 202_209_061;

/// A tree of empty files (and directories, where the path ends with a slash).
fn tree(paths: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for path in paths {
        let full = root.path().join(path);
        if path.ends_with('/') {
            std::fs::create_dir_all(full).unwrap();
        } else {
            std::fs::create_dir_all(full.parent().unwrap()).unwrap();
            std::fs::write(full, b"").unwrap();
        }
    }
    root
}

fn paths(scan: &Scan) -> Vec<&str> {
    scan.files.iter().map(|file| file.path.as_str()).collect()
}

#[test]
fn the_control_file_comes_last_and_live_files_stay_out() {
    let root = tree(&[
        "PG_VERSION",
        "postmaster.pid",
        "backup_label",
        "global/pg_control",
        "global/pg_internal.init",
        "standby.signal",
        "pg_wal/000000010000000000000001",
        "pg_wal/archive_status/x.ready",
        "pg_wal/summaries/y.summary",
        "pg_replslot/slot/state",
        "pg_stat/pgstat.stat",
        "base/pgsql_tmp/pgsql_tmp1.0",
    ]);
    let scan = scan(root.path(), CATALOG).unwrap();
    assert_eq!(
        paths(&scan),
        [
            "PG_VERSION",
            "pg_stat/pgstat.stat",
            "standby.signal",
            "global/pg_control"
        ]
    );
    let directories: Vec<&str> = scan
        .directories
        .iter()
        .map(|directory| directory.path.as_str())
        .collect();
    assert_eq!(
        directories,
        [
            "base",
            "global",
            "pg_replslot",
            "pg_stat",
            "pg_wal",
            "pg_wal/archive_status",
            "pg_wal/summaries"
        ]
    );
}

#[test]
fn unlogged_and_temporary_relations_stay_out() {
    let root = tree(&[
        "base/5/100",
        "base/5/100_fsm",
        "base/5/100.1",
        "base/5/200",
        "base/5/200_init",
        "base/5/200_fsm",
        "base/5/200.1",
        "base/5/t4_300",
        "base/5/2001",
        // The same names mean nothing outside a database's directory.
        "pg_xact/200_init",
        "pg_xact/0200",
        "pg_xact/200",
    ]);
    assert_eq!(
        paths(&scan(root.path(), CATALOG).unwrap()),
        [
            "base/5/100",
            "base/5/100.1",
            "base/5/100_fsm",
            "base/5/2001",
            "base/5/200_init",
            "pg_xact/0200",
            "pg_xact/200",
            "pg_xact/200_init"
        ]
    );
}

#[test]
fn tablespaces_are_followed_once_and_only_to_our_version() {
    let outside = tree(&["PG_15_202209061/5/400", "PG_14_202107181/5/400", "notes"]);
    let root = tree(&[
        "pg_tblspc/",
        "inside/PG_15_202209061/5/500",
        "pg_tblspc/900/PG_15_202209061/5/600",
    ]);
    let link = |oid: &str, target: &Path| {
        std::os::unix::fs::symlink(target, root.path().join("pg_tblspc").join(oid)).unwrap();
    };
    link("700", outside.path());
    link("800", &root.path().join("inside"));
    let scan = scan(root.path(), CATALOG).unwrap();
    assert_eq!(
        paths(&scan),
        [
            "pg_tblspc/700/PG_15_202209061/5/400",
            "pg_tblspc/800/PG_15_202209061/5/500",
            "pg_tblspc/900/PG_15_202209061/5/600"
        ]
    );
    assert_eq!(
        scan.tablespaces,
        [
            Tablespace {
                oid: 700,
                location: outside.path().to_owned()
            },
            Tablespace {
                oid: 800,
                location: root.path().join("inside")
            },
            Tablespace {
                oid: 900,
                location: "pg_tblspc/900".into()
            },
        ]
    );
    assert_eq!(scan.skipped.len(), 2, "{:?}", scan.skipped);
}

#[test]
fn a_data_directory_that_is_not_there_is_an_error_and_sockets_are_reported() {
    let root = tree(&["PG_VERSION"]);
    assert!(scan(&root.path().join("gone"), CATALOG).is_err());
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
    assert_eq!(scan(root.path(), CATALOG).unwrap().skipped.len(), 1);
}
