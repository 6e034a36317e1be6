//! From a target to one place in the log. Pure: works on names of slices and on what was read so far, and says which
//! slices it needs to have read to go on ([`Pending::Read`]); the caller reads them and asks again.
//!
//! The rule for times: a time T means the state after the last commit, abort or prepare before the first commit or abort
//! that is later than T, in the order of the log. Commit times are taken before the record is written, so neighbours
//! may be out of order by a little; where they are by more than [`JITTER`], a clock was set, the time has two readings,
//! and a human picks one. (Not on MariaDB, whose log tells when statements began: there the first reading holds.)

use std::time::Duration;

use tidemark_types::{Position, Timestamp};

use super::facts::{Ending, EndingKind, Known, RecordSpan, SliceFacts, SliceId};
use super::line::{Line, LineSlice};
use super::target::{Pick, Request, Target};

/// Commit times may run backwards by so much without anybody having set a clock.
pub const JITTER: Duration = Duration::from_secs(1);
/// Slices asked for at once while searching where names do not tell.
pub(super) const READ_AT_ONCE: usize = 16;

/// The place in the log that a target means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The number of the line that it lies on.
    pub line: usize,
    /// The last commit, abort or prepare that belongs in; `None` when the line holds none before `bound`.
    pub last_in: Option<Ending>,
    /// Recovery stops after this record of WAL, or this transaction of a binlog.
    pub record: Option<RecordSpan>,
    /// No other end of a transaction lies between `last_in` and here.
    pub bound: Position,
    /// With no `last_in`: a base backup must not have begun after this time.
    pub not_after: Option<Timestamp>,
}

/// Why there is no answer yet, or none at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pending {
    /// These slices must be read first.
    Read(Vec<SliceId>),
    /// The target has two readings.
    Ambiguous(Box<Ambiguity>),
    /// The target cannot be reached.
    Unreachable(Unreachable),
}

/// A target with more than one reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ambiguity {
    /// Why it has.
    pub reason: String,
    /// The first reading in the log: its position, and the time there if that is known.
    pub first: (Position, Option<Timestamp>),
    /// The last.
    pub last: (Position, Option<Timestamp>),
}

/// Why a target cannot be reached, and what can be instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// Why.
    pub reason: String,
    /// The nearest targets that can be reached, as options to give.
    pub nearest: Vec<String>,
}

impl Unreachable {
    pub(super) fn pending(reason: impl Into<String>, nearest: Vec<String>) -> Pending {
        Pending::Unreachable(Unreachable {
            reason: reason.into(),
            nearest,
        })
    }
}

/// Up to which time everything that was committed is known to be stored, and where that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    /// Every commit up to this time lies before `end`.
    pub time: Timestamp,
    /// On the line of this number.
    pub line: usize,
}

/// What resolving works on.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// The lines of the chosen timeline, in order.
    pub lines: &'a [Line<'a>],
    /// What was read so far.
    pub known: &'a Known,
    /// What the lease says.
    pub covered: Option<Covered>,
    /// Whether times that run backwards tell of a clock that was set.
    pub logs_commit_times: bool,
}

impl Stop {
    /// After a transaction, or at `bound` when none lies before it.
    pub(super) fn after(line: usize, last_in: Option<Ending>, bound: Position) -> Stop {
        Stop {
            line,
            record: last_in.as_ref().map(RecordSpan::from),
            last_in,
            bound,
            not_after: None,
        }
    }
}

/// The greatest time of any commit or abort on one line.
pub(super) fn newest_on(line: &Line<'_>) -> Option<Timestamp> {
    let times = line.slices().filter_map(|slice| slice.key.times);
    times.map(|range| range.max).max()
}

/// A commit or abort and the line it lies on.
type Found = (usize, Ending);

impl<'a> Search<'a> {
    /// The place that `request` means. `Target::Immediate` is the base backup's matter and has none here.
    ///
    /// # Errors
    /// See [`Pending`].
    pub fn resolve(&self, request: &Request) -> Result<Stop, Pending> {
        match &request.target {
            Target::Time(time) => self.time(*time, request),
            Target::Lsn(_) | Target::Binlog(_) => self.position(request),
            Target::Transaction(transaction) => self.transaction(transaction, request.exclusive),
            Target::Name(name) => self.name(name, request.pick),
            Target::Latest | Target::Immediate => self.latest(),
        }
    }

    /// The last commit, abort or prepare that ends at or before `bound` on a line.
    pub fn last_before(&self, line: usize, bound: Position) -> Result<Option<Ending>, Pending> {
        self.last_where(
            line,
            self.slice_before(line, bound),
            LineSlice::may_end_or_prepare,
            |ending| ending.end <= bound,
        )
    }

    /// The last commit at or before `bound`.
    pub fn last_commit_before(&self, line: usize, bound: Position) -> Result<Option<Ending>, Pending> {
        let wanted = |ending: &Ending| ending.end <= bound && ending.kind == EndingKind::Commit;
        self.last_where(
            line,
            self.slice_before(line, bound),
            LineSlice::may_end_transactions,
            wanted,
        )
    }

    fn slice_before(&self, line: usize, bound: Position) -> usize {
        self.lines
            .get(line)
            .and_then(|line| line.slice_before(bound))
            .unwrap_or(0)
    }

    fn time(&self, time: Timestamp, request: &Request) -> Result<Stop, Pending> {
        let Some((line, later)) = self.first_later(time, request.exclusive)? else {
            return self.after_everything(time);
        };
        if let Some(stop) = self.before_gap(line, &later, time)? {
            return Ok(stop);
        }
        let may_be_set = self.logs_commit_times || request.pick == Some(Pick::Last);
        if request.pick != Some(Pick::First)
            && may_be_set
            && let Some((last_line, last)) = self.glitch(time, request.exclusive, &later)?
        {
            if request.pick == Some(Pick::Last) {
                let bound = last.end;
                return Ok(Stop {
                    not_after: Some(time),
                    ..Stop::after(last_line, Some(last), bound)
                });
            }
            let before = self.last_before(line, later.begin)?;
            let first = before.as_ref().unwrap_or(&later);
            return Err(Pending::Ambiguous(Box::new(Ambiguity {
                reason: format!(
                    "the clock of the server was set: the transaction at {} ended at {}, and later in the log, up to {}, \
                     others ended at or before {time}",
                    later.begin, later.time, last.begin
                ),
                first: (first.begin, Some(first.time)),
                last: (last.begin, Some(last.time)),
            })));
        }
        self.until(line, later.begin, time)
    }

    /// When the first transaction later than `time` is the first past a gap: what lies before the gap serves, if its own
    /// transactions reach that far. Between them and the gap's end some may be missing.
    fn before_gap(&self, line: usize, later: &Ending, time: Timestamp) -> Result<Option<Stop>, Pending> {
        let Some(earlier) = line.checked_sub(1) else {
            return Ok(None);
        };
        if self.last_before(line, later.begin)?.is_some() {
            return Ok(None);
        }
        let Some(before) = self.lines.get(earlier) else {
            return Ok(None);
        };
        let newest = before
            .slices()
            .filter_map(|slice| slice.key.times)
            .map(|range| range.max)
            .max();
        if newest.is_none_or(|newest| newest < time) {
            return Ok(None);
        }
        self.until(earlier, before.whole(), time).map(Some)
    }

    /// The state before `bound`, without transactions prepared after `time`.
    fn until(&self, line: usize, mut bound: Position, time: Timestamp) -> Result<Stop, Pending> {
        let mut last_in = self.last_before(line, bound)?;
        while let Some(ending) = &last_in
            && ending.kind == EndingKind::Prepare
            && ending.time > time
        {
            bound = ending.begin;
            last_in = self.last_before(line, bound)?;
        }
        Ok(Stop {
            not_after: Some(time),
            ..Stop::after(line, last_in, bound)
        })
    }

    /// No transaction ended later than `time`: it is reachable if nothing up to it can be missing.
    fn after_everything(&self, time: Timestamp) -> Result<Stop, Pending> {
        let Some((line, last)) = self.lines.iter().enumerate().next_back() else {
            return Err(Unreachable::pending("no log is stored", Vec::new()));
        };
        let newest = self.newest_time();
        let covered = self.covered_on(line);
        let reach = newest.max(covered);
        if reach.is_some_and(|reach| time <= reach) {
            return self.until(line, last.whole(), time);
        }
        let reason = match (newest, covered) {
            (None, None) => "no transaction ended in what is stored".to_owned(),
            (Some(newest), None) => format!("the last transaction that is stored ended at {newest}"),
            (newest, Some(covered)) => format!(
                "{}what is stored is known to be complete up to {covered} only",
                newest.map_or(String::new(), |newest| format!(
                    "the last transaction that is stored ended at {newest}, and "
                )),
            ),
        };
        let nearest = reach.map(|reach| format!("--target-time {reach}"));
        Err(Unreachable::pending(
            reason,
            nearest
                .into_iter()
                .chain(["--target-latest".to_owned()])
                .collect(),
        ))
    }

    /// The greatest time of any commit or abort, from names alone.
    pub(super) fn newest_time(&self) -> Option<Timestamp> {
        self.lines.iter().filter_map(newest_on).max()
    }

    pub(super) fn covered_on(&self, line: usize) -> Option<Timestamp> {
        let covered = self.covered.filter(|covered| covered.line == line);
        covered.map(|covered| covered.time)
    }

    /// The last complete record, or transaction, that is stored.
    pub fn latest(&self) -> Result<Stop, Pending> {
        let Some((number, line)) = self.lines.iter().enumerate().next_back() else {
            return Err(Unreachable::pending("no log is stored", Vec::new()));
        };
        let bound = line.whole();
        let mut record = None;
        for index in (0..line.slice_count()).rev() {
            if line.slice(index).is_some_and(|slice| slice.may_hold_stop()) {
                record = self.facts(number, index, LineSlice::may_hold_stop)?.last;
            }
            if record.is_some() {
                break;
            }
        }
        Ok(Stop {
            line: number,
            last_in: self.last_before(number, bound)?,
            record,
            bound,
            not_after: None,
        })
    }

    /// The first commit or abort later than `time` (at it, if `at_too`), over all lines.
    fn first_later(&self, time: Timestamp, at_too: bool) -> Result<Option<Found>, Pending> {
        for (line, slice, named) in self.numbered() {
            if !named.may_be_later(time, at_too) {
                continue;
            }
            let facts = self.read(line, slice)?;
            let later = facts.endings.iter().find(|ending| {
                ending.kind != EndingKind::Prepare && (ending.time > time || (at_too && ending.time == time))
            });
            if let Some(later) = later {
                return Ok(Some((line, later.clone())));
            }
        }
        Ok(None)
    }

    /// The last commit or abort at or before `time` that follows `later`, if one follows that is so much earlier that
    /// a clock must have been set. What another branch of binlogs begins with are transactions that its server had
    /// replicated before, and no sign of that.
    fn glitch(&self, time: Timestamp, exclusive: bool, later: &Ending) -> Result<Option<Found>, Pending> {
        let threshold = later.time.minus(JITTER);
        let is_in = |at: Timestamp| if exclusive { at < time } else { at <= time };
        let is_back = |at: Timestamp| is_in(at) && at < threshold;
        let follows = |ending: &&Ending| {
            ending.begin > later.begin && ending.kind != EndingKind::Prepare && is_in(ending.time)
        };
        let mut was_set = false;
        let mut candidates = Vec::new();
        for (line, slice, named) in self.numbered() {
            let min = named.key.times.map(|range| range.min).filter(|min| is_in(*min));
            let follows_later = named.end > later.begin && named.begin.files == later.begin.files;
            let Some(min) = min.filter(|_| follows_later) else {
                continue;
            };
            if named.begin <= later.end {
                // Its range says nothing about which side of the later one the earlier ones lie on.
                let facts = self.read(line, slice)?;
                was_set |= facts
                    .endings
                    .iter()
                    .any(|ending| follows(&ending) && is_back(ending.time));
            } else {
                was_set |= is_back(min);
            }
            candidates.push((line, slice));
        }
        for (line, slice) in candidates.into_iter().rev().filter(|_| was_set) {
            if let Some(last) = self.read(line, slice)?.endings.iter().rfind(follows) {
                return Ok(Some((line, last.clone())));
            }
        }
        Ok(None)
    }

    pub(super) fn numbered(&self) -> impl Iterator<Item = (usize, usize, LineSlice<'a>)> + '_ {
        self.lines.iter().enumerate().flat_map(|(line, lines)| {
            lines
                .slices()
                .enumerate()
                .map(move |(slice, named)| (line, slice, named))
        })
    }

    pub(super) fn read(&self, line: usize, slice: usize) -> Result<&'a SliceFacts, Pending> {
        let id = SliceId { line, slice };
        self.known.get(id).ok_or_else(|| Pending::Read(vec![id]))
    }

    /// The last ending that is `wanted` in the slices up to `from`, looking only into those that `may_hold` one.
    pub(super) fn last_where(
        &self,
        line: usize,
        from: usize,
        may_hold: impl Fn(&LineSlice<'a>) -> bool,
        wanted: impl Fn(&Ending) -> bool,
    ) -> Result<Option<Ending>, Pending> {
        for index in (0..=from).rev() {
            let slice = self.lines.get(line).and_then(|line| line.slice(index));
            if !slice.is_some_and(|slice| may_hold(&slice)) {
                continue;
            }
            let facts = self.facts(line, index, &may_hold)?;
            if let Some(found) = facts.endings.iter().rfind(|ending| wanted(ending)) {
                return Ok(Some(found.clone()));
            }
        }
        Ok(None)
    }

    /// The facts of a slice; when they are not known, those of the slices before it that will be wanted next are asked
    /// for as well.
    fn facts(
        &self,
        line: usize,
        index: usize,
        may_hold: impl Fn(&LineSlice<'a>) -> bool,
    ) -> Result<&'a SliceFacts, Pending> {
        let id = SliceId { line, slice: index };
        if let Some(facts) = self.known.get(id) {
            return Ok(facts);
        }
        let mut wanted = Vec::new();
        for slice in (0..=index).rev() {
            let id = SliceId { line, slice };
            let Some(named) = self.lines.get(line).and_then(|line| line.slice(slice)) else {
                break;
            };
            if may_hold(&named) && self.known.get(id).is_none() {
                wanted.push(id);
            }
            if wanted.len() >= READ_AT_ONCE || named.key.times.is_some_and(|_| wanted.len() <= 1) {
                break;
            }
        }
        Err(Pending::Read(wanted))
    }
}
