//! The replication slot: made when it is missing, watched while it is used, given up when it holds back too much.

use std::time::Duration;

use tidemark_postgres::{PostgresError, SqlClient};
use tidemark_types::{ByteSize, ErrorClass, Lsn};
use tokio::time::sleep;

use super::source::Source;
use crate::config::PostgresqlSettings;
use crate::exit::Failure;
use crate::state::{ServerState, SlotFacts};

/// How often the slot is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How long a slot may stay in use after its connection was closed.
const DROP_ATTEMPTS: u32 = 50;
const DROP_PAUSE: Duration = Duration::from_millis(200);

/// Makes the slot when it is missing, anew when the server has invalidated it, and returns the oldest position that it
/// holds back.
///
/// # Errors
/// What the server says.
pub async fn ensure(source: &mut Source, slot: &str) -> anyhow::Result<Option<Lsn>> {
    let mut found = find(&source.sql, slot).await?;
    if found.as_ref().is_some_and(|(status, _)| status == "lost") {
        tracing::error!(
            slot,
            "the server has invalidated the replication slot; making it anew"
        );
        source.replication()?.drop_slot(slot).await?;
        found = None;
    }
    if found.is_none() {
        source.replication()?.create_physical_slot(slot).await?;
        tracing::info!(slot, "made the replication slot");
        found = find(&source.sql, slot).await?;
    }
    Ok(found.and_then(|(_, restart)| restart))
}

/// The slot's `wal_status` and the oldest position that it holds back.
async fn find(sql: &SqlClient, slot: &str) -> anyhow::Result<Option<(String, Option<Lsn>)>> {
    let statement =
        "select coalesce(wal_status, ''), restart_lsn::text from pg_replication_slots where slot_name = $1";
    let rows = sql
        .query("look at the replication slot", statement, &[&slot])
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let restart: Option<String> = row.get(1);
    Ok(Some((row.get(0), restart.map(|lsn| lsn.parse()).transpose()?)))
}

/// Drops the slot; waits until the server has noticed that its connection is gone.
///
/// # Errors
/// What the server says.
pub async fn drop_slot(sql: &SqlClient, slot: &str) -> anyhow::Result<()> {
    for _ in 0..DROP_ATTEMPTS {
        let statement = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1 and not active";
        let dropped = sql
            .query("drop the replication slot", statement, &[&slot])
            .await?;
        if !dropped.is_empty() {
            return Ok(());
        }
        sleep(DROP_PAUSE).await;
    }
    let message = format!("replication slot \"{slot}\" is still in use and cannot be dropped");
    Err(Failure::new(ErrorClass::Transient, message).into())
}

/// Watches the slot and tells the state, until it holds back more than it may.
///
/// # Errors
/// [`GiveUp`] in the chain when the slot is to be given up; what the server says. Never returns otherwise.
pub async fn watch(
    sql: &SqlClient,
    settings: &PostgresqlSettings,
    state: &ServerState,
) -> anyhow::Result<()> {
    loop {
        let (facts, sync_state) = look(sql, settings).await?;
        let retained = facts.as_ref().map(|facts| facts.retained_bytes);
        let counted = settings.synchronous || sync_state.as_deref().is_some_and(|state| state != "async");
        if let Some(facts) = facts
            .as_ref()
            .filter(|facts| facts.wal_status == "unreserved" || facts.wal_status == "lost")
        {
            tracing::error!(
                slot = facts.name,
                status = facts.wal_status,
                "the server is about to give up the replication slot"
            );
        }
        state.update(|known| {
            known.slot = facts;
            known.sync_state = sync_state;
        });
        if let (Some(retained), Some(limit)) = (retained, settings.max_slot_retained)
            && retained > limit.0
        {
            if !counted {
                return Err(GiveUp {
                    retained: ByteSize(retained),
                    limit,
                }
                .into());
            }
            let text = format!(
                "the slot holds back {}, more than max_slot_retained",
                ByteSize(retained)
            );
            state.update(|known| known.alarms.insert("slot_retained", text));
        } else {
            state.update(|known| known.alarms.remove("slot_retained"));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The slot holds back more than it may: the database's disk comes first.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the slot holds back {retained} of WAL, more than max_slot_retained = {limit}: giving it up")]
pub struct GiveUp {
    retained: ByteSize,
    limit: ByteSize,
}

async fn look(
    sql: &SqlClient,
    settings: &PostgresqlSettings,
) -> anyhow::Result<(Option<SlotFacts>, Option<String>)> {
    let end = "case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end";
    let statement = format!(
        "select coalesce(wal_status, ''), coalesce(pg_wal_lsn_diff({end}, restart_lsn), 0)::int8, safe_wal_size \
         from pg_replication_slots where slot_name = $1"
    );
    let rows = sql
        .query("look at the replication slot", &statement, &[&settings.slot])
        .await?;
    let facts = rows.first().map(|row| SlotFacts {
        name: settings.slot.clone(),
        wal_status: row.get(0),
        retained_bytes: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
        safe_bytes: row
            .get::<_, Option<i64>>(2)
            .map(|bytes| u64::try_from(bytes).unwrap_or(0)),
    });
    let statement =
        "select sync_state from pg_stat_replication where application_name = $1 order by 1 desc limit 1";
    let rows = sql
        .query(
            "look at the replication state",
            statement,
            &[&settings.application_name],
        )
        .await?;
    Ok((facts, rows.first().and_then(|row| row.get(0))))
}

/// Whether the server counts, or could count, `settings`' agent as a synchronous standby.
///
/// # Errors
/// What the server says.
pub async fn is_synchronous(sql: &SqlClient, settings: &PostgresqlSettings) -> anyhow::Result<bool> {
    if settings.synchronous {
        return Ok(true);
    }
    let row = sql
        .query_one(
            "read synchronous_standby_names",
            "select current_setting('synchronous_standby_names')",
            &[],
        )
        .await?;
    let names: String = row.get(0);
    let mine = settings.application_name.to_ascii_lowercase();
    // The setting's grammar (syncrep_gram.y) around the names does not matter here; "*" means everybody.
    let mut words = names
        .split([',', '(', ')', ' ', '"'])
        .map(str::to_ascii_lowercase);
    Ok(words.any(|word| word == "*" || word == mine))
}

/// A slot that cannot be used because somebody else does.
pub fn in_use(error: &PostgresError) -> Option<anyhow::Error> {
    matches!(error, PostgresError::SlotInUse { .. }).then(|| {
        Failure::new(ErrorClass::Transient, error.to_string())
            .hint("is another agent streaming from this server, or has the server not noticed yet that this one was restarted?")
            .into()
    })
}
