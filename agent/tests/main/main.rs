//! The program from outside: exit codes and messages, and what it does to a repository.

mod command;

mod archive_wal;
mod base_backup;
mod check;
mod config;
mod http;
mod init;
mod spool;
