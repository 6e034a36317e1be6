//! Timelines and their history files.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Lsn;

/// The number of a timeline: one line of WAL history. A promotion or a point-in-time recovery begins a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl TimelineId {
    /// Name of this timeline's history file, as `TLHistoryFileName` in the server's `xlog_internal.h` makes it.
    pub fn history_file_name(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One ancestor of a timeline: which, and where the line left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The ancestor.
    pub timeline: TimelineId,
    /// The first position that no longer belongs to the ancestor.
    pub end: Lsn,
}

/// The ancestry of a timeline, oldest first: the content of its `.history` file. Timeline 1 has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineHistory {
    /// The timeline whose ancestry this is.
    pub timeline: TimelineId,
    /// Its ancestors, oldest first, with strictly increasing timelines and non-decreasing ends.
    pub ancestors: Vec<HistoryEntry>,
}

/// A history file that makes no sense; `line` counts from one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("history of timeline {timeline}, line {line}: {problem}")]
pub struct ParseHistoryError {
    /// Whose history it claims to be.
    pub timeline: TimelineId,
    /// Where the trouble is, from one.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

impl TimelineHistory {
    /// A timeline without ancestors.
    pub fn root(timeline: TimelineId) -> TimelineHistory {
        TimelineHistory {
            timeline,
            ancestors: Vec::new(),
        }
    }

    /// Parses a history file (`readTimeLineHistory` in the server's `timeline.c`): lines of timeline, LSN, reason.
    ///
    /// # Errors
    /// When a line has no timeline and LSN, or the ancestors are out of order.
    pub fn parse(timeline: TimelineId, text: &str) -> Result<TimelineHistory, ParseHistoryError> {
        let mut ancestors: Vec<HistoryEntry> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let fail = |problem: &str| ParseHistoryError {
                timeline,
                line: index + 1,
                problem: problem.to_owned(),
            };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let id = words
                .next()
                .and_then(|word| word.parse().ok())
                .ok_or_else(|| fail("no timeline number"))?;
            let end = words
                .next()
                .and_then(|word| word.parse().ok())
                .ok_or_else(|| fail("no switch position"))?;
            let entry = HistoryEntry {
                timeline: TimelineId(id),
                end,
            };
            let ordered = ancestors
                .last()
                .is_none_or(|last| last.timeline < entry.timeline && last.end <= entry.end);
            if !ordered || entry.timeline >= timeline {
                return Err(fail("ancestors are out of order"));
            }
            ancestors.push(entry);
        }
        Ok(TimelineHistory { timeline, ancestors })
    }

    /// The timeline this one left, and where.
    pub fn parent(&self) -> Option<HistoryEntry> {
        self.ancestors.last().copied()
    }

    /// Where this timeline's own history begins: its fork, or the start of the log for one without ancestors.
    pub fn begin(&self) -> Lsn {
        self.parent().map_or(Lsn::INVALID, |parent| parent.end)
    }

    /// The timeline that the byte at `lsn` belongs to, seen from here.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.ancestors
            .iter()
            .find(|entry| lsn < entry.end)
            .map_or(self.timeline, |entry| entry.timeline)
    }

    /// Where `timeline` ends, seen from here: `Some(None)` for the timeline itself (no end), `None` for a stranger.
    pub fn end_of(&self, timeline: TimelineId) -> Option<Option<Lsn>> {
        if timeline == self.timeline {
            return Some(None);
        }
        self.ancestors
            .iter()
            .find(|entry| entry.timeline == timeline)
            .map(|entry| Some(entry.end))
    }

    /// Whether the point `lsn` of `timeline` lies on this history.
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.end_of(timeline)
            .is_some_and(|end| end.is_none_or(|end| lsn <= end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "1\t0/A000198\tno recovery target specified\n\n# note\n2\t0/C000000\tbefore 2000-01-01\n";

    #[test]
    fn parses_what_the_server_writes() {
        let history = TimelineHistory::parse(TimelineId(4), TEXT).unwrap();
        assert_eq!(
            history.parent(),
            Some(HistoryEntry {
                timeline: TimelineId(2),
                end: Lsn(0xC00_0000)
            })
        );
        assert_eq!(history.timeline_at(Lsn(0xA00_0197)), TimelineId(1));
        assert_eq!(history.timeline_at(Lsn(0xA00_0198)), TimelineId(2));
        assert_eq!(history.timeline_at(Lsn(0xC00_0000)), TimelineId(4));
        assert_eq!(history.end_of(TimelineId(3)), None);
        assert!(history.contains(TimelineId(1), Lsn(0xA00_0198)));
        assert!(!history.contains(TimelineId(1), Lsn(0xA00_0199)));
    }

    #[test]
    fn nonsense_names_its_line() {
        for (text, line) in [
            ("1\t0/1\n1\t0/2\n", 2),
            ("1 x\n", 1),
            ("5 0/1\n", 1),
            ("1 0/2\n2 0/1\n", 2),
        ] {
            assert_eq!(
                TimelineHistory::parse(TimelineId(4), text).unwrap_err().line,
                line,
                "{text}"
            );
        }
    }
}
