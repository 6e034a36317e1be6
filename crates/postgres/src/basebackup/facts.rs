//! What a fresh host must know of the server, beside its data directory: settings that recovery demands, configuration
//! files that live elsewhere (Debian keeps them under `/etc`), versions of the collation providers.
//!
//! All of it comes over SQL and is kept in the manifest of a base backup. What the user may not see is left out.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::BaseBackupError;
use super::session::server_version;
use crate::control_file::RecoveryRequirements;

/// Facts about a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// `server_version_num`, such as 170011.
    pub version_num: u32,
    /// `version()`: product, platform, compiler.
    pub version_text: String,
    /// Name of the superuser made by initdb (role 10): the one role that is there for certain.
    pub bootstrap_superuser: String,
    /// `data_directory`, where the user may see it.
    pub data_directory: Option<String>,
    /// `wal_level`.
    pub wal_level: String,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// Bytes in a WAL segment.
    pub wal_segment_size: u64,
    /// What replay demands of the settings.
    pub requirements: RecoveryRequirements,
    /// `shared_preload_libraries`, where the user may see it.
    pub shared_preload_libraries: Option<String>,
    /// Collation version of the C library in use, where it tells one (glibc: its version).
    pub libc_collation_version: Option<String>,
    /// Collation version of the ICU library in use.
    pub icu_collation_version: Option<String>,
    /// The databases.
    pub databases: Vec<DatabaseFacts>,
    /// Texts of the configuration files, as far as the user may read them.
    pub configuration_files: Vec<ConfigurationFile>,
}

/// A database and its locale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// Its OID: the name of its directories.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Its encoding.
    pub encoding: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// Version of the collation that its indexes were built with; from PostgreSQL 15 on.
    pub collation_version: Option<String>,
    /// Whether one may connect to it.
    pub allows_connections: bool,
}

/// A configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationFile {
    /// Where the server has it.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl ServerFacts {
    /// Asks the server.
    ///
    /// # Errors
    /// [`BaseBackupError::Sql`] when a statement fails for another reason than missing rights to see one thing.
    pub async fn query(client: &Client) -> Result<ServerFacts, BaseBackupError> {
        const OPERATION: &str = "ask for the server's settings";
        let sql = BaseBackupError::sql;
        let version = server_version(client).await?;
        let row = client.query_one(SETTINGS, &[]).await.map_err(sql(OPERATION))?;
        let column = |index: usize| -> Result<Option<String>, BaseBackupError> {
            row.try_get(index).map_err(BaseBackupError::sql(OPERATION))
        };
        let number = |index: usize| -> Result<u32, BaseBackupError> {
            let value: i32 = row.try_get(index).map_err(BaseBackupError::sql(OPERATION))?;
            u32::try_from(value).map_err(|_| BaseBackupError::Answer {
                operation: OPERATION,
                answer: value.to_string(),
            })
        };
        Ok(ServerFacts {
            version_num: version.0,
            version_text: column(0)?.unwrap_or_default(),
            bootstrap_superuser: column(1)?.unwrap_or_default(),
            data_directory: column(2)?,
            wal_level: column(3)?.unwrap_or_default(),
            data_checksums: column(4)?.as_deref() == Some("on"),
            wal_segment_size: row
                .try_get::<_, i64>(5)
                .map(i64::unsigned_abs)
                .map_err(sql(OPERATION))?,
            requirements: RecoveryRequirements {
                max_connections: number(6)?,
                max_worker_processes: number(7)?,
                max_wal_senders: number(8)?,
                max_prepared_transactions: number(9)?,
                max_locks_per_transaction: number(10)?,
            },
            shared_preload_libraries: column(11)?,
            libc_collation_version: column(12)?,
            icu_collation_version: column(13)?,
            databases: query_databases(client, version.major() >= 15).await?,
            configuration_files: query_configuration_files(client).await?,
        })
    }
}

/// `current_setting(…, true)` raises an error for settings that need a right; a look into pg_settings leaves them out.
const SETTINGS: &str = "
    SELECT version(),
           (SELECT rolname::text FROM pg_catalog.pg_roles WHERE oid = 10),
           (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory'),
           current_setting('wal_level'),
           current_setting('data_checksums'),
           pg_size_bytes(current_setting('wal_segment_size')),
           current_setting('max_connections')::int,
           current_setting('max_worker_processes')::int,
           current_setting('max_wal_senders')::int,
           current_setting('max_prepared_transactions')::int,
           current_setting('max_locks_per_transaction')::int,
           (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'shared_preload_libraries'),
           (SELECT max(pg_collation_actual_version(oid)) FROM pg_catalog.pg_collation WHERE collprovider = 'c'),
           (SELECT max(pg_collation_actual_version(oid)) FROM pg_catalog.pg_collation WHERE collprovider = 'i')";

async fn query_databases(client: &Client, has_version: bool) -> Result<Vec<DatabaseFacts>, BaseBackupError> {
    const OPERATION: &str = "list the databases";
    let version = if has_version {
        "datcollversion"
    } else {
        "NULL::text"
    };
    let statement = format!(
        "SELECT oid, datname::text, pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text, {version},
                datallowconn
         FROM pg_catalog.pg_database ORDER BY oid"
    );
    let rows = client
        .query(&statement, &[])
        .await
        .map_err(BaseBackupError::sql(OPERATION))?;
    rows.iter()
        .map(|row| {
            Ok(DatabaseFacts {
                oid: row.try_get(0)?,
                name: row.try_get(1)?,
                encoding: row.try_get(2)?,
                collate: row.try_get(3)?,
                ctype: row.try_get(4)?,
                collation_version: row.try_get(5)?,
                allows_connections: row.try_get(6)?,
            })
        })
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(BaseBackupError::sql(OPERATION))
}

/// Every file that settings in force come from, and the two access files. `pg_read_file` needs superuser, or
/// membership in pg_read_server_files and EXECUTE on it; a file that may not be read is left out.
async fn query_configuration_files(client: &Client) -> Result<Vec<ConfigurationFile>, BaseBackupError> {
    const OPERATION: &str = "list the configuration files";
    let rows = client
        .query(
            "SELECT DISTINCT file FROM (
                 SELECT setting AS file FROM pg_catalog.pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file')
                 UNION ALL
                 SELECT sourcefile FROM pg_catalog.pg_settings
             ) AS files
             WHERE file IS NOT NULL AND file NOT LIKE '%/postgresql.auto.conf' ORDER BY file",
            &[],
        )
        .await
        .map_err(BaseBackupError::sql(OPERATION))?;
    let mut files = Vec::new();
    for row in rows {
        let path: String = row.try_get(0).map_err(BaseBackupError::sql(OPERATION))?;
        // Asked for one by one: a refused statement says nothing about the next.
        match client.query_one("SELECT pg_read_file($1)", &[&path]).await {
            Ok(row) => {
                files.push(ConfigurationFile {
                    path,
                    text: row.try_get(0).map_err(BaseBackupError::sql(OPERATION))?,
                });
            }
            Err(error) if error.as_db_error().is_some() => {
                tracing::debug!(path, error = %super::error::database_message(&error), "configuration file not readable");
            }
            Err(error) => {
                return Err(BaseBackupError::Sql {
                    operation: OPERATION,
                    source: error,
                });
            }
        }
    }
    Ok(files)
}
