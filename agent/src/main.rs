//! `tidemark-agent`: runs next to a database server and keeps it restorable to any moment. Only wiring here.

mod adopt;
mod api;
mod archive;
mod archive_wal;
mod base;
mod check;
mod cli;
mod config;
mod exit;
mod health;
mod init;
mod lag;
mod memory;
mod metrics;
mod schedule;
mod state;
mod supervisor;
mod telemetry;
#[cfg(test)]
mod testing;

use anyhow::Context;
use clap::Parser;
use tidemark_types::ExitCode;

use crate::cli::{AdoptArgs, Cli, Command, ConfigArg, RunArgs};
use crate::config::Settings;
use crate::telemetry::LogOptions;

fn main() -> std::process::ExitCode {
    memory::give_back_early();
    let Cli { log, command } = Cli::parse();
    let code = match command {
        Command::Run(RunArgs { config, take_over }) => {
            work(&log, async { supervisor::run(load(&config)?, take_over).await })
        }
        Command::Backup(args) => work(&log, async { base::command(&load(&args.config)?, &args).await }),
        Command::Adopt(AdoptArgs { config, server }) => work(&log, async {
            let settings = load(&config)?;
            adopt::command(&settings, settings.server(&server)?).await
        }),
        Command::Check(args) => work(&log, async { check::command(&load(&args.config)?, &args).await }),
        Command::Init(args) => work(&log, init::command(&args)),
        // The archiver calls it for each segment: no log, no runtime, exit codes by its own contract.
        Command::ArchiveWal(args) => archive_wal::command(&args),
    };
    code.into()
}

/// Does the work of a command, and reports how it ended.
fn work(log: &LogOptions, command: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let done = log.start().map_err(anyhow::Error::from).and_then(|()| {
        let runtime = tokio::runtime::Runtime::new().context("start the async runtime")?;
        runtime.block_on(command)
    });
    done.map_or_else(|error| exit::report(&error), |()| ExitCode::Done)
}

/// Reads the configuration and logs what is unwise about it.
fn load(args: &ConfigArg) -> anyhow::Result<Settings> {
    let loaded = config::load(&args.config)?;
    let file = args.config.display();
    for warning in &loaded.warnings {
        tracing::warn!("{file}:{}: {warning}", warning.line);
    }
    Ok(loaded.settings)
}
