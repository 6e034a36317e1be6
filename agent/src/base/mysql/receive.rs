//! Takes a stream of files into packs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use tidemark_mysql::basebackup::{BaseBackupError, DirectoryRead, DumpRun, FileEvent, ProgramRun};
use tidemark_repository::base::{BackupReader, BackupWriter, EntryKind, FileId, FileMeta, PackEntry};
use tidemark_types::{Clock, ErrorClass, SystemClock};
use tokio_util::sync::CancellationToken;

use super::super::intake::{Intake, OpenFile};
use super::super::lanes::{Lanes, cancelled, encoder};
use super::super::take::Job;
use crate::exit::Failure;

/// As both servers make their files, …
const FILE_MODE: u32 = 0o640;
/// … and their directories.
const DIRECTORY_MODE: u32 = 0o750;
/// No file that is kept in memory is longer.
const KEPT_LEN_MAX: usize = 1 << 20;

/// Where files come from.
pub enum Stream {
    /// A directory that nobody writes to.
    Directory(DirectoryRead),
    /// `mariadb-backup`.
    Program(Box<ProgramRun>),
    /// A dump.
    Dump(DumpRun),
}

impl Stream {
    async fn next(&mut self) -> Result<Option<FileEvent>, BaseBackupError> {
        match self {
            Stream::Directory(directory) => directory.next().await,
            Stream::Program(program) => program.next().await,
            Stream::Dump(dump) => dump.next().await,
        }
    }
}

/// What a stream brought.
pub struct Received {
    /// All packs.
    pub packs: Vec<PackEntry>,
    /// The files that were wanted in memory too, by path.
    pub kept: HashMap<String, Vec<u8>>,
}

/// Takes the whole stream in. Files that `keep` names are handed back too.
///
/// # Errors
/// `Corrupt` when the stream makes no sense; what its source or the repository says; `Cancelled`.
pub async fn receive(
    job: &Job,
    stream: &mut Stream,
    parent: Option<&Arc<BackupReader>>,
    page_size: usize,
    keep: &[&'static str],
    writer: &mut BackupWriter,
    cancel: &CancellationToken,
) -> anyhow::Result<Received> {
    let (intake, mut lanes) = Intake::start(job, parent, page_size, writer)?;
    let files = Files {
        job,
        intake,
        keep,
        open: HashMap::new(),
        closed: HashMap::new(),
        directories: BTreeSet::new(),
        kept: HashMap::new(),
    };
    let (result, kept) = match files.run(stream, &mut lanes, cancel).await {
        Ok(kept) => (Ok(()), kept),
        Err(error) => (Err(error), HashMap::new()),
    };
    let sinks = lanes.finish(result, encoder(job)?).await?;
    let packs = sinks.finish(Vec::new(), writer).await?;
    Ok(Received { packs, kept })
}

/// The files of a stream.
struct Files<'a> {
    job: &'a Job,
    intake: Intake<'a>,
    keep: &'a [&'static str],
    open: HashMap<u64, (Arc<str>, OpenFile)>,
    closed: HashMap<Arc<str>, FileId>,
    directories: BTreeSet<String>,
    kept: HashMap<String, Vec<u8>>,
}

impl Files<'_> {
    /// Receives everything. By value: encoders end when it does.
    async fn run(
        mut self,
        stream: &mut Stream,
        lanes: &mut Lanes,
        cancel: &CancellationToken,
    ) -> anyhow::Result<HashMap<String, Vec<u8>>> {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Err(cancelled()),
                () = lanes.stop.cancelled() => return Err(cancelled()),
                Some(event) = lanes.events.recv() => self.intake.books.take(event, self.intake.writer).await?,
                event = stream.next() => match event? {
                    Some(event) => self.take(event, lanes).await?,
                    None => break,
                },
            }
        }
        self.add_directories();
        self.intake.finish(lanes).await?;
        Ok(self.kept)
    }

    async fn take(&mut self, event: FileEvent, lanes: &mut Lanes) -> anyhow::Result<()> {
        match event {
            FileEvent::Directory { path } => {
                self.directories.insert(path.to_string());
            }
            FileEvent::Begin { file, path, replaces } => self.begin(file, path, replaces)?,
            FileEvent::Data { file, offset, bytes } => self.data(file, offset, bytes, lanes).await?,
            FileEvent::End { file } => {
                let Some((path, open)) = self.open.remove(&file) else {
                    return Err(senseless("a file ends that is not open"));
                };
                self.closed.insert(path, open.id());
                self.intake.end(open, lanes).await?;
            }
            FileEvent::Rename { from, to } => {
                if let Some(file) = self.closed.remove(&from) {
                    self.take_back(&to);
                    self.intake.writer.rename(file, to.to_string());
                    self.closed.insert(to, file);
                }
            }
            FileEvent::Remove { path } => self.take_back(&path),
        }
        Ok(())
    }

    fn begin(&mut self, file: u64, path: Arc<str>, replaces: bool) -> anyhow::Result<()> {
        if self.closed.contains_key(&path) && !replaces {
            return Err(senseless(&format!("{path} comes twice")));
        }
        self.take_back(&path);
        let meta = meta(&path, EntryKind::File, FILE_MODE);
        let open = self.intake.begin(meta, twin(&path).as_deref());
        self.open.insert(file, (path, open));
        Ok(())
    }

    async fn data(&mut self, file: u64, offset: u64, bytes: Bytes, lanes: &mut Lanes) -> anyhow::Result<()> {
        let Some((path, open)) = self.open.get_mut(&file) else {
            return Err(senseless("bytes come of a file that is not open"));
        };
        if let Some(keep) = self.keep.iter().find(|keep| **keep == &**path) {
            let kept = self.kept.entry((*keep).to_owned()).or_default();
            if kept.len() + bytes.len() > KEPT_LEN_MAX {
                return Err(senseless(&format!("{path} should be small")));
            }
            kept.extend_from_slice(&bytes);
        }
        self.job.progress.add(bytes.len() as u64);
        if offset == open.next() {
            return self.intake.data(open, bytes, lanes).await;
        }
        if offset < open.next() && self.intake.mend(open, offset, &bytes) {
            return Ok(());
        }
        let message = format!("{path} goes on at {offset}, after {} bytes", open.next());
        Err(senseless(&message))
    }

    fn take_back(&mut self, path: &Arc<str>) {
        if let Some(file) = self.closed.remove(path) {
            self.intake.writer.take_back(file);
        }
    }

    /// Directories of files need not come by themselves.
    fn add_directories(&mut self) {
        for path in self.closed.keys() {
            let parents = path.match_indices('/').filter_map(|(at, _)| path.get(..at));
            self.directories.extend(parents.map(str::to_owned));
        }
        for path in std::mem::take(&mut self.directories) {
            let meta = meta(&path, EntryKind::Directory, DIRECTORY_MODE);
            self.intake.writer.add_path(meta);
        }
    }
}

fn meta(path: &str, kind: EntryKind, mode: u32) -> FileMeta {
    FileMeta {
        path: path.to_owned(),
        kind,
        mode,
        modified: SystemClock.now(),
        tag: None,
    }
}

/// What mariadb-backup may have called the same table in another backup: one that it saw being made is `.new` until the
/// backup is prepared.
fn twin(path: &str) -> Option<String> {
    let (stem, extension) = path.rsplit_once('.')?;
    match extension {
        "ibd" => Some(format!("{stem}.new")),
        "new" => Some(format!("{stem}.ibd")),
        _ => None,
    }
}

fn senseless(message: &str) -> anyhow::Error {
    let message = format!("the files of the base backup: {message}");
    Failure::new(ErrorClass::Corrupt, message).into()
}
