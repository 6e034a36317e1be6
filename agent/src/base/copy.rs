//! Reads planned files into packs, the local way.

use std::sync::Arc;
use std::time::Duration;

use tidemark_postgres::basebackup::BackupSession;
use tidemark_postgres::page::PAGE_SIZE;
use tidemark_repository::base::{
    BackupReader, BackupWriter, FRAME_LEN_DEFAULT, FrameBuffer, FrameEncoder, HashKey, PageHashReader,
};
use tokio::runtime::Handle;
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;

use super::books::Books;
use super::lanes::{Lanes, Sinks, cancelled};
use super::progress::Progress;
use super::work::Work;
use super::worker::{Quiet, Worker};

/// How often a running backup looks after its session.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// How files are to be read and stored.
pub struct CopyOptions {
    /// Workers.
    pub jobs: usize,
    /// zstd level.
    pub level: i32,
    /// The key of page hashes.
    pub hash_key: HashKey,
    /// Pages in a segment file of a relation.
    pub pages_per_segment: u32,
    /// Whether pages carry checksums.
    pub verify: bool,
    /// The backup to compare with.
    pub parent: Option<Arc<BackupReader>>,
    /// The log that unchanged pages were not named in.
    pub quiet: Quiet,
}

/// Reads all units of `work` into packs and ends the files that `books` expect, and looks after `session`
/// meanwhile.
///
/// # Errors
/// The first error of any part; `Cancelled`.
pub async fn copy(
    work: Arc<Work>,
    options: &CopyOptions,
    writer: &mut BackupWriter,
    books: &mut Books,
    progress: &Arc<Progress>,
    session: &BackupSession,
    cancel: &CancellationToken,
) -> anyhow::Result<Sinks> {
    let mut lanes = Lanes::start(options.jobs, writer, |outlet, stop| {
        let worker = Worker {
            work: Arc::clone(&work),
            pages_per_segment: options.pages_per_segment,
            verify: options.verify,
            hash_key: options.hash_key,
            parent: options.parent.clone().map(PageHashReader::new),
            quiet: options.quiet,
            buffer: FrameBuffer::new(FRAME_LEN_DEFAULT, PAGE_SIZE),
            encoder: FrameEncoder::new(options.hash_key, options.level)?,
            frames: outlet.frames,
            events: outlet.events,
            progress: Arc::clone(progress),
            runtime: Handle::current(),
            stop: stop.clone(),
        };
        Ok(|| worker.run())
    })?;
    let kept = keep_books(&mut lanes, writer, books, session, cancel).await;
    lanes
        .finish(kept, FrameEncoder::new(options.hash_key, options.level)?)
        .await
}

/// Takes in every event until the last.
async fn keep_books(
    lanes: &mut Lanes,
    writer: &mut BackupWriter,
    books: &mut Books,
    session: &BackupSession,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let mut checks = interval_at(Instant::now() + CHECK_EVERY, CHECK_EVERY);
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(cancelled()),
            () = lanes.stop.cancelled() => return Err(cancelled()),
            _ = checks.tick() => session.check().await?,
            event = lanes.events.recv() => match event {
                Some(event) => books.take(event, writer).await?,
                None => return Ok(()),
            }
        }
    }
}
