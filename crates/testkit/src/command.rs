//! Running a program to its end.

use std::process::{Command, ExitStatus};

/// How a program ended, and what it wrote.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Finished {
    /// Its exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Its stdout. Panics with both outputs unless it ended with exit code 0.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(
            self.status.success(),
            "{}\n{}{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// Both outputs, when it ended with `code`. Panics otherwise.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> String {
        assert_eq!(
            self.code(),
            Some(code),
            "{}\n{}{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout + &self.stderr
    }
}

/// Runs `command` to its end and captures its outputs. Panics when it cannot be started.
#[track_caller]
pub fn run(command: &mut Command) -> Finished {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
