//! Base backups of MySQL and MariaDB: the ways to get a consistent copy, and what makes it a base backup. Knows no storage.

mod event;
mod xbstream;

pub use event::FileEvent;
pub use xbstream::{XbstreamError, XbstreamReader};
