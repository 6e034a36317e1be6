//! The plain bytes of one frame, while readers fill it.

/// A file of the backup being written, as [`crate::base::BackupWriter`] numbered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// A run of bytes of one file within a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The file.
    pub file: FileId,
    /// Where in the file the run begins.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u32,
}

/// A buffer of fixed capacity for one frame: whole blocks of a large file, or pieces of many small ones.
///
/// Made once per reader and used again after [`FrameBuffer::clear`]. Bytes are read straight into it, so that nothing
/// is copied on the way from a file to the compressor.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: Box<[u8]>,
    filled: usize,
    page_size: usize,
    pieces: Vec<Piece>,
}

impl FrameBuffer {
    /// A buffer for frames of up to `capacity` bytes of pages of `page_size` bytes. The capacity is cut to what the
    /// format allows and to whole pages.
    ///
    /// # Panics
    /// When `page_size` is zero or larger than a frame may be.
    pub fn new(capacity: usize, page_size: usize) -> FrameBuffer {
        assert!(
            (1..=super::FRAME_LEN_MAX).contains(&page_size),
            "page size {page_size} fits no frame"
        );
        let pages = (capacity.min(super::FRAME_LEN_MAX) / page_size).max(1);
        FrameBuffer {
            bytes: vec![0; pages * page_size].into_boxed_slice(),
            filled: 0,
            page_size,
            pieces: Vec::new(),
        }
    }

    /// How many bytes of a run of `wanted` bytes fit now: all of them, or as many whole pages as there is room for.
    /// Zero means that the frame is to be encoded first.
    pub fn room_for(&self, wanted: u64) -> usize {
        let free = self.bytes.len() - self.filled;
        if self.pieces.len() >= super::FRAME_PIECES_MAX {
            return 0;
        }
        match usize::try_from(wanted) {
            Ok(wanted) if wanted <= free => wanted,
            _ => free - free % self.page_size,
        }
    }

    /// The place for the next bytes: read into its front, then call [`FrameBuffer::commit`].
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    /// Takes the first `len` bytes of [`FrameBuffer::space`] in as bytes `[offset, offset + len)` of `file`. A run that
    /// goes on where the last one stopped, at a page's end, joins it.
    ///
    /// # Panics
    /// When `len` is more than there is space for.
    pub fn commit(&mut self, file: FileId, offset: u64, len: usize) {
        assert!(
            len <= self.bytes.len() - self.filled,
            "{len} bytes were never given"
        );
        if len == 0 {
            return;
        }
        self.filled += len;
        let page_size = self.page_size;
        if let Some(last) = self.pieces.last_mut() {
            let joins = last.file == file && last.offset + u64::from(last.len) == offset;
            if joins && (last.len as usize).is_multiple_of(page_size) {
                last.len += len as u32;
                return;
            }
        }
        self.pieces.push(Piece {
            file,
            offset,
            len: len as u32,
        });
    }

    /// Copies as much of `bytes`, which lie at `offset` of `file`, as there is room for, and says how much that was.
    pub fn push(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> usize {
        let len = self.room_for(bytes.len() as u64);
        self.space()[..len].copy_from_slice(&bytes[..len]);
        self.commit(file, offset, len);
        len
    }

    /// Whether nothing was taken in.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Whether not even one more page fits.
    pub fn is_full(&self) -> bool {
        self.bytes.len() - self.filled < self.page_size || self.pieces.len() >= super::FRAME_PIECES_MAX
    }

    /// Forgets the content, keeps the memory.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.pieces.clear();
    }

    /// What was taken in.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Whose bytes these are.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(super) fn grid(&self) -> super::Grid {
        super::Grid::new(
            self.page_size,
            self.pieces.iter().map(|piece| piece.len as usize).collect(),
        )
    }
}
