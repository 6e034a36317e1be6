//! What can go wrong between a laid-down data directory and a running server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemark_types::ErrorClass;

use crate::basebackup::{BaseBackupError, database_message, sql_class};

/// A restore that failed in PostgreSQL's part of it.
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
    /// No server programs of the backup's major version on this host.
    #[error(
        "the backup needs PostgreSQL {major}, and no \"postgres\" of that version was found in {}; install the server \
         package of version {major} (postgresql-{major} on Debian and Ubuntu, postgresql{major}-server on Red Hat, \
         postgresql@{major} with Homebrew), or name its directory with --pg-bin",
        display_list(.looked_in)
    )]
    BinariesNotFound {
        /// The version that is needed.
        major: u32,
        /// Where it was looked for.
        looked_in: Vec<PathBuf>,
    },
    /// The directory that was named holds programs of another version.
    #[error(
        "{directory} holds PostgreSQL {found}, and the backup needs {expected}; name the directory of that version with \
         --pg-bin",
        directory = .directory.display()
    )]
    WrongMajor {
        /// The directory.
        directory: PathBuf,
        /// What it holds.
        found: u32,
        /// What the backup needs.
        expected: u32,
    },
    /// The directory that was named holds no server programs that run.
    #[error("{directory} holds no \"postgres\" that runs: {problem}", directory = .directory.display())]
    NoServer {
        /// The directory.
        directory: PathBuf,
        /// What happened.
        problem: String,
    },
    /// A place that must be empty is not.
    #[error("{path} is not empty; nothing was changed. Choose another place with --tablespace, or empty it", path = .path.display())]
    NotEmpty {
        /// The place.
        path: PathBuf,
    },
    /// A tablespace mapping that cannot be carried out.
    #[error("--tablespace {mapping}: {problem}")]
    Mapping {
        /// The mapping, as it was given.
        mapping: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tablespace map in the backup that makes no sense.
    #[error(transparent)]
    Map(#[from] BaseBackupError),
    /// A setting's value cannot be written into a configuration file.
    #[error("the setting {name} cannot hold a line end or a zero byte")]
    Setting {
        /// Which setting.
        name: String,
    },
    /// The data directory belongs to root, and PostgreSQL does not run as root.
    #[error(
        "{path} belongs to root, and PostgreSQL refuses to run as root; give it to another user, such as: chown -R \
         postgres {path}",
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
    #[error("{operation}: not done within {} s; its log is {log}", .after.as_secs(), log = .log.display())]
    Timeout {
        /// What it was told.
        operation: &'static str,
        /// How long was waited.
        after: Duration,
        /// Its log file.
        log: PathBuf,
    },
    /// A statement failed.
    #[error("{operation}: {}", database_message(.source))]
    Sql {
        /// What was tried.
        operation: &'static str,
        /// What the server or the connection said.
        source: tokio_postgres::Error,
    },
    /// The server answered something else than expected.
    #[error("{operation}: the server answered \"{answer}\"")]
    Answer {
        /// What was tried.
        operation: &'static str,
        /// The answer.
        answer: String,
    },
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

    pub(crate) fn sql(operation: &'static str) -> impl FnOnce(tokio_postgres::Error) -> RestoreError {
        move |source| RestoreError::Sql { operation, source }
    }

    /// The class of the error.
    pub fn class(&self) -> ErrorClass {
        match self {
            RestoreError::Io { .. } | RestoreError::ServerEnded { .. } | RestoreError::Answer { .. } => {
                ErrorClass::Permanent
            }
            RestoreError::BinariesNotFound { .. }
            | RestoreError::WrongMajor { .. }
            | RestoreError::NoServer { .. }
            | RestoreError::Mapping { .. }
            | RestoreError::Setting { .. }
            | RestoreError::OwnedByRoot { .. } => ErrorClass::Config,
            RestoreError::NotEmpty { .. } => ErrorClass::Conflict,
            RestoreError::Map(error) => error.class(),
            RestoreError::Timeout { .. } => ErrorClass::Transient,
            RestoreError::Sql { source, .. } => sql_class(source),
        }
    }
}

fn display_list(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "PATH".to_owned();
    }
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
