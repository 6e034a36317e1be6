//! Base backups of PostgreSQL: over which parent, by which way, and once more where the server found damaged pages.

use tidemark_postgres::basebackup::ManifestFacts;
use tidemark_repository::Archive;
use tidemark_repository::base::{BackupWriter, PackEntry};
use tidemark_types::{ErrorClass, LogFiles, Lsn, TimelineId, Timestamp, WalSegmentSize};
use tokio_util::sync::CancellationToken;

use super::local::{copy_cluster, read_control};
use super::parent::Parent;
use super::remote::{Checking, has_bad_pages, receive_cluster};
use super::take::{Copied, Job, Source, Taken, attempt, distrust};
use crate::archive::postgresql::lsn_map::branch_of;
use crate::config::PostgresqlSettings;
use crate::exit::{Failure, one_line};
use crate::schedule::BackupKind;

/// A cluster to be copied.
#[derive(Clone, Copy)]
pub struct Cluster<'a> {
    /// Its settings.
    pub settings: &'a PostgresqlSettings,
    /// What the copy is laid over.
    pub parent: Option<&'a Parent>,
    /// Who looks at page checksums, over the connection.
    pub checking: Checking,
}

/// What came of reading a cluster.
pub struct ClusterCopy {
    /// All packs.
    pub packs: Vec<PackEntry>,
    /// Where redo begins, and on which timeline.
    pub begin: (TimelineId, Lsn),
    /// The copy is consistent from here on.
    pub end: Lsn,
    /// When the last byte had been read.
    pub stopped: Timestamp,
    /// The server's version, as it calls itself.
    pub server_version: String,
    /// For the manifest.
    pub facts: ManifestFacts,
}

/// Takes a backup of a cluster.
///
/// # Errors
/// As [`super::take::take`].
pub async fn take(
    job: &Job,
    settings: &PostgresqlSettings,
    cancel: &CancellationToken,
) -> anyhow::Result<Taken> {
    let parent = parent(job).await?;
    let mut cluster = Cluster {
        settings,
        parent: parent.as_ref(),
        checking: Checking::ByServer,
    };
    let mut result = attempt(job, &Source::Cluster(cluster), cancel).await;
    if let Err(error) = &result
        && has_bad_pages(error)
    {
        tracing::error!(
            error = one_line(error),
            "the server found damaged pages; they are backed up as they are"
        );
        cluster.checking = Checking::Here;
        result = attempt(job, &Source::Cluster(cluster), cancel).await;
    }
    let distrusted = parent.as_ref().and_then(|_| distrust(&result));
    if distrusted.is_none() {
        return result;
    }
    let full = Cluster {
        parent: None,
        checking: Checking::ByServer,
        ..cluster
    };
    let taken = attempt(job, &Source::Cluster(full), cancel).await?;
    Ok(Taken { distrusted, ..taken })
}

/// What the backup is laid over.
async fn parent(job: &Job) -> anyhow::Result<Option<Parent>> {
    if job.kind == BackupKind::Full {
        return Ok(None);
    }
    let parent = Parent::newest(&job.archive).await?;
    match (parent, &job.settings().data_directory) {
        (Some(parent), Some(directory)) => {
            let (control, _) = read_control(directory.clone()).await?;
            Ok(parent.fits(&control).then_some(parent))
        }
        // What is compared by hash alone need not be cut alike.
        (parent, _) => Ok(parent),
    }
}

impl Cluster<'_> {
    /// Copies it.
    ///
    /// # Errors
    /// What the server, its disk or the repository says; `Cancelled`.
    pub async fn copy(
        &self,
        job: &Job,
        writer: &mut BackupWriter,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Copied> {
        let copied = match &job.settings().data_directory {
            Some(directory) => copy_cluster(job, self, directory, writer, cancel).await?,
            None => receive_cluster(job, self, writer, cancel).await?,
        };
        let files = LogFiles::Wal(segment_size(&job.archive)?);
        Ok(Copied {
            packs: copied.packs,
            branch: branch_of(copied.begin.0),
            begin: files.lsn(copied.begin.1),
            end: files.lsn(copied.end),
            stopped: copied.stopped,
            server_version: copied.server_version,
            engine_facts: serde_json::to_value(&copied.facts)?,
            bad_pages: copied.facts.bad_page_count,
        })
    }
}

fn segment_size(archive: &Archive) -> anyhow::Result<WalSegmentSize> {
    let len = archive.record().log_file_len.unwrap_or_default();
    WalSegmentSize::try_from(len).map_err(|error| {
        let message = format!("the record of server {}: {error}", archive.record().name);
        Failure::new(ErrorClass::Corrupt, message).into()
    })
}
