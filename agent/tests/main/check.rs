use std::fs;

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
