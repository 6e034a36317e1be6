//! What an archive keeps of a branch of binlogs beside the log itself.

use serde::{Deserialize, Serialize};
use tidemark_types::{BinlogBasename, LogFiles};

use crate::binlog::Flavor;

/// A line of binlog files of one server, numbered without a hole: what a branch is in MySQL and MariaDB. A new one begins
/// after a RESET, on another server after a failover, after a gap, and where a server came back without log that it had
/// sent. Stored as [`BinlogBranch::FILE_NAME`] among the branch's files before any of its log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinlogBranch {
    /// What the files' names begin with: `bin` of `bin.000003`.
    pub basename: String,
    /// Whose format they have.
    pub flavor: Flavor,
    /// The server that wrote it: MySQL's `server_uuid`; of MariaDB, which has none, `server_id` in decimal.
    pub server: String,
    /// The number of its first file.
    pub first_file: u64,
    /// Why it began, for people.
    pub reason: String,
    /// What it goes on from without a gap. Transactions may be repeated: those that the server had replicated before.
    /// `None`: nothing leads to it, and a restore begins with a base backup of this branch.
    pub follows: Option<BranchEnd>,
}

/// Where one branch is left for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchEnd {
    /// The number of the branch.
    pub branch: u32,
    /// The last of its files that counts.
    pub file: u64,
    /// How much of that file counts, in bytes.
    pub offset: u64,
}

impl BinlogBranch {
    /// The name of the object among the branch's files.
    pub const FILE_NAME: &'static str = "branch.json";

    /// How points of this branch, of number `branch`, are written.
    pub fn files(&self, branch: u32) -> LogFiles {
        LogFiles::Binlog {
            branch,
            basename: BinlogBasename::new(&self.basename),
        }
    }
}
