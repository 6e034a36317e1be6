//! What can go wrong while a base backup is taken.

use std::path::{Path, PathBuf};

use tidemark_types::{ErrorClass, Lsn, ParseLsnError};

use super::server_manifest::ServerManifestError;
use super::tar::TarError;
use crate::control_file::ControlFileError;

/// A base backup that failed, or could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BaseBackupError {
    /// A file or directory of the cluster could not be read. A file that is gone is no error, and is not reported so.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried, such as "read".
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The control file is no use.
    #[error(transparent)]
    ControlFile(#[from] ControlFileError),
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
    /// A standby became a primary while it was backed up: what was read is no consistent copy.
    #[error("the standby was promoted during the base backup that began at {start}; take a new one")]
    Promoted {
        /// Where the backup began.
        start: Lsn,
    },
    /// backup_label or tablespace_map is not what a server writes.
    #[error("{file}: {problem}")]
    Label {
        /// Which of both.
        file: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A tar archive from the server is broken.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The server's own list of what it sent is broken.
    #[error(transparent)]
    Manifest(#[from] ServerManifestError),
}

impl BaseBackupError {
    pub(crate) fn io(operation: &'static str, path: &Path, source: std::io::Error) -> BaseBackupError {
        BaseBackupError::Io {
            operation,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn sql(operation: &'static str) -> impl FnOnce(tokio_postgres::Error) -> BaseBackupError {
        move |source| BaseBackupError::Sql { operation, source }
    }

    pub(crate) fn lsn(operation: &'static str) -> impl FnOnce(ParseLsnError) -> BaseBackupError {
        move |error| BaseBackupError::Answer {
            operation,
            answer: error.0,
        }
    }

    /// The class of the error.
    pub fn class(&self) -> ErrorClass {
        match self {
            BaseBackupError::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::NotFound => ErrorClass::Config,
                _ => ErrorClass::Permanent,
            },
            BaseBackupError::ControlFile(error) => error.class(),
            BaseBackupError::Sql { source, .. } => sql_class(source),
            BaseBackupError::Answer { .. } => ErrorClass::Permanent,
            BaseBackupError::Promoted { .. } => ErrorClass::Transient,
            BaseBackupError::Label { .. } => ErrorClass::Corrupt,
            BaseBackupError::Tar(error) => error.class(),
            BaseBackupError::Manifest(error) => error.class(),
        }
    }
}

/// A lost connection, a full server and a stopping one pass by themselves; missing rights do not.
/// SQLSTATE classes: appendix "PostgreSQL Error Codes" of the manual.
pub(crate) fn sql_class(error: &tokio_postgres::Error) -> ErrorClass {
    match error.code().map(|state| state.code()) {
        None => ErrorClass::Transient,
        Some("42501") => ErrorClass::Config,
        Some(state) if ["08", "53", "57"].iter().any(|class| state.starts_with(class)) => {
            ErrorClass::Transient
        }
        Some(state) if state.starts_with("28") || state.starts_with("3D") => ErrorClass::Config,
        Some(_) => ErrorClass::Permanent,
    }
}

/// The server's own words where it spoke; `tokio_postgres::Error` alone prints only "db error".
pub(crate) fn database_message(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(server) => match server.hint() {
            Some(hint) => format!("{} ({hint})", server.message()),
            None => server.message().to_owned(),
        },
        None => error.to_string(),
    }
}
