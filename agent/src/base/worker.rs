//! Reads the files of a cluster and encodes frames of them: blocking work, one thread each.
//!
//! Bytes are read straight into the frame being filled. Small files share frames. A frame goes to the worker's own
//! sink, and what was read of each unit is told to the books.

use std::sync::Arc;

use tidemark_postgres::basebackup::{BadPage, SourceFile, SourceReader};
use tidemark_postgres::page::{PAGE_SIZE, page_lsn};
use tidemark_repository::base::{
    EncodedFrame, FileId, FrameBuffer, FrameEncoder, HashKey, PageHash, PageHashReader, PartRef,
};
use tidemark_types::{ErrorClass, Lsn};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::books::Event;
use super::progress::Progress;
use super::work::{ByteRange, Unit, UnitTask, Work};
use crate::exit::Failure;

/// How much of a file is read at once to be compared.
const COMPARE_LEN: usize = 512 << 10;

/// What was read of one unit.
#[derive(Debug)]
pub struct UnitRead {
    /// Of which file.
    pub file: FileId,
    /// Whether the file is gone.
    pub is_gone: bool,
    /// How many bytes of it will arrive in frames.
    pub given: u64,
    /// Where the last bytes that were there end.
    pub read_to: u64,
    /// Ranges past the file's end.
    pub missing: Vec<ByteRange>,
    /// Pages that were bad every time they were read.
    pub bad: Vec<BadPage>,
}

impl UnitRead {
    fn of(file: FileId) -> UnitRead {
        UnitRead {
            file,
            is_gone: false,
            given: 0,
            read_to: 0,
            missing: Vec::new(),
            bad: Vec::new(),
        }
    }
}

/// What the log says of pages it does not name: no change in this range of positions.
#[derive(Debug, Clone, Copy)]
pub struct Quiet {
    /// After this position,
    pub after: Lsn,
    /// and up to this one.
    pub up_to: Lsn,
}

/// See the module.
pub struct Worker {
    /// What is to be read.
    pub work: Arc<Work>,
    /// Pages in a segment file of a relation.
    pub pages_per_segment: u32,
    /// Whether pages carry checksums.
    pub verify: bool,
    /// The key of page hashes.
    pub hash_key: HashKey,
    /// The parent's page hashes, if there is a parent.
    pub parent: Option<PageHashReader>,
    /// The log that unchanged pages were not named in.
    pub quiet: Quiet,
    /// The frame being filled.
    pub buffer: FrameBuffer,
    /// Makes frames.
    pub encoder: FrameEncoder,
    /// To the worker's sink.
    pub frames: mpsc::Sender<EncodedFrame>,
    /// To the books.
    pub events: mpsc::Sender<Event>,
    /// Where bytes are counted.
    pub progress: Arc<Progress>,
    /// Where requests to the repository run.
    pub runtime: Handle,
    /// Tells it to stop.
    pub stop: CancellationToken,
}

/// Why a worker ends before its work does.
enum Ends {
    /// Whoever takes what the worker makes is gone: the backup was given up, and says itself why.
    Abandoned,
    /// Its own failure.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Ends {
    fn from(error: E) -> Ends {
        Ends::Failed(error.into())
    }
}

impl Worker {
    /// Works until nothing is left, or the backup is given up.
    ///
    /// # Errors
    /// A file that cannot be read; zstd out of memory; `Corrupt` when a page changed that the log does not name.
    pub fn run(mut self) -> anyhow::Result<()> {
        match self.work() {
            Ok(()) | Err(Ends::Abandoned) => Ok(()),
            Err(Ends::Failed(error)) => Err(error),
        }
    }

    fn work(&mut self) -> Result<(), Ends> {
        let work = Arc::clone(&self.work);
        while let Some((unit, source)) = work.next() {
            self.unit(unit, source)?;
        }
        self.flush()
    }

    fn unit(&mut self, unit: &Unit, source: &SourceFile) -> Result<(), Ends> {
        let reader = SourceReader::open(source, self.pages_per_segment, self.verify)?;
        let Some(file) = unit.file else {
            return match (&reader, &unit.task) {
                (Some(reader), UnitTask::Check(ranges)) => self.check(source, reader, ranges),
                _ => Ok(()),
            };
        };
        let mut done = UnitRead::of(file);
        match (&reader, &unit.task) {
            (None, task) => {
                done.is_gone = true;
                done.missing.extend_from_slice(task.ranges());
            }
            (Some(reader), UnitTask::Store(ranges)) => {
                for range in ranges {
                    self.store(reader, *range, &mut done)?;
                }
            }
            (Some(reader), UnitTask::Compare(range, part)) => {
                self.compare(reader, *range, part.as_ref(), &mut done)?;
            }
            (Some(_), UnitTask::Check(_)) => {}
        }
        self.events
            .blocking_send(Event::Read(done))
            .map_err(|_| Ends::Abandoned)
    }

    /// Stores the bytes of a range that are there.
    fn store(&mut self, reader: &SourceReader, range: ByteRange, done: &mut UnitRead) -> Result<(), Ends> {
        let mut at = range.begin;
        while at < range.end {
            let room = self.buffer.room_for(range.end - at);
            if room == 0 {
                self.flush()?;
                continue;
            }
            let Some(space) = self.buffer.space().get_mut(..room) else {
                unreachable!("a buffer has the room that it says")
            };
            let read = reader.read(at, space)?;
            self.buffer.commit(done.file, at, read.bytes);
            done.bad.extend(read.bad);
            done.given += read.bytes as u64;
            at += read.bytes as u64;
            if read.bytes < room {
                break;
            }
        }
        self.ended(range, at, done);
        Ok(())
    }

    /// Stores the pages of a range that are not as the parent has them.
    fn compare(
        &mut self,
        reader: &SourceReader,
        range: ByteRange,
        part: Option<&PartRef>,
        done: &mut UnitRead,
    ) -> Result<(), Ends> {
        let known = match (&mut self.parent, part) {
            (Some(parent), Some(part)) => self.runtime.block_on(parent.of_part(part, PAGE_SIZE))?,
            _ => Vec::new(),
        };
        let mut known = known.into_iter();
        let mut bytes = vec![0; COMPARE_LEN.min(usize::try_from(range.len()).unwrap_or(COMPARE_LEN))];
        let mut at = range.begin;
        while at < range.end {
            let wanted = bytes
                .len()
                .min(usize::try_from(range.end - at).unwrap_or(usize::MAX));
            let Some(space) = bytes.get_mut(..wanted) else {
                break;
            };
            let read = reader.read(at, space)?;
            done.bad.extend(read.bad);
            for page in bytes.get(..read.bytes).unwrap_or_default().chunks(PAGE_SIZE) {
                if known.next().flatten() != Some(PageHash::of(&self.hash_key, page)) {
                    self.push(at, page, done)?;
                }
                at += page.len() as u64;
            }
            if read.bytes < wanted {
                break;
            }
        }
        self.ended(range, at, done);
        Ok(())
    }

    fn push(&mut self, offset: u64, page: &[u8], done: &mut UnitRead) -> Result<(), Ends> {
        if self.buffer.room_for(page.len() as u64) < page.len() {
            self.flush()?;
        }
        self.buffer.push(done.file, offset, page);
        done.given += page.len() as u64;
        Ok(())
    }

    /// A range was read up to `at`.
    fn ended(&self, range: ByteRange, at: u64, done: &mut UnitRead) {
        if at > range.begin {
            done.read_to = done.read_to.max(at);
        }
        if at < range.end {
            done.missing.push(ByteRange {
                begin: at,
                end: range.end,
            });
        }
        self.progress.add(range.len());
    }

    /// Looks for pages that changed although the log does not name them. A page's own position tells: changes of hint
    /// bits do not move it, and changes since the backup began move it past the range.
    fn check(
        &mut self,
        source: &SourceFile,
        reader: &SourceReader,
        ranges: &[ByteRange],
    ) -> Result<(), Ends> {
        for range in ranges {
            if self.stop.is_cancelled() {
                return Err(Ends::Abandoned);
            }
            let mut bytes = vec![0; usize::try_from(range.len()).unwrap_or(0)];
            let read = reader.read(range.begin, &mut bytes)?;
            let (pages, _) = bytes
                .get(..read.bytes)
                .unwrap_or_default()
                .as_chunks::<PAGE_SIZE>();
            for (page, number) in pages.iter().zip(range.begin / PAGE_SIZE as u64..) {
                let lsn = page_lsn(page);
                let is_bad = read.bad.iter().any(|bad| bad.lsn == lsn);
                if self.quiet.after < lsn && lsn <= self.quiet.up_to && !is_bad {
                    return Err(self.untold(source, number, lsn).into());
                }
            }
        }
        Ok(())
    }

    fn untold(&self, source: &SourceFile, block: u64, lsn: Lsn) -> Failure {
        let message = format!(
            "block {block} of {} was changed at {lsn}, and the log from {} to {} does not say so",
            source.path, self.quiet.after, self.quiet.up_to
        );
        Failure::new(ErrorClass::Corrupt, message)
    }

    /// Sends the frame being filled to the sink.
    fn flush(&mut self) -> Result<(), Ends> {
        if self.stop.is_cancelled() {
            return Err(Ends::Abandoned);
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        let frame = self.encoder.encode(&self.buffer)?;
        self.buffer.clear();
        self.frames.blocking_send(frame).map_err(|_| Ends::Abandoned)
    }
}
