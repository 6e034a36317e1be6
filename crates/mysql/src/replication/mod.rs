//! What a replica says to a source and hears from it, as bytes: the statements and commands that start a dump, the packets
//! of the dump, acknowledgements. No connection: whoever has one sends and receives these, inside the protocol's framing.
//!
//! Sources: the manual's "COM_REGISTER_SLAVE", "COM_BINLOG_DUMP" and "COM_BINLOG_DUMP_GTID" (`sql/rpl_source.cc`), MariaDB's
//! knowledge base "Replica registration", semi-synchronous replication in `plugin/semisync` of either server.

mod command;
mod dump;
mod packet;
#[cfg(test)]
mod tests;

pub use command::{DumpRequest, Replica, semi_sync_acknowledgement};
pub use dump::{Dump, Dumped};
pub use packet::{PacketError, SourcePacket};
