//! `--delta`: restoring over an earlier data directory. What does not belong is removed before anything is written, and
//! pages that are there as the backup has them are neither fetched nor written.
//!
//! What is there is compared by content, with the page hashes that the backup stored: times and sizes tell nothing
//! about a damaged file.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use futures::stream::{self, StreamExt, TryStreamExt};
use tidemark_postgres::basebackup::Tablespace;
use tidemark_postgres::control_file::CONTROL_FILE_PATH;
use tidemark_postgres::page::PAGE_SIZE;
use tidemark_repository::base::{
    BackupReader, EntryKind, FileEntry, FrameWrite, HashKey, PART_LEN, PageHash, PageHashReader,
    RestoreBatch, RestoreLimits,
};

use crate::restore::Prepared;
use crate::restore::files::Writer;

/// Where the links to tablespaces lie.
const TABLESPACE_LINKS: &str = "pg_tblspc";

/// For each page of a file, whether it is there already.
type Present = Vec<bool>;

/// Compares what is there with a base backup.
pub struct Comparison {
    /// The backup.
    pub reader: Arc<BackupReader>,
    /// The key of its page hashes.
    pub key: HashKey,
    /// Knows where files lie.
    pub writer: Arc<Writer>,
    /// Files compared at once.
    pub jobs: usize,
}

impl Comparison {
    /// Takes out of `batch` what its files hold already; returns how many bytes that is. What cannot be told is left in.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub async fn leave_out_present(
        &self,
        batch: &mut RestoreBatch,
        limits: &RestoreLimits,
    ) -> anyhow::Result<u64> {
        // Neighbours lie in the same packs, whose tables a task fetches once.
        let share = batch.files.len().div_ceil(self.jobs).max(1);
        let tasks = batch.files.chunks(share).zip((0usize..).step_by(share));
        let tasks = tasks.map(|(files, first)| async move {
            let mut hashes = PageHashReader::new(Arc::clone(&self.reader));
            let mut found = Vec::new();
            for (file, number) in files.iter().zip(first..) {
                found.push((u32::try_from(number)?, self.present(&mut hashes, file).await?));
            }
            anyhow::Ok(found)
        });
        let found = stream::iter(tasks).buffer_unordered(self.jobs);
        let found: Vec<Vec<(u32, Present)>> = found.try_collect().await?;
        let present: HashMap<u32, Present> = found.into_iter().flatten().collect();
        Ok(batch.leave_out(limits, |write| {
            let present = present.get(&write.file);
            present.is_some_and(|present| is_present(present, write))
        }))
    }

    /// Compares one file with what the backup says of its pages.
    async fn present(&self, hashes: &mut PageHashReader, entry: &FileEntry) -> anyhow::Result<Present> {
        let mut present = Present::new();
        if entry.meta.kind != EntryKind::File {
            return Ok(present);
        }
        let path = self.writer.path(entry)?;
        let mut begin = 0;
        for part in &entry.parts {
            let expected = match hashes.of_part(part, PAGE_SIZE).await {
                Ok(expected) => expected,
                Err(error) => {
                    let file = &entry.meta.path;
                    tracing::warn!(%error, %file, "its page hashes cannot be read, so it is fetched whole");
                    return Ok(Present::new());
                }
            };
            let len = entry.size.saturating_sub(begin).min(PART_LEN);
            let (path, key) = (path.clone(), self.key);
            let compare = move || compare(&path, begin, len, &expected, &key);
            present.extend(tokio::task::spawn_blocking(compare).await??);
            begin += len;
        }
        Ok(present)
    }
}

fn is_present(present: &Present, write: &FrameWrite) -> bool {
    let page = PAGE_SIZE as u64;
    let pages = write.offset / page..(write.offset + u64::from(write.len)).div_ceil(page);
    let range =
        usize::try_from(pages.start).unwrap_or(usize::MAX)..usize::try_from(pages.end).unwrap_or(usize::MAX);
    present
        .get(range)
        .is_some_and(|pages| pages.iter().all(|present| *present))
}

/// Which pages of `[begin, begin + len)` of a file have the expected hashes.
fn compare(
    path: &Path,
    begin: u64,
    len: u64,
    expected: &[Option<PageHash>],
    key: &HashKey,
) -> anyhow::Result<Present> {
    let read = || format!("read {}", path.display());
    let file = File::open(path).with_context(read)?;
    let mut buffer = vec![0; 128 * PAGE_SIZE];
    let mut present = Present::with_capacity(expected.len());
    let mut at = 0;
    while at < len {
        let wanted = usize::try_from(len - at).unwrap_or(usize::MAX).min(buffer.len());
        let bytes = buffer.get_mut(..wanted).unwrap_or_default();
        file.read_exact_at(bytes, begin + at).with_context(read)?;
        for page in bytes.chunks(PAGE_SIZE) {
            let expected = expected.get(present.len()).copied().flatten();
            present.push(expected == Some(PageHash::of(key, page)));
        }
        at += wanted as u64;
    }
    Ok(present)
}

/// Removes what the backup does not hold, and what is of another kind than there.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_strangers(prepared: &Prepared) -> anyhow::Result<()> {
    let mut wanted = HashMap::new();
    for entry in prepared.reader.manifest().files() {
        let entry = entry?;
        wanted.insert(entry.meta.path, entry.meta.kind);
    }
    // Whatever happens next, this is no data directory that a server may start on.
    let control = prepared.place.data.join(CONTROL_FILE_PATH);
    match fs::remove_file(&control) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", control.display()));
        }
        _ => {}
    }
    let earlier = Earlier {
        data: &prepared.place.data,
        tablespaces: &prepared.place.tablespaces,
        wanted: &wanted,
    };
    earlier.remove_below("")
}

/// An earlier data directory, and what it shall hold.
struct Earlier<'a> {
    data: &'a Path,
    /// Where they will lie.
    tablespaces: &'a [Tablespace],
    wanted: &'a HashMap<String, EntryKind>,
}

impl Earlier<'_> {
    fn remove_below(&self, folder: &str) -> anyhow::Result<()> {
        let directory = self.data.join(folder);
        for entry in fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let path = if folder.is_empty() {
                name.into_owned()
            } else {
                format!("{folder}/{name}")
            };
            let place = entry.path();
            let kind = entry.file_type()?;
            let removed = match self.wanted.get(&path) {
                Some(EntryKind::Directory) if kind.is_dir() => {
                    self.remove_below(&path)?;
                    Ok(())
                }
                // The log, or a tablespace, which lies elsewhere.
                Some(EntryKind::Directory | EntryKind::Link(_))
                    if kind.is_symlink() && self.stays(&path, &place) =>
                {
                    self.remove_below(&path)?;
                    Ok(())
                }
                Some(EntryKind::File) if kind.is_file() => Ok(()),
                _ if kind.is_dir() => fs::remove_dir_all(&place),
                _ => fs::remove_file(&place),
            };
            removed.with_context(|| format!("remove {}", place.display()))?;
        }
        Ok(())
    }

    /// Whether what lies behind a link to a directory belongs to this data directory. A tablespace does if it stays where
    /// it is: one that is mapped elsewhere may be another server's by now.
    fn stays(&self, path: &str, link: &Path) -> bool {
        if !link.is_dir() {
            return false;
        }
        let Some(oid) = path
            .strip_prefix(TABLESPACE_LINKS)
            .and_then(|path| path.strip_prefix('/'))
        else {
            return true;
        };
        let space = self.tablespaces.iter().find(|space| space.oid.to_string() == oid);
        space.is_some_and(|space| leads_to(self.data, space))
    }
}

/// Whether the link below an earlier data directory leads to where a tablespace will lie.
pub fn leads_to(data: &Path, space: &Tablespace) -> bool {
    let link = data.join(TABLESPACE_LINKS).join(space.oid.to_string());
    fs::read_link(link).is_ok_and(|location| location == space.location)
}
