//! Logs: to standard error, and quiet unless something is wrong. What a command prints as its result goes to standard
//! output.

use tidemark_types::ErrorClass;
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

/// What the command line says about logs.
#[derive(Debug, Clone, clap::Args)]
pub struct LogOptions {
    /// Which log lines to write, as in "info,tidemark_storage=debug"; overrides -v.
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
        let default = match self.verbose {
            0 => "warn",
            1 => {
                "info,tidemark_restore=debug,tidemark_repository=debug,tidemark_storage=debug,tidemark_postgres=debug"
            }
            _ => "trace",
        };
        let filter = EnvFilter::try_new(self.log.as_deref().unwrap_or(default)).map_err(|error| {
            Failure::new(ErrorClass::Config, format!("--log: {error}"))
                .hint("a filter looks like info,tidemark_storage=debug")
        })?;
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init();
        Ok(())
    }
}
