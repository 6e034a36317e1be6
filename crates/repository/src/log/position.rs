//! Points in a log that mean the same to every engine.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A point in the log of one branch: the number of a log file, and an offset within it.
///
/// For PostgreSQL the file is a segment number, so an LSN maps to one and back. The end of a file and the begin of the
/// next are the same point; [`crate::SliceKey`] and coverage use the latter form once a file has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// Number of the log file.
    pub file: u64,
    /// Bytes from its start.
    pub offset: u64,
}

impl LogPosition {
    /// The start of log file `file`.
    pub fn start_of(file: u64) -> LogPosition {
        LogPosition { file, offset: 0 }
    }

    /// The start of the grain that holds this position.
    pub fn grain_start(self) -> LogPosition {
        LogPosition {
            file: self.file,
            offset: self.offset - self.offset % super::GRAIN_LEN,
        }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {} offset {}", self.file, self.offset)
    }
}
