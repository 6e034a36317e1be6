//! What `init` wants to know of a server.

use std::path::PathBuf;

use tidemark_postgres::control_file::ControlFile;
use tidemark_postgres::preflight::{ServerFacts, Wanted, findings};
use tidemark_postgres::{ConnInfo, PostgresError, ServerVersion, SqlClient};
use tidemark_types::Severity;

/// A server as it was seen.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Its version.
    pub version: ServerVersion,
    /// Who connected.
    pub user: String,
    /// Whether that is a superuser.
    pub is_superuser: bool,
    /// Whether it is a standby.
    pub is_standby: bool,
    /// What its administrator calls it; may be empty.
    pub cluster_name: String,
    /// Where its data directory is.
    pub data_directory: DataDirectory,
    /// Statements that mend what stands in the way or is risky.
    pub remedies: Vec<String>,
}

/// Where a server's data directory is, as seen from this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDirectory {
    /// On this host, readable, and the server's own.
    Local(PathBuf),
    /// Its path is known, and not the server's or not readable here.
    NotHere {
        /// The path.
        path: PathBuf,
        /// Why it cannot be used.
        why: String,
    },
    /// The server does not tell this user.
    Hidden,
}

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
    let cluster_name = row.get(0);
    client.close().await;
    let judged = findings(&facts, &Wanted::default()).into_iter();
    let worth_it = judged.filter(|finding| finding.severity >= Severity::Warning);
    Ok(Survey {
        version: facts.version,
        user: facts.role.name.clone(),
        is_superuser: facts.role.superuser,
        is_standby: facts.in_recovery,
        cluster_name,
        data_directory: locate(facts.value("data_directory"), facts.system_id),
        remedies: worth_it.filter_map(|finding| finding.remedy).collect(),
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
