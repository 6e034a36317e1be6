//! `CLONE LOCAL DATA DIRECTORY`: MySQL itself writes a consistent copy of its InnoDB files into a scratch directory.
//!
//! What is not InnoDB comes out of a clone as an empty table, without a word. So nothing is cloned while any such table
//! exists; the data directory tells, whatever the user may see: such a table has an `.sdi` file there, none of InnoDB has.
//!
//! The position: what a transaction wrote into a binlog file is in the engine before the next file begins (the server waits
//! for it, `MYSQL_BIN_LOG::new_file_impl` in its `binlog.cc`), but not before the position that `SHOW BINARY LOG STATUS` told
//! a moment ago. So log is needed from the begin of the file that is current before the clone begins.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemark_types::ByteSize;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{BaseBackupError, LogState};
use crate::client::{ConnectOptions, Row, Sql, quote};

/// Directories of schemas whose tables are the server's own: those that are no InnoDB hold nothing to be kept.
const OWN_SCHEMAS: [&str; 3] = ["mysql", "performance_schema", "sys"];
/// A clone reads and writes everything once.
const CLONE_MAX: Duration = Duration::from_secs(7 * 86_400);
/// How long a statement that was called off may take to end.
const KILL_MAX: Duration = Duration::from_secs(60);
/// How often one that was told to end is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Room that a clone may take beyond the files that are there: redo that is written meanwhile, files that grow.
const MARGIN_PERCENT: u64 = 5;

/// A directory for one clone at a time. What is in it is removed with it; what an earlier process left is removed when a
/// clone begins.
#[derive(Debug)]
pub struct ScratchDirectory {
    path: PathBuf,
}

impl ScratchDirectory {
    /// The directory `path`, which need not exist; its parent must, and the server must be allowed to write to that. What is
    /// there goes when a clone begins: nobody else uses such a directory.
    pub fn new(path: PathBuf) -> ScratchDirectory {
        ScratchDirectory { path }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, and says when that fails; dropping it does so in silence.
    ///
    /// # Errors
    /// [`BaseBackupError::Io`].
    pub async fn remove(self) -> Result<(), BaseBackupError> {
        self.clear().await
    }

    async fn clear(&self) -> Result<(), BaseBackupError> {
        let path = self.path.clone();
        let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(path)).await;
        match removed.unwrap_or_else(|error| Err(error.into())) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(BaseBackupError::io("remove", &self.path, error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        // A backup that was given up. The next one removes what this could not.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Whether a server can be cloned as it is.
///
/// # Errors
/// [`BaseBackupError::NoClonePlugin`], [`BaseBackupError::NoGtids`], [`BaseBackupError::NotInnoDb`],
/// [`BaseBackupError::Outside`], [`BaseBackupError::Io`], what the server says.
pub async fn check_clonable(sql: &mut Sql, data_directory: &Path) -> Result<(), BaseBackupError> {
    let statement =
        "SELECT plugin_status AS status FROM information_schema.plugins WHERE plugin_name = 'clone'";
    let rows = sql.query("look for the clone plugin", statement).await?;
    if !rows.iter().any(|row| row.text("status") == Some("ACTIVE")) {
        return Err(BaseBackupError::NoClonePlugin);
    }
    let mode = sql.server_facts().await?.gtid_mode.unwrap_or_default();
    if mode != "ON" {
        return Err(BaseBackupError::NoGtids { mode });
    }
    let tables = foreign_tables(data_directory)?;
    if !tables.is_empty() {
        return Err(BaseBackupError::NotInnoDb { tables });
    }
    let files = outside_files(sql).await?;
    if files.is_empty() {
        Ok(())
    } else {
        Err(BaseBackupError::Outside { files })
    }
}

/// Files of tables outside the data directory: a clone would be made over them. Without PROCESS nobody knows; the server
/// then refuses to overwrite them.
async fn outside_files(sql: &mut Sql) -> Result<Vec<String>, BaseBackupError> {
    let statement = "SELECT path FROM information_schema.innodb_datafiles WHERE path LIKE '/%' ORDER BY path";
    match sql
        .query("look for files outside the data directory", statement)
        .await
    {
        Ok(rows) => Ok(rows
            .iter()
            .filter_map(|row| row.text("path").map(str::to_owned))
            .collect()),
        Err(crate::MysqlError::Server { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Tables of users that are not InnoDB's, by the names of their files.
fn foreign_tables(data_directory: &Path) -> Result<Vec<String>, BaseBackupError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| BaseBackupError::io("list", &path, error)
    };
    let mut tables = Vec::new();
    for schema in fs::read_dir(data_directory).map_err(failed(data_directory))? {
        let schema = schema.map_err(failed(data_directory))?;
        let name = schema.file_name().to_string_lossy().into_owned();
        // Names of InnoDB's own directories begin with this; in a schema's name it is escaped.
        let is_own = name.starts_with('#') || OWN_SCHEMAS.contains(&&*name);
        let directory = schema.path();
        if is_own || !directory.is_dir() {
            continue;
        }
        for file in fs::read_dir(&directory).map_err(failed(&directory))? {
            let file = file.map_err(failed(&directory))?.file_name();
            let file = file.to_string_lossy();
            // <table>_<number>.sdi
            if let Some((table, _)) = file.strip_suffix(".sdi").and_then(|stem| stem.rsplit_once('_')) {
                tables.push(format!("{name}.{table}"));
            }
        }
    }
    tables.sort();
    Ok(tables)
}

/// Clones the server into `scratch`, and returns what is known of the log before and after.
///
/// # Errors
/// [`BaseBackupError::NoSpace`]; what the server says; [`BaseBackupError::Cancelled`].
pub async fn clone(
    sql: Sql,
    options: &ConnectOptions,
    data_directory: &Path,
    scratch: &ScratchDirectory,
    cancel: &CancellationToken,
) -> Result<(LogState, LogState), BaseBackupError> {
    let mut sql = sql.with_timeout(CLONE_MAX);
    end_abandoned(&mut sql, scratch).await?;
    check_space(data_directory, scratch.path())?;
    let before = LogState::query(&mut sql).await?;
    let path = scratch.path().to_string_lossy().into_owned();
    let statement = format!("CLONE LOCAL DATA DIRECTORY = {}", quote(&path));
    let id = sql.connection_id();
    {
        let cloning = sql.execute("clone the server", &statement);
        tokio::pin!(cloning);
        tokio::select! {
            done = &mut cloning => done?,
            () = cancel.cancelled() => {
                kill(options, id).await;
                // It writes until it ends, and what it writes is to be removed.
                let _ = tokio::time::timeout(KILL_MAX, cloning).await;
                return Err(BaseBackupError::Cancelled);
            }
        }
    }
    let after = LogState::query(&mut sql).await?;
    Ok((before, after))
}

/// Ends a clone into this directory that an earlier process of ours asked for and did not wait for: a server does not notice
/// that nobody waits, and makes one clone at a time.
async fn end_abandoned(sql: &mut Sql, scratch: &ScratchDirectory) -> Result<(), BaseBackupError> {
    let statement =
        "SELECT pid, destination FROM performance_schema.clone_status WHERE state = 'In Progress'";
    let began = Instant::now();
    while began.elapsed() < KILL_MAX {
        let rows = match sql.query("look for a running clone", statement).await {
            Ok(rows) => rows,
            // The CLONE statement itself says when one runs already.
            Err(crate::MysqlError::Server { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let is_ours = |row: &&Row| {
            row.text("destination")
                .is_some_and(|destination| Path::new(destination) == scratch.path())
        };
        let Some(pid) = rows.iter().find(is_ours).and_then(|row| row.parse::<u64>("pid")) else {
            break;
        };
        tracing::warn!("a clone that an earlier base backup began is ended");
        match sql
            .execute("end an abandoned clone", &format!("KILL {pid}"))
            .await
        {
            // It may have ended by itself, or be ending already.
            Ok(()) | Err(crate::MysqlError::Server { .. }) => sleep(LOOK_EVERY).await,
            Err(error) => return Err(error.into()),
        }
    }
    scratch.clear().await
}

/// Ends a statement; it may have ended by itself.
async fn kill(options: &ConnectOptions, connection_id: u32) {
    let killed = async {
        let mut sql = Sql::connect(options).await?;
        sql.execute("end a clone", &format!("KILL {connection_id}")).await
    };
    if let Err(error) = killed.await {
        tracing::warn!(%error, "a clone that was called off may still run");
    }
}

fn check_space(data_directory: &Path, scratch: &Path) -> Result<(), BaseBackupError> {
    let directory = scratch.parent().unwrap_or(scratch);
    let stats = rustix::fs::statvfs(directory)
        .map_err(|error| BaseBackupError::io("look at the free space of", directory, error.into()))?;
    let free = stats.f_bavail.saturating_mul(stats.f_frsize);
    let size = cloned_size(data_directory, true)?;
    let needed = size.saturating_add(size / 100 * MARGIN_PERCENT);
    if needed <= free {
        return Ok(());
    }
    Err(BaseBackupError::NoSpace {
        directory: directory.to_owned(),
        needed: ByteSize(needed),
        free: ByteSize(free),
    })
}

/// The size of the files that a clone has too: tablespaces, the system tablespace, undo.
fn cloned_size(directory: &Path, is_top: bool) -> Result<u64, BaseBackupError> {
    let mut size = 0;
    for entry in fs::read_dir(directory).map_err(|error| BaseBackupError::io("list", directory, error))? {
        let entry = entry.map_err(|error| BaseBackupError::io("list", directory, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Files come and go.
        let Ok(metadata) = entry.metadata() else { continue };
        let is_cloned =
            name.ends_with(".ibd") || is_top && (name.starts_with("ibdata") || name.starts_with("undo"));
        if metadata.is_dir() && is_top && !name.starts_with('#') {
            size += cloned_size(&entry.path(), false)?;
        } else if metadata.is_file() && is_cloned {
            size += metadata.len();
        }
    }
    Ok(size)
}
