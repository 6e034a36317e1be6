//! Servers start, stop, crash, are copied and followed.

use std::time::Duration;

use tidemark_testkit::{PgVersion, PostgresServer, StopMode, faketime_library, run, wait_for};

fn assert_life_cycle(version: PgVersion) {
    let server = PostgresServer::start_new(version);
    assert!(
        server
            .psql("SELECT version()")
            .contains(&format!("PostgreSQL {version}"))
    );
    server.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    let digest = server.digest("t");
    assert!(digest.starts_with("1000 rows, "), "{digest}");

    server.kill9();
    assert!(!server.is_running());
    assert!(server.try_psql("SELECT 1").is_err());
    server.start();
    assert_eq!(server.digest("t"), digest);
    assert!(
        server
            .log_text()
            .contains("database system was not properly shut down")
    );

    server.psql("UPDATE t SET id = -id WHERE id = 500");
    assert_ne!(server.digest("t"), digest);
    for mode in [StopMode::Fast, StopMode::Immediate, StopMode::Smart] {
        server.stop(mode);
        assert_eq!(server.pid(), None);
        server.start();
    }
    assert_eq!(server.psql("SHOW data_checksums"), "on");
}

#[test]
fn postgres_15_lives_through_stops_and_crashes() {
    assert_life_cycle(PgVersion::V15);
}

#[test]
fn postgres_17_lives_through_stops_and_crashes() {
    assert_life_cycle(PgVersion::V17);
}

#[test]
fn postgres_18_lives_through_stops_and_crashes() {
    assert_life_cycle(PgVersion::V18);
}

#[test]
fn builder_settings_reach_the_server() {
    for version in PgVersion::ALL {
        let server = PostgresServer::builder(version)
            .wal_segment_mib(1)
            .without_data_checksums()
            .conf("max_connections = 17")
            .hba("host postgres stranger 127.0.0.1/32 reject")
            .start();
        assert_eq!(server.psql("SHOW wal_segment_size"), "1MB");
        assert_eq!(server.psql("SHOW data_checksums"), "off");
        assert_eq!(server.psql("SHOW max_connections"), "17");
        server.psql("CREATE ROLE stranger LOGIN");
        let refused = run(server
            .tool("psql")
            .args(["-c", "SELECT 1", &server.url_as("stranger")]));
        assert!(refused.expect_code(2).contains("pg_hba.conf rejects connection"));
        for url in [server.url(), server.socket_url(), server.conninfo()] {
            run(server.tool("psql").args(["-c", "SELECT 1", &url])).expect_success();
        }
    }
}

#[test]
fn a_failed_statement_carries_the_servers_message() {
    let server = PostgresServer::start_new(PgVersion::V17);
    let error = server.try_psql("SELECT 1; SELECT * FROM nowhere").unwrap_err();
    assert!(
        format!("{error:#}").contains("relation \"nowhere\" does not exist"),
        "{error:#}"
    );
}

#[test]
fn a_server_that_cannot_start_tells_why() {
    let server = PostgresServer::builder(PgVersion::V15)
        .conf("no_such_setting = 1")
        .create();
    let error = server.try_start(Duration::from_secs(20)).unwrap_err();
    assert!(format!("{error:#}").contains("no_such_setting"), "{error:#}");
    assert!(!server.is_running());
}

#[test]
fn a_standby_follows_and_is_promoted() {
    for version in PgVersion::ALL {
        let primary = PostgresServer::start_new(version);
        let standby = primary.start_standby();
        assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t");
        primary.psql("CREATE TABLE t AS SELECT 7 AS id");
        wait_for("the standby to replay", Duration::from_secs(20), || {
            standby.try_psql("SELECT id FROM t").is_ok()
        });
        primary.kill9();
        standby.promote();
        standby.psql("INSERT INTO t VALUES (8)");
        assert_eq!(standby.psql("SELECT sum(id) FROM t"), "15");
        let timeline = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)";
        assert_eq!(standby.psql(timeline), "00000002");
    }
}

#[test]
fn copied_files_make_an_independent_twin() {
    let server = PostgresServer::start_new(PgVersion::V18);
    server.psql("CREATE TABLE t AS SELECT 1 AS id");
    server.kill9();
    let twin = server.copy_files();
    server.start();
    twin.start();
    twin.psql("INSERT INTO t VALUES (2)");
    assert_eq!(server.psql("SELECT count(*) FROM t"), "1");
    let identity = "SELECT system_identifier FROM pg_control_system()";
    assert_eq!(server.psql(identity), twin.psql(identity));
}

#[test]
fn tablespaces_lie_outside_the_data_directory() {
    let server = PostgresServer::start_new(PgVersion::V17);
    let location = server.create_tablespace("elsewhere");
    assert!(!location.starts_with(server.data_directory()));
    server.psql("CREATE TABLE t TABLESPACE elsewhere AS SELECT 1 AS id");
    assert_ne!(location.read_dir().unwrap().count(), 0);
}

#[test]
fn tools_reach_the_server_and_its_files() {
    for version in PgVersion::ALL {
        let server = PostgresServer::start_new(version);
        run(server.tool("pgbench").args(["-i", "-q", "-s", "1"])).expect_success();
        run(server.tool("pg_amcheck").arg("--install-missing")).expect_success();
        let segment = server.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
        let path = server.data_directory().join("pg_wal").join(segment);
        let dump = run(version.tool("pg_waldump").arg("--stats").arg(path));
        assert!(dump.stdout.contains("Heap"), "{dump:?}");
        server.stop(StopMode::Fast);
        run(version
            .tool("pg_checksums")
            .arg("--check")
            .arg("-D")
            .arg(server.data_directory()))
        .expect_success();
    }
}

#[test]
fn the_clock_can_be_set_ahead() {
    let preload = faketime_library();
    for version in PgVersion::ALL {
        let server = PostgresServer::builder(version)
            .env("LD_PRELOAD", preload.to_str().unwrap())
            .env("FAKETIME", "+1h")
            .start();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let ahead = server
            .psql("SELECT extract(epoch FROM clock_timestamp())::bigint")
            .parse::<u64>()
            .unwrap()
            - now;
        assert!((3590..3610).contains(&ahead), "{version}: {ahead} s ahead");
    }
}
