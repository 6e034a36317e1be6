//! What planning works on: one generation of a server, as listing it tells.

use std::collections::BTreeMap;

use tidemark_repository::lease;
use tidemark_repository::log::{Run, SliceKey, SliceList};
use tidemark_repository::{GapRecord, RepositoryError};
use tidemark_types::{Generation, Lsn, ServerName, TimelineHistory, TimelineId, WalSegmentSize};

use super::base::Base;
use super::line::{Line, Stretch, lines, slices_of};
use super::resolve::Covered;
use crate::positions::{lsn_of, timeline_of};

/// One generation of a server; see the module.
#[derive(Debug)]
pub struct Listed {
    /// The server.
    pub server: ServerName,
    /// Which identity under that name.
    pub generation: Generation,
    /// What the server calls itself.
    pub system_id: String,
    /// Its segment size.
    pub segment_size: WalSegmentSize,
    /// What is stored of each timeline's log.
    pub runs: BTreeMap<TimelineId, Vec<Run>>,
    /// Log that nothing leads to, left out of `runs`.
    pub set_aside: Vec<SetAside>,
    /// Stored lengths of slices.
    pub stored: BTreeMap<TimelineId, StoredLens>,
    /// The history files that are stored.
    pub histories: BTreeMap<TimelineId, TimelineHistory>,
    /// The base backups that can be read, oldest first.
    pub bases: Vec<Base>,
    /// Base backups that cannot be read, and why.
    pub unreadable_bases: Vec<(String, RepositoryError)>,
    /// The lease, when it is of this generation.
    pub lease: Option<lease::Lease>,
    /// Recorded gaps.
    pub gaps: Vec<GapRecord>,
}

impl Listed {
    /// The ancestry of a timeline. One without a history file has no known ancestors.
    pub fn history(&self, timeline: TimelineId) -> TimelineHistory {
        let stored = self.histories.get(&timeline).cloned();
        stored.unwrap_or_else(|| TimelineHistory::root(timeline))
    }

    /// The lines of a timeline.
    pub fn lines(&self, history: &TimelineHistory) -> Vec<Line<'_>> {
        lines(history, &self.runs, self.segment_size)
    }

    /// The newest timeline that has log of its own and a base backup that leads to it. A history file alone makes no
    /// timeline, and neither does a stray one that no backup reaches.
    pub fn newest_timeline(&self) -> Option<TimelineId> {
        let mut timelines = self.runs.iter().rev().filter(|(_, runs)| !runs.is_empty());
        let reached = timelines.find(|(timeline, _)| {
            let lines = self.lines(&self.history(**timeline));
            lines.last().is_some_and(|last| {
                last.stretches()
                    .last()
                    .is_some_and(|end| end.timeline == **timeline)
            }) && self
                .bases
                .iter()
                .any(|base| lines.iter().any(|line| base.is_on(line)))
        });
        reached.map(|(timeline, _)| *timeline)
    }

    /// What the lease says about these lines.
    pub fn covered(&self, lines: &[Line<'_>]) -> Option<Covered> {
        let covered = self.lease.as_ref()?.covered?;
        let lsn = lsn_of(covered.position, self.segment_size);
        let timeline = timeline_of(covered.branch);
        let line = lines.iter().rposition(|line| line.holds(timeline, lsn))?;
        Some(Covered {
            time: covered.time,
            line,
        })
    }

    /// Log past a fork of `history`: what its ancestors went on to write after the timeline had left them.
    pub fn dead_ends(&self, history: &TimelineHistory) -> Vec<DeadEnd> {
        let size = self.segment_size;
        let mut dead_ends = Vec::new();
        for entry in &history.ancestors {
            for run in self.runs.get(&entry.timeline).into_iter().flatten() {
                let (begin, end) = (lsn_of(run.begin.position, size), lsn_of(run.end.position, size));
                if end <= entry.end {
                    continue;
                }
                let stretch = Stretch {
                    timeline: entry.timeline,
                    run,
                    begin: begin.max(entry.end),
                    end,
                };
                dead_ends.push(DeadEnd::of(&stretch, size));
            }
        }
        dead_ends
    }
}

/// Log that no timeline goes on from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeadEnd {
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// Where the surviving timeline left it.
    pub begin: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// Whether transactions ended in it; `None` when only reading it would tell.
    pub has_commits: Option<bool>,
}

impl DeadEnd {
    fn of(stretch: &Stretch<'_>, size: WalSegmentSize) -> DeadEnd {
        let slices = slices_of(stretch, size);
        let timed = |slice: &&SliceKey| slice.times.is_some();
        let is_past = |slice: &SliceKey| lsn_of(slice.begin_position(), size) >= stretch.begin;
        let has_commits = match slices.iter().filter(timed).any(is_past) {
            true => Some(true),
            false if slices.iter().any(|slice| timed(&slice)) => None,
            false => Some(false),
        };
        DeadEnd {
            timeline: stretch.timeline,
            begin: stretch.begin,
            end: stretch.end,
            has_commits,
        }
    }
}

/// Log behind a hole that no writer is known to have gone past: one that was killed had stored this before what belongs
/// in the hole, and never acknowledged it. (Or, since the lease was last written, an object was lost.)
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SetAside {
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// Where it begins.
    pub begin: Lsn,
    /// Where it ends.
    pub end: Lsn,
}

/// Stored lengths of a branch's slices, found by their range. Small: a million take 24 MB.
#[derive(Debug, Default)]
pub struct StoredLens(Vec<(u64, u32, u32, u32)>);

impl StoredLens {
    /// From a listing.
    pub fn new(list: &SliceList) -> StoredLens {
        let short = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let lens = list.slices.iter().zip(&list.stored_lens);
        let mut lens: Vec<_> = lens
            .map(|(slice, len)| (slice.file, short(slice.begin), short(slice.end), *len))
            .collect();
        lens.sort_unstable();
        StoredLens(lens)
    }

    /// The stored length of one slice; zero when it is not listed.
    pub fn of(&self, slice: &SliceKey) -> u64 {
        let short = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let wanted = (slice.file, short(slice.begin), short(slice.end));
        let at = self
            .0
            .partition_point(|(file, begin, end, _)| (*file, *begin, *end) < wanted);
        let found = self
            .0
            .get(at)
            .filter(|(file, begin, end, _)| (*file, *begin, *end) == wanted);
        found.map_or(0, |(.., len)| u64::from(*len))
    }
}
