//! Looking into a spool and reading the small files in it: blocking work.

use std::path::Path;

use bytes::Bytes;
use tidemark_types::{ErrorClass, TimelineHistory, WalSegmentSize};

use super::access::denied;
use super::name::{Kind, SpoolFile, sort};
use super::segment::Expected;
use crate::exit::Failure;

/// Bound of a history file or a backup's note; real ones have a few hundred bytes.
const NOTE_LEN_MAX: u64 = 1 << 20;

/// Runs file work off the reactor.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// What a look into the spool shows.
pub struct Listed {
    /// What is to be shipped, in order.
    pub files: Vec<SpoolFile>,
    /// The first name that means nothing.
    pub stranger: Option<String>,
}

/// Looks into the spool. Blocking.
///
/// # Errors
/// What the file system says.
pub fn list(directory: &Path, size: WalSegmentSize) -> anyhow::Result<Listed> {
    let failed = |error| denied(error, "list the spool", directory);
    let mut listed = Listed {
        files: Vec::new(),
        stranger: None,
    };
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        match SpoolFile::parse(&name, size) {
            Some(file) => listed.files.push(file),
            // archive-wal's temporary files are on their way.
            None if name.starts_with('.') => {}
            None => listed.stranger = listed.stranger.min(Some(name.clone())).or(Some(name)),
        }
    }
    sort(&mut listed.files);
    Ok(listed)
}

/// The content of a history file, a backup's note or a `.partial` segment. Blocking.
///
/// # Errors
/// `Conflict` when it is not what its name says; what the file system says.
pub fn read_branch_file(path: &Path, file: &SpoolFile, expected: &Expected) -> anyhow::Result<Bytes> {
    if file.kind == Kind::Partial {
        expected.open(path, file.segment)?;
    } else {
        let len = std::fs::metadata(path)
            .map_err(|error| denied(error, "look at", path))?
            .len();
        if len > NOTE_LEN_MAX {
            let message = format!(
                "{} has {len} bytes: that is not what its name says",
                path.display()
            );
            return Err(Failure::new(ErrorClass::Conflict, message).into());
        }
    }
    let content = std::fs::read(path).map_err(|error| denied(error, "read", path))?;
    if file.kind == Kind::History {
        TimelineHistory::parse(file.timeline, &String::from_utf8_lossy(&content))
            .map_err(|error| Failure::new(ErrorClass::Conflict, format!("{}: {error}", path.display())))?;
    }
    Ok(Bytes::from(content))
}
