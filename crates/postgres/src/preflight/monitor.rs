//! What is asked again and again while a server is protected: its slot, its clock and position, whether we count as
//! synchronous.

use serde::Deserialize;
use tidemark_types::{Lsn, TimelineId, Timestamp};

use super::standby_names::names_standby;
use crate::client::SqlClient;
use crate::error::PostgresError;

/// How safe the WAL is that a slot still needs (manual: `pg_replication_slots.wal_status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalStatus {
    /// Within `max_wal_size`.
    Reserved,
    /// Past it, held by the slot or `wal_keep_size`.
    Extended,
    /// To be removed at the next checkpoint.
    Unreserved,
    /// Removed: the slot is of no more use.
    Lost,
}

/// A row of `pg_replication_slots`, as far as we use it. Columns that a version lacks are `None`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SlotStatus {
    /// Its name.
    pub slot_name: String,
    /// `physical` or `logical`.
    pub slot_type: String,
    /// Whether a connection streams from it.
    pub active: bool,
    /// The server process that does.
    pub active_pid: Option<i32>,
    /// The oldest WAL it holds back; `None` while it holds nothing.
    #[serde(default)]
    pub restart_lsn: Option<Lsn>,
    /// How safe that is.
    #[serde(default)]
    pub wal_status: Option<WalStatus>,
    /// Bytes that may still be written before the slot is in danger; `None` without `max_slot_wal_keep_size`.
    #[serde(default)]
    pub safe_wal_size: Option<i64>,
    /// Why it was given up by the server (17 and later).
    #[serde(default)]
    pub invalidation_reason: Option<String>,
    /// Bytes between `restart_lsn` and the server's position.
    #[serde(default)]
    pub retained_bytes: u64,
}

impl SlotStatus {
    /// Reads the slot called `slot`; `None` if there is none.
    /// # Errors
    /// [`PostgresError`].
    pub async fn query(client: &SqlClient, slot: &str) -> Result<Option<SlotStatus>, PostgresError> {
        let operation = "read the replication slot";
        // As JSON, because the columns differ from version to version.
        let statement = format!(
            "SELECT to_jsonb(s)::text, {POSITION}::text FROM pg_catalog.pg_replication_slots s WHERE slot_name = $1"
        );
        let rows = client.query(operation, &statement, &[&slot]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let json: String = super::facts::column(operation, row, 0)?;
        let mut status: SlotStatus =
            serde_json::from_str(&json).map_err(|error| PostgresError::Protocol {
                operation,
                problem: error.to_string(),
            })?;
        let position: Option<Lsn> = super::facts::lsn(operation, row, 1)?;
        status.retained_bytes = match (position, status.restart_lsn) {
            (Some(position), Some(restart)) => position.bytes_since(restart),
            _ => 0,
        };
        Ok(Some(status))
    }

    /// Whether the server has given the slot up.
    pub fn is_lost(&self) -> bool {
        self.wal_status == Some(WalStatus::Lost) || self.invalidation_reason.is_some()
    }
}

/// The server's WAL position, on a primary and on a standby.
const POSITION: &str = "CASE WHEN pg_is_in_recovery() \
    THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_insert_lsn() END";

/// The server's clock paired with its position: everything that committed before `server_time` lies before `position`,
/// but for commits under way (a commit takes its time before its record is written: leave a margin).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterFacts {
    /// The server's clock, read first.
    pub server_time: Timestamp,
    /// Where WAL is being inserted; on a standby how far it has been received.
    pub position: Lsn,
    /// The timeline of the last checkpoint.
    pub timeline: TimelineId,
    /// Whether this is a standby: then the pairing says nothing about the primary's commits.
    pub in_recovery: bool,
}

impl WriterFacts {
    /// Reads the clock, then the position. Two statements, because one may evaluate its columns in any order.
    /// # Errors
    /// [`PostgresError`].
    pub async fn query(client: &SqlClient) -> Result<WriterFacts, PostgresError> {
        let operation = "read the server's clock and position";
        let server_time = super::facts::server_time(client).await?;
        let statement = format!(
            "SELECT {POSITION}::text, pg_is_in_recovery(), (SELECT timeline_id FROM pg_control_checkpoint())"
        );
        let row = client.query_one(operation, &statement, &[]).await?;
        let timeline: i32 = super::facts::column(operation, &row, 2)?;
        Ok(WriterFacts {
            server_time,
            position: super::facts::lsn(operation, &row, 0)?.unwrap_or(Lsn::INVALID),
            timeline: TimelineId(u32::try_from(timeline).unwrap_or(0)),
            in_recovery: super::facts::column(operation, &row, 1)?,
        })
    }
}

/// How the server counts a connection (`pg_stat_replication.sync_state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncStatus {
    /// Commits do not wait for it.
    Async,
    /// It would count if another went away.
    Potential,
    /// Commits wait for it.
    Sync,
    /// It is one of a quorum that commits wait for.
    Quorum,
    /// We may not see it: `pg_read_all_stats` is needed.
    Hidden,
    /// No connection of that name streams.
    Absent,
}

/// Whether commits wait for us, or could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncState {
    /// `synchronous_standby_names`.
    pub standby_names: String,
    /// Whether our application name is on it.
    pub named: bool,
    /// How our connection is counted now.
    pub status: SyncStatus,
}

impl SyncState {
    /// Asks the primary how it counts the connection called `application_name`.
    /// # Errors
    /// [`PostgresError`].
    pub async fn query(client: &SqlClient, application_name: &str) -> Result<SyncState, PostgresError> {
        let operation = "ask whether commits wait for us";
        let statement = "SELECT current_setting('synchronous_standby_names'),
                (SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE state IS NULL),
                (SELECT max(CASE sync_state WHEN 'sync' THEN 3 WHEN 'quorum' THEN 2 WHEN 'potential' THEN 1 ELSE 0 END)
                   FROM pg_catalog.pg_stat_replication
                  WHERE lower(application_name) = lower($1) AND state IS NOT NULL)";
        let row = client
            .query_one(operation, statement, &[&application_name])
            .await?;
        let standby_names: String = super::facts::column(operation, &row, 0)?;
        let hidden: i64 = super::facts::column(operation, &row, 1)?;
        let status = match super::facts::column::<Option<i32>>(operation, &row, 2)? {
            Some(3) => SyncStatus::Sync,
            Some(2) => SyncStatus::Quorum,
            Some(1) => SyncStatus::Potential,
            Some(_) => SyncStatus::Async,
            None if hidden > 0 => SyncStatus::Hidden,
            None => SyncStatus::Absent,
        };
        Ok(SyncState {
            named: names_standby(&standby_names, application_name),
            standby_names,
            status,
        })
    }

    /// Whether an acknowledgement of ours releases commits, or may at any moment: then it must never pass over a gap.
    pub fn may_release_commits(&self) -> bool {
        self.named
            || matches!(
                self.status,
                SyncStatus::Sync | SyncStatus::Quorum | SyncStatus::Potential
            )
    }
}
