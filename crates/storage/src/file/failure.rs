//! What the operating system refused, in words for an operator, with a class.

use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Range;

use rustix::io::Errno;
use tidemark_types::ErrorClass;

use crate::file::root::Root;
use crate::{ObjectKey, Operation, StorageError};

/// A system call that failed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Failure {
    Errno(Errno),
    /// The file ended before the bytes that its size promised.
    EndedEarly,
}

impl Failure {
    pub(super) fn from_io(error: &io::Error) -> Failure {
        match Errno::from_io_error(error) {
            Some(errno) => Failure::Errno(errno),
            None => Failure::EndedEarly,
        }
    }

    /// A full disk is transient: somebody frees space, or retention does, and the work goes on.
    pub(super) fn class(self) -> ErrorClass {
        match self {
            Failure::Errno(
                Errno::NOSPC
                | Errno::DQUOT
                | Errno::INTR
                | Errno::AGAIN
                | Errno::MFILE
                | Errno::NFILE
                | Errno::NOMEM
                | Errno::STALE
                | Errno::TIMEDOUT
                | Errno::BUSY,
            ) => ErrorClass::Transient,
            Failure::Errno(_) => ErrorClass::Permanent,
            Failure::EndedEarly => ErrorClass::Corrupt,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Errno(Errno::NOSPC) => {
                f.write_str("no space left on the file system: free some, or shorten retention")
            }
            Failure::Errno(Errno::DQUOT) => {
                f.write_str("the disk quota is used up: raise it, or shorten retention")
            }
            Failure::Errno(Errno::NOTDIR | Errno::ISDIR | Errno::EXIST) => {
                f.write_str("a name cannot be an object and a folder at once in a directory")
            }
            Failure::Errno(Errno::AGAIN) => f.write_str(
                "another process has held the lock file .tmp~/lock for seconds: see whether it hangs",
            ),
            Failure::Errno(Errno::MFILE | Errno::NFILE) => {
                f.write_str("too many open files: raise LimitNOFILE (ulimit -n)")
            }
            Failure::Errno(errno) => fmt::Display::fmt(&io::Error::from(*errno), f),
            Failure::EndedEarly => f.write_str("the file ended before its size was reached"),
        }
    }
}

impl Error for Failure {}

/// What is being done on what, to make errors from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    root: &'a Root,
    operation: Operation,
    name: &'a str,
}

impl<'a> Subject<'a> {
    pub(super) fn object(root: &'a Root, operation: Operation, key: &'a ObjectKey) -> Subject<'a> {
        Subject::named(root, operation, key.as_str())
    }

    pub(super) fn named(root: &'a Root, operation: Operation, name: &'a str) -> Subject<'a> {
        Subject {
            root,
            operation,
            name,
        }
    }

    pub(super) fn not_found(&self) -> StorageError {
        StorageError::NotFound {
            subject: self.name.to_owned(),
            url: self.root.url().to_owned(),
        }
    }

    pub(super) fn already_exists(&self) -> StorageError {
        StorageError::AlreadyExists {
            subject: self.name.to_owned(),
            url: self.root.url().to_owned(),
        }
    }

    pub(super) fn changed(&self) -> StorageError {
        StorageError::Changed {
            subject: self.name.to_owned(),
            url: self.root.url().to_owned(),
        }
    }

    pub(super) fn invalid_range(&self, range: &Range<u64>) -> StorageError {
        StorageError::InvalidRange {
            subject: self.name.to_owned(),
            url: self.root.url().to_owned(),
            begin: range.start,
            end: range.end,
        }
    }

    /// An error met while looking for an existing object: one below a file is as absent as one in no folder.
    pub(super) fn read_error(&self, errno: Errno) -> StorageError {
        match errno {
            Errno::NOENT | Errno::NOTDIR => self.not_found(),
            other => self.error(other),
        }
    }

    pub(super) fn error(&self, errno: Errno) -> StorageError {
        match config_problem(errno, &self.root.path().display().to_string()) {
            Some(problem) => StorageError::Config {
                operation: self.operation,
                subject: self.name.to_owned(),
                problem,
            },
            None => self.failed(Failure::Errno(errno)),
        }
    }

    pub(super) fn failed(&self, failure: Failure) -> StorageError {
        StorageError::Failed {
            operation: self.operation,
            subject: self.name.to_owned(),
            url: self.root.url().to_owned(),
            class: failure.class(),
            source: Box::new(failure),
        }
    }
}

/// What to tell the operator when the system's set-up is at fault.
pub(super) fn config_problem(errno: Errno, path: &str) -> Option<String> {
    match errno {
        Errno::ACCESS | Errno::PERM => Some(format!(
            "permission denied: give user id {uid} access to {path} and all below it",
            uid = rustix::process::geteuid().as_raw()
        )),
        Errno::ROFS => Some(format!(
            "the file system that holds {path} is mounted read-only: mount it for writing"
        )),
        _ => None,
    }
}
