//! Names of objects.

use std::fmt;

/// The name of an object below a repository's root: one or more parts joined by `/`, each of 1 to 255 characters from
/// `a-z A-Z 0-9 . _ - + =`, none of them `.` or `..`. Such a name is the same on every store, in a URL and as a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

/// Longest key in bytes: S3 allows 1024, less room for the repository's own prefix.
pub(crate) const LENGTH_MAX: usize = 900;

/// Whether this can be one part of a key.
pub(crate) fn is_part(part: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"._-+=".contains(b);
    (1..=255).contains(&part.len()) && part != b"." && part != b".." && part.iter().all(plain)
}

/// Text that cannot name an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" cannot name an object")]
pub struct InvalidKey(pub String);

impl ObjectKey {
    /// Takes a name in.
    ///
    /// # Errors
    /// When it breaks the rules of the type.
    pub fn new(name: impl Into<String>) -> Result<ObjectKey, InvalidKey> {
        let name = name.into();
        if name.len() <= LENGTH_MAX && name.split('/').all(|part| is_part(part.as_bytes())) {
            Ok(ObjectKey(name))
        } else {
            Err(InvalidKey(name))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_escape_or_collide_are_refused() {
        for name in [
            "", "/", "a/", "/a", "a//b", "a/../b", ".", "a b", "ä", "a\0", "a?b",
        ] {
            assert_eq!(ObjectKey::new(name), Err(InvalidKey(name.to_owned())));
        }
        assert_eq!(
            ObjectKey::new("servers/shop/0001/x.zst").unwrap().file_name(),
            "x.zst"
        );
    }
}
