//! How a command ends: the one place where errors are printed and turned into exit codes. `wal-get` is exempt: see
//! [`crate::wal::get`].

use std::error::Error;
use std::io::Write;

use tidemark_mysql::binlog::BinlogError;
use tidemark_mysql::restore::LogError;
use tidemark_postgres::basebackup::BaseBackupError;
use tidemark_postgres::control_file::ControlFileError;
use tidemark_postgres::restore::RestoreError;
use tidemark_postgres::wal::WalError;
use tidemark_repository::RepositoryError;
use tidemark_storage::{InvalidUrl, StorageError};
use tidemark_types::{ErrorClass, ExitCode};

/// A failure that this program itself found, with advice where there is some.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    class: ErrorClass,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure of this class; the message says what failed, on what, and why.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Failure {
        Failure {
            class,
            message: message.into(),
            hint: None,
        }
    }

    /// A mistake on the command line.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(ErrorClass::Config, message)
    }

    /// Adds what to do about it.
    pub fn hint(self, hint: impl Into<String>) -> Failure {
        Failure {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// What kind of failure this is.
    pub fn class(&self) -> ErrorClass {
        self.class
    }
}

/// The class of an error: that of the outermost link of its chain that has one, else permanent.
pub fn class_of(error: &anyhow::Error) -> ErrorClass {
    let class = error.chain().find_map(class_of_link);
    class.unwrap_or(ErrorClass::Permanent)
}

fn class_of_link(link: &(dyn Error + 'static)) -> Option<ErrorClass> {
    None.or_else(|| link.downcast_ref::<Failure>().map(Failure::class))
        .or_else(|| link.downcast_ref::<RepositoryError>().map(RepositoryError::class))
        .or_else(|| link.downcast_ref::<StorageError>().map(StorageError::class))
        .or_else(|| link.downcast_ref::<InvalidUrl>().map(InvalidUrl::class))
        .or_else(|| link.downcast_ref::<RestoreError>().map(RestoreError::class))
        .or_else(|| link.downcast_ref::<BaseBackupError>().map(BaseBackupError::class))
        .or_else(|| {
            link.downcast_ref::<ControlFileError>()
                .map(ControlFileError::class)
        })
        .or_else(|| link.downcast_ref::<WalError>().map(WalError::class))
        .or_else(|| link.downcast_ref::<BinlogError>().map(BinlogError::class))
        .or_else(|| link.downcast_ref::<LogError>().map(LogError::class))
        .or_else(|| {
            link.downcast_ref::<tidemark_mysql::restore::RestoreError>()
                .map(tidemark_mysql::restore::RestoreError::class)
        })
        .or_else(|| link.downcast_ref::<std::io::Error>().and_then(class_of_io))
}

fn class_of_io(error: &std::io::Error) -> Option<ErrorClass> {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    // A full disk or a closed directory is for the operator to mend.
    matches!(
        error.kind(),
        PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull
    )
    .then_some(ErrorClass::Config)
}

/// Prints an error with its causes and its hint, and returns the exit code that its class stands for.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // Nothing is left to be done when standard error is closed.
    let _ = std::io::stderr().lock().write_all(render(error).as_bytes());
    class_of(error).exit_code()
}

/// `error: <what>: <cause>: <cause>`, and a line `hint: …` when a link of the chain has one.
pub fn render(error: &anyhow::Error) -> String {
    let mut rendered = format!("error: {error}");
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // Some libraries repeat their cause in their own message.
        if !said.ends_with(&text) {
            rendered.push_str(": ");
            rendered.push_str(&text);
        }
        said = text;
    }
    rendered.push('\n');
    let hint = error
        .chain()
        .find_map(|link| link.downcast_ref::<Failure>()?.hint.as_deref());
    if let Some(hint) = hint {
        rendered.push_str(&format!("hint: {hint}\n"));
    }
    rendered
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn causes_follow_each_other_and_the_hint_has_a_line() {
        let failure =
            Failure::new(ErrorClass::Unreachable, "the target lies in a gap").hint("--target-lsn 0/5000000");
        let error = Err::<(), _>(failure)
            .context("plan a restore of shop")
            .unwrap_err();
        assert_eq!(
            render(&error),
            "error: plan a restore of shop: the target lies in a gap\nhint: --target-lsn 0/5000000\n"
        );
        assert_eq!(class_of(&error).exit_code(), ExitCode::TargetUnreachable);
    }

    #[test]
    fn a_full_disk_is_for_the_operator_to_mend() {
        let error = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert_eq!(class_of(&error).exit_code(), ExitCode::Usage);
    }
}
