//! `init` beside a real server: what it writes is a configuration that `check` finds no fault with.

use std::fs;

use tidemark_testkit::{PgVersion, PostgresServer};

use crate::command::agent;

#[test]
fn what_init_writes_passes_check_and_is_not_overwritten() {
    let server = PostgresServer::builder(PgVersion::V17)
        .conf("cluster_name = 'shop'")
        .start();
    let directory = tempfile::tempdir().unwrap();
    let (file, repository) = (
        directory.path().join("agent.toml"),
        directory.path().join("repository"),
    );
    fs::create_dir(&repository).unwrap();
    let (file, url) = (file.to_str().unwrap(), server.url());
    let repository = format!("file://{}", repository.display());
    let init = [
        "init",
        "--url",
        &url,
        "--repository",
        &repository,
        "--output",
        file,
    ];
    let ended = agent(&init);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let text = fs::read_to_string(file).unwrap();
    let written: toml::Value = toml::from_str(&text).unwrap();
    let shop = &written["server"][0];
    assert_eq!(written["repository"]["url"].as_str(), Some(repository.as_str()));
    assert_eq!(shop["name"].as_str(), Some("shop"));
    assert_eq!(shop["url"].as_str(), Some(url.as_str()));
    assert_eq!(shop["data_directory"].as_str(), server.data_directory().to_str());

    let checked = agent(&["check", "--config", file]);
    assert_eq!(checked.code, Some(0), "{}{}", checked.stdout, checked.stderr);
    assert!(!checked.stdout.contains('✗'), "{}", checked.stdout);

    let again = agent(&init);
    assert_eq!(again.code, Some(6), "{}", again.stderr);
    assert_eq!(fs::read_to_string(file).unwrap(), text);
}
