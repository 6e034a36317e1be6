//! A program that a test starts, ends and starts again.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::daemon::Daemon;
use crate::wait::holds_within;

/// Holds the process of one program while it runs.
#[derive(Debug, Default)]
pub(crate) struct DaemonSlot(Mutex<Option<Daemon>>);

impl DaemonSlot {
    /// Spawns `command` without waiting for anything. Panics when the program is running already.
    #[track_caller]
    pub(crate) fn launch(&self, name: &str, command: &mut Command, log: &Path) {
        assert!(!self.is_running(), "{name} runs already");
        *self.held() = Some(Daemon::spawn(name, command, log));
    }

    /// Whether it is running.
    pub(crate) fn is_running(&self) -> bool {
        self.held().as_ref().is_some_and(Daemon::is_running)
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.held()
            .as_ref()
            .filter(|daemon| daemon.is_running())
            .map(Daemon::pid)
    }

    /// The process, running or ended, to end it or wait for it; `None` when it was taken, or never launched.
    pub(crate) fn take(&self) -> Option<Daemon> {
        self.held().take()
    }

    /// Waits until a server that was just launched `is_ready`. An error, with the end of its log, says that it ended, or
    /// was still not ready after `timeout` and has been killed by `kill`.
    pub(crate) fn wait_until_ready(
        &self,
        timeout: Duration,
        is_ready: impl Fn() -> bool,
        kill: impl FnOnce(&Daemon),
        log_tail: impl FnOnce(&Daemon) -> String,
    ) -> Result<()> {
        let ready = holds_within(timeout, || !self.is_running() || is_ready());
        if ready && self.is_running() {
            return Ok(());
        }
        let daemon = self.take().expect("it was just launched");
        let state = daemon.exit_status();
        kill(&daemon);
        let log = log_tail(&daemon);
        match state {
            Some(status) => bail!("the server ended with {status}; its log ends:\n{log}"),
            None => bail!("the server was not ready after {timeout:?}; its log ends:\n{log}"),
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
