//! Reads a directory that nobody writes to, such as a finished clone, as a stream of its files.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::mpsc;

use super::{BaseBackupError, FileEvent};

/// How much is read at once.
const READ_LEN: usize = 1 << 20;
/// Events that wait to be taken: the disk goes on while pages are hashed.
const EVENTS_WAITING: usize = 8;

/// The files of a directory on their way.
#[derive(Debug)]
pub struct DirectoryRead {
    events: mpsc::Receiver<Result<FileEvent, BaseBackupError>>,
    total: u64,
}

/// A file or directory that was found.
#[derive(Debug)]
struct Found {
    path: Arc<str>,
    location: PathBuf,
    is_directory: bool,
    size: u64,
}

impl DirectoryRead {
    /// Lists `directory`, and begins to read it.
    ///
    /// # Errors
    /// [`BaseBackupError::Io`] when it cannot be listed, or holds what is neither file nor directory.
    pub async fn open(directory: &Path) -> Result<DirectoryRead, BaseBackupError> {
        let root = directory.to_owned();
        let listed = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            list(&root, "", &mut found)?;
            Ok::<_, BaseBackupError>(found)
        });
        let found = listed
            .await
            .map_err(|error| BaseBackupError::io("list", directory, error.into()))??;
        let total = found.iter().map(|found| found.size).sum();
        let (sender, events) = mpsc::channel(EVENTS_WAITING);
        // Ends with the receiver, or with the last file.
        tokio::task::spawn_blocking(move || {
            for (file, found) in (0..).zip(&found) {
                match send(file, found, &sender) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        let _ = sender.blocking_send(Err(error));
                        return;
                    }
                }
            }
        });
        Ok(DirectoryRead { events, total })
    }

    /// The sizes of all files together, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.total
    }

    /// The next event; `None` when all of it was read. May be dropped at any time: nothing is lost.
    ///
    /// # Errors
    /// [`BaseBackupError::Io`].
    pub async fn next(&mut self) -> Result<Option<FileEvent>, BaseBackupError> {
        self.events.recv().await.transpose()
    }
}

fn list(directory: &Path, prefix: &str, found: &mut Vec<Found>) -> Result<(), BaseBackupError> {
    let failed = |error| BaseBackupError::io("list", directory, error);
    let refused = |location: &Path, why: &str| {
        let error = std::io::Error::new(std::io::ErrorKind::Unsupported, why);
        BaseBackupError::io("back up", location, error)
    };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let location = entry.path();
        let metadata = entry
            .metadata()
            .map_err(|error| BaseBackupError::io("look at", &location, error))?;
        let name = entry.file_name();
        let name = name
            .to_str()
            .ok_or_else(|| refused(&location, "its name is no UTF-8"))?;
        let path: Arc<str> = format!("{prefix}{name}").into();
        if !metadata.is_dir() && !metadata.is_file() {
            return Err(refused(&location, "it is neither a file nor a directory"));
        }
        let is_directory = metadata.is_dir();
        let size = if is_directory { 0 } else { metadata.len() };
        found.push(Found {
            path: Arc::clone(&path),
            location: location.clone(),
            is_directory,
            size,
        });
        if is_directory {
            list(&location, &format!("{path}/"), found)?;
        }
    }
    Ok(())
}

/// Reads a file and sends it; `false` when nobody takes it any more.
fn send(
    number: u64,
    found: &Found,
    events: &mpsc::Sender<Result<FileEvent, BaseBackupError>>,
) -> Result<bool, BaseBackupError> {
    let give = |event| events.blocking_send(Ok(event)).is_ok();
    let path = Arc::clone(&found.path);
    if found.is_directory {
        return Ok(give(FileEvent::Directory { path }));
    }
    let failed = |error| BaseBackupError::io("read", &found.location, error);
    let file = fs::File::open(&found.location).map_err(failed)?;
    if !give(FileEvent::Begin {
        file: number,
        path,
        replaces: false,
    }) {
        return Ok(false);
    }
    let mut offset = 0;
    loop {
        let mut bytes = BytesMut::zeroed(READ_LEN);
        let read = file.read_at(&mut bytes, offset).map_err(failed)?;
        if read == 0 {
            return Ok(give(FileEvent::End { file: number }));
        }
        bytes.truncate(read);
        if !give(FileEvent::Data {
            file: number,
            offset,
            bytes: bytes.freeze(),
        }) {
            return Ok(false);
        }
        offset += read as u64;
    }
}
