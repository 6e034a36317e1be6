//! How far a running base backup has come: counted by its workers, shown by whoever started it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one base backup.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicU64,
    done: AtomicU64,
}

impl Progress {
    /// So many bytes are to be looked at.
    pub fn expect(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    /// So many more bytes are done, whether they were read or known to be unchanged.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes done, and bytes to be looked at (zero until that is known).
    pub fn so_far(&self) -> (u64, u64) {
        (
            self.done.load(Ordering::Relaxed),
            self.total.load(Ordering::Relaxed),
        )
    }
}
