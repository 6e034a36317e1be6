//! A long-running child process: its log, its end.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::wait::holds_within;

/// How much of a log is shown when something went wrong.
const TAIL_LINES: usize = 40;

/// A child process whose output goes to a log file. It is killed and reaped on drop.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`, its output appended to `log`. Panics when it cannot be started.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Daemon {
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("open {}: {error}", log.display()));
        let err = out.try_clone().expect("duplicate the log's handle");
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        Daemon {
            name: name.to_owned(),
            child: Mutex::new(child),
            log: log.to_owned(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// How it ended; `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child().try_wait().expect("ask for the child's state")
    }

    /// Sends a signal; none when it has ended.
    pub fn signal(&self, signal: Signal) {
        // The child is reaped by this object alone and the lock is held: the id cannot have passed to another.
        let mut child = self.child();
        if child.try_wait().expect("ask for the child's state").is_none() {
            let pid = Pid::from_child(&child);
            kill_process(pid, signal).unwrap_or_else(|error| panic!("signal {}: {error}", self.name));
        }
    }

    /// Waits for its end. Panics with the end of its log when it still runs after `timeout`.
    #[track_caller]
    pub fn wait(&self, timeout: Duration) -> ExitStatus {
        let ended = holds_within(timeout, || !self.is_running());
        assert!(
            ended,
            "{} still runs after {timeout:?}; its log ends:\n{}",
            self.name,
            self.log_tail()
        );
        self.exit_status().expect("it has ended")
    }

    /// Ends it at once with SIGKILL and reaps it.
    pub fn kill9(&self) {
        let mut child = self.child();
        child.kill().expect("kill the child");
        child.wait().expect("reap the child");
    }

    /// What it has written so far.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of what it has written.
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child
            .lock()
            .expect("no thread panicked while it held the child")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of {} ends:\n{}", self.name, self.log_tail());
        }
        // A poisoned lock must not keep the process alive.
        let child = self
            .child
            .get_mut()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = child.kill();
        let _ = child.wait();
    }
}
