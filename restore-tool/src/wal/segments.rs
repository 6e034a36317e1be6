//! Which bytes a planned segment file has. Pure.
//!
//! A file of timeline T holds what the line to T holds: the parents' bytes up to their forks, T's own after its own. So
//! the file of the segment that holds a fork exists for the child as soon as the fork is planned, whether or not the
//! child has anything stored there, and no byte that a parent wrote past a fork is ever served. (Told that such a file
//! is not there, the server would go on with the parent's and replay what never belonged to the timeline.)

use serde::{Deserialize, Serialize};
use tidemark_types::{Lsn, SegmentName, TimelineHistory, TimelineId, WalSegmentSize};

/// The log of a plan: one timeline's, from a base backup's begin to where recovery stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedLog {
    /// The timeline that recovery follows, and its ancestry.
    pub history: TimelineHistory,
    /// Size of its segments.
    pub segment_size: WalSegmentSize,
    /// Its first byte.
    pub begin: Lsn,
    /// The byte after its last.
    pub end: Lsn,
}

/// Bytes of one segment file, and the timeline that they are stored under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The timeline.
    pub timeline: TimelineId,
    /// First byte.
    pub begin: Lsn,
    /// First byte that is no longer in it.
    pub end: Lsn,
}

/// What is known of a file that the server asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It consists of these; zeros follow up to the size of a segment.
    Pieces(Vec<Piece>),
    /// It is not there: not of this plan's timelines, or past its end.
    Absent,
    /// It lies before the plan's begin, where nothing is known.
    Before,
}

impl PlannedLog {
    /// What is known of the segment file `name`.
    pub fn segment(&self, name: SegmentName) -> Answer {
        let size = self.segment_size;
        let (file_begin, file_end) = (size.start_of(name.segment), size.end_of(name.segment));
        let Some(timeline_end) = self.history.end_of(name.timeline) else {
            return Answer::Absent;
        };
        let fork = self.fork_of(name.timeline);
        let end = timeline_end
            .map_or(self.end, |end| end.min(self.end))
            .min(file_end);
        // A timeline's first file is that of the segment which holds its first own byte.
        if file_end <= fork || end <= file_begin || end < fork {
            return Answer::Absent;
        }
        if file_end <= self.begin {
            return Answer::Before;
        }
        Answer::Pieces(self.pieces(file_begin, end))
    }

    /// Where a timeline begins: the end of the ancestor before it.
    fn fork_of(&self, timeline: TimelineId) -> Lsn {
        let before = self
            .history
            .ancestors
            .iter()
            .rfind(|entry| entry.timeline < timeline);
        before.map_or(Lsn::INVALID, |entry| entry.end)
    }

    fn pieces(&self, begin: Lsn, end: Lsn) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = begin;
        while at < end {
            let timeline = self.history.timeline_at(at);
            let until = self
                .history
                .end_of(timeline)
                .flatten()
                .map_or(end, |until| until.min(end));
            pieces.push(Piece {
                timeline,
                begin: at,
                end: until,
            });
            at = until;
        }
        pieces
    }

    /// The segment files in the order in which recovery needs them.
    pub fn sequence(&self) -> impl Iterator<Item = SegmentName> + '_ {
        let size = self.segment_size;
        let last = Lsn(self.end.0.saturating_sub(1).max(self.begin.0));
        (size.segment_of(self.begin).0..=size.segment_of(last).0).map(move |number| {
            let segment = tidemark_types::SegmentNumber(number);
            // The server asks for the file of the newest timeline that has one.
            let newest = Lsn(size.end_of(segment).0.min(self.end.0).saturating_sub(1));
            SegmentName {
                timeline: self.history.timeline_at(newest),
                segment,
            }
        })
    }

    /// Whether the history file of `timeline` belongs to the plan.
    pub fn has_history(&self, timeline: TimelineId) -> bool {
        self.history.end_of(timeline).is_some()
    }
}

#[cfg(test)]
mod tests {
    use tidemark_types::{HistoryEntry, SegmentNumber};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn planned(end: u64) -> PlannedLog {
        PlannedLog {
            history: TimelineHistory {
                timeline: TimelineId(3),
                ancestors: vec![
                    HistoryEntry {
                        timeline: TimelineId(1),
                        end: Lsn(5 * MIB + 100),
                    },
                    HistoryEntry {
                        timeline: TimelineId(2),
                        end: Lsn(7 * MIB),
                    },
                ],
            },
            segment_size: WalSegmentSize::try_from(MIB).unwrap(),
            begin: Lsn(3 * MIB + 40),
            end: Lsn(end),
        }
    }

    fn ask(planned: &PlannedLog, timeline: u32, segment: u64) -> Answer {
        planned.segment(SegmentName {
            timeline: TimelineId(timeline),
            segment: SegmentNumber(segment),
        })
    }

    fn piece(timeline: u32, begin: u64, end: u64) -> Piece {
        Piece {
            timeline: TimelineId(timeline),
            begin: Lsn(begin),
            end: Lsn(end),
        }
    }

    #[test]
    fn the_segment_of_a_fork_is_the_childs_with_the_parents_bytes_up_to_it() {
        let planned = planned(9 * MIB + 500);
        let fork = [piece(1, 5 * MIB, 5 * MIB + 100), piece(2, 5 * MIB + 100, 6 * MIB)];
        assert_eq!(ask(&planned, 2, 5), Answer::Pieces(fork.to_vec()));
        assert_eq!(
            ask(&planned, 1, 5),
            Answer::Pieces(vec![fork[0]]),
            "nothing of the parent past the fork"
        );
        assert_eq!(ask(&planned, 1, 6), Answer::Absent);
        assert_eq!(ask(&planned, 2, 4), Answer::Absent, "the child begins later");
        assert_eq!(
            ask(&planned, 3, 6),
            Answer::Absent,
            "a fork at a segment's border begins the next file"
        );
        assert_eq!(
            ask(&planned, 3, 7),
            Answer::Pieces(vec![piece(3, 7 * MIB, 8 * MIB)])
        );
        assert_eq!(
            ask(&planned, 4, 8),
            Answer::Absent,
            "a timeline that is not planned"
        );
    }

    #[test]
    fn a_child_with_nothing_past_its_fork_has_its_first_segment_all_the_same() {
        let planned = planned(5 * MIB + 100);
        assert_eq!(
            ask(&planned, 2, 5),
            Answer::Pieces(vec![piece(1, 5 * MIB, 5 * MIB + 100)])
        );
        assert_eq!(ask(&planned, 3, 5), Answer::Absent);
    }

    #[test]
    fn nothing_is_served_past_the_end_or_known_before_the_begin() {
        let planned = planned(9 * MIB + 500);
        assert_eq!(
            ask(&planned, 3, 9),
            Answer::Pieces(vec![piece(3, 9 * MIB, 9 * MIB + 500)])
        );
        assert_eq!(ask(&planned, 3, 10), Answer::Absent);
        assert_eq!(ask(&planned, 1, 2), Answer::Before);
        assert_eq!(
            ask(&planned, 1, 3),
            Answer::Pieces(vec![piece(1, 3 * MIB, 4 * MIB)])
        );
    }

    #[test]
    fn the_sequence_follows_the_newest_timeline_of_each_segment() {
        let names: Vec<(u32, u64)> = planned(7 * MIB + 1)
            .sequence()
            .map(|name| (name.timeline.0, name.segment.0))
            .collect();
        assert_eq!(names, [(1, 3), (1, 4), (2, 5), (2, 6), (3, 7)]);
    }
}
