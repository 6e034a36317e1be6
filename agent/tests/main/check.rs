use std::fs;
use std::time::Duration;

use tidemark_testkit::{
    Agent, MysqlServer, MysqlVersion, PgVersion, PostgresServer, StopMode, TestRepository, wait_for,
};

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

/// A server set up as it should be, but for what `lines` say.
fn mysql(version: MysqlVersion, lines: &[&str]) -> MysqlServer {
    let server = MysqlServer::builder(version)
        .options(&["sync_binlog = 1", "innodb_flush_log_at_trx_commit = 1"])
        .options(lines)
        .account("tidemark", "sesame", "SELECT, RELOAD, PROCESS, LOCK TABLES")
        .start();
    if !version.is_mariadb() {
        server.sql("INSTALL PLUGIN clone SONAME 'mysql_clone.so'; GRANT BACKUP_ADMIN ON *.* TO tidemark");
    }
    server
}

/// A configuration for it, with the account `tidemark` over TCP.
fn mysql_configuration(directory: &std::path::Path, server: &MysqlServer, engine: &str) -> String {
    let (file, password) = (directory.join("agent.toml"), directory.join("password"));
    let repository = directory.join("repository");
    let program = server.version().prefix().join("usr/bin/mariadb-backup");
    let program = match engine {
        "mariadb" => format!("[server.base_backup]\nprogram = \"{}\"\n", program.display()),
        _ => String::new(),
    };
    let text = format!(
        "[repository]\nurl = \"file://{}\"\n[[server]]\nname = \"shop\"\nengine = \"{engine}\"\nurl = \"{}\"\n\
         password_file = \"{}\"\n{program}",
        repository.display(),
        server.url_as("tidemark"),
        password.display()
    );
    fs::create_dir_all(repository).unwrap();
    fs::write(&password, "sesame\n").unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&password, private).unwrap();
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn mysql_and_mariadb_are_looked_at_and_mended() {
    for (version, engine) in [
        (MysqlVersion::Mysql97, "mysql"),
        (MysqlVersion::MariaDb1011, "mariadb"),
        (MysqlVersion::MariaDb118, "mariadb"),
    ] {
        let server = mysql(version, &["binlog_format = STATEMENT"]);
        let directory = tempfile::tempdir().unwrap();
        let config = mysql_configuration(directory.path(), &server, engine);
        let found = agent(&["check", "--config", &config]);
        assert_eq!(found.code, Some(2), "{version}: {}{}", found.stdout, found.stderr);
        assert!(
            found.stdout.contains("✓ shop        connection"),
            "{version}: {}",
            found.stdout
        );
        assert!(
            found.stdout.contains("✗ shop        replication"),
            "{version}: {}",
            found.stdout
        );
        assert!(
            found.stdout.contains("GRANT REPLICATION SLAVE, "),
            "{version}: {}",
            found.stdout
        );
        for line in found
            .stdout
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("→ "))
        {
            // Statements, and advice.
            if ["GRANT", "SET", "ALTER"]
                .iter()
                .any(|word| line.starts_with(word))
            {
                server.sql(line);
            }
        }
        let found = agent(&["check", "--config", &config]);
        assert_eq!(found.code, Some(0), "{version}: {}{}", found.stdout, found.stderr);
        for well in ["replication", "binlog_format", "base backups"] {
            assert!(
                found.stdout.contains(&format!("✓ shop        {well}")),
                "{version}: {}",
                found.stdout
            );
        }
        assert!(!found.stdout.contains("! shop"), "{version}: {}", found.stdout);
        // Looking leaves nothing behind.
        wait_for("the dump that was tried to end", Duration::from_secs(60), || {
            let dumps =
                "SELECT COUNT(*) FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'";
            server.sql(dumps) == "0"
        });
    }
}

#[test]
fn a_server_of_another_engine_or_password_is_a_finding() {
    let server = mysql(MysqlVersion::MariaDb118, &[]);
    let directory = tempfile::tempdir().unwrap();
    let config = mysql_configuration(directory.path(), &server, "mysql");
    let found = agent(&["check", "--config", &config]);
    assert_eq!(found.code, Some(2), "{}", found.stdout);
    assert!(
        found
            .stdout
            .contains("is MariaDB, and the configuration says mysql"),
        "{}",
        found.stdout
    );
    assert!(found.stdout.contains("→ correct its engine"), "{}", found.stdout);
    fs::write(directory.path().join("password"), "wrong\n").unwrap();
    let found = agent(&["check", "--config", &config]);
    assert!(found.stdout.contains("Access denied"), "{}", found.stdout);
    assert!(!found.stdout.contains("wrong"), "{}", found.stdout);
}

#[test]
fn semi_synchronous_mode_is_looked_at() {
    let server = mysql(MysqlVersion::Mysql97, &[]);
    let directory = tempfile::tempdir().unwrap();
    let config = mysql_configuration(directory.path(), &server, "mysql");
    fs::write(
        &config,
        fs::read_to_string(&config).unwrap() + "semi_sync = true\n",
    )
    .unwrap();
    let found = agent(&["check", "--config", &config, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let semi_sync = findings
        .iter()
        .find(|finding| finding["check"] == "semi-sync")
        .unwrap();
    assert_eq!(semi_sync["level"], "error");
    assert!(
        semi_sync["mend"]
            .as_str()
            .unwrap()
            .contains("INSTALL PLUGIN rpl_semi_sync_source")
    );
}

/// One that has all that is stored is followed, as after a failover; any other is an error.
#[test]
fn another_mysql_server_under_the_name_must_have_all_that_is_stored() {
    let [first, second, third] = [(); 3].map(|()| mysql(MysqlVersion::Mysql97, &[]));
    let url = |server: &MysqlServer| format!("mysql://root@localhost/?socket={}", server.socket().display());
    let repository = TestRepository::file();
    let agent = Agent::builder(&repository)
        .mysql("shop", first.version(), &url(&first), "max_lag = \"50ms\"")
        .create();
    let configuration = fs::read_to_string(agent.config_path()).unwrap();
    let redirect = |server: &MysqlServer| {
        let text = configuration.replace(&url(&first), &url(server));
        fs::write(agent.config_path(), text).unwrap();
    };
    agent.run("check", &[]).expect_success();
    agent.start();
    wait_for("log to be stored", Duration::from_secs(60), || {
        let durable = agent
            .metrics()
            .values("tidemark_last_durable_commit_timestamp_seconds", &[]);
        durable.first().is_some_and(|time| *time > 0.0)
    });
    agent.terminate(Duration::from_secs(60));
    let said = agent.run("check", &[]).expect_success();
    assert!(!said.contains("server identity"), "{said}");

    let executed = first.sql("SELECT @@gtid_executed");
    second.sql(&format!(
        "RESET BINARY LOGS AND GTIDS; SET GLOBAL gtid_purged = '{executed}'"
    ));
    redirect(&second);
    let said = agent.run("check", &[]).expect_success();
    assert!(said.contains("✓ shop        server identity"), "{said}");
    assert!(said.contains("has all of it, and is followed"), "{said}");

    redirect(&third);
    let refused = agent.run("check", &[]);
    assert_eq!(
        refused.status.code(),
        Some(2),
        "{}{}",
        refused.stdout,
        refused.stderr
    );
    assert!(
        refused.stdout.contains("✗ shop        server identity"),
        "{}",
        refused.stdout
    );
    assert!(
        refused.stdout.contains("tidemark-agent adopt"),
        "{}",
        refused.stdout
    );

    // Nor is a server of another engine the one.
    let text = configuration.replace("\"mysql\"", "\"postgresql\"");
    let text = text.replace(&url(&first), "postgresql://u@127.0.0.1:1/d");
    fs::write(agent.config_path(), text).unwrap();
    let refused = agent.run("check", &[]);
    assert!(
        refused.stdout.contains("the repository knows a mysql server"),
        "{}",
        refused.stdout
    );
}
