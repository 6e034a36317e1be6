//! The facts about a server that preflight judges, and the queries that give them.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_types::{Lsn, Timestamp};
use tokio_postgres::Row;
use tokio_postgres::types::FromSqlOwned;

use super::monitor::SlotStatus;
use crate::client::SqlClient;
use crate::error::PostgresError;
use crate::version::ServerVersion;

/// The settings that are looked at. Those that a version lacks, or that are hidden from us, are absent in the result.
const SETTINGS: [&str; 18] = [
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "data_checksums",
    "data_directory",
    "fsync",
    "full_page_writes",
    "idle_replication_slot_timeout",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "server_encoding",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_keep_size",
    "wal_level",
    "wal_log_hints",
];

/// A setting as `pg_settings` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The value in `unit`s.
    pub value: String,
    /// The unit of a number: `MB`, `s`, `8kB`, ...
    pub unit: Option<String>,
}

impl Setting {
    /// The value as a number, in `unit`s.
    pub fn number(&self) -> Option<i64> {
        self.value.parse().ok()
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.value == "on"
    }

    /// A size in bytes; `None` for negative values, which mean "no limit".
    pub fn bytes(&self) -> Option<u64> {
        let factor = match self.unit.as_deref() {
            None | Some("B") => 1,
            Some("kB") => 1 << 10,
            Some("8kB") => 8 << 10,
            Some("MB") => 1 << 20,
            Some("GB") => 1 << 30,
            Some(_) => return None,
        };
        u64::try_from(self.number()?).ok()?.checked_mul(factor)
    }
}

/// What our role may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleFacts {
    /// Its name.
    pub name: String,
    /// `SUPERUSER`.
    pub superuser: bool,
    /// `REPLICATION`.
    pub replication: bool,
    /// Member of `pg_read_all_settings`: sees `data_directory` and the like.
    pub reads_all_settings: bool,
    /// Member of `pg_read_all_stats`: sees `sync_state`.
    pub reads_all_stats: bool,
    /// Member of `pg_checkpoint` (15 and later).
    pub checkpoints: bool,
    /// May call the functions that begin and end a base backup.
    pub runs_backup_functions: bool,
    /// May call `pg_switch_wal`.
    pub switches_wal: bool,
    /// May call `pg_create_restore_point`.
    pub makes_restore_points: bool,
}

/// A tablespace beside the two built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceFact {
    /// Its name.
    pub name: String,
    /// Where it lies on the server.
    pub location: String,
}

/// What a server is, and how it is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// Its version.
    pub version: ServerVersion,
    /// The host that answered.
    pub host: String,
    /// The cluster's identifier.
    pub system_id: u64,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Settings by name; see [`Setting`].
    pub settings: BTreeMap<String, Setting>,
    /// WAL senders at work.
    pub wal_senders_used: u32,
    /// Replication slots that exist.
    pub slots_used: u32,
    /// Our role.
    pub role: RoleFacts,
    /// Our slot, if it exists.
    pub slot: Option<SlotStatus>,
    /// The tablespaces.
    pub tablespaces: Vec<TablespaceFact>,
    /// How far the server's clock is ahead of ours, in microseconds; negative when it is behind.
    pub clock_ahead_micros: i64,
    /// How far off that may be: half the round trip.
    pub clock_uncertainty: Duration,
}

impl ServerFacts {
    /// Asks a server for everything. `slot` is the slot we use or would make.
    /// # Errors
    /// [`PostgresError`].
    pub async fn query(client: &SqlClient, slot: &str) -> Result<ServerFacts, PostgresError> {
        let operation = "read the server's state";
        let statement = "SELECT (SELECT system_identifier FROM pg_control_system()), pg_is_in_recovery(),
                (SELECT count(*) FROM pg_catalog.pg_stat_replication),
                (SELECT count(*) FROM pg_catalog.pg_replication_slots)";
        let row = client.query_one(operation, statement, &[]).await?;
        let system_id: i64 = column(operation, &row, 0)?;
        let count = |index| -> Result<u32, PostgresError> {
            Ok(u32::try_from(column::<i64>(operation, &row, index)?).unwrap_or(u32::MAX))
        };
        let (clock_ahead_micros, clock_uncertainty) = clock(client).await?;
        Ok(ServerFacts {
            version: client.version(),
            host: client.host().to_owned(),
            // The server keeps 64 bits without a sign, SQL shows them with one.
            system_id: system_id.cast_unsigned(),
            in_recovery: column(operation, &row, 1)?,
            settings: settings(client).await?,
            wal_senders_used: count(2)?,
            slots_used: count(3)?,
            role: role(client).await?,
            slot: SlotStatus::query(client, slot).await?,
            tablespaces: tablespaces(client).await?,
            clock_ahead_micros,
            clock_uncertainty,
        })
    }

    /// A setting, where the server has it and we may see it.
    pub fn setting(&self, name: &str) -> Option<&Setting> {
        self.settings.get(name)
    }

    /// The value of a setting; empty where it is not known.
    pub fn value(&self, name: &str) -> &str {
        self.setting(name).map_or("", |setting| setting.value.as_str())
    }
}

async fn settings(client: &SqlClient) -> Result<BTreeMap<String, Setting>, PostgresError> {
    let operation = "read the server's settings";
    let statement = "SELECT name, setting, unit FROM pg_catalog.pg_settings WHERE name = ANY($1)";
    let rows = client
        .query(operation, statement, &[&SETTINGS.as_slice()])
        .await?;
    rows.iter()
        .map(|row| {
            let setting = Setting {
                value: column::<Option<String>>(operation, row, 1)?.unwrap_or_default(),
                unit: column(operation, row, 2)?,
            };
            Ok((column(operation, row, 0)?, setting))
        })
        .collect()
}

async fn role(client: &SqlClient) -> Result<RoleFacts, PostgresError> {
    let operation = "read our role's rights";
    let (start, stop) = if client.version().major() >= 15 {
        ("pg_backup_start(text,boolean)", "pg_backup_stop(boolean)")
    } else {
        (
            "pg_start_backup(text,boolean,boolean)",
            "pg_stop_backup(boolean,boolean)",
        )
    };
    let statement = "SELECT r.rolname::text, r.rolsuper, r.rolreplication,
            EXISTS (SELECT FROM pg_catalog.pg_roles p WHERE p.rolname = 'pg_read_all_settings' AND pg_has_role(p.oid, 'USAGE')),
            EXISTS (SELECT FROM pg_catalog.pg_roles p WHERE p.rolname = 'pg_read_all_stats' AND pg_has_role(p.oid, 'USAGE')),
            EXISTS (SELECT FROM pg_catalog.pg_roles p WHERE p.rolname = 'pg_checkpoint' AND pg_has_role(p.oid, 'USAGE')),
            coalesce(has_function_privilege(to_regprocedure($1::text), 'EXECUTE')
                AND has_function_privilege(to_regprocedure($2::text), 'EXECUTE'), false),
            has_function_privilege('pg_switch_wal()', 'EXECUTE'),
            has_function_privilege('pg_create_restore_point(text)', 'EXECUTE')
        FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";
    let row = client.query_one(operation, statement, &[&start, &stop]).await?;
    Ok(RoleFacts {
        name: column(operation, &row, 0)?,
        superuser: column(operation, &row, 1)?,
        replication: column(operation, &row, 2)?,
        reads_all_settings: column(operation, &row, 3)?,
        reads_all_stats: column(operation, &row, 4)?,
        checkpoints: column(operation, &row, 5)?,
        runs_backup_functions: column(operation, &row, 6)?,
        switches_wal: column(operation, &row, 7)?,
        makes_restore_points: column(operation, &row, 8)?,
    })
}

async fn tablespaces(client: &SqlClient) -> Result<Vec<TablespaceFact>, PostgresError> {
    let operation = "list the tablespaces";
    let statement = "SELECT spcname::text, pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace
        WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1";
    let rows = client.query(operation, statement, &[]).await?;
    rows.iter()
        .map(|row| {
            Ok(TablespaceFact {
                name: column(operation, row, 0)?,
                location: column(operation, row, 1)?,
            })
        })
        .collect()
}

/// The server's clock against ours in the middle of the round trip.
async fn clock(client: &SqlClient) -> Result<(i64, Duration), PostgresError> {
    let before = Timestamp::from_chrono(chrono::Utc::now());
    let server = server_time(client).await?;
    let round_trip = Timestamp::from_chrono(chrono::Utc::now()).since(before);
    let middle = before.plus(round_trip / 2);
    Ok((server.0.saturating_sub(middle.0), round_trip / 2))
}

/// The server's clock.
pub(super) async fn server_time(client: &SqlClient) -> Result<Timestamp, PostgresError> {
    let operation = "read the server's clock";
    let statement = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let row = client.query_one(operation, statement, &[]).await?;
    column(operation, &row, 0).map(Timestamp)
}

/// A column of a row of ours.
pub(super) fn column<T: FromSqlOwned>(operation: &str, row: &Row, index: usize) -> Result<T, PostgresError> {
    row.try_get(index)
        .map_err(|source| crate::client::sql_error(operation, source))
}

/// A column that holds an LSN as text.
pub(super) fn lsn(operation: &'static str, row: &Row, index: usize) -> Result<Option<Lsn>, PostgresError> {
    column::<Option<String>>(operation, row, index)?
        .map(|text| {
            text.parse().map_err(|_| PostgresError::Protocol {
                operation,
                problem: format!("LSN \"{text}\""),
            })
        })
        .transpose()
}
