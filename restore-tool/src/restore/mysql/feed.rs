//! The planned binlogs: read from the store, proven, and given to whom applies them.

use tidemark_mysql::binlog::BinlogOffset;
use tidemark_mysql::restore::{
    Executed, FileEnding, Held, LogChain, LogFile as AppliedFile, LogStart, RelayFeed, ReplayStart,
};
use tidemark_repository::Archive;
use tidemark_types::ErrorClass;

use super::PlannedLog;
use crate::exit::Failure;
use crate::log_bytes::LogBytes;
use crate::plan::LogFile;
use crate::restore::summary::Progress;

/// Slices fetched at once.
const FETCHES_AT_ONCE: usize = 4;
/// Bytes of log that may lie on the disk before they are applied.
const AHEAD_BYTES: u64 = 512 << 20;

/// The files as the server is told of them.
pub fn applied_files(log: &PlannedLog<'_, '_>) -> Vec<AppliedFile> {
    log.files.iter().map(applied_file).collect()
}

fn applied_file(file: &LogFile) -> AppliedFile {
    AppliedFile {
        branch: file.branch.0,
        name: file.name.clone(),
        ending: if file.part.ends_file {
            FileEnding::Ended
        } else {
            FileEnding::Cut(BinlogOffset(file.part.end))
        },
    }
}

/// Brings all files, one after the other, never far ahead of what is applied.
///
/// # Errors
/// What the store says; damage; a log that must not be applied.
pub async fn bring(archive: &Archive, log: &PlannedLog<'_, '_>, mut feed: RelayFeed) -> anyhow::Result<()> {
    for file in &log.files {
        feed.wait_for_room(AHEAD_BYTES).await;
        let mut bytes = read(archive, log, file)?;
        feed.begin_file()?;
        while let Some(chunk) = bytes.next().await? {
            feed = tokio::task::spawn_blocking(move || feed.write(&chunk.bytes).map(|()| feed)).await??;
        }
        feed = tokio::task::spawn_blocking(move || feed.end_file().map(|()| feed)).await??;
    }
    Ok(())
}

/// Reads and proves all of the planned log, without a server.
///
/// # Errors
/// As [`bring`].
pub async fn verify(archive: &Archive, log: &PlannedLog<'_, '_>, start: ReplayStart) -> anyhow::Result<()> {
    let executed = match start.held {
        Held::Exactly(executed) | Held::Untold(executed) => executed,
        Held::Between { most, .. } => Executed::MySql(most),
    };
    let mut chain = LogChain::new(LogStart {
        offset: start.offset,
        executed,
        interrupted: None,
    });
    let progress = Progress::new("verify log", log.bytes);
    for file in &log.files {
        let mut bytes = read(archive, log, file)?;
        chain.begin_file(&applied_file(file));
        while let Some(chunk) = bytes.next().await? {
            let count = chunk.bytes.len() as u64;
            chain = tokio::task::spawn_blocking(move || chain.feed(&chunk.bytes).map(|()| chain)).await??;
            progress.add(count);
        }
        chain.end_file()?;
    }
    progress.finish();
    Ok(())
}

fn read(archive: &Archive, log: &PlannedLog<'_, '_>, file: &LogFile) -> anyhow::Result<LogBytes> {
    LogBytes::of_file(archive, log.line, file, 0, FETCHES_AT_ONCE).ok_or_else(|| {
        let message = format!(
            "the begin of {} of branch {} is not stored: the rest of the file cannot be read without it",
            file.name, file.branch
        );
        Failure::new(ErrorClass::Unreachable, message).into()
    })
}
