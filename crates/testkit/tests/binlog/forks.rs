//! Servers whose binlog does not go on where the archive ends: cut, reset, purged.

use std::fs::OpenOptions;

use tidemark_testkit::{Agent, MysqlServer, MysqlVersion, TestRepository, run, wait_for};

use crate::protected::{
    NAME, PATIENCE, VERSIONS, agent_for, durable, restore_tool, server, wait_for_agent, wait_until_durable,
    wait_until_durable_on, wait_until_streaming,
};

fn gaps(agent: &Agent) -> Vec<f64> {
    agent.metrics().values("tidemark_gaps_total", &[])
}

fn list(repository: &TestRepository) -> String {
    run(&mut restore_tool(repository, "list")).expect_success()
}

/// Removes all files but the newest. MariaDB keeps those that a crash recovery would begin at, for a moment.
fn purge(server: &MysqlServer) {
    let newest = server.binlog_files().pop().expect("a file");
    let newest = newest
        .file_name()
        .expect("a name")
        .to_str()
        .expect("a plain name");
    wait_for("the old files to be purged", PATIENCE, || {
        server.sql(&format!("PURGE BINARY LOGS TO '{newest}'"));
        server.binlog_files().len() == 1
    });
}

fn protected(version: MysqlVersion, repository: &TestRepository) -> (MysqlServer, Agent) {
    let server = server(version).start();
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v TEXT)");
    let agent = agent_for(repository, &server, "").start();
    wait_until_streaming(&agent);
    server.sql("INSERT INTO d.t VALUES (1, 'kept')");
    server.rotate();
    wait_until_durable(&agent, &server);
    (server, agent)
}

/// With `sync_binlog` other than 1, a crash of the host takes transactions that were sent; their GTIDs come again with
/// other contents. What came first is kept apart, and what counts is what the server has.
#[test]
fn a_server_that_comes_back_with_a_shorter_binlog_begins_a_branch() {
    for version in VERSIONS {
        let repository = TestRepository::file();
        let (server, agent) = protected(version, &repository);
        server.sql("INSERT INTO d.t VALUES (2, 'kept'); INSERT INTO d.t VALUES (3, 'lost')");
        wait_until_durable(&agent, &server);
        // The end of the newest file, as if the kernel had never written it.
        server.kill9();
        let newest = server.binlog_files().pop().expect("a file");
        let keep = std::fs::metadata(&newest).expect("its length").len() - 60;
        let file = OpenOptions::new()
            .write(true)
            .open(&newest)
            .expect("open the binlog");
        file.set_len(keep).expect("cut the binlog");
        drop(file);
        server.start();
        server.sql("INSERT INTO d.t VALUES (4, 'after the cut')");
        wait_until_durable_on(&agent, &server, 2);
        assert_eq!(gaps(&agent), [0.0], "{version}: {}", agent.log_text());
        agent.terminate(PATIENCE);
        let listed = list(&repository);
        assert!(listed.contains("branch 2"), "{listed}");
    }
}

/// After a RESET the same names come again, with other contents; nothing leads from one to the other.
#[test]
fn a_reset_is_a_gap_and_file_names_come_again() {
    for version in VERSIONS {
        let repository = TestRepository::file();
        let (server, agent) = protected(version, &repository);
        let reset = if version.is_mariadb() {
            "RESET MASTER"
        } else {
            "RESET BINARY LOGS AND GTIDS"
        };
        server.sql(reset);
        server.sql("INSERT INTO d.t VALUES (5, 'after the reset')");
        wait_until_durable_on(&agent, &server, 2);
        assert_eq!(gaps(&agent), [1.0], "{version}");
        let (_, (file, _)) = durable(&agent).expect("a position");
        assert!(file <= 2, "numbers begin anew");
        // And once more while no agent looks, until the new files reach past the old ones.
        agent.terminate(PATIENCE);
        server.sql(reset);
        for _ in 0..4 {
            server.rotate();
        }
        agent.start();
        server.sql("INSERT INTO d.t VALUES (6, 'after the second reset')");
        wait_until_durable_on(&agent, &server, 3);
        agent.terminate(PATIENCE);
        assert!(list(&repository).contains("recorded gap"));
    }
}

/// A server purges what nobody fetched.
#[test]
fn a_purge_ahead_of_the_agent_is_a_gap() {
    for version in VERSIONS {
        let repository = TestRepository::file();
        let (server, agent) = protected(version, &repository);
        agent.terminate(PATIENCE);
        for round in 0..3 {
            server.sql(&format!("INSERT INTO d.t VALUES ({}, 'purged')", 10 + round));
            server.rotate();
        }
        purge(&server);
        agent.start();
        wait_for_agent(&agent, "a gap", || gaps(&agent) == [1.0]);
        wait_until_durable_on(&agent, &server, 2);
        agent.terminate(PATIENCE);
        assert!(list(&repository).contains("had purged"), "{version}");
    }
}

/// Files that are stored may go; the log goes on with the next one.
#[test]
fn a_purge_behind_the_agent_is_none() {
    for version in VERSIONS {
        let repository = TestRepository::file();
        let (server, agent) = protected(version, &repository);
        agent.terminate(PATIENCE);
        purge(&server);
        agent.start();
        wait_until_durable(&agent, &server);
        assert_eq!(gaps(&agent), [0.0], "{version}");
    }
}

/// Another server under the same name is refused, whatever its files are called, until somebody decides for it.
#[test]
fn a_stranger_is_refused() {
    for version in [MysqlVersion::Mysql97, MysqlVersion::MariaDb1011] {
        let repository = TestRepository::file();
        let (server_of_archive, agent) = protected(version, &repository);
        agent.terminate(PATIENCE);
        // It keeps its port, so that the stranger has another.
        server_of_archive.stop();
        let stranger = server(version).start();
        let agent = agent_for(&repository, &stranger, "").start();
        wait_for_agent(&agent, "a conflict", || {
            agent.log_text().contains("this needs a decision")
        });
        let log = agent.log_text();
        assert!(log.contains("tidemark-agent adopt"), "{log}");
        agent.terminate(PATIENCE);
        let said = agent.run("adopt", &["--server", NAME]).expect_success();
        assert!(said.contains("is now generation 2"), "{said}");
        agent.start();
        wait_until_durable(&agent, &stranger);
        agent.terminate(PATIENCE);
        let listed = list(&repository);
        assert!(
            listed.contains("generation 1") && listed.contains("generation 2"),
            "{listed}"
        );
    }
}
