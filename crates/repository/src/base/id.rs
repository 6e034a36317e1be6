//! What a base backup and a pack are called.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tidemark_types::Timestamp;

/// The name of a base backup: the second it began, in UTC, and eight random hexadecimal digits
/// (`20261121T140300Z-0f3a9c11`). Names sort by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

/// Text that does not name a base backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not the name of a base backup (such as 20261121T140300Z-0f3a9c11)")]
pub struct InvalidBackupId(pub String);

impl BackupId {
    /// Names a backup that begins at `start`; `random` keeps two of one second apart.
    pub fn new(start: Timestamp, random: u32) -> BackupId {
        BackupId(format!(
            "{}-{random:08x}",
            start.to_chrono().format("%Y%m%dT%H%M%SZ")
        ))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BackupId {
    type Err = InvalidBackupId;

    fn from_str(text: &str) -> Result<BackupId, InvalidBackupId> {
        // Wider than what `new` makes, so that names of later versions stay readable; safe as one part of a key.
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if plain && (1..=64).contains(&text.len()) {
            Ok(BackupId(text.to_owned()))
        } else {
            Err(InvalidBackupId(text.to_owned()))
        }
    }
}

impl TryFrom<String> for BackupId {
    type Error = InvalidBackupId;

    fn try_from(text: String) -> Result<BackupId, InvalidBackupId> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> String {
        id.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one pack (or one map object) of the repository: the backup that wrote it, and its number there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartId {
    /// The backup that wrote it.
    pub backup: BackupId,
    /// Counted from zero within that backup.
    pub number: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_when_and_survive_being_read() {
        let id = BackupId::new(Timestamp(1_795_269_780_000_000), 0x0f3a_9c11);
        assert_eq!(id.to_string(), "20261121T140300Z-0f3a9c11");
        assert_eq!(id.as_str().parse(), Ok(id));
        for text in ["", "a/b", "..", "a b", &"x".repeat(65)] {
            assert!(text.parse::<BackupId>().is_err(), "{text}");
        }
    }
}
