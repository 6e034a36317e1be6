//! Runs the binary.

use std::process::Command;

/// How a run ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `tidemark-agent` with these arguments.
pub fn agent(arguments: &[&str]) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_tidemark-agent"))
        .args(arguments)
        .env_remove("TIDEMARK_CONFIG")
        .env_remove("TIDEMARK_LOG")
        .output()
        .expect("the binary runs");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
