//! Finding out which conditional writes a store honours, by trying them.

use bytes::Bytes;

use crate::{Capabilities, ETag, ObjectKey, PutMode, Storage, StorageError};

/// A tag in the form that S3 stores use (an MD5 in quotes), which no probe object has.
pub(crate) const WRONG_TAG: &str = "\"00000000000000000000000000000000\"";

/// A fresh key below `prefix` for a probe: two agents may probe at once.
pub(crate) fn key_below(prefix: &ObjectKey) -> Result<ObjectKey, StorageError> {
    ObjectKey::new(format!("{prefix}/probe-{:016x}", rand::random::<u64>())).map_err(|invalid| {
        StorageError::Config {
            operation: crate::Operation::Open,
            subject: prefix.to_string(),
            problem: format!("{invalid}: the prefix for probing is too long"),
        }
    })
}

/// Tries both conditional writes on `storage`, whose writes must really be conditional, and cleans up.
pub(crate) async fn run(storage: &dyn Storage, prefix: &ObjectKey) -> Result<Capabilities, StorageError> {
    let key = key_below(prefix)?;
    let seen = attempt(storage, &key).await;
    let cleaned = storage.delete(std::slice::from_ref(&key)).await;
    let seen = seen?;
    cleaned?;
    Ok(seen)
}

async fn attempt(storage: &dyn Storage, key: &ObjectKey) -> Result<Capabilities, StorageError> {
    let body = Bytes::from_static(b"probe\n");
    storage.put(key, body.clone(), PutMode::Create).await?;
    let atomic_create = match storage.put(key, body.clone(), PutMode::Create).await {
        Ok(_) => false,
        Err(StorageError::AlreadyExists { .. }) => true,
        Err(other) => return Err(other),
    };
    let wrong = PutMode::Update(ETag(WRONG_TAG.to_owned()));
    let atomic_update = match storage.put(key, body, wrong).await {
        Ok(_) => false,
        Err(StorageError::Changed { .. }) => true,
        Err(other) => return Err(other),
    };
    Ok(Capabilities {
        atomic_create,
        atomic_update,
    })
}
