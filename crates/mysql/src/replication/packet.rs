//! What a replica hears: the payloads of a dump's packets.
//!
//! Framing is the caller's: an event longer than 16 MiB - 1 comes in several packets, and is one payload here, or its first part.

use tidemark_types::ByteReader;

use crate::error::ServerError;

/// One payload of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourcePacket<'a> {
    /// An event, from its header to its checksum.
    Event {
        /// Its bytes. Whether they lie in a file, [`crate::binlog::EventHeader::is_in_file`] tells.
        bytes: &'a [u8],
        /// A commit waits for the acknowledgement of this event's end.
        wants_acknowledgement: bool,
    },
    /// The log has come to its end, and the dump was not to wait.
    End,
    /// The dump ends with an error: 1236 (`ER_SOURCE_FATAL_ERROR_READING_BINLOG`) for all that is wrong with what was asked for.
    Error(ServerError),
}

/// A payload that is none of a dump's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("packet of {length} bytes is none of a binlog dump (it begins with {first:?})")]
pub struct PacketError {
    length: usize,
    first: Option<u8>,
}

impl<'a> SourcePacket<'a> {
    /// Reads a payload, or the first part of a long one. `semi_sync`: the source was asked to mark what is to be acknowledged; it then puts two bytes before
    /// every event, artificial ones included (`ReplSemiSyncMaster::updateSyncHeader`).
    ///
    /// # Errors
    /// The payload is none of a dump's.
    pub fn read(payload: &'a [u8], semi_sync: bool) -> Result<SourcePacket<'a>, PacketError> {
        const OK: u8 = 0x00;
        const END: u8 = 0xFE;
        const ERROR: u8 = 0xFF;
        /// What is longer is no end of a result (`packet.length() < 9`).
        const END_BYTES_MAX: usize = 8;
        const MARK: u8 = 0xEF;

        let mut reader = ByteReader::new(payload);
        let mut read = || match reader.u8()? {
            OK => {
                let mut wants_acknowledgement = false;
                if semi_sync {
                    let mark = reader.u8()?;
                    wants_acknowledgement = reader.u8()? & 1 != 0;
                    (mark == MARK).then_some(())?;
                }
                Some(SourcePacket::Event {
                    bytes: reader.rest(),
                    wants_acknowledgement,
                })
            }
            END if payload.len() <= END_BYTES_MAX => Some(SourcePacket::End),
            ERROR => ServerError::read(reader.rest()).map(SourcePacket::Error),
            _ => None,
        };
        read().ok_or(PacketError::of(payload))
    }
}

impl PacketError {
    pub(super) fn of(payload: &[u8]) -> PacketError {
        PacketError {
            length: payload.len(),
            first: payload.first().copied(),
        }
    }
}
