//! This process, as an intent names it, and whether the process that another intent names can still be running.

use tidemark_repository::base::{BackupId, Intent};
use tidemark_types::Timestamp;

/// The intent of a backup that begins now in this process.
pub fn intent(now: Timestamp, parent: Option<BackupId>) -> Intent {
    Intent {
        backup: BackupId::new(now, rand::random()),
        parent,
        host: host_name(),
        boot: boot_id(),
        process: std::process::id(),
        started: now,
        refreshed: now,
    }
}

/// Whether the backup that `intent` names is known to be dead: it ran on this host, and the host was booted since, or
/// no such process is there. A process takes one backup of a server at a time, so an intent of this process's own
/// number, which is not the one just made, is from an earlier process of that number (the first in a container, say).
pub fn is_gone(intent: &Intent) -> bool {
    is_dead(&intent.host, &intent.boot, intent.process)
}

/// Whether the process that another object names is known to be dead: see [`is_gone`].
pub fn is_dead(host: &str, boot: &str, process: u32) -> bool {
    host == host_name() && (boot != boot_id() || process == std::process::id() || !runs(process))
}

fn runs(process: u32) -> bool {
    std::path::Path::new("/proc").join(process.to_string()).exists()
}

/// This host.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// This boot of it.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent_of(process: u32) -> Intent {
        Intent {
            process,
            ..intent(Timestamp(0), None)
        }
    }

    #[test]
    fn only_a_process_of_this_host_can_be_known_to_be_dead() {
        let parent = std::os::unix::process::parent_id();
        assert!(!is_gone(&intent_of(parent)), "the parent of this test runs");
        assert!(is_gone(&intent_of(u32::MAX)), "no process has this number");
        assert!(is_gone(&intent_of(std::process::id())));
        let elsewhere = Intent {
            host: "elsewhere".to_owned(),
            ..intent_of(u32::MAX)
        };
        assert!(!is_gone(&elsewhere));
        let before = Intent {
            boot: "an earlier boot".to_owned(),
            ..intent_of(parent)
        };
        assert!(is_gone(&before));
    }
}
