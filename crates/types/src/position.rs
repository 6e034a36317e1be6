//! Points in a log that mean the same to every engine, and how each engine writes them.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize, Serializer};

use crate::{Lsn, SegmentNumber, WalSegmentSize};

/// The unit of a log file's final objects in a repository, in bytes. The last grain of a file ends with the file.
pub const GRAIN_LEN: u64 = 16 << 20;

/// A point in the log of one branch: the number of a log file, and an offset within it.
///
/// For PostgreSQL the file is a segment number, so an LSN maps to one and back; for MySQL and MariaDB it is the number in
/// a binlog file's name. The end of a file and the begin of the next are the same point; names of slices and coverage
/// use the latter form once a file has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// Number of the log file.
    pub file: u64,
    /// Bytes from its start.
    pub offset: u64,
}

impl LogPosition {
    /// The start of log file `file`.
    pub fn start_of(file: u64) -> LogPosition {
        LogPosition { file, offset: 0 }
    }

    /// The start of the grain that holds this position.
    pub fn grain_start(self) -> LogPosition {
        LogPosition {
            file: self.file,
            offset: self.offset - self.offset % GRAIN_LEN,
        }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {} offset {}", self.file, self.offset)
    }
}

/// How the files of a branch of a log are named and numbered, and so how an engine writes a point in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFiles {
    /// WAL segments of this size: a point is an LSN. All timelines count on from the one that they left.
    Wal(WalSegmentSize),
    /// Binlog files: a point is a file and an offset. Every branch counts anew; one with a higher number is later.
    Binlog {
        /// The number of the branch.
        branch: u32,
        /// What the files' names begin with.
        basename: BinlogBasename,
    },
}

/// What the names of a server's binlog files begin with: `bin` of `bin.000003`.
///
/// A process knows a handful of them and copies them everywhere, so they are kept for its whole life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BinlogBasename(&'static str);

impl BinlogBasename {
    /// The base name `text`.
    pub fn new(text: &str) -> BinlogBasename {
        static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(text) {
            return BinlogBasename(found);
        }
        let kept: &'static str = Box::leak(text.into());
        known.insert(kept);
        BinlogBasename(kept)
    }

    /// Parts the name of a binlog file into its base name and its number; `None` when it is none.
    pub fn parse_file(name: &str) -> Option<(BinlogBasename, u64)> {
        let (basename, number) = name.rsplit_once('.')?;
        let is_number = number.len() >= NUMBER_DIGITS && number.bytes().all(|byte| byte.is_ascii_digit());
        (is_number && !basename.is_empty())
            .then(|| Some((BinlogBasename::new(basename), number.parse().ok()?)))
            .flatten()
    }

    /// The name of file `number`: at least six digits, as both vendors write it.
    pub fn file_name(self, number: u64) -> String {
        format!("{}.{number:0NUMBER_DIGITS$}", self.0)
    }

    /// As text.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

/// Digits of a binlog file's number; more once it needs them.
const NUMBER_DIGITS: usize = 6;

impl fmt::Debug for BinlogBasename {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Text that is no point in a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not {expected}")]
pub struct ParsePositionError {
    text: String,
    expected: &'static str,
}

impl LogFiles {
    /// The point as the engine writes it.
    pub fn position(self, at: LogPosition) -> Position {
        Position { at, files: self }
    }

    /// The point of an LSN. A segment's end is the start of the next. With binlogs there are no LSNs: the start then.
    pub fn lsn(self, lsn: Lsn) -> Position {
        let at = match self {
            LogFiles::Wal(size) => LogPosition {
                file: size.segment_of(lsn).0,
                offset: size.offset_of(lsn),
            },
            LogFiles::Binlog { .. } => LogPosition::default(),
        };
        self.position(at)
    }

    /// Reads what [`Position`] displays.
    ///
    /// # Errors
    /// [`ParsePositionError`]; for binlogs also when the file's base name is another.
    pub fn parse(self, text: &str) -> Result<Position, ParsePositionError> {
        let error = |expected| ParsePositionError {
            text: text.to_owned(),
            expected,
        };
        match self {
            LogFiles::Wal(_) => {
                let lsn: Lsn = text.parse().map_err(|_| error("an LSN (such as 16/B374D848)"))?;
                Ok(self.lsn(lsn))
            }
            LogFiles::Binlog { basename, .. } => {
                let parse = || {
                    let (file, offset) = text.rsplit_once(':')?;
                    let (found, file) = BinlogBasename::parse_file(file)?;
                    let offset = offset.parse().ok()?;
                    (found == basename).then_some(LogPosition { file, offset })
                };
                let at = parse().ok_or_else(|| {
                    error("a position of this server's binlog (FILE:OFFSET, such as binlog.000003:198)")
                })?;
                Ok(self.position(at))
            }
        }
    }
}

/// A point in a log that knows how its engine writes it. Points compare by where they are in the history of a server:
/// those of WAL by LSN, whatever their timeline; those of binlogs by branch, file and offset.
#[derive(Clone, Copy)]
pub struct Position {
    /// Where.
    pub at: LogPosition,
    /// In which terms.
    pub files: LogFiles,
}

impl Position {
    /// The LSN of a point in WAL; invalid for others. Saturates.
    pub fn lsn(self) -> Lsn {
        match self.files {
            LogFiles::Wal(size) => {
                let start = size.start_of(SegmentNumber(self.at.file));
                Lsn(start.0.saturating_add(self.at.offset))
            }
            LogFiles::Binlog { .. } => Lsn::INVALID,
        }
    }

    /// The point one byte on.
    #[must_use]
    pub fn next_byte(self) -> Position {
        match self.files {
            LogFiles::Wal(_) => self.files.lsn(Lsn(self.lsn().0.saturating_add(1))),
            LogFiles::Binlog { .. } => self.files.position(LogPosition {
                offset: self.at.offset.saturating_add(1),
                ..self.at
            }),
        }
    }

    /// The point `bytes` before. In binlogs it lies in the same file, whose start it does not pass.
    #[must_use]
    pub fn back(self, bytes: u64) -> Position {
        match self.files {
            LogFiles::Wal(_) => self.files.lsn(Lsn(self.lsn().0.saturating_sub(bytes))),
            LogFiles::Binlog { .. } => self.files.position(LogPosition {
                offset: self.at.offset.saturating_sub(bytes),
                ..self.at
            }),
        }
    }

    /// Bytes from `earlier` to here; zero when it is not earlier. In binlogs of different files only those in this file:
    /// positions do not tell how long the files between are.
    pub fn bytes_since(self, earlier: Position) -> u64 {
        match self.files {
            _ if self < earlier => 0,
            LogFiles::Wal(_) => self.lsn().bytes_since(earlier.lsn()),
            LogFiles::Binlog { .. } if self.file_start() == earlier.file_start() => {
                self.at.offset - earlier.at.offset
            }
            LogFiles::Binlog { .. } => self.at.offset,
        }
    }

    /// The start of the log file that holds it.
    #[must_use]
    pub fn file_start(self) -> Position {
        self.files.position(LogPosition::start_of(self.at.file))
    }
}

impl Position {
    fn order(self) -> (u32, LogPosition) {
        match self.files {
            LogFiles::Wal(_) => (0, self.at),
            LogFiles::Binlog { branch, .. } => (branch, self.at),
        }
    }
}

impl PartialEq for Position {
    fn eq(&self, other: &Position) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Position {}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Position) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Position {
    fn cmp(&self, other: &Position) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl Hash for Position {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.order().hash(state);
    }
}

/// The engine's own text form: `0/3000060`, `binlog.000003:198`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.files {
            LogFiles::Wal(_) => self.lsn().fmt(f),
            LogFiles::Binlog { basename, .. } => {
                write!(f, "{}:{}", basename.file_name(self.at.file), self.at.offset)
            }
        }
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binlog_of(branch: u32) -> LogFiles {
        LogFiles::Binlog {
            branch,
            basename: BinlogBasename::new("mysql-bin.x"),
        }
    }

    fn binlog() -> LogFiles {
        binlog_of(1)
    }

    fn at(file: u64, offset: u64) -> LogPosition {
        LogPosition { file, offset }
    }

    #[test]
    fn points_are_written_as_the_engine_writes_them() {
        let wal = LogFiles::Wal(WalSegmentSize::DEFAULT);
        for (files, text, point) in [
            (wal, "0/03000060", at(3, 0x60)),
            (binlog(), "mysql-bin.x.000003:198", at(3, 198)),
            (binlog(), "mysql-bin.x.1000000:4", at(1_000_000, 4)),
        ] {
            assert_eq!(files.position(point).to_string(), text);
            assert_eq!(files.parse(text).unwrap().at, point);
        }
        for text in [
            "",
            "3:198",
            "mysql-bin.x.3:198",
            "bin.000003:198",
            "mysql-bin.x.000003",
        ] {
            assert!(binlog().parse(text).is_err(), "{text}");
        }
        assert!(wal.parse("bin.000003:198").is_err());
    }

    #[test]
    fn points_move_by_bytes() {
        let wal = LogFiles::Wal(WalSegmentSize::DEFAULT);
        let last = wal.position(at(3, (16 << 20) - 1));
        assert_eq!(last.next_byte().at, at(4, 0));
        assert_eq!(last.next_byte().back(1), last);
        let point = binlog().position(at(3, 100));
        assert_eq!((point.next_byte().at, point.back(40).at), (at(3, 101), at(3, 60)));
        assert_eq!(point.back(200), point.file_start());
        assert_eq!(point.bytes_since(point.back(40)), 40);
        assert_eq!(point.back(40).bytes_since(point), 0);
        assert_eq!(binlog().position(at(4, 70)).bytes_since(point), 70);
        assert_eq!(last.next_byte().bytes_since(last), 1);
        assert!(point < binlog().position(at(4, 0)));
        assert!(
            point < binlog_of(2).position(at(1, 4)),
            "a later branch counts anew"
        );
    }

    #[test]
    fn one_base_name_is_kept_once() {
        let (one, other) = (
            BinlogBasename::new("bin"),
            BinlogBasename::new(&String::from("bin")),
        );
        assert!(std::ptr::eq(one.as_str(), other.as_str()));
        assert_eq!(BinlogBasename::parse_file("bin.000010"), Some((one, 10)));
        assert_eq!(BinlogBasename::parse_file("bin.index"), None);
        assert_eq!(BinlogBasename::parse_file(".000001"), None);
    }
}
