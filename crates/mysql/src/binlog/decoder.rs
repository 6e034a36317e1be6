//! The decoder: from the bytes of a binlog file, in any portions, to events.
//!
//! It does no I/O and keeps no time. What it checks: the magic, the format description, the chain of events (lengths, end
//! positions), checksums, that nothing follows the end. What it leaves to others: what an event means ([`super::Fact`]),
//! whether transactions are whole ([`super::Transactions`]), whether the file follows the one before it.
//!
//! Invariants: bytes are consumed in order, each once; no byte from outside causes a panic or an allocation larger than
//! what was fed; the same bytes yield the same events, however they are divided.

use super::assembly::Assembly;
use super::checksum::{CHECKSUM_BYTES, EventCrc};
use super::error::BinlogError;
use super::event::{BinlogOffset, EVENT_BYTES_MAX, Event, EventHeader, EventType, HEADER_BYTES};
use super::format::{Format, add_event, compare_checksum};

/// What a binlog file begins with (`BINLOG_MAGIC`).
const MAGIC: [u8; 4] = [0xFE, b'b', b'i', b'n'];
/// What one that MySQL encrypted begins with (`Rpl_encryption_header::ENCRYPTION_MAGIC`).
const MAGIC_ENCRYPTED: [u8; 4] = [0xFD, b'b', b'i', b'n'];

/// Decodes one binlog file.
///
/// Feed it by calling [`next`](BinlogDecoder::next) with a slice that it consumes from the front, until it answers
/// `None`; then with the bytes that follow. An event that lies within one input is parsed in place, others are put
/// together first. Of an event over 1 MiB that came in portions only the beginning is held (32 MiB of a compressed
/// transaction, all of the sets of GTIDs); its checksum is verified all the same.
///
/// **What is no part of a file.** A replication connection delivers events that are in no file
/// ([`EventHeader::is_in_file`]): they must not be fed here.
///
/// **The end of the file.** A rotate or stop event is the last one; bytes behind it are an error. A file without one is
/// that of a running server, or of one that crashed: [`end`](BinlogDecoder::end) tells how it ends.
///
/// **Errors.** After one, `next` repeats it and consumes nothing. There is no way to go on behind damage: events carry
/// no mark to find the next one by, and a length that cannot be trusted says nothing of where it begins. Nobody needs
/// one either: what came damaged is received again from its source, and no server applies a log with a hole.
#[derive(Debug)]
pub struct BinlogDecoder {
    /// The next byte to consume.
    at: BinlogOffset,
    /// The end of the last whole event, or of the magic.
    whole: BinlogOffset,
    state: State,
    magic: [u8; 4],
    format: Option<Format>,
    assembly: Assembly,
    crc: EventCrc,
}

#[derive(Debug)]
enum State {
    /// The magic comes next, or its rest.
    Magic,
    /// An event comes next.
    Event,
    /// The rest of the event in `assembly` comes next.
    EventRest,
    /// The file has ended in order.
    Ended,
    /// Lost by this error.
    Lost(BinlogError),
}

/// How the bytes that were fed so far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileEnd {
    /// With the event that ends a file: the server rotated or stopped.
    Closed,
    /// Behind a whole event: more is to come, unless the server crashed.
    Open,
    /// In the midst of an event, or of the magic, that begins here: more is to come, unless the server crashed. Its next
    /// start leaves this tail behind, or cuts it off (`MYSQL_BIN_LOG::open_binlog` trims the last file).
    Torn {
        /// Where the unfinished event begins.
        begin: BinlogOffset,
    },
}

/// What a step came to.
enum Step<'b> {
    /// Go on.
    Continue,
    /// The input is used up.
    Starved,
    /// A whole event, in the input.
    InPlace { header: EventHeader, bytes: &'b [u8] },
    /// A whole event, in the assembly.
    Assembled { header: EventHeader },
}

impl BinlogDecoder {
    /// A decoder of a file from its first byte on.
    pub fn new() -> BinlogDecoder {
        BinlogDecoder {
            at: BinlogOffset(0),
            whole: BinlogOffset(0),
            state: State::Magic,
            magic: [0; 4],
            format: None,
            assembly: Assembly::new(),
            crc: EventCrc::new(),
        }
    }

    /// A decoder of a file from an event's beginning on, whose format is known already.
    pub fn join(at: BinlogOffset, format: Format) -> BinlogDecoder {
        BinlogDecoder {
            at,
            whole: at,
            state: State::Event,
            format: Some(format),
            ..BinlogDecoder::new()
        }
    }

    /// The next event. Consumes from the front of `input`; `None` when it is used up and more is needed.
    ///
    /// # Errors
    /// What is wrong with the log, and where. `input` then stands behind what was looked at; what lies before the error's
    /// position has been handed out.
    pub fn next<'a, 'b: 'a>(&'a mut self, input: &mut &'b [u8]) -> Result<Option<Event<'a>>, BinlogError> {
        loop {
            let step = match &self.state {
                State::Lost(error) => return Err(error.clone()),
                State::Magic => self.read_magic(input),
                State::Event => self.event(input),
                State::EventRest => self.event_rest(input),
                State::Ended if input.is_empty() => Ok(Step::Starved),
                State::Ended => Err(BinlogError::AfterEnd { at: self.at }),
            };
            match step {
                Ok(Step::Continue) => {}
                Ok(Step::Starved) => return Ok(None),
                Ok(Step::InPlace { header, bytes }) => return self.in_place(header, bytes).map(Some),
                Ok(Step::Assembled { header }) => return self.assembled(header).map(Some),
                Err(error) => return self.lost(error),
            }
        }
    }

    /// The position of the next byte to consume.
    pub fn position(&self) -> BinlogOffset {
        self.at
    }

    /// Where the last whole event ended: what lies before needs no looking at again.
    pub fn whole(&self) -> BinlogOffset {
        self.whole
    }

    /// The file's format, once its first event was seen.
    pub fn format(&self) -> Option<&Format> {
        self.format.as_ref()
    }

    /// How what was fed so far ends. After an error, with what could not be read.
    pub fn end(&self) -> FileEnd {
        match self.state {
            State::Ended => FileEnd::Closed,
            State::Lost(_) => FileEnd::Torn { begin: self.whole },
            _ if self.at == self.whole && self.whole > BinlogOffset(0) => FileEnd::Open,
            _ => FileEnd::Torn { begin: self.whole },
        }
    }

    fn consume<'b>(&mut self, input: &mut &'b [u8], count: usize) -> &'b [u8] {
        let (head, rest) = input.split_at_checked(count).unwrap_or((*input, &[]));
        *input = rest;
        self.at = self.at.plus(head.len() as u64);
        head
    }

    fn lost<T>(&mut self, error: BinlogError) -> Result<T, BinlogError> {
        self.state = State::Lost(error.clone());
        Err(error)
    }

    fn read_magic(&mut self, input: &mut &[u8]) -> Result<Step<'static>, BinlogError> {
        let seen = usize::try_from(self.at.0).unwrap_or(MAGIC.len());
        let bytes = self.consume(input, MAGIC.len().saturating_sub(seen));
        for (to, from) in self.magic.iter_mut().skip(seen).zip(bytes) {
            *to = *from;
        }
        if self.at < BinlogOffset::FIRST_EVENT {
            return Ok(Step::Starved);
        }
        match self.magic {
            MAGIC => {
                self.whole = self.at;
                self.state = State::Event;
                Ok(Step::Continue)
            }
            MAGIC_ENCRYPTED => Err(BinlogError::Encrypted { at: BinlogOffset(0) }),
            found => Err(BinlogError::Magic { found }),
        }
    }

    /// An event begins here.
    fn event<'b>(&mut self, input: &mut &'b [u8]) -> Result<Step<'b>, BinlogError> {
        if let Some(header) = EventHeader::parse(input) {
            self.check_header(header)?;
            let length = usize::try_from(header.length).unwrap_or(usize::MAX);
            if length <= input.len() {
                let bytes = self.consume(input, length);
                return Ok(Step::InPlace { header, bytes });
            }
        } else if input.is_empty() {
            return Ok(Step::Starved);
        }
        self.assembly.start(self.at, &mut self.crc);
        self.state = State::EventRest;
        Ok(Step::Continue)
    }

    /// More of the event in the assembly. Its header is checked as soon as it is there, so that a damaged length is not
    /// believed for a gigabyte.
    fn event_rest(&mut self, input: &mut &[u8]) -> Result<Step<'static>, BinlogError> {
        loop {
            let wanted = self.assembly.wanted();
            let header = self.assembly.header();
            match header {
                Some(header) if wanted == 0 => return Ok(Step::Assembled { header }),
                _ if input.is_empty() => return Ok(Step::Starved),
                _ => {}
            }
            let bytes = self.consume(input, wanted);
            if let Some(header) = header {
                let has_checksum = self.has_trailer(header.kind);
                self.assembly.push(bytes, has_checksum, &mut self.crc);
            } else if let Some(header) = self.assembly.push_header(bytes, &mut self.crc) {
                self.check_header(header)?;
            }
        }
    }

    /// Whether the assembly sets a checksum apart. A format description is kept with its own: [`Format::of_event`] reads
    /// it whole.
    fn has_trailer(&self, kind: EventType) -> bool {
        kind != EventType::FORMAT_DESCRIPTION
            && self
                .format
                .as_ref()
                .is_some_and(|format| format.has_checksum(kind))
    }

    /// Checks the header of the event that begins at `whole`.
    fn check_header(&self, header: EventHeader) -> Result<(), BinlogError> {
        let at = self.whole;
        let length = header.length;
        let has_checksum = self
            .format
            .as_ref()
            .is_none_or(|format| format.has_checksum(header.kind));
        if length > EVENT_BYTES_MAX || Event::body_bytes(length, has_checksum).is_none() {
            return Err(BinlogError::Length { at, length });
        }
        let expected = match (&self.format, header.kind) {
            (None, EventType::FORMAT_DESCRIPTION) => None,
            (None, _) => Some("the format description of the file"),
            (Some(_), EventType::FORMAT_DESCRIPTION) => Some("any but a second format description"),
            (Some(_), EventType::START_ENCRYPTION) => return Err(BinlogError::Encrypted { at }),
            (Some(_), _) => None,
        };
        if let Some(expected) = expected {
            let found = header.kind;
            return Err(BinlogError::EventOrder { at, expected, found });
        }
        let end = at.plus(length.into());
        let claimed = header.end_position;
        if claimed != 0 && u64::from(claimed) != end.0 & u64::from(u32::MAX) {
            return Err(BinlogError::EndPosition { at, end, claimed });
        }
        Ok(())
    }

    fn in_place<'a>(&'a mut self, header: EventHeader, bytes: &'a [u8]) -> Result<Event<'a>, BinlogError> {
        let begin = self.whole;
        let mut body = bytes.get(HEADER_BYTES..).unwrap_or_default();
        if self.has_trailer(header.kind) {
            add_event(&mut self.crc, bytes);
            let found = self.crc.finish();
            if let Err(error) = compare_checksum(begin, header.length, bytes, found) {
                return self.lost(error);
            }
            body = without_checksum(body);
        } else if header.kind == EventType::FORMAT_DESCRIPTION {
            self.set_format(Format::of_event(bytes, begin))?;
            body = without_checksum(body);
        }
        self.go_on(header.kind);
        self.hand_out(begin, header, body, true)
    }

    fn assembled(&mut self, header: EventHeader) -> Result<Event<'_>, BinlogError> {
        let begin = self.assembly.begin;
        if self.has_trailer(header.kind) {
            let found = self.crc.finish();
            if let Err(error) = self.assembly.compare_checksum(header, found) {
                return self.lost(error);
            }
        } else if header.kind == EventType::FORMAT_DESCRIPTION {
            self.set_format(Format::of_event(self.assembly.kept(), begin))?;
        }
        self.crc.reset();
        self.go_on(header.kind);
        let mut body = self.assembly.kept().get(HEADER_BYTES..).unwrap_or_default();
        if header.kind == EventType::FORMAT_DESCRIPTION {
            body = without_checksum(body);
        }
        self.hand_out(begin, header, body, self.assembly.is_kept_whole())
    }

    fn set_format(&mut self, read: Result<Format, BinlogError>) -> Result<(), BinlogError> {
        match read {
            Ok(format) => {
                self.format = Some(format);
                Ok(())
            }
            Err(error) => self.lost(error),
        }
    }

    /// Goes on behind a whole event.
    fn go_on(&mut self, kind: EventType) {
        self.whole = self.at;
        self.state = if kind.ends_file() {
            State::Ended
        } else {
            State::Event
        };
    }

    fn hand_out<'a>(
        &'a self,
        begin: BinlogOffset,
        header: EventHeader,
        body: &'a [u8],
        is_whole: bool,
    ) -> Result<Event<'a>, BinlogError> {
        // No event is looked at before the format is known.
        let format = self.format.as_ref().ok_or(BinlogError::EventOrder {
            at: begin,
            expected: "the format description of the file",
            found: header.kind,
        })?;
        Ok(Event {
            begin,
            end: self.whole,
            header,
            format,
            body,
            is_whole,
        })
    }
}

impl Default for BinlogDecoder {
    fn default() -> BinlogDecoder {
        BinlogDecoder::new()
    }
}

fn without_checksum(body: &[u8]) -> &[u8] {
    let length = body.len().saturating_sub(CHECKSUM_BYTES);
    body.get(..length).unwrap_or_default()
}
