//! A set of block numbers whose size follows the number of its members, not the length of the relation.
//!
//! Blocks are kept by chunks of 4096 (32 MiB of relation): few in a sorted list, many in a bitmap of 512 bytes. A chunk
//! without members does not exist.

use std::collections::BTreeMap;

/// Blocks of one chunk.
pub(super) const CHUNK_BLOCKS: u32 = 4096;
const WORDS: usize = 64;
/// From here on the bitmap is smaller than the list.
const LIST_MAX: usize = 128;

/// A set of block numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockSet {
    chunks: BTreeMap<u32, Chunk>,
}

#[derive(Debug, Clone)]
enum Chunk {
    /// Offsets in the chunk, ascending.
    List(Vec<u16>),
    Bitmap(Box<[u64; WORDS]>),
}

impl BlockSet {
    /// Adds a block.
    #[inline]
    pub fn insert(&mut self, block: u32) {
        let (index, offset) = split(block);
        self.chunks.entry(index).or_default().insert(offset);
    }

    /// Whether a block is in the set.
    pub fn contains(&self, block: u32) -> bool {
        let (index, offset) = split(block);
        self.chunks
            .get(&index)
            .is_some_and(|chunk| chunk.contains(offset))
    }

    /// The blocks, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.chunks.iter().flat_map(|(index, chunk)| {
            chunk
                .offsets()
                .map(move |offset| index * CHUNK_BLOCKS + u32::from(offset))
        })
    }

    /// How many blocks.
    pub fn len(&self) -> u64 {
        self.chunks.values().map(Chunk::len).sum()
    }

    /// No block at all.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Removes the blocks from `limit` on.
    pub fn truncate(&mut self, limit: u32) {
        let (index, offset) = split(limit);
        let mut past = self.chunks.split_off(&index);
        let Some(mut border) = past.remove(&index) else {
            return;
        };
        border.truncate(offset);
        if border.len() > 0 {
            self.chunks.insert(index, border);
        }
    }

    /// Adds every block of `other`.
    pub fn merge(&mut self, other: &BlockSet) {
        for (index, theirs) in &other.chunks {
            let ours = self.chunks.entry(*index).or_default();
            for offset in theirs.offsets() {
                ours.insert(offset);
            }
        }
    }

    /// The blocks by chunk: number of the chunk, and the runs (first offset, count) in it. For encoding.
    pub(super) fn chunks(&self) -> impl ExactSizeIterator<Item = (u32, Vec<(u16, u16)>)> + '_ {
        self.chunks.iter().map(|(index, chunk)| (*index, chunk.runs()))
    }
}

fn split(block: u32) -> (u32, u16) {
    let [.., high, low] = (block % CHUNK_BLOCKS).to_be_bytes();
    (block / CHUNK_BLOCKS, u16::from_be_bytes([high, low]))
}

/// By members: a bitmap that was cut may hold no more than a list would.
impl PartialEq for Chunk {
    fn eq(&self, other: &Chunk) -> bool {
        self.offsets().eq(other.offsets())
    }
}

impl Eq for Chunk {}

impl Default for Chunk {
    fn default() -> Chunk {
        Chunk::List(Vec::new())
    }
}

fn word_and_bit(offset: u16) -> (usize, u64) {
    (usize::from(offset / 64) % WORDS, 1 << (offset % 64))
}

impl Chunk {
    #[inline]
    fn insert(&mut self, offset: u16) {
        match self {
            Chunk::List(list) => {
                // The log mostly moves forward.
                if list.last().is_none_or(|&last| last < offset) {
                    list.push(offset);
                } else if let Err(place) = list.binary_search(&offset) {
                    list.insert(place, offset);
                }
                if list.len() > LIST_MAX {
                    *self = Chunk::bitmap(list);
                }
            }
            Chunk::Bitmap(words) => {
                let (word, bit) = word_and_bit(offset);
                if let Some(word) = words.get_mut(word) {
                    *word |= bit;
                }
            }
        }
    }

    fn bitmap(list: &[u16]) -> Chunk {
        let mut chunk = Chunk::Bitmap(Box::new([0; WORDS]));
        for &offset in list {
            chunk.insert(offset);
        }
        chunk
    }

    fn contains(&self, offset: u16) -> bool {
        match self {
            Chunk::List(list) => list.binary_search(&offset).is_ok(),
            Chunk::Bitmap(words) => {
                let (word, bit) = word_and_bit(offset);
                words.get(word).is_some_and(|word| word & bit != 0)
            }
        }
    }

    fn len(&self) -> u64 {
        match self {
            Chunk::List(list) => list.len() as u64,
            Chunk::Bitmap(words) => words.iter().map(|word| u64::from(word.count_ones())).sum(),
        }
    }

    fn truncate(&mut self, limit: u16) {
        match self {
            Chunk::List(list) => list.retain(|&offset| offset < limit),
            Chunk::Bitmap(words) => {
                let (border, bit) = word_and_bit(limit);
                for (index, word) in words.iter_mut().enumerate() {
                    if index == border {
                        *word &= bit - 1;
                    } else if index > border {
                        *word = 0;
                    }
                }
            }
        }
    }

    fn offsets(&self) -> Box<dyn Iterator<Item = u16> + '_> {
        match self {
            Chunk::List(list) => Box::new(list.iter().copied()),
            Chunk::Bitmap(words) => {
                Box::new((0u16..).step_by(64).zip(words.iter()).flat_map(|(base, word)| {
                    (0u16..64).filter_map(move |bit| (word >> bit & 1 == 1).then_some(base + bit))
                }))
            }
        }
    }

    fn runs(&self) -> Vec<(u16, u16)> {
        let mut runs: Vec<(u16, u16)> = Vec::new();
        for offset in self.offsets() {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == offset => *count += 1,
                _ => runs.push((offset, 1)),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn blocks() -> impl Strategy<Value = Vec<u32>> {
        // Crowded, so that lists become bitmaps, with a few far away.
        proptest::collection::vec(prop_oneof![9 => 0u32..9000, 1 => any::<u32>()], 0..600)
    }

    fn set_of(blocks: &[u32]) -> BlockSet {
        let mut set = BlockSet::default();
        blocks.iter().for_each(|&block| set.insert(block));
        set
    }

    proptest! {
        #[test]
        fn is_a_set(blocks in blocks(), limit in 0u32..10_000) {
            let mut set = set_of(&blocks);
            let mut model: BTreeSet<u32> = blocks.iter().copied().collect();
            prop_assert!(set.iter().eq(model.iter().copied()));
            prop_assert_eq!(set.len(), model.len() as u64);
            set.truncate(limit);
            model.retain(|&block| block < limit);
            prop_assert!(set.iter().eq(model.iter().copied()));
            prop_assert_eq!(set.is_empty(), model.is_empty());
            prop_assert!(blocks.iter().all(|&block| set.contains(block) == (block < limit)));
            prop_assert_eq!(&set, &set_of(&model.iter().copied().collect::<Vec<_>>()));
        }

        #[test]
        fn merging_is_union(ours in blocks(), theirs in blocks()) {
            let mut merged = set_of(&ours);
            merged.merge(&set_of(&theirs));
            prop_assert_eq!(merged, set_of(&[ours, theirs].concat()));
        }
    }

    #[test]
    fn a_dense_relation_takes_a_bit_for_a_block() {
        let set = set_of(&(0..CHUNK_BLOCKS * 3).collect::<Vec<_>>());
        assert_eq!(set.chunks().len(), 3);
        assert!(set.chunks.values().all(|chunk| matches!(chunk, Chunk::Bitmap(_))));
    }
}
