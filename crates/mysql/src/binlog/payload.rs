//! Compressed transactions of MySQL: a payload that holds events.
//!
//! Layout: `Transaction_payload_event` in MySQL's `control_events.h`, `codecs/binary.cpp`: fields of type, length and value,
//! as length-encoded integers, ended by type 0; then the compressed events. These have no checksum.

use std::fmt;
use std::ops::ControlFlow;

use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::DParameter;

use super::assembly::KEPT_BYTES_MAX;
use super::error::BinlogError;
use super::event::{EVENT_BYTES_MAX, Event, EventHeader, EventType, HEADER_BYTES};
use crate::bytes::ReadMysql;
use tidemark_types::ByteReader;

/// A transaction's events, compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a> {
    /// How they are compressed.
    pub compression: Compression,
    /// The length of the events, as the server claims it.
    pub uncompressed_bytes: u64,
    /// The compressed events, or the beginning of long ones.
    compressed: &'a [u8],
    is_whole: bool,
}

/// How a payload is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd.
    Zstd,
    /// Not at all.
    None,
}

impl<'a> Payload<'a> {
    pub(super) fn read(body: &'a [u8], is_whole: bool) -> Option<Payload<'a>> {
        let mut reader = ByteReader::new(body);
        let (mut payload_bytes, mut compression, mut uncompressed_bytes) = (None, None, None);
        loop {
            let field = reader.length_encoded()?;
            if field == 0 {
                break;
            }
            let mut value = ByteReader::new(reader.length_encoded_bytes()?);
            let target = match field {
                1 => &mut payload_bytes,
                2 => &mut compression,
                3 => &mut uncompressed_bytes,
                // Fields that newer servers add can be left out, as the server does.
                _ => continue,
            };
            *target = Some(value.length_encoded()?);
        }
        let compressed = reader.rest();
        let payload_bytes = payload_bytes?;
        if is_whole && payload_bytes != compressed.len() as u64 {
            return None;
        }
        let compression = match compression? {
            0 => Compression::Zstd,
            255 => Compression::None,
            _ => return None,
        };
        Some(Payload {
            compression,
            uncompressed_bytes: uncompressed_bytes.unwrap_or(payload_bytes),
            compressed,
            is_whole,
        })
    }
}

/// Memory for what is decompressed at a time.
const OUTPUT_BYTES: usize = 128 << 10;
/// The largest window that is granted (128 MiB, zstd's own limit for streams); servers use far smaller ones.
const WINDOW_LOG_MAX: u32 = 27;

/// Reads the events of payloads, one payload after the other. Keeps its memory from one to the next.
pub struct PayloadReader {
    zstd: Option<Decoder<'static>>,
    output: Vec<u8>,
    /// The beginning of an event whose rest is not decompressed yet.
    event: Vec<u8>,
}

impl PayloadReader {
    /// A reader that holds no memory yet.
    pub fn new() -> PayloadReader {
        PayloadReader {
            zstd: None,
            output: Vec::new(),
            event: Vec::new(),
        }
    }

    /// Hands the events of the payload of `outer` to `each`, in order, until it breaks off. Of an event over 1 MiB only
    /// the beginning is told; no more is ever decompressed than the payload claims to hold.
    ///
    /// # Errors
    /// [`BinlogError::Malformed`], with the payload's position, when it is not what it claims to be. Of a payload whose
    /// beginning alone was kept, the events that are complete are told.
    pub fn read<'e>(
        &mut self,
        outer: &Event<'e>,
        payload: &Payload<'e>,
        mut each: impl FnMut(&Event<'_>) -> ControlFlow<()>,
    ) -> Result<(), BinlogError> {
        self.event.clear();
        let mut inner = Inner {
            outer,
            event: &mut self.event,
            lacking: 0,
            total: 0,
        };
        let result = match payload.compression {
            Compression::None => inner.take(payload.compressed, &mut each),
            Compression::Zstd => {
                let zstd = match &mut self.zstd {
                    Some(zstd) => zstd,
                    none => {
                        none.insert(new_decoder().map_err(|_| outer.malformed("no memory to decompress it"))?)
                    }
                };
                self.output.resize(OUTPUT_BYTES, 0);
                decompress(zstd, payload, &mut self.output, &mut inner, &mut each)
            }
        };
        self.event.shrink_to(KEPT_BYTES_MAX);
        match result {
            Ok(()) if payload.is_whole && !self.event.is_empty() => {
                Err(outer.malformed("its last compressed event is not complete"))
            }
            Ok(()) | Err(Stop::Broken) => Ok(()),
            Err(Stop::Malformed(problem)) => Err(outer.malformed(problem)),
        }
    }
}

impl Default for PayloadReader {
    fn default() -> PayloadReader {
        PayloadReader::new()
    }
}

impl fmt::Debug for PayloadReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadReader").finish_non_exhaustive()
    }
}

fn new_decoder() -> std::io::Result<Decoder<'static>> {
    let mut decoder = Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
    Ok(decoder)
}

/// Why reading ends early.
enum Stop {
    /// The caller has seen enough.
    Broken,
    Malformed(&'static str),
}

fn decompress(
    zstd: &mut Decoder<'static>,
    payload: &Payload<'_>,
    output: &mut [u8],
    inner: &mut Inner<'_, '_>,
    each: &mut impl FnMut(&Event<'_>) -> ControlFlow<()>,
) -> Result<(), Stop> {
    let damaged = |_| Stop::Malformed("its compressed events are damaged");
    zstd.reinit().map_err(damaged)?;
    let mut input = InBuffer::around(payload.compressed);
    loop {
        let before = input.pos;
        let mut out = OutBuffer::around(&mut *output);
        let hint = zstd.run(&mut input, &mut out).map_err(damaged)?;
        let produced = out.as_slice();
        inner.take(produced, each)?;
        if inner.total > payload.uncompressed_bytes {
            return Err(Stop::Malformed("it holds more than it claims"));
        }
        let is_input_used = input.pos >= payload.compressed.len();
        let is_stuck = produced.is_empty() && input.pos == before;
        if is_stuck || (is_input_used && produced.len() < OUTPUT_BYTES) {
            // A frame that is not complete asks for more.
            let is_complete = hint == 0 && inner.total == payload.uncompressed_bytes;
            return if is_complete || !payload.is_whole {
                Ok(())
            } else {
                Err(Stop::Malformed("it holds less than it claims"))
            };
        }
    }
}

/// The events of a payload, cut out of what comes.
struct Inner<'o, 'e> {
    outer: &'o Event<'e>,
    event: &'o mut Vec<u8>,
    /// Bytes of the event under way that are still to come, past its header; it has none of them in `event`, where its
    /// beginning is, that are over the limit.
    lacking: u64,
    total: u64,
}

impl Inner<'_, '_> {
    fn take(
        &mut self,
        mut input: &[u8],
        each: &mut impl FnMut(&Event<'_>) -> ControlFlow<()>,
    ) -> Result<(), Stop> {
        self.total = self.total.saturating_add(input.len() as u64);
        while !input.is_empty() {
            if self.event.len() < HEADER_BYTES {
                let head;
                let wanted = HEADER_BYTES - self.event.len();
                (head, input) = input.split_at_checked(wanted).unwrap_or((input, &[]));
                self.event.extend_from_slice(head);
                if self.event.len() < HEADER_BYTES {
                    return Ok(());
                }
                self.lacking = self.body_bytes()?;
            }
            let wanted = usize::try_from(self.lacking).unwrap_or(usize::MAX);
            let (body, rest) = input.split_at_checked(wanted).unwrap_or((input, &[]));
            input = rest;
            let room = KEPT_BYTES_MAX.saturating_sub(self.event.len());
            self.event.extend_from_slice(body.get(..room).unwrap_or(body));
            self.lacking = self.lacking.saturating_sub(body.len() as u64);
            if self.lacking == 0 {
                self.hand_out(each)?;
            }
        }
        Ok(())
    }

    fn body_bytes(&self) -> Result<u64, Stop> {
        let header = EventHeader::parse(self.event);
        let length = header
            .map(|header| header.length)
            .filter(|&length| length <= EVENT_BYTES_MAX);
        let body = length.and_then(|length| Event::body_bytes(length, false));
        let is_nested = header.is_some_and(|header| header.kind == EventType::TRANSACTION_PAYLOAD);
        match body {
            Some(count) if !is_nested => Ok(count as u64),
            Some(_) => Err(Stop::Malformed("it holds a payload")),
            None => Err(Stop::Malformed("a compressed event has a length that cannot be")),
        }
    }

    fn hand_out(&mut self, each: &mut impl FnMut(&Event<'_>) -> ControlFlow<()>) -> Result<(), Stop> {
        let Some(header) = EventHeader::parse(self.event) else {
            return Ok(());
        };
        let event = Event {
            begin: self.outer.begin,
            end: self.outer.end,
            header,
            format: self.outer.format,
            body: self.event.get(HEADER_BYTES..).unwrap_or_default(),
            is_whole: usize::try_from(header.length).is_ok_and(|length| length == self.event.len()),
        };
        let flow = each(&event);
        self.event.clear();
        match flow {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stop::Broken),
        }
    }
}
