//! What a manifest keeps about a base backup of PostgreSQL beside its files: written by the agent, read by a restore.

use serde::{Deserialize, Serialize};
use tidemark_types::Lsn;

use super::{BadPage, ServerFacts, Tablespace};

/// Bad pages that are listed one by one.
pub const BAD_PAGES_LISTED: usize = 1000;

/// By which way files were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupWay {
    /// Where they lie, on the server's host.
    Local,
    /// Over a connection, by `BASE_BACKUP`.
    Remote,
}

/// The engine's part of a manifest's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFacts {
    /// The system identifier.
    pub system_id: u64,
    /// Layout of the system catalogs; part of the name of tablespace version directories.
    pub catalog_version: u32,
    /// Pages in a segment file of a relation.
    pub pages_per_segment: u32,
    /// Zero: no data checksums.
    pub data_checksum_version: u32,
    /// How files were read.
    pub way: BackupWay,
    /// Whether the server was a standby.
    pub from_standby: bool,
    /// Where replay begins.
    pub redo: Lsn,
    /// The checkpoint that replay begins with.
    pub checkpoint: Lsn,
    /// Tablespaces and where they lay.
    pub tablespaces: Vec<Tablespace>,
    /// How many pages were bad however often they were read; their bytes are stored as they were.
    pub bad_page_count: u64,
    /// The first of them, at most [`BAD_PAGES_LISTED`].
    pub bad_pages: Vec<BadPage>,
    /// What a fresh host must know.
    pub server: ServerFacts,
}
