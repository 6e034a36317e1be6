//! Bytes of the log as the server wrote them.

use futures::StreamExt;
use futures::stream::BoxStream;
use tidemark_repository::log::{LogChunk, LogReader, LogVerifier, Run};
use tidemark_repository::{Archive, Branch, RepositoryError, StoredSlice};
use tidemark_types::{ErrorClass, LogFiles, LogPosition, Position};

use crate::exit::Failure;
use crate::plan::{Line, LogFile};

/// Reads a range of one branch's log in order: slices are fetched several at once, decompressed and proven off the
/// reactor, and cut to the range. Holds as many slices as are fetched at once, however long the range is. May be dropped
/// at any time; after an error it must be.
pub struct LogBytes {
    branch: Branch,
    stored: BoxStream<'static, Result<StoredSlice, RepositoryError>>,
    /// Absent only while it is at work.
    verifier: Option<LogVerifier>,
    /// What was handed out ends here.
    at: Position,
    end: Position,
}

impl LogBytes {
    /// The bytes `[begin, end)` of `branch`, which lie in `run`, with up to `at_once` requests under way.
    pub fn new(
        archive: &Archive,
        branch: Branch,
        run: &Run,
        begin: Position,
        end: Position,
        at_once: usize,
    ) -> LogBytes {
        let reader = LogReader::new(archive, branch, run, begin.at, end.at);
        LogBytes {
            branch,
            verifier: Some(reader.verifier(run)),
            stored: reader.fetch(at_once).boxed(),
            at: begin,
            end,
        }
    }

    /// The bytes of a planned binlog file from the offset `from` on: from zero for a file that is to be one again, whose
    /// begin says how the rest is written. `None` when `line` does not hold them.
    pub fn of_file(
        archive: &Archive,
        line: &Line<'_>,
        file: &LogFile,
        from: u64,
        at_once: usize,
    ) -> Option<LogBytes> {
        let begin = LogPosition {
            file: file.part.file,
            offset: from,
        };
        let end = if file.part.ends_file {
            LogPosition::start_of(file.part.file.saturating_add(1))
        } else {
            LogPosition {
                offset: file.part.end,
                ..begin
            }
        };
        line.stretches().iter().find_map(|stretch| {
            let (begin, end) = (
                stretch.begin.files.position(begin),
                stretch.begin.files.position(end),
            );
            let is_there = stretch.branch == file.branch && stretch.holds(begin) && stretch.holds(end);
            is_there.then(|| LogBytes::new(archive, stretch.branch, stretch.run, begin, end, at_once))
        })
    }

    /// The next of them, all of one log file; `None` when the range has been handed out.
    ///
    /// # Errors
    /// What the store says; `Damaged` and `Conflict` of the slices; damage when the range is not stored to its end.
    pub async fn next(&mut self) -> anyhow::Result<Option<LogChunk>> {
        while self.at < self.end {
            let Some(stored) = self.stored.next().await.transpose()? else {
                return Err(self.lacking().into());
            };
            let Some(mut verifier) = self.verifier.take() else {
                return Err(self.lacking().into());
            };
            let (verifier, chunk) = tokio::task::spawn_blocking(move || {
                let chunk = verifier.next(&stored);
                (verifier, chunk)
            })
            .await?;
            self.verifier = Some(verifier);
            if let Some(chunk) = chunk? {
                let chunk = self.cut(chunk)?;
                if !chunk.bytes.is_empty() {
                    return Ok(Some(chunk));
                }
            }
        }
        Ok(None)
    }

    /// The part of a chunk that lies in what is still to be handed out.
    fn cut(&mut self, mut chunk: LogChunk) -> Result<LogChunk, Failure> {
        let (at, end) = (self.at.at, self.end.at);
        let LogPosition { file, offset: begin } = chunk.begin;
        let chunk_end = begin + chunk.bytes.len() as u64;
        if end.file == file && chunk.ends_file && chunk_end < end.offset {
            return Err(self.lacking());
        }
        if end.file == file && end.offset < chunk_end {
            chunk.bytes.truncate(len(end.offset.saturating_sub(begin)));
            chunk.ends_file = false;
        }
        let new_end = LogPosition {
            file,
            offset: begin + chunk.bytes.len() as u64,
        };
        if at.file == file && begin < at.offset {
            let skip = len(at.offset - begin).min(chunk.bytes.len());
            chunk.bytes.drain(..skip);
            chunk.begin.offset = begin + skip as u64;
        }
        self.at = self.at.files.position(if chunk.ends_file {
            LogPosition::start_of(file.saturating_add(1))
        } else {
            new_end.max(at)
        });
        Ok(chunk)
    }

    fn lacking(&self) -> Failure {
        let word = match self.at.files {
            LogFiles::Wal(_) => "timeline",
            LogFiles::Binlog { .. } => "branch",
        };
        let message = format!(
            "the log of {word} {} is not stored from {} to {}",
            self.branch, self.at, self.end
        );
        Failure::new(ErrorClass::Corrupt, message).hint("`tidemark-restore list` shows what is stored")
    }
}

impl std::fmt::Debug for LogBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogBytes(branch {}, {} to {})", self.branch, self.at, self.end)
    }
}

fn len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
