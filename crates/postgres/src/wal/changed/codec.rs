//! The binary form of [`ChangedBlocks`]; its description is in the head of the module above.

use std::collections::HashMap;

use tidemark_types::{ErrorClass, Lsn};

use super::block_set::{BlockSet, CHUNK_BLOCKS};
use super::{ChangedBlocks, RelationChanges, directory_of};
use crate::wal::block::{Fork, Relation};
use crate::wal::facts::DatabaseDirectory;
use tidemark_types::ByteReader;

const MAGIC: &[u8; 4] = b"TMCB";
const VERSION: u8 = 1;

/// Bytes that are no encoding of changed blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeChangedBlocksError {
    /// The bytes do not begin as an encoding does.
    #[error("not a list of changed blocks (it begins with no \"TMCB\")")]
    Magic,
    /// Written by a later version of this program.
    #[error("list of changed blocks has format version {0}; this program reads version 1: use a newer one")]
    Version(u8),
    /// Damaged.
    #[error("list of changed blocks is damaged at byte {at} of {length}")]
    Damaged {
        /// Offset in the bytes.
        at: usize,
        /// How many bytes were given.
        length: usize,
    },
}

impl DecodeChangedBlocksError {
    /// What kind of failure this is.
    pub fn class(&self) -> ErrorClass {
        match self {
            DecodeChangedBlocksError::Version(_) => ErrorClass::Permanent,
            DecodeChangedBlocksError::Magic | DecodeChangedBlocksError::Damaged { .. } => ErrorClass::Corrupt,
        }
    }
}

impl ChangedBlocks {
    /// The one encoding of this set.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::from(MAGIC);
        out.push(VERSION);
        out.extend(self.minimal_at.unwrap_or(Lsn::INVALID).0.to_le_bytes());
        put_number(&mut out, self.databases.len() as u64);
        for directory in &self.databases {
            out.extend(directory.tablespace.to_le_bytes());
            out.extend(directory.database.to_le_bytes());
        }
        let mut relations: Vec<_> = self.relations.iter().collect();
        relations.sort_unstable_by_key(|(relation, _)| **relation);
        put_number(&mut out, relations.len() as u64);
        for (relation, changes) in relations {
            put_relation(&mut out, *relation, changes);
        }
        out
    }

    /// Reads an encoding. Memory is bounded by some hundred times the length of `bytes`.
    ///
    /// # Errors
    /// When `bytes` is not exactly one encoding.
    pub fn decode(bytes: &[u8]) -> Result<ChangedBlocks, DecodeChangedBlocksError> {
        let mut reader = ByteReader::new(bytes);
        if reader.take(MAGIC.len()) != Some(MAGIC) {
            return Err(DecodeChangedBlocksError::Magic);
        }
        match reader.u8() {
            Some(VERSION) => {}
            Some(version) => return Err(DecodeChangedBlocksError::Version(version)),
            None => return Err(DecodeChangedBlocksError::Magic),
        }
        read(&mut reader)
            .filter(|_| reader.rest().is_empty())
            .ok_or_else(|| DecodeChangedBlocksError::Damaged {
                at: bytes.len() - reader.rest().len(),
                length: bytes.len(),
            })
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7F) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7F) as u8);
}

fn put_relation(out: &mut Vec<u8>, relation: Relation, changes: &RelationChanges) {
    for part in [relation.tablespace, relation.database, relation.number] {
        out.extend(part.to_le_bytes());
    }
    let limits = Fork::ALL.map(|fork| changes.limit(fork));
    let mask = (0..)
        .zip(limits)
        .fold(0u8, |mask, (bit, limit)| mask | u8::from(limit.is_some()) << bit);
    out.push(mask);
    for limit in limits.into_iter().flatten() {
        out.extend(limit.to_le_bytes());
    }
    let chunks = changes.blocks.chunks();
    put_number(out, chunks.len() as u64);
    let mut next_chunk = 0;
    for (index, runs) in chunks {
        put_number(out, u64::from(index - next_chunk));
        next_chunk = index + 1;
        put_number(out, runs.len() as u64);
        let mut next = 0;
        for (first, count) in runs {
            put_number(out, u64::from(first - next));
            put_number(out, u64::from(count - 1));
            next = first + count;
        }
    }
}

fn read(reader: &mut ByteReader<'_>) -> Option<ChangedBlocks> {
    let mut changed = ChangedBlocks {
        minimal_at: Some(Lsn(reader.u64()?)).filter(|at| at.is_valid()),
        ..ChangedBlocks::default()
    };
    for _ in 0..number(reader)? {
        let directory = DatabaseDirectory {
            tablespace: reader.u32()?,
            database: reader.u32()?,
        };
        let ascends = changed.databases.last().is_none_or(|last| *last < directory);
        changed.databases.insert(directory);
        ascends.then_some(())?;
    }
    let mut relations = HashMap::new();
    let mut last = None;
    for _ in 0..number(reader)? {
        let relation = Relation::read(reader)?;
        let is_covered = changed.databases.contains(&directory_of(relation));
        if is_covered || last.is_some_and(|last| last >= relation) {
            return None;
        }
        last = Some(relation);
        relations.insert(relation, read_changes(reader)?);
    }
    changed.relations = relations;
    Some(changed)
}

fn read_changes(reader: &mut ByteReader<'_>) -> Option<RelationChanges> {
    let mask = reader.u8()?;
    if mask >= 1 << Fork::ALL.len() {
        return None;
    }
    let mut limits = [None; 4];
    for (bit, limit) in limits.iter_mut().enumerate() {
        if mask >> bit & 1 == 1 {
            *limit = Some(reader.u32()?);
        }
    }
    let mut changes = RelationChanges {
        limits,
        blocks: BlockSet::default(),
    };
    let mut next_chunk = 0u32;
    for _ in 0..number(reader)? {
        let index = next_chunk.checked_add(number(reader)?)?;
        let first_block = index.checked_mul(CHUNK_BLOCKS)?;
        read_runs(reader, first_block, &mut changes)?;
        next_chunk = index + 1;
    }
    (changes != RelationChanges::default()).then_some(changes)
}

/// The runs of one chunk.
fn read_runs(reader: &mut ByteReader<'_>, first_block: u32, changes: &mut RelationChanges) -> Option<()> {
    let count = number(reader)?;
    let mut next = 0u32;
    for run in 0..count {
        let gap = number(reader)?;
        if run > 0 && gap == 0 {
            return None;
        }
        let first = next.checked_add(gap)?;
        next = first.checked_add(number(reader)?)?.checked_add(1)?;
        if next > CHUNK_BLOCKS || changes.is_past_limit(first_block + (next - 1)) {
            return None;
        }
        (first..next).for_each(|offset| changes.blocks.insert(first_block + offset));
    }
    (count > 0).then_some(())
}

/// A LEB128 number that fits 32 bits, in its shortest form.
fn number(reader: &mut ByteReader<'_>) -> Option<u32> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = reader.u8()?;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            let is_shortest = byte != 0 || shift == 0;
            return u32::try_from(value).ok().filter(|_| is_shortest);
        }
    }
    None
}
