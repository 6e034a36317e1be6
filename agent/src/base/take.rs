//! Takes one base backup, from its intent to its manifest. What all engines share stands here; how a server's files are
//! copied stands with each engine.

use std::sync::Arc;
use std::time::Duration;

use tidemark_repository::base::{
    BackupFacts, BackupHeader, BackupReader, BackupWriter, LogPosition, PackEntry,
};
use tidemark_repository::{Archive, Branch};
use tidemark_types::{Clock, ErrorClass, Position, SystemClock, Timestamp};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::announced::while_announced;
use super::cluster::{self, Cluster};
use super::durable::{self, LogWriter, Stretch};
use super::host;
use super::lanes::cancelled;
use super::mysql::{self, Dataset};
use super::progress::Progress;
use crate::config::{Server, ServerSettings};
use crate::exit::{class_of, one_line};
use crate::schedule::BackupKind;

/// Removing what a failed backup wrote takes no longer than this; the rest is upkeep's.
const ABANDON_MAX: Duration = Duration::from_secs(5);

/// A base backup to be taken.
pub struct Job {
    /// The server.
    pub server: Server,
    /// Where it goes.
    pub archive: Archive,
    /// Full, or incremental if a parent serves.
    pub kind: BackupKind,
    /// Who stores the server's log.
    pub log: LogWriter,
    /// Where bytes are counted.
    pub progress: Arc<Progress>,
}

impl Job {
    /// What is said of the server whatever it runs.
    pub fn settings(&self) -> &ServerSettings {
        self.server.common()
    }
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

/// What came of copying a server's files.
pub struct Copied {
    /// All packs.
    pub packs: Vec<PackEntry>,
    /// The branch that the log lies on.
    pub branch: Branch,
    /// Log is needed from here …
    pub begin: Position,
    /// … and at least up to here: the copy is consistent from here on.
    pub end: Position,
    /// When the last byte had been read.
    pub stopped: Timestamp,
    /// The server's version, as it calls itself.
    pub server_version: String,
    /// For the manifest.
    pub engine_facts: serde_json::Value,
    /// Pages that were bad every time they were read.
    pub bad_pages: u64,
}

/// What is copied, and over what it is laid.
pub enum Source<'a> {
    /// A PostgreSQL cluster.
    Cluster(Cluster<'a>),
    /// A MySQL or MariaDB server.
    Dataset(Dataset<'a>),
}

impl Source<'_> {
    fn parent(&self) -> Option<Arc<BackupReader>> {
        match self {
            Source::Cluster(cluster) => cluster.parent.map(|parent| Arc::clone(&parent.reader)),
            Source::Dataset(dataset) => dataset.parent.map(|parent| Arc::clone(&parent.reader)),
        }
    }

    async fn copy(
        &self,
        job: &Job,
        writer: &mut BackupWriter,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Copied> {
        // On the heap: the futures around them are moved through the stack when they begin, and it would not hold them.
        match self {
            Source::Cluster(cluster) => Box::pin(cluster.copy(job, writer, cancel)).await,
            Source::Dataset(dataset) => Box::pin(dataset.copy(job, writer, cancel)).await,
        }
    }
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
    match &job.server {
        Server::Postgresql(settings) => Box::pin(cluster::take(job, settings, cancel)).await,
        Server::Mysql(settings) => Box::pin(mysql::take(job, settings, cancel)).await,
    }
}

/// Why an attempt over a parent failed, if a full backup is to be taken instead: the parent, or what the log says, is not
/// to be trusted.
pub fn distrust(result: &anyhow::Result<Taken>) -> Option<String> {
    let error = result.as_ref().err()?;
    (class_of(error) == ErrorClass::Corrupt).then(|| {
        let failed = one_line(error);
        tracing::error!(
            error = failed,
            "no incremental base backup can be trusted; a full one is taken instead"
        );
        failed
    })
}

/// One attempt.
///
/// # Errors
/// As [`take`].
pub async fn attempt(job: &Job, source: &Source<'_>, cancel: &CancellationToken) -> anyhow::Result<Taken> {
    let started = SystemClock.now();
    let parent = source.parent();
    let intent = host::intent(
        started,
        parent.as_ref().map(|parent| parent.header().backup.clone()),
    );
    let writer = BackupWriter::begin(job.archive.base(), intent, parent, host::is_gone).await?;
    while_announced(writer.announced(), &SystemClock, cancel, async |called_off| {
        write(job, source, writer, started, &called_off).await
    })
    .await
}

/// Writes all of the backup, or removes what it wrote.
async fn write(
    job: &Job,
    source: &Source<'_>,
    mut writer: BackupWriter,
    started: Timestamp,
    cancel: &CancellationToken,
) -> anyhow::Result<Taken> {
    let copied = match copy_and_wait(job, source, &mut writer, cancel).await {
        Ok(copied) => copied,
        Err(error) => {
            abandon(writer).await;
            return Err(error);
        }
    };
    let facts = BackupFacts {
        engine: job.settings().engine.label().to_owned(),
        server_version: copied.server_version,
        begin: log_position(copied.branch, copied.begin),
        end: log_position(copied.branch, copied.end),
        started,
        stopped: copied.stopped,
        engine_facts: copied.engine_facts,
    };
    let header = writer.finish(copied.packs, facts).await?;
    Ok(Taken {
        header,
        complete: SystemClock.now(),
        bad_pages: copied.bad_pages,
        distrusted: None,
    })
}

async fn copy_and_wait(
    job: &Job,
    source: &Source<'_>,
    writer: &mut BackupWriter,
    cancel: &CancellationToken,
) -> anyhow::Result<Copied> {
    let copied = source.copy(job, writer, cancel).await?;
    let stretch = Stretch {
        branch: copied.branch,
        begin: copied.begin,
        end: copied.end,
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

fn log_position(branch: Branch, position: Position) -> LogPosition {
    LogPosition {
        branch: branch.0,
        file: position.at.file,
        offset: position.at.offset,
        text: position.to_string(),
    }
}
