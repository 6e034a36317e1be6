//! Real servers, each version installed: their log beside their own `pg_waldump`, at the moment of the test.

use std::path::{Path, PathBuf};

use tidemark_testkit::{PgVersion, PostgresServer, StopMode, run};
use tidemark_types::{SegmentName, TimelineId};

use super::waldump::{assert_same, parse};
use super::*;

/// The segments of a stopped server from the one that holds `from` on, as one piece.
fn read_log(server: &PostgresServer, from: Lsn) -> Vec<u8> {
    let first = SegmentName {
        timeline: TimelineId(1),
        segment: small().segment_of(from),
    };
    let first = first.file_name(small());
    let mut files: Vec<PathBuf> = std::fs::read_dir(wal_directory(server))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().len() == 24 && path.file_name().unwrap() >= first.as_str())
        .collect();
    files.sort();
    files
        .iter()
        .flat_map(|file| std::fs::read(file).unwrap())
        .collect()
}

fn wal_directory(server: &PostgresServer) -> PathBuf {
    server.data_directory().join("pg_wal")
}

/// `pg_waldump` exits with an error at the end of a log that was not shut down; what it printed counts.
fn waldump(version: PgVersion, directory: &Path, begin: Lsn, end: Lsn) -> String {
    let mut command = version.tool("pg_waldump");
    command.arg("-p").arg(directory);
    command
        .arg("-s")
        .arg(begin.to_string())
        .arg("-e")
        .arg(end.to_string());
    run(&mut command).stdout
}

#[test]
fn pgbench_is_decoded_as_pg_waldump_does() {
    for version in [PgVersion::V15, PgVersion::V17, PgVersion::V18] {
        let server = PostgresServer::builder(version)
            .wal_segment_mib(1)
            .conf("wal_recycle = off")
            .conf("wal_keep_size = 1GB")
            .start();
        let start: Lsn = server.psql("SELECT pg_current_wal_lsn()").trim().parse().unwrap();
        run(server.tool("pgbench").args(["-i", "-q"])).expect_success();
        run(server.tool("pgbench").args(["-c", "3", "-t", "500"])).expect_success();
        server.stop(StopMode::Fast);

        let log = read_log(&server, start);
        let (seen, decoder) = decode(&log);
        let lines = parse(&waldump(
            version,
            &wal_directory(&server),
            start_of(&log),
            decoder.whole().unwrap(),
        ));
        assert_same(&seen, &lines);
        assert!(seen.len() > 5000, "{} records", seen.len());
        assert_eq!(decoder.page_info().unwrap().version.major(), version.major());
    }
}
