//! What planning works on: one generation of a server, as listing it tells.

use std::collections::BTreeMap;

use tidemark_repository::log::{Run, SliceKey, SliceList};
use tidemark_repository::{Branch, GapRecord, RepositoryError, lease};
use tidemark_types::{Generation, LogFiles, Position, ServerName};

use super::ancestry::Ancestry;
use super::base::{Base, Point};
use super::line::{Line, Stretch, lines, slices_of};
use super::resolve::Covered;
use crate::engine::Engine;

/// One generation of a server; see the module.
#[derive(Debug)]
pub struct Listed {
    /// The server.
    pub server: ServerName,
    /// Which identity under that name.
    pub generation: Generation,
    /// What it is.
    pub engine: Engine,
    /// What the server calls itself.
    pub system_id: String,
    /// What is stored of each branch's log.
    pub branches: BTreeMap<Branch, BranchLog>,
    /// Log that nothing leads to, left out of `branches`.
    pub set_aside: Vec<SetAside>,
    /// The base backups that can be read, oldest first.
    pub bases: Vec<Base>,
    /// Base backups that cannot be read, and why.
    pub unreadable_bases: Vec<(String, RepositoryError)>,
    /// The lease, when it is of this generation.
    pub lease: Option<lease::Lease>,
    /// Recorded gaps.
    pub gaps: Vec<GapRecord>,
}

/// What is stored of one branch's log.
#[derive(Debug)]
pub struct BranchLog {
    /// Its files.
    pub files: LogFiles,
    /// What leads to it.
    pub ancestry: Ancestry,
    /// Its unbroken pieces, in order.
    pub runs: Vec<Run>,
    /// Stored lengths of its slices.
    pub stored: StoredLens,
}

impl Listed {
    /// The lines of a branch.
    pub fn lines(&self, ancestry: &Ancestry) -> Vec<Line<'_>> {
        lines(ancestry, &self.branches)
    }

    /// The newest branch that has log of its own and a base backup that leads to it. A history file alone makes no
    /// timeline, and neither does a stray branch that no backup reaches.
    pub fn newest_branch(&self) -> Option<&Ancestry> {
        let with_log = self.branches.values().rev().filter(|log| !log.runs.is_empty());
        let mut ancestries = with_log.map(|log| &log.ancestry);
        ancestries.find(|ancestry| {
            let lines = self.lines(ancestry);
            let end = lines.last().and_then(|last| last.stretches().last());
            end.is_some_and(|end| end.branch == ancestry.branch)
                && self
                    .bases
                    .iter()
                    .any(|base| lines.iter().any(|line| base.is_on(line)))
        })
    }

    /// What the lease says about these lines.
    pub fn covered(&self, lines: &[Line<'_>]) -> Option<Covered> {
        let covered = self.lease.as_ref()?.covered?;
        let point = Point {
            branch: covered.branch,
            position: self
                .branches
                .get(&covered.branch)?
                .files
                .position(covered.position),
        };
        let line = lines.iter().rposition(|line| line.holds(point))?;
        Some(Covered {
            time: covered.time,
            line,
        })
    }

    /// Log past the places where the ancestors were left: what they went on to write afterwards.
    pub fn dead_ends(&self, ancestry: &Ancestry) -> Vec<DeadEnd> {
        let mut dead_ends = Vec::new();
        for ancestor in &ancestry.ancestors {
            let Some(log) = self.branches.get(&ancestor.branch) else {
                continue;
            };
            for run in &log.runs {
                let left = log.files.position(run.normalize(ancestor.end.at));
                let begin = log.files.position(run.begin.position).max(left);
                let end = log.files.position(run.end.position);
                if begin < end {
                    dead_ends.push(DeadEnd::of(&Stretch {
                        branch: ancestor.branch,
                        run,
                        begin,
                        end,
                    }));
                }
            }
        }
        dead_ends
    }
}

/// Log that no branch goes on from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeadEnd {
    /// The branch it is on.
    pub branch: Branch,
    /// Where the surviving branch left it.
    pub begin: Position,
    /// Where it ends.
    pub end: Position,
    /// Whether transactions ended in it; `None` when only reading it would tell.
    pub has_commits: Option<bool>,
}

impl DeadEnd {
    fn of(stretch: &Stretch<'_>) -> DeadEnd {
        let slices = slices_of(stretch);
        let timed = |slice: &&SliceKey| slice.times.is_some();
        let is_past = |slice: &SliceKey| slice.begin_position() >= stretch.begin.at;
        let has_commits = match slices.iter().filter(timed).any(is_past) {
            true => Some(true),
            false if slices.iter().any(|slice| timed(&slice)) => None,
            false => Some(false),
        };
        DeadEnd {
            branch: stretch.branch,
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
    /// The branch it is on.
    pub branch: Branch,
    /// Where it begins.
    pub begin: Position,
    /// Where it ends.
    pub end: Position,
}

/// Stored lengths of a branch's slices, found by their range. Small: a million take 24 MB.
#[derive(Debug, Default)]
pub struct StoredLens(Vec<StoredLen>);

/// File, begin, length, stored length. No slice is longer than a grain.
type StoredLen = (u64, u64, u32, u32);

impl StoredLens {
    /// From a listing.
    pub fn new(list: &SliceList) -> StoredLens {
        let lens = list.slices.iter().zip(&list.stored_lens);
        let mut lens: Vec<StoredLen> = lens
            .map(|(slice, len)| (slice.file, slice.begin, short(slice.len()), *len))
            .collect();
        lens.sort_unstable();
        StoredLens(lens)
    }

    /// The stored length of one slice; zero when it is not listed.
    pub fn of(&self, slice: &SliceKey) -> u64 {
        let wanted = (slice.file, slice.begin, short(slice.len()));
        let range = |(file, begin, len, _): &StoredLen| (*file, *begin, *len);
        let at = self.0.partition_point(|stored| range(stored) < wanted);
        let found = self.0.get(at).filter(|stored| range(stored) == wanted);
        found.map_or(0, |(.., stored)| u64::from(*stored))
    }
}

fn short(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
