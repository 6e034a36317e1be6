//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;

use tidemark_types::ErrorClass;

/// One thing that is wrong (or, as a warning, unwise) in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, counted from 1.
    pub line: usize,
    /// The key with its section, such as `server.max_lag`; empty when the text is no TOML at all.
    pub key: String,
    /// What was expected there, and what was found.
    pub message: String,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("read configuration {file}", file = .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file was read and makes no sense. Holds at least one problem, in the order of their lines.
    #[error("{}", render(.file, .problems))]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Everything that is wrong in it.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// What kind of failure this is.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Config
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

fn render(file: &std::path::Path, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("{}:{}: {problem}", file.display(), problem.line))
        .collect();
    lines.join("\n       ")
}
