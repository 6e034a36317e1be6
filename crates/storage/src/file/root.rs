//! The root directory: opening it, making and syncing the folders below it, deleting.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fsync, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use tidemark_types::Timestamp;

use crate::file::failure::{Failure, Subject, config_problem};
use crate::file::lock::{self, Lock};
use crate::{ETag, ObjectKey, Operation, StorageError};

/// Folders are for the owner to write and for the group to read, as PostgreSQL's own `--allow-group-access` has it.
pub(super) const FOLDER_MODE: u32 = 0o750;
/// Most folders remembered as durable. A forgotten one costs a few fsyncs, nothing else.
const DURABLE_FOLDERS: usize = 4096;

/// The open root of a store.
#[derive(Debug)]
pub(super) struct Root {
    dir: OwnedFd,
    path: PathBuf,
    url: String,
    /// Folders whose chain of entries up to the root was synced by this process.
    durable: Mutex<HashSet<String>>,
}

impl Root {
    /// Opens the directory, after making it and what leads to it.
    pub(super) fn create(path: &Path) -> Result<Root, StorageError> {
        let mut made: Vec<&Path> = Vec::new();
        for ancestor in path.ancestors() {
            if ancestor.exists() {
                break;
            }
            made.push(ancestor);
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(path)
            .map_err(|e| open_error(path, Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        for folder in made {
            let parent = folder.parent().unwrap_or(folder);
            fs::File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(|e| open_error(path, Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        }
        Root::existing(path)
    }

    /// Opens a directory that must be there.
    pub(super) fn existing(path: &Path) -> Result<Root, StorageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| open_error(path, e))?;
        Ok(Root {
            dir,
            path: path.to_owned(),
            url: format!("file://{}", path.display()),
            durable: Mutex::default(),
        })
    }

    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Opens the folder (`""` is the root itself).
    pub(super) fn open_folder(&self, folder: &str) -> Result<OwnedFd, Errno> {
        let name = if folder.is_empty() { "." } else { folder };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.dir, name, flags, Mode::empty())
    }

    /// Makes the folder and all that lead to it. [`Errno::NOENT`] when a concurrent delete took one away meanwhile.
    pub(super) fn make_folder(&self, folder: &str) -> Result<(), Errno> {
        let ends = folder.match_indices('/').map(|(at, _)| at).chain([folder.len()]);
        for end in ends {
            let part = folder.get(..end).unwrap_or(folder);
            match mkdirat(&self.dir, part, Mode::from_raw_mode(FOLDER_MODE)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Makes a new entry of `folder` durable: syncs it, and, the first time, every folder that leads to it. (It may
    /// have been made a moment ago by another writer that has not synced it yet.)
    pub(super) fn sync_entry_of(&self, folder: &str) -> Result<(), Errno> {
        self.sync_folder(folder)?;
        if self.durable().contains(folder) {
            return Ok(());
        }
        let mut ancestor = folder;
        while !ancestor.is_empty() {
            ancestor = folder_of(ancestor);
            self.sync_folder(ancestor)?;
        }
        let mut durable = self.durable();
        if durable.len() >= DURABLE_FOLDERS {
            durable.clear();
        }
        durable.insert(folder.to_owned());
        Ok(())
    }

    fn durable(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A folder that is gone was emptied by somebody else's delete: nothing is left to sync. Some network file
    /// systems cannot sync a folder and say so with EINVAL.
    fn sync_folder(&self, folder: &str) -> Result<(), Errno> {
        match self.open_folder(folder).and_then(fsync) {
            Ok(()) | Err(Errno::NOENT | Errno::INVAL) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// Deletes objects, then the folders left empty, and makes both durable.
    pub(super) fn delete(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        let Some(first) = keys.first() else { return Ok(()) };
        let _lock = lock::take(
            self,
            Subject::object(self, Operation::Delete, first),
            Lock::Shared,
        )?;
        let mut touched = BTreeSet::new();
        let outcome = keys.iter().try_for_each(|key| {
            match unlinkat(&self.dir, key.as_str(), AtFlags::empty()) {
                Ok(()) => touched.insert(folder_of(key.as_str())),
                Err(Errno::NOENT | Errno::NOTDIR) => false,
                Err(errno) => return Err(Subject::object(self, Operation::Delete, key).error(errno)),
            };
            Ok(())
        });
        for folder in touched {
            let left = self.prune(folder);
            self.sync_folder(left)
                .map_err(|errno| Subject::named(self, Operation::Delete, left).error(errno))?;
        }
        outcome
    }

    /// Removes the folder and those above it as far as they are empty; returns the innermost one left. A put that
    /// finds its folder gone makes it again.
    fn prune<'a>(&self, folder: &'a str) -> &'a str {
        let mut folder = folder;
        while !folder.is_empty() {
            match unlinkat(&self.dir, folder, AtFlags::REMOVEDIR) {
                Ok(()) => self.durable().remove(folder),
                Err(Errno::NOENT) => false,
                // Not empty, or not ours to remove: an empty folder does no harm.
                Err(_) => break,
            };
            folder = folder_of(folder);
        }
        folder
    }
}

/// The folder a name lies in; empty for the root.
pub(super) fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn open_error(path: &Path, errno: Errno) -> StorageError {
    let shown = path.display().to_string();
    let problem = match errno {
        Errno::NOENT => Some(format!(
            "no repository at {shown}: there is no such directory (is it mounted?)"
        )),
        Errno::NOTDIR | Errno::EXIST => Some(format!("{shown} is not a directory")),
        other => config_problem(other, &shown),
    };
    match problem {
        Some(problem) => StorageError::Config {
            operation: Operation::Open,
            subject: format!("file://{shown}"),
            problem,
        },
        None => {
            let failure = Failure::Errno(errno);
            StorageError::Failed {
                operation: Operation::Open,
                subject: shown.clone(),
                url: format!("file://{shown}"),
                class: failure.class(),
                source: Box::new(failure),
            }
        }
    }
}

pub(super) fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

pub(super) fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

pub(super) fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// When a file was last written.
pub(super) fn modified_of(stat: &Stat) -> Timestamp {
    let micros = i64::try_from(stat.st_mtime_nsec).unwrap_or(0) / 1_000;
    Timestamp(stat.st_mtime.saturating_mul(1_000_000).saturating_add(micros))
}

/// A version of a file: every write makes a new one, with a time of write that [`super::temp`] sets to the nanosecond.
pub(super) fn etag_of(stat: &Stat) -> ETag {
    ETag(format!(
        "{:x}-{:x}.{:x}-{:x}",
        stat.st_ino, stat.st_mtime, stat.st_mtime_nsec, stat.st_size
    ))
}
