//! The hash chain that tells, from names alone, which slices belong together.
//!
//! A log file is cut into grains of [`GRAIN_LEN`] bytes (the last one ends with the file). With `h` the hash at the
//! begin of a grain, the running hash at a point inside it is the first eight bytes of BLAKE3, keyed with the server's
//! chain key, over `h` and the grain's bytes up to there; at the begin itself it is `h`. The hash at a grain's end
//! seeds the next grain, across files too. It is [`ChainHash::ORIGIN`] at the first file of a branch and after a gap.
//!
//! The chain separates writers whose logs diverged; it is no defence against somebody who can write the repository.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tidemark_types::GRAIN_LEN;

/// The 32 random bytes that key a server's chain; they stand in `server.json` in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChainKey(pub [u8; 32]);

impl ChainKey {
    /// A fresh one.
    pub fn random() -> ChainKey {
        ChainKey(rand::random())
    }
}

impl TryFrom<String> for ChainKey {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<ChainKey, hex::FromHexError> {
        let mut key = [0; 32];
        hex::decode_to_slice(text, &mut key)?;
        Ok(ChainKey(key))
    }
}

impl From<ChainKey> for String {
    fn from(key: ChainKey) -> String {
        hex::encode(key.0)
    }
}

/// The chain's hash at one position of a log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainHash(pub [u8; 8]);

impl ChainHash {
    /// Where nothing came before: the first file of a branch, or the first after a gap.
    pub const ORIGIN: ChainHash = ChainHash([0; 8]);
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ChainHash {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<ChainHash, hex::FromHexError> {
        let mut hash = [0; 8];
        hex::decode_to_slice(text, &mut hash)?;
        Ok(ChainHash(hash))
    }
}

/// The running hash of one log as its bytes go by.
#[derive(Debug, Clone)]
pub struct RunningHash {
    key: ChainKey,
    seed: ChainHash,
    hasher: blake3::Hasher,
    /// Bytes of the open grain hashed so far.
    filled: u64,
}

impl RunningHash {
    /// Begins at the border of a grain whose hash is `seed`.
    pub fn new(key: ChainKey, seed: ChainHash) -> RunningHash {
        let mut hasher = blake3::Hasher::new_keyed(&key.0);
        hasher.update(&seed.0);
        RunningHash {
            key,
            seed,
            hasher,
            filled: 0,
        }
    }

    /// Takes the next bytes in. They must not reach past the open grain's end: the caller cuts at grains anyway.
    pub fn update(&mut self, bytes: &[u8]) {
        debug_assert!(
            self.filled + bytes.len() as u64 <= GRAIN_LEN,
            "bytes past the end of a grain"
        );
        self.hasher.update(bytes);
        self.filled += bytes.len() as u64;
    }

    /// The hash here.
    pub fn current(&self) -> ChainHash {
        if self.filled == 0 {
            return self.seed;
        }
        let mut hash = [0; 8];
        self.hasher.finalize_xof().fill(&mut hash);
        ChainHash(hash)
    }

    /// Ends the open grain here (it is full, or its file ends) and begins the next.
    pub fn next_grain(&mut self) {
        *self = RunningHash::new(self.key, self.current());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_does_not_depend_on_how_bytes_arrive_and_does_on_all_before() {
        let key = ChainKey([3; 32]);
        let mut whole = RunningHash::new(key, ChainHash::ORIGIN);
        assert_eq!(whole.current(), ChainHash::ORIGIN);
        whole.update(b"abcdef");
        let mut parts = RunningHash::new(key, ChainHash::ORIGIN);
        parts.update(b"abc");
        parts.update(b"def");
        assert_eq!(whole.current(), parts.current());
        whole.next_grain();
        assert_eq!(whole.current(), parts.current());
        whole.update(b"x");
        let mut other = RunningHash::new(key, ChainHash([1; 8]));
        other.update(b"x");
        assert_ne!(whole.current(), other.current());
        assert_eq!(whole.current().to_string().parse(), Ok(whole.current()));
    }

    #[test]
    fn keys_separate_servers() {
        let hash = |key: u8| {
            let mut hash = RunningHash::new(ChainKey([key; 32]), ChainHash::ORIGIN);
            hash.update(b"same bytes");
            hash.current()
        };
        assert_ne!(hash(1), hash(2));
    }
}
