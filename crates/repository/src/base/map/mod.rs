//! Maps: where in packs each range of a file lies.
//!
//! A file is mapped in parts of [`PART_LEN`] bytes; a part's map is a list of extents that cover it exactly, in order,
//! without overlap. Parts are records of map objects, which hold many of them and are shared by reference between
//! backups for as long as a part does not change. Pure: bytes and lists, no store.

mod codec;
mod object;
mod part;

pub(super) use object::{MapBuilder, MapObject};
pub use part::{Extent, FrameRef, PartMap, Source};
pub(super) use part::{Placement, Uncovered};

/// How many bytes of a file one part covers; the last part of a file is shorter. One relation segment of PostgreSQL.
pub const PART_LEN: u64 = 1 << 30;

/// Lengths of the parts of a file of `size` bytes.
pub fn part_lens(size: u64) -> impl Iterator<Item = u64> {
    (0..size.div_ceil(PART_LEN)).map(move |part| (size - part * PART_LEN).min(PART_LEN))
}

#[cfg(test)]
mod tests;
