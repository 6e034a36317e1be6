//! Base backups: packs of frames, maps of extents, and the manifest that commits them.
//!
//! Knows no engine: files are named paths with bytes, and what changed since the parent is told by the caller. An
//! incremental backup is its parent's maps with the changed pages laid over them, so every manifest is complete and
//! restores without a chain. Data is written first, the manifest last: a crash leaves objects that no manifest names.

mod frame;
mod hash;
mod id;
mod intent;
mod liveness;
mod manifest;
mod map;
mod pack;
mod page_hashes;
mod reader;
mod restore;
mod store;
mod tables;
mod varint;
mod writer;

pub use frame::{
    EncodedFrame, FRAME_LEN_DEFAULT, FRAME_LEN_MAX, FileId, FrameBuffer, FrameDamage, FrameDecoder,
    FrameEncoder, Piece,
};
pub use hash::{FrameMark, HashKey, PAGE_HASH_LEN, PageHash, Seal};
pub use id::{BackupId, InvalidBackupId, PartId};
pub use intent::{Announced, INTENT_LIFE, Intent, live_intents, withdraw_dead};
pub use liveness::Liveness;
pub use manifest::{
    BackupFacts, BackupHeader, BackupKind, EntryKind, FileEntry, FileMeta, LogPosition, Manifest, MapEntry,
    PackEntry, PartRef, Totals,
};
pub use map::{Extent, FrameRef, PART_LEN, PartMap, Source, part_lens};
pub use pack::{PACK_LEN_DEFAULT, PackSink, PlacedFrame};
pub use page_hashes::PageHashReader;
pub use reader::{BackupList, BackupReader, list_backups, read_header};
pub use restore::{Fetch, FrameUse, FrameWrite, RestoreBatch, RestoreLimits, ZeroRange};
pub use store::BaseStore;
pub use writer::BackupWriter;

#[cfg(test)]
mod tests;
