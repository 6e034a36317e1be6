//! Files on their way into the store: written beside the tree, synced, then moved to their key in one step.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, UTIME_OMIT, flock,
    fstat, futimens, linkat, openat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use crate::file::failure::{Failure, Subject};
use crate::file::lock::{self, Lock};
use crate::file::root::{Root, etag_of, folder_of, is_folder};
use crate::{ETag, ObjectKey, Operation, StorageError};

/// Where files grow, below the root and so on the same file system. No key can hold a `~`.
pub(super) const FOLDER: &str = ".tmp~";
/// The lock file in it.
pub(super) const LOCK: &str = "lock";
/// Backups hold what the database holds: the owner writes, the group reads, nobody else.
pub(super) const FILE_MODE: u32 = 0o640;
/// Age from which a file that no process has locked is a crashed writer's.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);
/// How often a put makes its folder again when concurrent deletes keep taking it away.
const FOLDER_ATTEMPTS: u32 = 100;

/// What a file may replace when it goes to its key.
#[derive(Debug)]
pub(super) enum Publish {
    Create,
    Overwrite,
    Update(ETag),
}

/// A file being written. Dropping it removes it.
#[derive(Debug)]
pub(super) struct TempFile {
    root: Arc<Root>,
    key: ObjectKey,
    name: String,
    file: File,
    /// Whether it still lies in [`FOLDER`].
    unpublished: bool,
}

impl TempFile {
    /// Begins a file meant for `key`. It stays locked while it is open, so that [`clear_leftovers`] of another
    /// process leaves it alone.
    pub(super) fn create(root: &Arc<Root>, key: &ObjectKey) -> Result<TempFile, StorageError> {
        let subject = Subject::object(root, Operation::Put, key);
        let name = format!("{FOLDER}/{:x}-{:016x}", std::process::id(), rand::random::<u64>());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let open = || openat(root.dir(), name.as_str(), flags, Mode::from_raw_mode(FILE_MODE));
        let file = open()
            .or_else(|errno| match errno {
                Errno::NOENT => root.make_folder(FOLDER).and_then(|()| open()),
                other => Err(other),
            })
            .map_err(|errno| subject.error(errno))?;
        let temp = TempFile {
            root: Arc::clone(root),
            key: key.clone(),
            name,
            file: File::from(file),
            unpublished: true,
        };
        // Where locks are not to be had, age alone tells a leftover.
        let _ = flock(&temp.file, FlockOperation::NonBlockingLockExclusive);
        Ok(temp)
    }

    /// Appends.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.file
            .write_all(bytes)
            .map_err(|error| match Errno::from_io_error(&error) {
                Some(errno) => self.error(errno),
                None => self.subject().failed(Failure::from_io(&error)),
            })
    }

    /// Moves the file to its key, durably.
    pub(super) fn publish(mut self, how: Publish) -> Result<ETag, StorageError> {
        let (_lock, expected) = match how {
            Publish::Create => return self.publish_new(),
            Publish::Overwrite => (lock::take(&self.root, self.subject(), Lock::Shared)?, None),
            Publish::Update(etag) => (
                lock::take(&self.root, self.subject(), Lock::Exclusive)?,
                Some(etag),
            ),
        };
        let present = self.present()?;
        if let Some(expected) = expected
            && present.as_ref().map(etag_of) != Some(expected)
        {
            return Err(self.subject().changed());
        }
        let etag = self.finish_content(present.as_ref())?;
        self.place(|temp| {
            renameat(
                temp.root.dir(),
                temp.name.as_str(),
                temp.root.dir(),
                temp.key.as_str(),
            )
        })
        .map_err(|errno| self.error(errno))?;
        self.settle()?;
        Ok(etag)
    }

    fn publish_new(mut self) -> Result<ETag, StorageError> {
        let etag = self.finish_content(None)?;
        match self.place(place_new) {
            Ok(()) => self.settle()?,
            Err(Errno::EXIST) => {
                if self.present()?.is_some_and(|stat| is_folder(&stat)) {
                    return Err(self.error(Errno::ISDIR));
                }
                // Whoever wrote it may have died before syncing the folder, and "already there" lets our caller
                // count on the object.
                self.sync_folder()?;
                return Err(self.subject().already_exists());
            }
            Err(errno) => return Err(self.error(errno)),
        }
        Ok(etag)
    }

    fn present(&self) -> Result<Option<Stat>, StorageError> {
        match statat(self.root.dir(), self.key.as_str(), AtFlags::empty()) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(self.error(errno)),
        }
    }

    /// Stamps the file with a time of its own, to the nanosecond (the kernel's stamps are only good to a tick) and
    /// later than that of the version it replaces, and syncs it.
    fn finish_content(&self, replaced: Option<&Stat>) -> Result<ETag, StorageError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut stamp = Timespec {
            tv_sec: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: now.subsec_nanos().into(),
        };
        if let Some(old) = replaced {
            let old = Timespec {
                tv_sec: old.st_mtime,
                tv_nsec: i64::try_from(old.st_mtime_nsec).unwrap_or(0),
            };
            if (old.tv_sec, old.tv_nsec) >= (stamp.tv_sec, stamp.tv_nsec) {
                stamp = next_nanosecond(&old);
            }
        }
        let omit = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        };
        let stamps = Timestamps {
            last_access: omit,
            last_modification: stamp,
        };
        futimens(&self.file, &stamps)
            .and_then(|()| rustix::fs::fsync(&self.file))
            .and_then(|()| fstat(&self.file))
            .map(|stat| etag_of(&stat))
            .map_err(|errno| self.error(errno))
    }

    /// Runs `step`, making the key's folder as often as it is missing.
    fn place(&self, step: impl Fn(&TempFile) -> Result<(), Errno>) -> Result<(), Errno> {
        for _ in 0..FOLDER_ATTEMPTS {
            match step(self) {
                Err(Errno::NOENT) => {}
                other => return other,
            }
            match self.root.make_folder(folder_of(self.key.as_str())) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(other) => return Err(other),
            }
        }
        Err(Errno::NOENT)
    }

    fn settle(&mut self) -> Result<(), StorageError> {
        self.unpublished = false;
        self.sync_folder()
    }

    fn sync_folder(&self) -> Result<(), StorageError> {
        self.root
            .sync_entry_of(folder_of(self.key.as_str()))
            .map_err(|errno| self.error(errno))
    }

    fn subject(&self) -> Subject<'_> {
        Subject::object(&self.root, Operation::Put, &self.key)
    }

    fn error(&self, errno: Errno) -> StorageError {
        self.subject().error(errno)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.unpublished {
            // What cannot be removed now is removed as a leftover later.
            let _ = unlinkat(self.root.dir(), self.name.as_str(), AtFlags::empty());
        }
    }
}

/// Moves the file to its key unless something is there. Not every file system knows how to rename so (NFS answers
/// EINVAL): there a hard link does the same in two steps.
fn place_new(temp: &TempFile) -> Result<(), Errno> {
    let (dir, name, key) = (temp.root.dir(), temp.name.as_str(), temp.key.as_str());
    match renameat_with(dir, name, dir, key, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => place_new_by_link(temp),
        other => other,
    }
}

pub(super) fn place_new_by_link(temp: &TempFile) -> Result<(), Errno> {
    let (dir, name, key) = (temp.root.dir(), temp.name.as_str(), temp.key.as_str());
    linkat(dir, name, dir, key, AtFlags::empty())?;
    // A second name that stays behind is cleared as a leftover.
    let _ = unlinkat(dir, name, AtFlags::empty());
    Ok(())
}

fn next_nanosecond(time: &Timespec) -> Timespec {
    if time.tv_nsec >= 999_999_999 {
        Timespec {
            tv_sec: time.tv_sec.saturating_add(1),
            tv_nsec: 0,
        }
    } else {
        Timespec {
            tv_sec: time.tv_sec,
            tv_nsec: time.tv_nsec + 1,
        }
    }
}

/// Removes files that crashed writers left: old, and locked by no process.
pub(super) fn clear_leftovers(root: &Root) -> Result<(), StorageError> {
    let subject = Subject::named(root, Operation::Open, FOLDER);
    let dir = match root.open_folder(FOLDER) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(subject.error(errno)),
    };
    for entry in Dir::read_from(&dir).map_err(|errno| subject.error(errno))? {
        let entry = entry.map_err(|errno| subject.error(errno))?;
        let name = entry.file_name();
        if name.to_bytes() == LOCK.as_bytes() {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Ok(file) = openat(&dir, name, flags, Mode::empty()) else {
            continue;
        };
        if is_old(&file) && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            match unlinkat(&dir, name, AtFlags::empty()) {
                Ok(()) => {
                    tracing::info!(store = root.url(), file = ?name, "removed what a crashed writer left");
                }
                Err(error) => {
                    tracing::warn!(store = root.url(), file = ?name, %error, "cannot remove what a crashed writer left");
                }
            }
        }
    }
    Ok(())
}

fn is_old(file: &impl std::os::fd::AsFd) -> bool {
    let Ok(stat) = fstat(file) else { return false };
    let written = UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
    super::root::is_file(&stat)
        && SystemTime::now()
            .duration_since(written)
            .is_ok_and(|age| age > LEFTOVER_AGE)
}
