//! Frames: the unit of compression, sealing and fetching in a pack.
//!
//! A stored frame is one zstd frame followed by a trailer in a skippable frame, so that `zstd -d` of a pack yields the
//! plain bytes. The trailer says how the plain bytes are cut into pieces and pages ([`Grid`]) and ends in a seal over
//! the stored bytes, the trailer and the page hashes of the plain bytes: one check that finds damage to any of them.
//! Pure: encoding and decoding are CPU work (about a millisecond per MiB) that the caller runs off its reactor.

mod buffer;
mod decode;
mod encode;
mod grid;

pub use buffer::{FileId, FrameBuffer, Piece};
pub use decode::{FrameDamage, FrameDecoder};
pub use encode::{EncodedFrame, FrameEncoder};
pub(super) use grid::Grid;

/// Magic number of the skippable frame that holds a frame's trailer.
pub const TRAILER_MAGIC: u32 = 0x184D_2A5C;
/// Plain bytes of a frame, unless told otherwise. Measured on heap pages of pgbench: half of it stores 2 % more, twice
/// as much stores 1 % less and compresses slower.
pub const FRAME_LEN_DEFAULT: usize = 512 << 10;
/// Longest plain content of a frame that a reader accepts.
pub const FRAME_LEN_MAX: usize = 4 << 20;
/// Most pieces of one frame that a reader accepts.
pub const FRAME_PIECES_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests;
