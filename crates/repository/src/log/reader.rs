//! Reading the log of one branch back: slices fetched in order, several at once, and proven by the hash chain.
//!
//! Two halves, because only one of them does I/O. [`LogReader`] yields stored slices in order; [`LogVerifier`]
//! decompresses one after the other and proves them, which is CPU work for the caller to run where it likes.
//!
//! What is proven: each slice's content (its own hash), that the bytes lead from one slice's chain hash to the next,
//! and at every [`Run::claims`] passed on the way that they are what another slice of the branch says they are. Where
//! they are not, two writers diverged, and nothing is spliced.

use futures::Stream;
use futures::stream::{self, StreamExt};

use super::{ChainKey, ChainPoint, LogPosition, Run, RunningHash, SliceFlags, SliceKey};
use crate::RepositoryError;
use crate::archive::{Archive, StoredSlice};
use crate::layout::Branch;

/// Reads a stretch of one branch's log.
#[derive(Debug, Clone)]
pub struct LogReader {
    archive: Archive,
    branch: Branch,
    slices: Vec<SliceKey>,
}

/// Bytes that were proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Where they begin.
    pub begin: LogPosition,
    /// The bytes, all of one log file.
    pub bytes: Vec<u8>,
    /// Whether the log file ends with them.
    pub ends_file: bool,
}

impl LogReader {
    /// A reader of the part of `run` that holds `[begin, end)`, from the start of a grain on: the chain can be followed
    /// from there only.
    pub fn new(
        archive: &Archive,
        branch: Branch,
        run: &Run,
        begin: LogPosition,
        end: LogPosition,
    ) -> LogReader {
        LogReader {
            archive: archive.clone(),
            branch,
            slices: run.slices_within(begin.grain_start(), end).to_vec(),
        }
    }

    /// The slices that will be read.
    pub fn slices(&self) -> &[SliceKey] {
        &self.slices
    }

    /// Proves what [`LogReader::fetch`] yields.
    pub fn verifier(&self, run: &Run) -> LogVerifier {
        LogVerifier::new(self.archive.record().chain_key, &self.slices, &run.claims)
    }

    /// The slices in order, with up to `at_once` requests under way. A slice that was superseded meanwhile is replaced
    /// by the wider one that took its place. May be dropped at any time.
    pub fn fetch(self, at_once: usize) -> impl Stream<Item = Result<StoredSlice, RepositoryError>> + Send {
        let LogReader {
            archive,
            branch,
            slices,
        } = self;
        stream::iter(slices)
            .map(move |slice| {
                let archive = archive.clone();
                async move { fetch(&archive, branch, slice).await }
            })
            .buffered(at_once.max(1))
    }
}

async fn fetch(archive: &Archive, branch: Branch, slice: SliceKey) -> Result<StoredSlice, RepositoryError> {
    let missing = match archive.read_slice(branch, &slice).await {
        Err(RepositoryError::Storage(error)) if error.is_not_found() => error,
        other => return other,
    };
    // Clean-up deletes what a wider slice holds as well; a plan may be older than that.
    let listed = archive.list_file(branch, slice.file).await?;
    match wider(&listed, &slice) {
        Some(wider) => archive.read_slice(branch, wider).await,
        None => Err(missing.into()),
    }
}

/// The shortest other slice that holds all bytes of `slice`.
fn wider<'a>(listed: &'a [SliceKey], slice: &SliceKey) -> Option<&'a SliceKey> {
    listed
        .iter()
        .filter(|other| *other != slice && other.begin <= slice.begin && slice.end <= other.end)
        .min_by_key(|other| other.len())
}

/// Proves slices that follow each other; see the module.
#[derive(Debug)]
pub struct LogVerifier {
    key: ChainKey,
    /// `None` until the start of a grain was seen: the chain cannot be followed before.
    hash: Option<RunningHash>,
    position: Option<LogPosition>,
    /// Points still to be passed, in descending order.
    claims: Vec<ChainPoint>,
}

impl LogVerifier {
    fn new(key: ChainKey, slices: &[SliceKey], claims: &[ChainPoint]) -> LogVerifier {
        let begin = slices.first().map(SliceKey::begin_position);
        let end = slices.last().map(SliceKey::end_position);
        let mut claims: Vec<ChainPoint> = claims
            .iter()
            .copied()
            .filter(|claim| begin <= Some(claim.position) && Some(claim.position) <= end)
            .collect();
        claims.sort_unstable_by(|a, b| b.cmp(a));
        LogVerifier {
            key,
            hash: None,
            position: None,
            claims,
        }
    }

    /// Decompresses and proves the next slice; `None` when an earlier, wider one held all of it. CPU work: a few
    /// milliseconds for each MiB.
    ///
    /// # Errors
    /// `Damaged` when its bytes are not what its name says; `Conflict` when they are not what another slice says.
    pub fn next(&mut self, stored: &StoredSlice) -> Result<Option<LogChunk>, RepositoryError> {
        let key = stored.key;
        let at = self.position.unwrap_or_else(|| key.begin_position());
        if key.end_position() <= at {
            return Ok(None);
        }
        // A wider slice than was planned begins earlier.
        let skip = (key.file == at.file)
            .then(|| at.offset.checked_sub(key.begin))
            .flatten();
        // One that only ends its file holds nothing.
        let Some(skip) = skip.filter(|skip| *skip < key.len() || (key.is_empty() && *skip == 0)) else {
            return Err(stored.damaged(&format!("it does not continue the log at {at}")));
        };
        let mut bytes = stored.open()?;
        bytes.drain(..usize::try_from(skip).unwrap_or(usize::MAX));
        self.begin_grain_at(&key, at, skip);
        self.follow(stored, at, &bytes)?;
        let ends_file = key.flags.has(SliceFlags::ENDS_FILE);
        self.position = Some(key.end_position());
        let grain_ends = ends_file || key.end_position().grain_start() == key.end_position();
        match &mut self.hash {
            Some(hash) if grain_ends => hash.next_grain(),
            _ => {}
        }
        Ok(Some(LogChunk {
            begin: at,
            bytes,
            ends_file,
        }))
    }

    fn begin_grain_at(&mut self, key: &SliceKey, at: LogPosition, skip: u64) {
        if self.hash.is_none() && at.grain_start() == at && skip == 0 {
            self.hash = Some(RunningHash::new(self.key, key.begin_hash));
        }
    }

    /// Hashes the bytes from `at` on, comparing with every claim on the way and with the slice's own end.
    fn follow(
        &mut self,
        stored: &StoredSlice,
        at: LogPosition,
        mut bytes: &[u8],
    ) -> Result<(), RepositoryError> {
        let Some(hash) = &mut self.hash else { return Ok(()) };
        let mut here = at;
        loop {
            while let Some(claim) = self.claims.pop_if(|claim| claim.position <= here) {
                if claim.position == here && claim.hash != hash.current() {
                    return Err(stored.conflict(&format!(
                        "two writers diverged: another slice has hash {} at {here}, these bytes have {}; nothing past \
                         that point can be trusted without looking at both",
                        claim.hash,
                        hash.current()
                    )));
                }
            }
            if bytes.is_empty() {
                break;
            }
            let until = self
                .claims
                .last()
                .map(|claim| claim.position)
                .filter(|until| until.file == here.file);
            let take = until.map_or(bytes.len(), |until| {
                usize::try_from(until.offset - here.offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len())
            });
            let (now, rest) = bytes.split_at(take);
            hash.update(now);
            here.offset += now.len() as u64;
            bytes = rest;
        }
        if hash.current() == stored.key.end_hash {
            Ok(())
        } else {
            Err(stored.damaged("its bytes do not lead to the chain hash in its name"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::StreamExt;
    use futures::executor::block_on;
    use tidemark_storage::{MemoryStorage, Storage};
    use tidemark_types::{ErrorClass, Generation, Timestamp};

    use super::super::{GRAIN_LEN, Resume, SliceAssembler, coverage};
    use super::*;
    use crate::{NewServer, Repository, SealedSlice};

    const BRANCH: Branch = Branch(1);

    fn archive() -> (MemoryStorage, Archive) {
        let storage = MemoryStorage::new();
        let new = NewServer {
            engine: "postgresql".to_owned(),
            system_id: "1".to_owned(),
            version: String::new(),
            log_file_len: Some(1 << 20),
        };
        let archive = block_on(async {
            let shared: Arc<dyn Storage> = Arc::new(storage.clone());
            let repository = Repository::open_or_create(shared, Timestamp(0)).await.unwrap();
            let server = "shop".parse().unwrap();
            repository
                .create_archive(&server, Generation(1), new, Timestamp(0))
                .await
                .unwrap()
        });
        (storage, archive)
    }

    fn content(file: u64, begin: u64, end: u64) -> Vec<u8> {
        (begin..end)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 9) as u8 ^ file as u8)
            .collect()
    }

    /// Writes log files of `len` bytes, cut every `step` bytes, and returns what is stored.
    fn write(archive: &Archive, files: u64, len: u64, step: u64) -> Vec<SliceKey> {
        let mut assembler = SliceAssembler::new(archive.record().chain_key, Resume::origin(0));
        let mut keys = Vec::new();
        while assembler.position().file < files {
            let at = assembler.position();
            let take = step.min(assembler.room()).min(len - at.offset);
            assembler
                .push(&content(at.file, at.offset, at.offset + take))
                .unwrap();
            for draft in assembler.cut(0, at.offset + take == len) {
                let slice = SealedSlice::seal(&draft).unwrap();
                block_on(archive.put_slice(BRANCH, &slice)).unwrap();
                keys.push(slice.key);
            }
        }
        keys
    }

    fn read(
        archive: &Archive,
        run: &Run,
        begin: LogPosition,
        end: LogPosition,
    ) -> Result<Vec<LogChunk>, RepositoryError> {
        let reader = LogReader::new(archive, BRANCH, run, begin, end);
        let mut verifier = reader.verifier(run);
        let stored: Vec<_> = block_on(reader.fetch(4).collect());
        let mut chunks = Vec::new();
        for slice in stored {
            chunks.extend(verifier.next(&slice?)?);
        }
        Ok(chunks)
    }

    fn joined(chunks: &[LogChunk]) -> Vec<u8> {
        chunks
            .iter()
            .flat_map(|chunk| chunk.bytes.iter().copied())
            .collect()
    }

    fn at(file: u64, offset: u64) -> LogPosition {
        LogPosition { file, offset }
    }

    #[test]
    fn the_log_comes_back_from_a_grain_start_on() {
        let (_, archive) = archive();
        let mut keys = write(&archive, 2, GRAIN_LEN + 5000, GRAIN_LEN / 2);
        let run = coverage(&mut keys).remove(0);
        let chunks = read(&archive, &run, at(0, GRAIN_LEN + 10), at(1, 20)).unwrap();
        assert_eq!(chunks[0].begin, at(0, GRAIN_LEN));
        assert!(chunks[0].ends_file && !chunks[1].ends_file);
        assert_eq!(joined(&chunks[..1]), content(0, GRAIN_LEN, GRAIN_LEN + 5000));
        assert_eq!(chunks[1].begin, at(1, 0));
    }

    #[test]
    fn a_file_whose_end_shows_late_joins_the_next_one() {
        // Binlog files end where the server says so, perhaps long after their last byte was stored.
        for len in [5000, GRAIN_LEN, GRAIN_LEN + 7] {
            let (_, archive) = archive();
            let mut assembler = SliceAssembler::new(archive.record().chain_key, Resume::origin(0));
            let mut keys = Vec::new();
            let mut store = |drafts: Vec<_>| {
                for draft in drafts {
                    let slice = SealedSlice::seal(&draft).unwrap();
                    block_on(archive.put_slice(BRANCH, &slice)).unwrap();
                    keys.push(slice.key.to_string().parse::<SliceKey>().unwrap());
                }
            };
            while assembler.position().offset < len {
                let from = assembler.position().offset;
                let to = (from + 4000).min(len).min(from + assembler.room());
                assembler.push(&content(0, from, to)).unwrap();
                store(assembler.cut(0, false));
            }
            store(assembler.cut(0, true));
            assert!(assembler.cut(0, false).is_empty());
            assembler.push(&content(1, 0, 9)).unwrap();
            store(assembler.cut(0, false));
            let runs = coverage(&mut keys);
            assert_eq!(runs.len(), 1, "{len}");
            let chunks = read(&archive, &runs[0], at(0, 0), at(1, 9)).unwrap();
            let (first, second): (Vec<_>, Vec<_>) =
                chunks.into_iter().partition(|chunk| chunk.begin.file == 0);
            assert_eq!(joined(&first), content(0, 0, len));
            assert!(first.last().unwrap().ends_file);
            assert_eq!(joined(&second), content(1, 0, 9));
        }
    }

    #[test]
    fn a_superseded_slice_is_replaced_by_the_wider_one() {
        let (storage, archive) = archive();
        let keys = write(&archive, 1, 5000, 1000);
        let narrow: Vec<SliceKey> = keys.iter().copied().filter(|key| key.len() == 1000).collect();
        let run = coverage(&mut narrow.clone()).remove(0);
        let gone: Vec<_> = narrow[1..3]
            .iter()
            .map(|key| archive.layout().slice(BRANCH, &key.to_string()))
            .collect();
        block_on(storage.delete(&gone)).unwrap();
        let chunks = read(&archive, &run, at(0, 0), at(0, 5000)).unwrap();
        assert_eq!(joined(&chunks), content(0, 0, 5000));
    }

    #[test]
    fn a_slice_that_is_gone_without_a_wider_one_is_missing() {
        let (storage, archive) = archive();
        let mut keys = write(&archive, 1, 5000, 5000);
        let run = coverage(&mut keys).remove(0);
        block_on(storage.delete(&[archive.layout().slice(BRANCH, &run.path[0].to_string())])).unwrap();
        let error = read(&archive, &run, at(0, 0), at(0, 5000)).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Corrupt, "{error}");
    }

    #[test]
    fn a_claim_that_the_bytes_do_not_meet_is_a_conflict() {
        let (_, archive) = archive();
        let mut keys = write(&archive, 1, 5000, 5000);
        let mut run = coverage(&mut keys).remove(0);
        run.claims = vec![ChainPoint {
            position: at(0, 700),
            hash: super::super::ChainHash([7; 8]),
        }];
        let error = read(&archive, &run, at(0, 0), at(0, 5000)).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Conflict);
        assert!(error.to_string().contains("file 0 offset 700"), "{error}");
    }

    #[test]
    fn an_honest_claim_is_passed() {
        let (_, archive) = archive();
        let keys = write(&archive, 1, 5000, 1000);
        // What an interrupted clean-up leaves: the wide slice and a narrow one inside it.
        let mut left = [keys[keys.len() - 1], keys[2]];
        let run = coverage(&mut left).remove(0);
        assert_eq!(run.claims.len(), 2);
        assert_eq!(
            joined(&read(&archive, &run, at(0, 0), at(0, 5000)).unwrap()),
            content(0, 0, 5000)
        );
    }

    #[test]
    fn a_slice_under_another_name_is_damage() {
        let (_, archive) = archive();
        let mut keys = write(&archive, 1, 5000, 2500);
        let run = coverage(&mut keys).remove(0);
        let reader = LogReader::new(&archive, BRANCH, &run, at(0, 0), at(0, 5000));
        let mut stored = block_on(archive.read_slice(BRANCH, &reader.slices()[0])).unwrap();
        stored.key.end_hash = super::super::ChainHash([1; 8]);
        let error = reader.verifier(&run).next(&stored).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Corrupt, "{error}");
    }
}
