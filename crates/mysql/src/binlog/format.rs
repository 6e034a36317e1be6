//! The format description event: whose file it is, and how its events are to be read.
//!
//! Layout: `Format_description_event` in MySQL's `control_events.h`, `Format_description_log_event` in MariaDB's
//! `sql/log_event.h`: binlog version, server version (50 bytes, zero padded), created, length of the common header, length
//! of each type's post-header, the checksum algorithm, and a checksum, which this event always carries.

use std::fmt;

use super::checksum::{CHECKSUM_BYTES, EventCrc};
use serde::{Deserialize, Serialize};

use super::error::BinlogError;
use super::event::{BinlogOffset, Event, EventHeader, EventType, HEADER_BYTES};
use tidemark_types::ByteReader;

/// Whose server wrote a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavor {
    /// MySQL, and what descends from it.
    MySql,
    /// MariaDB.
    MariaDb,
}

impl fmt::Display for Flavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flavor::MySql => "MySQL",
            Flavor::MariaDb => "MariaDB",
        })
    }
}

/// What stands behind every event of a file but the format description, which always has a CRC-32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumAlgorithm {
    /// Nothing (`binlog_checksum = NONE`).
    None,
    /// Four bytes of CRC-32.
    Crc32,
}

/// The format of one binlog file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// Whose server wrote it.
    pub flavor: Flavor,
    /// The server's version as it names itself; bytes that are not UTF-8 are replaced.
    pub server_version: String,
    /// When the server started, in seconds since 1970, if this is its first file since then; else zero.
    pub created: u32,
    /// When the event was made: when the file was.
    pub timestamp: u32,
    /// The server that made it.
    pub server_id: u32,
    /// What stands behind the events that follow.
    pub checksum: ChecksumAlgorithm,
    /// The file was open when this was read: its server is running, or crashed.
    pub is_in_use: bool,
    post_header_lengths: Box<[u8]>,
}

/// Length of the server version's field (`ST_SERVER_VER_LEN`).
const VERSION_BYTES: usize = 50;
/// Of every server since 5.0.
const BINLOG_VERSION: u16 = 4;
/// MariaDB's own types begin here (`MARIA_EVENTS_BEGIN`); MySQL's end long before.
const MARIADB_TYPES_MIN: usize = 160;

impl Format {
    /// Reads a format description event from its header to its checksum, which is verified.
    ///
    /// # Errors
    /// What is wrong with it; see [`BinlogError`]. `at` is where it begins.
    pub fn of_event(bytes: &[u8], at: BinlogOffset) -> Result<Format, BinlogError> {
        let malformed = |problem| BinlogError::Malformed {
            at,
            kind: EventType::FORMAT_DESCRIPTION,
            problem,
        };
        let header = EventHeader::parse(bytes).ok_or_else(|| malformed("shorter than its header"))?;
        let body = checked_body(bytes, at, true)?;
        let (algorithm, description) = body.split_last().ok_or_else(|| malformed("empty"))?;
        let mut reader = ByteReader::new(description);
        let mut read = || {
            let binlog_version = reader.u16()?;
            let version = reader.take(VERSION_BYTES)?;
            let created = reader.u32()?;
            let header_bytes = reader.u8()?;
            Some((binlog_version, version, created, header_bytes))
        };
        let (binlog_version, version, created, header_bytes) =
            read().ok_or_else(|| malformed("shorter than its fields"))?;
        let version = version.split(|&byte| byte == 0).next().unwrap_or_default();
        let server_version = String::from_utf8_lossy(version).into_owned();
        let checksum = match algorithm {
            _ if !has_checksums(&server_version) => Err("it is older than 5.6, which is not supported"),
            _ if binlog_version != BINLOG_VERSION => Err("its binlog format is not version 4"),
            _ if usize::from(header_bytes) != HEADER_BYTES => {
                Err("its events have a header of another length")
            }
            0 => Ok(ChecksumAlgorithm::None),
            1 => Ok(ChecksumAlgorithm::Crc32),
            _ => Err("its checksum algorithm is not known"),
        };
        let lengths = reader.rest();
        Ok(Format {
            flavor: if lengths.len() > MARIADB_TYPES_MIN {
                Flavor::MariaDb
            } else {
                Flavor::MySql
            },
            checksum: checksum.map_err(|problem| BinlogError::Unsupported {
                at,
                version: server_version.clone(),
                problem,
            })?,
            server_version,
            created,
            timestamp: header.timestamp,
            server_id: header.server_id,
            is_in_use: header.is_in_use(),
            post_header_lengths: lengths.into(),
        })
    }

    /// Length of the post-header of an event of type `kind`; `None` when the server does not know the type.
    pub fn post_header_bytes(&self, kind: EventType) -> Option<usize> {
        let index = usize::from(kind.0).checked_sub(1)?;
        self.post_header_lengths.get(index).map(|&length| length.into())
    }

    pub(super) fn has_checksum(&self, kind: EventType) -> bool {
        kind == EventType::FORMAT_DESCRIPTION || self.checksum == ChecksumAlgorithm::Crc32
    }

    /// The body of the event `bytes`, its checksum verified and left out.
    pub(super) fn checked_body<'a>(
        &self,
        bytes: &'a [u8],
        at: BinlogOffset,
    ) -> Result<&'a [u8], BinlogError> {
        let kind = EventHeader::parse(bytes).map_or(EventType::FORMAT_DESCRIPTION, |header| header.kind);
        checked_body(bytes, at, self.has_checksum(kind))
    }
}

fn checked_body(bytes: &[u8], at: BinlogOffset, has_checksum: bool) -> Result<&[u8], BinlogError> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let body = Event::body_bytes(length, has_checksum)
        .and_then(|count| bytes.get(HEADER_BYTES..)?.get(..count))
        .ok_or(BinlogError::Length { at, length })?;
    if has_checksum {
        let mut crc = EventCrc::new();
        add_event(&mut crc, bytes);
        compare_checksum(at, length, bytes, crc.finish())?;
    }
    Ok(body)
}

/// Adds a whole event but its checksum. The flag that a file is in use counts as cleared (`LOG_EVENT_BINLOG_IN_USE_F` in
/// `Log_event_footer::event_checksum_test`): the server clears it in place, and leaves the checksum as it was.
pub(super) fn add_event(crc: &mut EventCrc, bytes: &[u8]) {
    let checked = bytes.len().saturating_sub(CHECKSUM_BYTES);
    let checked = bytes.get(..checked).unwrap_or_default();
    let header = checked
        .split_first_chunk::<HEADER_BYTES>()
        .and_then(|(header, body)| Some((without_in_use(header)?, body)));
    match header {
        Some((header, body)) => {
            crc.add(&header);
            crc.add(body);
        }
        None => crc.add(checked),
    }
}

/// The header with the flag cleared; `None` when it is not set.
pub(super) fn without_in_use(header: &[u8; HEADER_BYTES]) -> Option<[u8; HEADER_BYTES]> {
    if !EventHeader::parse(header)?.is_in_use() {
        return None;
    }
    let mut cleared = *header;
    *cleared.get_mut(EventHeader::FLAGS_OFFSET)? &= !1;
    Some(cleared)
}

/// Compares a checksum with the one that the last bytes of the event, `tail`, hold.
pub(super) fn compare_checksum(
    at: BinlogOffset,
    length: u32,
    tail: &[u8],
    found: u32,
) -> Result<(), BinlogError> {
    let carried = tail
        .last_chunk::<CHECKSUM_BYTES>()
        .map(|bytes| u32::from_le_bytes(*bytes));
    match carried {
        Some(expected) if expected == found => Ok(()),
        carried => Err(BinlogError::Checksum {
            at,
            length,
            expected: carried.unwrap_or(0),
            found,
        }),
    }
}

/// Since 5.6.1 (`checksum_version_split`) a file says which checksum it has; MariaDB's older 5.5 is as far away.
fn has_checksums(version: &str) -> bool {
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next(), next()) >= (5, 6, 1)
}

#[cfg(test)]
mod tests {
    use super::has_checksums;

    #[test]
    fn versions_with_checksums() {
        for version in [
            "5.6.1",
            "8.0.44-0ubuntu0.22.04.1",
            "9.7.4-2",
            "10.11.18-MariaDB-0+deb12u1-log",
            "11.8.6-MariaDB",
        ] {
            assert!(has_checksums(version), "{version}");
        }
        for version in ["", "5.6.0", "5.5.68-MariaDB", "x", "5"] {
            assert!(!has_checksums(version), "{version}");
        }
    }
}
