//! Which bytes lead to a branch. Pure: from a timeline's history file, or from what is kept of branches of binlogs.

use std::collections::BTreeMap;

use tidemark_mysql::archive::BinlogBranch;
use tidemark_repository::{Branch, LogPosition};
use tidemark_types::{HistoryEntry, LogFiles, Lsn, Position, TimelineHistory, TimelineId, WalSegmentSize};

/// A branch, and the way that leads to it. Timelines go on in the coordinates of the one that they left; branches of
/// binlogs count anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestry {
    /// The branches on the way, oldest first.
    pub ancestors: Vec<Ancestor>,
    /// The branch.
    pub branch: Branch,
    /// Where it begins.
    pub begin: Position,
}

/// A branch that another went on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ancestor {
    /// The branch.
    pub branch: Branch,
    /// Where it begins.
    pub begin: Position,
    /// Where it was left: the first point that no longer counts.
    pub end: Position,
}

impl Ancestry {
    /// That of a timeline.
    pub fn of_timeline(history: &TimelineHistory, size: WalSegmentSize) -> Ancestry {
        let files = LogFiles::Wal(size);
        let mut begin = files.lsn(Lsn::INVALID);
        let mut ancestors = Vec::new();
        for entry in &history.ancestors {
            let end = files.lsn(entry.end);
            ancestors.push(Ancestor {
                branch: Branch(entry.timeline.0),
                begin,
                end,
            });
            begin = end;
        }
        Ancestry {
            ancestors,
            branch: Branch(history.timeline.0),
            begin,
        }
    }

    /// That of a branch of binlogs among `known`; `None` for one that is not.
    pub fn of_binlogs(branch: Branch, known: &BTreeMap<Branch, BinlogBranch>) -> Option<Ancestry> {
        let begin = |branch: Branch, facts: &BinlogBranch| {
            facts
                .files(branch.0)
                .position(LogPosition::start_of(facts.first_file))
        };
        let mut facts = known.get(&branch)?;
        let mut ancestry = Ancestry {
            ancestors: Vec::new(),
            branch,
            begin: begin(branch, facts),
        };
        let mut child = branch;
        while let Some(end) = facts.follows {
            let parent = Branch(end.branch);
            // A later branch never leads to an earlier one: going round in circles ends here.
            let Some(found) = known.get(&parent).filter(|_| parent < child) else {
                break;
            };
            let at = LogPosition {
                file: end.file,
                offset: end.offset,
            };
            ancestry.ancestors.push(Ancestor {
                branch: parent,
                begin: begin(parent, found),
                end: found.files(parent.0).position(at),
            });
            (child, facts) = (parent, found);
        }
        ancestry.ancestors.reverse();
        Some(ancestry)
    }

    /// As the history of a timeline: what restoring PostgreSQL goes by.
    pub fn to_history(&self) -> TimelineHistory {
        let entries = self.ancestors.iter().map(|ancestor| HistoryEntry {
            timeline: TimelineId(ancestor.branch.0),
            end: ancestor.end.lsn(),
        });
        TimelineHistory {
            timeline: TimelineId(self.branch.0),
            ancestors: entries.collect(),
        }
    }

    /// The branches in order: each with its begin and, but for the last, its end.
    pub fn parts(&self) -> impl Iterator<Item = (Branch, Position, Option<Position>)> + '_ {
        let ancestors = self.ancestors.iter();
        let ancestors = ancestors.map(|ancestor| (ancestor.branch, ancestor.begin, Some(ancestor.end)));
        ancestors.chain([(self.branch, self.begin, None)])
    }
}
