//! Binlog files under their own names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;

use tidemark_repository::Archive;
use tidemark_types::ErrorClass;

use super::{Range, make_new};
use crate::cli::ExportArgs;
use crate::exit::Failure;
use crate::log_bytes::LogBytes;
use crate::plan::{LogFile, log_files};

/// Slices fetched at once.
const FETCHES_AT_ONCE: usize = 4;

/// Writes the files of a range, the last as far as it is stored; returns their names.
pub(super) async fn write(
    args: &ExportArgs,
    archive: &Archive,
    range: &Range<'_, '_>,
) -> anyhow::Result<Vec<String>> {
    let files = log_files(range.line, range.begin, range.end);
    check_names(&files)?;
    for file in &files {
        let write = || format!("write {}", file.name);
        let bytes = LogBytes::of_file(archive, range.line, file, 0, FETCHES_AT_ONCE);
        let bytes = bytes.ok_or_else(|| headless(file))?;
        let path = args.output.join(&file.name);
        let made = make_new(&path)?;
        if let Err(error) = copy(bytes, made).await {
            // Nobody shall take a part of it for the file.
            let _ = std::fs::remove_file(&path);
            return Err(error.context(write()));
        }
    }
    Ok(files.into_iter().map(|file| file.name).collect())
}

/// Files of several branches that have one name cannot lie in one directory.
fn check_names(files: &[LogFile]) -> Result<(), Failure> {
    let mut seen = BTreeMap::new();
    for file in files {
        if let Some(other) = seen.insert(&file.name, file.branch) {
            let message = format!(
                "branches {other} and {} both have a file {}",
                file.branch, file.name
            );
            return Err(Failure::usage(message).hint("export one after the other with --branch"));
        }
    }
    Ok(())
}

fn headless(file: &LogFile) -> Failure {
    let message = format!(
        "the begin of {} of branch {} is not stored: the rest of the file cannot be read without it",
        file.name, file.branch
    );
    Failure::new(ErrorClass::Unreachable, message).hint("begin with a later file: --from FILE:0")
}

async fn copy(mut bytes: LogBytes, mut file: File) -> anyhow::Result<()> {
    while let Some(chunk) = bytes.next().await? {
        file = tokio::task::spawn_blocking(move || file.write_all(&chunk.bytes).map(|()| file)).await??;
    }
    tokio::task::spawn_blocking(move || file.sync_all()).await??;
    Ok(())
}
