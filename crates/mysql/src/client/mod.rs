//! Connections to a server: [`Sql`] for statements, [`BinlogStream`] for a dump, both from the same [`ConnectOptions`].

mod auth;
mod binlog_stream;
mod connect;
mod facts;
mod greeting;
mod options;
mod rsa;
mod sql;
#[cfg(test)]
mod tests;
mod text_result;
mod wire;

pub use binlog_stream::{BinlogStream, StreamItem};
pub use facts::{BinlogFile, ConnectedReplica, GtidState, LogEnd, ReplicaIdentity, ServerFacts};
pub use greeting::ServerVersion;
pub use options::{ConnectOptions, Host, OptionsError, SslMode, TlsOptions};
pub use sql::{Rows, Sql, quote, quote_name};
pub use text_result::Row;
