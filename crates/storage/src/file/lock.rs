//! The lock that makes [`crate::PutMode::Update`] atomic among all processes that use one root.
//!
//! An update holds it exclusively between its look and its rename; whatever else replaces or removes an object holds
//! it shared.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;

use crate::StorageError;
use crate::file::failure::Subject;
use crate::file::root::Root;
use crate::file::temp;

/// An update takes milliseconds; who holds the lock longer than this is stuck, and the caller should say so.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// How the lock is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lock {
    Shared,
    Exclusive,
}

/// Takes the lock; it is let go when the result is dropped, or the process dies.
pub(super) fn take(root: &Root, subject: Subject<'_>, lock: Lock) -> Result<OwnedFd, StorageError> {
    let path = format!("{}/{}", temp::FOLDER, temp::LOCK);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let open = || {
        openat(
            root.dir(),
            path.as_str(),
            flags,
            Mode::from_raw_mode(temp::FILE_MODE),
        )
    };
    let file = open()
        .or_else(|errno| match errno {
            Errno::NOENT => root.make_folder(temp::FOLDER).and_then(|()| open()),
            other => Err(other),
        })
        .map_err(|errno| subject.error(errno))?;
    let operation = match lock {
        Lock::Shared => FlockOperation::NonBlockingLockShared,
        Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    let begin = Instant::now();
    loop {
        match flock(&file, operation) {
            Ok(()) => return Ok(file),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if begin.elapsed() < PATIENCE => thread::sleep(PAUSE),
            Err(errno) => return Err(subject.error(errno)),
        }
    }
}
