//! Base backups of MySQL and MariaDB: the ways to get a consistent copy, and what makes it a base backup. Knows no storage.

mod xbstream;

pub use xbstream::{XbstreamError, XbstreamEvent, XbstreamReader};
