//! Instants, and how people write them.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Local, NaiveDateTime, SecondsFormat, TimeZone, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::units::parse_duration;

/// An instant: microseconds since 1970-01-01 UTC, the resolution of both engines' commit times.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Microseconds from 1970-01-01 to 2000-01-01, PostgreSQL's own epoch (`POSTGRES_EPOCH_JDATE`).
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

impl Timestamp {
    /// From PostgreSQL's `TimestampTz`: microseconds since 2000-01-01 UTC. Saturates.
    pub fn from_postgres(micros: i64) -> Timestamp {
        Timestamp(micros.saturating_add(POSTGRES_EPOCH_MICROS))
    }

    /// To PostgreSQL's `TimestampTz`. Saturates.
    pub fn to_postgres(self) -> i64 {
        self.0.saturating_sub(POSTGRES_EPOCH_MICROS)
    }

    /// From a calendar time.
    pub fn from_chrono(time: DateTime<Utc>) -> Timestamp {
        Timestamp(time.timestamp_micros())
    }

    /// As a calendar time; the farthest representable one for values out of its range.
    pub fn to_chrono(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or(if self.0 < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        })
    }

    /// The time from `earlier` to here; zero when `earlier` is not earlier.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This instant moved back. Saturates.
    pub fn minus(self, duration: Duration) -> Timestamp {
        Timestamp(
            self.0
                .saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// This instant moved on. Saturates.
    pub fn plus(self, duration: Duration) -> Timestamp {
        Timestamp(
            self.0
                .saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }
}

/// RFC 3339 in UTC, with microseconds where there are any.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = if self.0 % 1_000_000 == 0 {
            SecondsFormat::Secs
        } else {
            SecondsFormat::Micros
        };
        f.write_str(&self.to_chrono().to_rfc3339_opts(format, true))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = DateTime::parse_from_rfc3339(&text).map_err(serde::de::Error::custom)?;
        Ok(Timestamp::from_chrono(time.with_timezone(&Utc)))
    }
}

/// Text that does not name an instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTimeError {
    /// A calendar time without a zone: it has two readings, and a guess could be hours off.
    #[error("\"{text}\" has no time zone: write {utc} for UTC, or {local} for this host's zone")]
    NoZone {
        /// What was given.
        text: String,
        /// The reading as UTC.
        utc: String,
        /// The reading in the zone of this host.
        local: String,
    },
    /// Neither RFC 3339 nor a relative time.
    #[error(
        "\"{0}\" is not a time (write RFC 3339 with a zone, such as 2026-11-21T14:03:00Z, or \"10 minutes ago\")"
    )]
    Nonsense(String),
}

/// Reads an instant as people write it: RFC 3339 with a zone (a space may stand for the `T`), `now`, or
/// `<duration> ago`, counted from `now`.
///
/// # Errors
/// [`ParseTimeError::NoZone`] for a calendar time without a zone, with both readings; else [`ParseTimeError::Nonsense`].
pub fn parse_time(text: &str, now: Timestamp) -> Result<Timestamp, ParseTimeError> {
    let text = text.trim();
    if text == "now" {
        return Ok(now);
    }
    if let Some(duration) = text.strip_suffix("ago") {
        let duration =
            parse_duration(duration.trim()).map_err(|_| ParseTimeError::Nonsense(text.to_owned()))?;
        return Ok(now.minus(duration));
    }
    let joined = text.replacen(' ', "T", 1).replace(' ', "");
    if let Ok(time) = DateTime::parse_from_rfc3339(&joined) {
        return Ok(Timestamp::from_chrono(time.with_timezone(&Utc)));
    }
    // PostgreSQL prints "+00" for an offset of whole hours; RFC 3339 wants the minutes too.
    if let Ok(time) = DateTime::parse_from_str(&joined, "%Y-%m-%dT%H:%M:%S%.f%#z") {
        return Ok(Timestamp::from_chrono(time.with_timezone(&Utc)));
    }
    let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(&joined, format).ok());
    match naive {
        Some(naive) => Err(ParseTimeError::NoZone {
            text: text.to_owned(),
            utc: naive.and_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true),
            local: Local.from_local_datetime(&naive).earliest().map_or_else(
                || "(no such local time)".to_owned(),
                |t| t.to_rfc3339_opts(SecondsFormat::AutoSi, false),
            ),
        }),
        None => Err(ParseTimeError::Nonsense(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_269_780_000_000);

    #[test]
    fn forms_people_write_are_understood() {
        assert_eq!(NOW.to_string(), "2026-11-21T14:03:00Z");
        for text in [
            "2026-11-21T14:03:00Z",
            "2026-11-21 14:03:00Z",
            "2026-11-21 15:03:00+01:00",
            "2026-11-21 15:03:00 +01:00",
            "2026-11-21 14:03:00+00",
            "now",
        ] {
            assert_eq!(parse_time(text, NOW), Ok(NOW), "{text}");
        }
        assert_eq!(
            parse_time("10 minutes ago", NOW),
            Ok(Timestamp(NOW.0 - 600_000_000))
        );
        assert_eq!(
            parse_time("1h 30m ago", NOW),
            Ok(Timestamp(NOW.0 - 5_400_000_000))
        );
    }

    #[test]
    fn a_time_without_a_zone_is_refused_with_both_readings() {
        let error = parse_time("2026-11-21 14:03:00", NOW).unwrap_err();
        assert!(error.to_string().contains("2026-11-21T14:03:00Z"), "{error}");
        assert!(matches!(
            parse_time("yesterday", NOW),
            Err(ParseTimeError::Nonsense(_))
        ));
    }

    #[test]
    fn postgres_epoch_round_trips() {
        assert_eq!(Timestamp::from_postgres(0).to_string(), "2000-01-01T00:00:00Z");
        assert_eq!(Timestamp::from_postgres(NOW.to_postgres()), NOW);
    }

    #[test]
    fn microseconds_survive_json() {
        let time = Timestamp(NOW.0 + 123_456);
        let json = serde_json::to_string(&time).unwrap();
        assert_eq!(json, "\"2026-11-21T14:03:00.123456Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), time);
    }
}
