//! What is said to the restored server's applier, in its vendor's words.
//!
//! MySQL manual: "CHANGE REPLICATION SOURCE TO", "START REPLICA", "The Performance Schema Replication Tables". MariaDB:
//! "CHANGE MASTER TO", "START REPLICA", "SHOW REPLICA STATUS", "mysql.gtid_slave_pos Table".

use super::RestoreError;
use super::log::Executed;
use super::relay::RelayLogs;
use crate::binlog::{BinlogOffset, Flavor, XaId};
use crate::client::{Row, Sql, quote};
use crate::error::MysqlError;

/// Where the applier is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApplierStatus {
    pub(super) is_running: bool,
    /// The relay log that it reads, as the server names it.
    pub(super) file: String,
    pub(super) position: BinlogOffset,
    pub(super) error: Option<ApplierError>,
}

/// Why the applier stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApplierError {
    pub(super) code: u32,
    pub(super) message: String,
    /// The transaction, where the server names it.
    pub(super) gtid: Option<String>,
}

/// Tells the applier to read from `position` in our file `number` on. `source_file` is what messages call the log.
pub(super) async fn point_applier(
    sql: &mut Sql,
    number: usize,
    position: BinlogOffset,
    source_file: &str,
) -> Result<(), MysqlError> {
    let file = quote(&RelayLogs::file_name(number));
    let statement = match sql.flavor() {
        Flavor::MySql => format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'tidemark-restore.invalid', SOURCE_AUTO_POSITION = 0, \
             RELAY_LOG_FILE = {file}, RELAY_LOG_POS = {position}"
        ),
        // With an empty name for the source's file, MariaDB's parallel applier crashed (10.11.18).
        Flavor::MariaDb => format!(
            "CHANGE MASTER TO MASTER_HOST = 'tidemark-restore.invalid', MASTER_USE_GTID = no, MASTER_LOG_FILE = {}, \
             MASTER_LOG_POS = {position}, RELAY_LOG_FILE = {file}, RELAY_LOG_POS = {position}",
            quote(source_file)
        ),
    };
    sql.execute("point the applier at the log", &statement).await
}

/// Starts the applier, to stop when it has read our file `number` up to `position`.
pub(super) async fn start_applier(
    sql: &mut Sql,
    number: usize,
    position: BinlogOffset,
) -> Result<(), MysqlError> {
    let word = replica_word(sql);
    let statement = format!(
        "START {word} SQL_THREAD UNTIL RELAY_LOG_FILE = {}, RELAY_LOG_POS = {position}",
        quote(&RelayLogs::file_name(number))
    );
    sql.execute("start the applier", &statement).await
}

/// Asks where the applier is.
pub(super) async fn applier_status(sql: &mut Sql) -> Result<ApplierStatus, RestoreError> {
    const OPERATION: &str = "ask the applier where it is";
    let statement = format!("SHOW {} STATUS", replica_word(sql));
    let row = sql.query_one(OPERATION, &statement).await?;
    let text = |names: [&str; 2]| names.into_iter().find_map(|name| row.text(name));
    let running = text(["Replica_SQL_Running", "Slave_SQL_Running"]);
    let position = row.parse("Relay_Log_Pos").map(BinlogOffset);
    let (Some(running), Some(file), Some(position)) = (running, row.text("Relay_Log_File"), position) else {
        return Err(RestoreError::Answer {
            operation: OPERATION,
            answer: format!("{:?}", row.names()),
        });
    };
    let code: u32 = row.parse("Last_SQL_Errno").unwrap_or(0);
    Ok(ApplierStatus {
        is_running: running != "No",
        file: file.to_owned(),
        position,
        error: (code != 0).then(|| ApplierError {
            code,
            message: row.text("Last_SQL_Error").unwrap_or_default().to_owned(),
            gtid: None,
        }),
    })
}

/// MySQL: what the worker says that failed; the applier itself only tells that one did.
pub(super) async fn worker_error(sql: &mut Sql) -> Result<Option<ApplierError>, MysqlError> {
    if sql.flavor() == Flavor::MariaDb {
        return Ok(None);
    }
    let rows = sql
        .query(
            "ask why the applier stopped",
            "SELECT LAST_ERROR_NUMBER AS code, LAST_ERROR_MESSAGE AS message, APPLYING_TRANSACTION AS gtid \
             FROM performance_schema.replication_applier_status_by_worker WHERE LAST_ERROR_NUMBER <> 0 \
             ORDER BY LAST_ERROR_TIMESTAMP LIMIT 1",
        )
        .await?;
    Ok(rows.first().and_then(|row| {
        let gtid = row.text("gtid").filter(|gtid| gtid.contains(':'));
        Some(ApplierError {
            code: row.parse("code")?,
            message: row.text("message")?.to_owned(),
            gtid: gtid.map(str::to_owned),
        })
    }))
}

/// What the server has executed.
pub(super) async fn executed(sql: &mut Sql) -> Result<Executed, RestoreError> {
    const OPERATION: &str = "ask the restored server what it has executed";
    let flavor = sql.flavor();
    let variable = match flavor {
        Flavor::MySql => "gtid_executed",
        Flavor::MariaDb => "gtid_slave_pos",
    };
    let row = sql
        .query_one(OPERATION, &format!("SELECT @@GLOBAL.{variable} AS executed"))
        .await?;
    let text = row.text("executed").unwrap_or_default();
    Executed::parse(flavor, text).map_err(|_| RestoreError::Answer {
        operation: OPERATION,
        answer: text.to_owned(),
    })
}

/// Tells the server what its data holds: one that was loaded from a dump does not know; in MariaDB only replicas do.
pub(super) async fn set_executed(sql: &mut Sql, executed: &Executed) -> Result<(), MysqlError> {
    let variable = match executed {
        Executed::MySql(_) => "gtid_purged",
        Executed::MariaDb(_) => "gtid_slave_pos",
    };
    let statement = format!("SET GLOBAL {variable} = {}", quote(&executed.to_string()));
    sql.execute("tell the restored server what its data holds", &statement)
        .await
}

/// MariaDB: a number that grows by one with each transaction that the applier is given, committed with its GTID. `None` for
/// MySQL, whose set tells more.
pub(super) async fn transaction_counter(sql: &mut Sql) -> Result<Option<u64>, RestoreError> {
    const OPERATION: &str = "count applied transactions";
    if sql.flavor() == Flavor::MySql {
        return Ok(None);
    }
    let row = sql
        .query_one(
            OPERATION,
            "SELECT COALESCE(MAX(sub_id), 0) AS counter FROM mysql.gtid_slave_pos",
        )
        .await?;
    let counter = row.parse("counter").ok_or(RestoreError::Answer {
        operation: OPERATION,
        answer: row.text("counter").unwrap_or_default().to_owned(),
    })?;
    Ok(Some(counter))
}

/// Whether what was executed is committed together with the changes themselves. In MariaDB it lies in a table, of whatever
/// engine.
pub(super) async fn position_is_transactional(sql: &mut Sql) -> Result<bool, MysqlError> {
    if sql.flavor() == Flavor::MySql {
        return Ok(true);
    }
    let rows = sql
        .query(
            "look at the table of replicated positions",
            "SELECT engine FROM information_schema.tables WHERE table_schema = 'mysql' AND table_name LIKE 'gtid\\_slave\\_pos%'",
        )
        .await?;
    Ok(rows.iter().all(|row| row.text("engine") == Some("InnoDB")))
}

/// Hands the engines' log to the operating system, so that it outlives the server.
pub(super) async fn flush_engine_logs(sql: &mut Sql) -> Result<(), MysqlError> {
    sql.execute("flush the engines' logs", "FLUSH ENGINE LOGS").await
}

/// Whether the data knows of any source: the original was a replica, or a replay was interrupted.
pub(super) async fn knows_a_source(sql: &mut Sql) -> Result<bool, MysqlError> {
    const OPERATION: &str = "look for replication that the data knows of";
    let statement = format!("SHOW {} STATUS", replica_word(sql));
    Ok(!sql.query(OPERATION, &statement).await?.is_empty())
}

/// Makes the server forget all sources. Its relay logs are deleted.
pub(super) async fn forget_sources(sql: &mut Sql) -> Result<(), MysqlError> {
    let statement = format!("RESET {} ALL", replica_word(sql));
    sql.execute("forget all sources", &statement).await
}

/// Gives the server another number. The applier must stand still.
pub(super) async fn set_server_id(sql: &mut Sql, server_id: u32) -> Result<(), MysqlError> {
    let statement = format!("SET GLOBAL server_id = {server_id}");
    sql.execute("set another server_id", &statement).await
}

/// XA transactions that are prepared.
pub(super) async fn prepared_xa(sql: &mut Sql) -> Result<Vec<XaId>, RestoreError> {
    const OPERATION: &str = "list prepared XA transactions";
    let rows = sql.query(OPERATION, "XA RECOVER").await?;
    let read = |row: &Row| {
        let (global, branch) = row
            .bytes("data")?
            .split_at_checked(row.parse::<usize>("gtrid_length")?)?;
        Some(XaId {
            format: row.parse("formatID")?,
            global: global.into(),
            branch: branch.into(),
        })
    };
    let ids: Option<Vec<XaId>> = rows.iter().map(read).collect();
    ids.ok_or(RestoreError::Answer {
        operation: OPERATION,
        answer: format!("{rows:?}"),
    })
}

/// The word for it that a server understands; MySQL's from 8.0.22 on.
fn replica_word(sql: &Sql) -> &'static str {
    match sql.flavor() {
        Flavor::MySql => "REPLICA",
        Flavor::MariaDb => "SLAVE",
    }
}
