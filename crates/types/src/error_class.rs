//! What kind of failure an error is: the one thing that retry, exit code and metric label derive from.

use std::fmt;

/// The class of an error. Every error enum of a library crate maps itself to one; decisions look at nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// May pass by itself: a timeout, a refused connection, a server that is starting. Worth a retry.
    Transient,
    /// Will not pass by itself, and is nobody's configuration: an unexpected answer, a bug.
    Permanent,
    /// Stored or received bytes are not what they must be.
    Corrupt,
    /// Somebody else is at work here, or something else is already there. A human decides.
    Conflict,
    /// The configuration, the command line or the server's settings are wrong.
    Config,
    /// The work was called off.
    Cancelled,
    /// The wanted target cannot be reached from what is stored.
    Unreachable,
    /// The work was done, but a check of its result failed.
    CheckFailed,
}

impl ErrorClass {
    /// The class as it appears in logs and metric labels.
    pub fn label(self) -> &'static str {
        match self {
            ErrorClass::Transient => "transient",
            ErrorClass::Permanent => "permanent",
            ErrorClass::Corrupt => "corrupt",
            ErrorClass::Conflict => "conflict",
            ErrorClass::Config => "config",
            ErrorClass::Cancelled => "cancelled",
            ErrorClass::Unreachable => "unreachable_target",
            ErrorClass::CheckFailed => "check_failed",
        }
    }

    /// Whether the same attempt may succeed later without anybody changing anything.
    pub fn is_transient(self) -> bool {
        self == ErrorClass::Transient
    }

    /// The exit code of a command that ends with this class.
    pub fn exit_code(self) -> ExitCode {
        match self {
            ErrorClass::Permanent | ErrorClass::Cancelled => ExitCode::Unexpected,
            ErrorClass::Config => ExitCode::Usage,
            ErrorClass::Unreachable => ExitCode::TargetUnreachable,
            ErrorClass::Corrupt => ExitCode::Damaged,
            ErrorClass::Transient => ExitCode::Unavailable,
            ErrorClass::Conflict => ExitCode::Conflict,
            ErrorClass::CheckFailed => ExitCode::CheckFailed,
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Exit codes of both binaries (`wal-get` is exempt: PostgreSQL gives its exit codes another meaning).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// Unexpected failure.
    Unexpected = 1,
    /// Usage or configuration.
    Usage = 2,
    /// The target cannot be reached; the nearest one that can is printed.
    TargetUnreachable = 3,
    /// Damaged or missing data.
    Damaged = 4,
    /// Storage or server unreachable.
    Unavailable = 5,
    /// Another writer, or a target that is not empty.
    Conflict = 6,
    /// Restored, but a check or an objective failed.
    CheckFailed = 7,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> std::process::ExitCode {
        std::process::ExitCode::from(code as u8)
    }
}
