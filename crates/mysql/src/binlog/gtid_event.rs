//! The events that begin transactions: GTID, anonymous and tagged GTID of MySQL, GTID of MariaDB.
//!
//! Layouts: `Gtid_event` in MySQL's `control_events.h` and `control_events.cpp`; the tagged one by the serialization library
//! (`libs/mysql/serialization/readme.md`). MariaDB: `Gtid_log_event` in `sql/log_event.h` and `sql/log_event.cc`.

use tidemark_types::Timestamp;

use super::query::XaId;
use crate::bytes::ReadMysql;
use crate::gtid::{Gtid, Interval, MariaDbGtid, ServerUuid, SourceId, Tag};
use tidemark_types::ByteReader;

/// A MySQL transaction begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MySqlGtidEvent {
    /// `None`: the transaction is anonymous (`gtid_mode = OFF`).
    pub gtid: Option<Gtid>,
    /// By the logical clock of this file: the transaction may be applied when that one has committed.
    pub last_committed: u64,
    /// Its own number by the logical clock of this file.
    pub sequence_number: u64,
    /// When it committed on the server whose log this is. Known since 8.0.1.
    pub immediate_commit: Option<Timestamp>,
    /// When it committed on the server where it was executed first. Known since 8.0.1.
    pub original_commit: Option<Timestamp>,
    /// The length of the whole transaction in bytes, this event included, as the server claims it. Known since 8.0.2.
    pub transaction_bytes: Option<u64>,
}

/// "Microseconds of all ones" say that the time is not known (`UNDEFINED_COMMIT_TIMESTAMP`).
const COMMIT_TIME_UNDEFINED: u64 = (1 << 55) - 1;

impl MySqlGtidEvent {
    /// Reads a GTID or an anonymous GTID event.
    pub(super) fn read(body: &[u8], is_anonymous: bool) -> Option<MySqlGtidEvent> {
        /// The type of logical clock that all supported versions write (`LOGICAL_TIMESTAMP_TYPECODE`).
        const LOGICAL_CLOCK: u8 = 2;
        /// The highest bit of seven bytes: another time follows.
        const ANOTHER_TIME: u64 = 1 << 55;

        let mut reader = ByteReader::new(body);
        let _flags = reader.u8()?;
        let uuid = ServerUuid(reader.array()?);
        let number = reader.u64()?;
        let mut event = MySqlGtidEvent {
            gtid: gtid_of(uuid, Tag::none(), number, is_anonymous)?,
            last_committed: 0,
            sequence_number: 0,
            immediate_commit: None,
            original_commit: None,
            transaction_bytes: None,
        };
        if reader.u8() != Some(LOGICAL_CLOCK) {
            return Some(event);
        }
        event.last_committed = reader.u64()?;
        event.sequence_number = reader.u64()?;
        let Some(immediate) = reader.uint(7) else {
            return Some(event);
        };
        event.immediate_commit = commit_time(immediate & !ANOTHER_TIME);
        event.original_commit = if immediate & ANOTHER_TIME == 0 {
            event.immediate_commit
        } else {
            commit_time(reader.uint(7)?)
        };
        // Server versions and the commit group ticket follow.
        event.transaction_bytes = reader.length_encoded();
        Some(event)
    }

    /// Reads a tagged GTID event: a message of the serialization library, whose fields come in the order of their
    /// numbers (`Gtid_event::define_fields`). What newer servers may add after them can be left out.
    pub(super) fn read_tagged(body: &[u8]) -> Option<MySqlGtidEvent> {
        const FORMAT_VERSION: u64 = 1;
        /// original_server_version, commit_group_ticket and what we know of come up to here.
        const LAST_KNOWN_FIELD: u64 = 11;

        let mut reader = ByteReader::new(body);
        let is_readable = reader.varlen()? == FORMAT_VERSION;
        let _message_bytes = reader.varlen()?;
        let last_needed_field = reader.varlen()?;
        if !is_readable || last_needed_field > LAST_KNOWN_FIELD {
            return None;
        }
        let _flags = field(&mut reader, 0)?.varlen()?;
        let mut uuid = ServerUuid([0; 16]);
        let bytes = field(&mut reader, 1)?;
        for byte in &mut uuid.0 {
            *byte = u8::try_from(bytes.varlen()?).ok()?;
        }
        let number = u64::try_from(field(&mut reader, 2)?.varlen_signed()?).ok()?;
        let tag_bytes = field(&mut reader, 3)?.varlen()?;
        let tag = Tag::from_bytes(reader.take(usize::try_from(tag_bytes).ok()?)?)?;
        let last_committed = u64::try_from(field(&mut reader, 4)?.varlen_signed()?).ok()?;
        let sequence_number = u64::try_from(field(&mut reader, 5)?.varlen_signed()?).ok()?;
        let immediate = field(&mut reader, 6)?.varlen()?;
        let original = match field(&mut reader, 7) {
            Some(reader) => reader.varlen()?,
            None => immediate,
        };
        let transaction_bytes = field(&mut reader, 8)?.varlen()?;
        Some(MySqlGtidEvent {
            gtid: gtid_of(uuid, tag, number, false)?,
            last_committed,
            sequence_number,
            immediate_commit: commit_time(immediate),
            original_commit: commit_time(original),
            transaction_bytes: Some(transaction_bytes),
        })
    }
}

/// Goes to field `number` if it comes next.
fn field<'r, 'a>(reader: &'r mut ByteReader<'a>, number: u64) -> Option<&'r mut ByteReader<'a>> {
    let mut ahead = *reader;
    if ahead.varlen()? != number {
        return None;
    }
    *reader = ahead;
    Some(reader)
}

fn gtid_of(uuid: ServerUuid, tag: Tag, number: u64, is_anonymous: bool) -> Option<Option<Gtid>> {
    if is_anonymous {
        return (number == 0).then_some(None);
    }
    let source = SourceId { uuid, tag };
    Interval::of(number).map(|_| Some(Gtid { source, number }))
}

fn commit_time(micros: u64) -> Option<Timestamp> {
    let is_known = micros != 0 && micros != COMMIT_TIME_UNDEFINED;
    is_known
        .then(|| i64::try_from(micros).ok().map(Timestamp))
        .flatten()
}

/// A MariaDB transaction begins. The event stands for BEGIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MariaDbGtidEvent {
    /// Which transaction.
    pub gtid: MariaDbGtid,
    /// `FL_STANDALONE`: it is one statement, and no COMMIT follows.
    pub is_standalone: bool,
    /// `FL_TRANSACTIONAL`: it could be rolled back, as no engine without transactions takes part.
    pub is_transactional: bool,
    /// `FL_DDL`: it holds DDL.
    pub is_ddl: bool,
    /// Those of the same number committed together (`FL_GROUP_COMMIT_ID`).
    pub commit_id: Option<u64>,
    /// The XA transaction that is prepared here (`FL_PREPARED_XA`).
    pub prepared: Option<XaId>,
    /// The XA transaction, prepared earlier, that is committed or rolled back here (`FL_COMPLETED_XA`).
    pub completed: Option<XaId>,
    /// The part of an ALTER TABLE that was logged in two phases (`binlog_alter_two_phase`).
    pub alter: Option<AlterPhase>,
}

/// A part of an ALTER TABLE that was logged in two phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlterPhase {
    /// It began. Its end is a transaction of its own.
    Start,
    /// It ended well.
    Commit {
        /// The sequence number of the transaction that began it, of the same domain and server.
        started_by: u64,
    },
    /// It failed.
    Rollback {
        /// As for `Commit`.
        started_by: u64,
    },
}

impl MariaDbGtidEvent {
    /// Reads a GTID event. The server is that of the common header.
    pub(super) fn read(body: &[u8], server: u32) -> Option<MariaDbGtidEvent> {
        const STANDALONE: u8 = 0x01;
        const GROUP_COMMIT_ID: u8 = 0x02;
        const TRANSACTIONAL: u8 = 0x04;
        const DDL: u8 = 0x20;
        const PREPARED_XA: u8 = 0x40;
        const COMPLETED_XA: u8 = 0x80;

        let mut reader = ByteReader::new(body);
        let sequence = reader.u64()?;
        let domain = reader.u32()?;
        let flags = reader.u8()?;
        let commit_id = match flags & GROUP_COMMIT_ID {
            0 => None,
            _ => Some(reader.u64()?),
        };
        let xa = match flags & (PREPARED_XA | COMPLETED_XA) {
            0 => None,
            _ => Some(XaId::read_short(&mut reader)?),
        };
        let is_prepared = flags & PREPARED_XA != 0;
        Some(MariaDbGtidEvent {
            gtid: MariaDbGtid {
                domain,
                server,
                sequence,
            },
            is_standalone: flags & STANDALONE != 0,
            is_transactional: flags & TRANSACTIONAL != 0,
            is_ddl: flags & DDL != 0,
            commit_id,
            prepared: xa.clone().filter(|_| is_prepared),
            completed: xa.filter(|_| !is_prepared),
            alter: read_alter(&mut reader)?,
        })
    }
}

/// The extra flags, which older servers do not write; what they do write there is padding of zeros.
fn read_alter(reader: &mut ByteReader<'_>) -> Option<Option<AlterPhase>> {
    const MULTI_ENGINE: u8 = 0x01;
    const START_ALTER: u8 = 0x02;
    const COMMIT_ALTER: u8 = 0x04;
    const ROLLBACK_ALTER: u8 = 0x08;

    let flags = reader.u8().unwrap_or(0);
    if flags & MULTI_ENGINE != 0 {
        reader.u8()?;
    }
    Some(if flags & START_ALTER != 0 {
        Some(AlterPhase::Start)
    } else if flags & COMMIT_ALTER != 0 {
        Some(AlterPhase::Commit {
            started_by: reader.u64()?,
        })
    } else if flags & ROLLBACK_ALTER != 0 {
        Some(AlterPhase::Rollback {
            started_by: reader.u64()?,
        })
    } else {
        None
    })
}
