//! How the plain bytes of a frame are cut: pieces one after the other, each in pages counted from its own begin.
//!
//! Pages count from a piece's begin because that is where they lie in the file: a page keeps its hash when another
//! backup packs it with other neighbours.

use super::super::hash::{HashKey, PAGE_HASH_LEN, PageHash};
use super::super::varint::{self, Cursor, Malformed};
use super::{FRAME_LEN_MAX, FRAME_PIECES_MAX};

/// The cut of one frame. Stored as varints: plain length, page size, number of pieces, length of each piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Grid {
    plain_len: usize,
    page_size: usize,
    piece_lens: Vec<usize>,
}

impl Grid {
    /// A cut into pieces of the given lengths.
    pub(super) fn new(page_size: usize, piece_lens: Vec<usize>) -> Grid {
        Grid {
            plain_len: piece_lens.iter().sum(),
            page_size,
            piece_lens,
        }
    }

    /// Length of the frame's plain bytes.
    pub(in super::super) fn plain_len(&self) -> usize {
        self.plain_len
    }

    /// Number of pages of all pieces, short ones at a piece's end included.
    pub(in super::super) fn page_count(&self) -> usize {
        self.piece_lens
            .iter()
            .map(|len| len.div_ceil(self.page_size))
            .sum()
    }

    /// Appends the stored form.
    pub(in super::super) fn encode(&self, out: &mut Vec<u8>) {
        varint::put(out, self.plain_len as u64);
        varint::put(out, self.page_size as u64);
        varint::put(out, self.piece_lens.len() as u64);
        for len in &self.piece_lens {
            varint::put(out, *len as u64);
        }
    }

    /// Reads the stored form; what it accepts is within the bounds of the format.
    pub(in super::super) fn decode(cursor: &mut Cursor<'_>) -> Result<Grid, Malformed> {
        let plain_len = cursor.u32()? as usize;
        let page_size = cursor.u32()? as usize;
        let count = cursor.count(1)?;
        if plain_len == 0 || plain_len > FRAME_LEN_MAX || count > FRAME_PIECES_MAX {
            return Err(Malformed("a frame is larger than any can be"));
        }
        if page_size == 0 || page_size > FRAME_LEN_MAX {
            return Err(Malformed("a page size is impossible"));
        }
        let mut piece_lens = Vec::with_capacity(count);
        let mut left = plain_len;
        for _ in 0..count {
            let len = cursor.u32()? as usize;
            left = left
                .checked_sub(len)
                .filter(|_| len > 0)
                .ok_or(Malformed("a piece has an impossible length"))?;
            piece_lens.push(len);
        }
        if left != 0 {
            return Err(Malformed("pieces do not add up to their frame"));
        }
        Ok(Grid {
            plain_len,
            page_size,
            piece_lens,
        })
    }

    /// The hashes of all pages of `plain`, one after the other, in `out` (which is cleared first).
    pub(super) fn hash_pages(&self, key: &HashKey, plain: &[u8], out: &mut Vec<u8>) {
        out.clear();
        let mut rest = plain;
        for len in &self.piece_lens {
            let (piece, after) = rest.split_at_checked(*len).unwrap_or((rest, &[]));
            rest = after;
            for page in piece.chunks(self.page_size) {
                out.extend_from_slice(&PageHash::of(key, page).0);
            }
        }
    }

    /// Which page, counted over all pieces, is exactly the bytes `[offset, offset + len)` of the frame, if one is and
    /// pages have `page_size` bytes here.
    pub(in super::super) fn page_at(&self, offset: usize, len: usize, page_size: usize) -> Option<usize> {
        if page_size != self.page_size {
            return None;
        }
        let (mut piece_begin, mut pages_before) = (0usize, 0usize);
        for piece_len in &self.piece_lens {
            let piece_end = piece_begin + piece_len;
            if offset < piece_end {
                let within = offset.checked_sub(piece_begin)?;
                let page_len = page_size.min(piece_end - offset);
                return (within % page_size == 0 && page_len == len)
                    .then_some(pages_before + within / page_size);
            }
            piece_begin = piece_end;
            pages_before += piece_len.div_ceil(page_size);
        }
        None
    }

    /// Bytes that the page hashes take.
    pub(in super::super) fn hashes_len(&self) -> usize {
        self.page_count() * PAGE_HASH_LEN
    }
}
