//! `init`: looks at a server and writes a commented configuration for it, with the statements that the server still
//! needs. Changes nothing on the server.

mod document;
mod survey;

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use tidemark_types::ErrorClass;

use crate::cli::InitArgs;
use crate::exit::Failure;

/// Runs the command.
///
/// # Errors
/// When the server cannot be reached, or the file is already there.
pub async fn command(args: &InitArgs) -> anyhow::Result<()> {
    refuse_existing(args.output.as_deref())?;
    let survey = survey::look(args).await?;
    let text = document::write(args, &survey);
    match &args.output {
        None => std::io::stdout()
            .write_all(text.as_bytes())
            .context("write to standard output"),
        Some(file) => {
            write_new(file, &text)?;
            eprintln!("wrote {}", file.display());
            eprintln!(
                "next: read it, run its statements, then tidemark-agent check --config {}",
                file.display()
            );
            Ok(())
        }
    }
}

/// Says so before a server is bothered; the write itself makes sure.
fn refuse_existing(output: Option<&Path>) -> Result<(), Failure> {
    match output {
        Some(file) if file.exists() => Err(already_there(file)),
        _ => Ok(()),
    }
}

fn already_there(file: &Path) -> Failure {
    Failure::new(
        ErrorClass::Conflict,
        format!("{} is already there", file.display()),
    )
    .hint("init never overwrites: name another --output, or remove the file")
}

fn write_new(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o640).open(file);
    let mut target = match opened {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(already_there(file).into()),
        other => other.with_context(|| format!("create {}", file.display()))?,
    };
    target
        .write_all(text.as_bytes())
        .and_then(|()| target.sync_all())
        .with_context(|| format!("write {}", file.display()))
}
