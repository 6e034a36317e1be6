//! What `wal-get` needs to know, in a folder beside the restored data directory: it is started for each segment, by
//! itself, and must neither plan nor list again.
//!
//! The planned slices are kept as sorted lines in a file for each timeline, in which one segment's are found by
//! bisection, so that a long plan does not cost every call.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tidemark_repository::log::{ChainPoint, Run, SliceKey};
use tidemark_repository::{Archive, LogPosition};
use tidemark_types::{ErrorClass, Generation, LogFiles, ServerName, TimelineId};

use crate::catalog::read_history_text;
use crate::exit::Failure;
use crate::plan::{Line, slices_of};
use crate::source::RepositoryArgs;
use crate::wal::segments::PlannedLog;

const STATE_FILE: &str = "state.json";
/// Where segments wait to be taken.
const WAL_FOLDER: &str = "wal";
/// Longest line of a slice file: a slice's name is shorter than this.
const LINE_MAX: usize = 256;

/// The content of the state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The repository.
    pub source: RepositoryArgs,
    /// The server.
    pub server: ServerName,
    /// Which identity of it.
    pub generation: Generation,
    /// The planned log.
    pub log: PlannedLog,
    /// Points that the planned log must pass: timeline, file, offset, hash.
    pub claims: Vec<(TimelineId, u64, u64, String)>,
}

/// The folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// The folder at `path`.
    pub fn new(path: impl Into<PathBuf>) -> StateDir {
        StateDir(path.into())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether it was made by a restore.
    pub fn is_one(&self) -> bool {
        self.0.join(WAL_FOLDER).is_dir()
    }

    /// Where the segment or history file `name` waits to be taken.
    pub fn waiting(&self, name: &str) -> PathBuf {
        self.0.join(WAL_FOLDER).join(name)
    }

    /// The history file `name`, if it is one of the plan's.
    pub fn history(&self, name: &str) -> PathBuf {
        self.0.join("history").join(name)
    }

    /// The socket that a prefetcher listens on.
    pub fn socket(&self) -> PathBuf {
        self.0.join("prefetch.sock")
    }

    fn slices(&self, timeline: TimelineId) -> PathBuf {
        self.0.join(format!("slices-{:08X}", timeline.0))
    }

    /// Reads the state file.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn read(&self) -> anyhow::Result<State> {
        let path = self.0.join(STATE_FILE);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
    }

    /// Writes everything that `wal-get` will need of the planned part of `line`.
    ///
    /// # Errors
    /// When a file cannot be written, or a history file cannot be read from the repository.
    pub async fn write(
        &self,
        archive: &Archive,
        source: &RepositoryArgs,
        log: &PlannedLog,
        line: &Line<'_>,
    ) -> anyhow::Result<()> {
        let make = |path: &Path| fs::create_dir_all(path).with_context(|| format!("make {}", path.display()));
        make(&self.0.join(WAL_FOLDER))?;
        make(&self.0.join("history"))?;
        let mut claims = Vec::new();
        let files = LogFiles::Wal(log.segment_size);
        for stretch in line.part(files.lsn(log.begin), files.lsn(log.end)) {
            let timeline = TimelineId(stretch.branch.0);
            let slices = slices_of(&stretch);
            write_slices(&self.slices(timeline), slices)?;
            let (first, last) = (
                slices.first().map(SliceKey::begin_position),
                slices.last().map(SliceKey::end_position),
            );
            let within = |claim: &&ChainPoint| first <= Some(claim.position) && Some(claim.position) <= last;
            claims.extend(stretch.run.claims.iter().filter(within).map(|claim| {
                (
                    timeline,
                    claim.position.file,
                    claim.position.offset,
                    claim.hash.to_string(),
                )
            }));
        }
        let ancestors = log.history.ancestors.iter().map(|entry| entry.timeline);
        for timeline in ancestors.chain([log.history.timeline]) {
            if let Some(text) = read_history_text(archive, timeline).await? {
                let path = self.history(&timeline.history_file_name());
                fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            }
        }
        let state = State {
            source: source.clone(),
            server: archive.record().name.clone(),
            generation: archive.record().generation,
            log: log.clone(),
            claims,
        };
        let path = self.0.join(STATE_FILE);
        fs::write(&path, serde_json::to_vec_pretty(&state)?)
            .with_context(|| format!("write {}", path.display()))
    }

    /// The planned slices of one log file of a timeline, and what they must pass, as a run to read.
    ///
    /// # Errors
    /// When the plan has none there, or its files cannot be read.
    pub fn run(&self, state: &State, timeline: TimelineId, file: u64) -> anyhow::Result<Run> {
        let path = self.slices(timeline);
        let open = || format!("read {}", path.display());
        let path_file = File::open(&path).with_context(open)?;
        let len = path_file.metadata().with_context(open)?.len();
        let slices = slices_of_file(&path_file, len, file).with_context(open)?;
        let (Some(first), Some(last)) = (slices.first(), slices.last()) else {
            let message = format!("the plan names no slice of segment {file} on timeline {timeline}");
            return Err(Failure::new(ErrorClass::Corrupt, message).into());
        };
        let claims =
            state
                .claims
                .iter()
                .filter(|(on, ..)| *on == timeline)
                .filter_map(|(_, file, offset, hash)| {
                    let position = LogPosition {
                        file: *file,
                        offset: *offset,
                    };
                    Some(ChainPoint {
                        position,
                        hash: hash.parse().ok()?,
                    })
                });
        Ok(Run {
            begin: ChainPoint {
                position: first.begin_position(),
                hash: first.begin_hash,
            },
            end: ChainPoint {
                position: last.end_position(),
                hash: last.end_hash,
            },
            claims: claims.collect(),
            path: slices,
        })
    }
}

fn write_slices(path: &Path, slices: &[SliceKey]) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for slice in slices {
            writeln!(file, "{slice}")?;
        }
        file.flush()
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// The slices of log file `wanted`, found by bisection over the bytes of a file of sorted lines.
fn slices_of_file(file: &File, len: u64, wanted: u64) -> anyhow::Result<Vec<SliceKey>> {
    let (mut low, mut high) = (0, len);
    // The first line at or after `low` that is of `wanted` or later begins at or before `high`.
    while low < high {
        let middle = low + (high - low) / 2;
        match line_after(file, middle, len)? {
            Some((_, slice)) if slice.file < wanted => low = middle + 1,
            _ => high = middle,
        }
    }
    let mut slices = Vec::new();
    let mut at = low;
    while let Some((next, slice)) = line_after(file, at, len)? {
        if slice.file > wanted {
            break;
        }
        if slice.file == wanted {
            slices.push(slice);
        }
        at = next;
    }
    Ok(slices)
}

/// The first line that begins at or after `at`, and a position from which the line after it is found.
fn line_after(file: &File, at: u64, len: u64) -> anyhow::Result<Option<(u64, SliceKey)>> {
    // One byte earlier: a line begins where a line end comes before.
    let from = at.saturating_sub(1);
    let mut window = [0; 2 * LINE_MAX];
    let read = file.read_at(&mut window, from)?;
    let bytes = window.get(..read).unwrap_or_default();
    let skip = if at == 0 {
        Some(0)
    } else {
        bytes.iter().position(|byte| *byte == b'\n').map(|end| end + 1)
    };
    let Some(skip) = skip.filter(|skip| from + (*skip as u64) < len) else {
        return Ok(None);
    };
    let rest = bytes.get(skip..).unwrap_or_default();
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let slice = std::str::from_utf8(line)?.parse()?;
    Ok(Some((from + (skip + line.len()) as u64 + 1, slice)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tidemark_repository::log::{ChainHash, SliceFlags};

    use super::*;

    fn slice(file: u64, begin: u64) -> SliceKey {
        SliceKey {
            file,
            begin,
            end: begin + 10,
            begin_hash: ChainHash([1; 8]),
            end_hash: ChainHash([2; 8]),
            back: begin * 1000,
            times: None,
            flags: SliceFlags::default(),
        }
    }

    #[test]
    fn the_slices_of_one_file_are_found_among_lines_of_any_length() {
        let mut file = tempfile::tempfile().unwrap();
        let files = [3, 3, 3, 4, 7, 7, 9];
        for (index, number) in files.into_iter().enumerate() {
            writeln!(file, "{}", slice(number, index as u64)).unwrap();
        }
        let len = file.metadata().unwrap().len();
        for wanted in 0..12 {
            let found = slices_of_file(&file, len, wanted).unwrap();
            let expected = files.iter().filter(|number| **number == wanted).count();
            assert_eq!(found.len(), expected, "file {wanted}");
        }
        assert_eq!(slices_of_file(&file, len, 7).unwrap(), [slice(7, 4), slice(7, 5)]);
    }
}
