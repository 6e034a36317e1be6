//! Plain bytes to a stored frame.

use bytes::Bytes;
use zstd::bulk::Compressor;

use super::super::hash::{HashKey, Seal};
use super::buffer::{FrameBuffer, Piece};
use super::{Grid, TRAILER_MAGIC};
use crate::error::RepositoryError;

/// A frame ready to be appended to a pack.
#[derive(Debug)]
pub struct EncodedFrame {
    /// zstd frame and trailer.
    pub(in super::super) stored: Bytes,
    /// What the trailer ends in.
    pub(in super::super) seal: Seal,
    /// How its plain bytes are cut.
    pub(in super::super) grid: Grid,
    /// The hashes of its pages, one after the other.
    pub(in super::super) page_hashes: Vec<u8>,
    /// Whose bytes they are.
    pub(in super::super) pieces: Vec<Piece>,
}

impl EncodedFrame {
    /// Bytes it takes in a pack.
    pub fn stored_len(&self) -> usize {
        self.stored.len()
    }

    /// Bytes of files it holds.
    pub fn plain_len(&self) -> usize {
        self.grid.plain_len()
    }

    /// The bytes as they will lie in the pack.
    pub fn stored(&self) -> &[u8] {
        &self.stored
    }

    /// How a map names the frame: plain length and mark.
    pub fn identity(&self) -> (u32, super::super::FrameMark) {
        (self.grid.plain_len() as u32, self.seal.mark())
    }
}

/// Encodes frames; one per worker thread, because it keeps its compression context and scratch memory.
pub struct FrameEncoder {
    key: HashKey,
    compressor: Compressor<'static>,
    scratch: Vec<u8>,
}

impl FrameEncoder {
    /// An encoder at a zstd level (3 serves heap pages best).
    ///
    /// # Errors
    /// `Codec` when zstd refuses the level.
    pub fn new(key: HashKey, level: i32) -> Result<FrameEncoder, RepositoryError> {
        let compressor = Compressor::new(level).map_err(codec_error)?;
        Ok(FrameEncoder {
            key,
            compressor,
            scratch: Vec::new(),
        })
    }

    /// Compresses, hashes and seals what `frame` holds. CPU work: run it off the reactor.
    ///
    /// # Errors
    /// `Codec` when zstd fails, which it does for lack of memory only.
    pub fn encode(&mut self, frame: &FrameBuffer) -> Result<EncodedFrame, RepositoryError> {
        let grid = frame.grid();
        let mut page_hashes = Vec::with_capacity(grid.hashes_len());
        grid.hash_pages(&self.key, frame.bytes(), &mut page_hashes);

        self.scratch.clear();
        self.scratch
            .reserve(zstd::zstd_safe::compress_bound(frame.bytes().len()));
        self.compressor
            .compress_to_buffer(frame.bytes(), &mut self.scratch)
            .map_err(codec_error)?;
        let mut trailer = Vec::with_capacity(32);
        grid.encode(&mut trailer);
        let seal = Seal::of(&self.key, &[&self.scratch, &trailer, &page_hashes]);
        trailer.extend_from_slice(&seal.0);

        let mut stored = Vec::with_capacity(self.scratch.len() + 8 + trailer.len());
        stored.extend_from_slice(&self.scratch);
        stored.extend_from_slice(&TRAILER_MAGIC.to_le_bytes());
        stored.extend_from_slice(&(trailer.len() as u32).to_le_bytes());
        stored.extend_from_slice(&trailer);
        Ok(EncodedFrame {
            stored: stored.into(),
            seal,
            grid,
            page_hashes,
            pieces: frame.pieces().to_vec(),
        })
    }
}

impl std::fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameEncoder").finish_non_exhaustive()
    }
}

fn codec_error(source: std::io::Error) -> RepositoryError {
    RepositoryError::Codec {
        object: "a frame of a base backup".to_owned(),
        source,
    }
}
