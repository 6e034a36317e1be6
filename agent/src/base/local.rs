//! The local way: the server opens a backup, its files are read where they lie, the server closes the backup.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidemark_postgres::basebackup::{
    BACKUP_LABEL_FILE, BackupSession, BackupStart, BackupStop, BackupWay, ManifestFacts, Scan, ServerFacts,
    TABLESPACE_MAP_FILE, scan,
};
use tidemark_postgres::control_file::{CONTROL_FILE_PATH, ControlFile};
use tidemark_postgres::{ConnectionTask, SqlClient};
use tidemark_repository::base::{BackupWriter, EntryKind, FileMeta, PackEntry};
use tidemark_types::{Clock, ErrorClass, SystemClock, TimelineId, Timestamp};
use tokio_util::sync::CancellationToken;

use super::books::Books;
use super::changed::{Between, gather};
use super::cluster::{Cluster, ClusterCopy};
use super::copy::{CopyOptions, copy};
use super::delta::Delta;
use super::lanes::{Sinks, cancelled};
use super::names;
use super::parent::Parent;
use super::plan::Planner;
use super::take::Job;
use super::worker::Quiet;
use crate::archive::adopt_hint;
use crate::exit::{Failure, one_line};

/// Reads the cluster in `directory` into packs; with a parent, what of it changed.
///
/// # Errors
/// `Config` when the server that answers does not run in that directory; `Corrupt` when the parent, or what the log says
/// about changes, is not to be trusted; what the server, the disk or the repository says; `Cancelled`.
pub async fn copy_cluster(
    job: &Job,
    cluster: &Cluster<'_>,
    directory: &Path,
    writer: &mut BackupWriter,
    cancel: &CancellationToken,
) -> anyhow::Result<ClusterCopy> {
    let parent = cluster.parent;
    let info = cluster.settings.connect_info()?;
    let sql = SqlClient::connect(&info).await?;
    let control = check_is_here(&sql, directory).await?;
    check_identity(job, control.system_id)?;
    let server_version = sql.version().to_string();
    let server = ServerFacts::query(sql.client()).await?;
    names::store(&info, &server.databases, writer).await;
    let label = format!("tidemark {}", writer.backup());
    let (session, _connection) = begin(sql, &label, cancel).await?;
    let begun = session.begun().clone();
    tracing::info!(backup = %writer.backup(), position = %begun.start, from_standby = begun.from_standby, "base backup runs");

    let delta = match parent {
        Some(parent) => delta(job, parent, &begun, &control, cancel).await?,
        None => None,
    };
    let listed = scan_cluster(directory.to_owned(), control.catalog_version).await?;
    let tablespaces = listed.tablespaces.clone();
    let mut books = Books::default();
    let work = Planner { job, parent, delta }
        .plan(listed, writer, &mut books)
        .await?;
    let options = options(job, parent, &begun, &control);
    let sinks = copy(
        Arc::new(work),
        &options,
        writer,
        &mut books,
        &job.progress,
        &session,
        cancel,
    )
    .await?;

    let (control, control_bytes) = read_control(directory.to_owned()).await?;
    if begun.from_standby && control.min_recovery_timeline != begun.timeline {
        return Err(timeline_changed(begun.timeline, control.min_recovery_timeline));
    }
    let stopped = SystemClock.now();
    let stop = session.stop().await?;
    let packs = store_last(sinks, control_bytes, &stop, stopped, writer).await?;
    Ok(ClusterCopy {
        packs,
        begin: (stop.label.timeline, stop.label.start),
        end: stop.stop,
        stopped,
        server_version,
        facts: ManifestFacts {
            system_id: control.system_id,
            catalog_version: control.catalog_version,
            pages_per_segment: control.pages_per_segment,
            data_checksum_version: control.data_checksum_version,
            way: BackupWay::Local,
            from_standby: begun.from_standby,
            redo: stop.label.start,
            checkpoint: stop.label.checkpoint,
            tablespaces,
            bad_page_count: books.bad.count,
            bad_pages: books.bad.first,
            server,
        },
    })
}

fn options(job: &Job, parent: Option<&Parent>, begun: &BackupStart, control: &ControlFile) -> CopyOptions {
    CopyOptions {
        jobs: job.settings().base_backup.jobs,
        level: job.settings().base_backup.level,
        hash_key: job.archive.base().hash_key(),
        pages_per_segment: control.pages_per_segment,
        verify: control.has_data_checksums(),
        parent: parent.map(|parent| Arc::clone(&parent.reader)),
        quiet: Quiet {
            after: parent.map_or(begun.start, |parent| parent.facts.redo),
            up_to: begun.start,
        },
    }
}

/// What the log says has changed since the parent; `None` when it does not tell, and files are to be compared.
async fn delta(
    job: &Job,
    parent: &Parent,
    begun: &BackupStart,
    control: &ControlFile,
    cancel: &CancellationToken,
) -> anyhow::Result<Option<Delta>> {
    let between = Between {
        from: parent.redo(),
        to: (begun.timeline, begun.start),
        segment_size: control.wal_segment_size,
    };
    let reason = match parent.log_is_silent(control) {
        Some(reason) => reason,
        None => match gather(&job.archive, between, &job.log, cancel).await {
            Ok(changed) => return Ok(Some(Delta::new(changed, control.pages_per_segment))),
            Err(error) if cancel.is_cancelled() => return Err(error),
            Err(error) => one_line(&error),
        },
    };
    tracing::warn!(
        reason,
        parent = %parent.reader.header().backup,
        "the log does not tell what changed since the parent: all files are read and compared"
    );
    Ok(None)
}

/// Opens the backup on the server; its checkpoint takes as long as the server needs to write its buffers.
async fn begin(
    sql: SqlClient,
    label: &str,
    cancel: &CancellationToken,
) -> anyhow::Result<(BackupSession, ConnectionTask)> {
    let (client, connection) = sql.into_parts();
    tokio::select! {
        session = BackupSession::start(client, label, true) => Ok((session?, connection)),
        () = cancel.cancelled() => Err(cancelled()),
    }
}

/// Stores what makes the copy a base backup.
async fn store_last(
    sinks: Sinks,
    control: Vec<u8>,
    stop: &BackupStop,
    now: Timestamp,
    writer: &mut BackupWriter,
) -> anyhow::Result<Vec<PackEntry>> {
    let file = |path: &str, bytes: Vec<u8>| {
        let meta = FileMeta {
            path: path.to_owned(),
            kind: EntryKind::File,
            mode: 0o600,
            modified: now,
            tag: None,
        };
        (meta, bytes)
    };
    let mut files = vec![
        file(CONTROL_FILE_PATH, control),
        file(BACKUP_LABEL_FILE, stop.backup_label.clone().into_bytes()),
    ];
    if !stop.tablespace_map.is_empty() {
        files.push(file(
            TABLESPACE_MAP_FILE,
            stop.tablespace_map.clone().into_bytes(),
        ));
    }
    sinks.finish(files, writer).await
}

/// Another cluster's files must not come under this name.
///
/// # Errors
/// `Conflict`.
pub fn check_identity(job: &Job, system_id: u64) -> anyhow::Result<()> {
    let (name, stored) = (&job.settings().name, &job.archive.record().system_id);
    if *stored == system_id.to_string() {
        return Ok(());
    }
    let message = format!(
        "the archive of {name} belongs to the cluster with system identifier {stored}, and the server is {system_id}"
    );
    Err(Failure::new(ErrorClass::Conflict, message)
        .hint(adopt_hint(job.settings()))
        .into())
}

/// How far apart the server's start, as it says itself and as its pid file has it, may be: between the two it sets up
/// its memory.
const START_DIFFERENCE_MAX: Duration = Duration::from_secs(60);

/// Makes sure that the server that answers is the one whose files lie in `directory`: with several hosts in the
/// connection string, or after a failover, it may be its twin on another host.
async fn check_is_here(sql: &SqlClient, directory: &Path) -> anyhow::Result<ControlFile> {
    let (control, _) = read_control(directory.to_owned()).await?;
    let row = sql
        .query_one(
            "ask the server who it is",
            "select system_identifier, (extract(epoch from pg_postmaster_start_time()) * 1000000)::int8 \
             from pg_control_system()",
            &[],
        )
        .await?;
    let (system_id, started): (i64, i64) = (row.get(0), row.get(1));
    let pid_file = tokio::fs::read_to_string(directory.join("postmaster.pid")).await;
    // Its third line is the time of the start in seconds (LOCK_FILE_LINE_START_TIME in the server's pidfile.h).
    let here = pid_file
        .ok()
        .and_then(|text| text.lines().nth(2)?.trim().parse::<i64>().ok());
    let apart = here.map(|here| Duration::from_micros(started.abs_diff(here.saturating_mul(1_000_000))));
    if system_id.cast_unsigned() == control.system_id
        && apart.is_some_and(|apart| apart < START_DIFFERENCE_MAX)
    {
        return Ok(control);
    }
    let message = format!(
        "the server at {} does not run in data_directory {}",
        sql.host(),
        directory.display()
    );
    Err(Failure::new(ErrorClass::Config, message)
        .hint("correct url or data_directory; after a failover this passes when the server here is the one in charge again")
        .into())
}

/// Reads the control file of a cluster that this program can back up.
///
/// # Errors
/// When it cannot be read, or the cluster was built in another way.
pub async fn read_control(directory: PathBuf) -> anyhow::Result<(ControlFile, Vec<u8>)> {
    let read = tokio::task::spawn_blocking(move || ControlFile::read(&directory)).await?;
    let (control, bytes) = read?;
    control.check_supported()?;
    Ok((control, bytes))
}

async fn scan_cluster(directory: PathBuf, catalog_version: u32) -> anyhow::Result<Scan> {
    Ok(tokio::task::spawn_blocking(move || scan(&directory, catalog_version)).await??)
}

/// A backup that began on one timeline and ended on another.
pub fn timeline_changed(from: TimelineId, to: TimelineId) -> anyhow::Error {
    let message = format!(
        "the standby went from timeline {from} to {to} since the checkpoint that the base backup began with; \
         a base backup can be taken after its next restartpoint"
    );
    Failure::new(ErrorClass::Transient, message).into()
}
