//! Running a program to its end.

use std::io::Write;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Result, bail};

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

/// Runs `client` to its end with `sql` on its stdin, and returns its stdout. An error carries what it wrote to stderr.
pub(crate) fn run_sql(client: &mut Command, sql: &str) -> Result<String> {
    let mut child = client
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // A client that cannot connect ends without reading: its message says more than our broken pipe.
    let _ = child
        .stdin
        .take()
        .expect("stdin is a pipe")
        .write_all(sql.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{sql}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
