//! Intervals of transaction numbers, and sorted lists of them.

use std::fmt;
use std::str::FromStr;

use super::ParseGtidError;

/// Transaction numbers from `begin` on, before `end`. Never empty, and within 1 to [`Interval::NUMBER_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval {
    begin: u64,
    end: u64,
}

impl Interval {
    /// The greatest number of a transaction (`GNO_END` in MySQL's `control_events.h`, which is 2^63 - 1, is one more).
    pub const NUMBER_MAX: u64 = i64::MAX.cast_unsigned() - 1;

    /// `begin` up to but not including `end`; `None` when that is empty or out of range.
    pub fn new(begin: u64, end: u64) -> Option<Interval> {
        (1 <= begin && begin < end && end <= Interval::NUMBER_MAX + 1).then_some(Interval { begin, end })
    }

    /// One number; `None` when it is out of range.
    pub fn of(number: u64) -> Option<Interval> {
        Interval::new(number, number.checked_add(1)?)
    }

    /// The first number.
    pub fn begin(self) -> u64 {
        self.begin
    }

    /// The number behind the last.
    pub fn end(self) -> u64 {
        self.end
    }

    /// How many numbers.
    pub fn count(self) -> u64 {
        self.end - self.begin
    }
}

/// `first` or `first-last`, as the server prints it.
impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.begin)?;
        if self.count() > 1 {
            write!(f, "-{}", self.end - 1)?;
        }
        Ok(())
    }
}

impl FromStr for Interval {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Interval, ParseGtidError> {
        let invalid = || {
            ParseGtidError::new(
                text,
                "an interval is N or N-M, from 1 to 9223372036854775806, N at most M",
            )
        };
        let number = |text: &str| {
            let text = text.trim();
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse::<u64>().ok()).flatten()
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (
            number(first).ok_or_else(invalid)?,
            number(last).ok_or_else(invalid)?,
        );
        last.checked_add(1)
            .and_then(|end| Interval::new(first, end))
            .ok_or_else(invalid)
    }
}

/// Intervals in ascending order that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Intervals(Vec<Interval>);

impl Intervals {
    pub(super) fn iter(&self) -> impl Iterator<Item = Interval> + '_ {
        self.0.iter().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an interval. At the end, where a log's transactions go, this takes no time.
    pub(super) fn add(&mut self, added: Interval) {
        // Those that overlap or touch the added one are replaced by one that spans them all.
        let from = self.0.partition_point(|interval| interval.end < added.begin);
        let to = self.0.partition_point(|interval| interval.begin <= added.end);
        let spanned = self.0.get(from..to).unwrap_or_default();
        let begin = spanned
            .first()
            .map_or(added.begin, |first| first.begin.min(added.begin));
        let end = spanned.last().map_or(added.end, |last| last.end.max(added.end));
        drop(self.0.splice(from..to, [Interval { begin, end }]));
    }

    pub(super) fn contains(&self, wanted: Interval) -> bool {
        let at = self.0.partition_point(|interval| interval.end < wanted.end);
        self.0
            .get(at)
            .is_some_and(|interval| interval.begin <= wanted.begin)
    }

    /// What of `self` is not in `other`.
    pub(super) fn minus(&self, other: &Intervals) -> Intervals {
        let mut left = Vec::new();
        let mut others = other.0.iter().peekable();
        for interval in &self.0 {
            let mut begin = interval.begin;
            while others.next_if(|cut| cut.end <= begin).is_some() {}
            for cut in others.clone().take_while(|cut| cut.begin < interval.end) {
                left.extend(Interval::new(begin, cut.begin));
                begin = begin.max(cut.end);
            }
            left.extend(Interval::new(begin, interval.end));
        }
        Intervals(left)
    }
}
