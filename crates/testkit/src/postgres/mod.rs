//! PostgreSQL servers of one test.
//!
//! `builder` makes their data directories, `server` runs them, `crash` ends them the hard way. Every server gets its
//! port and socket directory on the command line, so its data directory, and each copy of it, holds neither.

mod builder;
mod crash;
mod server;

pub use builder::Builder;
pub use server::{PostgresServer, StopMode};
