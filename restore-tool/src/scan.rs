//! Reading slices for a plan: fetched, proven, decoded to what their records say about transactions.

use futures::stream::{self, StreamExt, TryStreamExt};
use tidemark_postgres::wal::{Fact, Record, WalDecoder};
use tidemark_repository::log::{LogReader, LogVerifier, SliceFlags};
use tidemark_repository::{Archive, StoredSlice};
use tidemark_types::{Lsn, WalSegmentSize};

use crate::plan::{
    Ending, EndingKind, Known, Line, LineSlice, RecordSpan, RestorePoint, SliceFacts, SliceId,
};
use crate::positions::{branch_of, lsn_of, position_of};

/// Slices of one stretch fetched at once; a plan reads few.
const FETCHES_AT_ONCE: usize = 4;
/// Stretches read at once: each may hold two grains in memory.
const READS_AT_ONCE: usize = 3;

/// Reads the slices `ids` of `lines` and takes what they say into `known`. With `xid`, records of that transaction are
/// marked, and most others forgotten.
///
/// # Errors
/// What the store says; `Damaged` and `Conflict` of the slices; [`tidemark_postgres::wal::WalError`].
pub async fn read_slices(
    archive: &Archive,
    lines: &[Line<'_>],
    ids: &[SliceId],
    xid: Option<u32>,
    known: &mut Known,
) -> anyhow::Result<()> {
    let wanted = ids.iter().filter_map(|id| {
        let line = lines.get(id.line)?;
        Some((*id, line.slice(id.slice)?, line.segment_size()))
    });
    let reads = wanted.map(|(id, slice, size)| async move {
        let facts = read_slice(archive, slice, size, xid).await?;
        anyhow::Ok((id, facts))
    });
    let mut reads = stream::iter(reads).buffer_unordered(READS_AT_ONCE);
    while let Some((id, facts)) = reads.try_next().await? {
        known.insert(id, facts);
    }
    Ok(())
}

async fn read_slice(
    archive: &Archive,
    slice: LineSlice<'_>,
    size: WalSegmentSize,
    xid: Option<u32>,
) -> anyhow::Result<SliceFacts> {
    let (begin, end) = (position_of(slice.parse_from, size), position_of(slice.end, size));
    let reader = LogReader::new(archive, branch_of(slice.timeline), slice.run, begin, end);
    let verifier = reader.verifier(slice.run);
    let stored: Vec<StoredSlice> = reader.fetch(FETCHES_AT_ONCE).try_collect().await?;
    let scan = Scan {
        size,
        parse_from: slice.parse_from,
        begin: slice.begin,
        end: slice.end,
        may_be_damaged: slice.key.flags.has(SliceFlags::UNINDEXED),
        xid,
    };
    tokio::task::spawn_blocking(move || scan.run(verifier, &stored)).await?
}

/// The decoding of one slice.
struct Scan {
    size: WalSegmentSize,
    parse_from: Lsn,
    /// Records that end in here count.
    begin: Lsn,
    end: Lsn,
    /// The agent could not read it either.
    may_be_damaged: bool,
    xid: Option<u32>,
}

impl Scan {
    fn run(&self, mut verifier: LogVerifier, stored: &[StoredSlice]) -> anyhow::Result<SliceFacts> {
        let mut decoder = WalDecoder::new(self.parse_from, self.size);
        let mut facts = SliceFacts::default();
        for slice in stored {
            let Some(chunk) = verifier.next(slice)? else {
                continue;
            };
            let skip = self.parse_from.bytes_since(lsn_of(chunk.begin, self.size));
            let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.bytes.len());
            let mut input = chunk.bytes.get(skip..).unwrap_or_default();
            self.feed(&mut decoder, &mut input, &mut facts)?;
        }
        if self.xid.is_some() {
            facts.keep_wanted();
        }
        Ok(facts)
    }

    fn feed(
        &self,
        decoder: &mut WalDecoder,
        input: &mut &[u8],
        facts: &mut SliceFacts,
    ) -> anyhow::Result<()> {
        loop {
            match decoder.next(input) {
                Ok(None) => return Ok(()),
                Ok(Some(record)) => {
                    let span = span(&record);
                    if self.begin < span.end && span.end <= self.end {
                        self.take(&record, span, facts)?;
                    }
                }
                Err(error) if self.may_be_damaged => {
                    tracing::warn!(%error, "the log cannot be read here; going on behind it");
                    decoder.resync();
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take(&self, record: &Record<'_>, span: RecordSpan, facts: &mut SliceFacts) -> anyhow::Result<()> {
        facts.last = Some(span);
        let ending = |kind, time, xid, is_wanted| Ending {
            begin: span.begin,
            end: span.end,
            kind,
            time,
            xid,
            is_wanted,
        };
        match Fact::of(record)? {
            Some(Fact::RestorePoint { time, name }) => facts.points.push(RestorePoint {
                begin: span.begin,
                time,
                name: name.into_owned(),
            }),
            Some(Fact::Prepare(prepare)) => {
                let is_wanted = self.xid == Some(prepare.xid);
                facts
                    .endings
                    .push(ending(EndingKind::Prepare, prepare.time, prepare.xid, is_wanted));
            }
            Some(fact @ (Fact::Commit(_) | Fact::Abort(_))) => {
                let kind = if matches!(fact, Fact::Commit(_)) {
                    EndingKind::Commit
                } else {
                    EndingKind::Abort
                };
                let (Fact::Commit(end) | Fact::Abort(end)) = fact else {
                    return Ok(());
                };
                let is_wanted = self
                    .xid
                    .is_some_and(|xid| end.xid == xid || end.subtransactions.iter().any(|sub| sub == xid));
                facts.endings.push(ending(kind, end.time, end.xid, is_wanted));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Where a record lies. That of a segment switch ends with itself here, not with its segment: the padding behind it may
/// be in other slices.
fn span(record: &Record<'_>) -> RecordSpan {
    let end = if record.is_segment_switch() {
        Lsn(record
            .begin
            .0
            .saturating_add(u64::from(record.length).next_multiple_of(8)))
    } else {
        record.end
    };
    RecordSpan {
        begin: record.begin,
        end,
    }
}
