//! What can go wrong while a base backup is taken.

use std::io;
use std::path::{Path, PathBuf};

use tidemark_types::{ByteSize, ErrorClass};

use super::xbstream::XbstreamError;
use crate::error::MysqlError;

/// A base backup that failed, or could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BaseBackupError {
    /// The server could not be asked.
    #[error(transparent)]
    Sql(#[from] MysqlError),
    /// The server said something else than expected.
    #[error("{operation}: the server answered \"{answer}\"")]
    Answer {
        /// What was tried.
        operation: &'static str,
        /// The answer.
        answer: String,
    },
    /// A file or directory could not be used.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried, such as "read".
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The backup program cannot be run.
    #[error("run {path}: {problem}")]
    Program {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// There is no backup program.
    #[error(
        "there is no mariadb-backup on this host; install the package that came with the server, or set \
         base_backup.program"
    )]
    NoProgram,
    /// The backup program is made for servers of another series.
    #[error(
        "{path} is of version {found} and the server of {server}: it reads the redo log of its own series only; \
         install the one that came with the server"
    )]
    ProgramVersion {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The server's.
        server: String,
    },
    /// The backup program failed.
    #[error("{path} failed ({status}): {messages}")]
    ProgramFailed {
        /// The program.
        path: PathBuf,
        /// How it ended.
        status: String,
        /// What it said of it.
        messages: String,
    },
    /// What the backup program writes makes no sense.
    #[error(transparent)]
    Stream(#[from] XbstreamError),
    /// A file that the backup program writes about the backup is missing or makes no sense.
    #[error("the backup's {name}: {problem}")]
    Info {
        /// Which file.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// There are tables that a clone would come without, and no error would say so.
    #[error(
        "a clone holds InnoDB tables only, and {} are there that are none: {}; ALTER TABLE ... ENGINE=InnoDB, \
         or set base_backup.method = \"dump\"",
        .tables.len(), first_of(.tables)
    )]
    NotInnoDb {
        /// Their names.
        tables: Vec<String>,
    },
    /// There are files that a clone would be made over.
    #[error(
        "a clone holds files of the data directory only, and {} lie elsewhere: {}; bring these tables into it, \
         or set base_backup.method = \"dump\"",
        .files.len(), first_of(.files)
    )]
    Outside {
        /// Where they lie.
        files: Vec<String>,
    },
    /// Transactions may have no GTID: which of them a clone holds could not be told.
    #[error(
        "what a clone holds is told by GTIDs, and gtid_mode is {mode}; set gtid_mode=ON, or base_backup.method = \"dump\""
    )]
    NoGtids {
        /// `gtid_mode`.
        mode: String,
    },
    /// The clone plugin is not there.
    #[error("the server has no clone plugin; INSTALL PLUGIN clone SONAME 'mysql_clone.so'")]
    NoClonePlugin,
    /// The clone does not fit where it is to be made.
    #[error(
        "a clone of {needed} does not fit into {directory}, where {free} are free; set base_backup.scratch_directory \
         to a directory with more room that the server may write to"
    )]
    NoSpace {
        /// Where it is to be made.
        directory: PathBuf,
        /// How much it needs.
        needed: ByteSize,
        /// How much there is.
        free: ByteSize,
    },
    /// The server does not run on this host, or in another data directory.
    #[error(
        "the server at {host} is not the one in {expected} on this host (it runs in {found}, says it); correct \
         data_directory, or connect to it by its own socket or port, not through a proxy or tunnel"
    )]
    Elsewhere {
        /// Where it answers.
        host: String,
        /// Where it says that it runs.
        found: PathBuf,
        /// Where it is said to run.
        expected: PathBuf,
    },
    /// A server without a binlog: nothing could be replayed over its backup.
    #[error("the server writes no binlog; set log_bin and restart it")]
    NoBinlog,
    /// An account that does not see everything: its dump would be of a part, and not say so.
    #[error("a dump needs privileges on *.* that the account lacks: GRANT {missing} ON *.* TO it")]
    DumpPrivileges {
        /// Those that it lacks.
        missing: String,
    },
    /// Nothing was taken from a backup while it held the server's lock.
    #[error(
        "the base backup was given up: it held the server's lock, and the repository took nothing for {seconds} s; it is \
         taken again"
    )]
    LockTooLong {
        /// For how long.
        seconds: u64,
    },
    /// Transactions whose first half is in the log before the dump, and in no row of it.
    #[error(
        "{count} XA transactions are prepared, which a dump cannot hold; it is taken again when they have ended"
    )]
    PreparedTransactions {
        /// How many.
        count: usize,
    },
    /// The backup was called off.
    #[error("the base backup was called off")]
    Cancelled,
}

/// The first of some names.
fn first_of(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    names
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
        + more
}

impl BaseBackupError {
    pub(super) fn io(operation: &'static str, path: &Path, source: io::Error) -> BaseBackupError {
        BaseBackupError::Io {
            operation,
            path: path.to_owned(),
            source,
        }
    }

    /// The class of the error.
    pub fn class(&self) -> ErrorClass {
        match self {
            BaseBackupError::Sql(error) => error.class(),
            BaseBackupError::Stream(error) => error.class(),
            BaseBackupError::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => ErrorClass::Config,
                _ => ErrorClass::Permanent,
            },
            // It says in words only what failed; most of it passes: a lock that was not got, a redo log that ran over.
            BaseBackupError::ProgramFailed { .. }
            | BaseBackupError::PreparedTransactions { .. }
            | BaseBackupError::LockTooLong { .. } => ErrorClass::Transient,
            BaseBackupError::Answer { .. } => ErrorClass::Permanent,
            BaseBackupError::Info { .. } => ErrorClass::Corrupt,
            BaseBackupError::Program { .. }
            | BaseBackupError::NoProgram
            | BaseBackupError::ProgramVersion { .. }
            | BaseBackupError::NotInnoDb { .. }
            | BaseBackupError::NoClonePlugin
            | BaseBackupError::NoGtids { .. }
            | BaseBackupError::Outside { .. }
            | BaseBackupError::NoSpace { .. }
            | BaseBackupError::Elsewhere { .. }
            | BaseBackupError::NoBinlog
            | BaseBackupError::DumpPrivileges { .. } => ErrorClass::Config,
            BaseBackupError::Cancelled => ErrorClass::Cancelled,
        }
    }
}
