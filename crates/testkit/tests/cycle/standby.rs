//! Base backups taken from a standby while its primary is written to.

use tidemark_testkit::{PgVersion, PostgresServer, TestRepository, Workload};

use crate::protected::{
    BaseMethod, agent_by, restore, take_backup, wait_for_agent, wait_for_base_backup, wait_until_streaming,
};

const TABLES: [&str; 2] = ["tidemark_workload", "pages"];

fn digest(digest_of: impl Fn(&str) -> String) -> String {
    TABLES.map(digest_of).join("; ")
}

fn now(server: &PostgresServer) -> String {
    server.psql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
}

fn assert_backup_of_standby_is_restored(version: PgVersion, method: BaseMethod) {
    let repository = TestRepository::file();
    let primary = PostgresServer::builder(version)
        .conf("checkpoint_timeout = 30s")
        .start();
    Workload::create_table(&primary.client());
    // Pages that are not touched since the restart point, and some that change all the time.
    primary.psql(
        "CREATE TABLE pages AS SELECT n, 0 AS changes, repeat('x', 500) AS filler FROM generate_series(1, 20000) AS n",
    );
    let standby = primary.start_standby();
    let agent = agent_by(&repository, &standby, method, "").start();
    wait_until_streaming(&agent);
    let workload = Workload::builder(&primary.url())
        .writers(2)
        .payload_bytes(1000)
        .start();
    let churn = || primary.psql("UPDATE pages SET changes = changes + 1 WHERE n % 10 = 0");
    // A restart point, at which the backup begins: in the middle of a segment, for a standby cannot switch to a new one.
    churn();
    primary.psql("CHECKPOINT");
    wait_for_base_backup(&agent);
    churn();
    let taken = std::thread::scope(|scope| {
        let backup = scope.spawn(|| take_backup(&agent, &["--full"]));
        while !backup.is_finished() {
            churn();
            // What a standby's restart points are made of, and what a remote backup waits for.
            primary.psql("CHECKPOINT");
        }
        backup.join().expect("the backup was taken")
    });

    let commits = workload.stop();
    let at_target = digest(|table| primary.digest(table));
    let target = now(&primary);
    primary.psql("UPDATE pages SET changes = -1 WHERE n <= 100");
    let at_end = digest(|table| primary.digest(table));
    let end = primary.psql("SELECT pg_current_wal_flush_lsn() - '0/0'");
    let end: u64 = end.parse().expect("a position");
    wait_for_agent(&agent, "the log to be durable", || {
        crate::protected::durable(&agent) >= end
    });
    primary.kill9();
    standby.kill9();
    agent.kill9();

    let restored = restore(&repository, version)
        .args(["--target-time", &target])
        .start();
    assert_eq!(
        digest(|table| restored.client().digest(table)),
        at_target,
        "{}",
        restored.report()
    );
    let base = restored.report()["plan"]["base"]["id"].as_str().expect("a name");
    assert!(taken.contains(base), "{base} was restored, and {taken} is newer");
    let begin = restored.report()["plan"]["log"]["begin"]
        .as_str()
        .expect("an LSN");
    let begin = begin.split('/').next_back().expect("its low half");
    let in_segment = u64::from_str_radix(begin, 16).expect("hexadecimal") % (16 << 20);
    assert!(
        in_segment > 8192,
        "the backup begins where any other does: {begin}"
    );
    let restored = restore(&repository, version).args(["--target-latest"]).start();
    assert_eq!(digest(|table| restored.client().digest(table)), at_end);
    assert_eq!(Workload::missing(restored.client(), &commits), []);
    restored.assert_sound();
}

#[test]
fn a_local_backup_of_a_standby_is_restored() {
    assert_backup_of_standby_is_restored(PgVersion::V17, BaseMethod::Local);
}

#[test]
fn a_remote_backup_of_a_standby_is_restored() {
    assert_backup_of_standby_is_restored(PgVersion::V15, BaseMethod::Remote);
}
