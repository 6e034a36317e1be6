//! Sizes and durations as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

/// Text that is not a size or a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a {expected}")]
pub struct ParseUnitError {
    /// What was given.
    pub text: String,
    /// What was expected, with an example.
    pub expected: &'static str,
}

/// A number of bytes; written `64MiB`, `10 GB`, `512`, displayed with a binary unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: [(&str, u64); 12] = [
    ("", 1),
    ("b", 1),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("k", 1 << 10),
    ("m", 1 << 20),
];

impl FromStr for ByteSize {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<ByteSize, ParseUnitError> {
        let parsed = || {
            let trimmed = text.trim();
            let split = trimmed
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(trimmed.len());
            let (digits, unit) = trimmed.split_at(split);
            let unit = unit.trim().to_ascii_lowercase();
            let factor = match unit.as_str() {
                "g" => 1 << 30,
                "t" => 1 << 40,
                _ => SIZE_UNITS.iter().find(|(name, _)| *name == unit)?.1,
            };
            digits.parse::<u64>().ok()?.checked_mul(factor)
        };
        parsed().map(ByteSize).ok_or_else(|| ParseUnitError {
            text: text.to_owned(),
            expected: "size such as \"64MiB\"",
        })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        for unit in ["B", "KiB", "MiB", "GiB"] {
            if value < 1024.0 {
                let digits = usize::from(unit != "B" && value < 100.0);
                return write!(f, "{value:.digits$} {unit}");
            }
            value /= 1024.0;
        }
        write!(f, "{value:.1} TiB")
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(u64),
            Text(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Number(bytes) => Ok(ByteSize(bytes)),
            Raw::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// Reads a duration: one or more numbers with a unit (`90s`, `1h 30m`, `10 minutes`, `2 days`, `500ms`).
///
/// # Errors
/// When the text is empty, a number has no unit, or the sum does not fit.
pub fn parse_duration(text: &str) -> Result<Duration, ParseUnitError> {
    let fail = || ParseUnitError {
        text: text.to_owned(),
        expected: "duration such as \"5s\" or \"1h 30m\"",
    };
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(fail());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(fail)?;
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let unit_end = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let millis: u64 = match unit.to_ascii_lowercase().as_str() {
            "ms" | "millisecond" | "milliseconds" => 1,
            "s" | "sec" | "secs" | "second" | "seconds" => 1000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            "w" | "week" | "weeks" => 604_800_000,
            _ => return Err(fail()),
        };
        let number: u64 = number.parse().map_err(|_| fail())?;
        let part = Duration::from_millis(number.checked_mul(millis).ok_or_else(fail)?);
        total = total.checked_add(part).ok_or_else(fail)?;
        rest = after.trim_start();
    }
    Ok(total)
}

/// A duration for people: the two greatest units that matter (`2h 5m`, `3.2 s`, `450 ms`).
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..=59 => format!("{:.1} s", duration.as_secs_f64()),
        60..=3599 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_understood() {
        for (text, bytes) in [
            ("512", 512),
            ("64MiB", 64 << 20),
            ("10 GB", 10_000_000_000),
            ("1g", 1 << 30),
            ("2k", 2048),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "1.5GB", "-1", "10 parsecs", "99999999999 TB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!(ByteSize(16 << 20).to_string(), "16.0 MiB");
        assert_eq!(ByteSize(999).to_string(), "999 B");
    }

    #[test]
    fn durations_are_understood() {
        for (text, seconds) in [
            ("5s", 5),
            ("1h 30m", 5400),
            ("10 minutes", 600),
            ("2 days", 172_800),
            ("1w", 604_800),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "1.5h",
            "5 fortnights",
            "99999999999999999999s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(format_duration(Duration::from_millis(450)), "450 ms");
        assert_eq!(format_duration(Duration::from_secs(7500)), "2h 5m");
    }
}
