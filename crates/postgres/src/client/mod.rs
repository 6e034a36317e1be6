//! Connections: transport, TLS, authentication, framing, and SQL.
//!
//! Replication commands and streams are in `replication`; nothing here knows what WAL is.

mod auth;
mod channel_binding;
mod connect;
mod message;
mod sql;
mod tls;
mod wire;

pub(crate) use connect::{Purpose, Session, connect, simple_query};
pub(crate) use message::{Malformed, Message, Reader, Row};
pub(crate) use sql::sql_error;
pub(crate) use wire::Wire;

pub use sql::{ConnectionTask, SqlClient};
