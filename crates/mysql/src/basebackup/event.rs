//! What the ways to back a server up have in common: files that arrive in a stream.

use std::sync::Arc;

use bytes::Bytes;

/// What a base backup holds, in order. Files are open at the same time: each has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    /// A directory, which may stay empty. Directories of files need not come.
    Directory {
        /// Relative path, `/` between components, neither `.` nor `..` among them.
        path: Arc<str>,
    },
    /// A file begins.
    Begin {
        /// Its number: no other file of this stream has it.
        file: u64,
        /// Relative path, as above.
        path: Arc<str>,
        /// Whether it replaces a file of this path that came before, instead of being the first.
        replaces: bool,
    },
    /// Some bytes of a file; never empty.
    Data {
        /// Which file.
        file: u64,
        /// Where in the file they begin: where the ones before end, or somewhere else. What is skipped is zeros, what was
        /// there before is overwritten.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// A file is complete.
    End {
        /// Which file.
        file: u64,
    },
    /// A file that came before has another path from now on. One that has that path already is replaced.
    Rename {
        /// Its path so far. There may have been no such file.
        from: Arc<str>,
        /// Its path from now on.
        to: Arc<str>,
    },
    /// A file that came before is to be forgotten. There may have been no such file.
    Remove {
        /// Its path.
        path: Arc<str>,
    },
}
