//! What can go wrong between us and a server, and what each failure means for a retry.
//!
//! Decisions rest on SQLSTATE and on the operation, never on message texts alone: servers translate their messages
//! (`lc_messages`). Where a text is looked at, the answer without a match is the more general variant.

use std::fmt;
use std::io;
use std::time::Duration;

use tidemark_net::is_connection_loss;
use tidemark_types::{ErrorClass, Lsn, TimelineId};

use crate::conninfo::ConnInfoError;

/// A failure of a connection, a command or a stream.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The connection settings are wrong.
    #[error(transparent)]
    ConnInfo(#[from] ConnInfoError),
    /// The host name could not be looked up.
    #[error("look up host {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's answer.
        source: io::Error,
    },
    /// No connection to the server's port or socket.
    #[error("connect to {host}: {source}")]
    Connect {
        /// Host and port, or socket path.
        host: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The server did not answer in time.
    #[error("{operation}: no answer from {host} within {} s", after.as_secs())]
    Timeout {
        /// What was going on.
        operation: &'static str,
        /// Host and port, or socket path.
        host: String,
        /// How long was waited.
        after: Duration,
    },
    /// A TLS handshake failed.
    #[error("TLS with {host}: {source}")]
    Tls {
        /// Host and port.
        host: String,
        /// The TLS library's answer; a refused certificate is in here.
        source: io::Error,
    },
    /// `sslmode` demands TLS and the server has none.
    #[error(
        "the server at {host} does not support TLS, which sslmode={sslmode} demands; set ssl = on there, or another sslmode"
    )]
    TlsRefused {
        /// Host and port.
        host: String,
        /// The mode that was asked for.
        sslmode: &'static str,
    },
    /// A certificate, key or root file cannot be used.
    #[error("{setting} {path}: {problem}")]
    TlsFile {
        /// The connection setting that names the file.
        setting: &'static str,
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Authentication could not be carried out; a refusal by the server is [`PostgresError::Server`] instead.
    #[error("authenticate as \"{user}\" at {host}: {problem}")]
    Auth {
        /// The user name.
        user: String,
        /// Host and port, or socket path.
        host: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Every host was tried and none served; one entry for each.
    #[error("no host can be used: {}", AttemptList(attempts))]
    NoHost {
        /// Each host and why it did not serve.
        attempts: Vec<(String, PostgresError)>,
    },
    /// The host answers, but is not of the wanted kind (`target_session_attrs`).
    #[error("the server at {host} is {found}, and target_session_attrs={wanted} is asked for")]
    WrongKind {
        /// Host and port, or socket path.
        host: String,
        /// The wanted kind.
        wanted: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// The server is older than the oldest version we speak to.
    #[error("the server's version is {found}; {needed} or later is needed")]
    UnsupportedVersion {
        /// What the server says.
        found: String,
        /// The oldest version that will do.
        needed: &'static str,
    },
    /// The server answered with an error.
    #[error("{operation}: {error}")]
    Server {
        /// What was asked.
        operation: String,
        /// The answer.
        error: Box<ServerError>,
    },
    /// The WAL from the wanted position on is no longer on the server: a gap.
    #[error("WAL from {start} on timeline {timeline} is no longer on the server: {error}")]
    WalRemoved {
        /// Where streaming should have begun.
        start: Lsn,
        /// On which timeline.
        timeline: TimelineId,
        /// The answer, which names the segment.
        error: Box<ServerError>,
    },
    /// The slot was invalidated by the server and holds nothing back any more.
    #[error(
        "replication slot \"{slot}\" is lost: {error}; drop it and make a new one, then take a base backup"
    )]
    SlotLost {
        /// The slot.
        slot: String,
        /// The answer.
        error: Box<ServerError>,
    },
    /// Another connection streams from the slot.
    #[error("replication slot \"{slot}\" is in use by {}: {error}", holder(*.pid))]
    SlotInUse {
        /// The slot.
        slot: String,
        /// The server process that holds it, where the server told.
        pid: Option<u32>,
        /// The answer.
        error: Box<ServerError>,
    },
    /// There is no slot of this name.
    #[error("replication slot \"{slot}\" does not exist on the server")]
    SlotMissing {
        /// The slot.
        slot: String,
    },
    /// The connection broke.
    #[error("{operation}: connection to {host} lost: {source}")]
    ConnectionLost {
        /// What was going on.
        operation: &'static str,
        /// Host and port, or socket path.
        host: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The server sent something that the protocol does not allow here.
    #[error("{operation}: unexpected answer from the server: {problem}")]
    Protocol {
        /// What was going on.
        operation: &'static str,
        /// What was received.
        problem: String,
    },
    /// A value in a result is not what the query asked for.
    #[error("{operation}: {source}")]
    Sql {
        /// What was asked.
        operation: String,
        /// The SQL client's error.
        source: tokio_postgres::Error,
    },
}

impl PostgresError {
    /// What retry, exit code and metric label derive from.
    pub fn class(&self) -> ErrorClass {
        match self {
            PostgresError::ConnInfo(_)
            | PostgresError::Tls { .. }
            | PostgresError::TlsRefused { .. }
            | PostgresError::TlsFile { .. }
            | PostgresError::Auth { .. }
            | PostgresError::UnsupportedVersion { .. } => tls_or_config(self),
            PostgresError::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorClass::Config
            }
            PostgresError::Resolve { .. }
            | PostgresError::Connect { .. }
            | PostgresError::Timeout { .. }
            | PostgresError::WrongKind { .. }
            | PostgresError::SlotInUse { .. }
            | PostgresError::ConnectionLost { .. } => ErrorClass::Transient,
            PostgresError::NoHost { attempts } => class_of_attempts(attempts),
            PostgresError::Server { error, .. } => error.class(),
            PostgresError::WalRemoved { .. }
            | PostgresError::SlotLost { .. }
            | PostgresError::SlotMissing { .. }
            | PostgresError::Protocol { .. } => ErrorClass::Permanent,
            PostgresError::Sql { source, .. } if source.is_closed() => ErrorClass::Transient,
            PostgresError::Sql { .. } => ErrorClass::Permanent,
        }
    }

    /// The server's own answer, where there is one.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            PostgresError::Server { error, .. }
            | PostgresError::WalRemoved { error, .. }
            | PostgresError::SlotLost { error, .. }
            | PostgresError::SlotInUse { error, .. } => Some(error),
            _ => None,
        }
    }

    /// The SQLSTATE of the server's answer, where there is one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server_error().map(|error| error.sqlstate.as_str())
    }
}

/// A broken handshake may be a dying server; a certificate that was refused will be refused again.
fn tls_or_config(error: &PostgresError) -> ErrorClass {
    match error {
        PostgresError::Tls { source, .. } if is_connection_loss(source) => ErrorClass::Transient,
        _ => ErrorClass::Config,
    }
}

/// One host that may come back is reason enough to try again.
fn class_of_attempts(attempts: &[(String, PostgresError)]) -> ErrorClass {
    let classes = || attempts.iter().map(|(_, error)| error.class());
    if classes().any(ErrorClass::is_transient) {
        return ErrorClass::Transient;
    }
    classes().next().unwrap_or(ErrorClass::Config)
}

struct AttemptList<'a>(&'a [(String, PostgresError)]);

impl fmt::Display for AttemptList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (_, error)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            fmt::Display::fmt(error, f)?;
        }
        Ok(())
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another connection".to_owned(),
        |pid| format!("server process {pid}"),
    )
}

/// An error or notice as the server reports it (manual: "Error and Notice Message Fields").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `PANIC`, `WARNING`, ...: never translated.
    pub severity: String,
    /// The five-character code.
    pub sqlstate: String,
    /// The message, in the server's language.
    pub message: String,
    /// More detail, where given.
    pub detail: Option<String>,
    /// Advice, where given.
    pub hint: Option<String>,
}

impl ServerError {
    /// What the SQLSTATE means for a retry (manual appendix "PostgreSQL Error Codes").
    pub fn class(&self) -> ErrorClass {
        let code = self.sqlstate.as_str();
        match code {
            // A database that was dropped, and "all replication slots are in use": nobody but a human mends these.
            "57P04" | "53400" => return ErrorClass::Config,
            // An I/O error on the server's side, and a statement that was cancelled or timed out.
            "58030" | "57014" | "55P03" | "55006" | "25006" => return ErrorClass::Transient,
            "XX001" | "XX002" => return ErrorClass::Corrupt,
            // A database, a role's right, a setting or an object that is not there.
            "3D000" | "42501" | "42704" | "55000" | "0LP01" => return ErrorClass::Config,
            _ => {}
        }
        match code.get(..2) {
            Some("08" | "40" | "53" | "57") => ErrorClass::Transient,
            Some("28") => ErrorClass::Config,
            _ => ErrorClass::Permanent,
        }
    }

    /// Whether the server turned the user or the password down (class 28).
    pub(crate) fn is_authentication(&self) -> bool {
        self.sqlstate.starts_with("28")
    }

    /// 55000 on a slot means "lost" only if the text says so; 13 to 17 say "can no longer get changes" or
    /// "cannot read from", 18 "can no longer access", all with "invalidated" in message or detail.
    pub(crate) fn tells_slot_lost(&self) -> bool {
        let says = |text: &str| text.contains("invalidated") || text.contains("no longer");
        self.sqlstate == "55000" && (says(&self.message) || self.detail.as_deref().is_some_and(says))
    }

    /// The process named by "replication slot ... is active for PID ...": the last number, in any language.
    pub(crate) fn active_pid(&self) -> Option<u32> {
        let end = self.message.rfind(|c: char| c.is_ascii_digit())?;
        let head = self.message.get(..=end)?;
        let begin = head.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
        head.get(begin..)?.parse().ok()
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.sqlstate)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " [hint: {hint}]")?;
        }
        Ok(())
    }
}

impl From<&tokio_postgres::error::DbError> for ServerError {
    fn from(error: &tokio_postgres::error::DbError) -> ServerError {
        ServerError {
            severity: error.severity().to_owned(),
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(sqlstate: &str, message: &str) -> ServerError {
        ServerError {
            sqlstate: sqlstate.to_owned(),
            message: message.to_owned(),
            ..ServerError::default()
        }
    }

    #[test]
    fn sqlstates_are_classed_by_what_mends_them() {
        for (code, class) in [
            ("57P03", ErrorClass::Transient),
            ("57P01", ErrorClass::Transient),
            ("53300", ErrorClass::Transient),
            ("53400", ErrorClass::Config),
            ("28P01", ErrorClass::Config),
            ("28000", ErrorClass::Config),
            ("3D000", ErrorClass::Config),
            ("42501", ErrorClass::Config),
            ("42601", ErrorClass::Permanent),
            ("XX001", ErrorClass::Corrupt),
            ("", ErrorClass::Permanent),
        ] {
            assert_eq!(error(code, "").class(), class, "{code}");
        }
    }

    #[test]
    fn the_holder_of_a_slot_is_read_from_the_message() {
        assert_eq!(
            error("55006", "replication slot \"s1\" is active for PID 4711").active_pid(),
            Some(4711)
        );
        assert_eq!(error("55006", "busy").active_pid(), None);
        assert_eq!(error("55006", "PID 99999999999999999999").active_pid(), None);
    }

    #[test]
    fn one_host_that_may_come_back_makes_the_whole_attempt_transient() {
        let config = || PostgresError::SlotMissing { slot: "s".to_owned() };
        let transient = PostgresError::WrongKind {
            host: "b".to_owned(),
            wanted: "primary",
            found: "a standby",
        };
        let both = PostgresError::NoHost {
            attempts: vec![("a".to_owned(), config()), ("b".to_owned(), transient)],
        };
        assert_eq!(both.class(), ErrorClass::Transient);
        let one = PostgresError::NoHost {
            attempts: vec![("a".to_owned(), config())],
        };
        assert_eq!(one.class(), ErrorClass::Permanent);
    }
}
