//! MySQL (8.0 to 9.x) and MariaDB (10.6 to 11.x): the binlog parser, GTID sets, connections, restore. Knows no storage.
//!
//! - [`archive`] is what a repository keeps of a branch beside its log.
//! - [`binlog`] turns bytes of a binlog file into events, facts and whole transactions.
//! - [`replication`] holds the words between a replica and its source, as bytes.
//! - [`gtid`] holds the two vendors' notions of which transactions there are.
//! - [`client`] connects to servers: SQL, dumps.
//! - [`preflight`] asks a server what it is, and judges it.
//! - [`basebackup`] copies a server's data; [`restore`] runs a server on restored data and applies the log to it.
//!
//! Only [`client`], [`restore`] and what asks through them do I/O. Both vendors share one parser: their files differ by
//! events, not by framing, and the format description event says whose a file is.

pub mod archive;
pub mod basebackup;
pub mod binlog;
mod bytes;
pub mod client;
mod error;
pub mod gtid;
pub mod preflight;
pub mod replication;
pub mod restore;

pub use error::{MysqlError, ServerError};
