//! Why a binlog file may not become a relay log.

use tidemark_types::ErrorClass;

use crate::binlog::{BinlogError, BinlogOffset, Flavor};

/// A log that must not be applied. Every variant names the file; nothing of it has reached a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The bytes are damaged.
    #[error("binlog file {file} must not be applied: {source}")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it, and where.
        source: BinlogError,
    },
    /// It is the log of another vendor's server.
    #[error("binlog file {file} was written by {found}, and the server that shall apply it is {expected}")]
    Vendor {
        /// The file.
        file: String,
        /// Whose the log must be.
        expected: Flavor,
        /// Whose it is.
        found: Flavor,
    },
    /// A transaction comes before the event that tells what lies in the files before.
    #[error(
        "binlog file {file} does not tell what lies before it, so that nothing shows whether transactions are missing"
    )]
    Unlisted {
        /// The file.
        file: String,
    },
    /// The file does not follow the one before it.
    #[error(
        "binlog file {file} does not follow the one before it: transactions are missing between them, or the server lost \
         some that were archived. It says that before it lie '{listed}', and the log up to it holds '{logged}'"
    )]
    NotJoined {
        /// The file.
        file: String,
        /// What it says lies before it.
        listed: String,
        /// What lies in the files before it.
        logged: String,
    },
    /// The log begins behind the data.
    #[error(
        "the log begins behind the base backup: before {file}:{at} lie '{missing}', which the base backup does not hold; \
         begin with an earlier file"
    )]
    BehindBase {
        /// The first file.
        file: String,
        /// Where applying was to begin.
        at: BinlogOffset,
        /// What neither holds; in MariaDB the whole position.
        missing: String,
    },
    /// Applying was to begin where no transaction begins.
    #[error(
        "binlog file {file} cannot be applied from offset {at} on: that lies within a transaction, or behind its end"
    )]
    Start {
        /// The file.
        file: String,
        /// Where applying was to begin.
        at: BinlogOffset,
    },
    /// The same transaction lies twice in one line of the log.
    #[error(
        "binlog file {file} holds transaction {gtid} at offset {at}, which already lies in the log before it"
    )]
    Repeated {
        /// The file.
        file: String,
        /// Where the second one begins.
        at: BinlogOffset,
        /// Which transaction.
        gtid: String,
    },
    /// The source says that changes are missing in its log.
    #[error(
        "binlog file {file} says at offset {at} that changes are missing there: {message}; restore to a target before \
         it, or from a base backup taken after it"
    )]
    Incident {
        /// The file.
        file: String,
        /// Where.
        at: BinlogOffset,
        /// What the source wrote.
        message: String,
    },
    /// A transaction without a GTID, where only GTIDs tell what the data holds.
    #[error(
        "binlog file {file} holds a transaction without a GTID at offset {at}, and the base backup does not tell exactly \
         where in the log its data stands: set gtid_mode = ON and take another base backup"
    )]
    Anonymous {
        /// The file.
        file: String,
        /// Where it begins.
        at: BinlogOffset,
    },
    /// What the data has executed is no one point of the log.
    #[error(
        "the data holds '{executed}', which the log does not reach before {before} in {file}: its domains came to places \
         apart, or it is another's data; restore into another directory"
    )]
    Apart {
        /// The file where that showed.
        file: String,
        /// What the data holds.
        executed: String,
        /// The transaction that it lacks.
        before: String,
    },
    /// An interrupted replay may have left a part of a transaction.
    #[error(
        "transaction {gtid} ({file}:{at}) was perhaps applied in part when the replay was interrupted: it changes the schema, \
         or engines without transactions, or is XA; restore into another directory"
    )]
    InPart {
        /// The file.
        file: String,
        /// Where it begins.
        at: BinlogOffset,
        /// Which transaction.
        gtid: String,
    },
    /// The target does not lie between two transactions.
    #[error("binlog file {file} cannot be cut at offset {cut}: {problem}")]
    Cut {
        /// The file.
        file: String,
        /// Where it was to be cut.
        cut: BinlogOffset,
        /// Why that does not do.
        problem: &'static str,
    },
}

impl LogError {
    /// The class of the error.
    pub fn class(&self) -> ErrorClass {
        match self {
            LogError::Damaged { source, .. } => source.class(),
            LogError::Vendor { .. } => ErrorClass::Config,
            LogError::Unlisted { .. } | LogError::NotJoined { .. } | LogError::Repeated { .. } => {
                ErrorClass::Corrupt
            }
            LogError::Apart { .. } | LogError::InPart { .. } => ErrorClass::Conflict,
            LogError::BehindBase { .. } | LogError::Incident { .. } | LogError::Anonymous { .. } => {
                ErrorClass::Unreachable
            }
            LogError::Start { .. } | LogError::Cut { .. } => ErrorClass::Permanent,
        }
    }
}
