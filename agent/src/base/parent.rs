//! The backup that an incremental one is laid over.

use std::iter::Peekable;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use tidemark_postgres::basebackup::ManifestFacts;
use tidemark_postgres::control_file::ControlFile;
use tidemark_repository::base::{BackupReader, EntryKind, FileEntry};
use tidemark_repository::{Archive, RepositoryError};
use tidemark_types::{Lsn, TimelineId};

use crate::archive::backups;

/// A base backup whose maps can be laid over.
#[derive(Debug, Clone)]
pub struct Parent {
    /// Its manifest and maps.
    pub reader: Arc<BackupReader>,
    /// What its manifest says about the cluster.
    pub facts: ManifestFacts,
}

/// The newest base backup of an archive and what its manifest says of the server; `None` when there is none, or none that
/// can be laid over, which is logged.
///
/// # Errors
/// What the store says.
pub async fn newest<F: DeserializeOwned>(
    archive: &Archive,
) -> anyhow::Result<Option<(Arc<BackupReader>, F)>> {
    let mut stored = backups(archive).await?;
    stored.sort_by_key(|backup| backup.facts.started);
    let Some(newest) = stored.pop() else {
        return Ok(None);
    };
    let facts = match serde_json::from_value(newest.facts.engine_facts) {
        Ok(facts) => facts,
        Err(error) => {
            tracing::warn!(backup = %newest.backup, %error, "its manifest lacks facts; a full base backup follows");
            return Ok(None);
        }
    };
    match BackupReader::open(archive.base(), &newest.backup).await {
        Ok(reader) => Ok(Some((Arc::new(reader), facts))),
        Err(error @ RepositoryError::Storage(_)) => Err(error.into()),
        Err(error) => {
            tracing::error!(backup = %newest.backup, %error, "its manifest cannot be read; a full base backup follows");
            Ok(None)
        }
    }
}

impl Parent {
    /// The newest base backup of an archive, as [`newest`] finds it.
    ///
    /// # Errors
    /// What the store says.
    pub async fn newest(archive: &Archive) -> anyhow::Result<Option<Parent>> {
        let found = newest(archive).await?;
        Ok(found.map(|(reader, facts)| Parent { reader, facts }))
    }

    /// Where its redo begins.
    pub fn redo(&self) -> (TimelineId, Lsn) {
        (
            TimelineId(self.reader.header().facts.begin.branch),
            self.facts.redo,
        )
    }

    /// Whether the cluster's files are cut as they were.
    pub fn fits(&self, control: &ControlFile) -> bool {
        self.facts.system_id == control.system_id && self.facts.pages_per_segment == control.pages_per_segment
    }

    /// Why the log does not tell what changed since, if it does not: checksums that were switched on or off rewrote
    /// pages without it.
    pub fn log_is_silent(&self, control: &ControlFile) -> Option<String> {
        (self.facts.data_checksum_version != control.data_checksum_version)
            .then(|| "data checksums were switched on or off since the parent".to_owned())
    }
}

/// Finds the parent's entries for paths that come in ascending order.
pub struct Entries<I: Iterator> {
    files: Peekable<I>,
}

impl<I: Iterator<Item = Result<FileEntry, RepositoryError>>> Entries<I> {
    /// Looks through `files`, which are sorted by path.
    pub fn new(files: I) -> Entries<I> {
        Entries {
            files: files.peekable(),
        }
    }

    /// The parent's file at `path`; `None` when it had none there. Paths must be asked for in ascending order.
    ///
    /// # Errors
    /// `Damaged` when the manifest is.
    pub fn file(&mut self, path: &str) -> Result<Option<FileEntry>, RepositoryError> {
        let is_before = |entry: &Result<FileEntry, _>| {
            entry
                .as_ref()
                .is_ok_and(|entry: &FileEntry| entry.meta.path.as_str() < path)
        };
        while self.files.next_if(is_before).is_some() {}
        let is_it = |entry: &Result<FileEntry, RepositoryError>| match entry {
            Ok(entry) => entry.meta.path == path,
            Err(_) => true,
        };
        let found = self.files.next_if(is_it).transpose()?;
        Ok(found.filter(|entry| entry.meta.kind == EntryKind::File))
    }
}
