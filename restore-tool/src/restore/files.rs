//! Laying the base backup down: ranged reads and decoding in parallel, writes at their places, `pg_control` last, all of
//! it synced.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use futures::stream::{self, StreamExt, TryStreamExt};
use tidemark_postgres::basebackup::TABLESPACE_MAP_FILE;
use tidemark_postgres::control_file::CONTROL_FILE_PATH;
use tidemark_postgres::restore::link_tablespaces;
use tidemark_repository::Archive;
use tidemark_repository::base::{
    BackupReader, EntryKind, Fetch, FileEntry, FrameDecoder, RestoreBatch, RestoreLimits,
};
use tidemark_types::{ByteSize, ErrorClass};

use crate::cli::RestoreArgs;
use crate::exit::Failure;
use crate::restore::Prepared;
use crate::restore::delta::{Comparison, remove_strangers};
use crate::restore::owner::Owner;
use crate::restore::place::make_private;
use crate::restore::summary::Progress;

/// Directories that a server expects, also when a backup lacks them.
const EXPECTED: [&str; 2] = ["pg_wal", "pg_wal/archive_status"];
/// `pg_control` until everything else is in place: a server refuses to start without it.
const CONTROL_FILE_UNFINISHED: &str = "global/pg_control.tidemark";

/// Lays all files of a PostgreSQL backup down.
///
/// # Errors
/// Damage in the backup; a file that cannot be written.
pub async fn lay_down(args: &RestoreArgs, archive: &Archive, prepared: &Prepared) -> anyhow::Result<()> {
    let place = &prepared.place;
    make_private(&place.data)?;
    prepared.owner.give(&place.data)?;
    if args.delta {
        remove_strangers(prepared)?;
    }
    let map = link_tablespaces(&place.data, &place.tablespaces)?;
    fetch(args, archive, &prepared.reader, &place.data, prepared.owner).await?;
    finish(prepared, &map)
}

/// Fetches all files of a backup into the directory `data`, which is there. Nothing is synced.
///
/// # Errors
/// Damage in the backup; a file that cannot be written.
pub async fn fetch(
    args: &RestoreArgs,
    archive: &Archive,
    reader: &Arc<BackupReader>,
    data: &Path,
    owner: Owner,
) -> anyhow::Result<()> {
    let writer = Arc::new(Writer {
        data: data.to_owned(),
        owner,
        compare: args.delta,
        decoders: Mutex::default(),
    });
    let progress = Progress::new("base backup", reader.header().totals.bytes);
    let limits = RestoreLimits::default();
    let mut files = reader.manifest().files();
    let comparison = Comparison {
        reader: Arc::clone(reader),
        key: archive.base().hash_key(),
        writer: Arc::clone(&writer),
        jobs: args.jobs.into(),
    };
    let mut present = 0;
    while let Some(mut batch) = reader.next_batch(&mut files, &limits).await? {
        let making = Arc::clone(&writer);
        batch = tokio::task::spawn_blocking(move || making.make(&batch).map(|()| batch)).await??;
        if args.delta {
            let left_out = comparison.leave_out_present(&mut batch, &limits).await?;
            present += left_out;
            progress.add(left_out);
        }
        fetch_all(args, archive, &writer, &Arc::new(batch), &progress).await?;
    }
    progress.finish();
    if args.delta {
        let all = reader.header().totals.bytes;
        eprintln!(
            "of {} in the base backup, {} are there already",
            ByteSize(all),
            ByteSize(present)
        );
    }
    Ok(())
}

async fn fetch_all(
    args: &RestoreArgs,
    archive: &Archive,
    writer: &Arc<Writer>,
    batch: &Arc<RestoreBatch>,
    progress: &Progress,
) -> anyhow::Result<()> {
    let fetches = (0..batch.fetches.len()).map(|number| {
        let (writer, batch, archive) = (Arc::clone(writer), Arc::clone(batch), archive.clone());
        async move {
            let Some(fetch) = batch.fetches.get(number) else {
                return Ok(0);
            };
            let bytes = batch.read(&**archive.storage(), fetch).await?;
            let key = archive.base().hash_key();
            let (batch, writer) = (Arc::clone(&batch), Arc::clone(&writer));
            tokio::task::spawn_blocking(move || -> anyhow::Result<u64> {
                let Some(fetch) = batch.fetches.get(number) else {
                    return Ok(0);
                };
                let mut decoder = match writer.spare_decoder() {
                    Some(decoder) => decoder,
                    None => FrameDecoder::new(key)?,
                };
                let written = writer.write(&batch, fetch, &bytes, &mut decoder);
                writer.keep_decoder(decoder);
                written
            })
            .await?
        }
    });
    let mut done = stream::iter(fetches).buffer_unordered(usize::from(args.jobs));
    while let Some(bytes) = done.try_next().await? {
        progress.add(bytes);
    }
    Ok(())
}

/// Writes files of the backup below the data directory.
pub(super) struct Writer {
    data: PathBuf,
    owner: Owner,
    /// Write only what differs from what is there.
    compare: bool,
    decoders: Mutex<Vec<FrameDecoder>>,
}

impl Writer {
    fn spare_decoder(&self) -> Option<FrameDecoder> {
        self.decoders.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn keep_decoder(&self, decoder: FrameDecoder) {
        self.decoders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(decoder);
    }

    /// Where an entry of the backup goes.
    ///
    /// # Errors
    /// When it would be outside the data directory.
    pub(super) fn path(&self, entry: &FileEntry) -> anyhow::Result<PathBuf> {
        let path = Path::new(&entry.meta.path);
        let is_plain = path
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !is_plain {
            let message = format!(
                "the manifest names a file outside the data directory: {}",
                entry.meta.path
            );
            return Err(Failure::new(ErrorClass::Corrupt, message).into());
        }
        let is_control = entry.meta.path == CONTROL_FILE_PATH;
        Ok(self.data.join(if is_control {
            Path::new(CONTROL_FILE_UNFINISHED)
        } else {
            path
        }))
    }

    /// Makes the directories and files of a batch, files at their full length.
    fn make(&self, batch: &RestoreBatch) -> anyhow::Result<()> {
        for entry in &batch.files {
            let path = self.path(entry)?;
            let made = match &entry.meta.kind {
                EntryKind::Directory => make_directory(&path),
                EntryKind::File => self.make_file(&path, entry.size),
                // Made from the tablespaces as they were mapped.
                EntryKind::Link(_) if entry.meta.path.starts_with("pg_tblspc/") => continue,
                EntryKind::Link(to) => make_link(&path, to),
            };
            made.with_context(|| format!("make {}", path.display()))?;
            self.owner.give(&path)?;
        }
        if self.compare {
            self.clear_zeros(batch)?;
        }
        Ok(())
    }

    fn make_file(&self, path: &Path, size: u64) -> std::io::Result<()> {
        if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
            fs::create_dir_all(parent)?;
        }
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(!self.compare)
            .open(path)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.set_len(size)
    }

    /// Ranges without bytes of their own, in files that may hold something there.
    fn clear_zeros(&self, batch: &RestoreBatch) -> anyhow::Result<()> {
        let zeros = vec![0; 1 << 20];
        for range in &batch.zeros {
            let Some(entry) = batch.files.get(range.file as usize) else {
                continue;
            };
            let path = self.path(entry)?;
            let file = File::options()
                .write(true)
                .open(&path)
                .with_context(|| format!("open {}", path.display()))?;
            let mut at = range.offset;
            let end = range.offset.saturating_add(range.len);
            while at < end {
                let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeros.len());
                file.write_all_at(zeros.get(..len).unwrap_or_default(), at)
                    .with_context(|| format!("write {}", path.display()))?;
                at += len as u64;
            }
        }
        Ok(())
    }

    /// Decodes what a ranged read brought and writes it; returns how many bytes of files that was.
    fn write(
        &self,
        batch: &RestoreBatch,
        fetch: &Fetch,
        fetched: &[u8],
        decoder: &mut FrameDecoder,
    ) -> anyhow::Result<u64> {
        let mut written = 0;
        let mut open: Option<(u32, PathBuf, File)> = None;
        let mut present = Vec::new();
        for used in &fetch.frames {
            let plain = batch.decode(decoder, fetch, fetched, used)?;
            for write in &used.writes {
                if open.as_ref().is_none_or(|(file, ..)| *file != write.file) {
                    let entry = batch
                        .files
                        .get(write.file as usize)
                        .context("a write names no file")?;
                    let path = self.path(entry)?;
                    let file = File::options().read(self.compare).write(true).open(&path);
                    let file = file.with_context(|| format!("open {}", path.display()))?;
                    open = Some((write.file, path, file));
                }
                let Some((_, path, file)) = &open else { continue };
                let bytes = write.bytes(plain);
                written += bytes.len() as u64;
                if self.compare {
                    present.resize(bytes.len(), 0);
                    if file.read_exact_at(&mut present, write.offset).is_ok() && present == bytes {
                        continue;
                    }
                }
                file.write_all_at(bytes, write.offset)
                    .with_context(|| format!("write {}", path.display()))?;
            }
        }
        Ok(written)
    }
}

fn make_directory(path: &Path) -> std::io::Result<()> {
    if !path.is_dir() {
        fs::create_dir_all(path)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

fn make_link(path: &Path, to: &str) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(to, path)
}

/// The last steps: what must agree with this host, the control file, and everything on disk.
fn finish(prepared: &Prepared, tablespace_map: &str) -> anyhow::Result<()> {
    let data = &prepared.place.data;
    for directory in EXPECTED {
        let path = data.join(directory);
        if !path.exists() {
            make_directory(&path).with_context(|| format!("make {}", path.display()))?;
            prepared.owner.give(&path)?;
        }
    }
    let map = data.join(TABLESPACE_MAP_FILE);
    if tablespace_map.is_empty() {
        // A map would make links anew that lead to where the tablespaces were.
        let _ = fs::remove_file(&map);
    } else {
        fs::write(&map, tablespace_map).with_context(|| format!("write {}", map.display()))?;
        prepared.owner.give(&map)?;
    }
    sync_file_systems(prepared)?;
    let (from, to) = (data.join(CONTROL_FILE_UNFINISHED), data.join(CONTROL_FILE_PATH));
    fs::rename(&from, &to)
        .and_then(|()| File::open(data.join("global"))?.sync_all())
        .with_context(|| format!("put {} in place", to.display()))
}

/// Syncs all places of the restore.
fn sync_file_systems(prepared: &Prepared) -> anyhow::Result<()> {
    let places = prepared
        .place
        .tablespaces
        .iter()
        .filter(|space| !space.is_in_place());
    let mut places = places
        .map(|space| space.location.as_path())
        .chain([prepared.place.data.as_path()]);
    places.try_for_each(sync_file_system)
}

/// One call for a file system instead of one for each file, of which there may be millions.
///
/// # Errors
/// When the disk refuses.
pub fn sync_file_system(path: &Path) -> anyhow::Result<()> {
    let directory = File::open(path).with_context(|| format!("open {}", path.display()))?;
    rustix::fs::syncfs(&directory).with_context(|| format!("sync {}", path.display()))
}
