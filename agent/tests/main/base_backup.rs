//! Base backups from outside: exit codes, damage, and what a stopped or killed agent leaves.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemark_testkit::{Agent, AgentBuilder, PgVersion, PostgresServer, StopMode, TestRepository, wait_for};

const VERSION: PgVersion = PgVersion::V17;
const SOON: Duration = Duration::from_secs(120);
const NAME: &str = "shop";

fn agent(repository: &TestRepository, server: &PostgresServer, settings: &str) -> AgentBuilder {
    let data = server.data_directory().display();
    let settings = format!("max_lag = \"50ms\"\ndata_directory = \"{data}\"\n{settings}");
    Agent::builder(repository).postgres(NAME, &server.url(), &settings)
}

fn remote_agent(repository: &TestRepository, server: &PostgresServer) -> AgentBuilder {
    Agent::builder(repository).postgres(NAME, &server.url(), "max_lag = \"50ms\"")
}

/// The folders of base backups that hold the object `name`.
fn backups_with(repository: &TestRepository, name: &str) -> Vec<PathBuf> {
    let base = repository
        .directory()
        .join("servers")
        .join(NAME)
        .join("0001/base");
    let Ok(folders) = fs::read_dir(base) else {
        return Vec::new();
    };
    let folders = folders.map(|folder| folder.unwrap().path());
    folders.filter(|folder| folder.join(name).exists()).collect()
}

fn wait_for_backup(agent: &Agent, repository: &TestRepository) {
    wait_for("a base backup", SOON, || {
        assert!(agent.is_running(), "{}", agent.log_text());
        !backups_with(repository, "manifest.zst").is_empty()
    });
    // The intent goes after the manifest has come.
    wait_for("its end", SOON, || {
        backups_with(repository, "intent.json").is_empty()
    });
}

/// Enough rows that a backup at the slowest level takes seconds.
fn fill(server: &PostgresServer) {
    server.psql(
        "CREATE TABLE filler AS SELECT i, md5(i::text) || md5((i + 1)::text) AS text \
         FROM generate_series(1, 200000) i",
    );
}

const SLOW: &str = "[server.base_backup]\nlevel = 19\njobs = 1\n";

#[test]
fn a_backup_that_nobody_keeps_the_log_for_is_refused() {
    let server = PostgresServer::start_new(VERSION);
    let repository = TestRepository::file();
    let agent = agent(&repository, &server, "").start();
    wait_for_backup(&agent, &repository);
    agent.terminate(SOON);
    let said = agent.run("backup", &["--server", NAME]).expect_code(5);
    assert!(said.contains("no agent streams the log of shop"), "{said}");
    assert!(said.contains("hint: start \"tidemark-agent run\""), "{said}");
    assert_eq!(backups_with(&repository, "manifest.zst").len(), 1);
}

#[test]
fn a_backup_beside_another_is_a_conflict_until_that_one_is_known_to_be_dead() {
    let server = PostgresServer::start_new(VERSION);
    let repository = TestRepository::file();
    let agent = agent(&repository, &server, "").start();
    wait_for_backup(&agent, &repository);
    let folder = backups_with(&repository, "manifest.zst")[0].clone();
    let other = "20990101T000000Z-00000000";
    let intent = |host: &str| {
        let now = chrono::Utc::now().to_rfc3339();
        let text = format!(
            "{{\"backup\":\"{other}\",\"parent\":null,\"host\":\"{host}\",\"boot\":\"-\",\"process\":1,\
             \"started\":\"{now}\",\"refreshed\":\"{now}\"}}"
        );
        let folder = folder.with_file_name(other);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("intent.json"), text).unwrap();
    };
    intent("elsewhere.example");
    let said = agent.run("backup", &["--server", NAME]).expect_code(6);
    assert!(
        said.contains(&format!("base backup {other} is running on elsewhere.example")),
        "{said}"
    );
    assert_eq!(backups_with(&repository, "intent.json").len(), 1);

    // On this host, before its last boot.
    intent(fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    fs::set_permissions(folder.with_file_name(other), open_to_all()).unwrap();
    agent.run("backup", &["--server", NAME]).expect_success();
    assert_eq!(backups_with(&repository, "intent.json"), Vec::<PathBuf>::new());
}

/// The test may run as another user than the agent.
fn open_to_all() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o777)
}

/// Flips a bit in the middle of the first page of a table, while the server is down.
fn damage(server: &PostgresServer) -> String {
    server.psql("CREATE TABLE broken AS SELECT generate_series(1, 1000) AS n");
    let path = server.psql("CHECKPOINT; SELECT pg_relation_filepath('broken')");
    let path = path.lines().last().expect("a path").to_owned();
    server.stop(StopMode::Fast);
    flip(&server.data_directory().join(&path));
    server.start();
    path
}

fn flip(file: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).unwrap();
    byte[0] ^= 1;
    file.write_all_at(&byte, 5000).unwrap();
}

fn assert_damage_is_told(builder: impl Fn(&TestRepository, &PostgresServer) -> AgentBuilder) {
    let server = PostgresServer::start_new(VERSION);
    let repository = TestRepository::file();
    let path = damage(&server);
    let agent = builder(&repository, &server).start();
    wait_for_backup(&agent, &repository);
    let alarm = "holds them as they are";
    wait_for("the alarm", SOON, || {
        agent.health().is_ok_and(|health| health.body.contains(alarm))
    });
    let log = agent.log_text();
    assert!(log.contains("a page is damaged") && log.contains(&path), "{log}");
    let said = agent.run("backup", &["--server", NAME, "--full"]).expect_code(7);
    assert!(
        said.contains(" full: ") && said.contains("met 1 damaged pages"),
        "{said}"
    );
    assert_eq!(backups_with(&repository, "manifest.zst").len(), 2);
}

#[test]
fn a_damaged_page_is_told_and_kept() {
    assert_damage_is_told(|repository, server| agent(repository, server, ""));
}

#[test]
fn a_damaged_page_that_the_server_finds_is_told_and_kept() {
    assert_damage_is_told(remote_agent);
}

#[test]
fn backups_over_the_connection_lay_changes_over_each_other() {
    let server = PostgresServer::start_new(VERSION);
    server.create_tablespace("extra");
    server.psql("CREATE TABLE t TABLESPACE extra AS SELECT generate_series(1, 100000) AS n");
    let repository = TestRepository::file();
    let agent = remote_agent(&repository, &server).start();
    wait_for_backup(&agent, &repository);
    server.psql("UPDATE t SET n = 0 WHERE n = 7");
    let said = agent.run("backup", &["--server", NAME]).expect_success();
    assert!(
        said.contains(" incremental: ") && said.contains(" KiB stored"),
        "{said}"
    );
}

#[test]
fn an_agent_told_to_stop_in_mid_backup_stops_at_once_and_leaves_nothing() {
    let server = PostgresServer::start_new(VERSION);
    fill(&server);
    let repository = TestRepository::file();
    let agent = agent(&repository, &server, SLOW).start();
    wait_for("the backup to run", SOON, || {
        agent.log_text().contains("base backup runs")
    });
    let ended = agent.terminate(Duration::from_secs(15));
    assert!(ended.success(), "{ended}");
    let log = agent.log_text();
    assert!(log.contains("the base backup was called off"), "{log}");
    for name in ["manifest.zst", "intent.json", "names.zst"] {
        assert_eq!(backups_with(&repository, name), Vec::<PathBuf>::new(), "{name}");
    }
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_backup_start%' AND pid <> pg_backend_pid()";
    wait_for("the session to close", SOON, || server.psql(sessions) == "0");
}

#[test]
fn what_a_killed_agent_left_does_not_hinder_the_next_backup() {
    let server = PostgresServer::start_new(VERSION);
    fill(&server);
    let repository = TestRepository::file();
    let agent = agent(&repository, &server, SLOW).start();
    wait_for("the backup to run", SOON, || {
        agent.log_text().contains("base backup runs")
    });
    agent.kill9();
    assert_eq!(backups_with(&repository, "intent.json").len(), 1);
    agent.start();
    wait_for_backup(&agent, &repository);
    let log = agent.log_text();
    assert!(log.contains("a base backup died here"), "{log}");
    assert_eq!(backups_with(&repository, "manifest.zst").len(), 1);
}
