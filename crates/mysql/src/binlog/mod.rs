//! The binary log of MySQL 8.0 to 9.x and MariaDB 10.6 to 11.x: from bytes to events, to facts, to transactions.
//!
//! - [`BinlogDecoder`] turns the bytes of one file into [`Event`]s; a feed/poll machine that does no I/O.
//! - [`Fact`] is what an event says, as far as backup and restore want to know it. Rows are not looked into.
//! - [`Transactions`] puts events together to whole [`Transaction`]s: where each begins and ends, its GTID, its time.
//!
//! Sources of the format: MySQL's headers under `libs/mysql/binlog/event` (`binlog_event.h`, `control_events.h`,
//! `statement_events.h`, `rows_event.h`) and `libs/mysql/serialization`, MariaDB's `sql/log_event.h` and
//! `sql/log_event.cc`; checked against `mysqlbinlog` and `mariadb-binlog` on the logs of real servers.

mod assembly;
mod checksum;
mod decoder;
mod error;
mod event;
mod facts;
mod format;
mod gtid_event;
mod logged;
mod payload;
mod query;
mod rows;
#[cfg(test)]
pub(crate) mod tests;
mod transaction;

pub use decoder::{BinlogDecoder, FileEnd};
pub use error::BinlogError;
pub use event::{ArtificialRotate, BinlogOffset, Event, EventHeader, EventType};
pub use facts::Fact;
pub use format::{ChecksumAlgorithm, Flavor, Format};
pub use gtid_event::{AlterPhase, MariaDbGtidEvent, MySqlGtidEvent};
pub use logged::{Logged, LoggedReader};
pub use payload::{Compression, Payload, PayloadReader};
pub use query::{Query, StatementKind, XaId};
pub use rows::{Rows, RowsChange, TableMap};
pub use transaction::{
    OpenTransaction, TimeSource, Transaction, TransactionEnd, TransactionGtid, TransactionKind, Transactions,
};
