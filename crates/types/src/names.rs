//! What the user calls a server, and which identity of it is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The user's name for a server: 1 to 64 characters from `a-z A-Z 0-9 _ . -`, beginning with a letter or digit, so
/// that it is one plain part of an object key, a slot name's suffix and a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerName(String);

/// Text that cannot name a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" cannot name a server (1 to 64 letters, digits, \"_\", \".\" or \"-\", beginning with a letter or digit)"
)]
pub struct InvalidServerName(pub String);

impl ServerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerName {
    type Err = InvalidServerName;

    fn from_str(text: &str) -> Result<ServerName, InvalidServerName> {
        let plain = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        let begins_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if plain && begins_well && text.len() <= 64 {
            Ok(ServerName(text.to_owned()))
        } else {
            Err(InvalidServerName(text.to_owned()))
        }
    }
}

impl TryFrom<String> for ServerName {
    type Error = InvalidServerName;

    fn try_from(text: String) -> Result<ServerName, InvalidServerName> {
        text.parse()
    }
}

impl From<ServerName> for String {
    fn from(name: ServerName) -> String {
        name.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One identity of a server under its name, counted from 1: a new one begins when another cluster takes the name over
/// (`tidemark-agent adopt`). Older ones stay restorable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_break_a_key_are_refused() {
        for name in ["", ".", "..", "-a", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert_eq!(
                name.parse::<ServerName>(),
                Err(InvalidServerName(name.to_owned()))
            );
        }
        assert_eq!(
            "shop-eu_1.main".parse::<ServerName>().unwrap().as_str(),
            "shop-eu_1.main"
        );
    }
}
