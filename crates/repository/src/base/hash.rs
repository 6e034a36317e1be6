//! Keyed hashes of pages and frames.

use std::fmt;

/// The server's 32 random bytes that every hash of its base backups is keyed with. It lies in the repository in
/// clear: it separates servers, it hides nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 32]);

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

/// Bytes of one stored page hash.
pub const PAGE_HASH_LEN: usize = 8;

/// The first eight bytes of the keyed BLAKE3 hash of one page: equal pages have equal hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageHash(pub [u8; PAGE_HASH_LEN]);

impl PageHash {
    /// Hashes one page.
    pub fn of(key: &HashKey, page: &[u8]) -> PageHash {
        PageHash(first_bytes(&blake3::keyed_hash(&key.0, page)))
    }
}

/// Sixteen bytes of a keyed BLAKE3 hash over everything a frame stores and what it decodes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seal(pub [u8; Seal::LEN]);

impl Seal {
    /// Its length in bytes.
    pub const LEN: usize = 16;

    /// Hashes `parts` one after the other.
    pub(super) fn of(key: &HashKey, parts: &[&[u8]]) -> Seal {
        let mut hasher = blake3::Hasher::new_keyed(&key.0);
        for part in parts {
            hasher.update(part);
        }
        Seal(first_bytes(&hasher.finalize()))
    }

    /// The half that maps keep, to know the frame they mean from every other.
    pub(super) fn mark(&self) -> FrameMark {
        let Seal([a, b, c, d, e, f, g, h, ..]) = *self;
        FrameMark([a, b, c, d, e, f, g, h])
    }
}

/// The first eight bytes of a frame's [`Seal`], as a map names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FrameMark(pub [u8; 8]);

fn first_bytes<const N: usize>(hash: &blake3::Hash) -> [u8; N] {
    let mut first = [0; N];
    for (to, from) in first.iter_mut().zip(hash.as_bytes()) {
        *to = *from;
    }
    first
}
