//! What is to be read for a base backup, cut into units that workers take one after the other.

use std::sync::atomic::{AtomicUsize, Ordering};

use tidemark_postgres::basebackup::SourceFile;
use tidemark_postgres::page::PAGE_SIZE;
use tidemark_repository::base::{EntryKind, FileId, FileMeta, PART_LEN, PartRef, part_lens};

/// Longest range of a file that is one unit: long enough for sequential reads, short enough that the last units keep
/// all workers busy.
const UNIT_LEN: u64 = 32 << 20;
/// Most scattered runs of pages that are one unit.
const RUNS_MAX: usize = 1024;

/// Some of a file, to be read by one worker.
#[derive(Debug, Clone)]
pub struct Unit {
    /// The file, as the backup's books number it; `None` when it is looked at only.
    pub file: Option<FileId>,
    /// Its index in [`Work::files`].
    pub source: usize,
    /// What to read.
    pub task: UnitTask,
}

/// What to do with a part of a file.
#[derive(Debug, Clone)]
pub enum UnitTask {
    /// Store these ranges, as far as the file reaches.
    Store(Vec<ByteRange>),
    /// Store the pages of this range whose hash is not the one in the parent's map of the part that it is.
    Compare(ByteRange, Option<PartRef>),
    /// Look at pages that did not change as far as the log says, and find out whether that is true.
    Check(Vec<ByteRange>),
}

impl UnitTask {
    /// The ranges that are to be read.
    pub fn ranges(&self) -> &[ByteRange] {
        match self {
            UnitTask::Store(ranges) | UnitTask::Check(ranges) => ranges,
            UnitTask::Compare(range, _) => std::slice::from_ref(range),
        }
    }
}

/// A range of a file, half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub begin: u64,
    /// The byte after the last.
    pub end: u64,
}

impl ByteRange {
    /// Its length in bytes.
    pub fn len(self) -> u64 {
        self.end.saturating_sub(self.begin)
    }
}

/// Consecutive blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first, counted within the file.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl Run {
    /// The bytes of these blocks.
    pub fn bytes(self) -> ByteRange {
        let begin = u64::from(self.first) * PAGE_SIZE as u64;
        ByteRange {
            begin,
            end: begin + u64::from(self.count) * PAGE_SIZE as u64,
        }
    }
}

/// All units, and how many of them were taken.
#[derive(Debug, Default)]
pub struct Work {
    files: Vec<SourceFile>,
    units: Vec<Unit>,
    taken: AtomicUsize,
}

impl Work {
    /// Work on these files; what of them is to be read is added after.
    pub fn new(files: Vec<SourceFile>) -> Work {
        Work {
            files,
            ..Work::default()
        }
    }

    /// The files.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// The whole of a file is to be stored; returns the number of units.
    pub fn add_whole(&mut self, file: FileId, source: usize) -> usize {
        let size = self.files.get(source).map_or(0, |file| file.size);
        let ranges = cut(ByteRange { begin: 0, end: size }, UNIT_LEN);
        self.add(ranges.map(|range| Unit {
            file: Some(file),
            source,
            task: UnitTask::Store(vec![range]),
        }))
    }

    /// These blocks of a file are to be stored; returns the number of units.
    pub fn add_runs(&mut self, file: FileId, source: usize, runs: &[Run]) -> usize {
        let ranges: Vec<ByteRange> = runs.iter().flat_map(|run| cut(run.bytes(), UNIT_LEN)).collect();
        self.add(bundles(&ranges).map(|ranges| Unit {
            file: Some(file),
            source,
            task: UnitTask::Store(ranges),
        }))
    }

    /// A file is to be compared with `base`, the parts it has in the parent; returns the number of units.
    pub fn add_compare(&mut self, file: FileId, source: usize, base: &[PartRef]) -> usize {
        let size = self.files.get(source).map_or(0, |file| file.size);
        let parts = part_lens(size).zip(0..).map(|(len, number)| {
            let begin = number * PART_LEN;
            let range = ByteRange {
                begin,
                end: begin + len,
            };
            let part = usize::try_from(number)
                .ok()
                .and_then(|number| base.get(number))
                .copied();
            Unit {
                file: Some(file),
                source,
                task: UnitTask::Compare(range, part),
            }
        });
        self.add(parts)
    }

    /// These blocks of a file are to be looked at.
    pub fn add_check(&mut self, source: usize, runs: &[Run]) {
        let ranges: Vec<ByteRange> = runs.iter().map(|run| run.bytes()).collect();
        self.add(bundles(&ranges).map(|ranges| Unit {
            file: None,
            source,
            task: UnitTask::Check(ranges),
        }));
    }

    fn add(&mut self, units: impl Iterator<Item = Unit>) -> usize {
        let before = self.units.len();
        self.units.extend(units);
        self.units.len() - before
    }

    /// The next unit that nobody took, and its file.
    pub fn next(&self) -> Option<(&Unit, &SourceFile)> {
        let unit = self.units.get(self.taken.fetch_add(1, Ordering::Relaxed))?;
        Some((unit, self.files.get(unit.source)?))
    }
}

/// Cuts a range into ranges of at most `len` bytes.
fn cut(range: ByteRange, len: u64) -> impl Iterator<Item = ByteRange> {
    let count = range.len().div_ceil(len);
    (0..count).map(move |number| {
        let begin = range.begin + number * len;
        ByteRange {
            begin,
            end: range.end.min(begin + len),
        }
    })
}

/// Takes ranges together until they are worth a unit.
fn bundles(ranges: &[ByteRange]) -> impl Iterator<Item = Vec<ByteRange>> + '_ {
    let mut rest = ranges;
    std::iter::from_fn(move || {
        let mut len = 0;
        let fits = |range: &&ByteRange| {
            len += range.len();
            len <= UNIT_LEN
        };
        let count = rest
            .iter()
            .take(RUNS_MAX)
            .take_while(fits)
            .count()
            .max(1)
            .min(rest.len());
        let (now, later) = rest.split_at(count);
        rest = later;
        (!now.is_empty()).then(|| now.to_vec())
    })
}

/// A file as the manifest lists it.
pub fn meta_of(file: &SourceFile) -> FileMeta {
    FileMeta {
        path: file.path.clone(),
        kind: EntryKind::File,
        mode: file.mode,
        modified: file.modified,
        tag: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_postgres::basebackup::kind_of;
    use tidemark_types::Timestamp;

    fn work() -> Work {
        let file = |path: &str, size| SourceFile {
            path: path.to_owned(),
            location: path.into(),
            size,
            mode: 0o600,
            modified: Timestamp(0),
            kind: kind_of(path),
        };
        Work::new(vec![file("empty", 0), file("large", 2 * UNIT_LEN + 5)])
    }

    fn stored(work: &Work) -> Vec<Vec<ByteRange>> {
        std::iter::from_fn(|| work.next())
            .map(|(unit, _)| match &unit.task {
                UnitTask::Store(ranges) => ranges.clone(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_large_file_is_cut_and_an_empty_one_needs_no_work() {
        let mut work = work();
        assert_eq!(work.add_whole(FileId(0), 0), 0);
        assert_eq!(work.add_whole(FileId(1), 1), 3);
        let mut end = 0;
        for ranges in stored(&work) {
            assert_eq!((ranges.len(), ranges[0].begin), (1, end));
            end = ranges[0].end;
        }
        assert_eq!(end, 2 * UNIT_LEN + 5);
    }

    #[test]
    fn scattered_runs_share_units_and_none_is_lost() {
        let mut work = work();
        let runs: Vec<Run> = (0..2500)
            .map(|number| Run {
                first: number * 2,
                count: 1,
            })
            .collect();
        assert_eq!(work.add_runs(FileId(1), 1, &runs), 3);
        let all: Vec<ByteRange> = stored(&work).concat();
        assert_eq!(all, runs.iter().map(|run| run.bytes()).collect::<Vec<_>>());
    }
}
