//! The write-ahead log of PostgreSQL 13 to 18: from bytes to records, to facts, to changed blocks.
//!
//! - [`WalDecoder`] turns bytes into [`Record`]s; a feed/poll machine that does no I/O.
//! - [`Fact`] is what a record says about transactions, restore points, relation files and databases.
//! - [`ChangedBlocks`] gathers which blocks of which relations changed, with a binary form of its own.
//!
//! Sources of the format: the server's headers under `src/include/access` (`xlog_internal.h`, `xlogrecord.h`, `xact.h`)
//! and `src/backend/access/transam/xlogreader.c`; checked against `pg_waldump` on the log of real servers.

mod assembly;
mod block;
mod bytes;
mod changed;
mod crc;
mod decoder;
mod error;
mod facts;
mod page;
mod record;
#[cfg(test)]
mod tests;
mod transaction;
mod version;

pub use block::{BlockRef, Fork, Relation};
pub use changed::{BlockSet, ChangedBlocks, DecodeChangedBlocksError, RelationChanges};
pub use decoder::WalDecoder;
pub use error::{PageField, WalError};
pub use facts::{DatabaseDirectory, Fact, TruncatedForks, WalLevel};
pub use page::PageInfo;
pub use record::{Record, ResourceManager};
pub use transaction::{Completion, DroppedRelations, Prepare, Subtransactions};
pub use version::WalVersion;
