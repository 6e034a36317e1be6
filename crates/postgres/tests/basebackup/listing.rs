//! Our list of files against the server's own, and our reading of its formats against its tools.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use tidemark_postgres::basebackup::{
    Archive, ManifestFile, ServerManifest, SourceReader, TarEvent, TarReader, is_backup_metadata, scan,
};
use tidemark_postgres::control_file::ControlFile;
use tidemark_testkit::{PgVersion, PostgresServer, Scratch, run};

/// A cluster with something of everything that has rules of its own.
fn varied_server(version: PgVersion) -> PostgresServer {
    let server = PostgresServer::builder(version).conf("autovacuum = off").start();
    server.create_tablespace("space");
    server.psql(
        "CREATE TABLE a AS SELECT generate_series(1, 20000) AS id; VACUUM a;
         CREATE TABLE b (id int) TABLESPACE space; INSERT INTO b SELECT generate_series(1, 20000);
         CREATE UNLOGGED TABLE c AS SELECT 1 AS id; CREATE UNLOGGED TABLE d (id int PRIMARY KEY) TABLESPACE space;
         SELECT pg_create_physical_replication_slot('slot', true); CHECKPOINT",
    );
    server
}

/// Takes apart a tar archive, checks every file against the manifest, and returns the sizes by path.
fn read_archive(
    path: &Path,
    archive: Archive,
    expected: &BTreeMap<String, ManifestFile>,
) -> BTreeMap<String, u64> {
    let mut reader = TarReader::new();
    let mut found = BTreeMap::new();
    let mut current = None;
    for piece in fs::read(path).unwrap().chunks(100_000) {
        reader.feed(Bytes::copy_from_slice(piece));
        while let Some(event) = reader.poll().unwrap() {
            match event {
                TarEvent::File { path, size, .. } => {
                    let path = archive.restored_path(&path);
                    let checksum = expected[&path].checksum.clone().unwrap();
                    assert_eq!(expected[&path].size, size, "{path}");
                    current = Some((path.clone(), checksum.algorithm.start(), checksum));
                    found.insert(path, size);
                }
                TarEvent::Data(bytes) => current.as_mut().unwrap().1.update(&bytes),
                TarEvent::FileEnd => {
                    let (path, digest, checksum) = current.take().unwrap();
                    assert!(digest.matches(&checksum), "{path}");
                }
                TarEvent::Directory { .. } | TarEvent::Symlink { .. } => {}
            }
        }
    }
    reader.finish().unwrap();
    found
}

/// The files of a remote base backup, by way of tar archives and manifest.
fn remote_listing(server: &PostgresServer, target: &Path, checksums: &str) -> BTreeMap<String, u64> {
    run(server
        .tool("pg_basebackup")
        .args([
            "-Ft",
            "-X",
            "none",
            "-c",
            "fast",
            "--manifest-checksums",
            checksums,
            "-D",
        ])
        .arg(target))
    .expect_success();
    let manifest = ServerManifest::parse(&fs::read(target.join("backup_manifest")).unwrap()).unwrap();
    assert_eq!(manifest.wal_ranges.len(), 1);
    let expected: BTreeMap<String, ManifestFile> = manifest
        .files
        .into_iter()
        .map(|file| (file.path.clone(), file))
        .collect();
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(target).unwrap() {
        let entry = entry.unwrap();
        if let Some(archive) = Archive::from_name(entry.file_name().to_str().unwrap()) {
            found.extend(read_archive(&entry.path(), archive, &expected));
        }
    }
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>(),
        "archives against manifest"
    );
    found
}

fn local_and_remote_agree(version: PgVersion, checksums: &str) {
    let server = varied_server(version);
    let scratch = Scratch::new("listing");
    let remote: Vec<String> = remote_listing(&server, &scratch.subdir("backup"), checksums)
        .into_keys()
        .filter(|path| !is_backup_metadata(path))
        .collect();
    let (control, _) = ControlFile::read(server.data_directory()).unwrap();
    let listed = scan(server.data_directory(), control.catalog_version).unwrap();
    let mut local: Vec<String> = listed.files.iter().map(|file| file.path.clone()).collect();
    local.sort();
    assert_eq!(local, remote);
    assert!(
        local.iter().any(|path| path.starts_with("pg_tblspc/")),
        "{local:?}"
    );
}

#[test]
fn local_and_remote_list_the_same_files_15() {
    local_and_remote_agree(PgVersion::V15, "CRC32C");
}

#[test]
fn local_and_remote_list_the_same_files_17() {
    local_and_remote_agree(PgVersion::V17, "SHA256");
}

#[test]
fn local_and_remote_list_the_same_files_18() {
    local_and_remote_agree(PgVersion::V18, "SHA512");
}

/// What `pg_controldata` prints, by label.
fn controldata(version: PgVersion, data: &Path) -> BTreeMap<String, String> {
    run(version.tool("pg_controldata").arg("-D").arg(data))
        .expect_success()
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(label, value)| (label.to_owned(), value.trim().to_owned()))
        .collect()
}

#[test]
fn the_control_file_says_what_pg_controldata_says() {
    for version in PgVersion::ALL {
        let server = PostgresServer::builder(version)
            .wal_segment_mib(4)
            .conf("max_worker_processes = 11")
            .start();
        server.psql("CHECKPOINT");
        let (control, _) = ControlFile::read(server.data_directory()).unwrap();
        let printed = controldata(version, server.data_directory());
        let lsn = |label: &str| printed[label].parse::<tidemark_types::Lsn>().unwrap();
        assert_eq!(
            printed["Database system identifier"],
            control.system_id.to_string()
        );
        assert_eq!(
            printed["Catalog version number"],
            control.catalog_version.to_string()
        );
        assert_eq!(printed["Database cluster state"], "in production");
        assert_eq!(
            control.state,
            tidemark_postgres::control_file::ClusterState::InProduction
        );
        assert_eq!(lsn("Latest checkpoint location"), control.checkpoint);
        assert_eq!(lsn("Latest checkpoint's REDO location"), control.redo);
        assert_eq!(
            printed["Latest checkpoint's TimeLineID"],
            control.timeline.to_string()
        );
        assert_eq!(printed["max_worker_processes setting"], "11");
        assert_eq!(control.requirements.max_worker_processes, 11);
        assert_eq!(
            printed["max_connections setting"],
            control.requirements.max_connections.to_string()
        );
        assert_eq!(
            printed["max_locks_per_xact setting"],
            control.requirements.max_locks_per_transaction.to_string()
        );
        assert_eq!(
            printed["Bytes per WAL segment"],
            control.wal_segment_size.bytes().to_string()
        );
        assert_eq!(
            printed["Blocks per segment of large relation"],
            control.pages_per_segment.to_string()
        );
        assert_eq!(
            printed["Data page checksum version"],
            control.data_checksum_version.to_string()
        );
        control.check_supported().unwrap();
    }
}

#[test]
fn one_damaged_page_of_a_real_cluster_is_found_and_no_other() {
    let server = PostgresServer::start_new(PgVersion::V17);
    server.psql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS id; CHECKPOINT");
    let path = server.psql("SELECT pg_relation_filepath('t')").trim().to_owned();
    let location = server.data_directory().join(&path);
    let mut bytes = fs::read(&location).unwrap();
    bytes[3 * 8192 + 4000] ^= 1;
    fs::write(&location, bytes).unwrap();
    let (control, _) = ControlFile::read(server.data_directory()).unwrap();
    let mut bad = Vec::new();
    let mut pages = 0;
    for file in scan(server.data_directory(), control.catalog_version)
        .unwrap()
        .files
    {
        let reader = SourceReader::open(&file, control.pages_per_segment, true)
            .unwrap()
            .unwrap();
        let mut buffer = vec![0; usize::try_from(file.size).unwrap()];
        bad.extend(reader.read(0, &mut buffer).unwrap().bad);
        pages += if file.kind.is_checksummed() {
            file.size / 8192
        } else {
            0
        };
    }
    assert!(pages > 1000, "a cluster has more pages than {pages}");
    assert_eq!(
        bad.iter()
            .map(|bad| (bad.path.as_str(), bad.block))
            .collect::<Vec<_>>(),
        [(path.as_str(), 3)]
    );
}
