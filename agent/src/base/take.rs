//! Takes one base backup, from its intent to its manifest.

use std::sync::Arc;
use std::time::Duration;

use tidemark_repository::Archive;
use tidemark_repository::base::{BackupFacts, BackupHeader, BackupWriter, LogPosition};
use tidemark_types::{Clock, ErrorClass, LogFiles, Lsn, SystemClock, TimelineId, Timestamp, WalSegmentSize};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::announced::while_announced;
use super::durable::{self, LogWriter, Stretch};
use super::host;
use super::lanes::cancelled;
use super::local::{Copied, copy_cluster, read_control};
use super::parent::Parent;
use super::progress::Progress;
use super::remote::{Checking, has_bad_pages, receive_cluster};
use crate::archive::postgresql::lsn_map::{branch_of, position_of};
use crate::config::{PostgresqlSettings, Server};
use crate::exit::{Failure, class_of, one_line};
use crate::schedule::BackupKind;

/// Removing what a failed backup wrote takes no longer than this; the rest is upkeep's.
const ABANDON_MAX: Duration = Duration::from_secs(5);

/// A base backup to be taken.
pub struct Job {
    /// The server.
    pub settings: Arc<PostgresqlSettings>,
    /// Where it goes.
    pub archive: Archive,
    /// Full, or incremental if a parent serves.
    pub kind: BackupKind,
    /// Who stores the server's log.
    pub log: LogWriter,
    /// Where bytes are counted.
    pub progress: Arc<Progress>,
}

/// A base backup that exists.
#[derive(Debug)]
pub struct Taken {
    /// The first line of its manifest.
    pub header: BackupHeader,
    /// When it was complete, its log included.
    pub complete: Timestamp,
    /// Pages that were bad every time they were read.
    pub bad_pages: u64,
    /// Why it is full although an incremental one was due: the parent, or what the log says, is damaged.
    pub distrusted: Option<String>,
}

/// The settings of a PostgreSQL server.
///
/// # Errors
/// When it is none.
pub fn wal_server(server: &Server) -> anyhow::Result<Arc<PostgresqlSettings>> {
    server
        .postgresql()
        .cloned()
        .ok_or_else(|| anyhow::anyhow!("base backups of this engine are not taken yet"))
}

/// Says what is wrong with the pages of a backup.
pub fn describe_damage(taken: &Taken, pages: u64) -> String {
    let backup = &taken.header.backup;
    format!("base backup {backup} met {pages} damaged pages in the server's files and holds them as they are")
}

/// Takes the backup. When it fails, what it wrote is removed as far as that is quickly done. An incremental one whose
/// parent is not to be trusted is followed by a full one at once.
///
/// # Errors
/// `Conflict` when another backup of the server runs; what the server, its disk or the repository says; `Cancelled`.
pub async fn take(job: &Job, cancel: &CancellationToken) -> anyhow::Result<Taken> {
    durable::check_stored(&job.archive, &job.log).await?;
    let parent = parent(job).await?;
    let mut result = attempt(job, parent.as_ref(), Checking::ByServer, cancel).await;
    if let Err(error) = &result
        && has_bad_pages(error)
    {
        tracing::error!(
            error = one_line(error),
            "the server found damaged pages; they are backed up as they are"
        );
        result = attempt(job, parent.as_ref(), Checking::Here, cancel).await;
    }
    let failed = match result {
        Err(error) if parent.is_some() && class_of(&error) == ErrorClass::Corrupt => one_line(&error),
        result => return result,
    };
    tracing::error!(
        error = failed,
        "no incremental base backup can be trusted; a full one is taken instead"
    );
    let taken = attempt(job, None, Checking::ByServer, cancel).await?;
    Ok(Taken {
        distrusted: Some(failed),
        ..taken
    })
}

/// What the backup is laid over.
async fn parent(job: &Job) -> anyhow::Result<Option<Parent>> {
    if job.kind == BackupKind::Full {
        return Ok(None);
    }
    let parent = Parent::newest(&job.archive).await?;
    match (parent, &job.settings.server.data_directory) {
        (Some(parent), Some(directory)) => {
            let (control, _) = read_control(directory.clone()).await?;
            Ok(parent.fits(&control).then_some(parent))
        }
        // What is compared by hash alone need not be cut alike.
        (parent, _) => Ok(parent),
    }
}

async fn attempt(
    job: &Job,
    parent: Option<&Parent>,
    checking: Checking,
    cancel: &CancellationToken,
) -> anyhow::Result<Taken> {
    let started = SystemClock.now();
    let intent = host::intent(
        started,
        parent.map(|parent| parent.reader.header().backup.clone()),
    );
    let reader = parent.map(|parent| Arc::clone(&parent.reader));
    let writer = BackupWriter::begin(job.archive.base(), intent, reader, host::is_gone).await?;
    while_announced(writer.announced(), &SystemClock, cancel, async |called_off| {
        write(job, parent, checking, writer, started, &called_off).await
    })
    .await
}

/// Writes all of the backup, or removes what it wrote.
async fn write(
    job: &Job,
    parent: Option<&Parent>,
    checking: Checking,
    mut writer: BackupWriter,
    started: Timestamp,
    cancel: &CancellationToken,
) -> anyhow::Result<Taken> {
    let copied = match copy_and_wait(job, parent, checking, &mut writer, cancel).await {
        Ok(copied) => copied,
        Err(error) => {
            abandon(writer).await;
            return Err(error);
        }
    };
    let size = segment_size(&job.archive)?;
    let position = |lsn: Lsn| log_position(copied.begin.0, lsn, size);
    let facts = BackupFacts {
        engine: job.settings.server.engine.label().to_owned(),
        server_version: copied.server_version,
        begin: position(copied.begin.1),
        end: position(copied.end),
        started,
        stopped: copied.stopped,
        engine_facts: serde_json::to_value(&copied.facts)?,
    };
    let header = writer.finish(copied.packs, facts).await?;
    Ok(Taken {
        header,
        complete: SystemClock.now(),
        bad_pages: copied.facts.bad_page_count,
        distrusted: None,
    })
}

async fn copy_and_wait(
    job: &Job,
    parent: Option<&Parent>,
    checking: Checking,
    writer: &mut BackupWriter,
    cancel: &CancellationToken,
) -> anyhow::Result<Copied> {
    let copied = match &job.settings.server.data_directory {
        Some(directory) => copy_cluster(job, directory, parent, writer, cancel).await?,
        None => receive_cluster(job, parent, checking, writer, cancel).await?,
    };
    let files = LogFiles::Wal(segment_size(&job.archive)?);
    let stretch = Stretch {
        branch: branch_of(copied.begin.0),
        begin: files.lsn(copied.begin.1),
        end: files.lsn(copied.end),
    };
    durable::wait(&job.archive, &job.log, stretch, cancel).await?;
    if cancel.is_cancelled() {
        return Err(cancelled());
    }
    Ok(copied)
}

async fn abandon(writer: BackupWriter) {
    let backup = writer.backup().to_string();
    let reason = match timeout(ABANDON_MAX, writer.abandon()).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it took longer than {} s", ABANDON_MAX.as_secs()),
    };
    tracing::warn!(
        backup,
        error = reason,
        "what a failed base backup wrote could not be removed"
    );
}

fn segment_size(archive: &Archive) -> anyhow::Result<WalSegmentSize> {
    let len = archive.record().log_file_len.unwrap_or_default();
    WalSegmentSize::try_from(len).map_err(|error| {
        let message = format!("the record of server {}: {error}", archive.record().name);
        Failure::new(ErrorClass::Corrupt, message).into()
    })
}

fn log_position(timeline: TimelineId, lsn: Lsn, size: WalSegmentSize) -> LogPosition {
    let position = position_of(lsn, size);
    LogPosition {
        branch: timeline.0,
        file: position.file,
        offset: position.offset,
        text: lsn.to_string(),
    }
}
