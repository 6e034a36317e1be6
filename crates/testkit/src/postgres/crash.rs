//! Ending a server as a crash does: every process of it, at once.
//!
//! Killing the postmaster alone would leave backends that go on for a moment, and shared memory in use.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::Daemon;
use crate::wait::wait_for;

/// Kills the postmaster and all of its children with SIGKILL and waits until they are gone.
pub(super) fn kill_all(postmaster: &Daemon) {
    let children = children_of(postmaster.pid());
    postmaster.kill9();
    for &child in &children {
        // One that noticed its postmaster's death may have ended by now: no such process.
        let _ = kill_process(child, Signal::KILL);
    }
    wait_for(
        "the killed server's processes to vanish",
        Duration::from_secs(10),
        || children.iter().all(|&child| !is_alive(child)),
    );
}

fn children_of(parent: u32) -> Vec<Pid> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let list = fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace()
        .filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw))
        .collect()
}

/// A zombie waits for whoever adopted it and holds nothing any more.
fn is_alive(pid: Pid) -> bool {
    let path = Path::new("/proc")
        .join(pid.as_raw_nonzero().to_string())
        .join("stat");
    // The state follows the command's name, which is in parentheses and may itself hold some.
    fs::read_to_string(path).is_ok_and(|stat| {
        let state = stat
            .rsplit_once(") ")
            .map(|(_, rest)| rest.starts_with(['Z', 'X']));
        state != Some(true)
    })
}
