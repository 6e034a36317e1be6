//! Finds out from the stored log which blocks changed between two base backups.
//!
//! The changed-blocks objects of whole grains are read; what is missing there, and the grain that is not whole yet, is
//! found by parsing the log. More blocks than changed are harmless, fewer are not: whatever cannot be read ends the
//! search, and the caller compares instead.

use futures::stream::{self, StreamExt, TryStreamExt};
use tidemark_postgres::wal::{ChangedBlocks, WalDecoder};
use tidemark_repository::log::{GRAIN_LEN, LogReader, LogVerifier, Run, SliceKey, coverage};
use tidemark_repository::{Archive, StoredSlice};
use tidemark_types::{LogFiles, Lsn, TimelineHistory, TimelineId, WalSegmentSize};
use tokio_util::sync::CancellationToken;

use super::durable::{self, LogWriter, Stretch};
use crate::archive::postgresql::lsn_map::{branch_of, lsn_of, position_of};

/// Requests under way at once.
const REQUESTS: usize = 8;
/// Bytes of a WAL page: parsing can begin at each.
const PAGE_LEN: u64 = 8192;
/// Length of a page's header (`SizeOfXLogShortPHD` in the server's `xlog_internal.h`) …
const PAGE_HEADER_LEN: u64 = 24;
/// … and of the header of a segment's first page (`SizeOfXLogLongPHD`).
const SEGMENT_HEADER_LEN: u64 = 40;

/// The log between two base backups.
#[derive(Debug, Clone, Copy)]
pub struct Between {
    /// Where the parent's redo begins.
    pub from: (TimelineId, Lsn),
    /// Where this backup's redo begins.
    pub to: (TimelineId, Lsn),
    /// The server's segment size.
    pub segment_size: WalSegmentSize,
}

/// Gathers what changed.
///
/// # Errors
/// Whatever keeps the log from being read to the last byte, or makes it say too little.
pub async fn gather(
    archive: &Archive,
    between: Between,
    log: &LogWriter,
    cancel: &CancellationToken,
) -> anyhow::Result<ChangedBlocks> {
    let size = between.segment_size;
    let history = history(archive, between.to.0).await?;
    let mut changed = ChangedBlocks::default();
    for piece in pieces(&history, between)? {
        if piece.timeline == between.to.0 {
            let files = LogFiles::Wal(size);
            let stretch = Stretch {
                branch: branch_of(piece.timeline),
                begin: files.lsn(piece.begin),
                end: files.lsn(log_end(piece.end, size)),
            };
            durable::wait(archive, log, stretch, cancel).await?;
        }
        let mut slices = archive
            .slices(branch_of(piece.timeline), position_of(piece.begin, size).file)
            .await?;
        let runs = tokio::task::spawn_blocking(move || coverage(&mut slices)).await?;
        let (begin, end) = (
            position_of(piece.begin, size),
            position_of(log_end(piece.end, size), size),
        );
        let run = runs
            .into_iter()
            .find(|run| run.contains(begin) && run.contains(end));
        let Some(run) = run else {
            anyhow::bail!(
                "the log of timeline {} has a hole between {} and {}",
                piece.timeline,
                piece.begin,
                piece.end
            );
        };
        changed.merge(Reading { archive, piece, run }.changed().await?);
    }
    match changed.minimal_at() {
        Some(at) => anyhow::bail!("wal_level was minimal at {at}"),
        None => Ok(changed),
    }
}

/// The end of the last grain, if nothing but a page header lies between it and `end`; else `end`.
fn log_end(end: Lsn, size: WalSegmentSize) -> Lsn {
    let grain = end.align_down(grain_len(size));
    let header = if size.offset_of(grain) == 0 {
        SEGMENT_HEADER_LEN
    } else {
        PAGE_HEADER_LEN
    };
    if end.bytes_since(grain) <= header {
        grain
    } else {
        end
    }
}

/// Segments may be shorter than a grain.
fn grain_len(size: WalSegmentSize) -> u64 {
    GRAIN_LEN.min(size.bytes())
}

async fn history(archive: &Archive, timeline: TimelineId) -> anyhow::Result<TimelineHistory> {
    if timeline == TimelineId(1) {
        return Ok(TimelineHistory::root(timeline));
    }
    let name = timeline.history_file_name();
    let Some(text) = archive.read_branch_file(branch_of(timeline), &name).await? else {
        anyhow::bail!("{name} is not stored");
    };
    Ok(TimelineHistory::parse(timeline, &String::from_utf8_lossy(&text))?)
}

/// The log from `begin` to `end` of a timeline.
#[derive(Debug, Clone, Copy)]
struct Piece {
    timeline: TimelineId,
    begin: Lsn,
    end: Lsn,
    segment_size: WalSegmentSize,
}

/// The stretches of log from one backup to the other, one for each timeline on the way. A timeline is stored from the
/// start of the segment that holds its fork; the parent's bytes of that segment, up to the fork, belong to the parent.
fn pieces(history: &TimelineHistory, between: Between) -> anyhow::Result<Vec<Piece>> {
    let Between {
        from,
        to,
        segment_size,
    } = between;
    if !history.contains(from.0, from.1) || from.1 > to.1 {
        anyhow::bail!(
            "the parent, on timeline {} at {}, is no ancestor of {} on timeline {}",
            from.0,
            from.1,
            to.1,
            to.0
        );
    }
    let ends = history.ancestors.iter().map(|entry| (entry.timeline, entry.end));
    let mut begin = from.1;
    let mut pieces = Vec::new();
    for (timeline, end) in ends.chain([(history.timeline, to.1)]) {
        if timeline < from.0 {
            continue;
        }
        let end = end.min(to.1);
        pieces.push(Piece {
            timeline,
            begin,
            end,
            segment_size,
        });
        begin = end.align_down(segment_size.bytes());
    }
    Ok(pieces)
}

/// Reads one piece.
struct Reading<'a> {
    archive: &'a Archive,
    piece: Piece,
    run: Run,
}

/// A grain's share of a piece.
#[derive(Debug, Clone, Copy)]
struct GrainPart {
    begin: Lsn,
    end: Lsn,
    is_whole: bool,
}

impl Reading<'_> {
    async fn changed(&self) -> anyhow::Result<ChangedBlocks> {
        let mut reads = stream::iter(self.grains())
            .map(|grain| async move { anyhow::Ok((grain, self.stored(grain).await?)) })
            .buffered(REQUESTS);
        let mut changed = ChangedBlocks::default();
        let mut unknown: Vec<GrainPart> = Vec::new();
        while let Some((grain, blocks)) = reads.try_next().await? {
            match (blocks, unknown.last_mut()) {
                (Some(blocks), _) => changed.merge(blocks),
                (None, Some(last)) if last.end == grain.begin => last.end = grain.end,
                (None, _) => unknown.push(grain),
            }
        }
        for stretch in unknown {
            tracing::debug!(begin = %stretch.begin, end = %stretch.end, "parsing the log for changed blocks");
            changed.merge(self.parse(stretch).await?);
        }
        Ok(changed)
    }

    /// The grains of the piece; the first from its start on.
    fn grains(&self) -> Vec<GrainPart> {
        let first = lsn_of(self.run.begin.position, self.piece.segment_size);
        let end = log_end(self.piece.end, self.piece.segment_size);
        let len = grain_len(self.piece.segment_size);
        let mut begin = self.piece.begin.align_down(len).max(first);
        let mut grains = Vec::new();
        while begin < end {
            let border = Lsn(begin.align_down(len).0.saturating_add(len));
            grains.push(GrainPart {
                begin,
                end: border.min(end),
                is_whole: border <= end,
            });
            begin = border;
        }
        grains
    }

    async fn stored(&self, grain: GrainPart) -> anyhow::Result<Option<ChangedBlocks>> {
        if !grain.is_whole {
            return Ok(None);
        }
        let begin = position_of(grain.begin, self.piece.segment_size);
        let end = begin.offset + grain.end.bytes_since(grain.begin);
        let branch = branch_of(self.piece.timeline);
        let stored = self
            .archive
            .read_changes(branch, begin.file, begin.offset, end)
            .await?;
        Ok(stored.map(|bytes| ChangedBlocks::decode(&bytes)).transpose()?)
    }

    /// Reads the records that end in a stretch; they may have begun before it.
    async fn parse(&self, stretch: GrainPart) -> anyhow::Result<ChangedBlocks> {
        let size = self.piece.segment_size;
        let from = self.record_before(position_of(stretch.begin, size));
        let (begin, end) = (position_of(from, size), position_of(stretch.end, size));
        let reader = LogReader::new(
            self.archive,
            branch_of(self.piece.timeline),
            &self.run,
            begin,
            end,
        );
        let mut verifier = reader.verifier(&self.run);
        let mut parser = Parser {
            decoder: WalDecoder::new(from, size),
            from,
            changed: ChangedBlocks::default(),
        };
        let mut fetched = Box::pin(reader.fetch(REQUESTS));
        while let Some(slice) = fetched.try_next().await? {
            (verifier, parser) =
                tokio::task::spawn_blocking(move || parser.take(verifier, &slice, size)).await??;
        }
        Ok(parser.changed)
    }

    /// A page's start from which every record can be read that ends after `position`.
    fn record_before(&self, position: tidemark_repository::LogPosition) -> Lsn {
        let size = self.piece.segment_size;
        let first = lsn_of(self.run.begin.position, size);
        let before = self
            .run
            .path
            .iter()
            .rfind(|slice| slice.end_position() <= position);
        let record = before.map_or(first, |slice: &SliceKey| {
            Lsn(lsn_of(slice.end_position(), size).0.saturating_sub(slice.back))
        });
        record.align_down(PAGE_LEN).max(first)
    }
}

/// Reads records out of slices.
struct Parser {
    decoder: WalDecoder,
    from: Lsn,
    changed: ChangedBlocks,
}

impl Parser {
    /// Takes the next slice in.
    fn take(
        mut self,
        mut verifier: LogVerifier,
        slice: &StoredSlice,
        size: WalSegmentSize,
    ) -> anyhow::Result<(LogVerifier, Parser)> {
        if let Some(chunk) = verifier.next(slice)? {
            let skip = self.from.bytes_since(lsn_of(chunk.begin, size));
            let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.bytes.len());
            let mut input = chunk.bytes.get(skip..).unwrap_or_default();
            while let Some(record) = self.decoder.next(&mut input)? {
                self.changed.add_record(&record)?;
            }
            if let Some(at) = self.decoder.end_of_log() {
                anyhow::bail!("the stored log holds zeros from {at} on where a record was due");
            }
        }
        Ok((verifier, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(from: (u32, u64), to: (u32, u64)) -> Between {
        Between {
            from: (TimelineId(from.0), Lsn(from.1)),
            to: (TimelineId(to.0), Lsn(to.1)),
            segment_size: WalSegmentSize::try_from(16 << 20).unwrap(),
        }
    }

    #[test]
    fn a_promotion_on_the_way_makes_two_pieces_that_share_the_forks_segment() {
        let history =
            TimelineHistory::parse(TimelineId(2), "1\t0/5000100\tno recovery target specified\n").unwrap();
        let pieces = pieces(&history, between((1, 0x0300_0028), (2, 0x0700_0028))).unwrap();
        let shown: Vec<(u32, u64, u64)> = pieces
            .iter()
            .map(|p| (p.timeline.0, p.begin.0, p.end.0))
            .collect();
        assert_eq!(
            shown,
            [(1, 0x0300_0028, 0x0500_0100), (2, 0x0500_0000, 0x0700_0028)]
        );
    }

    #[test]
    fn a_parent_past_the_fork_is_no_ancestor() {
        let history =
            TimelineHistory::parse(TimelineId(2), "1\t0/5000100\tno recovery target specified\n").unwrap();
        assert!(pieces(&history, between((1, 0x0600_0028), (2, 0x0700_0028))).is_err());
        assert!(pieces(&TimelineHistory::root(TimelineId(1)), between((2, 1), (1, 2))).is_err());
    }

    #[test]
    fn log_that_ends_behind_a_page_header_is_whole_without_it() {
        let end = |lsn, mib: u64| log_end(Lsn(lsn), WalSegmentSize::try_from(mib << 20).unwrap()).0;
        assert_eq!(end(0x0700_0028, 16), 0x0700_0000);
        assert_eq!(end(0x0700_0030, 16), 0x0700_0030);
        assert_eq!(end(0x0710_0028, 1), 0x0710_0000);
        // Within a segment of 64 MiB: a record may end between the shorter header and there.
        assert_eq!(end(0x0700_0028, 64), 0x0700_0028);
        assert_eq!(end(0x0700_0018, 64), 0x0700_0000);
    }
}
