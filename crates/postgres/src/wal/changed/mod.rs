//! Which blocks of which relations changed over a stretch of log.
//!
//! Block references are trusted for **main forks** only: clearing a visibility-map bit registers no block, and the
//! free-space map is not properly logged, so those (and init forks, and every file that is no relation) are to be
//! compared by content. Of every fork it is told, though, whether it was made, dropped or cut.
//!
//! What counts as changed in a main fork, and so what [`ChangedBlocks::is_changed`] answers:
//! - each block that a record refers to;
//! - every block from the smallest length that the fork was cut to in the stretch, its *limit*, on: it may have been
//!   written again past the cut without a trace of the old content. Making or dropping a fork is a limit of zero;
//! - everything in the directory of a database that was made, moved or dropped: `CREATE DATABASE` may copy files past
//!   the log.
//!
//! Not known here, and for the reader to add: blocks past the length that the file had at the stretch's beginning. And
//! if [`ChangedBlocks::minimal_at`] tells a position, changes bypassed the log: nothing here can be trusted.
//!
//! Memory follows what changed ([`BlockSet`]). Stretches are joined by [`ChangedBlocks::merge`]; since a limit takes in
//! all that is written past it, earlier or later, the order does not matter.
//!
//! # Encoding
//!
//! Little-endian; `v` is an unsigned LEB128 number of at most five bytes. Entries ascend strictly by their keys, so two
//! encodings can be merged in one pass, and a set has exactly one encoding.
//!
//! ```text
//! magic           4   "TMCB"
//! version         1   1
//! minimal         8   where wal_level was first seen to be minimal; 0 = never
//! databases       v   count, then for each: tablespace u32, database u32
//! relations       v   count, then for each:
//!   key          12   tablespace u32, database u32, number u32
//!   limits        1   bit n: fork n has a limit (0 main, 1 fsm, 2 vm, 3 init); other bits zero
//!               4·n   the limits of those forks, u32 each, in order of their numbers
//!   chunks        v   count, then for each chunk of 4096 blocks of the main fork that has changed blocks:
//!     skipped     v   chunks left out between it and the one before (or the fork's start)
//!     runs        v   count, 1 or more, then for each:
//!       gap       v   blocks left out between it and the run before (or the chunk's start); 1 or more but for the first
//!       more      v   blocks in the run, less one
//! ```
//!
//! No block at or past the main fork's limit is listed, no relation of a listed database, and no relation without a
//! limit and without a block.

mod block_set;
mod codec;

use std::collections::{BTreeSet, HashMap};

use tidemark_types::Lsn;

pub use self::block_set::BlockSet;
pub use self::codec::DecodeChangedBlocksError;
use super::block::{Fork, Relation};
use super::error::WalError;
use super::facts::{DatabaseDirectory, Fact, WalLevel};
use super::record::Record;

/// The changed blocks of a stretch of log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedBlocks {
    relations: HashMap<Relation, RelationChanges>,
    databases: BTreeSet<DatabaseDirectory>,
    minimal_at: Option<Lsn>,
}

/// What changed in one relation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelationChanges {
    /// By fork number.
    limits: [Option<u32>; 4],
    blocks: BlockSet,
}

impl RelationChanges {
    /// The smallest length, in blocks, that the fork had after a cut; zero when it was made or dropped; `None` when
    /// neither happened.
    pub fn limit(&self, fork: Fork) -> Option<u32> {
        let [main, free_space, visibility, init] = self.limits;
        match fork {
            Fork::Main => main,
            Fork::FreeSpace => free_space,
            Fork::Visibility => visibility,
            Fork::Init => init,
        }
    }

    /// The changed blocks of the main fork below its limit.
    pub fn blocks(&self) -> &BlockSet {
        &self.blocks
    }

    /// Whether a block of the main fork changed.
    pub fn is_changed(&self, block: u32) -> bool {
        self.is_past_limit(block) || self.blocks.contains(block)
    }

    #[inline]
    fn is_past_limit(&self, block: u32) -> bool {
        self.limit(Fork::Main).is_some_and(|limit| block >= limit)
    }

    fn cut(&mut self, fork: Fork, limit: u32) {
        let [main, free_space, visibility, init] = &mut self.limits;
        let slot = match fork {
            Fork::Main => main,
            Fork::FreeSpace => free_space,
            Fork::Visibility => visibility,
            Fork::Init => init,
        };
        let limit = slot.map_or(limit, |earlier| earlier.min(limit));
        *slot = Some(limit);
        if fork == Fork::Main {
            self.blocks.truncate(limit);
        }
    }

    #[inline]
    fn touch(&mut self, block: u32) {
        if !self.is_past_limit(block) {
            self.blocks.insert(block);
        }
    }

    fn merge(&mut self, other: &RelationChanges) {
        self.blocks.merge(&other.blocks);
        for fork in Fork::ALL {
            // The blocks of either are cut by the limit of either.
            if let Some(limit) = [self.limit(fork), other.limit(fork)].into_iter().flatten().min() {
                self.cut(fork, limit);
            }
        }
    }
}

impl ChangedBlocks {
    /// Takes in what `record` changes, given the fact that it states ([`Fact::of`]).
    pub fn add(&mut self, record: &Record<'_>, fact: Option<&Fact<'_>>) {
        for block in record.blocks.iter().filter(|block| block.fork == Fork::Main) {
            if let Some(relation) = self.relation(block.relation) {
                relation.touch(block.block);
            }
        }
        if let Some(fact) = fact {
            self.add_fact(record.begin, fact);
        }
    }

    /// Takes in what `record` changes.
    ///
    /// # Errors
    /// Those of [`Fact::of`]; the block references were taken in all the same.
    pub fn add_record(&mut self, record: &Record<'_>) -> Result<(), WalError> {
        let fact = Fact::of(record);
        self.add(record, fact.as_ref().ok().and_then(Option::as_ref));
        fact.map(|_| ())
    }

    fn add_fact(&mut self, at: Lsn, fact: &Fact<'_>) {
        if fact.wal_level() == Some(WalLevel::Minimal) {
            self.minimal_at.get_or_insert(at);
        }
        match fact {
            Fact::Commit(end) | Fact::Abort(end) => {
                for relation in end.dropped.iter() {
                    Fork::ALL.into_iter().for_each(|fork| self.cut(relation, fork, 0));
                }
            }
            Fact::RelationCreate { relation, fork } => self.cut(*relation, *fork, 0),
            Fact::RelationTruncate {
                relation,
                blocks,
                forks,
            } => {
                // How long the maps stay is arithmetic of the server's; they are compared by content anyway.
                for fork in Fork::ALL.into_iter().filter(|&fork| forks.contains(fork)) {
                    self.cut(*relation, fork, if fork == Fork::Main { *blocks } else { 0 });
                }
            }
            Fact::DatabaseCreate { database, .. } => self.add_database(*database),
            Fact::DatabaseDrop { directories } => {
                directories
                    .iter()
                    .for_each(|directory| self.add_database(*directory));
            }
            _ => {}
        }
    }

    fn cut(&mut self, relation: Relation, fork: Fork, limit: u32) {
        if let Some(relation) = self.relation(relation) {
            relation.cut(fork, limit);
        }
    }

    fn add_database(&mut self, directory: DatabaseDirectory) {
        self.databases.insert(directory);
        self.relations
            .retain(|relation, _| directory_of(*relation) != directory);
    }

    /// The entry of a relation; `None` when its whole database changed.
    #[inline]
    fn relation(&mut self, relation: Relation) -> Option<&mut RelationChanges> {
        let is_covered = !self.databases.is_empty() && self.databases.contains(&directory_of(relation));
        (!is_covered).then(|| self.relations.entry(relation).or_default())
    }

    /// Takes in another stretch, earlier or later.
    pub fn merge(&mut self, other: ChangedBlocks) {
        self.minimal_at = match (self.minimal_at, other.minimal_at) {
            (Some(ours), Some(theirs)) => Some(ours.min(theirs)),
            (ours, theirs) => ours.or(theirs),
        };
        for directory in other.databases {
            self.add_database(directory);
        }
        for (relation, theirs) in other.relations {
            if let Some(ours) = self.relation(relation) {
                ours.merge(&theirs);
            }
        }
    }

    /// Whether a block of a relation's main fork changed.
    pub fn is_changed(&self, relation: Relation, block: u32) -> bool {
        self.databases.contains(&directory_of(relation))
            || self
                .relations
                .get(&relation)
                .is_some_and(|changes| changes.is_changed(block))
    }

    /// What changed in one relation. A relation of a wholly changed database is not listed.
    pub fn get(&self, relation: Relation) -> Option<&RelationChanges> {
        self.relations.get(&relation)
    }

    /// The changed relations, in no order, but for those of wholly changed databases.
    pub fn relations(&self) -> impl ExactSizeIterator<Item = (Relation, &RelationChanges)> {
        self.relations
            .iter()
            .map(|(relation, changes)| (*relation, changes))
    }

    /// The directories of databases that changed as a whole.
    pub fn databases(&self) -> impl ExactSizeIterator<Item = DatabaseDirectory> + '_ {
        self.databases.iter().copied()
    }

    /// Where wal_level was first seen to be minimal: changes may have bypassed the log.
    pub fn minimal_at(&self) -> Option<Lsn> {
        self.minimal_at
    }

    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        self.relations.is_empty() && self.databases.is_empty() && self.minimal_at.is_none()
    }
}

fn directory_of(relation: Relation) -> DatabaseDirectory {
    DatabaseDirectory {
        tablespace: relation.tablespace,
        database: relation.database,
    }
}
