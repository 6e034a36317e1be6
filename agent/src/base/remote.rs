//! The remote way: the server sends its files over a replication connection, in one stream of tar archives.
//!
//! One task takes the stream apart and fills frames; encoding them is its workers' share. With a parent, pages are
//! compared by their hashes, so that only what changed is stored, although everything is sent.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidemark_postgres::basebackup::{
    Archive as TarArchive, BACKUP_LABEL_FILE, BackupLabel, BackupWay, BadPage, ManifestFacts,
    RelationSegment, ServerFacts, TABLESPACE_MAP_FILE, Tablespace, TarEvent, TarReader, is_backup_metadata,
    kind_of,
};
use tidemark_postgres::control_file::{CONTROL_FILE_PATH, ControlFile};
use tidemark_postgres::page::{BlockNumber, PAGE_SIZE, Page, PageCheck, page_lsn, verify_page};
use tidemark_postgres::{
    BaseBackupEvent, BaseBackupOptions, BaseBackupStream, Checkpoint, PostgresError, ReplicationClient,
    SqlClient,
};
use tidemark_repository::base::{
    BackupWriter, EntryKind, FRAME_LEN_DEFAULT, FileEntry, FileId, FileMeta, FrameBuffer, FrameEncoder,
    HashKey, PART_LEN, PageHash, PageHashReader,
};
use tidemark_types::{Clock, ErrorClass, Lsn, SystemClock, TimelineId, Timestamp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::books::{BadPages, Books};
use super::lanes::{Lanes, Outlet, cancelled};
use super::local::{Copied, check_identity, timeline_changed};
use super::names;
use super::parent::Parent;
use super::take::Job;
use crate::exit::Failure;

/// Filled frames that wait for each encoder.
const BUFFERS_WAITING: usize = 2;
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
    parent: Option<&Parent>,
    checking: Checking,
    writer: &mut BackupWriter,
    cancel: &CancellationToken,
) -> anyhow::Result<Copied> {
    let (client, asked) = ask_server(job, writer).await?;
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

    let level = job.settings.server.base_backup.level;
    let hash_key = job.archive.base().hash_key();
    let mut encoders = Vec::new();
    let mut lanes = Lanes::start(job.settings.server.base_backup.jobs, writer, |outlet, _| {
        let (buffers, waiting) = mpsc::channel(BUFFERS_WAITING);
        encoders.push(buffers);
        let encoder = FrameEncoder::new(hash_key, level)?;
        Ok(move || encode(waiting, encoder, &outlet))
    })?;
    let mut receiver = Receiver::new(job, parent, writer, encoders, hash_key)?;
    if checking == Checking::Here && server.data_checksums {
        receiver.checks = Some(Checks {
            pages_per_segment,
            begin: stream.begin(),
        });
    }
    let (result, received) = match receiver.run(stream, &mut lanes, cancel).await {
        Ok(received) => (Ok(()), Some(received)),
        Err(error) => (Err(error), None),
    };
    let sinks = lanes.finish(result, FrameEncoder::new(hash_key, level)?).await?;
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
    Ok(Copied {
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
async fn ask_server(job: &Job, writer: &mut BackupWriter) -> anyhow::Result<(ReplicationClient, Asked)> {
    let info = job.settings.connect_info()?;
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

/// Encodes frames until there are no more; blocking.
fn encode(
    mut buffers: mpsc::Receiver<FrameBuffer>,
    mut encoder: FrameEncoder,
    outlet: &Outlet,
) -> anyhow::Result<()> {
    while let Some(buffer) = buffers.blocking_recv() {
        if outlet.frames.blocking_send(encoder.encode(&buffer)?).is_err() {
            break;
        }
    }
    Ok(())
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

struct OpenFile {
    id: FileId,
    path: String,
    /// What it is a segment of.
    segment: Option<RelationSegment>,
    base: Option<FileEntry>,
    /// Hashes that the parent has of the pages from here to the end of the part.
    known: std::vec::IntoIter<Option<PageHash>>,
    /// Bytes of a page that has not arrived whole.
    page: BytesMut,
    at: u64,
    given: u64,
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
    fn look(self, path: &str, segment: RelationSegment, at: u64, page: &[u8]) -> Option<BadPage> {
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
    writer: &'a mut BackupWriter,
    books: Books,
    hash_key: HashKey,
    entries: HashMap<String, FileEntry>,
    hashes: Option<PageHashReader>,
    encoders: Vec<mpsc::Sender<FrameBuffer>>,
    next_encoder: usize,
    buffer: FrameBuffer,
    archive: TarArchive,
    target: Target,
    kept: Kept,
    checks: Option<Checks>,
}

impl<'a> Receiver<'a> {
    fn new(
        job: &'a Job,
        parent: Option<&Parent>,
        writer: &'a mut BackupWriter,
        encoders: Vec<mpsc::Sender<FrameBuffer>>,
        hash_key: HashKey,
    ) -> anyhow::Result<Receiver<'a>> {
        let mut entries = HashMap::new();
        // Archives list files in the order of their directories, not of their names.
        if let Some(parent) = parent {
            for entry in parent.reader.manifest().files() {
                let entry = entry?;
                if entry.meta.kind == EntryKind::File {
                    entries.insert(entry.meta.path.clone(), entry);
                }
            }
        }
        Ok(Receiver {
            job,
            writer,
            books: Books::default(),
            hash_key,
            entries,
            hashes: parent.map(|parent| PageHashReader::new(Arc::clone(&parent.reader))),
            encoders,
            next_encoder: 0,
            buffer: FrameBuffer::new(FRAME_LEN_DEFAULT, PAGE_SIZE),
            archive: TarArchive::DataDirectory,
            target: Target::Nowhere,
            kept: Kept::default(),
            checks: None,
        })
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
                Some(event) = lanes.events.recv() => self.books.take(event, self.writer).await?,
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
        self.flush(lanes).await?;
        self.encoders.clear();
        while let Some(event) = lanes.events.recv().await {
            self.books.take(event, self.writer).await?;
        }
        Ok(Received {
            end: (timeline, end),
            kept: self.kept,
            bad: self.books.bad,
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
                self.begin_file(meta, size)?;
            }
            TarEvent::Data(bytes) => self.data(bytes, lanes).await?,
            TarEvent::FileEnd => self.end_file(lanes).await?,
            TarEvent::Directory { path, mode } => {
                // The root of an archive is the data directory, or a tablespace's link.
                if !path.is_empty() {
                    let meta = self.meta(&path, EntryKind::Directory, mode, SystemClock.now());
                    self.writer.add_path(meta);
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

    fn begin_file(&mut self, meta: FileMeta, size: u64) -> anyhow::Result<()> {
        let is_kept =
            [CONTROL_FILE_PATH, BACKUP_LABEL_FILE, TABLESPACE_MAP_FILE].contains(&meta.path.as_str());
        if is_kept {
            if size > KEPT_LEN_MAX {
                let message = format!("the server sent a {} of {size} bytes", meta.path);
                return Err(Failure::new(ErrorClass::Corrupt, message).into());
            }
            self.kept.files.push((meta, Vec::new()));
            self.target = Target::Kept;
            return Ok(());
        }
        if is_backup_metadata(&meta.path) {
            self.target = Target::Nowhere;
            return Ok(());
        }
        let base = self.entries.remove(&meta.path);
        let path = meta.path.clone();
        let id = match &base {
            Some(base) => self.writer.begin_overlay(meta, base.clone()),
            None => self.writer.begin_file(meta),
        };
        self.target = Target::File(Box::new(OpenFile {
            id,
            segment: kind_of(&path).segment(),
            path,
            base,
            known: Vec::new().into_iter(),
            page: BytesMut::new(),
            at: 0,
            given: 0,
        }));
        Ok(())
    }

    async fn data(&mut self, mut bytes: Bytes, lanes: &mut Lanes) -> anyhow::Result<()> {
        match &mut self.target {
            Target::Nowhere => return Ok(()),
            Target::Kept => {
                if let Some((_, kept)) = self.kept.files.last_mut() {
                    kept.extend_from_slice(&bytes);
                }
                return Ok(());
            }
            Target::File(_) => {}
        }
        // Pages are cut as they lie in the file, however the stream is cut.
        while let Target::File(file) = &mut self.target {
            if file.page.is_empty() && bytes.len() >= PAGE_SIZE {
                let page = bytes.split_to(PAGE_SIZE);
                self.page(&page, lanes).await?;
                continue;
            }
            let missing = (PAGE_SIZE - file.page.len()).min(bytes.len());
            file.page.extend_from_slice(&bytes.split_to(missing));
            if file.page.len() < PAGE_SIZE {
                break;
            }
            let page = file.page.split().freeze();
            self.page(&page, lanes).await?;
        }
        Ok(())
    }

    /// Takes the next page of the open file in, unless the parent has it.
    async fn page(&mut self, page: &[u8], lanes: &mut Lanes) -> anyhow::Result<()> {
        let Target::File(file) = &mut self.target else {
            return Ok(());
        };
        if file.at.is_multiple_of(PART_LEN) {
            let part = usize::try_from(file.at / PART_LEN)
                .ok()
                .and_then(|number| file.base.as_ref()?.parts.get(number));
            if let (Some(part), Some(hashes)) = (part, &mut self.hashes) {
                file.known = hashes.of_part(part, PAGE_SIZE).await?.into_iter();
            } else {
                file.known = Vec::new().into_iter();
            }
        }
        let (id, at) = (file.id, file.at);
        if let (Some(checks), Some(segment)) = (self.checks, file.segment) {
            self.books.note_bad(checks.look(&file.path, segment, at, page));
        }
        file.at += page.len() as u64;
        if file.base.is_some() && file.known.next().flatten() == Some(PageHash::of(&self.hash_key, page)) {
            return Ok(());
        }
        file.given += page.len() as u64;
        if self.buffer.room_for(page.len() as u64) < page.len() {
            self.flush(lanes).await?;
        }
        self.buffer.push(id, at, page);
        Ok(())
    }

    async fn end_file(&mut self, lanes: &mut Lanes) -> anyhow::Result<()> {
        if let Target::File(file) = &mut self.target {
            let rest = file.page.split().freeze();
            if !rest.is_empty() {
                self.page(&rest, lanes).await?;
            }
        }
        if let Target::File(file) = std::mem::replace(&mut self.target, Target::Nowhere) {
            self.writer.end_file(file.id, file.at, file.given).await?;
        }
        Ok(())
    }

    /// Hands the frame being filled to the next encoder. The books are kept meanwhile: encoders may wait for them.
    async fn flush(&mut self, lanes: &mut Lanes) -> anyhow::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let fresh = FrameBuffer::new(FRAME_LEN_DEFAULT, PAGE_SIZE);
        let full = std::mem::replace(&mut self.buffer, fresh);
        let Some(encoder) = self.encoders.get(self.next_encoder) else {
            unreachable!("there is at least one encoder")
        };
        self.next_encoder = (self.next_encoder + 1) % self.encoders.len();
        let permit = loop {
            tokio::select! {
                permit = encoder.reserve() => break permit.map_err(|_| cancelled())?,
                () = lanes.stop.cancelled() => return Err(cancelled()),
                Some(event) = lanes.events.recv() => self.books.take(event, self.writer).await?,
            }
        };
        permit.send(full);
        Ok(())
    }
}
