//! Base backups of PostgreSQL: takes them when they are due or asked for, and stores them in the repository.
//!
//! [`task`] decides when, [`take`] takes one. Two ways to read a server's files ([`local`] and, over the connection,
//! [`remote`]) end in the same packs. The manifest comes last, when all log that the backup needs is in the repository.

mod announced;
mod books;
mod changed;
mod cluster;
mod command;
mod copy;
mod delta;
mod durable;
mod history;
pub mod host;
mod intake;
mod lanes;
mod local;
pub mod mysql;
mod names;
mod parent;
mod plan;
mod progress;
mod remote;
mod take;
mod task;
mod work;
mod worker;

pub use command::command;
pub use task::BackupTask;
