//! Semi-synchronous mode: a commit returns when the repository holds it.

use tidemark_testkit::{MysqlServer, MysqlVersion, MysqlWorkload, Scratch, TestRepository, run};

use crate::protected::{VERSIONS, agent_for, export, server, wait_for_agent, wait_until_streaming};

/// Far longer than any test: the server must not give up waiting.
const TIMEOUT_MS: u32 = 600_000;

fn semi_sync_server(version: MysqlVersion) -> MysqlServer {
    let server = server(version).start();
    if version.is_mariadb() {
        server.sql(&format!(
            "SET GLOBAL rpl_semi_sync_master_timeout = {TIMEOUT_MS}; SET GLOBAL rpl_semi_sync_master_enabled = ON; \
             SET GLOBAL rpl_semi_sync_master_wait_point = AFTER_SYNC"
        ));
    } else {
        server.sql(&format!(
            "INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'; \
             SET GLOBAL rpl_semi_sync_source_timeout = {TIMEOUT_MS}; SET GLOBAL rpl_semi_sync_source_enabled = ON"
        ));
    }
    server
}

fn clients(server: &MysqlServer) -> String {
    server.sql("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_%_clients'")
}

/// The server is killed under load and never comes back: every commit that a client saw is in the repository.
#[test]
fn every_commit_that_a_client_saw_is_stored() {
    for version in VERSIONS {
        let server = semi_sync_server(version);
        let repository = TestRepository::file();
        let agent = agent_for(&repository, &server, "semi_sync = true\n").start();
        wait_until_streaming(&agent);
        wait_for_agent(&agent, "the server to count the agent", || {
            clients(&server).ends_with("\t1")
        });
        let workload = MysqlWorkload::start(&server.client(), 4, 300);
        wait_for_agent(&agent, "commits", || workload.count() >= 200);
        server.kill9();
        let commits = workload.stop();
        agent.kill9();
        let scratch = Scratch::new("exported");
        let exported = scratch.subdir("files");
        export(&repository, &exported);
        let rows = rows_in(&server, &exported);
        let missing: Vec<_> = commits
            .iter()
            .filter(|(writer, sequence)| !rows.contains(&format!("@1={writer} @2={sequence} ")))
            .collect();
        assert!(
            missing.is_empty(),
            "{version}: {} of {} commits: {missing:?}",
            missing.len(),
            commits.len()
        );
    }
}

/// Rows that the files insert, as `mysqlbinlog` shows them, a row a line.
fn rows_in(server: &MysqlServer, directory: &std::path::Path) -> String {
    let mut rows = String::new();
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .expect("list")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    for file in files {
        let text = run(server.mysqlbinlog().arg("--verbose").arg(file)).expect_success();
        for line in text.lines() {
            if let Some(column) = line.strip_prefix("###   @") {
                rows.push('@');
                rows.push_str(column);
                rows.push(' ');
            } else {
                rows.push('\n');
            }
        }
    }
    rows
}
