//! What a server must offer before it can be protected.
//!
//! Facts are queried ([`SourceFacts::query`]); judging them ([`findings()`]) is pure. Each finding that is not "ok" carries
//! the statement that mends it, where one does.

mod facts;
mod findings;
mod privileges;
mod remedy;
mod semi_sync;
#[cfg(test)]
mod tests;

pub use facts::{ForeignTable, LogFilter, SourceFacts};
pub use findings::{Wanted, findings};
pub use privileges::{DUMP_PRIVILEGES, Privileges, needed_privileges};
