//! The repository's descriptor and the record of one generation of one server: plain JSON, written once.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidemark_storage::{ObjectKey, PutMode, Storage, StorageError};
use tidemark_types::{Generation, ServerName, Timestamp};

use crate::RepositoryError;
use crate::envelope::FORMAT_VERSION;
use crate::log::ChainKey;

/// What makes a prefix a repository: `tidemark.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Always "tidemark repository".
    pub what: String,
    /// Format version of the whole.
    pub format: u16,
    /// Random, in hexadecimal: tells two repositories apart.
    pub id: String,
    /// When it was made.
    pub created: Timestamp,
}

impl Descriptor {
    /// The descriptor of a new repository.
    pub fn new(now: Timestamp) -> Descriptor {
        Descriptor {
            what: "tidemark repository".to_owned(),
            format: FORMAT_VERSION,
            id: hex::encode(rand::random::<[u8; 16]>()),
            created: now,
        }
    }
}

/// One generation of a server: who it is. `server.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// Format version.
    pub format: u16,
    /// The user's name for it.
    pub name: ServerName,
    /// Which identity under that name.
    pub generation: Generation,
    /// `postgresql`, `mysql` or `mariadb`.
    pub engine: String,
    /// What the engine calls itself (PostgreSQL: the system identifier, in decimal).
    pub system_id: String,
    /// The engine's version when the generation began, for people.
    pub version: String,
    /// Length of every log file in bytes where it is fixed (PostgreSQL: the WAL segment size).
    pub log_file_len: Option<u64>,
    /// Keys the hash chain and the page hashes of this generation.
    pub chain_key: ChainKey,
    /// When the generation began.
    pub created: Timestamp,
}

/// Reads a JSON object; `None` when it is not there.
pub(crate) async fn read_json<T: DeserializeOwned>(
    storage: &dyn Storage,
    key: &ObjectKey,
) -> Result<Option<T>, RepositoryError> {
    let data = match storage.get(key, None).await {
        Ok(data) => data,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    serde_json::from_slice(&data.bytes).map(Some).map_err(|error| {
        RepositoryError::damaged(key, format!("it is not the JSON that was expected: {error}"))
    })
}

/// Writes a JSON object that must not be there yet; false when it is.
pub(crate) async fn create_json<T: Serialize + Sync>(
    storage: &dyn Storage,
    key: &ObjectKey,
    value: &T,
) -> Result<bool, RepositoryError> {
    match storage.put(key, to_json(value), PutMode::Create).await {
        Ok(_) => Ok(true),
        Err(StorageError::AlreadyExists { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// JSON for people too: indented, with a line end.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Bytes {
    let mut text =
        serde_json::to_vec_pretty(value).unwrap_or_else(|error| unreachable!("plain data is JSON: {error}"));
    text.push(b'\n');
    text.into()
}
