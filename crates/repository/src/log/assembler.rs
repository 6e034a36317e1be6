//! From received bytes to slices: holds the open grain, and decides which bytes the next slice takes. Pure.
//!
//! The open grain stays in memory, so that wide slices and the final one of a complete grain are written from there
//! and nothing is read back. Every 64th slice of a grain is followed by one that takes in the 64, every 4096th by one
//! of the whole grain: a slow log stays a handful of objects, and the narrow ones become superseded.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemark_types::Timestamp;

use super::{
    ChainHash, ChainKey, ChainPoint, GRAIN_LEN, LogPosition, Run, RunningHash, SliceFlags, SliceKey,
    TimeRange,
};

/// Received bytes are kept in blocks of this many bytes: large enough to be few, small enough not to be held for long
/// by a small slice that is being written.
const BLOCK_LEN: usize = 1 << 20;
/// Commits that run side by side are logged out of order by moments; more than this is a clock that was set back.
const CLOCK_STEP: Duration = Duration::from_secs(1);
/// So many slices are followed by one that takes them all in.
const MERGE: u32 = 64;

/// What the records that ended in some bytes tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SliceFacts {
    /// Times of their commits and aborts.
    pub times: Option<TimeRange>,
    /// What else was among them.
    pub flags: SliceFlags,
}

impl SliceFacts {
    fn merge(&mut self, other: SliceFacts) {
        self.times = TimeRange::union(self.times, other.times);
        self.flags = self.flags.with(other.flags);
    }
}

/// Bytes that were received again and are not those that are stored: the logs diverged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log differs from what is stored: at {position} the archive has hash {stored}, the server's bytes have {received}"
)]
pub struct Diverged {
    /// The first stored slice end at which it shows.
    pub position: LogPosition,
    /// The hash in the repository.
    pub stored: ChainHash,
    /// The hash of what the server sent.
    pub received: ChainHash,
}

/// A slice to be written: its name, and its bytes in pieces.
#[derive(Debug, Clone)]
pub struct SliceDraft {
    /// Its name.
    pub key: SliceKey,
    /// Its bytes.
    pub chunks: Vec<Bytes>,
}

/// Where an assembler begins: the start of a grain, and what is already stored from there on.
#[derive(Debug, Clone)]
pub struct Resume {
    /// Where bytes will come from: the start of a grain.
    pub start: LogPosition,
    /// The chain's hash there.
    pub seed: ChainHash,
    /// Where what is stored ends: `start` when nothing is. Bytes before are compared, not written again.
    pub durable: LogPosition,
    /// Points that received bytes must pass with the same hash, sorted. Past `durable` they tell what the log repeats of
    /// another one: nothing is cut before the last of them, but for complete grains, whose borders must be among them.
    pub known: Vec<ChainPoint>,
    /// Facts in the keys of stored slices from `start` on, by position of their end, sorted. They are merged into
    /// wider slices, because a parser that joined in mid-log may have missed the first record.
    pub stored_facts: Vec<(LogPosition, SliceFacts)>,
}

impl Resume {
    /// Goes on from `run`, with bytes from `seed` on: a point on its path at a grain's start. `slices` are all that are
    /// stored of the branch from there on.
    pub fn within(run: &Run, slices: &[SliceKey], seed: ChainPoint) -> Resume {
        let known = run.known_points(slices).into_iter();
        let mut stored_facts: Vec<_> = slices
            .iter()
            .filter(|slice| {
                slice.begin_position() >= seed.position && slice.end_position() <= run.end.position
            })
            .map(|slice| {
                let facts = SliceFacts {
                    times: slice.times,
                    flags: slice.facts_flags(),
                };
                (slice.end_position(), facts)
            })
            .collect();
        stored_facts.sort_by_key(|(end, _)| *end);
        Resume {
            start: seed.position,
            seed: seed.hash,
            durable: run.end.position,
            known: known.filter(|point| point.position >= seed.position).collect(),
            stored_facts,
        }
    }

    /// A log that nothing is stored of, from `file` on.
    pub fn origin(file: u64) -> Resume {
        let start = LogPosition::start_of(file);
        Resume {
            start,
            seed: ChainHash::ORIGIN,
            durable: start,
            known: Vec::new(),
            stored_facts: Vec::new(),
        }
    }
}

/// Holds the open grain of one log; see the module.
#[derive(Debug)]
pub struct SliceAssembler {
    hash: RunningHash,
    /// Where received bytes end.
    position: LogPosition,
    grain_begin: LogPosition,
    /// The open grain's bytes up to the last block border or cut.
    blocks: Vec<Bytes>,
    tail: BytesMut,
    /// Cut points of the open grain: where a slice may begin, with the hash there.
    last_cut: ChainPoint,
    group_begin: ChainPoint,
    grain_seed: ChainHash,
    since_cut: SliceFacts,
    since_group: SliceFacts,
    since_grain: SliceFacts,
    cuts: u32,
    /// Newest commit time seen.
    last_time: Option<Timestamp>,
    /// What is received up to here is compared.
    compared_to: LogPosition,
    known: std::iter::Peekable<std::vec::IntoIter<ChainPoint>>,
    stored_facts: std::iter::Peekable<std::vec::IntoIter<(LogPosition, SliceFacts)>>,
}

impl SliceAssembler {
    /// Begins where `resume` says.
    pub fn new(key: ChainKey, resume: Resume) -> SliceAssembler {
        let seed = ChainPoint {
            position: resume.start,
            hash: resume.seed,
        };
        // Until the stored end has been reached, its hash is that of the known point there.
        let durable = resume
            .known
            .iter()
            .rfind(|point| point.position == resume.durable)
            .copied()
            .unwrap_or(seed);
        let last_known = resume.known.last().map_or(resume.start, |point| point.position);
        SliceAssembler {
            hash: RunningHash::new(key, resume.seed),
            position: resume.start,
            grain_begin: resume.start,
            blocks: Vec::new(),
            tail: BytesMut::new(),
            last_cut: durable,
            group_begin: durable,
            grain_seed: resume.seed,
            since_cut: SliceFacts::default(),
            since_group: SliceFacts::default(),
            since_grain: SliceFacts::default(),
            cuts: 0,
            last_time: None,
            compared_to: last_known.max(durable.position),
            known: resume.known.into_iter().peekable(),
            stored_facts: resume.stored_facts.into_iter().peekable(),
        }
    }

    /// Where received bytes end.
    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// Bytes that can be taken in at once: up to the end of the open grain, and not over the end of what is stored, so
    /// that facts noted afterwards are known to lie on one side of it. (The caller also stops at the end of the file.)
    pub fn room(&self) -> u64 {
        let grain = GRAIN_LEN - (self.position.offset - self.grain_begin.offset);
        match self.last_cut.position {
            cut if self.position < cut && cut.file == self.position.file => {
                grain.min(cut.offset - self.position.offset)
            }
            _ => grain,
        }
    }

    fn grain_is_full(&self) -> bool {
        self.position.offset - self.grain_begin.offset == GRAIN_LEN
    }

    /// Whether bytes were received that no slice has taken.
    pub fn has_new_bytes(&self) -> bool {
        self.position > self.last_cut.position
    }

    /// Whether what was received does not yet reach the end of what it is compared with.
    pub fn is_comparing(&self) -> bool {
        self.position < self.compared_to
    }

    /// Takes the next bytes of the log in, at most [`SliceAssembler::room`].
    ///
    /// # Errors
    /// [`Diverged`] when they are not what is stored; the assembler must not be used any further.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Diverged> {
        debug_assert!(
            bytes.len() as u64 <= GRAIN_LEN,
            "more bytes than a grain has room for"
        );
        self.check_known()?;
        while !bytes.is_empty() {
            let take = match self.known.peek() {
                Some(point) if point.position.file == self.position.file => {
                    let until = point.position.offset.saturating_sub(self.position.offset);
                    bytes
                        .len()
                        .min(usize::try_from(until).unwrap_or(usize::MAX))
                        .max(1)
                }
                _ => bytes.len(),
            };
            let (now, rest) = bytes.split_at(take);
            self.hash.update(now);
            self.keep(now);
            self.position.offset += now.len() as u64;
            self.check_known()?;
            bytes = rest;
        }
        Ok(())
    }

    fn keep(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.tail.capacity() == self.tail.len() {
                if !self.tail.is_empty() {
                    self.blocks.push(self.tail.split().freeze());
                }
                self.tail = BytesMut::with_capacity(BLOCK_LEN);
            }
            let take = bytes.len().min(self.tail.capacity() - self.tail.len());
            self.tail.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
        }
    }

    /// Compares with every stored point that has been reached.
    fn check_known(&mut self) -> Result<(), Diverged> {
        while let Some(point) = self.known.next_if(|point| point.position <= self.position) {
            let received = self.hash.current();
            if point.position == self.position && point.hash != received {
                return Err(Diverged {
                    position: point.position,
                    stored: point.hash,
                    received,
                });
            }
        }
        Ok(())
    }

    /// Notes the time of a commit or abort record that ended in the bytes received since the last cut.
    pub fn note_time(&mut self, time: Timestamp) {
        let mut facts = SliceFacts {
            times: Some(TimeRange::at(time)),
            flags: SliceFlags::default(),
        };
        if self.last_time.is_some_and(|last| last.since(time) > CLOCK_STEP) {
            facts.flags = SliceFlags::TIME_WENT_BACK;
        }
        self.last_time = self.last_time.max(Some(time));
        self.note(facts);
    }

    /// Notes something else about the bytes received since the last cut.
    pub fn note_flags(&mut self, flags: SliceFlags) {
        self.note(SliceFacts { times: None, flags });
    }

    fn note(&mut self, facts: SliceFacts) {
        self.since_grain.merge(facts);
        // What is stored already counts for wide slices only where they reach over it.
        if self.has_new_bytes() {
            self.since_cut.merge(facts);
            self.since_group.merge(facts);
        }
    }

    /// Cuts a slice of all new bytes, `back` bytes after the last whole record: none when there are none, or when they
    /// must be compared first. It may be followed by a wider one, which supersedes it and those before it. The caller must cut when `room()` is zero or
    /// the log file ends (`ends_file`): both begin the next grain.
    ///
    /// The narrow slice is written even where a wide one follows at once: it leads from the slice before to the end of
    /// the wide one, so that every honest chain is seen to close from names alone.
    pub fn cut(&mut self, back: u64, ends_file: bool) -> Vec<SliceDraft> {
        let grain_ends = ends_file || self.grain_is_full();
        // A file may turn out to have ended where the last slice did: then that is said by one that ends it.
        let closes = ends_file && self.position == self.last_cut.position && self.position.offset > 0;
        let drafts = if closes || (self.has_new_bytes() && (grain_ends || !self.is_comparing())) {
            self.drafts(back, ends_file, grain_ends)
        } else {
            Vec::new()
        };
        if grain_ends {
            self.begin_grain(ends_file);
        }
        drafts
    }

    fn drafts(&mut self, back: u64, ends_file: bool, grain_ends: bool) -> Vec<SliceDraft> {
        self.merge_stored_facts();
        self.cuts += 1;
        let (narrow, narrow_facts) = (self.last_cut, self.since_cut);
        let wide = if grain_ends || self.cuts.is_multiple_of(MERGE * MERGE) {
            Some((
                ChainPoint {
                    position: self.grain_begin,
                    hash: self.grain_seed,
                },
                self.since_grain,
            ))
        } else if self.cuts.is_multiple_of(MERGE) {
            Some((self.group_begin, self.since_group))
        } else {
            None
        };
        let end = ChainPoint {
            position: self.position,
            hash: self.hash.current(),
        };
        let mut drafts = Vec::new();
        if narrow != end && wide.is_none_or(|(begin, _)| begin != narrow) {
            drafts.push(self.draft(narrow, end, back, narrow_facts, ends_file));
        }
        if let Some((begin, facts)) = wide {
            drafts.push(self.draft(begin, end, back, facts, ends_file));
        }
        self.last_cut = end;
        self.since_cut = SliceFacts::default();
        if self.cuts.is_multiple_of(MERGE) {
            self.group_begin = end;
            self.since_group = SliceFacts::default();
        }
        drafts
    }

    fn draft(
        &mut self,
        begin: ChainPoint,
        end: ChainPoint,
        back: u64,
        facts: SliceFacts,
        ends_file: bool,
    ) -> SliceDraft {
        let ends = if ends_file {
            SliceFlags::ENDS_FILE
        } else {
            SliceFlags::default()
        };
        let key = SliceKey {
            file: end.position.file,
            begin: begin.position.offset,
            end: end.position.offset,
            begin_hash: begin.hash,
            end_hash: end.hash,
            back,
            times: facts.times,
            flags: facts.flags.with(ends),
        };
        SliceDraft {
            key,
            chunks: self.chunks_from(begin.position),
        }
    }

    /// Stored keys of this grain may know times that this parser could not see.
    fn merge_stored_facts(&mut self) {
        while let Some((_, facts)) = self.stored_facts.next_if(|(end, _)| *end <= self.position) {
            self.since_grain.merge(facts);
        }
    }

    /// The open grain's bytes from `begin` on, without copying them.
    fn chunks_from(&mut self, begin: LogPosition) -> Vec<Bytes> {
        if !self.tail.is_empty() {
            let full = self.tail.split().freeze();
            self.blocks.push(full);
        }
        let mut skip = usize::try_from(begin.offset - self.grain_begin.offset).unwrap_or(usize::MAX);
        let mut chunks = Vec::new();
        for block in &self.blocks {
            if skip < block.len() {
                chunks.push(block.slice(skip..));
            }
            skip = skip.saturating_sub(block.len());
        }
        chunks
    }

    fn begin_grain(&mut self, ends_file: bool) {
        // Facts of slices that end with this grain belong to it, even when there was nothing new to cut.
        self.merge_stored_facts();
        self.hash.next_grain();
        if ends_file {
            self.position = LogPosition::start_of(self.position.file + 1);
        }
        self.grain_begin = self.position;
        self.grain_seed = self.hash.current();
        self.blocks.clear();
        self.tail = BytesMut::new();
        self.cuts = 0;
        self.since_grain = SliceFacts::default();
        if self.last_cut.position <= self.position {
            let here = ChainPoint {
                position: self.position,
                hash: self.grain_seed,
            };
            self.last_cut = here;
            self.group_begin = here;
            self.since_cut = SliceFacts::default();
            self.since_group = SliceFacts::default();
        }
    }
}

#[cfg(test)]
mod tests;
