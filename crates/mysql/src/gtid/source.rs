//! Who a MySQL GTID comes from: the uuid of a server, and a tag.
//!
//! Manual: "GTID Format and Storage"; `mysql/gtid/uuid.h`, `tag.h` and `tsid.h` under MySQL's `libs`.

use std::fmt;
use std::str::FromStr;

use super::ParseGtidError;

/// A server's uuid: 16 bytes, printed as 8-4-4-4-12 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerUuid(pub [u8; 16]);

impl ServerUuid {
    /// Where a dash stands: before the digits of these bytes.
    const DASHES: [usize; 4] = [4, 6, 8, 10];
}

impl fmt::Display for ServerUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if ServerUuid::DASHES.contains(&index) {
                "-"
            } else {
                ""
            };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ServerUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// With its dashes, in either case; as the server, also without dashes (`Uuid::parse` in MySQL's `uuid.cpp`).
impl FromStr for ServerUuid {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<ServerUuid, ParseGtidError> {
        let invalid = || ParseGtidError::new(text, "a server's uuid is 8-4-4-4-12 hexadecimal digits");
        let has_dashes = text.contains('-');
        let mut digits = text.bytes();
        let mut uuid = [0; 16];
        for (index, byte) in uuid.iter_mut().enumerate() {
            if has_dashes && ServerUuid::DASHES.contains(&index) && digits.next() != Some(b'-') {
                return Err(invalid());
            }
            let mut digit = || char::from(digits.next()?).to_digit(16);
            let value = digit().and_then(|high| Some(high << 4 | digit()?));
            *byte = value
                .and_then(|value| u8::try_from(value).ok())
                .ok_or_else(invalid)?;
        }
        if digits.next().is_some() {
            Err(invalid())
        } else {
            Ok(ServerUuid(uuid))
        }
    }
}

/// A tag: none, or up to 32 of `a-z`, `0-9` and `_`, not beginning with a digit. Upper case becomes lower case.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Box<str>);

impl Tag {
    /// The longest one (`tag_max_length`).
    pub const BYTES_MAX: usize = 32;

    /// No tag.
    pub fn none() -> Tag {
        Tag::default()
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Its text; empty when there is none.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// From the bytes of an event; `None` when they are no tag. No bytes are no tag at all.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Tag> {
        let text = std::str::from_utf8(bytes).ok()?;
        let is_canonical = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        match text {
            "" => Some(Tag::none()),
            _ if is_canonical => text.parse().ok(),
            _ => None,
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for Tag {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Tag, ParseGtidError> {
        let begins_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let is_tag = begins_well
            && text.len() <= Tag::BYTES_MAX
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if is_tag {
            Ok(Tag(text.to_ascii_lowercase().into()))
        } else {
            let problem = "a tag is up to 32 letters, digits and underscores, and begins with no digit";
            Err(ParseGtidError::new(text, problem))
        }
    }
}

/// Who numbers transactions: a server, or one tag of it. Ordered as servers print them: by uuid, then by tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId {
    /// The server.
    pub uuid: ServerUuid,
    /// The tag, if there is one.
    pub tag: Tag,
}

/// `uuid` or `uuid:tag`.
impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tag.is_none() {
            write!(f, "{}", self.uuid)
        } else {
            write!(f, "{}:{}", self.uuid, self.tag)
        }
    }
}
