//! What `init` wants to know of a server, whatever it runs.

mod mysql;
mod postgresql;

use std::path::{Path, PathBuf};

use tidemark_mysql::client::ConnectOptions;
use tidemark_postgres::{ConnInfo, Environment};
use tidemark_types::{ErrorClass, Finding, Secret, Severity};

use crate::cli::InitArgs;
use crate::config::Engine;
use crate::exit::Failure;

/// A server as it was seen.
#[derive(Debug, Clone)]
pub struct Survey {
    /// What it runs.
    pub engine: Engine,
    /// What it is, for people: `PostgreSQL 17.2, a standby`.
    pub title: String,
    /// What its administrator calls it; may be empty.
    pub name: String,
    /// Who connected, when that account may do anything: the agent is to have one of its own.
    pub administrator: Option<String>,
    /// The statements that make the agent's own account, with no more rights than it uses.
    pub account: Vec<String>,
    /// Where the data directory is.
    pub data_directory: DataDirectory,
    /// Statements that mend what stands in the way or is risky.
    pub remedies: Vec<String>,
}

/// Where a server's data directory is, as seen from this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDirectory {
    /// On this host, readable, and the server's own.
    Local(PathBuf),
    /// Its path is known, and not the server's or not readable here.
    NotHere {
        /// The path.
        path: PathBuf,
        /// Why it cannot be used.
        why: String,
    },
    /// The server does not tell this user.
    Hidden,
}

/// Looks at the server that `--url` names.
///
/// # Errors
/// When it cannot be reached or asked, or `--url` makes no sense.
pub async fn look(args: &InitArgs) -> anyhow::Result<Survey> {
    let invalid = |error: &dyn std::fmt::Display| Failure::new(ErrorClass::Config, format!("--url: {error}"));
    let password = args.password_file.as_deref().map(read_password).transpose()?;
    if args.url.starts_with("mysql://") {
        let options = ConnectOptions::parse(&args.url).map_err(|error| invalid(&error))?;
        let password = password.or_else(|| std::env::var("MYSQL_PWD").ok().map(Secret::new));
        return mysql::look(&match password {
            Some(password) => options.with_password(password),
            None => options,
        })
        .await;
    }
    let info = ConnInfo::parse(&args.url, &Environment::of_process())
        .map_err(|error| invalid(&error))?
        .with_application_name("tidemark-agent init");
    let info = match password {
        Some(password) => info.with_password(password),
        None => info,
    };
    Ok(postgresql::look(&info).await?)
}

fn read_password(file: &Path) -> Result<Secret, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::new(
            ErrorClass::Config,
            format!("read --password-file {}: {error}", file.display()),
        )
    })?;
    Ok(Secret::new(text.lines().next().unwrap_or_default()))
}

/// The statements that are worth it.
fn remedies(findings: Vec<Finding>) -> Vec<String> {
    let worth_it = findings
        .into_iter()
        .filter(|finding| finding.severity >= Severity::Warning);
    let remedies = worth_it.filter_map(|finding| finding.remedy);
    remedies
        .flat_map(|remedy| remedy.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}
