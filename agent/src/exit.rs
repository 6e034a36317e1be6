//! How a command ends: the one place where errors are printed and turned into exit codes.

use std::error::Error;
use std::io::Write;

use tidemark_mysql::MysqlError;
use tidemark_mysql::basebackup::BaseBackupError as MysqlBackupError;
use tidemark_postgres::PostgresError;
use tidemark_postgres::basebackup::BaseBackupError;
use tidemark_postgres::control_file::ControlFileError;
use tidemark_repository::RepositoryError;
use tidemark_storage::StorageError;
use tidemark_types::{ErrorClass, ExitCode};

use crate::archive::{mysql, postgresql};
use crate::config::ConfigError;

/// A failure that the agent itself found, with advice where there is some.
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
        .or_else(|| link.downcast_ref::<ConfigError>().map(ConfigError::class))
        .or_else(|| link.downcast_ref::<PostgresError>().map(PostgresError::class))
        .or_else(|| link.downcast_ref::<MysqlError>().map(MysqlError::class))
        .or_else(|| link.downcast_ref::<RepositoryError>().map(RepositoryError::class))
        .or_else(|| {
            link.downcast_ref::<postgresql::FollowError>()
                .map(postgresql::FollowError::class)
        })
        .or_else(|| {
            link.downcast_ref::<mysql::FollowError>()
                .map(mysql::FollowError::class)
        })
        .or_else(|| link.downcast_ref::<StorageError>().map(StorageError::class))
        .or_else(|| link.downcast_ref::<BaseBackupError>().map(BaseBackupError::class))
        .or_else(|| {
            link.downcast_ref::<MysqlBackupError>()
                .map(MysqlBackupError::class)
        })
        .or_else(|| {
            link.downcast_ref::<ControlFileError>()
                .map(ControlFileError::class)
        })
}

/// Prints an error with its causes and its hint, and returns the exit code that its class stands for.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // Nothing is left to be done when standard error is closed.
    let _ = std::io::stderr().lock().write_all(render(error).as_bytes());
    class_of(error).exit_code()
}

/// `<what>: <cause>: <cause>`.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut rendered = error.to_string();
    let mut said = rendered.clone();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // Some libraries repeat their cause in their own message.
        if !said.ends_with(&text) {
            rendered.push_str(": ");
            rendered.push_str(&text);
        }
        said = text;
    }
    rendered
}

/// What to do about an error, when a link of its chain says it.
pub fn hint_of(error: &anyhow::Error) -> Option<&str> {
    error
        .chain()
        .find_map(|link| link.downcast_ref::<Failure>()?.hint.as_deref())
}

/// `error: <what>: <cause>: <cause>`, and a line `hint: …` when a link of the chain has one.
fn render(error: &anyhow::Error) -> String {
    let mut rendered = format!("error: {}\n", one_line(error));
    if let Some(hint) = hint_of(error) {
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
        let failure = Failure::new(ErrorClass::Conflict, "shop is archived by another agent")
            .hint("stop the other one");
        let error = Err::<(), _>(failure)
            .context("take the lease of shop")
            .unwrap_err();
        assert_eq!(
            render(&error),
            "error: take the lease of shop: shop is archived by another agent\nhint: stop the other one\n"
        );
        assert_eq!(class_of(&error).exit_code(), ExitCode::Conflict);
    }

    #[test]
    fn a_cause_that_was_already_said_is_not_repeated() {
        let cause = anyhow::anyhow!("connection refused");
        let error = cause.context("connect to localhost: connection refused");
        assert_eq!(
            render(&error),
            "error: connect to localhost: connection refused\n"
        );
        assert_eq!(class_of(&error), ErrorClass::Permanent);
    }
}
