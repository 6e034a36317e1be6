//! Reads the tar archives of `BASE_BACKUP` as they arrive: feed bytes, poll events.
//!
//! The server writes plain ustar headers (`tarCreateHeader` in `src/port/tar.c`): names and link targets up to 100
//! bytes, sizes in octal or base 256, files, directories and symbolic links, no extensions. Before PostgreSQL 15 the
//! two closing zero blocks are missing, so an archive may end at any entry's end. Anything else is refused.
//!
//! Never panics on any input. Paths are normalised, and refused when they would leave the directory they are meant for.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use tidemark_types::{ErrorClass, Timestamp};

/// Size of a header, and what contents are padded to.
const BLOCK: usize = 512;

/// What an archive holds, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarEvent {
    /// A file begins.
    File {
        /// Relative path, `/` between components, neither `.` nor `..` among them.
        path: String,
        /// Bytes that follow as [`TarEvent::Data`].
        size: u64,
        /// Permission bits.
        mode: u32,
        /// When it was last written.
        modified: Timestamp,
    },
    /// Some bytes of the file; never empty.
    Data(Bytes),
    /// The file is complete.
    FileEnd,
    /// A directory.
    Directory {
        /// Relative path; empty for the archive's own root.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link: a tablespace, in servers that were not asked for a tablespace map.
    Symlink {
        /// Relative path of the link.
        path: String,
        /// Where it leads, as the server has it. May be absolute.
        target: String,
    },
}

/// An archive that no server sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// The checksum of a header does not fit.
    #[error("tar archive: the header at byte {at} has a wrong checksum")]
    Checksum {
        /// Where the header begins.
        at: u64,
    },
    /// A header field makes no sense.
    #[error("tar archive: the header at byte {at} has a bad {field}")]
    Field {
        /// Where the header begins.
        at: u64,
        /// Which field.
        field: &'static str,
    },
    /// An entry that is neither a file, a directory nor a symbolic link.
    #[error("tar archive: \"{path}\" is an entry of unknown type {type_flag:#04x}")]
    UnknownType {
        /// Its path.
        path: String,
        /// Its type.
        type_flag: u8,
    },
    /// A path that leads out of the directory it is meant for.
    #[error("tar archive: refused the path \"{path}\"")]
    UnsafePath {
        /// The path.
        path: String,
    },
    /// The archive ends within a header or a file.
    #[error("tar archive: it ends at byte {at}, within a header or a file")]
    Truncated {
        /// Where it ends.
        at: u64,
    },
    /// Bytes after the closing zero blocks.
    #[error("tar archive: there are bytes after its end, at byte {at}")]
    Trailing {
        /// Where they begin.
        at: u64,
    },
}

impl TarError {
    /// The class of the error: what arrived is not what was sent, or not from a server we know.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Corrupt
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Content {
        left: u64,
        padding: usize,
    },
    Padding(usize),
    /// A zero block was met; only zeroes may follow.
    Ended,
}

/// The archive reader. After an error it stays where it is: feed it no more.
#[derive(Debug)]
pub struct TarReader {
    input: VecDeque<Bytes>,
    /// A header, as far as it has arrived.
    header: BytesMut,
    /// Bytes taken so far.
    position: u64,
    state: State,
}

impl Default for TarReader {
    fn default() -> TarReader {
        TarReader {
            input: VecDeque::new(),
            header: BytesMut::new(),
            position: 0,
            state: State::Header,
        }
    }
}

impl TarReader {
    /// A reader at the start of an archive.
    pub fn new() -> TarReader {
        TarReader::default()
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
    /// When the archive is not one that a server sends.
    pub fn poll(&mut self) -> Result<Option<TarEvent>, TarError> {
        loop {
            match self.state {
                State::Header => match self.poll_header()? {
                    Some(header) => match self.start_entry(&header)? {
                        Some(event) => return Ok(Some(event)),
                        None => continue,
                    },
                    None => return Ok(None),
                },
                State::Content { left: 0, padding } => {
                    self.state = State::Padding(padding);
                    return Ok(Some(TarEvent::FileEnd));
                }
                State::Content { left, padding } => {
                    let Some(bytes) = self.take(usize::try_from(left).unwrap_or(usize::MAX)) else {
                        return Ok(None);
                    };
                    self.state = State::Content {
                        left: left.saturating_sub(bytes.len() as u64),
                        padding,
                    };
                    return Ok(Some(TarEvent::Data(bytes)));
                }
                State::Padding(0) => self.state = State::Header,
                State::Padding(left) => match self.take(left) {
                    Some(bytes) => self.state = State::Padding(left.saturating_sub(bytes.len())),
                    None => return Ok(None),
                },
                State::Ended => {
                    let at = self.position;
                    match self.take(usize::MAX) {
                        Some(bytes) if bytes.iter().all(|&byte| byte == 0) => {}
                        Some(_) => return Err(TarError::Trailing { at }),
                        None => return Ok(None),
                    }
                }
            }
        }
    }

    /// Says that no more bytes come. Call it when [`TarReader::poll`] has returned `None`.
    ///
    /// # Errors
    /// [`TarError::Truncated`] when the archive stops within a header or a file.
    pub fn finish(&self) -> Result<(), TarError> {
        let complete = match self.state {
            State::Header => self.header.is_empty(),
            State::Padding(left) => left == 0,
            State::Content { .. } => false,
            State::Ended => true,
        };
        if complete {
            Ok(())
        } else {
            Err(TarError::Truncated { at: self.position })
        }
    }

    /// Up to `limit` bytes from the front of the input, without copying.
    fn take(&mut self, limit: usize) -> Option<Bytes> {
        let front = self.input.front_mut()?;
        let taken = front.split_to(limit.min(front.len()));
        if !front.has_remaining() {
            self.input.pop_front();
        }
        self.position = self.position.saturating_add(taken.len() as u64);
        Some(taken)
    }

    fn poll_header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        while self.header.len() < BLOCK {
            match self.take(BLOCK - self.header.len()) {
                Some(bytes) => self.header.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
        let block = self.header.first_chunk::<BLOCK>().copied();
        self.header.clear();
        Ok(block)
    }

    /// The event that a header begins; `None` for a closing zero block.
    fn start_entry(&mut self, block: &[u8; BLOCK]) -> Result<Option<TarEvent>, TarError> {
        if block.iter().all(|&byte| byte == 0) {
            self.state = State::Ended;
            return Ok(None);
        }
        let header = Header {
            block,
            at: self.position.saturating_sub(BLOCK as u64),
        };
        header.check()?;
        let path = header.path()?;
        let mode = u32::try_from(header.number(100..108, "mode")? & 0o7777).unwrap_or(0);
        match header.type_flag() {
            b'0' | 0 => {
                let size = header.number(124..136, "size")?;
                let seconds = header.number(136..148, "modification time")?;
                let modified = Timestamp(
                    i64::try_from(seconds)
                        .unwrap_or(i64::MAX)
                        .saturating_mul(1_000_000),
                );
                let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
                self.state = State::Content {
                    left: size,
                    padding: usize::try_from(padding).unwrap_or(0),
                };
                if path.is_empty() {
                    return Err(TarError::UnsafePath { path });
                }
                Ok(Some(TarEvent::File {
                    path,
                    size,
                    mode,
                    modified,
                }))
            }
            b'5' => Ok(Some(TarEvent::Directory { path, mode })),
            b'2' => Ok(Some(TarEvent::Symlink {
                path,
                target: header.text(157..257, "link target")?,
            })),
            type_flag => Err(TarError::UnknownType { path, type_flag }),
        }
    }
}

/// One ustar header. Offsets: POSIX.1-1988 ustar, `src/include/pgtar.h`.
struct Header<'a> {
    block: &'a [u8; BLOCK],
    at: u64,
}

const CHECKSUM_FIELD: std::ops::Range<usize> = 148..156;

impl Header<'_> {
    fn field(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.block.get(range).unwrap_or_default()
    }

    fn type_flag(&self) -> u8 {
        self.block.get(156).copied().unwrap_or_default()
    }

    /// The sum of all bytes, the checksum's own taken as blanks.
    fn check(&self) -> Result<(), TarError> {
        let sum = self.block.iter().enumerate().fold(0u64, |sum, (at, &byte)| {
            sum + u64::from(if CHECKSUM_FIELD.contains(&at) { b' ' } else { byte })
        });
        if self.number(CHECKSUM_FIELD, "checksum")? == sum {
            Ok(())
        } else {
            Err(TarError::Checksum { at: self.at })
        }
    }

    /// A number in octal digits, or in base 256 when the first byte has its high bit set (`print_tar_number`).
    fn number(&self, range: std::ops::Range<usize>, field: &'static str) -> Result<u64, TarError> {
        let bytes = self.field(range);
        let bad = || TarError::Field { at: self.at, field };
        if let Some((0x80, rest)) = bytes.split_first() {
            return rest.iter().try_fold(0u64, |value, &byte| {
                value
                    .checked_mul(256)
                    .and_then(|value| value.checked_add(byte.into()))
                    .ok_or_else(bad)
            });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
        let digits = text.trim_matches(|char| char == ' ' || char == '\0');
        if digits.is_empty() {
            return Ok(0);
        }
        let octal = digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        octal
            .then(|| u64::from_str_radix(digits, 8).ok())
            .flatten()
            .ok_or_else(bad)
    }

    fn text(&self, range: std::ops::Range<usize>, field: &'static str) -> Result<String, TarError> {
        let bytes = self
            .field(range)
            .split(|&byte| byte == 0)
            .next()
            .unwrap_or_default();
        String::from_utf8(bytes.to_vec()).map_err(|_| TarError::Field { at: self.at, field })
    }

    /// The path, normalised: no `./`, no closing `/`, nothing that leads upwards or starts at the root.
    fn path(&self) -> Result<String, TarError> {
        let name = self.text(0..100, "name")?;
        let prefix = self.text(345..500, "name prefix")?;
        let full = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        let mut parts = Vec::new();
        for part in full.split('/') {
            match part {
                "" | "." => {}
                ".." => return Err(TarError::UnsafePath { path: full }),
                part => parts.push(part),
            }
        }
        if full.starts_with('/') {
            return Err(TarError::UnsafePath { path: full });
        }
        Ok(parts.join("/"))
    }
}

#[cfg(test)]
mod tests;
