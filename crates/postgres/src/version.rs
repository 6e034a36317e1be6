//! The server's version.

use std::fmt;

/// A server version as one number, as the server itself does it: 170011 for 17.11 (`server_version_num`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    /// The oldest version we speak to: `READ_REPLICATION_SLOT` and others are worked around, `wal_status` is not.
    pub const OLDEST: ServerVersion = ServerVersion(130_000);

    /// The major version: 17 for 17.11.
    pub fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// From the text of the `server_version` parameter: `17.11 (Debian 17.11-1)`, `18beta2`, `15.18`.
    pub fn parse(text: &str) -> Option<ServerVersion> {
        let number = |text: &str| {
            let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            text.get(..end).and_then(|digits| digits.parse::<u32>().ok())
        };
        let major = number(text)?;
        let minor = text
            .split_once('.')
            .and_then(|(_, rest)| number(rest))
            .unwrap_or(0);
        let value = major.checked_mul(10_000)?.checked_add(minor.min(9_999))?;
        Some(ServerVersion(value))
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.0 % 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_that_servers_send() {
        for (text, number) in [
            ("17.11 (Debian 17.11-0+deb13u1)", Some(170_011)),
            ("15.18", Some(150_018)),
            ("18beta2", Some(180_000)),
            ("19devel", Some(190_000)),
            ("", None),
            ("devel", None),
            ("99999999999", None),
        ] {
            assert_eq!(
                ServerVersion::parse(text).map(|version| version.0),
                number,
                "{text:?}"
            );
        }
        assert_eq!(ServerVersion(170_011).to_string(), "17.11");
    }
}
