//! What the mysql crate does with real servers.

mod basebackup;
