//! `init` beside a real server: what it writes is a configuration that `check` finds no fault with.

use std::fs;

use tidemark_testkit::{MysqlServer, MysqlVersion, PgVersion, PostgresServer};

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

/// Beside MySQL and MariaDB: the statements that it prints make an account and a server that `check` finds no fault with.
#[test]
fn what_init_writes_for_mysql_and_mariadb_passes_check() {
    for version in [
        MysqlVersion::Mysql97,
        MysqlVersion::MariaDb1011,
        MysqlVersion::MariaDb118,
    ] {
        let server = MysqlServer::start_new(version);
        server.sql("CREATE DATABASE d; CREATE TABLE d.old (id INT PRIMARY KEY) ENGINE = MyISAM");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.toml");
        let (file, repository) = (file.to_str().unwrap(), directory.path().join("repository"));
        fs::create_dir(&repository).unwrap();
        let repository = format!("file://{}", repository.display());
        let url = format!("mysql://root@localhost/?socket={}", server.socket().display());
        let init = [
            "init",
            "--url",
            &url,
            "--repository",
            &repository,
            "--name",
            "shop",
            "--output",
            file,
        ];
        let ended = agent(&init);
        assert_eq!(ended.code, Some(0), "{version}: {}", ended.stderr);
        let text = fs::read_to_string(file).unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("#     ")) {
            server.sql(line);
        }
        let written: toml::Value = toml::from_str(&text).unwrap();
        let shop = &written["server"][0];
        let engine = if version.is_mariadb() { "mariadb" } else { "mysql" };
        assert_eq!(shop["engine"].as_str(), Some(engine));
        assert_eq!(shop["url"].as_str(), Some(url.as_str()));
        let data_directory = fs::canonicalize(server.data_directory()).unwrap();
        let named = fs::canonicalize(shop["data_directory"].as_str().unwrap()).unwrap();
        assert_eq!(named, data_directory);

        // With the account that the statements made, and the program of this version.
        let password = directory.path().join("password");
        fs::write(&password, "...\n").unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&password, private).unwrap();
        let program = version.prefix().join("usr/bin/mariadb-backup");
        let own = text
            .replace(&url, &server.url_as("tidemark"))
            .replace(
                "# password_file = \"/etc/tidemark/password\"",
                &format!("password_file = \"{}\"", password.display()),
            )
            .replace(
                "# program = \"/usr/bin/mariadb-backup\"",
                &format!("program = \"{}\"", program.display()),
            );
        fs::write(file, own).unwrap();
        let checked = agent(&["check", "--config", file]);
        assert_eq!(
            checked.code,
            Some(0),
            "{version}: {}{}",
            checked.stdout,
            checked.stderr
        );
        assert!(
            !checked.stdout.contains("! shop"),
            "{version}: {}",
            checked.stdout
        );
        assert!(
            checked.stdout.contains("✓ shop        privileges"),
            "{version}: {}",
            checked.stdout
        );
    }
}
