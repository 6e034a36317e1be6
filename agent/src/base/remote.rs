//! The remote way: the server sends its files over a replication connection, in one stream of tar archives.
//!
//! One task takes the stream apart; what becomes of the files in it is the [`Intake`]'s.

use bytes::Bytes;
use tidemark_postgres::basebackup::{
    Archive as TarArchive, BACKUP_LABEL_FILE, BackupLabel, BackupWay, BadPage, ManifestFacts, ServerFacts,
    TABLESPACE_MAP_FILE, Tablespace, TarEvent, TarReader, is_backup_metadata, kind_of,
};
use tidemark_postgres::control_file::{CONTROL_FILE_PATH, ControlFile};
use tidemark_postgres::page::{BlockNumber, PAGE_SIZE, Page, PageCheck, page_lsn, verify_page};
use tidemark_postgres::{
    BaseBackupEvent, BaseBackupOptions, BaseBackupStream, Checkpoint, PostgresError, ReplicationClient,
    SqlClient,
};
use tidemark_repository::base::{BackupWriter, EntryKind, FileMeta};
use tidemark_types::{Clock, ErrorClass, Lsn, SystemClock, TimelineId, Timestamp};
use tokio_util::sync::CancellationToken;

use super::books::BadPages;
use super::cluster::{Cluster, ClusterCopy};
use super::intake::{Intake, OpenFile};
use super::lanes::{Lanes, cancelled, encoder};
use super::local::{check_identity, timeline_changed};
use super::names;
use super::take::Job;
use crate::config::PostgresqlSettings;
use crate::exit::Failure;

/// No file that is kept in memory whole (label, map, control file) is longer.
const KEPT_LEN_MAX: u64 = 16 << 20;

/// Who looks at page checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checking {
    /// The server, which reads a page again that looks torn. At the end of a backup with bad pages it fails.
    ByServer,
    /// We, after the server found bad pages: they are counted, and the backup goes on.
    Here,
}

/// Whether the server ended a backup because it found bad pages (`ERRCODE_DATA_CORRUPTED`).
pub fn has_bad_pages(error: &anyhow::Error) -> bool {
    let sqlstate = error
        .downcast_ref::<PostgresError>()
        .and_then(PostgresError::sqlstate);
    sqlstate == Some("XX001")
}

/// Takes the cluster in as the server sends it.
///
/// # Errors
/// `Corrupt` when the server finds damaged pages, or what it sends makes no sense; what the server or the repository
/// says; `Cancelled`.
pub async fn receive_cluster(
    job: &Job,
    cluster: &Cluster<'_>,
    writer: &mut BackupWriter,
    cancel: &CancellationToken,
) -> anyhow::Result<ClusterCopy> {
    let (parent, checking) = (cluster.parent, cluster.checking);
    let (client, asked) = ask_server(job, cluster.settings, writer).await?;
    let Asked {
        server,
        server_version,
        from_standby,
        pages_per_segment,
    } = asked;
    let stream = start(client, writer, checking, cancel).await?;
    let timeline = stream.timeline();
    tracing::info!(backup = %writer.backup(), position = %stream.begin(), from_standby, "base backup runs");
    let tablespaces = announced_tablespaces(job, &stream);
    add_links(&tablespaces, writer);

    let reader = parent.map(|parent| &parent.reader);
    let (mut intake, mut lanes) = Intake::start(job, reader, PAGE_SIZE, writer)?;
    if checking == Checking::Here && server.data_checksums {
        let checks = Checks {
            pages_per_segment,
            begin: stream.begin(),
        };
        intake.look = Some(Box::new(move |path, at, page| checks.look(path, at, page)));
    }
    let (result, received) = match Receiver::new(job, intake).run(stream, &mut lanes, cancel).await {
        Ok(received) => (Ok(()), Some(received)),
        Err(error) => (Err(error), None),
    };
    let sinks = lanes.finish(result, encoder(job)?).await?;
    let Some(Received { end, kept, bad }) = received else {
        return Err(cancelled());
    };
    let (end_timeline, end) = end;
    if end_timeline != timeline {
        return Err(timeline_changed(timeline, end_timeline));
    }
    let stopped = SystemClock.now();
    let control = ControlFile::parse(kept.of(CONTROL_FILE_PATH)?)?;
    control.check_supported()?;
    let label = BackupLabel::parse(&String::from_utf8_lossy(kept.of(BACKUP_LABEL_FILE)?))?;
    let packs = sinks.finish(kept.files, writer).await?;
    Ok(ClusterCopy {
        packs,
        begin: (label.timeline, label.start),
        end,
        stopped,
        server_version,
        facts: ManifestFacts {
            system_id: control.system_id,
            catalog_version: control.catalog_version,
            pages_per_segment: control.pages_per_segment,
            data_checksum_version: control.data_checksum_version,
            way: BackupWay::Remote,
            from_standby,
            redo: label.start,
            checkpoint: label.checkpoint,
            tablespaces,
            bad_page_count: bad.count,
            bad_pages: bad.first,
            server,
        },
    })
}

/// What SQL tells of the server before it sends itself.
struct Asked {
    server: ServerFacts,
    server_version: String,
    from_standby: bool,
    pages_per_segment: u32,
}

/// Connects, makes sure who is there, and asks what a backup must know.
async fn ask_server(
    job: &Job,
    settings: &PostgresqlSettings,
    writer: &mut BackupWriter,
) -> anyhow::Result<(ReplicationClient, Asked)> {
    let info = settings.connect_info()?;
    let sql = SqlClient::connect(&info).await?;
    let mut client = ReplicationClient::connect(&info).await?;
    check_identity(job, client.identify_system().await?.system_id)?;
    let server_version = sql.version().to_string();
    let server = ServerFacts::query(sql.client()).await?;
    let statement = "select pg_is_in_recovery(), blocks_per_segment from pg_control_init()";
    let row = sql.query_one("look at the server", statement, &[]).await?;
    let (from_standby, pages_per_segment): (bool, i32) = (row.get(0), row.get(1));
    sql.close().await;
    names::store(&info, &server.databases, writer).await;
    let pages_per_segment = pages_per_segment.cast_unsigned();
    Ok((
        client,
        Asked {
            server,
            server_version,
            from_standby,
            pages_per_segment,
        },
    ))
}

/// Asks the server to send itself. Its checkpoint may take a while.
async fn start(
    client: ReplicationClient,
    writer: &BackupWriter,
    checking: Checking,
    cancel: &CancellationToken,
) -> anyhow::Result<BaseBackupStream> {
    let options = BaseBackupOptions {
        label: format!("tidemark {}", writer.backup()),
        checkpoint: Checkpoint::Fast,
        progress: true,
        max_rate_kb: None,
        verify_checksums: checking == Checking::ByServer,
    };
    tokio::select! {
        stream = BaseBackupStream::start(client, &options) => Ok(stream?),
        () = cancel.cancelled() => Err(cancelled()),
    }
}

/// The tablespaces that the server is going to send; also tells how much is to be expected.
fn announced_tablespaces(job: &Job, stream: &BaseBackupStream) -> Vec<Tablespace> {
    let announced = stream.tablespaces();
    let total: u64 = announced.iter().filter_map(|tablespace| tablespace.size_kb).sum();
    job.progress.expect(total.saturating_mul(1024));
    let elsewhere = announced.iter().filter_map(|tablespace| {
        Some(Tablespace {
            oid: tablespace.oid?,
            location: tablespace.location.clone()?.into(),
        })
    });
    elsewhere.collect()
}

fn add_links(tablespaces: &[Tablespace], writer: &mut BackupWriter) {
    for tablespace in tablespaces.iter().filter(|tablespace| !tablespace.is_in_place()) {
        writer.add_path(FileMeta {
            path: format!("pg_tblspc/{}", tablespace.oid),
            kind: EntryKind::Link(tablespace.location.to_string_lossy().into_owned()),
            mode: 0o777,
            modified: SystemClock.now(),
            tag: None,
        });
    }
}

/// Files that are kept in memory until the end.
#[derive(Default)]
struct Kept {
    files: Vec<(FileMeta, Vec<u8>)>,
}

impl Kept {
    fn of(&self, path: &str) -> anyhow::Result<&[u8]> {
        let found = self.files.iter().find(|(meta, _)| meta.path == path);
        found
            .map(|(_, bytes)| bytes.as_slice())
            .ok_or_else(|| Failure::new(ErrorClass::Corrupt, format!("the server sent no {path}")).into())
    }
}

/// What is known when the stream is over.
struct Received {
    /// Where the backup ends.
    end: (TimelineId, Lsn),
    kept: Kept,
    bad: BadPages,
}

/// Where the bytes that come next go.
enum Target {
    /// Nowhere: nothing that belongs into a backup.
    Nowhere,
    /// Into memory.
    Kept,
    /// Into frames.
    File(Box<OpenFile>),
}

/// What checking pages needs to know.
#[derive(Debug, Clone, Copy)]
struct Checks {
    pages_per_segment: u32,
    /// Pages changed after this may be torn; the log restores them.
    begin: Lsn,
}

impl Checks {
    /// A page that is bad for good, as the server tells them (`sendFile` in its `basebackup.c`).
    fn look(self, path: &str, at: u64, page: &[u8]) -> Option<BadPage> {
        let segment = kind_of(path).segment()?;
        let page: &Page = page.try_into().ok()?;
        let within = u32::try_from(at / PAGE_SIZE as u64).ok()?;
        let block = segment
            .number
            .wrapping_mul(self.pages_per_segment)
            .wrapping_add(within);
        let lsn = page_lsn(page);
        match verify_page(page, BlockNumber(block)) {
            PageCheck::Bad { stored, computed } if lsn < self.begin => Some(BadPage {
                path: path.to_owned(),
                block,
                stored,
                computed,
                lsn,
            }),
            _ => None,
        }
    }
}

/// Takes the stream apart.
struct Receiver<'a> {
    job: &'a Job,
    intake: Intake<'a>,
    archive: TarArchive,
    target: Target,
    kept: Kept,
}

impl<'a> Receiver<'a> {
    fn new(job: &'a Job, intake: Intake<'a>) -> Receiver<'a> {
        Receiver {
            job,
            intake,
            archive: TarArchive::DataDirectory,
            target: Target::Nowhere,
            kept: Kept::default(),
        }
    }

    /// Receives everything. By value: encoders end when it does.
    async fn run(
        mut self,
        mut stream: BaseBackupStream,
        lanes: &mut Lanes,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Received> {
        let mut tar = TarReader::new();
        let mut in_archive = false;
        let (end, timeline) = loop {
            tokio::select! {
                () = cancel.cancelled() => return Err(cancelled()),
                () = lanes.stop.cancelled() => return Err(cancelled()),
                Some(event) = lanes.events.recv() => self.intake.books.take(event, self.intake.writer).await?,
                event = stream.next() => match event? {
                    BaseBackupEvent::Archive { name, .. } => {
                        tar.finish()?;
                        (tar, in_archive) = (TarReader::new(), true);
                        self.archive = TarArchive::from_name(&name).ok_or_else(|| {
                            Failure::new(ErrorClass::Corrupt, format!("the server sent an archive \"{name}\""))
                        })?;
                    }
                    BaseBackupEvent::ManifestBegins => in_archive = false,
                    BaseBackupEvent::Data(bytes) if in_archive => {
                        self.job.progress.add(bytes.len() as u64);
                        tar.feed(bytes);
                        while let Some(event) = tar.poll()? {
                            self.entry(event, lanes).await?;
                        }
                    }
                    BaseBackupEvent::Data(_) | BaseBackupEvent::Progress { .. } => {}
                    BaseBackupEvent::Done { end, timeline } => break (end, timeline),
                },
            }
        };
        tar.finish()?;
        let books = self.intake.finish(lanes).await?;
        Ok(Received {
            end: (timeline, end),
            kept: self.kept,
            bad: books.bad,
        })
    }

    async fn entry(&mut self, event: TarEvent, lanes: &mut Lanes) -> anyhow::Result<()> {
        match event {
            TarEvent::File {
                path,
                size,
                mode,
                modified,
            } => {
                let meta = self.meta(&path, EntryKind::File, mode, modified);
                self.target = self.begin_file(meta, size)?;
            }
            TarEvent::Data(bytes) => self.data(bytes, lanes).await?,
            TarEvent::FileEnd => {
                if let Target::File(file) = std::mem::replace(&mut self.target, Target::Nowhere) {
                    self.intake.end(*file, lanes).await?;
                }
            }
            TarEvent::Directory { path, mode } => {
                // The root of an archive is the data directory, or a tablespace's link.
                if !path.is_empty() {
                    let meta = self.meta(&path, EntryKind::Directory, mode, SystemClock.now());
                    self.intake.writer.add_path(meta);
                }
            }
            // Tablespaces were announced.
            TarEvent::Symlink { .. } => {}
        }
        Ok(())
    }

    fn meta(&self, path: &str, kind: EntryKind, mode: u32, modified: Timestamp) -> FileMeta {
        FileMeta {
            path: self.archive.restored_path(path),
            kind,
            mode,
            modified,
            tag: None,
        }
    }

    fn begin_file(&mut self, meta: FileMeta, size: u64) -> anyhow::Result<Target> {
        let is_kept =
            [CONTROL_FILE_PATH, BACKUP_LABEL_FILE, TABLESPACE_MAP_FILE].contains(&meta.path.as_str());
        if is_kept {
            if size > KEPT_LEN_MAX {
                let message = format!("the server sent a {} of {size} bytes", meta.path);
                return Err(Failure::new(ErrorClass::Corrupt, message).into());
            }
            self.kept.files.push((meta, Vec::new()));
            return Ok(Target::Kept);
        }
        if is_backup_metadata(&meta.path) {
            return Ok(Target::Nowhere);
        }
        Ok(Target::File(Box::new(self.intake.begin(meta, None))))
    }

    async fn data(&mut self, bytes: Bytes, lanes: &mut Lanes) -> anyhow::Result<()> {
        match &mut self.target {
            Target::Nowhere => {}
            Target::Kept => {
                if let Some((_, kept)) = self.kept.files.last_mut() {
                    kept.extend_from_slice(&bytes);
                }
            }
            Target::File(file) => self.intake.data(file, bytes, lanes).await?,
        }
        Ok(())
    }
}
