//! Targets that name a place in the log: a position, a transaction, a restore point. Pure, as [`super::resolve`] is.

use tidemark_repository::log::SliceFlags;
use tidemark_types::{LogFiles, Position};

use super::facts::{Ending, EndingKind, RestorePoint, SliceId, TransactionId};
use super::line::{Line, LineSlice};
use super::resolve::{Ambiguity, Pending, READ_AT_ONCE, Search, Stop, Unreachable};
use super::target::{Pick, Request, Target, position_option};

impl Search<'_> {
    /// The transactions up to a position. In WAL the record that begins right there belongs in, unless exclusive. In
    /// binlogs, whose readers think in ends of events, the transaction that ends right there does.
    pub(super) fn position(&self, request: &Request) -> Result<Stop, Pending> {
        let (number, position) = self.one_place(request)?;
        let Some(line) = self.lines.get(number) else {
            return Err(self.not_stored(request));
        };
        match position.files {
            LogFiles::Wal(_) => self.record_at(number, line, position, request),
            LogFiles::Binlog { .. } if request.exclusive => {
                let bound = position.back(1);
                Ok(Stop::after(number, self.last_before(number, bound)?, bound))
            }
            LogFiles::Binlog { .. } => {
                let last_in = self.last_before(number, position)?;
                Ok(Stop::after(number, last_in, position))
            }
        }
    }

    /// The line and the position that are meant: several branches may have binlog files of one name.
    fn one_place(&self, request: &Request) -> Result<(usize, Position), Pending> {
        let mut places = Vec::new();
        for (number, line) in self.lines.iter().enumerate() {
            for stretch in line.stretches() {
                let position = request.target.position_on(stretch.begin.files);
                let stored = position.filter(|position| stretch.holds(*position));
                places.extend(stored.map(|position| (number, stretch.branch, position)));
            }
        }
        // Where one timeline was left for another, both have the point.
        places.dedup_by_key(|(.., position)| *position);
        match (places.first(), places.last(), request.pick) {
            (None, ..) | (_, None, _) => Err(self.not_stored(request)),
            (Some(&(number, _, first)), Some(&(.., last)), pick)
                if first == last || pick == Some(Pick::First) || matches!(first.files, LogFiles::Wal(_)) =>
            {
                Ok((number, first))
            }
            (_, Some(&(number, _, last)), Some(_)) => Ok((number, last)),
            (Some(&(_, one, first)), Some(&(_, other, last)), None) => {
                Err(Pending::Ambiguous(Box::new(Ambiguity {
                    reason: format!(
                        "branches {one} and {other} both have a file of that name (--branch takes one)"
                    ),
                    first: (first, None),
                    last: (last, None),
                })))
            }
        }
    }

    fn not_stored(&self, request: &Request) -> Pending {
        Unreachable::pending(
            format!("it is not stored{}", self.gap_around(&request.target)),
            self.nearest_positions(&request.target),
        )
    }

    fn record_at(
        &self,
        number: usize,
        line: &Line<'_>,
        lsn: Position,
        request: &Request,
    ) -> Result<Stop, Pending> {
        let whole = line.whole();
        if lsn > whole {
            return Err(Unreachable::pending(
                format!("the record at LSN {lsn} is not stored whole: the last whole one ends at {whole}"),
                self.nearest_positions(&request.target),
            ));
        }
        let bound = if request.exclusive { lsn } else { lsn.next_byte() };
        let from = self.slice_past(number, line, lsn)?;
        let last_in = self.last_where(number, from, LineSlice::may_end_or_prepare, |ending| {
            ending.begin < bound
        })?;
        Ok(Stop::after(number, last_in, lsn))
    }

    /// The number of the slice in which the record at `lsn` ends: it may have begun much earlier.
    fn slice_past(&self, number: usize, line: &Line<'_>, lsn: Position) -> Result<usize, Pending> {
        let mut slice = line.slice_before(lsn).unwrap_or(0);
        let last = line.slice_count().saturating_sub(1);
        while slice < last
            && self
                .read(number, slice)?
                .last
                .is_none_or(|record| record.end <= lsn)
        {
            slice += 1;
        }
        Ok(slice)
    }

    fn gap_around(&self, target: &Target) -> String {
        let is_before = |end: Position| target.position_on(end.files).is_some_and(|at| end < at);
        let is_after = |begin: Position| target.position_on(begin.files).is_some_and(|at| at < begin);
        let before = self.lines.iter().map(Line::end).rfind(|end| is_before(*end));
        let after = self.lines.iter().map(Line::begin).find(|begin| is_after(*begin));
        match (before, after) {
            (Some(before), Some(after)) => format!(": it lies in a gap from {before} to {after}"),
            (Some(before), None) => format!(": what is stored ends at {before}"),
            (None, Some(after)) => format!(": what is stored begins at {after}"),
            (None, None) => String::new(),
        }
    }

    fn nearest_positions(&self, target: &Target) -> Vec<String> {
        let is_before = |end: &Position| target.position_on(end.files).is_some_and(|at| *end < at);
        let before = self.lines.iter().map(Line::whole).rfind(is_before);
        before.map(position_option).into_iter().collect()
    }

    /// The end of a transaction. Xids are used again: the last in the log is meant. A GTID is in the log of one server
    /// once, and again in that of another that had replicated it and took over: the first is where it happened.
    pub(super) fn transaction(&self, wanted: &TransactionId, exclusive: bool) -> Result<Stop, Pending> {
        let is_xid = matches!(wanted, TransactionId::Xid(_));
        let ends_it = |ending: &Ending| ending.is_wanted && !(is_xid && ending.kind == EndingKind::Prepare);
        for (number, line) in self.lines.iter().enumerate().rev() {
            let mut found = None;
            let mut slices = line.slice_count();
            while let Some(from) = slices.checked_sub(1) {
                let Some(earlier) = self.last_where(number, from, LineSlice::may_end_or_prepare, ends_it)?
                else {
                    break;
                };
                slices = if is_xid {
                    0
                } else {
                    line.slices_before_branch(earlier.end)
                };
                found = Some(earlier);
            }
            let Some(found) = found else { continue };
            let (bound, last_in) = if exclusive {
                (found.begin, self.last_before(number, found.begin)?)
            } else {
                (found.end, Some(found))
            };
            return Ok(Stop::after(number, last_in, bound));
        }
        let why = if is_xid {
            format!(
                "no commit or abort of transaction {wanted} is stored (it may be running, prepared, or older than the log)"
            )
        } else {
            format!("transaction {wanted} is not stored (it may be older than the log)")
        };
        Err(Unreachable::pending(why, vec!["--target-latest".to_owned()]))
    }

    /// The state before a restore point.
    pub(super) fn name(&self, name: &str, pick: Option<Pick>) -> Result<Stop, Pending> {
        let found = self.points(name)?;
        let (first, last) = match (found.first(), found.last()) {
            (Some(first), Some(last)) => (first, last),
            _ => {
                return Err(Unreachable::pending(
                    format!("no restore point \"{name}\" is stored"),
                    vec!["--target-latest".to_owned()],
                ));
            }
        };
        let (line, point) = match pick {
            Some(Pick::Last) => last,
            Some(Pick::First) => first,
            None if found.len() == 1 => first,
            None => {
                return Err(Pending::Ambiguous(Box::new(Ambiguity {
                    reason: format!("{} restore points are called \"{name}\"", found.len()),
                    first: (first.1.begin, Some(first.1.time)),
                    last: (last.1.begin, Some(last.1.time)),
                })));
            }
        };
        let last_in = self.last_before(*line, point.begin)?;
        Ok(Stop::after(*line, last_in, point.begin))
    }

    fn points(&self, name: &str) -> Result<Vec<(usize, RestorePoint)>, Pending> {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for (line, slice, named) in self.numbered() {
            let flags = named.key.flags;
            if !flags.has(SliceFlags::RESTORE_POINT) && !flags.has(SliceFlags::UNINDEXED) {
                continue;
            }
            match self.known.get(SliceId { line, slice }) {
                Some(facts) => {
                    let same = facts.points.iter().filter(|point| point.name == name);
                    found.extend(same.map(|point| (line, point.clone())));
                }
                None if missing.len() < READ_AT_ONCE => missing.push(SliceId { line, slice }),
                None => break,
            }
        }
        if missing.is_empty() {
            Ok(found)
        } else {
            Err(Pending::Read(missing))
        }
    }
}
