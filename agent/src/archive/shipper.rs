//! Ships received log to the repository: cuts slices, writes them, and knows how far everything is durable.
//!
//! Knows no engine. Memory is bounded by the open grain and two that are being written: beyond that
//! [`Shipper::can_receive`] says no, and the caller stops reading from its server, which holds the rest.
//!
//! The durable position moves over a contiguous finished prefix only: slices are written side by side, and one that is
//! finished counts when all before it are.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tidemark_repository::log::{Diverged, Resume, SliceAssembler, SliceDraft, SliceFlags};
use tidemark_repository::{Archive, Branch, LogPosition, RepositoryError, SealedSlice};
use tidemark_types::{ErrorClass, Timestamp};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::state::ServerState;

/// Slices that may be under way at once: enough to keep a slow store busy, few enough for its request limits.
const WRITES_MAX: usize = 4;
/// Complete grains that may be under way at once.
const GRAINS_MAX: usize = 2;
/// Bytes without a commit may wait this many times longer than those with one.
const IDLE_FACTOR: u32 = 10;
/// How long an agent that was told to stop, or whose server is gone, goes on storing what it has received.
const STOPPING_MAX: Duration = Duration::from_secs(10);
/// Pause before a write is begun again after the storage layer gave up on it.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// When slices are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cadence {
    /// Bytes wait up to this long.
    Within(Duration),
    /// Commits wait for us: as soon as no write is under way.
    AtOnce,
}

/// A write that is under way, in log order.
#[derive(Debug)]
struct Pending {
    id: u64,
    end: LogPosition,
    /// End of the last whole record before `end`.
    whole: LogPosition,
    finished: bool,
}

/// What a finished write reports.
struct Written {
    id: u64,
    grain: Option<u64>,
    plain_len: u64,
    stored_len: u64,
    result: Result<(), RepositoryError>,
}

/// See the module.
pub struct Shipper {
    archive: Archive,
    branch: Branch,
    state: Arc<ServerState>,
    cadence: Cadence,
    assembler: SliceAssembler,
    writes: JoinSet<Written>,
    /// Writes that the durable position waits for, oldest first.
    queue: VecDeque<Pending>,
    /// Complete grains under way, by a number of their own.
    grains: Vec<u64>,
    next_id: u64,
    durable: LogPosition,
    durable_whole: LogPosition,
    /// End of the last whole record received.
    whole: LogPosition,
    /// When the oldest bytes that no slice has taken came, and whether there is a commit among them.
    waiting_since: Option<Instant>,
    commit_since: Option<Instant>,
}

impl Shipper {
    /// Goes on where `resume` says; `whole` is the end of the last whole record that is known to be stored.
    pub fn new(
        archive: Archive,
        branch: Branch,
        resume: Resume,
        whole: LogPosition,
        cadence: Cadence,
        state: Arc<ServerState>,
    ) -> Shipper {
        let durable = resume.durable;
        let assembler = SliceAssembler::new(archive.record().chain_key, resume);
        Shipper {
            archive,
            branch,
            state,
            cadence,
            assembler,
            writes: JoinSet::new(),
            queue: VecDeque::new(),
            grains: Vec::new(),
            next_id: 0,
            durable,
            durable_whole: whole,
            whole,
            waiting_since: None,
            commit_since: None,
        }
    }

    /// Where received bytes end.
    pub fn position(&self) -> LogPosition {
        self.assembler.position()
    }

    /// Up to where everything is durable.
    pub fn durable(&self) -> LogPosition {
        self.durable
    }

    /// The end of the last whole record that is durable with all before it: what a server may be told.
    pub fn durable_whole(&self) -> LogPosition {
        self.durable_whole
    }

    /// Whether what was received does not yet reach what is stored.
    pub fn is_comparing(&self) -> bool {
        self.assembler.is_comparing()
    }

    /// Whether there is room for more bytes.
    pub fn can_receive(&self) -> bool {
        self.grains.len() < GRAINS_MAX
    }

    /// Bytes that can be taken in before the next cut is due anyway; the caller stops at the file's end too.
    pub fn room(&self) -> u64 {
        self.assembler.room()
    }

    /// Takes the next bytes of the log in, at most [`Shipper::room`].
    ///
    /// # Errors
    /// [`Diverged`] when they differ from what is stored.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Diverged> {
        self.assembler.push(bytes)?;
        if self.assembler.has_new_bytes() {
            self.waiting_since.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// Notes that a transaction ended in the bytes taken in last.
    pub fn note_time(&mut self, time: Timestamp) {
        self.assembler.note_time(time);
    }

    /// Notes that a client may wait for these bytes.
    pub fn note_commit(&mut self) {
        if self.assembler.has_new_bytes() {
            self.commit_since.get_or_insert_with(Instant::now);
        }
    }

    /// Notes something else about the bytes taken in last.
    pub fn note_flags(&mut self, flags: SliceFlags) {
        self.assembler.note_flags(flags);
    }

    /// The last whole record received ends here.
    pub fn note_whole(&mut self, whole: LogPosition) {
        self.whole = self.whole.max(whole);
    }

    /// When the next cut is due by time; `None` when nothing waits, or when writes must finish first.
    pub fn due(&self) -> Option<Instant> {
        let waiting = self.waiting_since?;
        match self.cadence {
            Cadence::AtOnce if self.commit_since.is_some() => self.queue.is_empty().then_some(waiting),
            Cadence::AtOnce => self.has_free_write().then(|| waiting + Duration::from_secs(1)),
            Cadence::Within(lag) => {
                let idle = waiting + lag * IDLE_FACTOR;
                let due = self.commit_since.map_or(idle, |commit| idle.min(commit + lag));
                self.has_free_write().then_some(due)
            }
        }
    }

    fn has_free_write(&self) -> bool {
        self.writes.len() < WRITES_MAX
    }

    /// Cuts what was received into a slice and begins to write it. The last whole record ends `back` bytes before;
    /// `ends_file` says that the log file is complete. Does nothing when there is nothing new, except to end the file.
    pub fn cut(&mut self, back: u64, ends_file: bool) {
        self.waiting_since = None;
        self.commit_since = None;
        let whole = self.whole.min(self.assembler.position());
        let drafts = self.assembler.cut(back, ends_file);
        let count = drafts.len();
        for (index, draft) in drafts.into_iter().enumerate() {
            let id = self.next_id;
            self.next_id += 1;
            if index == 0 {
                self.queue.push_back(Pending {
                    id,
                    end: draft.key.end_position(),
                    whole,
                    finished: false,
                });
            }
            // The last slice of a complete grain holds it all in memory until it is written.
            let is_grain =
                index + 1 == count && self.assembler.position().grain_start() == self.assembler.position();
            let grain = is_grain.then_some(id);
            self.grains.extend(grain);
            self.writes
                .spawn(write(self.archive.clone(), self.branch, draft, id, grain));
        }
    }

    /// Waits until a write is finished and takes its result in. Pending for ever when none is under way. May be
    /// dropped: the writes go on.
    ///
    /// # Errors
    /// What made a write impossible for good: another writer's bytes under our name, a refusal.
    pub async fn progress(&mut self) -> Result<(), RepositoryError> {
        let Some(joined) = self.writes.join_next().await else {
            return std::future::pending().await;
        };
        let written = match joined {
            Ok(written) => written,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return std::future::pending().await,
        };
        written.result?;
        self.grains.retain(|grain| Some(*grain) != written.grain);
        self.state.update(|facts| {
            facts.uploads.count += 1;
            facts.uploads.plain_bytes += written.plain_len;
            facts.uploads.stored_bytes += written.stored_len;
        });
        if let Some(pending) = self.queue.iter_mut().find(|pending| pending.id == written.id) {
            pending.finished = true;
        }
        while self.queue.front().is_some_and(|pending| pending.finished)
            && let Some(pending) = self.queue.pop_front()
        {
            self.durable = pending.end;
            self.durable_whole = self.durable_whole.max(pending.whole);
        }
        Ok(())
    }

    /// Waits for the writes under way, as long as that takes seconds only.
    ///
    /// # Errors
    /// As [`Shipper::progress`].
    pub async fn store_rest(&mut self) -> Result<(), RepositoryError> {
        let stored = timeout(STOPPING_MAX, async {
            while !self.is_idle() {
                self.progress().await?;
            }
            Ok(())
        });
        stored.await.unwrap_or_else(|_| {
            tracing::warn!("what was received last could not be stored in time; it will be received again");
            Ok(())
        })
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.writes.is_empty()
    }
}

/// Seals and writes one slice, until it is stored or cannot be.
async fn write(archive: Archive, branch: Branch, draft: SliceDraft, id: u64, grain: Option<u64>) -> Written {
    let plain_len = draft.key.len();
    let sealed = tokio::task::spawn_blocking(move || SealedSlice::seal(&draft)).await;
    let sealed = match sealed {
        Ok(Ok(sealed)) => sealed,
        Ok(Err(error)) => {
            return Written {
                id,
                grain,
                plain_len,
                stored_len: 0,
                result: Err(error),
            };
        }
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let stored_len = sealed.stored_len();
    let result = loop {
        match archive.put_slice(branch, &sealed).await {
            Err(error) if error.class() == ErrorClass::Transient => {
                let object = sealed.key.to_string();
                tracing::warn!(object, error = %Causes(&error), "the slice is not stored yet; trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            result => break result,
        }
    };
    Written {
        id,
        grain,
        plain_len,
        stored_len,
        result,
    }
}

/// An error with its causes in one line.
pub struct Causes<'a>(pub &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut said = self.0.to_string();
        let mut source = self.0.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            said = text;
            source = cause.source();
        }
        Ok(())
    }
}
