//! How far a replay has come, beside the data: so that one that was interrupted goes on, or is told that it cannot.
//!
//! Nothing is flushed while replaying (see `RELAXED` in the options). A server that is killed leaves data that recovers, as
//! what it wrote is with the operating system; a host that crashes leaves data that does not, and its boot id tells.
//!
//! The mark moves when everything up to it is applied and the server's log was flushed to the operating system. Behind it may
//! lie more, up to `applying_to`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::RestoreError;
use super::log::LogPlace;
use super::owner::ServerUser;

/// Of this file; a later one may hold what an earlier program would pass over.
const FORMAT: u32 = 1;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is noted of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayState {
    format: u32,
    /// The run of the operating system; `None` where it does not tell.
    boot_id: Option<String>,
    /// All up to here is applied. A replay that goes on needs the log from the beginning of this file on.
    pub applied: Option<LogPlace>,
    /// What was executed then, as the server prints it.
    pub executed: String,
    /// Applying was under way, up to here.
    pub applying_to: Option<LogPlace>,
    /// Transactions without a GTID are among what was applied.
    pub has_anonymous: bool,
    /// The server was left to others, who may have written to it.
    pub is_open: bool,
    /// The server was stopped in order since, and all that it wrote is on the disk.
    pub is_on_disk: bool,
}

impl ReplayState {
    /// The state of a base that has `executed` this, and to which nothing was applied.
    pub(super) fn of_base(executed: String) -> ReplayState {
        ReplayState {
            format: FORMAT,
            boot_id: boot_id(),
            applied: None,
            executed,
            applying_to: None,
            has_anonymous: false,
            is_open: false,
            is_on_disk: false,
        }
    }

    /// Reads what an earlier replay on `data_directory` noted in `directory`; `None` when there was none.
    ///
    /// # Errors
    /// [`RestoreError::State`], [`RestoreError::Io`].
    pub fn read(directory: &Path) -> Result<Option<ReplayState>, RestoreError> {
        let path = file(directory);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RestoreError::io("read", &path)(error)),
        };
        let problem = |problem: String| RestoreError::State {
            path: path.clone(),
            problem,
        };
        let state: ReplayState = serde_json::from_str(&text).map_err(|error| problem(error.to_string()))?;
        if state.format != FORMAT {
            return Err(problem(format!(
                "it is of format {}, and this program knows {FORMAT}",
                state.format
            )));
        }
        Ok(Some(state))
    }

    /// Refuses what must not go on.
    pub(super) fn check_resumable(&self) -> Result<(), RestoreError> {
        if self.is_open {
            return Err(RestoreError::cannot_resume(
                "the server was opened for writes, and may have been written to",
            ));
        }
        if !self.is_on_disk && (self.boot_id.is_none() || self.boot_id != boot_id()) {
            return Err(RestoreError::cannot_resume(
                "this host was started anew since, and nothing was flushed to its disks while replaying",
            ));
        }
        if self.applying_to.is_some() && self.has_anonymous {
            return Err(RestoreError::cannot_resume(
                "transactions without GTIDs do not tell which of them were applied",
            ));
        }
        Ok(())
    }

    /// Writes it, replacing the one before as a whole. Blocks.
    pub(super) fn write(&mut self, directory: &Path, user: ServerUser) -> Result<(), RestoreError> {
        self.boot_id = boot_id();
        let path = file(directory);
        let new = path.with_extension("new");
        let text = serde_json::to_vec_pretty(self).map_err(|error| RestoreError::State {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        user.write(&new, &text)?;
        std::fs::rename(&new, &path).map_err(RestoreError::io("write", &path))
    }
}

fn file(directory: &Path) -> PathBuf {
    directory.join("replay.json")
}

/// Names this run of the operating system; only Linux does.
fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string(BOOT_ID).ok()?;
    Some(id.trim().to_owned())
}
