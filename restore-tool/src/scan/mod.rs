//! Reading slices for a plan: fetched, proven, decoded to what their records say about transactions.

mod binlog;
mod wal;

use futures::stream::{self, StreamExt, TryStreamExt};
use tidemark_repository::Archive;
use tidemark_repository::log::SliceFlags;
use tidemark_types::{LogFiles, Position};

use self::binlog::Formats;
use crate::log_bytes::LogBytes;
use crate::plan::{Known, Line, LineSlice, SliceFacts, SliceId, TransactionId};

/// Slices of one stretch fetched at once; a plan reads few.
const FETCHES_AT_ONCE: usize = 4;
/// Stretches read at once: each may hold a few grains in memory.
const READS_AT_ONCE: usize = 3;

/// Reads slices of the lines of one archive.
#[derive(Debug)]
pub struct Scanner<'a> {
    archive: &'a Archive,
    lines: &'a [Line<'a>],
    formats: Formats,
}

impl<'a> Scanner<'a> {
    /// A reader that has read nothing yet.
    pub fn new(archive: &'a Archive, lines: &'a [Line<'a>]) -> Scanner<'a> {
        Scanner {
            archive,
            lines,
            formats: Formats::default(),
        }
    }

    /// Reads the slices `ids` and takes what they say into `known`. With `wanted`, ends of that transaction are marked,
    /// and most others forgotten.
    ///
    /// # Errors
    /// What the store says; `Damaged` and `Conflict` of the slices; [`tidemark_postgres::wal::WalError`],
    /// [`tidemark_mysql::binlog::BinlogError`].
    pub async fn read(
        &self,
        ids: &[SliceId],
        wanted: Option<&TransactionId>,
        known: &mut Known,
    ) -> anyhow::Result<()> {
        let reads = ids.iter().map(|id| self.read_one(*id, wanted));
        let mut reads = stream::iter(reads).buffer_unordered(READS_AT_ONCE);
        while let Some(read) = reads.try_next().await? {
            if let Some((id, facts)) = read {
                known.insert(id, facts);
            }
        }
        Ok(())
    }

    /// `None` for a slice that is not there.
    async fn read_one(
        &self,
        id: SliceId,
        wanted: Option<&TransactionId>,
    ) -> anyhow::Result<Option<(SliceId, SliceFacts)>> {
        let line = self.lines.get(id.line);
        let found = line.and_then(|line| Some((line.slice(id.slice)?, line.parse_from(id.slice)?)));
        let Some((slice, parse_from)) = found else {
            return Ok(None);
        };
        let scan = Scan {
            parse_from,
            begin: slice.begin,
            end: slice.end,
            may_be_damaged: slice.key.flags.has(SliceFlags::UNINDEXED),
            wanted: wanted.cloned(),
        };
        let mut facts = match parse_from.files {
            LogFiles::Wal(size) => wal::read(self.archive, &slice, scan, size).await?,
            LogFiles::Binlog { .. } => binlog::read(self.archive, &slice, scan, &self.formats).await?,
        };
        if wanted.is_some() {
            facts.keep_wanted();
        }
        Ok(Some((id, facts)))
    }
}

/// What is wanted of one slice.
struct Scan {
    /// Decoding begins here.
    parse_from: Position,
    /// Records, or transactions, that end in `(begin, end]` count.
    begin: Position,
    end: Position,
    /// The agent could not read it either.
    may_be_damaged: bool,
    wanted: Option<TransactionId>,
}

impl Scan {
    fn counts(&self, end: Position) -> bool {
        self.begin < end && end <= self.end
    }

    fn bytes(&self, archive: &Archive, slice: &LineSlice<'_>, begin: Position) -> LogBytes {
        LogBytes::new(archive, slice.branch, slice.run, begin, self.end, FETCHES_AT_ONCE)
    }
}

/// Something that is fed with the log, off the reactor, and then tells facts.
trait Reader: Send + 'static {
    fn feed(&mut self, bytes: &[u8]) -> anyhow::Result<()>;
    fn facts(self) -> SliceFacts;
}

async fn run<R: Reader>(mut reader: R, mut bytes: LogBytes) -> anyhow::Result<SliceFacts> {
    while let Some(chunk) = bytes.next().await? {
        reader = tokio::task::spawn_blocking(move || reader.feed(&chunk.bytes).map(|()| reader)).await??;
    }
    Ok(reader.facts())
}
