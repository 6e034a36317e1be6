//! Intents: what a running base backup says about itself, so that nothing it is about to refer to is deleted and no
//! second one runs beside it.

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tidemark_storage::PutMode;
use tidemark_types::Timestamp;

use super::id::BackupId;
use super::store::BaseStore;
use crate::error::RepositoryError;

/// An intent that was not refreshed for so long belongs to a backup that died. Refresh it several times as often.
pub const INTENT_LIFE: Duration = Duration::from_secs(600);
/// Requests under way at once while looking at every backup.
const LOOKS_AT_ONCE: usize = 8;

/// A running base backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The backup.
    pub backup: BackupId,
    /// The backup whose packs and maps it will refer to.
    pub parent: Option<BackupId>,
    /// The host it runs on.
    pub host: String,
    /// The host's boot id: with the process it tells whether it can still be running there.
    pub boot: String,
    /// Its process id.
    pub process: u32,
    /// When it began.
    pub started: Timestamp,
    /// When it last said that it is alive.
    pub refreshed: Timestamp,
}

impl Intent {
    /// Whether it was refreshed recently enough to count.
    pub fn is_live(&self, now: Timestamp) -> bool {
        now.since(self.refreshed) < INTENT_LIFE
    }
}

/// The intent of a running backup, for whoever keeps saying that the backup is alive.
#[derive(Debug)]
pub struct Announced {
    store: BaseStore,
    intent: Intent,
}

impl Announced {
    pub(super) fn new(store: BaseStore, intent: Intent) -> Announced {
        Announced { store, intent }
    }

    /// Says that the backup is alive. To be called several times within [`INTENT_LIFE`], and no more once it has ended.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn refresh(&mut self, now: Timestamp) -> Result<(), RepositoryError> {
        self.intent.refreshed = now;
        write_intent(&self.store, &self.intent).await
    }

    /// Takes the intent back, when it may have been written once more while the backup ended.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn withdraw(self) -> Result<(), RepositoryError> {
        withdraw(&self.store, &self.intent.backup).await
    }
}

/// The intents of backups that may be running. Expiry keeps the parents that they name.
///
/// # Errors
/// `Storage`; `Damaged` when an intent cannot be read.
pub async fn live_intents(store: &BaseStore, now: Timestamp) -> Result<Vec<Intent>, RepositoryError> {
    let backups = store.storage().folders(&store.folder()).await?;
    let found: Vec<Option<Intent>> = stream::iter(backups.into_iter().filter_map(|name| name.parse().ok()))
        .map(|backup: BackupId| async move { read_intent(store, &backup).await })
        .buffered(LOOKS_AT_ONCE)
        .try_collect()
        .await?;
    Ok(found
        .into_iter()
        .flatten()
        .filter(|intent| intent.is_live(now))
        .collect())
}

/// Withdraws the intents of backups whose process is known to be dead, and returns them. What else they left is for
/// upkeep to remove.
///
/// # Errors
/// As [`live_intents`].
pub async fn withdraw_dead(
    store: &BaseStore,
    now: Timestamp,
    gone: impl Fn(&Intent) -> bool,
) -> Result<Vec<Intent>, RepositoryError> {
    let mut dead = live_intents(store, now).await?;
    dead.retain(gone);
    for intent in &dead {
        withdraw(store, &intent.backup).await?;
    }
    Ok(dead)
}

/// Writes `intent`, unless another backup runs. `gone` may say of an intent that its process is known to be dead.
///
/// # Errors
/// `Conflict` when another one is live; nothing of this one is left then.
pub(super) async fn announce(
    store: &BaseStore,
    intent: &Intent,
    gone: impl Fn(&Intent) -> bool,
) -> Result<(), RepositoryError> {
    refuse_others(store, intent, &gone).await?;
    write_intent(store, intent).await?;
    // Two that began at once have both written by now, so at least one of them sees the other.
    let alone = refuse_others(store, intent, &gone).await;
    if alone.is_err() {
        withdraw(store, &intent.backup).await?;
    }
    alone
}

async fn refuse_others(
    store: &BaseStore,
    own: &Intent,
    gone: &impl Fn(&Intent) -> bool,
) -> Result<(), RepositoryError> {
    let others = live_intents(store, own.refreshed).await?;
    match others
        .iter()
        .find(|other| other.backup != own.backup && !gone(other))
    {
        None => Ok(()),
        Some(other) => Err(RepositoryError::Conflict {
            object: store.intent(&other.backup).to_string(),
            problem: format!(
                "base backup {} is running on {} since {} (last heard of at {}); wait for it, or for {} minutes after \
                 its last sign of life",
                other.backup,
                other.host,
                other.started,
                other.refreshed,
                INTENT_LIFE.as_secs() / 60
            ),
        }),
    }
}

/// Writes or refreshes an intent.
async fn write_intent(store: &BaseStore, intent: &Intent) -> Result<(), RepositoryError> {
    let key = store.intent(&intent.backup);
    let body = serde_json::to_vec(intent)
        .map_err(|error| RepositoryError::damaged(&key, format!("it cannot be written: {error}")))?;
    store.storage().put(&key, body.into(), PutMode::Overwrite).await?;
    Ok(())
}

/// Removes an intent.
pub(super) async fn withdraw(store: &BaseStore, backup: &BackupId) -> Result<(), RepositoryError> {
    Ok(store.storage().delete(&[store.intent(backup)]).await?)
}

async fn read_intent(store: &BaseStore, backup: &BackupId) -> Result<Option<Intent>, RepositoryError> {
    let key = store.intent(backup);
    match store.storage().get(&key, None).await {
        Ok(data) => serde_json::from_slice(&data.bytes)
            .map(Some)
            .map_err(|error| RepositoryError::damaged(&key, format!("it cannot be read: {error}"))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
