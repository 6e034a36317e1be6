//! Reads what `mariadb-backup --stream=xbstream` writes, as it arrives: feed bytes, poll events.
//!
//! Files come in chunks that alternate (`extra/mariabackup/xbstream_write.cc` in the server's source). A chunk is a magic,
//! flags, a type, and the path; then, by type, a payload with its offset and CRC-32, a new offset to write at (the Aria log
//! mends its header that way when it goes on in another file), another path, or nothing. Tables that are copied a second
//! time come with a flag that has them replace what came before.
//!
//! Never panics on any input. Memory: a chunk's header, and a path for each file that is open. Payloads are handed on
//! without being gathered, so their checksum is compared when their last byte has passed: after an error nothing that came
//! before may be kept.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use tidemark_types::{ByteReader, ErrorClass};

use super::FileEvent;

/// What each chunk begins with.
const MAGIC: &[u8; 8] = b"XBSTCK01";
/// Magic, flags, type, length of the path.
const HEAD_LEN: usize = 14;
/// Paths are shorter than this (`FN_REFLEN`).
const PATH_LEN_MAX: usize = 512;
/// The file replaces one of the same path that came before (`XB_STREAM_FLAG_REWRITE`).
const FLAG_REPLACES: u8 = 2;
/// Files open at once. The program opens one for each of its threads and two logs.
const OPEN_MAX: usize = 1024;

/// A stream that the program does not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XbstreamError {
    /// No chunk begins where one must.
    #[error("backup stream: no chunk begins at byte {at}")]
    Magic {
        /// Where.
        at: u64,
    },
    /// A chunk of a type that is not known.
    #[error(
        "backup stream: the chunk at byte {at} has the unknown type {kind:#04x} or unknown flags {flags:#04x}"
    )]
    Kind {
        /// Where the chunk begins.
        at: u64,
        /// Its type.
        kind: u8,
        /// Its flags.
        flags: u8,
    },
    /// A path that no file can have, or that leads out of the data directory.
    #[error("backup stream: the chunk at byte {at} names the path \"{path}\", which is refused")]
    Path {
        /// Where the chunk begins.
        at: u64,
        /// The path, as far as it can be told.
        path: String,
    },
    /// The bytes of a chunk are not what was sent.
    #[error("backup stream: {path}: the checksum of the {length} bytes at offset {offset} does not fit")]
    Checksum {
        /// The file.
        path: String,
        /// Where in the file they begin.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// A chunk does not belong where the file has come to.
    #[error("backup stream: {path}: a chunk for offset {found} came, expected {expected}")]
    Order {
        /// The file.
        path: String,
        /// Where it would go on.
        expected: u64,
        /// What the chunk says.
        found: u64,
    },
    /// A chunk that cannot be at this point: the end, or another name, of a file in the wrong state.
    #[error("backup stream: {path}: {problem}")]
    State {
        /// The file.
        path: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The stream ends within a chunk.
    #[error("backup stream: it ends at byte {at}, within a chunk")]
    Truncated {
        /// Where it ends.
        at: u64,
    },
}

impl XbstreamError {
    /// The class of the error: what arrived is not what was sent, or not from a program we know.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Corrupt
    }
}

/// What a chunk says beside its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Payload,
    End,
    Seek,
    Rename,
    Remove,
}

impl Kind {
    fn of(code: u8) -> Option<Kind> {
        match code {
            b'P' => Some(Kind::Payload),
            b'E' => Some(Kind::End),
            b'S' => Some(Kind::Seek),
            b'R' => Some(Kind::Rename),
            b'D' => Some(Kind::Remove),
            _ => None,
        }
    }

    /// Bytes between the path and what follows: length, offset and checksum of a payload, an offset, a path's length.
    fn tail_len(self) -> usize {
        match self {
            Kind::Payload => 8 + 8 + 4,
            Kind::Seek => 8,
            Kind::Rename => 4,
            Kind::End | Kind::Remove => 0,
        }
    }
}

/// The front of a chunk.
#[derive(Debug, Clone)]
struct Head {
    at: u64,
    kind: Kind,
    replaces: bool,
    path_len: usize,
}

#[derive(Debug)]
enum State {
    Head,
    Path(Head),
    Tail(Head, Arc<str>),
    /// The other path of a rename.
    NewPath {
        at: u64,
        from: Arc<str>,
        len: usize,
    },
    Payload(Payload),
}

/// A payload that is passing.
#[derive(Debug)]
struct Payload {
    path: Arc<str>,
    file: u64,
    begin: u64,
    length: u64,
    passed: u64,
    checksum: u32,
}

#[derive(Debug, Clone, Copy)]
struct OpenFile {
    number: u64,
    /// Where its next bytes go.
    next: u64,
}

/// The reader. After an error it stays where it is: feed it no more.
#[derive(Debug)]
pub struct XbstreamReader {
    input: VecDeque<Bytes>,
    /// A header or a path, as far as it has arrived.
    gathered: BytesMut,
    /// Bytes taken so far.
    position: u64,
    state: State,
    /// Of the payload that is passing.
    digest: Digest,
    open: HashMap<Arc<str>, OpenFile>,
    next_number: u64,
}

impl Default for XbstreamReader {
    fn default() -> XbstreamReader {
        XbstreamReader {
            input: VecDeque::new(),
            gathered: BytesMut::new(),
            position: 0,
            state: State::Head,
            digest: Digest::new(CrcAlgorithm::Crc32IsoHdlc),
            open: HashMap::new(),
            next_number: 0,
        }
    }
}

impl XbstreamReader {
    /// A reader at the start of a stream.
    pub fn new() -> XbstreamReader {
        XbstreamReader::default()
    }

    /// Gives the reader more bytes. They are kept until polled: poll until `None` before feeding again.
    pub fn feed(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.input.push_back(bytes);
        }
    }

    /// The next event; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the stream is not one that the program writes.
    pub fn poll(&mut self) -> Result<Option<FileEvent>, XbstreamError> {
        loop {
            let state = std::mem::replace(&mut self.state, State::Head);
            let (state, event) = match state {
                State::Head => match self.gather(HEAD_LEN) {
                    Some(bytes) => (State::Path(self.head(&bytes)?), None),
                    None => return Ok(None),
                },
                State::Path(head) => match self.gather(head.path_len) {
                    Some(bytes) => {
                        let path = path(head.at, &bytes)?;
                        (State::Tail(head, path), None)
                    }
                    None => return self.wait(State::Path(head)),
                },
                State::Tail(head, path) => match self.gather(head.kind.tail_len()) {
                    Some(bytes) => self.tail(&head, path, &bytes)?,
                    None => return self.wait(State::Tail(head, path)),
                },
                State::NewPath { at, from, len } => match self.gather(len) {
                    Some(bytes) => {
                        let to = path(at, &bytes)?;
                        self.check_closed(&to)?;
                        (State::Head, Some(FileEvent::Rename { from, to }))
                    }
                    None => return self.wait(State::NewPath { at, from, len }),
                },
                State::Payload(payload) => match self.payload(payload)? {
                    (state, Some(event)) => (state, Some(event)),
                    (state @ State::Payload(_), None) => return self.wait(state),
                    (state, None) => (state, None),
                },
            };
            self.state = state;
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Says that no more bytes come. Call it when [`XbstreamReader::poll`] has returned `None`.
    ///
    /// # Errors
    /// [`XbstreamError::Truncated`] within a chunk, [`XbstreamError::State`] when a file has no end.
    pub fn finish(&self) -> Result<(), XbstreamError> {
        if !matches!(self.state, State::Head) || !self.gathered.is_empty() {
            return Err(XbstreamError::Truncated { at: self.position });
        }
        match self.open.keys().min() {
            Some(path) => Err(XbstreamError::State {
                path: path.to_string(),
                problem: "the stream ends before the file does",
            }),
            None => Ok(()),
        }
    }

    fn wait(&mut self, state: State) -> Result<Option<FileEvent>, XbstreamError> {
        self.state = state;
        Ok(None)
    }

    /// Up to `limit` bytes from the front of the input, without copying; `None` when there are none.
    fn take(&mut self, limit: usize) -> Option<Bytes> {
        let front = self.input.front_mut()?;
        let taken = front.split_to(limit.min(front.len()));
        if !front.has_remaining() {
            self.input.pop_front();
        }
        self.position = self.position.saturating_add(taken.len() as u64);
        Some(taken)
    }

    /// Exactly `len` bytes, once they have arrived.
    fn gather(&mut self, len: usize) -> Option<Bytes> {
        while self.gathered.len() < len {
            let bytes = self.take(len - self.gathered.len())?;
            self.gathered.extend_from_slice(&bytes);
        }
        Some(self.gathered.split().freeze())
    }

    fn head(&self, bytes: &[u8]) -> Result<Head, XbstreamError> {
        let at = self.position.saturating_sub(HEAD_LEN as u64);
        let mut reader = ByteReader::new(bytes);
        let (magic, flags, code, path_len) = (reader.array(), reader.u8(), reader.u8(), reader.u32());
        let (Some(MAGIC), Some(flags), Some(code), Some(path_len)) = (magic.as_ref(), flags, code, path_len)
        else {
            return Err(XbstreamError::Magic { at });
        };
        let kind = Kind::of(code).filter(|_| flags & !FLAG_REPLACES == 0);
        let kind = kind.ok_or(XbstreamError::Kind {
            at,
            kind: code,
            flags,
        })?;
        Ok(Head {
            at,
            kind,
            replaces: flags & FLAG_REPLACES != 0,
            path_len: path_len_of(at, path_len)?,
        })
    }

    /// What a chunk does, and what comes next.
    fn tail(
        &mut self,
        head: &Head,
        path: Arc<str>,
        bytes: &[u8],
    ) -> Result<(State, Option<FileEvent>), XbstreamError> {
        let mut reader = ByteReader::new(bytes);
        let truncated = || XbstreamError::Truncated { at: head.at };
        match head.kind {
            Kind::Payload | Kind::Seek if !self.open.contains_key(&path) => {
                let file = self.open_file(&path)?;
                // The chunk itself is looked at again, now that its file is open.
                self.gathered = BytesMut::from(bytes);
                let replaces = head.replaces;
                let event = FileEvent::Begin {
                    file,
                    path: path.clone(),
                    replaces,
                };
                Ok((State::Tail(head.clone(), path), Some(event)))
            }
            Kind::Payload => {
                let (length, offset) = (reader.u64(), reader.u64());
                let (length, offset) = length.zip(offset).ok_or_else(truncated)?;
                let checksum = reader.u32().ok_or_else(truncated)?;
                self.begin_payload(path, offset, length, checksum)
            }
            Kind::Seek => {
                let offset = reader.u64().ok_or_else(truncated)?;
                if let Some(open) = self.open.get_mut(&path) {
                    open.next = offset;
                }
                Ok((State::Head, None))
            }
            Kind::End => match self.open.remove(&path) {
                Some(open) => Ok((State::Head, Some(FileEvent::End { file: open.number }))),
                // A file without a byte: its end is all that is written of it.
                None => {
                    let file = self.open_file(&path)?;
                    let replaces = head.replaces;
                    let event = FileEvent::Begin {
                        file,
                        path: path.clone(),
                        replaces,
                    };
                    Ok((State::Tail(head.clone(), path), Some(event)))
                }
            },
            Kind::Rename => {
                self.check_closed(&path)?;
                let len = path_len_of(head.at, reader.u32().ok_or_else(truncated)?)?;
                Ok((
                    State::NewPath {
                        at: head.at,
                        from: path,
                        len,
                    },
                    None,
                ))
            }
            Kind::Remove => {
                self.check_closed(&path)?;
                Ok((State::Head, Some(FileEvent::Remove { path })))
            }
        }
    }

    fn open_file(&mut self, path: &Arc<str>) -> Result<u64, XbstreamError> {
        if self.open.len() >= OPEN_MAX {
            return Err(XbstreamError::State {
                path: path.to_string(),
                problem: "more files are open at once than the program opens",
            });
        }
        let number = self.next_number;
        self.next_number += 1;
        self.open.insert(path.clone(), OpenFile { number, next: 0 });
        Ok(number)
    }

    fn check_closed(&self, path: &Arc<str>) -> Result<(), XbstreamError> {
        if self.open.contains_key(path) {
            return Err(XbstreamError::State {
                path: path.to_string(),
                problem: "it is renamed or removed before its end came",
            });
        }
        Ok(())
    }

    fn begin_payload(
        &mut self,
        path: Arc<str>,
        offset: u64,
        length: u64,
        checksum: u32,
    ) -> Result<(State, Option<FileEvent>), XbstreamError> {
        let open = self.open.get_mut(&path).ok_or_else(|| XbstreamError::State {
            path: path.to_string(),
            problem: "it is not open",
        })?;
        let end = offset.checked_add(length).filter(|_| offset == open.next);
        let Some(end) = end else {
            return Err(XbstreamError::Order {
                path: path.to_string(),
                expected: open.next,
                found: offset,
            });
        };
        open.next = end;
        let payload = Payload {
            file: open.number,
            path,
            begin: offset,
            length,
            passed: 0,
            checksum,
        };
        Ok((State::Payload(payload), None))
    }

    /// Hands on what there is of a payload, or compares its checksum when all of it has passed.
    fn payload(&mut self, mut payload: Payload) -> Result<(State, Option<FileEvent>), XbstreamError> {
        let left = payload.length.saturating_sub(payload.passed);
        if left == 0 {
            if self.digest.finalize_reset() != u64::from(payload.checksum) {
                return Err(XbstreamError::Checksum {
                    path: payload.path.to_string(),
                    offset: payload.begin,
                    length: payload.length,
                });
            }
            return Ok((State::Head, None));
        }
        let Some(bytes) = self.take(usize::try_from(left).unwrap_or(usize::MAX)) else {
            return Ok((State::Payload(payload), None));
        };
        self.digest.update(&bytes);
        let event = FileEvent::Data {
            file: payload.file,
            offset: payload.begin.saturating_add(payload.passed),
            bytes: bytes.clone(),
        };
        payload.passed = payload.passed.saturating_add(bytes.len() as u64);
        Ok((State::Payload(payload), Some(event)))
    }
}

fn path_len_of(at: u64, claimed: u32) -> Result<usize, XbstreamError> {
    let len = usize::try_from(claimed)
        .ok()
        .filter(|len| (1..PATH_LEN_MAX).contains(len));
    len.ok_or_else(|| XbstreamError::Path {
        at,
        path: format!("of {claimed} bytes"),
    })
}

/// A path, normalised: no `./`, nothing that leads upwards or begins at the root.
fn path(at: u64, bytes: &[u8]) -> Result<Arc<str>, XbstreamError> {
    let refused = || XbstreamError::Path {
        at,
        path: String::from_utf8_lossy(bytes).into_owned(),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| refused())?;
    let parts: Vec<&str> = text.split('/').filter(|part| *part != ".").collect();
    let is_safe = |part: &&str| !part.is_empty() && *part != ".." && !part.contains('\0');
    if parts.is_empty() || !parts.iter().all(is_safe) {
        return Err(refused());
    }
    Ok(parts.join("/").into())
}

#[cfg(test)]
mod tests;
