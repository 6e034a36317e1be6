//! One point in time for every connection: the lock, the snapshots, and who reads what.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use super::super::{BaseBackupError, LogState};
use super::DumpFacts;
use super::accounts;
use super::catalog::Catalog;
use super::output::Output;
use super::script::Script;
use super::table::Table;
use crate::binlog::Flavor;
use crate::client::{ConnectOptions, Sql};
use crate::error::MysqlError;
use crate::preflight::{DUMP_PRIVILEGES, Privileges};

/// How long the lock may wait for statements that run: while it waits, everybody who writes waits behind it.
const LOCK_WAIT_SECONDS: u32 = 10;
/// How long the repository may take nothing while the lock is held: a store that is down must not stop the database.
const LOCKED_PATIENCE: Duration = Duration::from_secs(20);
/// A server may take this long for the first row of a large table, and a slow repository as long to take the next.
const ROW_TIMEOUT: Duration = Duration::from_secs(3600);
/// `ER_SPECIFIC_ACCESS_DENIED_ERROR`: a privilege is missing.
const ACCESS_DENIED: u16 = 1227;

/// Takes the dump.
pub async fn take(
    options: &ConnectOptions,
    connections: usize,
    output: Output,
) -> Result<DumpFacts, BaseBackupError> {
    let mut locker = connect(options).await?;
    check_privileges(&mut locker).await?;
    let mut readers = Vec::new();
    for _ in 0..connections {
        readers.push(connect(options).await?);
    }
    lock(&mut locker).await?;
    for reader in &mut readers {
        reader
            .execute("begin a snapshot", "START TRANSACTION WITH CONSISTENT SNAPSHOT")
            .await?;
    }
    let point = LogState::query(&mut locker).await?;
    check_no_prepared(&mut locker).await?;
    let mut catalog = Catalog::read(&mut locker).await?;
    accounts::read(&mut locker, &mut catalog).await?;
    let (versioned, others): (Vec<Table>, Vec<Table>) =
        catalog.tables.drain(..).partition(Table::is_versioned);
    if !others.is_empty() {
        tracing::info!(
            tables = others.len(),
            "tables of other engines than InnoDB are dumped while writes wait"
        );
    }
    let impatient = output.impatient(LOCKED_PATIENCE);
    for table in &others {
        table.dump(&mut locker, &impatient).await?;
    }
    locker.execute("let the lock go", "UNLOCK TABLES").await?;
    drop(locker);
    write_scripts(&catalog.scripts, &output).await?;
    read_tables(versioned, readers, &output).await?;
    Ok(DumpFacts {
        point,
        missing: catalog.missing,
    })
}

async fn connect(options: &ConnectOptions) -> Result<Sql, BaseBackupError> {
    let mut sql = Sql::connect(options).await?.with_timeout(ROW_TIMEOUT);
    let of_flavor = match sql.flavor() {
        Flavor::MySql => "max_execution_time = 0, print_identified_with_as_hex = ON",
        Flavor::MariaDb => "max_statement_time = 0",
    };
    let statement = format!(
        "SET SESSION {of_flavor}, net_write_timeout = 3600, wait_timeout = 86400, lock_wait_timeout = {LOCK_WAIT_SECONDS}"
    );
    sql.execute("set up the session", &statement).await?;
    let level = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";
    sql.execute("set up the session", level).await?;
    Ok(sql)
}

/// What an account may not see is not there for it: that must not pass for an empty server.
async fn check_privileges(sql: &mut Sql) -> Result<(), BaseBackupError> {
    let privileges = Privileges::query(sql).await?;
    let missing: Vec<&str> = DUMP_PRIVILEGES
        .into_iter()
        .filter(|wanted| !privileges.has(wanted))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        let missing = missing.join(", ");
        Err(BaseBackupError::DumpPrivileges { missing })
    }
}

/// Waits for commits that are under way and keeps others out, log included.
async fn lock(sql: &mut Sql) -> Result<(), BaseBackupError> {
    // Most of the tables are closed before anybody has to wait for it.
    sql.execute("flush tables", "FLUSH LOCAL TABLES").await?;
    Ok(sql
        .execute("lock the server for a moment", "FLUSH TABLES WITH READ LOCK")
        .await?)
}

/// A prepared transaction is in the log before the snapshot and not in the rows: its end could not be replayed.
async fn check_no_prepared(sql: &mut Sql) -> Result<(), BaseBackupError> {
    match sql.query("look for prepared transactions", "XA RECOVER").await {
        Ok(rows) if rows.is_empty() => Ok(()),
        Ok(rows) => Err(BaseBackupError::PreparedTransactions { count: rows.len() }),
        Err(MysqlError::Server { error, .. }) if error.code == ACCESS_DENIED => {
            tracing::warn!("whether XA transactions are prepared cannot be told without XA_RECOVER_ADMIN");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

async fn write_scripts(scripts: &[(&'static str, Script)], output: &Output) -> Result<(), BaseBackupError> {
    for (path, script) in scripts {
        if !script.is_empty() {
            let mut file = output.file(path).await?;
            file.write(script.render().as_bytes()).await?;
            file.end().await?;
        }
    }
    Ok(())
}

/// Every reader takes the next table until none is left, the largest first.
async fn read_tables(
    mut tables: Vec<Table>,
    readers: Vec<Sql>,
    output: &Output,
) -> Result<(), BaseBackupError> {
    tables.sort_by_key(|table| std::cmp::Reverse(table.size));
    let tables = Arc::new(Mutex::new(VecDeque::from(tables)));
    let mut reading = JoinSet::new();
    for mut reader in readers {
        let (tables, output) = (Arc::clone(&tables), output.clone());
        reading.spawn(async move {
            let next = || tables.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            while let Some(table) = next() {
                table.dump(&mut reader, &output).await?;
            }
            Ok::<(), BaseBackupError>(())
        });
    }
    while let Some(done) = reading.join_next().await {
        match done.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(done) => done?,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => return Err(BaseBackupError::Cancelled),
        }
    }
    Ok(())
}
