//! Logs: where they go, in which form, how much of them.
//!
//! Span and event fields have fixed names: `server`, `engine`, `position`, `object`. Row data, credentials and keys are
//! never logged.

use clap::ValueEnum;
use tidemark_types::ErrorClass;
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the command line says about logs.
#[derive(Debug, Clone, clap::Args)]
pub struct LogOptions {
    /// Form of log lines.
    #[arg(long, value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,

    /// Which log lines to write, as in "info,tidemark_postgres=debug"; overrides -v.
    #[arg(long, value_name = "FILTER", env = "TIDEMARK_LOG", global = true)]
    pub log: Option<String>,

    /// Write more log lines; twice for everything.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

impl LogOptions {
    /// Starts logging to standard error.
    ///
    /// # Errors
    /// When the filter is not one.
    pub fn start(&self) -> Result<(), Failure> {
        let filter = EnvFilter::try_new(self.filter()).map_err(|error| {
            Failure::new(ErrorClass::Config, format!("--log: {error}"))
                .hint("a filter looks like info,tidemark_postgres=debug")
        })?;
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => lines
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .init(),
            LogFormat::Json => lines.json().flatten_event(true).init(),
        }
        Ok(())
    }

    fn filter(&self) -> &str {
        match (&self.log, self.verbose) {
            (Some(filter), _) => filter,
            (None, 0) => "info",
            (None, 1) => {
                "info,tidemark_agent=debug,tidemark_repository=debug,tidemark_storage=debug,tidemark_postgres=debug"
            }
            (None, _) => "trace",
        }
    }
}
