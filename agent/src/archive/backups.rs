//! The base backups of an archive, as far as its log has to know them.

use tidemark_repository::base::{BackupHeader, list_backups};
use tidemark_repository::{Archive, GapRecord};

use super::shipper::Causes;
use crate::config::ServerSettings;

/// The base backups of an archive, oldest first.
///
/// # Errors
/// What the repository says.
pub async fn backups(archive: &Archive) -> anyhow::Result<Vec<BackupHeader>> {
    let list = list_backups(&archive.base()).await?;
    for (backup, error) in &list.unreadable {
        tracing::error!(%backup, error = %Causes(error), "the manifest of a base backup cannot be read");
    }
    Ok(list.backups)
}

/// Whether no base backup lies wholly past `gap` yet: then nothing past it can be restored.
pub fn is_open(gap: &GapRecord, backups: &[BackupHeader]) -> bool {
    !backups.iter().any(|backup| {
        let begin = &backup.facts.begin;
        (begin.branch, begin.file, begin.offset) >= (gap.branch.0, gap.end.file, gap.end.offset)
    })
}

/// What to say when a server does not belong to what is stored under its name.
pub fn adopt_hint(settings: &ServerSettings) -> String {
    format!(
        "if this server is to take the name over (after an upgrade, a new initialisation, or a restore that went live), \
         run \"tidemark-agent adopt --config FILE --server {}\"; what is stored stays restorable",
        settings.name
    )
}
