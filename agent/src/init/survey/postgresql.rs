//! A PostgreSQL server, looked at.

use std::path::PathBuf;

use tidemark_postgres::control_file::ControlFile;
use tidemark_postgres::preflight::{ServerFacts, Wanted, findings};
use tidemark_postgres::{ConnInfo, PostgresError, SqlClient};

use super::{DataDirectory, Survey, remedies};
use crate::config::Engine;

/// The role that the statements make.
const ROLE: &str = "tidemark";

/// Looks at the server.
///
/// # Errors
/// When it cannot be reached or asked.
pub async fn look(info: &ConnInfo) -> Result<Survey, PostgresError> {
    let client = SqlClient::connect(info).await?;
    // No slot can have an empty name: none is found, and that is no finding with a remedy.
    let facts = ServerFacts::query(&client, "").await?;
    let row = client
        .query_one("read cluster_name", "SELECT current_setting('cluster_name')", &[])
        .await?;
    let name = row.get(0);
    client.close().await;
    let kind = if facts.in_recovery { ", a standby" } else { "" };
    Ok(Survey {
        engine: Engine::Postgresql,
        title: format!("PostgreSQL {}{kind}", facts.version),
        name,
        administrator: facts.role.superuser.then(|| facts.role.name.clone()),
        account: role_statements(facts.version.major()),
        data_directory: locate(facts.value("data_directory"), facts.system_id),
        remedies: remedies(findings(&facts, &Wanted::default())),
    })
}

/// A directory of the same path on this host may be another server's: the system identifier decides.
fn locate(path: &str, system_id: u64) -> DataDirectory {
    if path.is_empty() {
        return DataDirectory::Hidden;
    }
    let path = PathBuf::from(path);
    let why = match ControlFile::read(&path) {
        Ok((control, _)) if control.system_id == system_id => return DataDirectory::Local(path),
        Ok(_) => "on this host it is another server's".to_owned(),
        Err(error) => error.to_string(),
    };
    DataDirectory::NotHere { path, why }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_may_call_the_functions_of_its_version() {
        let calls = |major, function: &str| role_statements(major).iter().any(|line| line.contains(function));
        assert!(calls(
            14,
            "FUNCTION pg_start_backup(text, boolean, boolean) TO tidemark;"
        ));
        assert!(calls(15, "FUNCTION pg_backup_start(text, boolean) TO tidemark;"));
    }
}
