//! `archive-wal`: PostgreSQL's `archive_command`. Copies one finished log file into the spool, from where the running
//! agent ships it.
//!
//! The server's contract (manual, "Setting Up WAL Archiving"): zero only when the file is safe; never replace a file of
//! other content; a file sent again after a crash is no error. An exit code above 125 would make the archiver process
//! give up without counting a failure, so none is ever returned. No repository, no network and no async runtime here:
//! the archiver runs one file at a time.

mod file;
mod source;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::Context;
use tidemark_types::{ErrorClass, ExitCode};

use crate::cli::ArchiveWalArgs;
use crate::config;
use crate::exit::{self, Failure};

/// Runs the command; the exit code is 0, or 1 to 7.
pub fn command(args: &ArchiveWalArgs) -> ExitCode {
    match catch_unwind(AssertUnwindSafe(|| archive(args))) {
        Ok(Ok(())) => ExitCode::Done,
        Ok(Err(error)) => exit::report(&error),
        // The panic hook has told what happened.
        Err(_) => ExitCode::Unexpected,
    }
}

fn archive(args: &ArchiveWalArgs) -> anyhow::Result<()> {
    let spool = spool_directory(args)?;
    copy_into(&spool, &args.path).with_context(|| format!("archive {}", args.path.display()))
}

fn spool_directory(args: &ArchiveWalArgs) -> anyhow::Result<PathBuf> {
    let (Some(file), Some(name)) = (&args.config, &args.server) else {
        let spool = args.spool.clone();
        return spool.ok_or_else(|| Failure::new(ErrorClass::Config, "no spool directory is named").into());
    };
    let settings = config::load(file)?.settings;
    let server = settings.server(name)?;
    let spool = server
        .postgresql()
        .and_then(|server| server.archive_spool.clone());
    spool.ok_or_else(|| {
        Failure::new(ErrorClass::Config, format!("server {name} has no archive_spool"))
            .hint(format!(
                "set archive_spool for it in {}, or call with --spool DIR",
                file.display()
            ))
            .into()
    })
}

fn copy_into(spool: &Path, path: &Path) -> anyhow::Result<()> {
    let source = source::open(path)?;
    if !spool.is_dir() {
        let message = format!("the spool directory {} does not exist", spool.display());
        let hint = "create it, owned by the server's user and readable by the agent's";
        return Err(Failure::new(ErrorClass::Config, message).hint(hint).into());
    }
    file::store(source, spool)
}

#[cfg(test)]
mod tests;
