//! WAL segments: their size, number and file name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Lsn, TimelineId};

/// The size of one WAL segment in bytes: a power of two from 1 MiB to 1 GiB, fixed when the cluster is made
/// (`initdb --wal-segsize`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct WalSegmentSize(u32);

/// A number that cannot be a WAL segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes is not a WAL segment size (a power of two from 1 MiB to 1 GiB)")]
pub struct InvalidSegmentSize(pub u64);

impl WalSegmentSize {
    /// What `initdb` chooses when it is not told: 16 MiB.
    pub const DEFAULT: WalSegmentSize = WalSegmentSize(16 << 20);

    /// In bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// The segment that holds the byte at `lsn`.
    pub fn segment_of(self, lsn: Lsn) -> SegmentNumber {
        SegmentNumber(lsn.0 / self.bytes())
    }

    /// Where `segment` begins. Saturates at the end of the number space.
    pub fn start_of(self, segment: SegmentNumber) -> Lsn {
        Lsn(segment.0.saturating_mul(self.bytes()))
    }

    /// Where `segment` ends, that is, where the next one begins.
    pub fn end_of(self, segment: SegmentNumber) -> Lsn {
        Lsn(segment.0.saturating_add(1).saturating_mul(self.bytes()))
    }

    /// The distance of `lsn` from the start of its segment, in bytes.
    pub fn offset_of(self, lsn: Lsn) -> u64 {
        lsn.0 % self.bytes()
    }

    fn segments_per_id(self) -> u64 {
        (1 << 32) / self.bytes()
    }
}

impl TryFrom<u64> for WalSegmentSize {
    type Error = InvalidSegmentSize;

    fn try_from(bytes: u64) -> Result<WalSegmentSize, InvalidSegmentSize> {
        u32::try_from(bytes)
            .ok()
            .filter(|size| size.is_power_of_two() && (1 << 20..=1 << 30).contains(size))
            .map(WalSegmentSize)
            .ok_or(InvalidSegmentSize(bytes))
    }
}

impl From<WalSegmentSize> for u64 {
    fn from(size: WalSegmentSize) -> u64 {
        size.bytes()
    }
}

/// The number of a WAL segment: its start LSN divided by the segment size (`XLogSegNo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentNumber(pub u64);

impl SegmentNumber {
    /// The segment after this one. Saturates.
    pub fn next(self) -> SegmentNumber {
        SegmentNumber(self.0.saturating_add(1))
    }
}

/// A segment of one timeline; displayed as the server's 24-digit file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The timeline in the name.
    pub timeline: TimelineId,
    /// The segment in the name.
    pub segment: SegmentNumber,
}

/// Text that is not the name of a WAL segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not the name of a WAL segment (24 hexadecimal digits)")]
pub struct ParseSegmentNameError(pub String);

impl SegmentName {
    /// The file name, as `XLogFileName` in the server's `xlog_internal.h` makes it.
    pub fn file_name(self, size: WalSegmentSize) -> String {
        let per_id = size.segments_per_id();
        format!(
            "{:08X}{:08X}{:08X}",
            self.timeline.0,
            self.segment.0 / per_id,
            self.segment.0 % per_id
        )
    }

    /// Parses a 24-digit file name.
    ///
    /// # Errors
    /// When the text is not one, or names a segment that cannot exist at this segment size.
    pub fn parse(name: &str, size: WalSegmentSize) -> Result<SegmentName, ParseSegmentNameError> {
        let part = |range: std::ops::Range<usize>| {
            let digits = name.get(range)?;
            digits
                .bytes()
                .all(|b| b.is_ascii_hexdigit())
                .then(|| u64::from_str_radix(digits, 16).ok())?
        };
        let parsed = || {
            let (timeline, id, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
            let plausible = name.len() == 24 && timeline > 0 && low < size.segments_per_id();
            plausible.then_some(SegmentName {
                timeline: TimelineId(u32::try_from(timeline).ok()?),
                segment: SegmentNumber(id * size.segments_per_id() + low),
            })
        };
        parsed().ok_or_else(|| ParseSegmentNameError(name.to_owned()))
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for WalSegmentSize {
    type Err = InvalidSegmentSize;

    fn from_str(bytes: &str) -> Result<WalSegmentSize, InvalidSegmentSize> {
        bytes
            .parse::<u64>()
            .map_err(|_| InvalidSegmentSize(0))?
            .try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_the_servers() {
        let name = SegmentName {
            timeline: TimelineId(3),
            segment: SegmentNumber(0x1_FE),
        };
        assert_eq!(
            name.file_name(WalSegmentSize::DEFAULT),
            "0000000300000001000000FE"
        );
        let small = WalSegmentSize::try_from(1 << 20).unwrap();
        assert_eq!(name.file_name(small), "0000000300000000000001FE");
    }

    #[test]
    fn impossible_names_are_refused() {
        for name in [
            "",
            "000000030000000100000100",
            "00000000000000010000000F",
            "00000003000000010000000F.partial",
        ] {
            assert!(
                SegmentName::parse(name, WalSegmentSize::DEFAULT).is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn sizes_that_initdb_refuses_are_refused() {
        for bytes in [0, 1, 512 << 10, (16 << 20) + 1, 2 << 30, u64::MAX] {
            assert_eq!(WalSegmentSize::try_from(bytes), Err(InvalidSegmentSize(bytes)));
        }
    }

    proptest! {
        #[test]
        fn file_names_round_trip(timeline in 1u32.., segment in 0u64..1 << 40, shift in 20u32..=30) {
            let size = WalSegmentSize::try_from(1u64 << shift).unwrap();
            let segment = SegmentNumber(segment % (1 << (64 - 32)) );
            let name = SegmentName { timeline: TimelineId(timeline), segment };
            prop_assert_eq!(SegmentName::parse(&name.file_name(size), size), Ok(name));
        }
    }
}
