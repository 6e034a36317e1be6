//! Events: the common header, types, and a whole event as the decoder hands it out.
//!
//! Layout: `Log_event_header` in MySQL's `libs/mysql/binlog/event/binlog_event.h`, the same in MariaDB's
//! `sql/log_event.h`; type numbers from the same files.

use std::borrow::Cow;
use std::fmt;

use tidemark_types::Timestamp;

use super::checksum::{CHECKSUM_BYTES, EventCrc};
use super::error::BinlogError;
use super::format::Format;
use tidemark_types::ByteReader;

/// Length of the common header (`LOG_EVENT_HEADER_LEN`).
pub(super) const HEADER_BYTES: usize = 19;

/// No event is longer. Servers neither write nor send one over 1 GiB (`max_log_event_size`, `MAX_MAX_ALLOWED_PACKET`) and
/// its headers (`MAX_LOG_EVENT_HEADER`, about a kilobyte).
pub(super) const EVENT_BYTES_MAX: u32 = (1 << 30) + (1 << 16);

/// An offset in a binlog file, in bytes. 64 bits, although events carry 32: a file passes 4 GiB when a transaction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BinlogOffset(pub u64);

impl BinlogOffset {
    /// Where the first event of a file begins, behind the magic.
    pub const FIRST_EVENT: BinlogOffset = BinlogOffset(4);

    /// The bytes from `earlier` to here; zero when `earlier` is not earlier.
    pub fn bytes_since(self, earlier: BinlogOffset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This offset, `count` bytes on. Saturates.
    pub fn plus(self, count: u64) -> BinlogOffset {
        BinlogOffset(self.0.saturating_add(count))
    }
}

impl fmt::Display for BinlogOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The type of an event. Numbers from 160 on are MariaDB's; below, the vendors agree as far as both know one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(pub u8);

macro_rules! event_types {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        impl EventType {
            $($(#[$doc])* pub const $name: EventType = EventType($number);)*

            /// The name that the vendors' headers give it; `None` for a type that this parser does not know.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(EventType::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

event_types! {
    /// A statement.
    QUERY = 2;
    /// The server stopped; the last event of its file.
    STOP = 3;
    /// The log goes on in another file; the last event of its file.
    ROTATE = 4;
    /// LAST_INSERT_ID or INSERT_ID of the statement that follows.
    INTVAR = 5;
    /// A block of a LOAD DATA file.
    APPEND_BLOCK = 9;
    /// A LOAD DATA file is not needed any more.
    DELETE_FILE = 11;
    /// The seed of RAND() in the statement that follows.
    RAND = 13;
    /// A user variable of the statement that follows.
    USER_VAR = 14;
    /// The format of the file; its first event.
    FORMAT_DESCRIPTION = 15;
    /// A commit.
    XID = 16;
    /// The first block of a LOAD DATA file.
    BEGIN_LOAD_QUERY = 17;
    /// A LOAD DATA statement.
    EXECUTE_LOAD_QUERY = 18;
    /// Which table the row events that follow mean.
    TABLE_MAP = 19;
    /// Rows inserted, version 1.
    WRITE_ROWS_V1 = 23;
    /// Rows updated, version 1.
    UPDATE_ROWS_V1 = 24;
    /// Rows deleted, version 1.
    DELETE_ROWS_V1 = 25;
    /// The server knows that it lost events.
    INCIDENT = 26;
    /// The connection lives; never in a file.
    HEARTBEAT = 27;
    /// To be ignored by who does not know better.
    IGNORABLE = 28;
    /// The text of the statement whose rows follow (MySQL).
    ROWS_QUERY = 29;
    /// Rows inserted.
    WRITE_ROWS = 30;
    /// Rows updated.
    UPDATE_ROWS = 31;
    /// Rows deleted.
    DELETE_ROWS = 32;
    /// A transaction with a GTID begins (MySQL).
    GTID = 33;
    /// A transaction without a GTID begins (MySQL).
    ANONYMOUS_GTID = 34;
    /// The GTIDs of all files before (MySQL).
    PREVIOUS_GTIDS = 35;
    /// Of group replication.
    TRANSACTION_CONTEXT = 36;
    /// Of group replication: the members changed.
    VIEW_CHANGE = 37;
    /// An XA transaction is prepared.
    XA_PREPARE = 38;
    /// Rows updated, JSON values in part.
    PARTIAL_UPDATE_ROWS = 39;
    /// A whole transaction but for its GTID, compressed (MySQL).
    TRANSACTION_PAYLOAD = 40;
    /// As HEARTBEAT, with a position of 64 bits (MySQL).
    HEARTBEAT_V2 = 41;
    /// A transaction with a GTID that has a tag begins (MySQL).
    GTID_TAGGED = 42;
    /// The text of the statement whose rows follow (MariaDB).
    ANNOTATE_ROWS = 160;
    /// Which file crash recovery has to begin at (MariaDB).
    BINLOG_CHECKPOINT = 161;
    /// A transaction begins (MariaDB).
    MARIADB_GTID = 162;
    /// The state of GTIDs at the file's beginning (MariaDB).
    GTID_LIST = 163;
    /// What follows in this file is encrypted (MariaDB).
    START_ENCRYPTION = 164;
    /// As QUERY, compressed (MariaDB).
    QUERY_COMPRESSED = 165;
    /// As WRITE_ROWS_V1, compressed (MariaDB).
    WRITE_ROWS_COMPRESSED_V1 = 166;
    /// As UPDATE_ROWS_V1, compressed (MariaDB).
    UPDATE_ROWS_COMPRESSED_V1 = 167;
    /// As DELETE_ROWS_V1, compressed (MariaDB).
    DELETE_ROWS_COMPRESSED_V1 = 168;
    /// As WRITE_ROWS, compressed (MariaDB).
    WRITE_ROWS_COMPRESSED = 169;
    /// As UPDATE_ROWS, compressed (MariaDB).
    UPDATE_ROWS_COMPRESSED = 170;
    /// As DELETE_ROWS, compressed (MariaDB).
    DELETE_ROWS_COMPRESSED = 171;
}

impl EventType {
    /// Of these every byte is wanted. They are short, but for the sets of GTIDs, which a server holds in memory too.
    pub(super) fn is_kept_whole(self) -> bool {
        matches!(
            self,
            EventType::FORMAT_DESCRIPTION
                | EventType::ROTATE
                | EventType::PREVIOUS_GTIDS
                | EventType::GTID_LIST
        )
    }

    /// Whether the file ends with it.
    pub(super) fn ends_file(self) -> bool {
        matches!(self, EventType::ROTATE | EventType::STOP)
    }
}

/// The name, else the number.
impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

/// The common header of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventHeader {
    /// When the statement began, in seconds since 1970. `SET TIMESTAMP` forges it, and it is not monotonic.
    pub timestamp: u32,
    /// What the event is.
    pub kind: EventType,
    /// The server that created the event.
    pub server_id: u32,
    /// The event's length in bytes, header and checksum included.
    pub length: u32,
    /// The lowest 32 bits of where the event ends in its file. Zero: not told (within transactions of MariaDB from 11.4
    /// on, and in what was never in a file).
    pub end_position: u32,
    /// Flags, the `LOG_EVENT_..._F` of the headers.
    pub flags: u16,
}

impl EventHeader {
    /// `LOG_EVENT_BINLOG_IN_USE_F`, of a format description event: the file is open, or its server crashed.
    const IN_USE: u16 = 0x1;
    /// `LOG_EVENT_ARTIFICIAL_F`: made for a replica, in no file.
    const ARTIFICIAL: u16 = 0x20;
    /// `LOG_EVENT_IGNORABLE_F`: may be ignored by who does not know the type.
    const IGNORABLE: u16 = 0x80;

    /// Offset of the flags, whose low byte holds [`EventHeader::IN_USE`].
    pub(super) const FLAGS_OFFSET: usize = 17;

    /// Reads a header from the front of `bytes`; `None` when they are fewer than 19.
    pub fn parse(bytes: &[u8]) -> Option<EventHeader> {
        let mut reader = ByteReader::new(bytes);
        Some(EventHeader {
            timestamp: reader.u32()?,
            kind: EventType(reader.u8()?),
            server_id: reader.u32()?,
            length: reader.u32()?,
            end_position: reader.u32()?,
            flags: reader.u16()?,
        })
    }

    /// When the statement began, at the second.
    pub fn time(&self) -> Timestamp {
        Timestamp(i64::from(self.timestamp).saturating_mul(1_000_000))
    }

    /// Whether the file of this format description event is open, or was when its server crashed. The flag is cleared in
    /// place when the file is closed, and counts as cleared for the event's checksum.
    pub fn is_in_use(&self) -> bool {
        self.kind == EventType::FORMAT_DESCRIPTION && self.flags & EventHeader::IN_USE != 0
    }

    /// Whether the event lies in a file. What a source sends a replica beside its files' events is none: artificial
    /// rotates and GTID lists, heartbeats, and the format description sent again when a dump starts in mid-file, whose
    /// end position is zero (`Binlog_sender::send_format_description_event` in MySQL's `rpl_binlog_sender.cc`,
    /// `send_format_descriptor_event` in MariaDB's `sql_repl.cc`).
    ///
    /// For what COM_BINLOG_DUMP delivers. Behind COM_BINLOG_DUMP_GTID MySQL 9.7 leaves the end position of a format
    /// description that it sends again as it is: there the position that [`ArtificialRotate`] names decides, past 4, as
    /// [`crate::replication::Dump`] knows. Within a file every event is of the file.
    pub fn is_in_file(&self) -> bool {
        let is_fake = self.flags & EventHeader::ARTIFICIAL != 0;
        let is_heartbeat = matches!(self.kind, EventType::HEARTBEAT | EventType::HEARTBEAT_V2);
        let is_sent_again = self.kind == EventType::FORMAT_DESCRIPTION && self.end_position == 0;
        !(is_fake || is_heartbeat || is_sent_again)
    }

    /// Whether one who does not know its type may ignore the event.
    pub fn is_ignorable(&self) -> bool {
        self.flags & EventHeader::IGNORABLE != 0
    }
}

/// What a source sends before anything of a file: which file, and from where on. It lies in no file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtificialRotate<'a> {
    /// The file's name, without a directory; bytes that are not UTF-8 are replaced.
    pub file: Cow<'a, str>,
    /// Where in it the next event begins: 4, unless the dump starts in mid-file.
    pub position: BinlogOffset,
}

impl<'a> ArtificialRotate<'a> {
    /// Reads one, from its header on; `None` when it is none. It may carry a checksum or not, whatever the format of any
    /// file is (it depends on `@source_binlog_checksum`, and the first comes before any format is known), so what looks
    /// like one is left out: no name of a file ends with its own CRC-32.
    pub fn of_packet(bytes: &'a [u8]) -> Option<ArtificialRotate<'a>> {
        let header = EventHeader::parse(bytes)?;
        let is_artificial = header.kind == EventType::ROTATE && !header.is_in_file();
        let is_whole = usize::try_from(header.length).is_ok_and(|length| length == bytes.len());
        if !is_artificial || !is_whole {
            return None;
        }
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        let mut crc = EventCrc::new();
        crc.add(content);
        let event = if crc.finish() == u32::from_le_bytes(*checksum) {
            content
        } else {
            bytes
        };
        let mut reader = ByteReader::new(event.get(HEADER_BYTES..)?);
        let position = BinlogOffset(reader.u64()?);
        let file = String::from_utf8_lossy(reader.rest());
        Some(ArtificialRotate { file, position })
    }
}

/// A whole event, as it lies in the input or was put together.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Where it begins.
    pub begin: BinlogOffset,
    /// Where it ends and the next one begins. Events from within a payload have the payload's positions.
    pub end: BinlogOffset,
    /// The common header.
    pub header: EventHeader,
    /// The format of its file.
    pub format: &'a Format,
    /// Behind the header, without the checksum: all of it, or the beginning.
    pub(super) body: &'a [u8],
    pub(super) is_whole: bool,
}

impl<'a> Event<'a> {
    /// Takes one event as a replication connection delivers it, from its header to its checksum. The checksum is
    /// verified, as the format says. For what is in no file ([`EventHeader::is_in_file`]); its offsets are those it
    /// claims. A format description speaks for itself: see [`Format::of_event`].
    ///
    /// # Errors
    /// [`BinlogError::Length`] and [`BinlogError::Checksum`].
    pub fn of_packet(bytes: &'a [u8], format: &'a Format) -> Result<Event<'a>, BinlogError> {
        let header = EventHeader::parse(bytes);
        let claimed = header.map_or(0, |header| header.end_position);
        let end = BinlogOffset(claimed.into());
        let begin = BinlogOffset(end.0.saturating_sub(bytes.len() as u64));
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let Some(header) = header.filter(|header| header.length == length) else {
            return Err(BinlogError::Length { at: begin, length });
        };
        let body = format.checked_body(bytes, begin)?;
        Ok(Event {
            begin,
            end,
            header,
            format,
            body,
            is_whole: true,
        })
    }

    /// What follows the header, the checksum left out. Of a long event that came in portions, only the beginning.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Whether [`body`](Event::body) is all of it.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    pub(super) fn malformed(&self, problem: &'static str) -> BinlogError {
        BinlogError::Malformed {
            at: self.begin,
            kind: self.header.kind,
            problem,
        }
    }

    /// Length of the body that an event of `length` bytes has.
    pub(super) fn body_bytes(length: u32, has_checksum: bool) -> Option<usize> {
        let overhead = HEADER_BYTES + if has_checksum { CHECKSUM_BYTES } else { 0 };
        usize::try_from(length).ok()?.checked_sub(overhead)
    }
}
