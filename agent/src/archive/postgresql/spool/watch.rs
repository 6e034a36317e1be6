//! Notices new files in the spool: by the kernel's word, and by a look now and then, because that word can be lost (a
//! full queue, a network file system).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// How often the spool is looked at in any case.
pub const LOOK_EVERY: Duration = Duration::from_secs(30);

/// See the module.
pub struct SpoolWatcher {
    changed: Arc<Notify>,
    /// Ends with this object.
    _watcher: Option<RecommendedWatcher>,
}

impl SpoolWatcher {
    /// Watches `directory`. Where the kernel cannot (no watch is left), only the looks remain.
    pub fn new(directory: &Path) -> SpoolWatcher {
        let changed = Arc::new(Notify::new());
        let watcher = watch(directory, Arc::clone(&changed))
            .inspect_err(|error| {
                tracing::warn!(
                    %error,
                    directory = %directory.display(),
                    every = ?LOOK_EVERY,
                    "the spool cannot be watched; looking at it now and then"
                );
            })
            .ok();
        SpoolWatcher {
            changed,
            _watcher: watcher,
        }
    }

    /// Waits until something may have changed since the last call. May be dropped.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

fn watch(directory: &Path, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error may mean that events were lost.
        if event.is_ok_and(|event| !is_news(event.kind)) {
            return;
        }
        changed.notify_one();
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Whether there may be a file to ship: it gets its name when it is whole. Our own looking, reading and removing, and
/// the writing of files that have no name yet, are no news.
fn is_news(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(change) => matches!(change, ModifyKind::Name(_) | ModifyKind::Any),
        EventKind::Remove(_) => false,
        EventKind::Create(_) | EventKind::Any | EventKind::Other => true,
    }
}
