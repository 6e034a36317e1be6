//! Gathers which blocks each grain of log changed, and stores that beside the log: a cache that makes incremental
//! base backups cheap. What is missing there is found again by parsing the log, so failures only warn.

use tidemark_postgres::wal::{ChangedBlocks, Fact, Record};
use tidemark_repository::{Archive, Branch, LogPosition};
use tidemark_types::{Lsn, WalSegmentSize};
use tokio::task::JoinSet;

use super::lsn_map::position_of;
use crate::archive::shipper::Causes;

/// Writes that may be under way at once; a grain whose turn does not come is left out.
const WRITES_MAX: usize = 4;

/// See the module.
pub struct ChangesWriter {
    archive: Archive,
    branch: Branch,
    segment_size: WalSegmentSize,
    blocks: ChangedBlocks,
    grain_begin: LogPosition,
    /// Whether every record that ends in the open grain was seen. Not so in the first one after a start in mid-log: a
    /// record that began before it passed unseen.
    complete: bool,
    writes: JoinSet<()>,
}

impl ChangesWriter {
    /// Gathers from `begin`, the start of a grain, on; `is_origin` says that no log comes before it.
    pub fn new(
        archive: Archive,
        branch: Branch,
        segment_size: WalSegmentSize,
        begin: Lsn,
        is_origin: bool,
    ) -> ChangesWriter {
        ChangesWriter {
            archive,
            branch,
            segment_size,
            blocks: ChangedBlocks::default(),
            grain_begin: position_of(begin, segment_size),
            complete: is_origin,
            writes: JoinSet::new(),
        }
    }

    /// Takes one record in, with the fact that it states.
    pub fn record(&mut self, record: &Record<'_>, fact: Option<&Fact<'_>>) {
        self.blocks.add(record, fact);
    }

    /// Every record that ends in the open grain will be seen after all.
    pub fn nothing_missed(&mut self) {
        self.complete = true;
    }

    /// Records of the open grain were lost: it is left out.
    pub fn give_up(&mut self) {
        self.complete = false;
    }

    /// The open grain ends at `end`.
    pub fn grain_ended(&mut self, end: Lsn) {
        while self.writes.try_join_next().is_some() {}
        let begin = self.grain_begin;
        self.grain_begin = position_of(end, self.segment_size);
        let blocks = std::mem::take(&mut self.blocks);
        if !std::mem::replace(&mut self.complete, true) || self.writes.len() >= WRITES_MAX {
            return;
        }
        let end_offset = match position_of(end, self.segment_size) {
            next if next.file == begin.file => next.offset,
            _ => self.segment_size.bytes(),
        };
        let (archive, branch) = (self.archive.clone(), self.branch);
        self.writes.spawn(async move {
            let plain = blocks.encode().into();
            if let Err(error) = archive.put_changes(branch, begin.file, begin.offset, end_offset, plain).await {
                tracing::warn!(error = %Causes(&error), "the changed blocks of a piece of log are not stored");
            }
        });
    }
}
