//! PostgreSQL's positions as the repository's: a log file is a segment, and its number the segment's.

use tidemark_repository::{Branch, LogPosition};
use tidemark_types::{Lsn, SegmentNumber, TimelineId, WalSegmentSize};

/// The place of `lsn` in the log files of its timeline. A segment's end is the start of the next.
pub fn position_of(lsn: Lsn, size: WalSegmentSize) -> LogPosition {
    LogPosition {
        file: size.segment_of(lsn).0,
        offset: size.offset_of(lsn),
    }
}

/// The LSN of a place. Saturates.
pub fn lsn_of(position: LogPosition, size: WalSegmentSize) -> Lsn {
    let start = size.start_of(SegmentNumber(position.file));
    Lsn(start.0.saturating_add(position.offset))
}

/// A timeline is a branch.
pub fn branch_of(timeline: TimelineId) -> Branch {
    Branch(timeline.0)
}

/// A branch is a timeline.
pub fn timeline_of(branch: Branch) -> TimelineId {
    TimelineId(branch.0)
}
