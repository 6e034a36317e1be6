//! Whether the repository can be reached, written, read and cleaned up, and what its clock says.

use std::time::Duration;

use bytes::Bytes;
use tidemark_repository::{Archive, Repository, RepositoryError};
use tidemark_storage::{Capabilities, ObjectKey, PutMode, Storage, StorageError, StorageUrl};
use tidemark_types::{Clock, ServerName};

use super::finding::Finding;
use super::{clock_finding, skew};
use crate::config::RepositorySettings;
use crate::exit;

const SUBJECT: &str = "repository";
/// The one prefix whose objects change: object lock is kept off it.
const PROBE_PREFIX: &str = "lease";

/// Looks at the repository.
pub async fn examine(settings: &RepositorySettings, clock: &dyn Clock) -> Vec<Finding> {
    match try_out(settings, clock).await {
        Ok(findings) => findings,
        Err(error) => {
            vec![Finding::error(
                SUBJECT,
                "write",
                exit::one_line(&error.into()),
                mending(settings),
            )]
        }
    }
}

/// What the repository holds under a server's name; `None` when it knows nothing of the name yet.
///
/// # Errors
/// A finding, when what is stored of the server cannot be read.
pub async fn archive(settings: &RepositorySettings, server: &ServerName) -> Result<Option<Archive>, Finding> {
    let found = async {
        let storage = tidemark_storage::open(&settings.url, &settings.storage_options()).await?;
        let repository = match Repository::open(storage).await {
            Err(RepositoryError::Missing(_)) => return Ok(None),
            opened => opened?,
        };
        anyhow::Ok(repository.find_archive(server, None).await?)
    };
    found.await.map_err(|error| {
        let mend = "see what the object holds; objects of a repository are never changed by hand";
        Finding::error(server.as_str(), "archive", exit::one_line(&error), mend)
    })
}

fn mending(settings: &RepositorySettings) -> &'static str {
    match settings.url {
        StorageUrl::File { .. } => "make the directory writable for the user that runs the agent",
        StorageUrl::S3 { .. } => {
            "check bucket, endpoint, region and credentials (AWS_ACCESS_KEY_ID, ~/.aws, the instance's role)\n\
             the agent needs s3:PutObject, s3:GetObject, s3:ListBucket, s3:DeleteObject, s3:AbortMultipartUpload"
        }
    }
}

async fn try_out(settings: &RepositorySettings, clock: &dyn Clock) -> Result<Vec<Finding>, StorageError> {
    let storage = tidemark_storage::open(&settings.url, &settings.storage_options()).await?;
    let invalid = |error: tidemark_storage::InvalidKey| StorageError::Config {
        operation: tidemark_storage::Operation::Open,
        subject: settings.url.to_string(),
        problem: error.to_string(),
    };
    let prefix = ObjectKey::new(PROBE_PREFIX).map_err(invalid)?;
    let capabilities = storage.probe(&prefix).await?;
    // One name for all checks: what a killed one leaves behind, the next replaces and removes.
    let key = ObjectKey::new(format!("{PROBE_PREFIX}/check")).map_err(invalid)?;
    let clock_skew = probe_clock(storage.as_ref(), &key, clock).await;
    storage.delete(std::slice::from_ref(&key)).await?;
    Ok(vec![
        Finding::good(
            SUBJECT,
            "write",
            format!("{}: write, look and delete work", storage.url()),
        ),
        conditional_writes(capabilities),
        clock_finding(SUBJECT, "the store's", clock_skew?),
    ])
}

/// Seconds that the store's clock is ahead of ours.
async fn probe_clock(storage: &dyn Storage, key: &ObjectKey, clock: &dyn Clock) -> Result<f64, StorageError> {
    // Many stores tell whole seconds, rounded down.
    let before = clock.now().minus(Duration::from_secs(1));
    storage
        .put(key, Bytes::from_static(b"check\n"), PutMode::Overwrite)
        .await?;
    let after = clock.now();
    Ok(skew(before, storage.head(key).await?.modified, after))
}

fn conditional_writes(capabilities: Capabilities) -> Finding {
    if capabilities.atomic_create && capabilities.atomic_update {
        Finding::good(SUBJECT, "conditional writes", "the store honours them")
    } else {
        // No mending: every store without them works, only a misconfigured second agent is noticed later.
        Finding::good(
            SUBJECT,
            "conditional writes",
            "the store ignores them; hashes in object names and a look before each write stand in for them",
        )
    }
}
