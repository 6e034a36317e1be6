//! What is stored of a server's base backups, as schedule and state want to know it.

use tidemark_repository::base::{BackupHeader, BackupKind as StoredKind};
use tidemark_repository::{Archive, GapRecord};
use tidemark_types::Timestamp;

use crate::archive::{backups, is_open};
use crate::schedule::{BackupHistory, BackupKind};
use crate::state::BackupFacts;

/// The base backups and the gaps of one generation.
#[derive(Debug)]
pub struct Stored {
    backups: Vec<BackupHeader>,
    gaps: Vec<GapRecord>,
}

impl Stored {
    /// Lists them.
    ///
    /// # Errors
    /// What the repository says.
    pub async fn list(archive: &Archive) -> anyhow::Result<Stored> {
        Ok(Stored {
            backups: backups(archive).await?,
            gaps: archive.gaps().await?,
        })
    }

    /// For deciding; failures are the caller's to know.
    pub fn history(&self) -> BackupHistory {
        let full = self
            .backups
            .iter()
            .filter(|backup| backup.kind == StoredKind::Full);
        let newest_began = self.newest_began();
        BackupHistory {
            newest_began,
            newest_full_began: full.map(|backup| backup.facts.started).max(),
            gap_since: self.has_open_gap(),
            ..BackupHistory::default()
        }
    }

    /// Whether the log has a gap that no backup lies wholly behind.
    pub fn has_open_gap(&self) -> bool {
        self.gaps.iter().any(|gap| is_open(gap, &self.backups))
    }

    /// For showing.
    pub fn newest(&self) -> Option<BackupFacts> {
        self.backups
            .iter()
            .max_by_key(|backup| backup.facts.started)
            .map(shown)
    }

    fn newest_began(&self) -> Option<Timestamp> {
        self.backups.iter().map(|backup| backup.facts.started).max()
    }
}

/// A stored backup as state shows it: whoever took it, with what its manifest says, so that nothing jumps when the agent
/// looks into the repository again.
pub fn shown(backup: &BackupHeader) -> BackupFacts {
    BackupFacts {
        id: backup.backup.to_string(),
        kind: match backup.kind {
            StoredKind::Full => BackupKind::Full,
            StoredKind::Incremental => BackupKind::Incremental,
        },
        began: backup.facts.started,
        ended: backup.facts.stopped,
        size_bytes: backup.totals.bytes,
        stored_bytes: backup.totals.new_stored,
    }
}
