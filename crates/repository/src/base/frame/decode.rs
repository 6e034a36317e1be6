//! A stored frame to plain bytes, proven before anybody sees them.

use zstd::bulk::Decompressor;
use zstd::zstd_safe;

use super::super::hash::{FrameMark, HashKey, Seal};
use super::super::varint::{Cursor, Malformed};
use super::{Grid, TRAILER_MAGIC};
use crate::error::RepositoryError;

/// Why a frame cannot be used. The reader that knows object and files says so in its error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FrameDamage(pub(in super::super) String);

impl From<Malformed> for FrameDamage {
    fn from(malformed: Malformed) -> FrameDamage {
        FrameDamage(format!("its trailer is malformed: {}", malformed.0))
    }
}

/// Decodes frames; one per worker thread, because it keeps its context and memory.
pub struct FrameDecoder {
    key: HashKey,
    decompressor: Decompressor<'static>,
    plain: Vec<u8>,
    hashes: Vec<u8>,
}

impl FrameDecoder {
    /// A decoder for the frames of one server.
    ///
    /// # Errors
    /// `Codec` when zstd has no memory.
    pub fn new(key: HashKey) -> Result<FrameDecoder, RepositoryError> {
        let decompressor = Decompressor::new().map_err(|source| RepositoryError::Codec {
            object: "a frame of a base backup".to_owned(),
            source,
        })?;
        Ok(FrameDecoder {
            key,
            decompressor,
            plain: Vec::new(),
            hashes: Vec::new(),
        })
    }

    /// Decodes the frame that is exactly `stored` and proves that it is the one a map means by `plain_len` and `mark`.
    /// CPU work: run it off the reactor.
    ///
    /// # Errors
    /// [`FrameDamage`] when any bit of it, or the frame itself, is not what was written.
    pub fn decode(&mut self, stored: &[u8], plain_len: u32, mark: FrameMark) -> Result<&[u8], FrameDamage> {
        let seal = self.unseal(stored)?;
        if self.plain.len() != plain_len as usize || seal.mark() != mark {
            return Err(FrameDamage("it is another frame than its map means".to_owned()));
        }
        Ok(&self.plain)
    }

    /// Decodes and checks the frame against its own seal, leaving the content in `self.plain`.
    fn unseal(&mut self, stored: &[u8]) -> Result<Seal, FrameDamage> {
        let len = zstd_safe::find_frame_compressed_size(stored).map_err(|code| {
            FrameDamage(format!(
                "it is no zstd frame: {}",
                zstd_safe::get_error_name(code)
            ))
        })?;
        let (compressed, rest) = stored
            .split_at_checked(len)
            .ok_or(FrameDamage("its zstd frame ends too early".to_owned()))?;
        let (trailer, seal) = split_trailer(rest)?;
        let mut cursor = Cursor::new(trailer);
        let grid = Grid::decode(&mut cursor)?;
        cursor.end()?;

        self.plain.clear();
        self.plain.reserve(grid.plain_len());
        self.decompressor
            .decompress_to_buffer(compressed, &mut self.plain)
            .map_err(|error| FrameDamage(format!("it does not decompress: {error}")))?;
        if self.plain.len() != grid.plain_len() {
            return Err(FrameDamage(
                "it decompresses to another length than it says".to_owned(),
            ));
        }
        grid.hash_pages(&self.key, &self.plain, &mut self.hashes);
        if Seal::of(&self.key, &[compressed, trailer, &self.hashes]) != seal {
            return Err(FrameDamage("its content does not match its seal".to_owned()));
        }
        Ok(seal)
    }
}

impl std::fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameDecoder").finish_non_exhaustive()
    }
}

/// Splits what follows the zstd frame into the trailer's fields and its seal.
fn split_trailer(bytes: &[u8]) -> Result<(&[u8], Seal), FrameDamage> {
    let mut cursor = Cursor::new(bytes);
    let (magic, len) = (
        u32::from_le_bytes(cursor.array()?),
        u32::from_le_bytes(cursor.array()?),
    );
    if magic != TRAILER_MAGIC || len as usize != cursor.remaining() {
        return Err(FrameDamage("its trailer is not where it must be".to_owned()));
    }
    let fields = cursor.bytes(cursor.remaining().saturating_sub(Seal::LEN))?;
    Ok((fields, Seal(cursor.array()?)))
}
