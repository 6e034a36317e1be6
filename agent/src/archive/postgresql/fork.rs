//! At a fork: a timeline's first segment repeats the bytes of its parent up to there, and must repeat them truly.
//!
//! The history that a server shows says which timeline it left, and where. That its log before that is the stored one
//! only the bytes can prove: a clone that went its own way and was promoted shows a history just as good.

use std::pin::pin;

use futures::StreamExt;
use tidemark_repository::log::{
    ChainHash, ChainPoint, LogReader, LogVerifier, Resume, RunningHash, coverage,
};
use tidemark_repository::{Archive, Branch, LogPosition, RepositoryError, StoredSlice};
use tidemark_types::{ErrorClass, TimelineHistory, TimelineId, WalSegmentSize};

use super::lsn_map::{branch_of, position_of};
use crate::archive::shipper::Causes;

/// Requests under way at once.
const REQUESTS: usize = 4;

/// Has what a log of `timeline` repeats of its parent compared with what is stored of that, wherever it is received
/// from `resume` on and is not stored yet. Not where that is damaged.
///
/// # Errors
/// What the repository says; `Conflict` when two writers have stored the parent.
pub async fn compare_with_parent(
    archive: &Archive,
    history: &TimelineHistory,
    timeline: TimelineId,
    size: WalSegmentSize,
    resume: &mut Resume,
) -> Result<(), RepositoryError> {
    let parent = history.ancestors.iter().rfind(|entry| entry.timeline < timeline);
    let Some(parent) = parent else { return Ok(()) };
    let fork = position_of(parent.end, size);
    if resume.start.file != fork.file || fork <= resume.durable {
        return Ok(());
    }
    let points = match repeated_points(archive, branch_of(parent.timeline), fork).await {
        // A restore across the fork fails there in any case; what the server writes now must be stored all the same.
        Err(error) if error.class() == ErrorClass::Corrupt => {
            tracing::error!(
                error = %Causes(&error),
                timeline = %parent.timeline,
                "what is stored of the timeline before the fork cannot be read; the log after it is not compared with it"
            );
            Vec::new()
        }
        points => points?,
    };
    let durable = resume.durable;
    resume
        .known
        .extend(points.into_iter().filter(|point| point.position > durable));
    Ok(())
}

/// The chain of a log that begins with the log file of `fork` and repeats what `parent` holds of it: its points at the
/// borders of grains and at the fork. None when the parent is not stored from there up to the fork.
async fn repeated_points(
    archive: &Archive,
    parent: Branch,
    fork: LogPosition,
) -> Result<Vec<ChainPoint>, RepositoryError> {
    let begin = LogPosition::start_of(fork.file);
    let mut slices = archive.list_file(parent, fork.file).await?;
    let runs = coverage(&mut slices);
    let stored = runs
        .iter()
        .find(|run| run.begin.position == begin && fork <= run.end.position);
    let Some(run) = stored.filter(|_| begin < fork) else {
        return Ok(Vec::new());
    };
    let reader = LogReader::new(archive, parent, run, begin, fork);
    let mut repeating = Repeating {
        verifier: reader.verifier(run),
        hash: RunningHash::new(archive.record().chain_key, ChainHash::ORIGIN),
        fork,
        points: Vec::new(),
    };
    let mut slices = pin!(reader.fetch(REQUESTS));
    while let Some(slice) = slices.next().await {
        let slice = slice?;
        let fed = tokio::task::spawn_blocking(move || repeating.feed(&slice)).await;
        repeating = fed.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    Ok(repeating.points)
}

struct Repeating {
    verifier: LogVerifier,
    hash: RunningHash,
    fork: LogPosition,
    points: Vec<ChainPoint>,
}

impl Repeating {
    /// Hashes what `slice` holds of the log up to the fork. A slice lies within one grain.
    fn feed(mut self, slice: &StoredSlice) -> Result<Repeating, RepositoryError> {
        let Some(chunk) = self.verifier.next(slice)? else {
            return Ok(self);
        };
        let wanted = self.fork.offset.saturating_sub(chunk.begin.offset);
        let bytes = usize::try_from(wanted)
            .ok()
            .and_then(|wanted| chunk.bytes.get(..wanted))
            .unwrap_or(&chunk.bytes);
        self.hash.update(bytes);
        let position = LogPosition {
            offset: chunk.begin.offset + bytes.len() as u64,
            ..chunk.begin
        };
        let ends_grain = position == position.grain_start();
        if ends_grain || position == self.fork {
            self.points.push(ChainPoint {
                position,
                hash: self.hash.current(),
            });
        }
        if ends_grain {
            self.hash.next_grain();
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use tidemark_repository::SealedSlice;
    use tidemark_repository::log::{GRAIN_LEN, SliceAssembler};
    use tidemark_storage::{Fault, FaultyStorage, MemoryStorage, Operation, Trigger};
    use tidemark_types::HistoryEntry;

    const SEGMENT: u64 = 32 << 20;
    const FILE: u64 = 5;

    async fn archive() -> Archive {
        archive_in(FaultyStorage::new(Arc::new(MemoryStorage::new()))).await
    }

    async fn archive_in(storage: FaultyStorage) -> Archive {
        crate::testing::shop(storage, SEGMENT).await.1
    }

    fn bytes(begin: u64, end: u64) -> Vec<u8> {
        (begin..end)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8)
            .collect()
    }

    fn at(offset: u64) -> LogPosition {
        LogPosition { file: FILE, offset }
    }

    /// Stores a segment and the next one of timeline 1 up to `len`, in slices of `step` bytes.
    async fn store_parent(archive: &Archive, len: u64, step: u64) {
        let mut assembler = SliceAssembler::new(archive.record().chain_key, Resume::origin(FILE - 1));
        while assembler.position() < at(len) {
            let begin = assembler.position();
            let end = if begin.file == FILE { len } else { SEGMENT };
            let take = step.min(assembler.room()).min(end - begin.offset);
            assembler.push(&bytes(begin.offset, begin.offset + take)).unwrap();
            for draft in assembler.cut(0, begin.offset + take == SEGMENT) {
                let sealed = SealedSlice::seal(&draft).unwrap();
                archive.put_slice(Branch(1), &sealed).await.unwrap();
            }
        }
    }

    async fn child(archive: &Archive, fork: u64) -> SliceAssembler {
        let size = WalSegmentSize::try_from(SEGMENT).unwrap();
        let history = TimelineHistory {
            timeline: TimelineId(2),
            ancestors: vec![HistoryEntry {
                timeline: TimelineId(1),
                end: super::super::lsn_map::lsn_of(at(fork), size),
            }],
        };
        let mut resume = Resume::origin(FILE);
        compare_with_parent(archive, &history, TimelineId(2), size, &mut resume)
            .await
            .unwrap();
        SliceAssembler::new(archive.record().chain_key, resume)
    }

    /// Feeds a child, whole grains first; whether it repeats what it should.
    fn is_accepted(mut assembler: SliceAssembler, bytes: &[u8]) -> bool {
        bytes.chunks(GRAIN_LEN as usize).all(|grain| {
            let pushed = assembler.push(grain).is_ok();
            assembler.cut(0, false);
            pushed
        })
    }

    #[tokio::test]
    async fn a_child_must_repeat_its_parent_to_the_last_byte_before_the_fork() {
        // The parent went on past the fork, which lies between two ends of its slices, in a second grain.
        let archive = archive().await;
        store_parent(&archive, GRAIN_LEN + 9000, 4000).await;
        let fork = GRAIN_LEN + 5001;
        assert!(is_accepted(child(&archive, fork).await, &bytes(0, fork + 700)));
        for wrong in [0, GRAIN_LEN - 1, GRAIN_LEN, fork - 1] {
            let mut other = bytes(0, fork + 700);
            other[usize::try_from(wrong).unwrap()] ^= 1;
            assert!(!is_accepted(child(&archive, fork).await, &other), "byte {wrong}");
        }
        let mut own = bytes(0, fork + 700);
        own[usize::try_from(fork).unwrap()] ^= 1;
        assert!(
            is_accepted(child(&archive, fork).await, &own),
            "past the fork it goes its own way"
        );
    }

    #[tokio::test]
    async fn without_a_stored_parent_there_is_nothing_to_compare() {
        let archive = archive().await;
        store_parent(&archive, 3000, 1000).await;
        assert!(
            !child(&archive, 3001).await.is_comparing(),
            "the parent ends before the fork"
        );
        assert!(!child(&archive, 0).await.is_comparing(), "nothing is repeated");
        assert!(child(&archive, 3000).await.is_comparing());
    }
    #[tokio::test]
    async fn a_damaged_parent_does_not_keep_its_child_from_being_stored() {
        let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()));
        let archive = archive_in(storage.clone()).await;
        store_parent(&archive, 3000, 1000).await;
        storage.inject(
            Trigger::every(Operation::Get).on_keys_with("/log/"),
            Fault::FlipBit(200),
        );
        assert!(!child(&archive, 3000).await.is_comparing());
    }
}
