//! What a manifest keeps of a base backup beside its files: written by the agent, read by a restore.
//!
//! A fresh host must know settings that the data files demand, plugins that they refer to, and the configuration, which lies
//! elsewhere: under `/etc`, and, of MySQL, in files of the data directory that a clone comes without (`auto.cnf`,
//! `mysqld-auto.cnf`). What the user may not see is left out.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::BaseBackupError;
use crate::binlog::Flavor;
use crate::client::{GtidState, Sql, quote};
use crate::error::MysqlError;

/// No configuration file is longer.
const CONFIGURATION_LEN_MAX: u64 = 256 << 10;

/// Settings that data files, log or accounts depend on. What a server does not know is left out.
const SETTINGS: [&str; 46] = [
    "aria_encrypt_tables",
    "aria_log_dir_path",
    "binlog_checksum",
    "binlog_encryption",
    "binlog_format",
    "binlog_row_image",
    "binlog_transaction_compression",
    "character_set_server",
    "collation_server",
    "default_authentication_plugin",
    "default_storage_engine",
    "default_table_encryption",
    "default_time_zone",
    "encrypt_binlog",
    "enforce_gtid_consistency",
    "explicit_defaults_for_timestamp",
    "gtid_domain_id",
    "gtid_mode",
    "gtid_strict_mode",
    "innodb_checksum_algorithm",
    "innodb_compression_algorithm",
    "innodb_data_file_path",
    "innodb_data_home_dir",
    "innodb_directories",
    "innodb_encrypt_log",
    "innodb_encrypt_tables",
    "innodb_file_per_table",
    "innodb_log_file_size",
    "innodb_log_files_in_group",
    "innodb_log_group_home_dir",
    "innodb_page_size",
    "innodb_redo_log_capacity",
    "innodb_redo_log_encrypt",
    "innodb_temp_data_file_path",
    "innodb_undo_directory",
    "innodb_undo_log_encrypt",
    "innodb_undo_tablespaces",
    "log_bin_basename",
    "lower_case_table_names",
    "max_allowed_packet",
    "max_connections",
    "partial_revokes",
    "server_id",
    "sql_mode",
    "system_time_zone",
    "time_zone",
];

/// By which way a backup was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupMethod {
    /// `CLONE LOCAL DATA DIRECTORY`, of MySQL. The data has an exact position, which the engine tells only when a server has
    /// started on it: in `performance_schema.clone_status`, and as its `gtid_executed`.
    Clone,
    /// `mariadb-backup`. Its files are to be prepared (`mariadb-backup --prepare`) before a server starts on them.
    MariadbBackup,
    /// A dump: statements in files, for any server.
    Dump,
}

impl BackupMethod {
    /// The ways that there are for a server: the one that copies its files first.
    pub fn of(flavor: Flavor) -> [BackupMethod; 2] {
        match flavor {
            Flavor::MySql => [BackupMethod::Clone, BackupMethod::Dump],
            Flavor::MariaDb => [BackupMethod::MariadbBackup, BackupMethod::Dump],
        }
    }

    /// As configurations and manifests write it.
    pub fn label(self) -> &'static str {
        match self {
            BackupMethod::Clone => "clone",
            BackupMethod::MariadbBackup => "mariadb-backup",
            BackupMethod::Dump => "dump",
        }
    }
}

/// Where a log was at some time, and which transactions it held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogState {
    /// The binlog file.
    pub file: String,
    /// The offset in it.
    pub offset: u64,
    /// MySQL: `gtid_executed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid_executed: Option<String>,
    /// MariaDB: `gtid_binlog_pos`, the last GTID of each domain in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid_binlog_pos: Option<String>,
    /// MariaDB: `gtid_binlog_state`, the last GTID of each domain and server in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid_binlog_state: Option<String>,
    /// MariaDB: `gtid_slave_pos`, the last GTID of each domain that was replicated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid_slave_pos: Option<String>,
}

/// The engine's part of a manifest's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFacts {
    /// The way.
    pub method: BackupMethod,
    /// Everything that was committed at this point is in the backup. Read before its data.
    pub before: LogState,
    /// Nothing that was committed behind this point is in the backup. Read after its data.
    pub after: LogState,
    /// The point that the data is of, where it is known when the backup is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<LogState>,
    /// Pages that files were compared by, in bytes: those of InnoDB.
    pub page_size: u32,
    /// Version of the program that read the files, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_version: Option<String>,
    /// What is not in the backup although the server has it, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// What a fresh host must know.
    pub server: ServerDescription,
}

impl ManifestFacts {
    /// Offset of a binlog file's first event, behind its magic.
    const FIRST_EVENT: u64 = 4;

    /// From which point of the log on (file and offset) it is needed to restore the backup, and up to which at least.
    pub fn bounds(&self) -> ((&str, u64), (&str, u64)) {
        match &self.exact {
            Some(exact) => ((&exact.file, exact.offset), (&exact.file, exact.offset)),
            None => {
                // See `clone`: of a file's transactions some may have reached the engine later than others.
                let begin = (&*self.before.file, ManifestFacts::FIRST_EVENT);
                (begin, (&self.after.file, self.after.offset))
            }
        }
    }
}

/// What a fresh host must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerDescription {
    /// The version, as the server writes it.
    pub version: String,
    /// Distribution and edition (`version_comment`).
    pub version_comment: String,
    /// MySQL: `server_uuid`.
    pub server_uuid: Option<String>,
    /// `server_id`.
    pub server_id: u32,
    /// What binlog files are called before their number: `bin` of `bin.000003`.
    pub binlog_basename: String,
    /// Settings that data files, log or accounts depend on.
    pub settings: BTreeMap<String, String>,
    /// Plugins loaded from libraries, and their libraries.
    pub plugins: BTreeMap<String, String>,
    /// MySQL: installed components.
    pub components: Vec<String>,
    /// Texts of the configuration files, as far as this process may read them on this host.
    pub configuration_files: Vec<ConfigurationFile>,
}

/// A configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationFile {
    /// Where the server has it.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl LogState {
    /// Asks the server: first for its GTIDs, then for the log's end.
    ///
    /// # Errors
    /// What the server says; [`BaseBackupError::NoBinlog`].
    pub async fn query(sql: &mut Sql) -> Result<LogState, BaseBackupError> {
        let gtids = sql.gtid_state().await?;
        let mut state = LogState::default_of(&gtids);
        if sql.flavor() == Flavor::MariaDb {
            let statement =
                "SELECT @@GLOBAL.gtid_binlog_state AS binlog_state, @@GLOBAL.gtid_slave_pos AS slave_pos";
            let row = sql.query_one("read the server's GTIDs", statement).await?;
            state.gtid_binlog_state = row.text("binlog_state").map(str::to_owned);
            state.gtid_slave_pos = row.text("slave_pos").map(str::to_owned);
        }
        let end = match sql.log_end().await {
            Err(MysqlError::Result { .. }) => return Err(BaseBackupError::NoBinlog),
            end => end?,
        };
        Ok(LogState {
            file: end.file,
            offset: end.position.0,
            ..state
        })
    }

    fn default_of(gtids: &GtidState) -> LogState {
        let (executed, binlog) = match gtids {
            GtidState::MySql { executed, .. } => (Some(executed.to_string()), None),
            GtidState::MariaDb { binlog, .. } => (None, Some(binlog.to_string())),
        };
        LogState {
            file: String::new(),
            offset: 0,
            gtid_executed: executed,
            gtid_binlog_pos: binlog,
            gtid_binlog_state: None,
            gtid_slave_pos: None,
        }
    }
}

impl ServerDescription {
    /// Asks the server. Configuration files are looked for on this host when `is_here` says that the server runs on it.
    ///
    /// # Errors
    /// What the server says, unless it only keeps one thing from the user; [`BaseBackupError::NoBinlog`].
    pub async fn query(sql: &mut Sql, is_here: bool) -> Result<ServerDescription, BaseBackupError> {
        let facts = sql.server_facts().await?;
        let basename = facts.log_bin_basename.as_deref().filter(|_| facts.log_bin);
        let basename = basename.and_then(|path| Path::new(path).file_name()?.to_str());
        let binlog_basename = basename.ok_or(BaseBackupError::NoBinlog)?.to_owned();
        let names: Vec<String> = SETTINGS.iter().map(|name| quote(name)).collect();
        let statement = format!(
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ({})",
            names.join(", ")
        );
        let settings = pairs(sql, "read the server's settings", &statement).await?;
        let comment = sql
            .query_one("read the server's version", "SELECT @@version_comment AS comment")
            .await?;
        let statement = "SELECT plugin_name, plugin_library FROM information_schema.plugins \
                         WHERE plugin_library IS NOT NULL AND plugin_status = 'ACTIVE'";
        let plugins = pairs(sql, "list plugins", statement).await?;
        let components = match sql.flavor() {
            Flavor::MySql => {
                permitted(
                    sql,
                    "list components",
                    "SELECT component_urn FROM mysql.component",
                )
                .await?
            }
            Flavor::MariaDb => Vec::new(),
        };
        let configuration_files = if is_here {
            configuration_files(sql).await?
        } else {
            Vec::new()
        };
        Ok(ServerDescription {
            version: facts.version.text,
            version_comment: comment.text("comment").unwrap_or_default().to_owned(),
            server_uuid: facts.uuid.map(|uuid| uuid.to_string()),
            server_id: facts.server_id,
            binlog_basename,
            settings,
            plugins,
            components,
            configuration_files,
        })
    }

    /// Pages that InnoDB's files are made of, in bytes.
    ///
    /// # Errors
    /// [`BaseBackupError::Answer`] when the server names a size that InnoDB does not have.
    pub fn page_size(&self) -> Result<u32, BaseBackupError> {
        let text = self.settings.get("innodb_page_size").map_or("", String::as_str);
        let size = text
            .parse()
            .ok()
            .filter(|size: &u32| size.is_power_of_two() && (4096..=65536).contains(size));
        size.ok_or_else(|| BaseBackupError::Answer {
            operation: "read innodb_page_size",
            answer: text.to_owned(),
        })
    }
}

/// The first two columns of a result.
async fn pairs(
    sql: &mut Sql,
    operation: &'static str,
    statement: &str,
) -> Result<BTreeMap<String, String>, BaseBackupError> {
    let rows = sql.query(operation, statement).await?;
    let text =
        |value: &Option<Vec<u8>>| String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned();
    let pair = |values: &[Option<Vec<u8>>]| match values {
        [name, value, ..] => Some((text(name), text(value))),
        _ => None,
    };
    Ok(rows.iter().filter_map(|row| pair(row.values())).collect())
}

/// The first column of a result; nothing when the server refuses to tell.
async fn permitted(
    sql: &mut Sql,
    operation: &'static str,
    statement: &str,
) -> Result<Vec<String>, BaseBackupError> {
    match sql.query(operation, statement).await {
        Ok(rows) => {
            let text = |values: &[Option<Vec<u8>>]| String::from_utf8(values.first()?.clone()?).ok();
            Ok(rows.iter().filter_map(|row| text(row.values())).collect())
        }
        Err(error @ MysqlError::Server { .. }) => {
            tracing::debug!(operation, %error, "left out of the base backup's facts");
            Ok(Vec::new())
        }
        Err(error) => Err(error.into()),
    }
}

/// Every file that settings in force come from, and the two that MySQL keeps in its data directory.
async fn configuration_files(sql: &mut Sql) -> Result<Vec<ConfigurationFile>, BaseBackupError> {
    let statement = match sql.flavor() {
        Flavor::MySql => {
            "SELECT DISTINCT variable_path FROM performance_schema.variables_info WHERE variable_path <> ''"
        }
        Flavor::MariaDb => {
            "SELECT DISTINCT global_value_path FROM information_schema.system_variables WHERE global_value_path <> ''"
        }
    };
    let mut paths = permitted(sql, "list the configuration files", statement).await?;
    let row = sql
        .query_one("read datadir", "SELECT @@GLOBAL.datadir AS datadir")
        .await?;
    if let (Some(datadir), Flavor::MySql) = (row.text("datadir"), sql.flavor()) {
        let own = |name: &str| Path::new(datadir).join(name).to_string_lossy().into_owned();
        paths.extend([own("auto.cnf"), own("mysqld-auto.cnf")]);
    }
    paths.sort();
    paths.dedup();
    let files = paths.into_iter().filter_map(|path| {
        let text = read_text(Path::new(&path))?;
        Some(ConfigurationFile { path, text })
    });
    Ok(files.collect())
}

/// A small text file that is there and may be read.
fn read_text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(CONFIGURATION_LEN_MAX).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}
