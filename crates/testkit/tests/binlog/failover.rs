//! The source is lost and a replica takes over: the log goes on with the replica's own, by GTID.

use tidemark_testkit::{
    Agent, MysqlRestore, MysqlServer, MysqlVersion, MysqlWorkload, TestRepository, wait_for,
};

use crate::protected::{
    NAME, PATIENCE, agent_for, server, wait_for_agent, wait_for_base_backup, wait_until_durable,
    wait_until_durable_on, wait_until_streaming,
};

const DIGEST: &str = "CHECKSUM TABLE d.t; SELECT COUNT(*), SUM(CRC32(payload)) FROM load_test.t";

/// A replica of `source`, which begins with its first transaction.
fn replica_of(source: &MysqlServer) -> MysqlServer {
    let version = source.version();
    // Without accounts of its own: they come from the source, too.
    let replica = server(version).create();
    replica.start();
    let port = source.port();
    source.sql("CREATE USER IF NOT EXISTS repl@'%' IDENTIFIED BY 'Repl-pass1'; GRANT REPLICATION SLAVE ON *.* TO repl@'%'");
    let follow = if version.is_mariadb() {
        format!(
            "CHANGE MASTER TO master_host='127.0.0.1', master_port={port}, master_user='repl', \
             master_password='Repl-pass1', master_use_gtid=slave_pos; START SLAVE"
        )
    } else {
        format!(
            "CHANGE REPLICATION SOURCE TO source_host='127.0.0.1', source_port={port}, source_user='repl', \
             source_password='Repl-pass1', source_auto_position=1, get_source_public_key=1; START REPLICA"
        )
    };
    replica.sql(&follow);
    replica
}

fn position(server: &MysqlServer) -> String {
    server.sql(if server.version().is_mariadb() {
        "SELECT @@gtid_current_pos"
    } else {
        "SELECT @@gtid_executed"
    })
}

/// Waits until `replica` has all of `source`, and makes it a source.
fn promote(replica: &MysqlServer, source: &MysqlServer) {
    let wanted = position(source);
    wait_for("the replica to catch up", PATIENCE, || {
        position(replica) == wanted
    });
    replica.sql(if replica.version().is_mariadb() {
        "STOP SLAVE; RESET SLAVE ALL"
    } else {
        "STOP REPLICA; RESET REPLICA ALL"
    });
}

/// The agent, told to go to `server` from now on.
fn redirect(agent: &Agent, from: &MysqlServer, to: &MysqlServer) {
    let text = std::fs::read_to_string(agent.config_path()).expect("read the configuration");
    let (from, to) = (format!(":{}\"", from.port()), format!(":{}\"", to.port()));
    std::fs::write(agent.config_path(), text.replace(&from, &to)).expect("write the configuration");
}

fn follows_a_promoted_replica(version: MysqlVersion) {
    let source = server(version).start();
    let replica = replica_of(&source);
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v TEXT)");
    let repository = TestRepository::file();
    let agent = agent_for(&repository, &source, "").start();
    wait_until_streaming(&agent);
    wait_for_base_backup(&agent);
    let workload = MysqlWorkload::start(&source.client(), 3, 200);
    wait_for("commits", PATIENCE, || workload.count() > 200);
    source.rotate();
    wait_for("commits", PATIENCE, || workload.count() > 300);
    workload.stop();
    source.sql("INSERT INTO d.t VALUES (1, 'on the source')");
    wait_until_durable(&agent, &source);
    agent.terminate(PATIENCE);
    promote(&replica, &source);
    source.kill9();
    replica.sql("INSERT INTO d.t VALUES (2, 'on the replica')");
    redirect(&agent, &source, &replica);
    agent.start();
    wait_until_durable_on(&agent, &replica, 2);
    assert_eq!(
        agent.metrics().values("tidemark_gaps_total", &[]),
        [0.0],
        "{}",
        agent.log_text()
    );
    agent.terminate(PATIENCE);
    let (wanted, executed) = (replica.sql(DIGEST), position(&replica));
    let restore = MysqlRestore::new(&repository, NAME, version);
    let restored = restore.start(&["--target-latest"]);
    assert_eq!(restored.sql(DIGEST), wanted);
    assert_eq!(
        restored.report()["stopped_at"]["gtid_set"]
            .as_str()
            .map(str::to_owned),
        Some(executed.replace('\n', ""))
    );
}

#[test]
fn a_promoted_mysql_replica_is_followed() {
    follows_a_promoted_replica(MysqlVersion::Mysql97);
}

#[test]
fn a_promoted_mariadb_replica_is_followed() {
    follows_a_promoted_replica(MysqlVersion::MariaDb118);
}

/// A replica that lacks what is stored is no continuation of it.
#[test]
fn a_replica_that_lacks_transactions_is_refused() {
    let version = MysqlVersion::Mysql97;
    let source = server(version).start();
    let replica = replica_of(&source);
    source.sql("CREATE DATABASE d");
    promote(&replica, &source);
    let repository = TestRepository::file();
    let agent = agent_for(&repository, &source, "").start();
    wait_until_streaming(&agent);
    source.sql("CREATE TABLE d.t (id INT PRIMARY KEY)");
    wait_until_durable(&agent, &source);
    agent.terminate(PATIENCE);
    source.kill9();
    redirect(&agent, &source, &replica);
    agent.start();
    wait_for_agent(&agent, "a conflict", || {
        agent.log_text().contains("this needs a decision")
    });
    assert!(
        agent.log_text().contains("lacks transactions that are stored"),
        "{}",
        agent.log_text()
    );
}
