//! What can go wrong between a laid-down data directory and a server that stands at the target.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemark_types::ErrorClass;

use super::log::LogError;
use super::program::Series;
use crate::binlog::BinlogOffset;
use crate::error::MysqlError;

/// A restore that failed in the server's part of it.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A file or directory could not be read, written or made.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried, such as "write".
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// No server program of the backup's release series on this host.
    #[error(
        "the backup needs {series}, and no server program of it was found (looked in {}); install the server package of \
         that series, or name the program with --mysqld",
        display_list(.looked_in)
    )]
    ProgramNotFound {
        /// What is needed.
        series: Series,
        /// Where it was looked for.
        looked_in: Vec<PathBuf>,
    },
    /// The program that was named is of another release series.
    #[error(
        "{path} is {found}, and the backup needs {expected}; name a program of that series with --mysqld",
        path = .path.display()
    )]
    WrongSeries {
        /// The program.
        path: PathBuf,
        /// What it is.
        found: Series,
        /// What the backup needs.
        expected: Series,
    },
    /// The program that was named is no server that runs.
    #[error("{path} is no server that can be run: {problem}", path = .path.display())]
    NoServer {
        /// The program.
        path: PathBuf,
        /// What happened.
        problem: String,
    },
    /// A setting's name or value cannot be written into an option file.
    #[error(
        "the setting {name} cannot be written: a name holds letters, digits and _, a value no line end and no quote"
    )]
    Setting {
        /// Which setting.
        name: String,
    },
    /// The data directory belongs to root, and the server does not run as root.
    #[error(
        "{path} belongs to root, and the server refuses to run as root; give it to another user, such as: chown -R \
         mysql {path}",
        path = .path.display()
    )]
    OwnedByRoot {
        /// The data directory.
        path: PathBuf,
    },
    /// The server ended, which nobody had asked it to.
    #[error("the server ended ({status}); the end of its log {log}:\n{log_tail}", log = .log.display())]
    ServerEnded {
        /// How it ended.
        status: String,
        /// Its log file.
        log: PathBuf,
        /// The last lines of that file.
        log_tail: String,
    },
    /// The server did not do in time what it was told to.
    #[error("{operation}: not done within {} s; the server's log is {log}", .after.as_secs(), log = .log.display())]
    Timeout {
        /// What it was told.
        operation: &'static str,
        /// How long was waited.
        after: Duration,
        /// Its log file.
        log: PathBuf,
    },
    /// A statement failed, or the connection.
    #[error(transparent)]
    Sql(#[from] MysqlError),
    /// A statement of a dump failed.
    #[error("load {path}, statement {statement}: {source}", path = .path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Which of its statements, from one on.
        statement: u64,
        /// What the server says.
        source: Box<MysqlError>,
    },
    /// The server answered something that makes no sense.
    #[error("{operation}: the server answered \"{answer}\"")]
    Answer {
        /// What was asked.
        operation: &'static str,
        /// The answer.
        answer: String,
    },
    /// The log must not be applied.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The base is not what its backup says.
    #[error(
        "the data holds '{found}', and its base backup says '{expected}': it is another backup's, or it was changed"
    )]
    OtherBase {
        /// What the backup says.
        expected: String,
        /// What the server says.
        found: String,
    },
    /// A transaction could not be applied.
    #[error(transparent)]
    Transaction(#[from] FailedTransaction),
    /// What was applied is not what the log holds.
    #[error(
        "{what}: the log up to {file} holds '{expected}', and the server says '{found}'; do not use this server"
    )]
    NotAsCounted {
        /// What was compared.
        what: &'static str,
        /// The last file that was applied.
        file: String,
        /// What the log holds.
        expected: String,
        /// What the server says.
        found: String,
    },
    /// Whoever feeds the log stopped before its end.
    #[error("the log ended after {placed} of {files} files: fetching them was given up")]
    FeedEnded {
        /// Files that came.
        placed: usize,
        /// Files that were to come.
        files: usize,
    },
    /// What was noted of an interrupted replay cannot be read.
    #[error("{path} does not tell how far the replay came: {problem}; restore into another directory", path = .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An interrupted replay cannot go on.
    #[error("the earlier restore cannot go on: {reason}; restore into another directory")]
    CannotResume {
        /// Why.
        reason: String,
    },
}

/// A transaction that the server could not apply. What lies before it is applied, and nothing behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FailedTransaction {
    /// Its GTID.
    pub gtid: String,
    /// The binlog file it lies in, as the original named it.
    pub file: String,
    /// Where it begins there.
    pub begin: BinlogOffset,
    /// Where it ends there.
    pub end: BinlogOffset,
    /// The number of the server's error.
    pub code: u32,
    /// What the server says.
    pub message: String,
}

/// What happened, and how to go on.
impl fmt::Display for FailedTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FailedTransaction {
            gtid,
            file,
            begin,
            end,
            code,
            message,
        } = self;
        write!(
            f,
            "transaction {gtid} ({file}:{begin} to {end}) could not be applied: {message} (error {code}); all before it is \
             applied. To stop there, restore to just before it (--target-position {file}:{begin}); where the data differs from \
             what the original had, begin with an earlier base backup"
        )
    }
}

impl RestoreError {
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RestoreError {
        let path = path.to_owned();
        move |source| RestoreError::Io {
            operation,
            path,
            source,
        }
    }

    pub(crate) fn cannot_resume(reason: impl Into<String>) -> RestoreError {
        RestoreError::CannotResume {
            reason: reason.into(),
        }
    }

    /// The class of the error.
    pub fn class(&self) -> ErrorClass {
        match self {
            RestoreError::Io { .. } | RestoreError::ServerEnded { .. } | RestoreError::Answer { .. } => {
                ErrorClass::Permanent
            }
            RestoreError::ProgramNotFound { .. }
            | RestoreError::WrongSeries { .. }
            | RestoreError::NoServer { .. }
            | RestoreError::Setting { .. }
            | RestoreError::OwnedByRoot { .. } => ErrorClass::Config,
            RestoreError::Timeout { .. } => ErrorClass::Transient,
            RestoreError::Sql(error) => error.class(),
            RestoreError::Load { source, .. } => source.class(),
            RestoreError::Log(error) => error.class(),
            RestoreError::OtherBase { .. } | RestoreError::State { .. } => ErrorClass::Corrupt,
            RestoreError::Transaction(_) | RestoreError::NotAsCounted { .. } => ErrorClass::CheckFailed,
            RestoreError::FeedEnded { .. } => ErrorClass::Cancelled,
            RestoreError::CannotResume { .. } => ErrorClass::Conflict,
        }
    }
}

fn display_list(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}
