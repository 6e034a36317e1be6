//! What can be wrong with a binlog.

use tidemark_types::ErrorClass;

use super::event::{BinlogOffset, EventType};

/// Bytes that are not the binlog they should be. Every variant says where in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BinlogError {
    /// The file does not begin as a binlog does.
    #[error("binlog begins with {found:02x?}, expected fe 62 69 6e")]
    Magic {
        /// Its first four bytes.
        found: [u8; 4],
    },
    /// The file is encrypted at rest. Only its server can read it; over a replication connection it comes in clear.
    #[error(
        "binlog is encrypted by the server (at offset {at}); read it over a replication connection instead"
    )]
    Encrypted {
        /// Where this showed.
        at: BinlogOffset,
    },
    /// The first event is no format description, or there is a second one.
    #[error("binlog event at offset {at} is {found}, expected {expected}")]
    EventOrder {
        /// Where the event begins.
        at: BinlogOffset,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: EventType,
    },
    /// The format is none of a supported server's.
    #[error("binlog at offset {at} is of server version '{version}': {problem}")]
    Unsupported {
        /// Where the format description event begins.
        at: BinlogOffset,
        /// The version that it names.
        version: String,
        /// Why it is refused.
        problem: &'static str,
    },
    /// An event's length cannot be: shorter than a header, or longer than any server writes.
    #[error("binlog event at offset {at} claims a length of {length} bytes")]
    Length {
        /// Where the event begins.
        at: BinlogOffset,
        /// The claimed length.
        length: u32,
    },
    /// An event's checksum does not match.
    #[error(
        "binlog event at offset {at} ({length} bytes) has checksum {found:#010x}, expected {expected:#010x}"
    )]
    Checksum {
        /// Where the event begins.
        at: BinlogOffset,
        /// Its length.
        length: u32,
        /// The checksum it carries.
        expected: u32,
        /// The checksum of its bytes.
        found: u32,
    },
    /// An event says that it ends elsewhere than it does: bytes before it are missing, or are not this file's.
    #[error("binlog event at offset {at} says that it ends at {claimed}, but it ends at {end}")]
    EndPosition {
        /// Where the event begins.
        at: BinlogOffset,
        /// Where it ends.
        end: BinlogOffset,
        /// The lowest 32 bits of where it says that it ends.
        claimed: u32,
    },
    /// There are bytes behind the event that ends the file.
    #[error("binlog goes on at offset {at}, behind the event that ends the file")]
    AfterEnd {
        /// The first byte behind the end.
        at: BinlogOffset,
    },
    /// An event's content makes no sense.
    #[error("binlog event at offset {at} ({kind}): {problem}")]
    Malformed {
        /// Where the event begins.
        at: BinlogOffset,
        /// Its type.
        kind: EventType,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An event of a type that this parser does not know, and that its writer does not allow to be ignored.
    #[error("binlog event at offset {at} is of unknown type {kind} and must not be ignored")]
    UnknownEvent {
        /// Where the event begins.
        at: BinlogOffset,
        /// Its type.
        kind: EventType,
    },
    /// A transaction does not end before another begins or the file ends in order.
    #[error("transaction that begins at offset {begin} has no end before offset {at} ({kind})")]
    TransactionCut {
        /// Where the transaction begins.
        begin: BinlogOffset,
        /// Where the event begins that cannot be part of it.
        at: BinlogOffset,
        /// The type of that event.
        kind: EventType,
    },
}

impl BinlogError {
    /// The class of the error.
    pub fn class(&self) -> ErrorClass {
        match self {
            BinlogError::Encrypted { .. } | BinlogError::Unsupported { .. } => ErrorClass::Config,
            BinlogError::Magic { .. }
            | BinlogError::EventOrder { .. }
            | BinlogError::Length { .. }
            | BinlogError::Checksum { .. }
            | BinlogError::EndPosition { .. }
            | BinlogError::AfterEnd { .. }
            | BinlogError::Malformed { .. }
            | BinlogError::UnknownEvent { .. }
            | BinlogError::TransactionCut { .. } => ErrorClass::Corrupt,
        }
    }

    /// Where the damage shows: the beginning of the event.
    pub fn position(&self) -> BinlogOffset {
        match self {
            BinlogError::Magic { .. } => BinlogOffset(0),
            BinlogError::Encrypted { at }
            | BinlogError::EventOrder { at, .. }
            | BinlogError::Unsupported { at, .. }
            | BinlogError::Length { at, .. }
            | BinlogError::Checksum { at, .. }
            | BinlogError::EndPosition { at, .. }
            | BinlogError::AfterEnd { at }
            | BinlogError::Malformed { at, .. }
            | BinlogError::UnknownEvent { at, .. }
            | BinlogError::TransactionCut { at, .. } => *at,
        }
    }
}
