//! How one value of each kind is read. Each function returns what was expected and what was found when it cannot.

use std::path::PathBuf;
use std::time::Duration;

use tidemark_types::{ByteSize, parse_duration};

use super::raw::Scalar;

/// What a value turned out to be, or what is wrong with it.
pub type Parsed<T> = Result<T, String>;

/// A share in percent, from 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// The share as a fraction of one.
    pub fn fraction(self) -> f64 {
        self.0 / 100.0
    }

    pub(super) const fn of(percent: f64) -> Percent {
        Percent(percent)
    }
}

fn expected<T>(what: &str, found: &Scalar) -> Parsed<T> {
    Err(format!("expected {what}, found {found}"))
}

/// Any text that is not empty.
pub fn text(value: &Scalar) -> Parsed<String> {
    match value {
        Scalar::Text(text) if !text.trim().is_empty() => Ok(text.clone()),
        _ => expected("a text that is not empty", value),
    }
}

/// Text that the type itself knows how to read; its error says what was expected.
pub fn parsed<T>(value: &Scalar) -> Parsed<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text(value)?.parse().map_err(|error: T::Err| error.to_string())
}

/// `true` or `false`.
pub fn flag(value: &Scalar) -> Parsed<bool> {
    match value {
        Scalar::Bool(flag) => Ok(*flag),
        _ => expected("true or false", value),
    }
}

/// A duration longer than nothing and not longer than `most`.
pub fn duration(value: &Scalar, least: Duration, most: Duration) -> Parsed<Duration> {
    const WHAT: &str = "a duration such as \"5s\" or \"1h 30m\"";
    let Scalar::Text(written) = value else {
        return expected(WHAT, value);
    };
    let Ok(duration) = parse_duration(written) else {
        return expected(WHAT, value);
    };
    if duration < least || duration > most {
        let (least, most) = (short(least), short(most));
        return expected(&format!("a duration from {least} to {most}"), value);
    }
    Ok(duration)
}

/// A duration in the greatest unit that measures it wholly, as one would write it in the file.
pub fn short(duration: Duration) -> String {
    const UNITS: [(u128, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let millis = duration.as_millis();
    let fits = UNITS
        .iter()
        .find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit));
    fits.map_or_else(
        || format!("{millis}ms"),
        |(unit, name)| format!("{}{name}", millis / unit),
    )
}

/// A size of at least `least`.
pub fn size(value: &Scalar, least: ByteSize) -> Parsed<ByteSize> {
    const WHAT: &str = "a size such as \"64GiB\"";
    let Scalar::Text(written) = value else {
        return expected(WHAT, value);
    };
    match written.parse::<ByteSize>() {
        Ok(size) if size < least => expected(&format!("at least {least}"), value),
        Ok(size) => Ok(size),
        Err(_) => expected(WHAT, value),
    }
}

/// A whole number within `range`.
pub fn number(value: &Scalar, range: std::ops::RangeInclusive<u16>) -> Parsed<u16> {
    let found = match value {
        Scalar::Integer(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    match found.filter(|number| range.contains(number)) {
        Some(number) => Ok(number),
        None => expected(
            &format!("a whole number from {} to {}", range.start(), range.end()),
            value,
        ),
    }
}

/// The number of a replica: 1 to 4294967295.
pub fn server_id(value: &Scalar) -> Parsed<u32> {
    let number = match value {
        Scalar::Integer(number) => u32::try_from(*number).ok(),
        _ => None,
    };
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("expected a number from 1 to 4294967295, found {value}"))
}

/// A percentage, written `"1%"`.
pub fn percent(value: &Scalar) -> Parsed<Percent> {
    let found = match value {
        Scalar::Text(text) => text
            .strip_suffix('%')
            .and_then(|number| number.trim().parse::<f64>().ok()),
        _ => None,
    };
    match found.filter(|percent| (0.0..=100.0).contains(percent)) {
        Some(percent) => Ok(Percent(percent)),
        None => expected("a percentage from \"0%\" to \"100%\"", value),
    }
}

/// An absolute path: the agent's working directory is nobody's business.
pub fn absolute_path(value: &Scalar) -> Parsed<PathBuf> {
    match value {
        Scalar::Text(text) if text.starts_with('/') => Ok(PathBuf::from(text)),
        _ => expected("an absolute path", value),
    }
}

/// `HOST:PORT`, the host a name or an address.
pub fn listen_address(value: &Scalar) -> Parsed<String> {
    const WHAT: &str = "a host and a port such as \"127.0.0.1:9610\"";
    let Scalar::Text(text) = value else {
        return expected(WHAT, value);
    };
    let well_formed = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if well_formed {
        Ok(text.clone())
    } else {
        expected(WHAT, value)
    }
}

/// A slot name by PostgreSQL's own rule (`ReplicationSlotValidateName` in `slot.c`).
pub fn slot_name(value: &Scalar) -> Parsed<String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    match value {
        Scalar::Text(text) if (1..=63).contains(&text.len()) && text.bytes().all(allowed) => Ok(text.clone()),
        _ => expected(
            "a slot name: 1 to 63 lower-case letters, digits or underscores",
            value,
        ),
    }
}

/// A name that PostgreSQL keeps as it is: printable ASCII, shorter than `NAMEDATALEN` (others it cuts and replaces, and
/// then `synchronous_standby_names` matches nothing).
pub fn application_name(value: &Scalar) -> Parsed<String> {
    let printable = |b: u8| (b' '..=b'~').contains(&b);
    match value {
        Scalar::Text(text) if (1..=63).contains(&text.len()) && text.bytes().all(printable) => {
            Ok(text.clone())
        }
        _ => expected("1 to 63 printable ASCII characters", value),
    }
}
