//! Recovery windows: which targets can be reached. Pure.

use serde::Serialize;
use tidemark_repository::Branch;
use tidemark_repository::log::SliceFlags;
use tidemark_types::{Position, Timestamp};

use super::base::Base;
use super::facts::{EndingKind, Known, SliceId};
use super::line::Line;
use super::listed::Listed;
use super::resolve::{Pending, Search, newest_on};

/// Targets of one line that can be reached: every position, and every time, in these intervals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The branch that the line leads to.
    pub branch: Branch,
    /// The end of the first base backup.
    pub earliest_position: Position,
    /// The end of the last whole record.
    pub latest_position: Position,
    /// The first time that can be reached. Absent, as the latest is, while nothing tells that any can be: on a server
    /// that has been idle since before its first backup.
    pub earliest_time: Option<Timestamp>,
    /// The last time that can be reached.
    pub latest_time: Option<Timestamp>,
}

/// The windows of all lines, and the slices that must be read to tell the times of those that have none yet.
pub fn windows(
    listed: &Listed,
    branch: Branch,
    lines: &[Line<'_>],
    known: &Known,
) -> (Vec<Window>, Vec<SliceId>) {
    let search = Search {
        lines,
        known,
        covered: listed.covered(lines),
        logs_commit_times: listed.engine.logs_commit_times(),
    };
    let mut windows = Vec::new();
    let mut missing = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let on_line = listed.bases.iter().filter(|base| base.is_on(line));
        let Some(first) = on_line.min_by_key(|base| base.end.position) else {
            continue;
        };
        let latest = search.reach_on(number);
        let times = match search.earliest_time(number, first) {
            Ok(earliest) => {
                latest.and_then(|latest| Some((earliest.filter(|time| *time <= latest)?, latest)))
            }
            Err(Pending::Read(ids)) => {
                missing.extend(ids);
                None
            }
            Err(Pending::Ambiguous(_) | Pending::Unreachable(_)) => None,
        };
        windows.push(Window {
            branch,
            earliest_position: first.end.position,
            latest_position: line.whole(),
            earliest_time: times.map(|(earliest, _)| earliest),
            latest_time: times.map(|(_, latest)| latest),
        });
    }
    (windows, missing)
}

impl Search<'_> {
    /// Up to which time nothing that belongs on a line can be missing from it.
    pub fn reach_on(&self, line: usize) -> Option<Timestamp> {
        self.lines
            .get(line)
            .and_then(newest_on)
            .max(self.covered_on(line))
    }

    /// The earliest time whose state can be made of `base`, which lies on a line of this number: that of the newest
    /// transaction that ended before the backup's end, or when the backup began if none did in the log files that it needs
    /// (no plan looks at earlier ones). `None` when nothing that is stored tells how far the times reach.
    ///
    /// # Errors
    /// [`Pending::Read`].
    pub fn earliest_time(&self, line: usize, base: &Base) -> Result<Option<Timestamp>, Pending> {
        let Some(log) = self.lines.get(line) else {
            return Ok(None);
        };
        let end = base.end.position;
        let begin = base.begin.position.file_start();
        let needed = log.slices().enumerate();
        let needed = needed.skip_while(|(_, named)| named.begin < begin);
        let needed = needed.take_while(|(_, named)| named.begin < end);
        let needed: Vec<_> = needed.filter(|(_, named)| named.may_end_or_prepare()).collect();
        let mut newest = None;
        if !needed.is_empty() {
            // Of a prepared transaction only the last in the log counts: see `until`.
            let last = self.last_before(line, end)?;
            newest = last.filter(|last| begin <= last.begin).map(|last| last.time);
        }
        for (slice, named) in needed {
            let is_told = named.end <= end && !named.key.flags.has(SliceFlags::UNINDEXED);
            newest = newest.max(if is_told {
                named.key.times.map(|range| range.max)
            } else {
                let endings = self.read(line, slice)?.endings.iter();
                let before = endings.filter(|ending| ending.end <= end && ending.kind != EndingKind::Prepare);
                before.map(|ending| ending.time).max()
            });
        }
        let earliest = newest.unwrap_or(base.started);
        let reach = self.newest_time().max(self.covered_on(line));
        Ok(reach.filter(|reach| earliest <= *reach).map(|_| earliest))
    }
}
