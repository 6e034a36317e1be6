//! What can go wrong with a server, and what it means for a retry.
//!
//! Decisions rest on error numbers, which are never translated. Number 1236 alone says nothing: there the text decides, which
//! a source writes in English whatever its `lc_messages` (`Binlog_sender`, `mysql_binlog_send`).

use std::fmt;
use std::io;
use std::time::Duration;

use tidemark_net::{TlsFile, TlsFileError, is_connection_loss};
use tidemark_types::{ByteReader, ErrorClass};

use crate::binlog::BinlogOffset;
use crate::client::OptionsError;

/// A failure of a connection, a statement or a dump.
#[derive(Debug, thiserror::Error)]
pub enum MysqlError {
    /// The connection settings are wrong.
    #[error(transparent)]
    Options(#[from] OptionsError),
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
    /// The server was silent for too long.
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
    /// `ssl-mode` demands TLS and the server has none.
    #[error(
        "the server at {host} does not offer TLS, which ssl-mode={mode} demands; set ssl_cert and ssl_key there, or another ssl-mode"
    )]
    TlsRefused {
        /// Host and port.
        host: String,
        /// The mode that was asked for.
        mode: &'static str,
    },
    /// A certificate, key or root file cannot be used.
    #[error("{} {}: {}", setting_of(.0.file), .0.path, .0.problem)]
    TlsFile(TlsFileError),
    /// Authentication could not be carried out; a refusal by the server is [`MysqlError::Server`] instead.
    #[error("authenticate as '{user}' at {host}: {problem}")]
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
        /// Each host's error.
        attempts: Vec<MysqlError>,
    },
    /// The host answers, but takes no writes: it is a replica, or was fenced off.
    #[error(
        "the server at {host} is read_only, and a source is asked for (target=any takes it all the same)"
    )]
    ReadOnly {
        /// Host and port, or socket path.
        host: String,
    },
    /// The server is older than the oldest version we speak to.
    #[error("the server's version is {found}; MySQL 8.0 or MariaDB 10.6 or later is needed")]
    UnsupportedVersion {
        /// What the server says.
        found: String,
    },
    /// The server answered with an error.
    #[error("{operation}: {error}")]
    Server {
        /// What was asked.
        operation: String,
        /// The answer.
        error: ServerError,
    },
    /// The account may not replicate.
    #[error("{error}: the dump needs GRANT REPLICATION SLAVE ON *.* TO the account '{user}'")]
    MayNotReplicate {
        /// Who asked.
        user: String,
        /// The answer.
        error: ServerError,
    },
    /// The source does not have what was asked for: it was purged, or never was there. A gap.
    #[error("binlog '{file}' from {position} on is not on the server: {error}")]
    LogMissing {
        /// The file that was asked for; that the server misses may be a later one.
        file: String,
        /// Where in it.
        position: BinlogOffset,
        /// The answer.
        error: ServerError,
    },
    /// The source's file ends before the position: it lost its tail, or is another file of the same name.
    #[error("binlog '{file}' ends before {position} on the server: {error}")]
    PastEnd {
        /// The file.
        file: String,
        /// The position that it does not have.
        position: BinlogOffset,
        /// The answer.
        error: ServerError,
    },
    /// The server crashed while it wrote a file, and did not cut off what it had begun. MariaDB's dump ends there, although
    /// other files follow (`send_events`: `LOG_READ_TRUNC`); MySQL trims the file at its next start.
    #[error(
        "binlog '{file}' ends in the midst of an event on the server, which crashed while it wrote it: {error}"
    )]
    TornFile {
        /// The file.
        file: String,
        /// What the server says.
        error: ServerError,
    },
    /// The log holds transactions from before `gtid_mode = ON`, which a MySQL source does not send while it is.
    #[error(
        "binlog '{file}': {error}; SET GLOBAL gtid_mode = ON_PERMISSIVE until the agent has caught up, then ON again"
    )]
    WithoutGtids {
        /// The file.
        file: String,
        /// The answer.
        error: ServerError,
    },
    /// Another replica with our server_id or uuid began a dump, and ours was ended for it.
    #[error("another replica has server_id {server_id} (or our uuid): {error}; set another server_id")]
    ReplicaIdInUse {
        /// Our number.
        server_id: u32,
        /// The answer.
        error: ServerError,
    },
    /// MariaDB cannot begin a dump behind 4 GiB of a file.
    #[error("binlog '{file}': a dump from {position} on cannot be asked for; begin at the file's beginning")]
    PositionTooFar {
        /// The file.
        file: String,
        /// The position.
        position: BinlogOffset,
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
    /// A result lacks what was asked for, or holds it in a form that makes no sense.
    #[error("{operation}: {problem}")]
    Result {
        /// What was asked.
        operation: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl MysqlError {
    /// What retry, exit code and metric label derive from.
    pub fn class(&self) -> ErrorClass {
        match self {
            // A broken handshake may be a dying server; a certificate that was refused will be refused again.
            MysqlError::Tls { source, .. } if is_connection_loss(source) => ErrorClass::Transient,
            MysqlError::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorClass::Config
            }
            MysqlError::Options(_)
            | MysqlError::Tls { .. }
            | MysqlError::TlsRefused { .. }
            | MysqlError::TlsFile(_)
            | MysqlError::Auth { .. }
            | MysqlError::MayNotReplicate { .. }
            | MysqlError::WithoutGtids { .. }
            | MysqlError::UnsupportedVersion { .. } => ErrorClass::Config,
            MysqlError::Resolve { .. }
            | MysqlError::Connect { .. }
            | MysqlError::Timeout { .. }
            | MysqlError::ReadOnly { .. }
            | MysqlError::ReplicaIdInUse { .. }
            | MysqlError::ConnectionLost { .. } => ErrorClass::Transient,
            MysqlError::NoHost { attempts } => class_of_attempts(attempts),
            MysqlError::Server { error, .. } => error.class(),
            MysqlError::LogMissing { .. }
            | MysqlError::TornFile { .. }
            | MysqlError::PastEnd { .. }
            | MysqlError::PositionTooFar { .. }
            | MysqlError::Protocol { .. }
            | MysqlError::Result { .. } => ErrorClass::Permanent,
        }
    }

    /// The server's own answer, where there is one.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            MysqlError::Server { error, .. }
            | MysqlError::MayNotReplicate { error, .. }
            | MysqlError::WithoutGtids { error, .. }
            | MysqlError::TornFile { error, .. }
            | MysqlError::LogMissing { error, .. }
            | MysqlError::PastEnd { error, .. }
            | MysqlError::ReplicaIdInUse { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// The word of the URL for a file.
fn setting_of(file: TlsFile) -> &'static str {
    match file {
        TlsFile::Roots => "ssl-ca",
        TlsFile::Certificate => "ssl-cert",
        TlsFile::Key => "ssl-key",
    }
}

/// One host that may come back is reason enough to try again.
fn class_of_attempts(attempts: &[MysqlError]) -> ErrorClass {
    let classes = || attempts.iter().map(MysqlError::class);
    if classes().any(ErrorClass::is_transient) {
        return ErrorClass::Transient;
    }
    classes().next().unwrap_or(ErrorClass::Config)
}

struct AttemptList<'a>(&'a [MysqlError]);

impl fmt::Display for AttemptList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            fmt::Display::fmt(error, f)?;
        }
        Ok(())
    }
}

/// An error as the server reports it (manual: "ERR_Packet").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// Its number (manual: "Server Error Message Reference").
    pub code: u16,
    /// The five characters of its SQLSTATE; empty before a connection is authenticated.
    pub sqlstate: String,
    /// The message, in the server's language.
    pub message: String,
}

impl ServerError {
    /// `ER_SOURCE_FATAL_ERROR_READING_BINLOG`: all that is wrong with a dump.
    const DUMP: u16 = 1236;
    /// `ER_SLAVE_SAME_ID` of MariaDB.
    const SAME_ID: u16 = 4052;
    /// `EE_FILENOTFOUND`: MariaDB, for a file that its index names and its disk lacks.
    const FILE_NOT_FOUND: u16 = 29;

    /// Reads what stands behind the first byte of an error packet. Bytes that are not UTF-8 are replaced.
    pub(crate) fn read(content: &[u8]) -> Option<ServerError> {
        let mut reader = ByteReader::new(content);
        let code = reader.u16()?;
        let text = reader.rest();
        let (sqlstate, message) = match text.strip_prefix(b"#") {
            Some(marked) => marked.split_at_checked(5)?,
            None => (&b""[..], text),
        };
        Some(ServerError {
            code,
            sqlstate: String::from_utf8_lossy(sqlstate).into_owned(),
            message: String::from_utf8_lossy(message).into_owned(),
        })
    }

    /// What the number means for a retry.
    pub fn class(&self) -> ErrorClass {
        match self.code {
            // Too many connections, out of resources, shutting down, lock waits, deadlocks, network, interrupted, killed,
            // read-only for now, limits of an account.
            1021
            | 1037
            | 1040
            | 1041
            | 1053
            | 1077
            | 1080
            | 1135
            | 1152
            | 1154..=1161
            | 1184
            | 1203
            | 1205
            | 1213
            | 1226
            | 1317
            | 1836
            | 1927
            | 3024
            | 3032
            | 3168
            | 3169
            | 3572
            | 3707 => ErrorClass::Transient,
            // Access denied in its many forms, an unknown database, a blocked host, a missing plugin, an expired password,
            // a locked account, an option that forbids it.
            1044 | 1045 | 1049 | 1095 | 1129 | 1130 | 1141 | 1142 | 1143 | 1227 | 1251 | 1275 | 1290
            | 1370 | 1381 | 1396 | 1524 | 1698 | 1820 | 1862 | 3118 | 3159 | 4151 => ErrorClass::Config,
            _ => ErrorClass::Permanent,
        }
    }

    /// The error of a dump by what it means. Other numbers are what they are.
    pub(crate) fn of_dump(
        self,
        server_id: u32,
        file: &str,
        position: BinlogOffset,
        operation: &'static str,
    ) -> MysqlError {
        let says = |text: &str| self.code == ServerError::DUMP && self.message.contains(text);
        let file = file.to_owned();
        if self.code == ServerError::SAME_ID || says("with the same server_uuid/server_id") {
            return MysqlError::ReplicaIdInUse {
                server_id,
                error: self,
            };
        }
        if says("Cannot replicate anonymous transaction") {
            return MysqlError::WithoutGtids { file, error: self };
        }
        if says("position > file size") || says("impossible position") {
            return MysqlError::PastEnd {
                file,
                position,
                error: self,
            };
        }
        if says("truncated in the middle of event") {
            return MysqlError::TornFile { file, error: self };
        }
        // A file that is not in the index or not on disk, at the start or on the way; MariaDB by GTID.
        let missing = [
            "Could not find first log",
            "could not find next log",
            "purged required binary logs",
            "is not in the master's binlog",
            "since been purged",
            "Could not open log file",
        ];
        if self.code == ServerError::FILE_NOT_FOUND || missing.into_iter().any(says) {
            return MysqlError::LogMissing {
                file,
                position,
                error: self,
            };
        }
        MysqlError::Server {
            operation: operation.to_owned(),
            error: self,
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (error {})", self.message, self.code)
    }
}
