//! Incremental base backups after everything that moves pages behind a backup's back. Each restore begins at the newest
//! backup, behind all changes, so that the pages come from it and not from replay.

use tidemark_testkit::{Agent, PgVersion, PostgresServer, RestoredServer, StopMode, TestRepository, run};

use crate::protected::{protect, restore, take_backup, wait_until_durable, wait_until_streaming};

const TABLES: [&str; 3] = ["accounts", "shrinking", "replaced"];

fn digests(digest_of: impl Fn(&str) -> String) -> Vec<String> {
    TABLES
        .iter()
        .map(|table| format!("{table}: {}", digest_of(table)))
        .collect()
}

/// A server with some tables, a base backup of which there is a full one.
fn with_tables(version: PgVersion, repository: &TestRepository) -> (PostgresServer, Agent) {
    let (server, agent) = protect(version, repository);
    server.psql(
        "CREATE EXTENSION amcheck; CREATE EXTENSION pg_visibility; \
         CREATE TABLE accounts AS SELECT n AS id, 0 AS balance, repeat('a', 100) AS filler FROM generate_series(1, 40000) AS n; \
         CREATE INDEX ON accounts (id); \
         CREATE TABLE shrinking AS SELECT n AS id, repeat('s', 300) AS filler FROM generate_series(1, 20000) AS n; \
         CREATE TABLE replaced AS SELECT n AS id FROM generate_series(1, 30000) AS n; \
         VACUUM (ANALYZE)",
    );
    wait_until_durable(&agent, &server);
    let taken = take_backup(&agent, &["--full"]);
    assert!(taken.contains(" full: "), "{taken}");
    (server, agent)
}

/// Takes another backup, which must be incremental, and restores from it.
fn back_up_and_restore(
    version: PgVersion,
    repository: &TestRepository,
    server: &PostgresServer,
    agent: &Agent,
) -> RestoredServer {
    wait_until_durable(agent, server);
    let taken = take_backup(agent, &[]);
    assert!(taken.contains(" incremental: "), "{taken}");
    wait_until_durable(agent, server);
    let restored = restore(repository, version).args(["--target-latest"]).start();
    let base = restored.report()["plan"]["base"]["id"]
        .as_str()
        .expect("a base backup");
    assert!(
        taken.starts_with(base),
        "restored from {base}, and not from {taken}"
    );
    restored
}

fn assert_change_is_backed_up(version: PgVersion, changes: &[&str]) {
    let repository = TestRepository::file();
    let (server, agent) = with_tables(version, &repository);
    for change in changes {
        server.psql(change);
    }
    let expected = digests(|table| server.digest(table));
    let restored = back_up_and_restore(version, &repository, &server, &agent);
    assert_eq!(digests(|table| restored.client().digest(table)), expected);
    assert_visibility_holds(&restored);
    restored.assert_sound();
}

/// What the visibility map promises is so, and an index-only scan counts what a sequential one does.
fn assert_visibility_holds(restored: &RestoredServer) {
    for table in TABLES {
        for check in ["pg_check_visible", "pg_check_frozen"] {
            let broken = restored.psql(&format!("SELECT count(*) FROM {check}('{table}')"));
            assert_eq!(broken, "0", "{check} on {table}");
        }
    }
    let index_only =
        "SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM accounts WHERE id > 0";
    let sequential = "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off; \
                      SELECT count(*) FROM accounts WHERE id > 0";
    assert_eq!(restored.psql(index_only), restored.psql(sequential));
}

#[test]
fn heavy_updates() {
    assert_change_is_backed_up(
        PgVersion::V17,
        &[
            "UPDATE accounts SET balance = id WHERE id % 3 = 0",
            "CHECKPOINT",
            "UPDATE accounts SET balance = -id WHERE id % 5 = 0",
            "DELETE FROM shrinking WHERE id % 2 = 0",
            "INSERT INTO replaced SELECT generate_series(1, 50000)",
        ],
    );
}

#[test]
fn dropped_and_created_tables() {
    assert_change_is_backed_up(
        PgVersion::V15,
        &[
            "DROP TABLE replaced",
            "CREATE TABLE replaced AS SELECT n * 7 AS id FROM generate_series(1, 1000) AS n",
            "CREATE INDEX ON replaced (id)",
        ],
    );
}

#[test]
fn tables_written_anew() {
    assert_change_is_backed_up(
        PgVersion::V18,
        &[
            "DELETE FROM accounts WHERE id % 2 = 0",
            "VACUUM FULL accounts",
            "CLUSTER accounts USING accounts_id_idx",
        ],
    );
}

#[test]
fn tables_that_shrank_and_grew_again() {
    assert_change_is_backed_up(
        PgVersion::V17,
        &[
            "TRUNCATE replaced",
            "INSERT INTO replaced SELECT n * 3 FROM generate_series(1, 45000) AS n",
            // Cut at its end in place, and grown over what was cut.
            "DELETE FROM shrinking WHERE id > 500",
            "VACUUM shrinking",
            "INSERT INTO shrinking SELECT n, repeat('t', 250) FROM generate_series(1000, 9000) AS n",
        ],
    );
}

#[test]
fn rows_deleted_after_the_visibility_map_was_set() {
    assert_change_is_backed_up(
        PgVersion::V15,
        &[
            "VACUUM (FREEZE) accounts",
            // The second backup holds the map with every bit set; clearing one registers no block.
            "DELETE FROM accounts WHERE id % 1000 = 0",
        ],
    );
}

#[test]
fn rows_deleted_since_a_backup_that_holds_a_full_visibility_map() {
    let version = PgVersion::V18;
    let repository = TestRepository::file();
    let (server, agent) = with_tables(version, &repository);
    server.psql("VACUUM (FREEZE) accounts");
    wait_until_durable(&agent, &server);
    take_backup(&agent, &[]);
    server.psql("DELETE FROM accounts WHERE id % 1000 = 0; CHECKPOINT");
    let expected = digests(|table| server.digest(table));
    let restored = back_up_and_restore(version, &repository, &server, &agent);
    assert_eq!(digests(|table| restored.client().digest(table)), expected);
    assert_visibility_holds(&restored);
}

#[test]
fn databases_created_by_either_strategy() {
    let version = PgVersion::V17;
    let repository = TestRepository::file();
    let (server, agent) = with_tables(version, &repository);
    // Nobody may be connected to a template, as the agent is to `postgres`.
    server.psql("CREATE DATABASE origin");
    let origin = server.client().database("origin");
    for table in TABLES {
        origin.query(&format!(
            "CREATE TABLE {table} AS SELECT generate_series(1, 5000) AS id"
        ));
    }
    server.psql("CREATE DATABASE logged STRATEGY wal_log TEMPLATE origin");
    server.psql("CREATE DATABASE copied STRATEGY file_copy TEMPLATE origin");
    server.psql("CREATE DATABASE dropped; DROP DATABASE dropped");
    let in_database = |name: &str| digests(|table| server.client().database(name).digest(table));
    let expected = [in_database("logged"), in_database("copied")];
    let restored = back_up_and_restore(version, &repository, &server, &agent);
    for (name, expected) in ["logged", "copied"].iter().zip(&expected) {
        assert_eq!(
            &digests(|table| restored.client().database(name).digest(table)),
            expected,
            "{name}"
        );
    }
    restored.assert_sound();
}

#[test]
fn a_cluster_whose_checksums_were_turned_on_is_read_as_a_whole() {
    let version = PgVersion::V17;
    let repository = TestRepository::file();
    let server = PostgresServer::builder(version).without_data_checksums().start();
    server.psql("CREATE TABLE accounts AS SELECT generate_series(1, 40000) AS id");
    let agent = crate::protected::agent_for(&repository, &server, "").start();
    crate::protected::wait_for_base_backup(&agent);
    server.stop(StopMode::Fast);
    run(version
        .tool("pg_checksums")
        .arg("--enable")
        .arg("-D")
        .arg(server.data_directory()))
    .expect_success();
    server.start();
    wait_until_streaming(&agent);
    server.psql("INSERT INTO accounts VALUES (0)");
    wait_until_durable(&agent, &server);
    take_backup(&agent, &[]);
    let expected = server.digest("accounts");
    wait_until_durable(&agent, &server);
    let restored = restore(&repository, version).args(["--target-latest"]).start();
    assert_eq!(restored.client().digest("accounts"), expected);
    restored.assert_sound();
}

#[test]
fn an_incremental_of_an_incremental_restores_like_a_full_one() {
    let version = PgVersion::V15;
    let repository = TestRepository::file();
    let (server, agent) = with_tables(version, &repository);
    for round in 1..=4 {
        server.psql(&format!(
            "UPDATE accounts SET balance = {round} WHERE id % 40 = {round}; INSERT INTO replaced VALUES ({round})"
        ));
        let expected = digests(|table| server.digest(table));
        let restored = back_up_and_restore(version, &repository, &server, &agent);
        assert_eq!(
            digests(|table| restored.client().digest(table)),
            expected,
            "round {round}"
        );
    }
}
