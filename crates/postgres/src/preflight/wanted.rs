//! What is wanted of a server.

use std::path::PathBuf;

use tidemark_types::ByteSize;

/// What the configuration asks of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The replication slot.
    pub slot: String,
    /// Our name in the server's views.
    pub application_name: String,
    /// Whether commits are to wait for the repository.
    pub synchronous: bool,
    /// Where the agent reads data files itself, for local base backups.
    pub data_directory: Option<PathBuf>,
    /// The directory that the archive command copies into, when the log comes that way instead of being streamed.
    pub archive_spool: Option<PathBuf>,
    /// Past how much held-back WAL the agent gives its slot up by itself.
    pub max_slot_retained: Option<ByteSize>,
    /// The identity that the repository knows, if any.
    pub system_id: Option<u64>,
    /// Whether the password stands in the connection URL.
    pub password_in_url: bool,
}

impl Wanted {
    /// Whether anything comes over a replication connection: the log, or base backups.
    pub(super) fn replicates(&self) -> bool {
        self.archive_spool.is_none() || self.data_directory.is_none()
    }
}
