//! How much of each pack a backup still uses. Deciding what to rewrite is upkeep's.

use super::map::PartMap;
use super::reader::BackupReader;
use crate::error::RepositoryError;

/// Stored bytes of each pack that are in use, by index in the manifest's pack table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Liveness {
    live: Vec<u64>,
}

impl Liveness {
    /// Counts what a part uses: of each frame, as much of its stored length as of its plain bytes is used.
    pub fn add(&mut self, part: &PartMap) {
        for extent in part.extents() {
            let Some((frame, _)) = part.frame_of(extent) else {
                continue;
            };
            let index = frame.pack as usize;
            if self.live.len() <= index {
                self.live.resize(index + 1, 0);
            }
            if let Some(live) = self.live.get_mut(index) {
                let used = u128::from(frame.stored_len) * u128::from(extent.len);
                *live += u64::try_from(used / u128::from(frame.plain_len.max(1))).unwrap_or(u64::MAX);
            }
        }
    }

    /// Stored bytes of the pack that are in use.
    pub fn live_bytes(&self, pack: u32) -> u64 {
        self.live.get(pack as usize).copied().unwrap_or(0)
    }
}

impl BackupReader {
    /// How much of each pack this backup uses. Reads all its maps.
    ///
    /// # Errors
    /// `Storage`, `Damaged`.
    pub async fn liveness(&self) -> Result<Liveness, RepositoryError> {
        let mut liveness = Liveness::default();
        for file in self.manifest().files() {
            for part in &file?.parts {
                liveness.add(&self.part(part).await?);
            }
        }
        Ok(liveness)
    }
}
