//! `tidemark-restore`: brings a database back to any moment. Only wiring here.

mod catalog;
mod cli;
mod command;
mod engine;
mod exit;
mod log_bytes;
mod plan;
mod planning;
mod restore;
mod scan;
mod source;
mod telemetry;
mod wal;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    // Before anything else: its exit codes mean something else, and it is started once for each segment.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|word| word == "wal-get") {
        std::process::exit(wal::get::main(arguments));
    }
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(()) => tidemark_types::ExitCode::Done.into(),
        Err(error) => exit::report(&error).into(),
    }
}

fn dispatch(cli: &Cli) -> anyhow::Result<()> {
    cli.log.start()?;
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    runtime.block_on(async {
        match &cli.command {
            Command::List(args) => command::list::run(args).await,
            Command::Plan(args) => command::plan::run(args).await,
            Command::Restore(args) => restore::run(args).await,
            Command::Export(args) => command::export::run(args).await,
            Command::WalGet { .. } => unreachable!("wal-get is dealt with before the command line is parsed"),
        }
    })
}
