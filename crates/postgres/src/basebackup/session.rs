//! The session that keeps a local base backup open on the server: `pg_backup_start` to `pg_backup_stop`.
//!
//! Both run on one connection that stays open in between: when it ends, the server ends the backup. WAL of the backup
//! must be durable before it counts; waiting for that is the caller's, so the server is told not to wait for its own
//! archiver.

use tidemark_types::{Lsn, TimelineId};
use tokio_postgres::Client;

use super::BaseBackupError;
use super::label::{BackupLabel, Tablespace, parse_tablespace_map};
use crate::version::ServerVersion;

/// PostgreSQL 15 renamed the functions and dropped the exclusive mode.
const RENAMED_FUNCTIONS: u32 = 150_000;

/// Where a base backup began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStart {
    /// Redo of a restore begins here.
    pub start: Lsn,
    /// The timeline of that position.
    pub timeline: TimelineId,
    /// Whether the server is a standby.
    pub from_standby: bool,
}

/// Where a base backup ended, and the files that make the copy one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStop {
    /// The copy is consistent once WAL is replayed up to here.
    pub stop: Lsn,
    /// What the label says.
    pub label: BackupLabel,
    /// `backup_label`, to be restored byte for byte.
    pub backup_label: String,
    /// `tablespace_map`; empty when there are no tablespaces.
    pub tablespace_map: String,
    /// The same, parsed.
    pub tablespaces: Vec<Tablespace>,
}

/// A base backup in progress. Dropping it closes the connection, and with it the backup on the server.
pub struct BackupSession {
    client: Client,
    version: ServerVersion,
    start: BackupStart,
}

impl BackupSession {
    /// Begins a base backup. With `fast` the server checkpoints at once; without, it spreads the checkpoint over
    /// minutes, and this call waits for it. `client` is used for nothing else until the end; its connection task is
    /// the caller's. Not cancel-safe: drop the session instead.
    ///
    /// # Errors
    /// [`BaseBackupError::Sql`]: class `Config` without the right to call the functions (superuser, or EXECUTE on them).
    pub async fn start(client: Client, label: &str, fast: bool) -> Result<BackupSession, BaseBackupError> {
        const OPERATION: &str = "begin a base backup";
        let version = server_version(&client).await?;
        let statement = if version.0 >= RENAMED_FUNCTIONS {
            "SELECT pg_backup_start($1, $2)::text, pg_is_in_recovery()"
        } else {
            "SELECT pg_start_backup($1, $2, false)::text, pg_is_in_recovery()"
        };
        // A backup may take hours, between two statements of this session.
        client
            .execute(
                "SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings
                 WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_session_timeout')",
                &[],
            )
            .await
            .map_err(BaseBackupError::sql(OPERATION))?;
        let row = client
            .query_one(statement, &[&label, &fast])
            .await
            .map_err(BaseBackupError::sql(OPERATION))?;
        let start = text(&row, 0, OPERATION)?
            .parse()
            .map_err(BaseBackupError::lsn(OPERATION))?;
        let from_standby = row.try_get(1).map_err(BaseBackupError::sql(OPERATION))?;
        let timeline = checkpoint_timeline(&client).await?;
        Ok(BackupSession {
            client,
            version,
            start: BackupStart {
                start,
                timeline,
                from_standby,
            },
        })
    }

    /// Where the backup began.
    pub fn begun(&self) -> &BackupStart {
        &self.start
    }

    /// The version of the server.
    pub fn version(&self) -> ServerVersion {
        self.version
    }

    /// Fails when a standby has become a primary since the start: going on would be work for nothing. Worth a call
    /// now and then; [`BackupSession::stop`] checks it in any case.
    ///
    /// # Errors
    /// [`BaseBackupError::Promoted`], or [`BaseBackupError::Sql`] when the session is lost.
    pub async fn check(&self) -> Result<(), BaseBackupError> {
        const OPERATION: &str = "look after the base backup";
        let row = self
            .client
            .query_one("SELECT pg_is_in_recovery()", &[])
            .await
            .map_err(BaseBackupError::sql(OPERATION))?;
        let in_recovery: bool = row.try_get(0).map_err(BaseBackupError::sql(OPERATION))?;
        if self.start.from_standby && !in_recovery {
            return Err(BaseBackupError::Promoted {
                start: self.start.start,
            });
        }
        Ok(())
    }

    /// Ends the backup. Call it after the last file, `pg_control`, was read. On a primary this also switches to the
    /// next segment, so that the backup's last one can be archived; on a standby the primary has to.
    ///
    /// # Errors
    /// [`BaseBackupError::Promoted`]; [`BaseBackupError::Sql`] when the session is lost; [`BaseBackupError::Label`] when
    /// the server's files make no sense.
    pub async fn stop(self) -> Result<BackupStop, BaseBackupError> {
        const OPERATION: &str = "end the base backup";
        self.check().await?;
        let statement = if self.version.0 >= RENAMED_FUNCTIONS {
            "SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(false)"
        } else {
            "SELECT lsn::text, labelfile, spcmapfile FROM pg_stop_backup(false, false)"
        };
        let row = self
            .client
            .query_one(statement, &[])
            .await
            .map_err(BaseBackupError::sql(OPERATION))?;
        let backup_label = text(&row, 1, OPERATION)?;
        let tablespace_map = text(&row, 2, OPERATION)?;
        Ok(BackupStop {
            stop: text(&row, 0, OPERATION)?
                .parse()
                .map_err(BaseBackupError::lsn(OPERATION))?,
            label: BackupLabel::parse(&backup_label)?,
            tablespaces: parse_tablespace_map(&tablespace_map)?,
            backup_label,
            tablespace_map,
        })
    }
}

/// The server's version, by SQL.
pub(crate) async fn server_version(client: &Client) -> Result<ServerVersion, BaseBackupError> {
    const OPERATION: &str = "ask for the server's version";
    let row = client
        .query_one("SELECT current_setting('server_version_num')", &[])
        .await
        .map_err(BaseBackupError::sql(OPERATION))?;
    let answer = text(&row, 0, OPERATION)?;
    let number = answer.parse().map_err(|_| BaseBackupError::Answer {
        operation: OPERATION,
        answer: answer.clone(),
    })?;
    Ok(ServerVersion(number))
}

/// The timeline of the checkpoint that the backup starts from. On a standby it is that of the last restartpoint, as
/// `do_pg_backup_start` takes it too.
async fn checkpoint_timeline(client: &Client) -> Result<TimelineId, BaseBackupError> {
    const OPERATION: &str = "ask for the timeline";
    let row = client
        .query_one("SELECT timeline_id FROM pg_control_checkpoint()", &[])
        .await
        .map_err(BaseBackupError::sql(OPERATION))?;
    let timeline: i32 = row.try_get(0).map_err(BaseBackupError::sql(OPERATION))?;
    u32::try_from(timeline)
        .map(TimelineId)
        .map_err(|_| BaseBackupError::Answer {
            operation: OPERATION,
            answer: timeline.to_string(),
        })
}

fn text(row: &tokio_postgres::Row, index: usize, operation: &'static str) -> Result<String, BaseBackupError> {
    row.try_get(index).map_err(BaseBackupError::sql(operation))
}
