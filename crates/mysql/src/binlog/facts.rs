//! What an event says about transactions, files, tables and the server. Rows and values are not looked into.
//!
//! Layouts: the classes named at each fact, in MySQL's `libs/mysql/binlog/event` and MariaDB's `sql/log_event.h`.

use std::borrow::Cow;

use super::error::BinlogError;
use super::event::{Event, EventType};
use super::gtid_event::{MariaDbGtidEvent, MySqlGtidEvent};
use super::payload::Payload;
use super::query::{Query, XaId};
use super::rows::{Rows, RowsChange, TableMap};
use crate::bytes::ReadMysql;
use crate::gtid::{GtidSet, MariaDbGtid, MariaDbState};
use tidemark_types::ByteReader;

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact<'a> {
    /// The file's format is [`Event::format`].
    Format,
    /// The log goes on in another file (`Rotate_event`).
    Rotate {
        /// Its name, without a directory; bytes that are not UTF-8 are replaced.
        file: Cow<'a, str>,
        /// Where in it: always behind the magic, but for artificial events.
        position: u64,
    },
    /// The server stopped (`Stop_event`).
    Stop,
    /// The GTIDs of all files before this one (`Previous_gtids_event`).
    PreviousGtids(GtidSet),
    /// The state of GTIDs before this file (`Gtid_list_log_event`).
    GtidList(MariaDbState),
    /// A MySQL transaction begins, with a GTID or anonymous.
    MySqlGtid(MySqlGtidEvent),
    /// A MariaDB transaction begins.
    MariaDbGtid(MariaDbGtidEvent),
    /// A statement, LOAD DATA included.
    Query(Query<'a>),
    /// A transaction is committed (`Xid_event`).
    Commit {
        /// The number that the storage engines know it by, within one run of the server.
        xid: u64,
    },
    /// An XA transaction is prepared, or committed in one phase (`XA_prepare_event`).
    XaPrepare {
        /// Which one.
        id: XaId,
        /// `XA COMMIT … ONE PHASE`: it is committed, not prepared.
        is_one_phase: bool,
    },
    /// A whole transaction but for its GTID, compressed.
    Payload(Payload<'a>),
    /// The text of the statement whose rows follow (`Rows_query_event`, `Annotate_rows_log_event`), or its beginning.
    StatementText(Cow<'a, str>),
    /// Which table row events mean.
    TableMap(TableMap<'a>),
    /// Rows were changed.
    Rows(Rows),
    /// The connection lives, and all up to here was sent (`Heartbeat_event`, `Heartbeat_event_v2`).
    Heartbeat {
        /// The file that is being sent.
        file: Cow<'a, str>,
        /// How far, in bytes. The older event has the lowest 32 bits only.
        position: u64,
    },
    /// The server knows that changes are missing in its log (`Incident_event`).
    Incident {
        /// 1: events were lost.
        number: u16,
        /// What it says of it; bytes that are not UTF-8 are replaced.
        message: Cow<'a, str>,
    },
    /// Crash recovery of MariaDB would begin at this file (`Binlog_checkpoint_log_event`).
    Checkpoint {
        /// Its name.
        file: Cow<'a, str>,
    },
}

impl<'a> Fact<'a> {
    /// The fact that `event` states, if it states one.
    ///
    /// # Errors
    /// [`BinlogError::Malformed`] when it should and its content makes no sense; [`BinlogError::UnknownEvent`] for a type
    /// that must not be ignored.
    pub fn of(event: &Event<'a>) -> Result<Option<Fact<'a>>, BinlogError> {
        let kind = event.header.kind;
        if kind.name().is_none() && !event.header.is_ignorable() {
            return Err(BinlogError::UnknownEvent {
                at: event.begin,
                kind,
            });
        }
        read(event).ok_or_else(|| event.malformed("its content is of another form"))
    }
}

/// `None` when the content makes no sense.
fn read<'a>(event: &Event<'a>) -> Option<Option<Fact<'a>>> {
    let body = event.body;
    let mut reader = ByteReader::new(body);
    let post_header = |kind| event.format.post_header_bytes(kind);
    Some(Some(match event.header.kind {
        EventType::FORMAT_DESCRIPTION => Fact::Format,
        EventType::ROTATE => {
            let position = reader.u64()?;
            let file = text(reader.rest());
            Fact::Rotate { file, position }
        }
        EventType::STOP => Fact::Stop,
        EventType::PREVIOUS_GTIDS => {
            Fact::PreviousGtids(whole(event).and_then(|body| GtidSet::decode(body).ok())?)
        }
        EventType::GTID_LIST => Fact::GtidList(gtid_list(whole(event)?)?),
        EventType::GTID => Fact::MySqlGtid(MySqlGtidEvent::read(body, false)?),
        EventType::ANONYMOUS_GTID => Fact::MySqlGtid(MySqlGtidEvent::read(body, true)?),
        EventType::GTID_TAGGED => Fact::MySqlGtid(MySqlGtidEvent::read_tagged(body)?),
        EventType::MARIADB_GTID => Fact::MariaDbGtid(MariaDbGtidEvent::read(body, event.header.server_id)?),
        kind @ (EventType::QUERY | EventType::EXECUTE_LOAD_QUERY) => {
            Fact::Query(Query::read(body, post_header(kind)?, false)?)
        }
        kind @ EventType::QUERY_COMPRESSED => Fact::Query(Query::read(body, post_header(kind)?, true)?),
        EventType::XID => Fact::Commit { xid: reader.u64()? },
        EventType::XA_PREPARE => {
            let is_one_phase = reader.u8()? != 0;
            let id = XaId::read_long(&mut reader)?;
            Fact::XaPrepare { id, is_one_phase }
        }
        EventType::TRANSACTION_PAYLOAD => Fact::Payload(Payload::read(body, event.is_whole)?),
        EventType::ROWS_QUERY => {
            // A length of one byte that is too short for long statements: the end of the event counts.
            reader.u8()?;
            Fact::StatementText(text(reader.rest()))
        }
        EventType::ANNOTATE_ROWS => Fact::StatementText(text(body)),
        kind @ EventType::TABLE_MAP => Fact::TableMap(TableMap::read(body, post_header(kind)?)?),
        EventType::HEARTBEAT => Fact::Heartbeat {
            file: text(body),
            position: event.header.end_position.into(),
        },
        EventType::HEARTBEAT_V2 => heartbeat(reader)?,
        EventType::INCIDENT => {
            let number = reader.u16()?;
            let length = reader.u8()?;
            let message = text(reader.take(length.into())?);
            Fact::Incident { number, message }
        }
        EventType::BINLOG_CHECKPOINT => {
            let length = reader.u32()?;
            let file = text(reader.take(usize::try_from(length).ok()?)?);
            Fact::Checkpoint { file }
        }
        kind => match RowsChange::of(kind) {
            Some(change) => Fact::Rows(Rows::read(body, post_header(kind)?, change)?),
            // Variables and files of statements, group replication, what may be ignored.
            None => return Some(None),
        },
    }))
}

fn whole<'a>(event: &Event<'a>) -> Option<&'a [u8]> {
    event.is_whole.then_some(event.body)
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// How many in the lowest 28 bits, flags above them; then domain, server and sequence number of each.
fn gtid_list(body: &[u8]) -> Option<MariaDbState> {
    let mut reader = ByteReader::new(body);
    let count = reader.u32()? & 0x0FFF_FFFF;
    let mut state = MariaDbState::new();
    for _ in 0..count {
        state.advance(MariaDbGtid {
            domain: reader.u32()?,
            server: reader.u32()?,
            sequence: reader.u64()?,
        });
    }
    Some(state)
}

/// Fields of type, length and value, ended by type 0 (`codecs::binary::Heartbeat`).
fn heartbeat<'a>(mut reader: ByteReader<'a>) -> Option<Fact<'a>> {
    let (mut file, mut position) = (None, None);
    while !reader.is_empty() {
        let field = reader.length_encoded()?;
        if field == 0 {
            break;
        }
        let value = reader.length_encoded_bytes()?;
        match field {
            1 => file = Some(text(value)),
            2 => position = Some(ByteReader::new(value).length_encoded()?),
            _ => {}
        }
    }
    Some(Fact::Heartbeat {
        file: file?,
        position: position?,
    })
}
