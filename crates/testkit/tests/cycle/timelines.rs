//! Promotions: log before and after a fork, and a fork that is not archived on the child yet.

use tidemark_testkit::{Agent, PgVersion, PostgresServer, TestRepository, run};

use crate::protected::{
    NAME, PATIENCE, agent_for, export, protect, restore, restore_tool, wait_for_agent, wait_for_base_backup,
    wait_until_durable, wait_until_streaming,
};

const VERSION: PgVersion = PgVersion::V17;

fn insert(server: &PostgresServer, what: &str) -> String {
    server.psql(&format!("INSERT INTO t VALUES ('{what}')"));
    server.psql("SELECT pg_current_wal_insert_lsn()")
}

fn restored_rows(repository: &TestRepository, target: &[&str]) -> String {
    let restored = restore(repository, VERSION).args(target.iter().copied()).start();
    restored.psql("SELECT string_agg(what, ', ' ORDER BY what) FROM t")
}

/// A primary with its agent, and a standby that has replayed the row "1 before".
fn with_standby(repository: &TestRepository) -> (PostgresServer, Agent, PostgresServer) {
    let (primary, agent) = protect(VERSION, repository);
    primary.psql("CREATE TABLE t (what text)");
    let standby = primary.start_standby();
    insert(&primary, "1 before");
    wait_for_agent(&agent, "the standby to replay", || {
        standby
            .try_psql("SELECT * FROM t")
            .is_ok_and(|rows| rows == "1 before")
    });
    (primary, agent, standby)
}

#[test]
fn targets_before_and_after_a_fork_are_reached() {
    let repository = TestRepository::file();
    let (primary, agent, standby) = with_standby(&repository);
    let before = primary.psql("SELECT pg_current_wal_insert_lsn()");
    // The standby does not hear of this any more; the repository does.
    standby.kill9();
    insert(&primary, "2 on the abandoned branch");
    let abandoned = primary.psql("SELECT pg_current_wal_insert_lsn()");
    wait_until_durable(&agent, &primary);
    agent.terminate(PATIENCE);
    primary.kill9();

    standby.start();
    standby.promote();
    let after = insert(&standby, "3 on the child");
    let agent = agent_for(&repository, &standby, "").start();
    wait_until_streaming(&agent);
    insert(&standby, "4 later");
    wait_until_durable(&agent, &standby);
    standby.kill9();
    agent.kill9();

    assert_eq!(restored_rows(&repository, &["--target-lsn", &before]), "1 before");
    assert_eq!(
        restored_rows(&repository, &["--target-lsn", &after]),
        "1 before, 3 on the child"
    );
    let latest = "1 before, 3 on the child, 4 later";
    assert_eq!(restored_rows(&repository, &["--target-latest"]), latest);
    // The old branch is kept, and reached when it is asked for.
    let old = restored_rows(&repository, &["--timeline", "1", "--target-lsn", &abandoned]);
    assert_eq!(old, "1 before, 2 on the abandoned branch");
    let listing = run(restore_tool(&repository, "list").arg("--json")).expect_success();
    assert!(listing.contains("dead_ends"), "{listing}");
    let plan = run(restore_tool(&repository, "plan").arg("--target-latest")).expect_success();
    assert!(plan.contains("left behind"), "{plan}");
}

#[test]
fn a_fork_whose_child_is_not_archived_yet_is_not_run_past() {
    let repository = TestRepository::file();
    let (primary, agent, standby) = with_standby(&repository);
    standby.kill9();
    insert(&primary, "2 on the abandoned branch");
    wait_until_durable(&agent, &primary);
    agent.terminate(PATIENCE);
    primary.kill9();
    standby.start();
    standby.promote();
    // What an agent stores first of a child: its history file, and no log of it.
    let history = standby.data_directory().join("pg_wal/00000002.history");
    assert!(history.is_file());
    let agent = agent_for(&repository, &standby, "").start();
    wait_until_streaming(&agent);
    insert(&standby, "3 on the child");
    wait_until_durable(&agent, &standby);
    agent.kill9();
    let child = repository
        .directory()
        .join("servers")
        .join(NAME)
        .join("0001/log/00000002");
    assert!(child.is_dir(), "{} holds the child's log", child.display());
    std::fs::remove_dir_all(child).unwrap();

    // The history alone creates no coverage: what can be reached is the parent's, all of it, or nothing of the child.
    let finished = match restore(&repository, VERSION)
        .args(["--target-latest"])
        .try_start()
    {
        Ok(restored) => {
            let rows = restored.psql("SELECT string_agg(what, ', ' ORDER BY what) FROM t");
            let timeline = restored.report()["stopped_at"]["branch"].to_string();
            let whole_parent = rows == "1 before, 2 on the abandoned branch" && timeline == "1";
            let up_to_the_fork = rows == "1 before" && timeline == "2";
            assert!(whole_parent || up_to_the_fork, "{rows} on timeline {timeline}");
            return;
        }
        Err(failed) => failed.1,
    };
    finished.expect_code(3);
}

#[test]
fn a_running_agent_follows_a_promotion_of_its_server() {
    let repository = TestRepository::file();
    let primary = PostgresServer::start_new(VERSION);
    primary.psql("CREATE TABLE t (what text)");
    let standby = primary.start_standby();
    let agent = agent_for(&repository, &standby, "").start();
    wait_until_streaming(&agent);
    insert(&primary, "1 before");
    primary.psql("CHECKPOINT");
    wait_for_base_backup(&agent);
    primary.kill9();
    standby.promote();
    let fork = insert(&standby, "2 on the child");
    wait_until_durable(&agent, &standby);
    standby.kill9();
    agent.kill9();
    assert_eq!(
        restored_rows(&repository, &["--target-lsn", &fork]),
        "1 before, 2 on the child"
    );
    let scratch = tidemark_testkit::Scratch::new("export");
    let exported = scratch.subdir("wal");
    export(&repository, &exported);
    assert!(exported.join("00000002.history").is_file());
}
