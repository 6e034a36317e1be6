//! Global transaction identifiers. The two vendors share the word and nothing else:
//!
//! - MySQL's name a source (its uuid, and since 8.3 a tag) and a number; which transactions a server has is a set of
//!   intervals, possibly with holes: [`GtidSet`].
//! - MariaDB's name a domain, a server and a sequence number; where a server is, is the last of each domain:
//!   [`MariaDbPosition`]. There is no set: a hole does not show.

mod interval;
mod mariadb;
mod set;
mod source;
#[cfg(test)]
mod tests;

pub use interval::Interval;
pub use mariadb::{MariaDbGtid, MariaDbPosition, MariaDbState};
pub use set::{DecodeGtidSetError, Gtid, GtidSet};
pub use source::{ServerUuid, SourceId, Tag};

/// Text that is no GTID, or no set of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a GTID: '{text}' ({problem})")]
pub struct ParseGtidError {
    text: String,
    problem: &'static str,
}

impl ParseGtidError {
    fn new(text: &str, problem: &'static str) -> ParseGtidError {
        // What a user typed may be anything; an error message is a line.
        let text = text.trim().chars().take(100).collect();
        ParseGtidError { text, problem }
    }
}
