//! Lines: the unbroken stretches of log that lead to one branch. Pure.
//!
//! The ancestry of a branch says which bytes belong to it: the parent's up to where it was left, the child's after that.
//! A line is what of them is stored without a hole. A restore begins and ends on one line; between two lines is a gap.

use std::collections::BTreeMap;

use serde::Serialize;
use tidemark_repository::Branch;
use tidemark_repository::log::{Run, SliceFlags, SliceKey, TimeRange};
use tidemark_types::{LogFiles, LogPosition, Position, Timestamp};

use super::ancestry::Ancestry;
use super::base::Point;
use super::listed::BranchLog;

/// Bytes of a WAL page: parsing can begin at each.
const PAGE_BYTES: u64 = 8192;

/// The part of one run that belongs to a line.
#[derive(Debug, Clone, Copy)]
pub struct Stretch<'a> {
    /// The branch that the bytes are stored under.
    pub branch: Branch,
    /// Where they are stored.
    pub run: &'a Run,
    /// The first byte of it that belongs to the line.
    pub begin: Position,
    /// The first byte that does not.
    pub end: Position,
}

/// An unbroken piece of a branch's history; see the module.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    begin: Position,
    end: Position,
    stretches: Vec<Stretch<'a>>,
    /// For each stretch, how many slices all before it have; one more for the end.
    slices_before: Vec<usize>,
}

/// One slice of a line.
#[derive(Debug, Clone, Copy)]
pub struct LineSlice<'a> {
    /// The branch that it is stored under.
    pub branch: Branch,
    /// The run that it is part of.
    pub run: &'a Run,
    /// Its name.
    pub key: &'a SliceKey,
    /// The first byte of it that belongs to the line.
    pub begin: Position,
    /// The first byte that does not.
    pub end: Position,
}

impl LineSlice<'_> {
    /// Whether a commit or abort may end in it.
    pub fn may_end_transactions(&self) -> bool {
        self.key.times.is_some() || self.key.flags.has(SliceFlags::UNINDEXED)
    }

    /// Whether a commit, an abort or a prepared transaction may end in it.
    pub fn may_end_or_prepare(&self) -> bool {
        self.may_end_transactions() || self.key.flags.has(SliceFlags::PREPARE)
    }

    /// Whether something may end in it after which a server can be told to stop: a record of WAL, a whole transaction.
    pub fn may_hold_stop(&self) -> bool {
        matches!(self.begin.files, LogFiles::Wal(_)) || self.may_end_or_prepare()
    }

    /// Whether a commit or abort later than `time` (or at it, if `at_too`) may end in it.
    pub fn may_be_later(&self, time: Timestamp, at_too: bool) -> bool {
        let later = |range: TimeRange| range.max > time || (at_too && range.max == time);
        self.key.flags.has(SliceFlags::UNINDEXED) || self.key.times.is_some_and(later)
    }

    /// The end of the last whole record in it, or before it.
    fn whole(&self) -> Position {
        let end = self.end.files.position(self.key.end_position());
        if self.end < end {
            // Cut where the branch was left, where a record ends.
            return self.end;
        }
        end.back(self.key.back)
    }
}

impl<'a> Line<'a> {
    fn new(stretches: Vec<Stretch<'a>>) -> Option<Line<'a>> {
        let mut slices_before = vec![0];
        for stretch in &stretches {
            let before = slices_before.last().copied().unwrap_or_default();
            slices_before.push(before + slices_of(stretch).len());
        }
        Some(Line {
            begin: stretches.first()?.begin,
            end: stretches.last()?.end,
            stretches,
            slices_before,
        })
    }

    /// The stretches, in order.
    pub fn stretches(&self) -> &[Stretch<'a>] {
        &self.stretches
    }

    /// Where it begins.
    pub fn begin(&self) -> Position {
        self.begin
    }

    /// Where it ends.
    pub fn end(&self) -> Position {
        self.end
    }

    /// The end of its last whole record. (A record of a binlog is an event.)
    pub fn whole(&self) -> Position {
        self.slices()
            .next_back()
            .map_or(self.begin, |slice| slice.whole().max(self.begin))
    }

    /// How many slices it has.
    pub fn slice_count(&self) -> usize {
        self.slices_before.last().copied().unwrap_or_default()
    }

    /// The slice of this number, counted from its begin.
    pub fn slice(&self, index: usize) -> Option<LineSlice<'a>> {
        let (stretch, within) = self.locate(index)?;
        Some(line_slice(stretch, slices_of(stretch).get(within)?))
    }

    /// The stretch that holds the slice of this number, and the slice's number in it.
    fn locate(&self, index: usize) -> Option<(&Stretch<'a>, usize)> {
        let number = self
            .slices_before
            .partition_point(|before| *before <= index)
            .checked_sub(1)?;
        let stretch = self.stretches.get(number)?;
        Some((stretch, index - self.slices_before.get(number)?))
    }

    /// Where reading can begin so that all records are seen that end in the slice of this number: in WAL a page's start,
    /// in binlogs the begin of an event, from which on each transaction is either seen whole or known to be passed over.
    pub fn parse_from(&self, index: usize) -> Option<Position> {
        let (stretch, within) = self.locate(index)?;
        let slices = slices_of(stretch);
        let key = slices.get(within)?;
        let files = stretch.begin.files;
        match files {
            LogFiles::Wal(_) => {
                let begin = files.position(key.begin_position()).max(stretch.begin);
                // Where the last whole record of the slice before ends, the next begins. At a fork one begins, too.
                let record = record_after(slices, within, files).map_or(begin, |record| record.min(begin));
                let page = files.lsn(record.max(stretch.begin).lsn().align_down(PAGE_BYTES));
                Some(page.max(files.position(stretch.run.begin.position)))
            }
            LogFiles::Binlog { .. } => {
                // The first transaction that ends in it has begun behind the last one that ended before it. No
                // transaction reaches over the end of a file.
                let ends_transaction = |slice: &SliceKey| {
                    slice.file != key.file || slice.times.is_some() || slice.flags.has(SliceFlags::PREPARE)
                };
                let before = slices.get(..within)?.iter().rposition(ends_transaction);
                let from = before.map_or(0, |before| {
                    let is_same_file = slices.get(before).is_some_and(|slice| slice.file == key.file);
                    before + usize::from(!is_same_file)
                });
                let begin = files.position(slices.get(from)?.begin_position());
                Some(record_after(slices, from, files).map_or(begin, |record| record.min(begin)))
            }
        }
    }

    /// All slices, in order.
    pub fn slices(&self) -> impl DoubleEndedIterator<Item = LineSlice<'a>> + '_ {
        self.stretches
            .iter()
            .flat_map(|stretch| slices_of(stretch).iter().map(move |key| line_slice(stretch, key)))
    }

    /// The number of the slice that holds the byte before `position`; the first for positions before the line.
    pub fn slice_before(&self, position: Position) -> Option<usize> {
        let number = self
            .stretches
            .iter()
            .rposition(|stretch| stretch.begin < position)
            .unwrap_or(0);
        let slices = slices_of(self.stretches.get(number)?);
        let within = slices.partition_point(|slice| slice.begin_position() < position.at);
        Some(self.slices_before.get(number)? + within.saturating_sub(1))
    }

    /// How many slices lie before the stretch that holds the byte before `position`.
    pub fn slices_before_branch(&self, position: Position) -> usize {
        let number = self
            .stretches
            .iter()
            .rposition(|stretch| stretch.begin < position);
        let before = number.and_then(|number| self.slices_before.get(number));
        before.copied().unwrap_or_default()
    }

    /// Whether the point lies on it, its end included.
    pub fn holds(&self, point: Point) -> bool {
        self.stretches
            .iter()
            .any(|stretch| stretch.branch == point.branch && stretch.holds(point.position))
    }

    /// The parts of it that hold bytes of `[begin, end)`.
    pub fn part(&self, begin: Position, end: Position) -> impl Iterator<Item = Stretch<'a>> + '_ {
        self.stretches.iter().filter_map(move |stretch| {
            let (begin, end) = (stretch.begin.max(begin), stretch.end.min(end));
            (begin < end).then_some(Stretch {
                begin,
                end,
                ..*stretch
            })
        })
    }
}

impl Stretch<'_> {
    /// Whether a position of its branch lies in it, its end included.
    pub fn holds(&self, position: Position) -> bool {
        self.begin <= position && position <= self.end && self.run.has_place(position.at)
    }
}

/// The slices that hold bytes of a stretch.
pub fn slices_of<'a>(stretch: &Stretch<'a>) -> &'a [SliceKey] {
    stretch.run.slices_within(stretch.begin.at, stretch.end.at)
}

/// Where the last whole record ends in the slices before the one of this number.
fn record_after(slices: &[SliceKey], number: usize, files: LogFiles) -> Option<Position> {
    let before = slices.get(number.checked_sub(1)?)?;
    Some(files.position(before.end_position()).back(before.back))
}

fn line_slice<'a>(stretch: &Stretch<'a>, key: &'a SliceKey) -> LineSlice<'a> {
    let files = stretch.begin.files;
    LineSlice {
        branch: stretch.branch,
        run: stretch.run,
        key,
        begin: files.position(key.begin_position()).max(stretch.begin),
        end: files.position(key.end_position()).min(stretch.end),
    }
}

/// The lines of a branch of this ancestry, in order of the log.
pub fn lines<'a>(ancestry: &Ancestry, branches: &'a BTreeMap<Branch, BranchLog>) -> Vec<Line<'a>> {
    let mut lines: Vec<Vec<Stretch<'a>>> = Vec::new();
    // The point from which the last line goes on, if it is stored from there.
    let mut goes_on: Option<Position> = None;
    let parts: Vec<_> = ancestry.parts().collect();
    for (number, (branch, from, to)) in parts.iter().enumerate() {
        let mut reached = goes_on.filter(|at| Some(*at) == *to);
        let log = branches.get(branch);
        for run in log.iter().flat_map(|log| &log.runs) {
            let files = from.files;
            let to = to.map(|to| files.position(run.normalize(to.at)));
            let begin = files.position(run.begin.position).max(*from);
            let run_end = files.position(run.end.position);
            let end = to.map_or(run_end, |to| run_end.min(to));
            if begin >= end {
                continue;
            }
            let stretch = Stretch {
                branch: *branch,
                run,
                begin,
                end,
            };
            // Runs of one branch never join: what could have been joined is one run.
            match lines.last_mut() {
                Some(line) if goes_on.take() == Some(begin) => line.push(stretch),
                _ => lines.push(vec![stretch]),
            }
            reached = to.filter(|to| *to == end && run.has_place(to.at));
        }
        let next = parts.get(number + 1).map(|(_, begin, _)| *begin);
        goes_on = reached.and(next);
    }
    lines.into_iter().filter_map(Line::new).collect()
}

/// The length of a stretch in bytes.
pub fn bytes_of(stretch: &Stretch<'_>) -> u64 {
    match stretch.begin.files {
        LogFiles::Wal(_) => stretch.end.lsn().bytes_since(stretch.begin.lsn()),
        LogFiles::Binlog { .. } => {
            let files = file_parts(stretch);
            files.iter().map(|part| part.end - part.begin).sum()
        }
    }
}

/// A part of one log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FilePart {
    /// The file's number.
    pub file: u64,
    /// The first byte.
    pub begin: u64,
    /// The first byte that is no longer in it.
    pub end: u64,
    /// Whether the file ends there, and not only what is stored or wanted of it.
    pub ends_file: bool,
}

/// The files of a stretch, in order, with what of each lies in it.
pub fn file_parts(stretch: &Stretch<'_>) -> Vec<FilePart> {
    let mut parts: Vec<FilePart> = Vec::new();
    let clip = |file: u64, offset: u64| {
        let at = LogPosition { file, offset };
        at.max(stretch.begin.at).min(stretch.end.at)
    };
    for slice in slices_of(stretch) {
        let begin = clip(slice.file, slice.begin).offset;
        let end = match clip(slice.file, slice.end) {
            at if at.file == slice.file => at.offset,
            _ => slice.end,
        };
        let ends_file = slice.end_position().file > slice.file && end == slice.end;
        match parts.last_mut().filter(|part| part.file == slice.file) {
            Some(part) => (part.end, part.ends_file) = (end, ends_file),
            None if begin == end => {}
            None => parts.push(FilePart {
                file: slice.file,
                begin,
                end,
                ends_file,
            }),
        }
    }
    parts
}
