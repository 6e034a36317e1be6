//! Writing packs, and the table of page hashes at a pack's end.
//!
//! A pack is a header, frames, and the table: one skippable frame with, for each frame, its cut and the hashes of its
//! pages. The table stands at the end so that comparing by hash costs one ranged read for each pack instead of one for
//! each frame.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tidemark_storage::Upload;

use super::frame::{EncodedFrame, Grid, Piece};
use super::hash::{HashKey, PAGE_HASH_LEN, PageHash, Seal};
use super::id::{BackupId, PartId};
use super::manifest::PackEntry;
use super::map::FrameRef;
use super::store::BaseStore;
use super::varint::{self, Cursor, Malformed};
use crate::envelope::{Header, Kind};
use crate::error::RepositoryError;

/// Magic number of the skippable frame that holds a pack's page hashes.
pub const HASHES_MAGIC: u32 = 0x184D_2A5D;
/// Stored length after which a pack is closed, unless told otherwise: ten terabytes then make some fifty thousand
/// packs, and a backup that dies loses little.
pub const PACK_LEN_DEFAULT: u64 = 64 << 20;

/// Appends frames to packs of one backup, one after the other. Several may write the same backup side by side: they
/// share the count of packs.
///
/// Memory: the frame being appended, the page hashes of the open pack (about a third of a percent of it), and what the
/// store's upload buffers.
#[derive(Debug)]
pub struct PackSink {
    store: BaseStore,
    backup: BackupId,
    pack_len: u64,
    next_number: Arc<AtomicU32>,
    open: Option<OpenPack>,
    finished: Vec<PackEntry>,
}

/// A frame that lies in a pack.
#[derive(Debug)]
pub struct PlacedFrame {
    pub(super) pack: PartId,
    /// Where it lies; the index of its pack is not known here yet.
    pub(super) frame: FrameRef,
    pub(super) pieces: Vec<Piece>,
}

struct OpenPack {
    id: PartId,
    object_id: [u8; 16],
    upload: Box<dyn Upload>,
    len: u64,
    frames: u32,
    table: Vec<u8>,
}

impl PackSink {
    pub(super) fn new(
        store: BaseStore,
        backup: BackupId,
        pack_len: u64,
        next_number: Arc<AtomicU32>,
    ) -> PackSink {
        PackSink {
            store,
            backup,
            pack_len,
            next_number,
            open: None,
            finished: Vec::new(),
        }
    }

    /// Appends a frame. Not to be dropped half-way: the pack would be left with a part of the frame.
    ///
    /// # Errors
    /// `Storage`; the sink is then of no further use.
    pub async fn append(&mut self, frame: EncodedFrame) -> Result<PlacedFrame, RepositoryError> {
        if self.open.is_none() {
            self.open = Some(self.begin_pack().await?);
        }
        let Some(pack) = &mut self.open else {
            unreachable!("a pack was opened above")
        };
        let (plain_len, mark) = frame.identity();
        let stored_len = frame.stored.len() as u32;
        let place = FrameRef {
            pack: 0,
            number: pack.frames,
            offset: pack.len,
            stored_len,
            plain_len,
            mark,
        };
        pack.upload.write(frame.stored).await?;
        pack.len += u64::from(stored_len);
        pack.frames += 1;
        varint::put(&mut pack.table, u64::from(stored_len));
        frame.grid.encode(&mut pack.table);
        pack.table.extend_from_slice(&frame.page_hashes);
        let placed = PlacedFrame {
            pack: pack.id.clone(),
            frame: place,
            pieces: frame.pieces,
        };
        if pack.len >= self.pack_len {
            self.close_pack().await?;
        }
        Ok(placed)
    }

    /// Closes the open pack; returns all packs that were written. They are durable then.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn finish(mut self) -> Result<Vec<PackEntry>, RepositoryError> {
        self.close_pack().await?;
        Ok(self.finished)
    }

    /// Gives the open pack up, so that the store keeps no part of it.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn abort(self) -> Result<(), RepositoryError> {
        match self.open {
            Some(pack) => Ok(pack.upload.abort().await?),
            None => Ok(()),
        }
    }

    async fn begin_pack(&mut self) -> Result<OpenPack, RepositoryError> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let id = PartId {
            backup: self.backup.clone(),
            number,
        };
        let object_id = rand::random();
        let header = Header::streamed(Kind::Pack, object_id).encode();
        let mut upload = self.store.storage().upload(&self.store.pack(&id)).await?;
        upload.write(Bytes::copy_from_slice(&header)).await?;
        Ok(OpenPack {
            id,
            object_id,
            upload,
            len: header.len() as u64,
            frames: 0,
            table: Vec::new(),
        })
    }

    async fn close_pack(&mut self) -> Result<(), RepositoryError> {
        let Some(mut pack) = self.open.take() else {
            return Ok(());
        };
        let table = encode_table(&self.store.hash_key(), pack.frames, &pack.table);
        let hashes = pack.len;
        let size = pack.len + table.len() as u64;
        pack.upload.write(table.into()).await?;
        pack.upload.complete().await?;
        self.finished.push(PackEntry {
            id: pack.id,
            size,
            frames: pack.frames,
            hashes,
            object_id: hex::encode(pack.object_id),
            salt: None,
            key_id: None,
        });
        Ok(())
    }
}

impl std::fmt::Debug for OpenPack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenPack")
            .field("id", &self.id)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// The table as stored: number of frames, their entries, and a seal over both, in a skippable frame.
fn encode_table(key: &HashKey, frames: u32, entries: &[u8]) -> Vec<u8> {
    let mut count = Vec::new();
    varint::put(&mut count, u64::from(frames));
    let seal = Seal::of(key, &[&count, entries]);
    let len = count.len() + entries.len() + Seal::LEN;
    let mut out = Vec::with_capacity(8 + len);
    out.extend_from_slice(&HASHES_MAGIC.to_le_bytes());
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&count);
    out.extend_from_slice(entries);
    out.extend_from_slice(&seal.0);
    out
}

/// The page hashes of one pack.
#[derive(Debug)]
pub(super) struct PageTable {
    frames: Vec<(Grid, Vec<u8>)>,
}

impl PageTable {
    /// Reads the table that is exactly `stored`.
    pub(super) fn decode(key: &HashKey, stored: &[u8]) -> Result<PageTable, Malformed> {
        let mut cursor = Cursor::new(stored);
        let (magic, len) = (
            u32::from_le_bytes(cursor.array()?),
            u32::from_le_bytes(cursor.array()?),
        );
        if magic != HASHES_MAGIC || len as usize != cursor.remaining() {
            return Err(Malformed("its page hashes are not where they must be"));
        }
        let body = cursor.bytes(cursor.remaining().saturating_sub(Seal::LEN))?;
        if Seal::of(key, &[body]) != Seal(cursor.array()?) {
            return Err(Malformed("its page hashes do not match their seal"));
        }
        let mut cursor = Cursor::new(body);
        let count = cursor.count(4)?;
        let mut frames = Vec::with_capacity(count);
        for _ in 0..count {
            cursor.u32()?;
            let grid = Grid::decode(&mut cursor)?;
            let hashes = cursor.bytes(grid.hashes_len())?.to_vec();
            frames.push((grid, hashes));
        }
        cursor.end()?;
        Ok(PageTable { frames })
    }

    /// The hash of the page that is exactly the bytes `[offset, offset + len)` of a frame, if one is.
    pub(super) fn hash(&self, frame: u32, offset: u32, len: usize, page_size: usize) -> Option<PageHash> {
        let (grid, hashes) = self.frames.get(frame as usize)?;
        let page = grid.page_at(offset as usize, len, page_size)?;
        hashes
            .get(page * PAGE_HASH_LEN..)?
            .first_chunk()
            .copied()
            .map(PageHash)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{FileId, FrameBuffer, FrameEncoder};
    use super::*;
    use proptest::prelude::*;

    const KEY: HashKey = HashKey([1; 32]);

    fn table() -> Vec<u8> {
        let mut buffer = FrameBuffer::new(4096, 1024);
        buffer.push(FileId(0), 0, &[1; 2048]);
        buffer.push(FileId(1), 0, &[2; 100]);
        let frame = FrameEncoder::new(KEY, 3).unwrap().encode(&buffer).unwrap();
        let mut entries = Vec::new();
        varint::put(&mut entries, frame.stored_len() as u64);
        frame.grid.encode(&mut entries);
        entries.extend_from_slice(&frame.page_hashes);
        encode_table(&KEY, 1, &entries)
    }

    #[test]
    fn a_pages_hash_is_found_again() {
        let table = PageTable::decode(&KEY, &table()).unwrap();
        assert_eq!(
            table.hash(0, 1024, 1024, 1024),
            Some(PageHash::of(&KEY, &[1; 1024]))
        );
        assert_eq!(
            table.hash(0, 2048, 100, 1024),
            Some(PageHash::of(&KEY, &[2; 100]))
        );
        assert_eq!(table.hash(0, 512, 1024, 1024), None);
        assert_eq!(table.hash(1, 0, 1024, 1024), None);
    }

    proptest! {
        #[test]
        fn one_flipped_bit_is_found(bit: prop::sample::Index) {
            let mut stored = table();
            let bit = bit.index(stored.len() * 8);
            stored[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(PageTable::decode(&KEY, &stored).is_err());
        }

        #[test]
        fn arbitrary_entries_never_panic(entries in proptest::collection::vec(any::<u8>(), 0..100), frames in 0u32..9) {
            let _ = PageTable::decode(&KEY, &encode_table(&KEY, frames, &entries));
        }
    }
}
