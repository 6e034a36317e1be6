//! The text that `init` writes. Pure.

use std::fmt::Write;

use tidemark_types::ServerName;

use super::survey::{DataDirectory, Survey};
use crate::cli::InitArgs;
use crate::config::{Engine, default_slot};

/// The account that the agent is to have.
const ACCOUNT: &str = "tidemark";

/// The configuration for what was seen.
pub fn write(args: &InitArgs, survey: &Survey) -> String {
    let name = name_of(args, survey);
    let mut text = String::new();
    let out = &mut text;
    head(out, survey);
    statements(out, survey, &name);
    let _ = write!(
        out,
        "\n[repository]\nurl = {}\n# for s3://bucket/prefix; credentials come from the environment, ~/.aws or the \
         instance's role:\n# region = \"eu-central-1\"\n# endpoint = \"https://s3.example.org\"   # a store that is \
         not AWS\n# path_style = true\n\n[http]\n# /healthz, /metrics, /status; without authentication\nlisten = \
         \"127.0.0.1:9610\"\n",
        quoted(&args.repository)
    );
    server(out, args, survey, &name);
    base_backup(out, survey);
    text
}

fn name_of(args: &InitArgs, survey: &Survey) -> String {
    match &args.name {
        Some(name) => name.to_string(),
        None if survey.name.parse::<ServerName>().is_ok() => survey.name.clone(),
        None => "main".to_owned(),
    }
}

fn head(out: &mut String, survey: &Survey) {
    let _ = write!(
        out,
        "# Configuration of tidemark-agent for {}.\n# Try it: tidemark-agent check --config THIS-FILE\n",
        survey.title
    );
}

/// What the server still needs, as statements to run.
fn statements(out: &mut String, survey: &Survey, name: &str) {
    let account = survey.account.iter().filter(|_| survey.administrator.is_some());
    let lines: Vec<&String> = account.chain(&survey.remedies).collect();
    if lines.is_empty() {
        return;
    }
    out.push_str("#\n# To be run on the server, by its administrator:\n#\n");
    for line in lines {
        let _ = writeln!(out, "#     {line}");
    }
    if survey.engine == Engine::Postgresql {
        let _ = write!(
            out,
            "#\n# and in pg_hba.conf a line for replication, such as\n#\n#     host  replication  {ACCOUNT}  \
             127.0.0.1/32  scram-sha-256\n#\n# The agent makes the replication slot {} itself.\n",
            slot_of(name)
        );
    }
}

fn slot_of(name: &str) -> String {
    name.parse::<ServerName>()
        .map_or_else(|_| ACCOUNT.to_owned(), |name| default_slot(&name))
}

fn server(out: &mut String, args: &InitArgs, survey: &Survey, name: &str) {
    let _ = write!(
        out,
        "\n[[server]]\n# names the server in the repository: keep it for the server's life\nname = {}\nengine = {}\n",
        quoted(name),
        quoted(survey.engine.label())
    );
    let (url, had_password) = without_password(&args.url);
    if let Some(administrator) = &survey.administrator {
        let _ = writeln!(out, "# better as {ACCOUNT}: {administrator} may do anything");
    }
    let _ = writeln!(out, "url = {}", quoted(&url));
    password(out, args, survey, had_password);
    data_directory(out, survey);
    out.push_str("# how long a commit may wait before it is shipped\nmax_lag = \"5s\"\n");
    match survey.engine {
        Engine::Postgresql => {
            let _ = write!(
                out,
                "# slot = {}\n# synchronous = true         # commits wait for the repository: put the agent's \
                 application_name\n#                            # into synchronous_standby_names\n# max_slot_retained \
                 = \"64GiB\" # give the slot up past this: a gap instead of a full disk\n",
                quoted(&slot_of(name))
            );
        }
        Engine::Mysql | Engine::Mariadb => out.push_str(
            "# server_id = 4000000001     # the agent's number as a replica; chosen by default\n# semi_sync = true           \
             # commits wait for the repository, by semi-synchronous replication:\n#                            # check says \
             what the server needs for it\n",
        ),
    }
}

fn password(out: &mut String, args: &InitArgs, survey: &Survey, had_password: bool) {
    let elsewhere = match survey.engine {
        Engine::Postgresql => "PGPASSWORD, or ~/.pgpass",
        Engine::Mysql | Engine::Mariadb => "MYSQL_PWD",
    };
    let _ = match &args.password_file {
        Some(file) => writeln!(out, "password_file = {}", quoted(&file.display().to_string())),
        None if had_password => writeln!(
            out,
            "# the password was left out: put it into a file with mode 600, or into {elsewhere}\n# password_file = \
             \"/etc/tidemark/password\""
        ),
        None => writeln!(
            out,
            "# password_file = \"/etc/tidemark/password\"   # mode 600; or {elsewhere}"
        ),
    };
}

fn data_directory(out: &mut String, survey: &Survey) {
    // How base backups are taken with the directory at hand and without it, and where it is by default.
    let (local, remote, example) = match survey.engine {
        Engine::Postgresql => (
            "base backups are read from here, in parallel",
            "base backups come over the connection; they are faster when the agent can read this directory",
            "/var/lib/postgresql/17/main",
        ),
        Engine::Mysql => (
            "base backups are clones, made beside this directory",
            "base backups are dumps; they are faster when the agent runs on the server's host and can clone this directory",
            "/var/lib/mysql",
        ),
        Engine::Mariadb => (
            "base backups are taken from here by mariadb-backup",
            "base backups are dumps; they are faster when the agent runs on the server's host and mariadb-backup can read this \
             directory",
            "/var/lib/mysql",
        ),
    };
    let _ = match &survey.data_directory {
        DataDirectory::Local(path) => {
            let path = quoted(&path.display().to_string());
            writeln!(out, "# {local}\ndata_directory = {path}")
        }
        DataDirectory::NotHere { path, why } => {
            let path = quoted(&path.display().to_string());
            writeln!(out, "# {remote}\n# ({why})\n# data_directory = {path}")
        }
        DataDirectory::Hidden => {
            writeln!(out, "# {remote}\n# data_directory = {}", quoted(example))
        }
    };
}

fn base_backup(out: &mut String, survey: &Survey) {
    out.push_str(
        "\n[server.base_backup]\n# minute hour day month weekday, in UTC\nschedule = \"0 2 * * *\"\n# full_every = \
         \"30d\"          # the others store only the pages that changed\n# level = 3                   # zstd, 1 \
         to 19\n# jobs = 2                    # files read and compressed at once\n",
    );
    out.push_str(match survey.engine {
        Engine::Postgresql => {
            "# verify_unchanged = \"1%\"     # pages called unchanged that are read all the same\n"
        }
        Engine::Mysql => {
            "# method = \"clone\"            # by the clone plugin, while every table is InnoDB\n# scratch_directory = \
             \"/var/lib/tidemark-clone\"   # where a clone is made; needs room for the data\n"
        }
        Engine::Mariadb => {
            "# method = \"mariadb-backup\"\n# program = \"/usr/bin/mariadb-backup\"   # of the server's series\n"
        }
    });
}

/// The URL without its password, and whether there was one.
fn without_password(url: &str) -> (String, bool) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (url.to_owned(), false);
    };
    let (address, parameters) = rest
        .split_once('?')
        .map_or((rest, None), |(left, right)| (left, Some(right)));
    let (user, host) = match address.rsplit_once('@') {
        Some((user, host)) => (user.split(':').next().unwrap_or_default(), Some(host)),
        None => ("", None),
    };
    let mut kept = match host {
        Some(host) => format!("{scheme}://{user}@{host}"),
        None => format!("{scheme}://{address}"),
    };
    let others: Vec<&str> = parameters
        .into_iter()
        .flat_map(|all| all.split('&'))
        .filter(|parameter| !parameter.starts_with("password="))
        .collect();
    if !others.is_empty() {
        kept = format!("{kept}?{}", others.join("&"));
    }
    let had_password = kept.len() < url.len();
    (kept, had_password)
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn args(url: &str) -> InitArgs {
        InitArgs {
            url: url.to_owned(),
            password_file: None,
            name: None,
            repository: "file:///var/lib/tidemark".to_owned(),
            output: None,
        }
    }

    fn survey(engine: Engine) -> Survey {
        Survey {
            engine,
            title: "Database 14.11".to_owned(),
            name: "14/main".to_owned(),
            administrator: Some("root".to_owned()),
            account: vec!["CREATE ROLE tidemark;".to_owned()],
            data_directory: DataDirectory::Local(PathBuf::from("/data")),
            remedies: vec!["ALTER SYSTEM SET wal_level = 'replica'; -- then restart the server".to_owned()],
        }
    }

    const ENGINES: [(Engine, &str); 3] = [
        (Engine::Postgresql, "postgresql://postgres@localhost/postgres"),
        (Engine::Mysql, "mysql://root@localhost"),
        (
            Engine::Mariadb,
            "mysql://root@localhost/?socket=/run/mysqld/mysqld.sock",
        ),
    ];

    #[test]
    fn what_is_written_is_a_good_configuration() {
        for (engine, url) in ENGINES {
            let text = write(&args(url), &survey(engine));
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("agent.toml");
            std::fs::write(&file, &text).unwrap();
            let loaded = crate::config::load(&file).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(loaded.warnings, []);
            let server = loaded.settings.servers[0].common();
            assert_eq!(server.engine, engine);
            let name = server.name.as_str();
            assert_eq!(name, "main", "a name with a slash cannot name a server");
            assert_eq!(server.data_directory, Some(PathBuf::from("/data")));
        }
    }

    /// What stands there as a comment is right, too.
    #[test]
    fn every_key_in_a_comment_is_one() {
        for (engine, url) in ENGINES {
            let text = write(&args(url), &survey(engine));
            let is_key = |line: &&str| line.contains(" = ") && !line.starts_with("#     ");
            let uncommented: Vec<&str> = text
                .lines()
                .filter(is_key)
                .map(|line| line.strip_prefix("# ").unwrap_or(line))
                .collect();
            let server = uncommented
                .iter()
                .position(|line| line.starts_with("name ="))
                .unwrap();
            let base_backup = uncommented
                .iter()
                .position(|line| line.starts_with("schedule ="))
                .unwrap();
            let text = format!(
                "[repository]\nurl = \"file:///r\"\n[[server]]\n{}\n[server.base_backup]\n{}\n",
                uncommented[server..base_backup].join("\n"),
                uncommented[base_backup..].join("\n")
            );
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("agent.toml");
            std::fs::write(&file, &text).unwrap();
            if let Err(error) = crate::config::load(&file) {
                // The password's file, and nothing else, is one that must be there.
                let problems = error.to_string();
                let wrong = problems.lines().filter(|line| !line.contains("password_file"));
                assert_eq!(wrong.collect::<Vec<_>>(), [""; 0], "{text}");
            }
        }
    }

    #[test]
    fn the_statements_are_those_that_are_missing() {
        let url = "postgresql://postgres@localhost/postgres";
        let text = write(&args(url), &survey(Engine::Postgresql));
        assert!(text.contains("#     CREATE ROLE tidemark;\n#     ALTER SYSTEM SET wal_level = 'replica';"));
        assert!(text.contains("pg_hba.conf"));
        let text = write(&args("mysql://root@localhost"), &survey(Engine::Mysql));
        assert!(text.contains("#     CREATE ROLE tidemark;"));
        assert!(!text.contains("pg_hba.conf"), "{text}");
        let ready = Survey {
            administrator: None,
            remedies: Vec::new(),
            ..survey(Engine::Postgresql)
        };
        let text = write(&args(url), &ready);
        assert!(!text.contains("To be run on the server"), "{text}");
    }

    #[test]
    fn a_password_in_the_url_is_left_out() {
        for (url, kept) in [
            ("postgresql://u:hush@h:5432/db", "postgresql://u@h:5432/db"),
            (
                "postgresql://u@h/db?password=hush&sslmode=require",
                "postgresql://u@h/db?sslmode=require",
            ),
            ("postgresql://h/db?password=hush", "postgresql://h/db"),
        ] {
            assert_eq!(without_password(url), (kept.to_owned(), true));
        }
        let url = "postgresql://u@%2Frun/db";
        assert_eq!(without_password(url), (url.to_owned(), false));
    }
}
