//! Synchronous mode: what a client was told is committed is in the repository, whatever is killed.

use std::thread;
use std::time::Duration;

use tidemark_testkit::{Agent, PgVersion, PostgresServer, StopMode, TestRepository, Workload, run, wait_for};

use crate::protected::{
    APPLICATION, PATIENCE, agent_for, restore, restore_tool, wait_for_agent, wait_for_base_backup,
};

/// A server whose commits wait for the agent, and the agent with its first base backup.
fn protect_synchronously(version: PgVersion, repository: &TestRepository) -> (PostgresServer, Agent) {
    let server = PostgresServer::start_new(version);
    Workload::create_table(&server.client());
    let agent = agent_for(repository, &server, "synchronous = true\n").start();
    wait_for_base_backup(&agent);
    server.psql(&format!(
        "ALTER SYSTEM SET synchronous_standby_names = '{APPLICATION}'; SELECT pg_reload_conf()"
    ));
    wait_for_agent(&agent, "the agent to be the synchronous standby", || {
        server.psql("SELECT sync_state FROM pg_stat_replication") == "sync"
    });
    (server, agent)
}

fn assert_all_are_restored(version: PgVersion, repository: &TestRepository, workload: Workload) {
    let commits = workload.stop();
    assert!(commits.len() > 100);
    let restored = restore(repository, version).args(["--target-latest"]).start();
    assert_eq!(Workload::missing(restored.client(), &commits), []);
}

fn assert_no_commit_is_lost_with_the_server(version: PgVersion) {
    let repository = TestRepository::file();
    let (server, agent) = protect_synchronously(version, &repository);
    let workload = Workload::builder(&server.url()).start();
    wait_for("commits", PATIENCE, || workload.count() > 300);
    server.kill9();
    agent.terminate(PATIENCE);
    assert_all_are_restored(version, &repository, workload);
}

#[test]
fn no_commit_is_lost_with_a_killed_server_15() {
    assert_no_commit_is_lost_with_the_server(PgVersion::V15);
}

#[test]
fn no_commit_is_lost_with_a_killed_server_18() {
    assert_no_commit_is_lost_with_the_server(PgVersion::V18);
}

#[test]
fn no_commit_is_lost_with_server_and_agent_killed_at_once() {
    let repository = TestRepository::file();
    let (server, agent) = protect_synchronously(PgVersion::V17, &repository);
    let workload = Workload::builder(&server.url()).start();
    wait_for("commits", PATIENCE, || workload.count() > 300);
    agent.kill9();
    server.kill9();
    assert_all_are_restored(PgVersion::V17, &repository, workload);
}

/// No commit escaped the index, wherever its record lay when the agent was killed.
fn assert_each_can_be_a_target(repository: &TestRepository, xids: &str) {
    const TRIED: usize = 12;
    let xids: Vec<&str> = xids.lines().collect();
    for xid in xids.iter().step_by(xids.len().div_ceil(TRIED)) {
        let plan = run(restore_tool(repository, "plan").args(["--target-xid", xid]));
        let text = plan.expect_success();
        assert!(
            text.contains(&format!("after the commit of transaction {xid} ")),
            "{text}"
        );
    }
}

#[test]
fn no_acknowledged_commit_is_missing_after_the_agent_was_killed_many_times() {
    let repository = TestRepository::file();
    let (server, agent) = protect_synchronously(PgVersion::V17, &repository);
    let workload = Workload::builder(&server.url()).start();
    for round in 1..=8_u64 {
        let before = workload.count();
        wait_for("commits to go on", PATIENCE, || workload.count() > before + 20);
        thread::sleep(Duration::from_millis(round * 23 % 100));
        agent.kill9();
        agent.start();
    }
    let before = workload.count();
    wait_for("commits to go on", PATIENCE, || workload.count() > before + 20);
    agent.kill9();
    // Without waiting for those that hang: nobody was told of them.
    let commits = workload.stop();
    let visible = server.psql("SELECT DISTINCT xmin::text::int FROM tidemark_workload ORDER BY 1");
    server.stop(StopMode::Immediate);
    assert_each_can_be_a_target(&repository, &visible);
    let restored = restore(&repository, PgVersion::V17)
        .args(["--target-latest"])
        .start();
    assert_eq!(Workload::missing(restored.client(), &commits), []);
}
