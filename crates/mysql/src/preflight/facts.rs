//! The facts about a server that preflight judges, and the queries that give them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidemark_types::{Clock, ErrorClass, SystemClock};

use super::privileges::Privileges;
use crate::binlog::Flavor;
use crate::client::{BinlogFile, ConnectedReplica, Row, ServerFacts, Sql};
use crate::error::MysqlError;

/// The settings that are looked at. Those that a server lacks are absent in the result.
const SETTINGS: [&str; 29] = [
    "binlog_checksum",
    "binlog_encryption",
    "binlog_expire_logs_auto_purge",
    "binlog_expire_logs_seconds",
    "binlog_format",
    "binlog_row_image",
    "encrypt_binlog",
    "datadir",
    "expire_logs_days",
    "gtid_mode",
    "gtid_slave_pos",
    "gtid_strict_mode",
    "hostname",
    "innodb_flush_log_at_trx_commit",
    "log_replica_updates",
    "log_slave_updates",
    "max_binlog_total_size",
    "rpl_semi_sync_master_enabled",
    "rpl_semi_sync_master_timeout",
    "rpl_semi_sync_master_wait_for_slave_count",
    "rpl_semi_sync_master_wait_no_slave",
    "rpl_semi_sync_master_wait_point",
    "rpl_semi_sync_source_enabled",
    "rpl_semi_sync_source_timeout",
    "rpl_semi_sync_source_wait_for_replica_count",
    "rpl_semi_sync_source_wait_no_replica",
    "rpl_semi_sync_source_wait_point",
    "sync_binlog",
    "wsrep_on",
];

/// Schemas of the server's own.
const OWN_SCHEMAS: &str = "'mysql', 'sys', 'information_schema', 'performance_schema'";

/// How many tables are named.
const TABLES_MAX: usize = 1000;

/// A table whose engine is not InnoDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignTable {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its engine.
    pub engine: String,
}

/// Databases that the binlog is told to hold or to leave out; empty: all are in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// `binlog_do_db`: these alone.
    pub only: String,
    /// `binlog_ignore_db`: all but these.
    pub without: String,
}

/// What a server is, and how it is set up. What our account may not see is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFacts {
    /// What it says of itself.
    pub server: ServerFacts,
    /// The host that answered.
    pub host: String,
    /// Who we are to it: `'tidemark'@'%'`.
    pub account: String,
    /// Whether nobody can listen: TLS, or a connection that does not leave the host.
    pub is_private: bool,
    /// What that account may do on all databases.
    pub privileges: Privileges,
    /// Settings by name, in lower case.
    pub settings: BTreeMap<String, String>,
    /// Plugins that are active.
    pub plugins: BTreeSet<String>,
    /// The binlog files that are there.
    pub binlog_files: Option<Vec<BinlogFile>>,
    /// What is left out of them.
    pub log_filter: Option<LogFilter>,
    /// Tables of users that are not InnoDB's, as far as our account sees tables; at most a thousand.
    pub foreign_tables: Vec<ForeignTable>,
    /// The replicas that are connected.
    pub replicas: Option<Vec<ConnectedReplica>>,
    /// How many of them acknowledge commits.
    pub semi_sync_replicas: u32,
    /// Whether it is a replica itself.
    pub is_replica: Option<bool>,
    /// How far the server's clock is ahead of ours, in microseconds; negative when it is behind. `None` without a binlog.
    pub clock_ahead_micros: Option<i64>,
    /// How far off that may be: the time that the question took.
    pub clock_uncertainty: Duration,
}

impl SourceFacts {
    /// Asks a server for everything.
    ///
    /// # Errors
    /// As [`Sql::query`], and [`MysqlError::Result`]. What the account may not see is no error.
    pub async fn query(sql: &mut Sql) -> Result<SourceFacts, MysqlError> {
        let server = sql.server_facts().await?;
        let account = sql
            .query_one("ask who we are", "SELECT CURRENT_USER() AS account")
            .await?;
        let settings = sql.settings(&SETTINGS).await?;
        let before = SystemClock.now();
        let log_end = seen(sql.log_end().await)?;
        let clock_uncertainty = SystemClock.now().since(before);
        Ok(SourceFacts {
            host: sql.host().to_owned(),
            is_private: sql.is_private(),
            account: quoted_account(account.text("account").unwrap_or_default()),
            privileges: Privileges::query(sql).await?,
            plugins: plugins(sql).await?,
            binlog_files: seen(sql.binlog_files().await)?,
            log_filter: match &log_end {
                Some(_) => seen(log_filter(sql).await)?,
                None => None,
            },
            foreign_tables: foreign_tables(sql).await?,
            replicas: seen(sql.replicas().await)?,
            semi_sync_replicas: semi_sync_replicas(sql).await?,
            is_replica: is_replica(sql, &settings).await?,
            clock_ahead_micros: log_end.map(|end| end.time.0.saturating_sub(before.0)),
            clock_uncertainty,
            server,
            settings,
        })
    }

    /// The value of a setting; empty where the server has none of the name.
    pub fn value(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// A setting that is a number; `None` where the server has none of the name.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.settings.get(name)?.parse().ok()
    }

    /// Whether a setting is on; `None` where the server has none of the name.
    pub fn is_on(&self, name: &str) -> Option<bool> {
        let value = self.settings.get(name)?;
        Some(value.eq_ignore_ascii_case("ON") || value == "1")
    }

    /// Whose server it is.
    pub fn flavor(&self) -> Flavor {
        self.server.version.flavor
    }
}

/// `None` for what the account may not see, and for what there is none of.
fn seen<T>(result: Result<T, MysqlError>) -> Result<Option<T>, MysqlError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MysqlError::Server { error, .. }) if error.class() == ErrorClass::Config => Ok(None),
        // No row of a status: no binlog.
        Err(MysqlError::Result { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `tidemark@%` as statements want it. The host holds no `@`.
fn quoted_account(account: &str) -> String {
    let (user, host) = account.rsplit_once('@').unwrap_or((account, "%"));
    let quote = crate::client::quote;
    format!("{}@{}", quote(user), quote(host))
}

async fn plugins(sql: &mut Sql) -> Result<BTreeSet<String>, MysqlError> {
    let statement =
        "SELECT plugin_name AS name FROM information_schema.plugins WHERE plugin_status = 'ACTIVE'";
    let rows = sql.query("list plugins", statement).await?;
    let name = |row: &Row| Some(row.text("name")?.to_ascii_lowercase());
    Ok(rows.iter().filter_map(name).collect())
}

async fn log_filter(sql: &mut Sql) -> Result<LogFilter, MysqlError> {
    let statement = sql.log_status_statement();
    let row = sql
        .query_one("read what the binlog leaves out", statement)
        .await?;
    let text = |column| row.text(column).unwrap_or_default().to_owned();
    Ok(LogFilter {
        only: text("Binlog_Do_DB"),
        without: text("Binlog_Ignore_DB"),
    })
}

async fn foreign_tables(sql: &mut Sql) -> Result<Vec<ForeignTable>, MysqlError> {
    // Only what holds rows: views have no engine, and MariaDB's sequences have a type of their own.
    let statement = format!(
        "SELECT table_schema AS s, table_name AS t, engine AS e FROM information_schema.tables \
         WHERE table_type = 'BASE TABLE' AND engine <> 'InnoDB' AND table_schema NOT IN ({OWN_SCHEMAS}) \
         ORDER BY 1, 2 LIMIT {TABLES_MAX}"
    );
    let rows = sql
        .query("look for tables that are not InnoDB", &statement)
        .await?;
    let table = |row: &Row| {
        Some(ForeignTable {
            schema: row.text("s")?.to_owned(),
            name: row.text("t")?.to_owned(),
            engine: row.text("e")?.to_owned(),
        })
    };
    Ok(rows.iter().filter_map(table).collect())
}

async fn semi_sync_replicas(sql: &mut Sql) -> Result<u32, MysqlError> {
    let statement = "SHOW GLOBAL STATUS WHERE Variable_name IN \
                     ('Rpl_semi_sync_source_clients', 'Rpl_semi_sync_master_clients')";
    let rows = sql
        .query("count replicas that acknowledge commits", statement)
        .await?;
    Ok(rows
        .iter()
        .filter_map(|row| row.parse("Value"))
        .max()
        .unwrap_or(0))
}

/// What the server itself has replicated shows where the account may not ask: MariaDB tells its position to all.
async fn is_replica(sql: &mut Sql, settings: &BTreeMap<String, String>) -> Result<Option<bool>, MysqlError> {
    let statement = match sql.flavor() {
        Flavor::MySql if sql.version().number >= (8, 0, 22) => "SHOW REPLICA STATUS",
        Flavor::MySql => "SHOW SLAVE STATUS",
        Flavor::MariaDb => "SHOW ALL SLAVES STATUS",
    };
    let rows = seen(sql.query("ask whether the server is a replica", statement).await)?;
    let has_replicated = settings
        .get("gtid_slave_pos")
        .map(|position| !position.is_empty());
    Ok(rows.map(|rows| !rows.is_empty()).or(has_replicated))
}
