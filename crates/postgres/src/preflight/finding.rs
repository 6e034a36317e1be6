//! The words of preflight: what is wanted, and what was found.

use std::path::PathBuf;

use tidemark_types::ByteSize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// It works, at a risk.
    Warning,
    /// It does not work.
    Error,
}

/// One fact, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, such as a setting's name.
    pub subject: &'static str,
    /// What was found and what follows from it.
    pub message: String,
    /// The statement that mends it.
    pub remedy: Option<String>,
}

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
