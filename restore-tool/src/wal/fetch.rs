//! Putting planned segments together from the repository.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use tidemark_repository::{Archive, Branch};
use tidemark_types::{ErrorClass, LogFiles, SegmentName};

use crate::exit::Failure;
use crate::log_bytes::LogBytes;
use crate::wal::segments::{Answer, Piece};
use crate::wal::state::{State, StateDir};

/// Slices of one segment fetched at once.
const FETCHES_AT_ONCE: usize = 8;

/// Fetches planned segments. Clones share the connection.
#[derive(Debug, Clone)]
pub struct SegmentSource {
    archive: Archive,
    dir: StateDir,
    state: State,
    /// The user and group that files are given to.
    owner: Option<(u32, u32)>,
}

impl SegmentSource {
    /// Opens the repository that the state names.
    ///
    /// # Errors
    /// When the state cannot be read or the repository not be opened.
    pub async fn open(dir: StateDir) -> anyhow::Result<SegmentSource> {
        let state = dir.read()?;
        let repository = state.source.open().await?;
        let archive = repository.archive(&state.server, Some(state.generation)).await?;
        Ok(SegmentSource::new(archive, dir, state, None))
    }

    /// With a repository that is open already.
    pub fn new(archive: Archive, dir: StateDir, state: State, owner: Option<(u32, u32)>) -> SegmentSource {
        SegmentSource {
            archive,
            dir,
            state,
            owner,
        }
    }

    /// Where segments wait.
    pub fn dir(&self) -> &StateDir {
        &self.dir
    }

    /// The state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Fetches a segment and puts it where it waits to be taken; false when it is known to be absent.
    ///
    /// # Errors
    /// What the store says; damage; a file that cannot be written.
    pub async fn bring(&self, name: SegmentName) -> anyhow::Result<bool> {
        let Some(bytes) = self.segment(name).await? else {
            return Ok(false);
        };
        let file_name = name.file_name(self.state.log.segment_size);
        let path = self.dir.waiting(&file_name);
        let temporary = self.dir.waiting(&format!("{file_name}.{}", std::process::id()));
        let owner = self.owner;
        tokio::task::spawn_blocking(move || put(&temporary, &path, &bytes, owner)).await??;
        Ok(true)
    }

    /// The bytes of a segment file, zeros up to its size included; `None` when it is known to be absent.
    ///
    /// # Errors
    /// What the store says; damage.
    pub async fn segment(&self, name: SegmentName) -> anyhow::Result<Option<Vec<u8>>> {
        let size = self.state.log.segment_size;
        let pieces = match self.state.log.segment(name) {
            Answer::Absent => return Ok(None),
            Answer::Before => {
                let message = format!(
                    "{} lies before the plan, which begins at {}",
                    name.file_name(size),
                    self.state.log.begin
                );
                return Err(Failure::new(ErrorClass::Config, message).into());
            }
            Answer::Pieces(pieces) => pieces,
        };
        let read = || format!("read the log for {}", name.file_name(size));
        let mut bytes = Vec::with_capacity(usize::try_from(size.bytes())?);
        for piece in pieces {
            // The plan may begin within its first segment; the server never reads what lies before.
            let begin = piece.begin.bytes_since(size.start_of(name.segment));
            bytes.resize(usize::try_from(begin)?, 0);
            self.piece(piece, &mut bytes).await.with_context(read)?;
        }
        bytes.resize(usize::try_from(size.bytes())?, 0);
        Ok(Some(bytes))
    }

    async fn piece(&self, piece: Piece, into: &mut Vec<u8>) -> anyhow::Result<()> {
        let size = self.state.log.segment_size;
        let run = self
            .dir
            .run(&self.state, piece.timeline, size.segment_of(piece.begin).0)?;
        let files = LogFiles::Wal(size);
        let mut bytes = LogBytes::new(
            &self.archive,
            Branch(piece.timeline.0),
            &run,
            files.lsn(piece.begin),
            files.lsn(piece.end),
            FETCHES_AT_ONCE,
        );
        while let Some(chunk) = bytes.next().await? {
            into.extend_from_slice(&chunk.bytes);
        }
        Ok(())
    }
}

/// Writes under a temporary name and moves into place, so that nobody takes half a segment. Not synced: what a crash
/// takes is fetched again.
fn put(temporary: &PathBuf, path: &PathBuf, bytes: &[u8], owner: Option<(u32, u32)>) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(temporary)?;
        std::os::unix::fs::fchown(&file, owner.map(|(user, _)| user), owner.map(|(_, group)| group))?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        file.write_all(bytes)?;
        std::fs::rename(temporary, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}
