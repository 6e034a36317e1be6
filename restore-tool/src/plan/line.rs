//! Lines: the unbroken stretches of log that lead to one timeline. Pure.
//!
//! The ancestry of a timeline says which bytes belong to it: the parent's up to the fork, the child's after it. A line
//! is what of them is stored without a hole. A restore begins and ends on one line; between two lines is a gap.

use std::collections::BTreeMap;

use tidemark_repository::log::{Run, SliceFlags, SliceKey, TimeRange};
use tidemark_types::{Lsn, TimelineHistory, TimelineId, Timestamp, WalSegmentSize};

use crate::positions::{lsn_of, position_of};

/// Bytes of a WAL page: parsing can begin at each.
const PAGE_BYTES: u64 = 8192;

/// The part of one run that belongs to a line.
#[derive(Debug, Clone, Copy)]
pub struct Stretch<'a> {
    /// The timeline that the bytes are stored under.
    pub timeline: TimelineId,
    /// Where they are stored.
    pub run: &'a Run,
    /// The first byte of it that belongs to the line.
    pub begin: Lsn,
    /// The first byte that does not.
    pub end: Lsn,
}

/// An unbroken piece of a timeline's history; see the module.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    size: WalSegmentSize,
    stretches: Vec<Stretch<'a>>,
    /// For each stretch, how many slices all before it have; one more for the end.
    slices_before: Vec<usize>,
}

/// One slice of a line.
#[derive(Debug, Clone, Copy)]
pub struct LineSlice<'a> {
    /// The timeline that it is stored under.
    pub timeline: TimelineId,
    /// The run that it is part of.
    pub run: &'a Run,
    /// Its name.
    pub key: &'a SliceKey,
    /// The first byte of it that belongs to the line.
    pub begin: Lsn,
    /// The first byte that does not.
    pub end: Lsn,
    /// A page's start from which all records can be read that end in it.
    pub parse_from: Lsn,
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

    /// Whether a commit or abort later than `time` (or at it, if `at_too`) may end in it.
    pub fn may_be_later(&self, time: Timestamp, at_too: bool) -> bool {
        let later = |range: TimeRange| range.max > time || (at_too && range.max == time);
        self.key.flags.has(SliceFlags::UNINDEXED) || self.key.times.is_some_and(later)
    }
}

impl<'a> Line<'a> {
    fn new(size: WalSegmentSize, stretches: Vec<Stretch<'a>>) -> Line<'a> {
        let mut slices_before = vec![0];
        for stretch in &stretches {
            let before = slices_before.last().copied().unwrap_or_default();
            slices_before.push(before + slices_of(stretch, size).len());
        }
        Line {
            size,
            stretches,
            slices_before,
        }
    }

    /// The stretches, in order.
    pub fn stretches(&self) -> &[Stretch<'a>] {
        &self.stretches
    }

    /// The size of its segments.
    pub fn segment_size(&self) -> WalSegmentSize {
        self.size
    }

    /// Where it begins.
    pub fn begin(&self) -> Lsn {
        self.stretches
            .first()
            .map_or(Lsn::INVALID, |stretch| stretch.begin)
    }

    /// Where it ends.
    pub fn end(&self) -> Lsn {
        self.stretches.last().map_or(Lsn::INVALID, |stretch| stretch.end)
    }

    /// The end of its last whole record.
    pub fn whole(&self) -> Lsn {
        self.slice_count()
            .checked_sub(1)
            .and_then(|last| self.slice(last))
            .map_or(self.begin(), |slice| {
                whole_at(&slice, self.size).max(self.begin())
            })
    }

    /// How many slices it has.
    pub fn slice_count(&self) -> usize {
        self.slices_before.last().copied().unwrap_or_default()
    }

    /// The slice of this number, counted from its begin.
    pub fn slice(&self, index: usize) -> Option<LineSlice<'a>> {
        let number = self
            .slices_before
            .partition_point(|before| *before <= index)
            .checked_sub(1)?;
        let stretch = self.stretches.get(number)?;
        let within = index - self.slices_before.get(number)?;
        let slices = slices_of(stretch, self.size);
        let key = slices.get(within)?;
        let before = within.checked_sub(1).and_then(|before| slices.get(before));
        Some(line_slice(stretch, key, before, self.size))
    }

    /// All slices, in order.
    pub fn slices(&self) -> impl DoubleEndedIterator<Item = LineSlice<'a>> + '_ {
        let size = self.size;
        self.stretches.iter().flat_map(move |stretch| {
            let slices = slices_of(stretch, size);
            slices.iter().enumerate().map(move |(within, key)| {
                let before = within.checked_sub(1).and_then(|before| slices.get(before));
                line_slice(stretch, key, before, size)
            })
        })
    }

    /// The number of the slice that holds the byte before `lsn`; the first for positions before the line.
    pub fn slice_before(&self, lsn: Lsn) -> Option<usize> {
        let number = self
            .stretches
            .iter()
            .rposition(|stretch| stretch.begin < lsn)
            .unwrap_or(0);
        let stretch = self.stretches.get(number)?;
        let at = position_of(lsn, self.size);
        let within = slices_of(stretch, self.size).partition_point(|slice| slice.begin_position() < at);
        Some(self.slices_before.get(number)? + within.saturating_sub(1))
    }

    /// Whether the point `lsn` of `timeline` lies on it, its end included.
    pub fn holds(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.stretches
            .iter()
            .any(|stretch| stretch.timeline == timeline && stretch.begin <= lsn && lsn <= stretch.end)
    }

    /// The parts of it that hold bytes of `[begin, end)`.
    pub fn part(&self, begin: Lsn, end: Lsn) -> impl Iterator<Item = Stretch<'a>> + '_ {
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

/// The slices that hold bytes of a stretch.
pub fn slices_of<'a>(stretch: &Stretch<'a>, size: WalSegmentSize) -> &'a [SliceKey] {
    stretch
        .run
        .slices_within(position_of(stretch.begin, size), position_of(stretch.end, size))
}

fn line_slice<'a>(
    stretch: &Stretch<'a>,
    key: &'a SliceKey,
    before: Option<&SliceKey>,
    size: WalSegmentSize,
) -> LineSlice<'a> {
    let begin = lsn_of(key.begin_position(), size).max(stretch.begin);
    let end = lsn_of(key.end_position(), size).min(stretch.end);
    // Where the last whole record of the slice before ends, the next begins. At a fork one begins, too.
    let record = before.map_or(begin, |before| {
        let end = lsn_of(before.end_position(), size);
        Lsn(end.0.saturating_sub(before.back)).min(begin)
    });
    let first = lsn_of(stretch.run.begin.position, size);
    LineSlice {
        timeline: stretch.timeline,
        run: stretch.run,
        key,
        begin,
        end,
        parse_from: record.max(stretch.begin).align_down(PAGE_BYTES).max(first),
    }
}

/// The end of the last whole record in a slice, or before it.
fn whole_at(slice: &LineSlice<'_>, size: WalSegmentSize) -> Lsn {
    let end = lsn_of(slice.key.end_position(), size);
    if slice.end < end {
        // Cut at a fork, where a record ends.
        return slice.end;
    }
    Lsn(end.0.saturating_sub(slice.key.back))
}

/// The lines of the timeline whose ancestry `history` is, in order of the log.
pub fn lines<'a>(
    history: &TimelineHistory,
    runs: &'a BTreeMap<TimelineId, Vec<Run>>,
    size: WalSegmentSize,
) -> Vec<Line<'a>> {
    let mut lines: Vec<Vec<Stretch<'a>>> = Vec::new();
    let mut from = Lsn::INVALID;
    let ancestors = history.ancestors.iter().map(|entry| (entry.timeline, entry.end));
    for (timeline, to) in ancestors.chain([(history.timeline, Lsn(u64::MAX))]) {
        for run in runs.get(&timeline).into_iter().flatten() {
            let begin = lsn_of(run.begin.position, size).max(from);
            let end = lsn_of(run.end.position, size).min(to);
            if begin >= end {
                continue;
            }
            let stretch = Stretch {
                timeline,
                run,
                begin,
                end,
            };
            // Runs of one timeline never join: what could have been joined is one run.
            let joins = |line: &Vec<Stretch<'a>>| {
                line.last()
                    .is_some_and(|last| last.end == begin && last.timeline != timeline)
            };
            match lines.last_mut() {
                Some(line) if joins(line) => line.push(stretch),
                _ => lines.push(vec![stretch]),
            }
        }
        from = to;
    }
    lines
        .into_iter()
        .map(|stretches| Line::new(size, stretches))
        .collect()
}
