//! From a file and the environment to settings.
//!
//! The environment is consulted for one thing only: `${NAME}` inside a server's `url`, so that a password need not be
//! written into the file.

use std::path::Path;

use toml::de::DeTable;

use super::error::{ConfigError, Problem};
use super::keys;
use super::raw::RawConfig;
use super::rules;
use super::settings::Settings;

/// Settings, and what is allowed but unwise about them.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// For the log or the terminal.
    pub warnings: Vec<Problem>,
}

/// Reads, checks and completes the configuration in `file`.
///
/// # Errors
/// When the file cannot be read, or anything in it is wrong: then everything that is.
pub fn load(file: &Path) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Read {
        file: file.to_owned(),
        source,
    })?;
    parse(&text, &|name| std::env::var(name).ok()).map_err(|problems| ConfigError::Invalid {
        file: file.to_owned(),
        problems,
    })
}

/// What [`load`] does once it has the text. `environment` answers `${NAME}`.
pub(super) fn parse(
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Vec<Problem>> {
    let document = DeTable::parse(text).map_err(|error| vec![syntax_problem(text, &error)])?;
    let unknown = key_problems(text, document.get_ref());
    if !unknown.is_empty() {
        return Err(unknown);
    }
    let raw: RawConfig =
        toml::from_str(text).map_err(|error| vec![type_problem(text, document.get_ref(), &error)])?;
    rules::validate(raw, text, environment)
}

/// The line, counted from 1, that holds the byte at `offset`.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    Problem {
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        key: String::new(),
        message: format!("not valid TOML: {}", error.message()),
    }
}

fn key_problems(text: &str, document: &DeTable<'_>) -> Vec<Problem> {
    let unknown = keys::unknown_keys(document).into_iter();
    let mut problems: Vec<Problem> = unknown
        .map(|key| Problem {
            line: line_of(text, key.span.start),
            key: key.path,
            message: key.message,
        })
        .collect();
    if let Some(server) = document
        .get("server")
        .filter(|server| server.get_ref().is_table())
    {
        problems.push(Problem {
            line: line_of(text, server.span().start),
            key: "server".to_owned(),
            message: "expected [[server]] in double brackets, once for each server".to_owned(),
        });
    }
    problems.sort_by_key(|problem| problem.line);
    problems
}

fn type_problem(text: &str, document: &DeTable<'_>, error: &toml::de::Error) -> Problem {
    let offset = error.span().map_or(0, |span| span.start);
    Problem {
        line: line_of(text, offset),
        key: keys::key_at(document, offset).unwrap_or_default(),
        message: error.message().to_owned(),
    }
}
