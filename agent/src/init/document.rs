//! The text that `init` writes. Pure.

use std::fmt::Write;

use tidemark_types::ServerName;

use super::survey::{DataDirectory, Survey};
use crate::cli::InitArgs;
use crate::config::default_slot;

/// The role that the statements make when the one that looked is a superuser.
const ROLE: &str = "tidemark";

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
    out.push_str(
        "\n[server.base_backup]\n# minute hour day month weekday, in UTC\nschedule = \"0 2 * * *\"\n# full_every = \
         \"30d\"          # the others store only the pages that changed\n# level = 3                   # zstd, 1 \
         to 19\n# jobs = 2                    # files read and compressed at once\n# verify_unchanged = \"1%\"     \
         # pages called unchanged that are read all the same\n",
    );
    text
}

fn name_of(args: &InitArgs, survey: &Survey) -> String {
    match &args.name {
        Some(name) => name.to_string(),
        None if survey.cluster_name.parse::<ServerName>().is_ok() => survey.cluster_name.clone(),
        None => "main".to_owned(),
    }
}

fn head(out: &mut String, survey: &Survey) {
    let kind = if survey.is_standby { ", a standby" } else { "" };
    let _ = write!(
        out,
        "# Configuration of tidemark-agent for a PostgreSQL {}{kind}.\n# Try it: tidemark-agent check --config \
         THIS-FILE\n",
        survey.version
    );
}

/// What the server still needs, as statements to run.
fn statements(out: &mut String, survey: &Survey, name: &str) {
    let mut lines = Vec::new();
    if survey.is_superuser {
        lines.extend(role_statements(survey.version.major()));
    }
    lines.extend(survey.remedies.iter().cloned());
    if lines.is_empty() {
        return;
    }
    out.push_str("#\n# To be run on the server, as a superuser:\n#\n");
    for line in lines {
        let _ = writeln!(out, "#     {line}");
    }
    let _ = write!(
        out,
        "#\n# and in pg_hba.conf a line for replication, such as\n#\n#     host  replication  {ROLE}  127.0.0.1/32  \
         scram-sha-256\n#\n# The agent makes the replication slot {} itself.\n",
        slot_of(name)
    );
}

fn slot_of(name: &str) -> String {
    name.parse::<ServerName>()
        .map_or_else(|_| ROLE.to_owned(), |name| default_slot(&name))
}

/// A role with no more rights than the agent uses. PostgreSQL 15 renamed the backup functions.
fn role_statements(major: u32) -> Vec<String> {
    let (start, stop) = match major {
        15.. => ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"),
        _ => (
            "pg_start_backup(text, boolean, boolean)",
            "pg_stop_backup(boolean, boolean)",
        ),
    };
    let mut lines = vec![
        format!("CREATE ROLE {ROLE} LOGIN REPLICATION PASSWORD '...';"),
        format!("GRANT pg_monitor TO {ROLE};                      -- settings, statistics, slots"),
    ];
    for function in [start, stop, "pg_switch_wal()", "pg_create_restore_point(text)"] {
        lines.push(format!("GRANT EXECUTE ON FUNCTION {function} TO {ROLE};"));
    }
    lines
}

fn server(out: &mut String, args: &InitArgs, survey: &Survey, name: &str) {
    let _ = write!(
        out,
        "\n[[server]]\n# names the server in the repository: keep it for the server's life\nname = {}\nengine = \
         \"postgresql\"\n",
        quoted(name)
    );
    let (url, had_password) = without_password(&args.url);
    if survey.is_superuser {
        let _ = writeln!(out, "# better as {ROLE}: {} is a superuser", survey.user);
    }
    let _ = writeln!(out, "url = {}", quoted(&url));
    match &args.password_file {
        Some(file) => {
            let _ = writeln!(out, "password_file = {}", quoted(&file.display().to_string()));
        }
        None if had_password => out.push_str(
            "# the password was left out: put it into a file with mode 600, or into a passfile (~/.pgpass)\n# \
             password_file = \"/etc/tidemark/password\"\n",
        ),
        None => out.push_str("# password_file = \"/etc/tidemark/password\"   # mode 600; or PGPASSWORD, or ~/.pgpass\n"),
    }
    match &survey.data_directory {
        DataDirectory::Local(path) => {
            let path = quoted(&path.display().to_string());
            let _ = writeln!(out, "# base backups are read from here, in parallel\ndata_directory = {path}");
        }
        DataDirectory::NotHere { path, why } => {
            let path = quoted(&path.display().to_string());
            let _ = write!(
                out,
                "# base backups come over the connection; they are faster when the agent can read this directory\n# \
                 ({why})\n# data_directory = {path}\n"
            );
        }
        DataDirectory::Hidden => out.push_str(
            "# base backups come over the connection; name the directory if the agent runs on the server's host\n# \
             data_directory = \"/var/lib/postgresql/17/main\"\n",
        ),
    }
    let _ = write!(
        out,
        "# how long a commit may wait before it is shipped\nmax_lag = \"5s\"\n# slot = {}\n# synchronous = true         \
         # commits wait for the repository: put the agent's application_name\n#                            # into \
         synchronous_standby_names\n# max_slot_retained = \"64GiB\" # give the slot up past this: a gap instead of a \
         full disk\n",
        quoted(&slot_of(name))
    );
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
    use tidemark_postgres::ServerVersion;

    fn args(url: &str) -> InitArgs {
        InitArgs {
            url: url.to_owned(),
            password_file: None,
            name: None,
            repository: "file:///var/lib/tidemark".to_owned(),
            output: None,
        }
    }

    fn survey() -> Survey {
        Survey {
            version: ServerVersion(140_011),
            user: "postgres".to_owned(),
            is_superuser: true,
            is_standby: false,
            cluster_name: "14/main".to_owned(),
            data_directory: DataDirectory::Local(PathBuf::from("/data")),
            remedies: vec!["ALTER SYSTEM SET wal_level = 'replica'; -- then restart the server".to_owned()],
        }
    }

    #[test]
    fn what_is_written_is_a_good_configuration() {
        let text = write(&args("postgresql://postgres@localhost/postgres"), &survey());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.toml");
        std::fs::write(&file, &text).unwrap();
        let loaded = crate::config::load(&file).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(loaded.warnings, []);
        let server = &loaded.settings.servers[0];
        assert_eq!(
            server.common().name.as_str(),
            "main",
            "a cluster_name with a slash cannot name a server"
        );
        assert_eq!(server.common().data_directory, Some(PathBuf::from("/data")));
    }

    #[test]
    fn the_statements_suit_the_version_and_what_is_missing() {
        let text = write(&args("postgresql://postgres@localhost/postgres"), &survey());
        assert!(
            text.contains("GRANT EXECUTE ON FUNCTION pg_start_backup(text, boolean, boolean) TO tidemark;")
        );
        assert!(text.contains("ALTER SYSTEM SET wal_level = 'replica';"));
        let ready = Survey {
            is_superuser: false,
            remedies: Vec::new(),
            ..survey()
        };
        let text = write(&args("postgresql://tidemark@localhost/postgres"), &ready);
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
