//! What of a dump lies in files, and where.

use super::packet::PacketError;
use crate::binlog::{ArtificialRotate, BinlogOffset, EventHeader, EventType};

/// Follows a dump by its events, from the first on: which file is being sent, and how far.
///
/// Offsets are counted, not read: events carry the lowest 32 bits of theirs, and some none.
#[derive(Debug, Clone, Default)]
pub struct Dump {
    /// The file that is being sent, and where in it the next byte lies.
    current: Option<(String, BinlogOffset)>,
    /// What is still to come of a long event.
    rest: Option<Rest>,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    bytes: u64,
    is_in_file: bool,
}

/// What an event of a dump is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dumped<'d, 'a> {
    /// The dump goes on in this file, from here on. Not itself in any file. At [`BinlogOffset::FIRST_EVENT`] the file's
    /// magic, which is never sent, is to be put before what follows.
    File {
        /// The file's name.
        file: &'d str,
        /// Where in it the next event begins.
        position: BinlogOffset,
    },
    /// The format of the file, sent as the dump starts in mid-file. It lies in the file, but not here.
    Format(
        /// The event.
        &'a [u8],
    ),
    /// An event of the file, or a part of one.
    Event {
        /// Where it begins.
        begin: BinlogOffset,
        /// Its bytes, as they lie in the file.
        bytes: &'a [u8],
        /// The event ends with them.
        ends: bool,
    },
    /// In no file: a heartbeat, an artificial list of GTIDs.
    Aside(
        /// The event.
        &'a [u8],
    ),
}

impl Dump {
    /// A dump that has sent nothing yet.
    pub fn new() -> Dump {
        Dump::default()
    }

    /// The file that is being sent, and how far.
    pub fn position(&self) -> Option<(&str, BinlogOffset)> {
        self.current.as_ref().map(|(file, at)| (file.as_str(), *at))
    }

    /// Whether the last event is whole, so that another comes next.
    pub fn is_between_events(&self) -> bool {
        self.rest.is_none()
    }

    /// Takes the next bytes of the dump and says what they are: an event, from its header to its checksum, or of a long one
    /// the parts one after the other, the first of them with the header. `is_last`: no more comes of this event.
    ///
    /// # Errors
    /// It is shorter than a header, of a file before any was named, or not of the length that its header says.
    pub fn take<'d, 'a>(&'d mut self, bytes: &'a [u8], is_last: bool) -> Result<Dumped<'d, 'a>, PacketError> {
        let error = PacketError::of(bytes);
        let begun = match self.rest {
            Some(rest) => rest,
            None => {
                let header = EventHeader::parse(bytes).ok_or(error)?;
                if let Some(rotate) = ArtificialRotate::of_packet(bytes) {
                    let position = rotate.position;
                    let (file, _) = self.current.insert((rotate.file.into_owned(), position));
                    return Ok(Dumped::File { file, position });
                }
                let (_, at) = self.current.as_ref().ok_or(error)?;
                let is_format = header.kind == EventType::FORMAT_DESCRIPTION;
                if is_format && *at > BinlogOffset::FIRST_EVENT {
                    return Ok(Dumped::Format(bytes));
                }
                Rest {
                    bytes: header.length.into(),
                    is_in_file: header.is_in_file(),
                }
            }
        };
        let left = begun.bytes.checked_sub(bytes.len() as u64).ok_or(error)?;
        if is_last && left > 0 {
            return Err(error);
        }
        self.rest = (left > 0).then_some(Rest { bytes: left, ..begun });
        if !begun.is_in_file {
            return Ok(Dumped::Aside(bytes));
        }
        let (_, at) = self.current.as_mut().ok_or(error)?;
        let begin = *at;
        *at = begin.plus(bytes.len() as u64);
        Ok(Dumped::Event {
            begin,
            bytes,
            ends: left == 0,
        })
    }
}
