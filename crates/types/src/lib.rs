//! Values that every part of Tidemark shares: positions in a log, names, times, sizes, classes of errors.
//!
//! Nothing here does I/O, is async, or knows what a repository or a server is.

mod byte_reader;
mod clock;
mod error_class;
mod finding;
mod lsn;
mod names;
mod position;
mod secret;
mod segment;
mod time;
mod timeline;
mod units;

pub use byte_reader::ByteReader;
pub use clock::{Clock, SystemClock};
pub use error_class::{ErrorClass, ExitCode};
pub use finding::{Finding, Severity};
pub use lsn::{Lsn, ParseLsnError};
pub use names::{Generation, InvalidServerName, ServerName};
pub use position::{BinlogBasename, GRAIN_LEN, LogFiles, LogPosition, ParsePositionError, Position};
pub use secret::Secret;
pub use segment::{InvalidSegmentSize, ParseSegmentNameError, SegmentName, SegmentNumber, WalSegmentSize};
pub use time::{ParseTimeError, Timestamp, parse_time};
pub use timeline::{HistoryEntry, ParseHistoryError, TimelineHistory, TimelineId};
pub use units::{ByteSize, ParseUnitError, format_duration, parse_duration};
