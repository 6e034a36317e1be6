//! Tests of this crate against real servers.

mod basebackup;
mod client;
