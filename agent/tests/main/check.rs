use std::fs;
use std::time::Duration;

use tidemark_testkit::{Agent, PgVersion, PostgresServer, StopMode, TestRepository, wait_for};

use crate::command::agent;

/// A configuration with a repository that works and a server that is not there.
fn configuration(directory: &std::path::Path) -> String {
    let file = directory.join("agent.toml");
    let repository = directory.join("repository");
    let text = format!(
        "[repository]\nurl = \"file://{}\"\n[[server]]\nname = \"shop\"\nengine = \"postgresql\"\n\
         url = \"postgresql://u@/postgres?host={}\"\n",
        repository.display(),
        directory.display()
    );
    fs::create_dir(repository).unwrap();
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_server_that_is_not_there_is_a_finding_and_exit_2() {
    let directory = tempfile::tempdir().unwrap();
    let ended = agent(&["check", "--config", &configuration(directory.path())]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert_eq!(ended.stderr, "error: 1 finding has to be mended\n");
    let marked = |mark: &str, check: &str| {
        let mut lines = ended.stdout.lines();
        lines.any(|line| line.starts_with(mark) && line.contains(check))
    };
    assert!(marked("✓ repository", "write"), "{}", ended.stdout);
    assert!(marked("✓ repository", "clock"), "{}", ended.stdout);
    assert!(marked("✗ shop", "connection"), "{}", ended.stdout);
    assert!(
        ended
            .stdout
            .contains("→ check the url, that the server runs, and its pg_hba.conf")
    );
}

#[test]
fn the_probe_leaves_no_object_behind() {
    let directory = tempfile::tempdir().unwrap();
    agent(&["check", "--config", &configuration(directory.path())]);
    let probes = directory.path().join("repository/lease");
    let left = fs::read_dir(probes).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[test]
fn json_says_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let ended = agent(&["check", "--config", &configuration(directory.path()), "--json"]);
    assert_eq!(ended.code, Some(2));
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let connection = findings
        .iter()
        .find(|finding| finding["check"] == "connection")
        .unwrap();
    assert_eq!(connection["subject"], "shop");
    assert_eq!(connection["level"], "error");
}

#[test]
fn a_server_that_the_configuration_lacks_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let ended = agent(&[
        "check",
        "--config",
        &configuration(directory.path()),
        "--server",
        "shpo",
    ]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "error: the configuration has no server \"shpo\"\nhint: it has: shop\n"
    );
}

#[test]
fn a_server_that_is_not_the_one_of_the_repository_is_an_error_until_it_is_adopted() {
    let server = PostgresServer::start_new(PgVersion::V17);
    let repository = TestRepository::file();
    let agent = Agent::builder(&repository)
        .postgres("shop", &server.url(), "")
        .create();
    agent.run("check", &[]).expect_success();
    agent.start();
    wait_for("streaming", Duration::from_secs(60), || {
        agent
            .metrics()
            .values("tidemark_pipeline_state", &[("state", "streaming")])
            == [1.0]
    });
    agent.terminate(Duration::from_secs(60));
    let said = agent.run("check", &[]).expect_success();
    assert!(!said.contains("system identifier"), "{said}");

    server.stop(StopMode::Fast);
    let other = PostgresServer::start_new(PgVersion::V17);
    let config = fs::read_to_string(agent.config_path()).unwrap();
    fs::write(agent.config_path(), config.replace(&server.url(), &other.url())).unwrap();
    let refused = agent.run("check", &["--json"]);
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    let report: serde_json::Value = serde_json::from_str(&refused.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let errors: Vec<_> = findings
        .iter()
        .filter(|finding| finding["level"] == "error")
        .collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(
        (&errors[0]["subject"], &errors[0]["check"]),
        (&"shop".into(), &"system identifier".into())
    );
    assert!(
        errors[0]["mend"]
            .as_str()
            .unwrap()
            .contains("tidemark-agent adopt"),
        "{errors:?}"
    );

    agent.run("adopt", &["--server", "shop"]).expect_success();
    agent.run("check", &[]).expect_success();
}
