//! A slice's name: everything that planning must know of it without reading it.

use std::fmt;
use std::str::FromStr;

use tidemark_types::Timestamp;

use super::{ChainHash, GRAIN_LEN, LogPosition};

/// Least and greatest commit time of some records. Abort records count too: a target may lie between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    /// Least.
    pub min: Timestamp,
    /// Greatest.
    pub max: Timestamp,
}

impl TimeRange {
    /// The range that holds one time.
    pub fn at(time: Timestamp) -> TimeRange {
        TimeRange { min: time, max: time }
    }

    /// The smallest range that holds both.
    pub fn union(a: Option<TimeRange>, b: Option<TimeRange>) -> Option<TimeRange> {
        match (a, b) {
            (Some(a), Some(b)) => Some(TimeRange {
                min: a.min.min(b.min),
                max: a.max.max(b.max),
            }),
            (one, other) => one.or(other),
        }
    }
}

/// What a slice holds beside data; a letter each in its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SliceFlags(u8);

impl SliceFlags {
    /// A restore point ends in it.
    pub const RESTORE_POINT: SliceFlags = SliceFlags(1);
    /// Statements that define or drop relations.
    pub const DDL: SliceFlags = SliceFlags(2);
    /// A commit time more than a second before an earlier one: the clock was set back.
    pub const TIME_WENT_BACK: SliceFlags = SliceFlags(4);
    /// Bytes that the parser could not read: times and facts may be missing.
    pub const UNINDEXED: SliceFlags = SliceFlags(8);
    /// The log file ends with it.
    pub const ENDS_FILE: SliceFlags = SliceFlags(16);

    /// A transaction was prepared for two-phase commit.
    pub const PREPARE: SliceFlags = SliceFlags(32);

    const LETTERS: [(SliceFlags, char); 6] = [
        (SliceFlags::RESTORE_POINT, 'r'),
        (SliceFlags::DDL, 'd'),
        (SliceFlags::TIME_WENT_BACK, 'b'),
        (SliceFlags::UNINDEXED, 'u'),
        (SliceFlags::ENDS_FILE, 'e'),
        (SliceFlags::PREPARE, 'p'),
    ];

    /// Whether all of `flags` are set.
    pub fn has(self, flags: SliceFlags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Both together.
    #[must_use]
    pub fn with(self, flags: SliceFlags) -> SliceFlags {
        SliceFlags(self.0 | flags.0)
    }

    fn parse(text: &str) -> Option<SliceFlags> {
        if text == "n" {
            return Some(SliceFlags::default());
        }
        let mut flags = SliceFlags::default();
        for letter in text.chars() {
            flags = flags.with(SliceFlags::LETTERS.iter().find(|(_, known)| *known == letter)?.0);
        }
        (!text.is_empty()).then_some(flags)
    }
}

impl fmt::Display for SliceFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("n");
        }
        SliceFlags::LETTERS
            .iter()
            .filter(|(flag, _)| self.has(*flag))
            .try_for_each(|(_, letter)| write!(f, "{letter}"))
    }
}

/// What is known of a slice from its key: the bytes `[begin, end)` of one log file, the chain's hash at both ends, how
/// far whole records reach, and when the transactions in it were committed.
///
/// Text form, the last part of its key:
/// `<file>-<begin>-<end>-<hash at begin>-<hash at end>-<back>-<min time>-<max time>-<flags>.zst`, with `file` in 16
/// hexadecimal digits, offsets in 10, hashes in 16, `back` in as many as it needs, times as microseconds since 1970 in
/// 16 (`x` for both when no commit or abort record ends in it), and flags as letters (`n`: none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceKey {
    /// The log file.
    pub file: u64,
    /// First byte.
    pub begin: u64,
    /// First byte that is no longer in it.
    pub end: u64,
    /// Chain hash at `begin`.
    pub begin_hash: ChainHash,
    /// Chain hash at `end`.
    pub end_hash: ChainHash,
    /// Bytes before `end` that belong to a record that is not whole there: the last whole record, wherever it began,
    /// ends this far back. May reach into earlier files.
    pub back: u64,
    /// Times of the commit and abort records that end in it.
    pub times: Option<TimeRange>,
    /// What else it holds.
    pub flags: SliceFlags,
}

/// A name that no slice has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not the name of a slice")]
pub struct ParseSliceKeyError(pub String);

/// Extension of every slice: `zstd -d` reads it.
const EXTENSION: &str = ".zst";

impl SliceKey {
    /// Where it begins.
    pub fn begin_position(&self) -> LogPosition {
        LogPosition {
            file: self.file,
            offset: self.begin,
        }
    }

    /// Where it ends: the begin of the next file when this one ends with it.
    pub fn end_position(&self) -> LogPosition {
        if self.flags.has(SliceFlags::ENDS_FILE) {
            LogPosition::start_of(self.file.saturating_add(1))
        } else {
            LogPosition {
                file: self.file,
                offset: self.end,
            }
        }
    }

    /// The flags that tell of records in it, without the one that tells of its place in the file.
    pub fn facts_flags(&self) -> SliceFlags {
        SliceFlags(self.flags.0 & !SliceFlags::ENDS_FILE.0)
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.begin
    }

    /// Whether it holds nothing: only one that tells that its file ends at a grain's border does.
    pub fn is_empty(&self) -> bool {
        self.end == self.begin
    }

    /// The least name of any slice of `file` or a later one: where a listing starts.
    pub fn first_name(file: u64) -> String {
        format!("{file:016X}")
    }
}

impl fmt::Display for SliceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}-{:010X}-{:010X}-", self.file, self.begin, self.end)?;
        write!(f, "{}-{}-{:X}-", self.begin_hash, self.end_hash, self.back)?;
        match self.times {
            Some(times) => write!(f, "{:016x}-{:016x}-", times.min.0, times.max.0)?,
            None => f.write_str("x-x-")?,
        }
        write!(f, "{}{EXTENSION}", self.flags)
    }
}

impl FromStr for SliceKey {
    type Err = ParseSliceKeyError;

    fn from_str(name: &str) -> Result<SliceKey, ParseSliceKeyError> {
        parse(name).ok_or_else(|| ParseSliceKeyError(name.to_owned()))
    }
}

fn parse(name: &str) -> Option<SliceKey> {
    let mut parts = name.strip_suffix(EXTENSION)?.split('-');
    let mut number = |digits: Option<usize>| {
        let part = parts.next()?;
        let plain =
            part.bytes().all(|b| b.is_ascii_hexdigit()) && digits.is_none_or(|digits| part.len() == digits);
        plain.then(|| u64::from_str_radix(part, 16).ok()).flatten()
    };
    let (file, begin, end) = (number(Some(16))?, number(Some(10))?, number(Some(10))?);
    let begin_hash = ChainHash(number(Some(16))?.to_be_bytes());
    let end_hash = ChainHash(number(Some(16))?.to_be_bytes());
    let back = number(None)?;
    let mut time = || {
        let part = parts.next()?;
        if part == "x" {
            return Some(None);
        }
        let plain = part.len() == 16 && part.bytes().all(|b| b.is_ascii_hexdigit());
        plain
            .then(|| u64::from_str_radix(part, 16).ok())?
            .map(|bits| Some(Timestamp(bits as i64)))
    };
    let times = match (time()?, time()?) {
        (Some(min), Some(max)) if min <= max => Some(TimeRange { min, max }),
        (None, None) => None,
        _ => return None,
    };
    let flags = SliceFlags::parse(parts.next()?)?;
    let closes_at_border =
        begin == end && begin > 0 && begin % GRAIN_LEN == 0 && flags.has(SliceFlags::ENDS_FILE);
    (parts.next().is_none() && (begin < end || closes_at_border)).then_some(SliceKey {
        file,
        begin,
        end,
        begin_hash,
        end_hash,
        back,
        times,
        flags,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_form_is_the_documented_one() {
        let slice = SliceKey {
            file: 0x2A,
            begin: 0x100,
            end: 0x0100_0000,
            begin_hash: ChainHash([0, 1, 2, 3, 4, 5, 6, 7]),
            end_hash: ChainHash([0xff; 8]),
            back: 0x1c,
            times: Some(TimeRange {
                min: Timestamp(1),
                max: Timestamp(0x10),
            }),
            flags: SliceFlags::RESTORE_POINT.with(SliceFlags::ENDS_FILE),
        };
        let name = "000000000000002A-0000000100-0001000000-0001020304050607-ffffffffffffffff-1C-\
                    0000000000000001-0000000000000010-re.zst";
        assert_eq!(slice.to_string(), name);
        assert_eq!(name.parse(), Ok(slice));
        assert_eq!(slice.end_position(), LogPosition::start_of(0x2B));
        // A file that turns out to have ended with its last complete grain.
        let name = "000000000000002A-0001000000-0001000000-0001020304050607-0001020304050607-0-x-x-e.zst";
        let closing: SliceKey = name.parse().unwrap();
        assert_eq!(
            (closing.len(), closing.end_position()),
            (0, LogPosition::start_of(0x2B))
        );
        assert_eq!(closing.to_string(), name);
    }

    #[test]
    fn names_of_other_things_are_refused() {
        for name in [
            "",
            ".zst",
            "000000000000002A-0000000100-0000000100-0000000000000000-0000000000000000-0-x-x-e.zst",
            "000000000000002A-0001000000-0001000000-0000000000000000-0000000000000000-0-x-x-n.zst",
            "000000000000002A-0000000000-0000000000-0000000000000000-0000000000000000-0-x-x-e.zst",
            "00000002.history.zst",
        ] {
            assert!(name.parse::<SliceKey>().is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn names_round_trip_and_sort_like_positions(
            a: (u64, u32, u64, u64, u64), times: Option<(i64, i64)>, flags in 0u8..64, b: (u64, u32),
        ) {
            let slice = |file: u64, begin: u32| SliceKey {
                file,
                begin: begin.into(),
                end: u64::from(begin) + 1 + a.2 % 1000,
                begin_hash: ChainHash(a.3.to_be_bytes()),
                end_hash: ChainHash(a.4.to_be_bytes()),
                back: a.2,
                times: times.map(|(x, y)| TimeRange { min: Timestamp(x.min(y)), max: Timestamp(x.max(y)) }),
                flags: SliceFlags(flags),
            };
            let (first, second) = (slice(a.0, a.1), slice(b.0, b.1));
            prop_assert_eq!(first.to_string().parse(), Ok(first));
            if first.begin_position() != second.begin_position() {
                let by_name = first.to_string().cmp(&second.to_string());
                prop_assert_eq!(by_name, first.begin_position().cmp(&second.begin_position()));
            }
        }

        #[test]
        fn arbitrary_names_never_panic(name in "[0-9a-fxA-F-]{0,120}(\\.zst)?") {
            let _ = name.parse::<SliceKey>();
        }
    }
}
