//! A MySQL or MariaDB server, looked at.

use tidemark_mysql::MysqlError;
use tidemark_mysql::basebackup::local_data_directory;
use tidemark_mysql::binlog::Flavor;
use tidemark_mysql::client::{ConnectOptions, Sql};
use tidemark_mysql::preflight::{SourceFacts, Wanted, findings, needed_privileges};

use super::{DataDirectory, Survey, remedies};
use crate::config::Engine;

/// The account that the statements make: from any host, until its administrator says better.
const ACCOUNT: &str = "'tidemark'@'%'";

/// Looks at the server.
///
/// # Errors
/// When it cannot be reached or asked.
pub async fn look(options: &ConnectOptions) -> anyhow::Result<Survey> {
    let mut sql = Sql::connect(options).await?;
    let facts = SourceFacts::query(&mut sql).await?;
    let data_directory = locate(&mut sql, options, &facts).await?;
    let wanted = Wanted {
        copies_files: matches!(data_directory, DataDirectory::Local(_)),
        ..Wanted::default()
    };
    let version = &facts.server.version;
    let kind = match facts.is_replica {
        Some(true) => ", a replica",
        Some(false) | None => "",
    };
    Ok(Survey {
        engine: match version.flavor {
            Flavor::MySql => Engine::Mysql,
            Flavor::MariaDb => Engine::Mariadb,
        },
        title: format!("{} {}{kind}", version.flavor, version.text),
        name: String::new(),
        administrator: facts.privileges.administers().then(|| options.user.clone()),
        account: account_statements(version.flavor, &wanted),
        data_directory,
        remedies: remedies(findings(&facts, &wanted)),
    })
}

async fn locate(
    sql: &mut Sql,
    options: &ConnectOptions,
    facts: &SourceFacts,
) -> Result<DataDirectory, MysqlError> {
    let host = options.hosts.iter().find(|host| host.to_string() == sql.host());
    let Some(host) = host else {
        return Ok(DataDirectory::Hidden);
    };
    Ok(match local_data_directory(sql, host, None).await {
        Ok(path) => DataDirectory::Local(path),
        Err(error) => DataDirectory::NotHere {
            path: facts.value("datadir").into(),
            why: error.to_string(),
        },
    })
}

/// An account with no more rights than the agent uses.
fn account_statements(flavor: Flavor, wanted: &Wanted) -> Vec<String> {
    let needed = needed_privileges(wanted, flavor);
    let names: Vec<&str> = needed.iter().map(|(name, _)| *name).collect();
    vec![
        format!(
            "CREATE USER {ACCOUNT} IDENTIFIED BY '...';  -- better with the agent's address instead of %"
        ),
        format!("GRANT {} ON *.* TO {ACCOUNT};", names.join(", ")),
    ]
}
