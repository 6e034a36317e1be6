//! The lease: one small object per server that names the writer of its log, and says how far the archive covers.
//!
//! The lease keeps two agents from working on one server by mistake; what keeps a mistake from doing harm is the hash
//! chain. So it needs no perfect store: a conditional write where there is one, else a look before each write.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidemark_storage::{ETag, PutMode, Storage, StorageError};
use tidemark_types::{Generation, ServerName, Timestamp};

use crate::RepositoryError;
use crate::layout::{Branch, lease_key};
use crate::log::LogPosition;
use crate::server::to_json;

/// A lease not rewritten for so long is stale: two heartbeats of the default length, and room for a slow store.
pub const STALE_AFTER: Duration = Duration::from_secs(300);

/// Up to where, and to which time, everything that the server committed is in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// Every commit up to this time of the server's clock lies before `position`.
    pub time: Timestamp,
    /// The branch of `position`.
    pub branch: Branch,
    /// The end of what is durable.
    pub position: LogPosition,
}

/// Who writes a server's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Counts the writers of this server.
    pub number: u64,
    /// Random: tells two writers with one number apart.
    pub writer: String,
    /// Host of the writer.
    pub host: String,
    /// The boot of that host, so that a restarted host is known not to run the old writer any more.
    pub boot_id: String,
    /// Process id of the writer.
    pub pid: u32,
    /// The generation that it writes.
    pub generation: Generation,
    /// When it was last written, by the writer's clock.
    pub beat: Timestamp,
    /// The writer ended and gave the lease back.
    pub released: bool,
    /// What the archive covers.
    pub covered: Option<Covered>,
}

/// A lease with the version of the object it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLease {
    /// Its content.
    pub lease: Lease,
    /// The object's version, where the store has one.
    pub etag: Option<ETag>,
}

/// What a starting writer may do about the lease it found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Take it, with this number.
    Take(u64),
    /// Somebody else holds it; it may be taken when it has not changed until then.
    Wait {
        /// When it will be stale.
        until: Timestamp,
    },
}

/// Decides what a starting writer may do. `succeeds` tells that its log descends from the holder's (a promotion), or
/// that the user said to take over.
pub fn claim(found: Option<&Lease>, me: &Lease, succeeds: bool, now: Timestamp) -> Claim {
    let Some(found) = found else { return Claim::Take(1) };
    let next = Claim::Take(found.number.saturating_add(1));
    let same_boot = found.host == me.host && found.boot_id == me.boot_id;
    let until = found.beat.plus(STALE_AFTER);
    if found.released || same_boot || succeeds || found.writer == me.writer || now >= until {
        next
    } else {
        Claim::Wait { until }
    }
}

/// Whether the lease that is stored shows that somebody else writes: its number is at or above `mine` under another id.
pub fn is_lost(mine: &Lease, found: Option<&Lease>) -> bool {
    found.is_some_and(|found| found.writer != mine.writer && found.number >= mine.number)
}

/// Reads the lease of a server; `None` when it never had one.
///
/// # Errors
/// What the store says, `Damaged`.
pub async fn read_lease(
    storage: &dyn Storage,
    server: &ServerName,
) -> Result<Option<StoredLease>, RepositoryError> {
    let key = lease_key(server);
    match storage.get(&key, None).await {
        Ok(data) => {
            let lease = serde_json::from_slice(&data.bytes)
                .map_err(|error| RepositoryError::damaged(&key, format!("it is no lease: {error}")))?;
            Ok(Some(StoredLease {
                lease,
                etag: data.etag,
            }))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes the lease over the version that was read.
///
/// # Errors
/// `Conflict` when somebody else wrote it meanwhile; what the store says.
pub async fn write_lease(
    storage: &dyn Storage,
    server: &ServerName,
    lease: &Lease,
    over: Option<&StoredLease>,
) -> Result<(), RepositoryError> {
    let key = lease_key(server);
    let mode = match over {
        None => PutMode::Create,
        Some(StoredLease { etag: Some(etag), .. }) => PutMode::Update(etag.clone()),
        Some(_) => PutMode::Overwrite,
    };
    let body: Bytes = to_json(lease);
    match storage.put(&key, body, mode).await {
        Ok(_) => Ok(()),
        Err(StorageError::AlreadyExists { .. } | StorageError::Changed { .. }) => {
            // The reply to our own write may have been lost.
            match read_lease(storage, server).await? {
                Some(found) if found.lease.writer == lease.writer => Ok(()),
                _ => Err(RepositoryError::Conflict {
                    object: key.to_string(),
                    problem: "another agent writes this server's log".to_owned(),
                }),
            }
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(number: u64, writer: &str, host: &str) -> Lease {
        Lease {
            number,
            writer: writer.to_owned(),
            host: host.to_owned(),
            boot_id: format!("boot of {host}"),
            pid: 1,
            generation: Generation(1),
            beat: Timestamp(1_000_000_000),
            released: false,
            covered: None,
        }
    }

    #[test]
    fn a_fresh_lease_of_another_host_is_waited_for() {
        let (found, me) = (lease(4, "a", "one"), lease(0, "b", "two"));
        let until = found.beat.plus(STALE_AFTER);
        let soon = found.beat.plus(Duration::from_secs(10));
        assert_eq!(claim(Some(&found), &me, false, soon), Claim::Wait { until });
        assert_eq!(claim(Some(&found), &me, false, until), Claim::Take(5));
        assert_eq!(claim(Some(&found), &me, true, soon), Claim::Take(5));
        assert_eq!(
            claim(
                Some(&Lease {
                    released: true,
                    ..found
                }),
                &me,
                false,
                soon
            ),
            Claim::Take(5)
        );
        assert_eq!(
            claim(Some(&lease(4, "a", "two")), &me, false, soon),
            Claim::Take(5)
        );
        assert_eq!(claim(None, &me, false, soon), Claim::Take(1));
    }

    #[test]
    fn a_writer_notices_that_another_took_over() {
        let mine = lease(4, "a", "one");
        assert!(!is_lost(&mine, Some(&lease(4, "a", "one"))));
        assert!(is_lost(&mine, Some(&lease(4, "b", "one"))));
        assert!(is_lost(&mine, Some(&lease(5, "b", "one"))));
        assert!(!is_lost(&mine, Some(&lease(3, "b", "one"))));
        assert!(!is_lost(&mine, None));
    }
}
