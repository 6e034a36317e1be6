//! The cycle on every server version, store and way of reading base backups: each value is met at least once, not each
//! combination. Rows at the target are as they were there, and what came later is absent.

use tidemark_testkit::{
    Garage, Moto, PgVersion, PostgresServer, RestoredServer, TestRepository, run, tidemark_restore,
};

use crate::protected::{
    BaseMethod, agent_by, restore, take_backup, wait_for_base_backup, wait_until_durable,
};

/// Where the repository is; the store lives as long as the test.
enum Store {
    File,
    Garage,
    Moto,
}

/// One line of the matrix.
struct Cell {
    version: PgVersion,
    store: Store,
    method: BaseMethod,
    segment_mib: u32,
    tablespace: bool,
    /// Another base backup, which may refer to the first, in the middle of the targets.
    second_backup: bool,
}

#[rustfmt::skip]
mod cells {
    use super::*;
    use BaseMethod::{Local, Remote};
    use PgVersion::{V15, V17, V18};

    macro_rules! cell {
        ($name:ident, $version:expr, $store:expr, $method:expr, $segment_mib:expr, $tablespace:expr, $second:expr) => {
            #[test]
            fn $name() {
                super::assert_cycle(&Cell {
                    version: $version, store: $store, method: $method, segment_mib: $segment_mib,
                    tablespace: $tablespace, second_backup: $second,
                });
            }
        };
    }

    //    test                   server  store          base    segment  tablespace  second backup
    cell!(on_15_with_files,      V15,    Store::File,   Local,  16,      false,      false);
    cell!(on_17_with_garage,     V17,    Store::Garage, Local,  16,      false,      true);
    cell!(on_18_with_moto,       V18,    Store::Moto,   Local,  1,       false,      false);
    cell!(on_17_with_tablespace, V17,    Store::File,   Local,  64,      true,       true);
    cell!(on_15_by_the_server,   V15,    Store::File,   Remote, 16,      true,       true);
    cell!(on_18_by_the_server,   V18,    Store::Garage, Remote, 16,      true,       false);
}

/// A place in the server's history, by every name that it has.
struct Moment {
    /// What the tables held then.
    digest: String,
    time: String,
    lsn: String,
    xid: String,
    name: String,
}

const TABLES: [&str; 2] = ["ledger", "pgbench_accounts"];

fn digest(digest_of: impl Fn(&str) -> String) -> String {
    TABLES.map(digest_of).join("; ")
}

/// Changes rows in one transaction, and takes down where that was.
fn write_and_mark(server: &PostgresServer, number: u32) -> Moment {
    server.psql("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 50 = 0");
    let xid = server.psql(&format!(
        "BEGIN; INSERT INTO ledger SELECT {number}, n, repeat('x', 200) FROM generate_series(1, 500) AS n; \
         DELETE FROM ledger WHERE batch < {number} AND n % 7 = 0; SELECT pg_current_xact_id(); COMMIT"
    ));
    let name = format!("after batch {number}");
    let lsn = server.psql("SELECT pg_current_wal_insert_lsn()");
    let time = server
        .psql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
    server.psql(&format!("SELECT pg_create_restore_point('{name}')"));
    Moment {
        digest: digest(|table| server.digest(table)),
        time,
        lsn,
        xid,
        name,
    }
}

fn assert_cycle(cell: &Cell) {
    let garage = matches!(cell.store, Store::Garage).then(Garage::start_new);
    let moto = matches!(cell.store, Store::Moto).then(Moto::start_new);
    let endpoint = garage
        .as_ref()
        .map(Garage::endpoint)
        .or(moto.as_ref().map(Moto::endpoint));
    let repository = endpoint.map_or_else(TestRepository::file, |endpoint| {
        TestRepository::s3(&endpoint, "matrix")
    });

    let server = PostgresServer::builder(cell.version)
        .wal_segment_mib(cell.segment_mib)
        .start();
    let tablespace = cell.tablespace.then(|| server.create_tablespace("elsewhere"));
    let place = if cell.tablespace {
        "TABLESPACE elsewhere"
    } else {
        ""
    };
    server.psql(&format!(
        "CREATE TABLE ledger (batch int, n int, filler text) {place}"
    ));
    run(server.tool("pgbench").args(["-i", "-q", "-s", "1"])).expect_success();

    let agent = agent_by(&repository, &server, cell.method, "").start();
    wait_for_base_backup(&agent);
    let mut moments = vec![write_and_mark(&server, 1)];
    moments.push(write_and_mark(&server, 2));
    if cell.second_backup {
        take_backup(&agent, &[]);
    }
    moments.push(write_and_mark(&server, 3));
    moments.push(write_and_mark(&server, 4));
    let end = write_and_mark(&server, 5);
    wait_until_durable(&agent, &server);
    server.kill9();
    agent.kill9();

    let check = |arguments: &[&str], expected: &str| {
        let mut restore = restore(&repository, cell.version).args(arguments.iter().copied());
        if let Some(old) = &tablespace {
            let new = restore.subdir("elsewhere");
            restore = restore.args(["--tablespace", &format!("{}={}", old.display(), new.display())]);
        }
        let restored = restore.start();
        let found = digest(|table| restored.client().digest(table));
        assert_eq!(found, expected, "{arguments:?}: {}", restored.report());
        restored
    };
    check(&["--target-time", &moments[0].time], &moments[0].digest);
    check(&["--target-lsn", &moments[1].lsn], &moments[1].digest);
    check(&["--target-xid", &moments[2].xid], &moments[2].digest);
    check(&["--target-name", &moments[3].name], &moments[3].digest);
    let latest = check(&["--target-latest"], &end.digest);
    assert_tablespace_moved(&latest, tablespace.is_some());
    latest.assert_sound();
    let servers = run(&mut tidemark_restore(&repository, "list")).expect_success();
    assert!(servers.contains(crate::protected::NAME), "{servers}");
}

/// The restored table lies beside the restored data directory, not where the lost server had it.
fn assert_tablespace_moved(restored: &RestoredServer, has_tablespace: bool) {
    let location =
        restored.psql("SELECT pg_tablespace_location(reltablespace) FROM pg_class WHERE relname = 'ledger'");
    let beside = restored.data_directory().with_file_name("elsewhere");
    let expected = if has_tablespace {
        beside.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    assert_eq!(location, expected);
}
