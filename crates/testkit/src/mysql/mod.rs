//! MySQL and MariaDB servers of one test.
//!
//! `builder` makes their data directories, `server` runs them, `client` asks them,
//! `workload` keeps them busy. Everything that a server is told stands
//! in one option file beside its data directory; no file of the machine's own installation is read.

mod builder;
mod client;
mod server;
mod workload;

pub use builder::MysqlBuilder;
pub use client::MysqlClient;
pub use server::MysqlServer;
pub use workload::{MysqlCommit, MysqlWorkload};
