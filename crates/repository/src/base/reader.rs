//! Reading base backups: which there are, their manifests and maps. Restoring from them is `restore`'s.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, stream};

use super::id::{BackupId, PartId};
use super::manifest::{self, BackupHeader, Manifest, PartRef};
use super::map::{MapObject, PartMap};
use super::store::BaseStore;
use super::writer::DOCUMENT_LEN_MAX;
use crate::envelope::{HEADER_LEN, Header, Kind};
use crate::error::RepositoryError;

/// Map objects kept in memory; some MiB each. Files come in the order they were mapped, more or less.
const MAPS_KEPT: usize = 4;
/// Requests under way at once while looking at every backup.
const LOOKS_AT_ONCE: usize = 8;
/// How much of a manifest is read for its header: many times what a header takes.
const HEADER_READ_LEN: u64 = 128 << 10;

/// The base backups that exist: those with a manifest.
#[derive(Debug, Default)]
pub struct BackupList {
    /// The headers of those that can be read, oldest first.
    pub backups: Vec<BackupHeader>,
    /// Those whose manifest cannot be read, and why. They do not stand in the way of the others.
    pub unreadable: Vec<(BackupId, RepositoryError)>,
}

/// Lists the base backups. Reads the front of each manifest only.
///
/// # Errors
/// `Storage`.
pub async fn list_backups(store: &BaseStore) -> Result<BackupList, RepositoryError> {
    let names = store.storage().folders(&store.folder()).await?;
    let mut looks = stream::iter(names.into_iter().filter_map(|name| name.parse().ok()))
        .map(|backup: BackupId| async move { (read_header(store, &backup).await, backup) })
        .buffered(LOOKS_AT_ONCE);
    let mut list = BackupList::default();
    while let Some((header, backup)) = looks.next().await {
        match header {
            Ok(header) => list.backups.extend(header),
            Err(error @ RepositoryError::Storage(_)) => return Err(error),
            Err(error) => list.unreadable.push((backup, error)),
        }
    }
    Ok(list)
}

/// The header of one backup, or `None` when it has no manifest.
///
/// # Errors
/// `Storage`; `Damaged`, `TooNew` or `Encrypted` for a manifest that cannot be read.
pub async fn read_header(
    store: &BaseStore,
    backup: &BackupId,
) -> Result<Option<BackupHeader>, RepositoryError> {
    let key = store.manifest(backup);
    let mut data = match store.storage().get(&key, Some(0..HEADER_READ_LEN)).await {
        Ok(data) => data,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let object = key.as_str();
    let header = Header::decode(object, &data.bytes)?;
    if header.kind != Kind::Manifest {
        return Err(RepositoryError::damaged(object, "it holds no manifest"));
    }
    let mut line = first_line(data.bytes.get(HEADER_LEN..).unwrap_or_default());
    if line.is_none() && data.size > HEADER_READ_LEN {
        data = store.storage().get(&key, None).await?;
        line = first_line(data.bytes.get(HEADER_LEN..).unwrap_or_default());
    }
    let line = line.ok_or_else(|| RepositoryError::damaged(object, "its first line cannot be read"))?;
    manifest::decode_header(object, &line).map(Some)
}

/// The first line of a zstd stream of which only the front is there.
fn first_line(front: &[u8]) -> Option<Vec<u8>> {
    use std::io::BufRead;
    let decoder = zstd::stream::read::Decoder::with_buffer(front).ok()?;
    let mut line = Vec::new();
    std::io::BufReader::new(decoder)
        .read_until(b'\n', &mut line)
        .ok()?;
    line.pop().filter(|byte| *byte == b'\n').map(|_| line)
}

/// One base backup, opened for reading.
#[derive(Debug)]
pub struct BackupReader {
    store: BaseStore,
    manifest: Manifest,
    maps: Mutex<VecDeque<(u32, Arc<MapObject>)>>,
}

impl BackupReader {
    /// Reads and proves the manifest of `backup`. Decompressing and parsing it takes CPU time in proportion to the
    /// number of files (some hundred milliseconds for a million).
    ///
    /// # Errors
    /// `Storage` (not found when there is no such backup); `Damaged`, `TooNew`, `Encrypted`.
    pub async fn open(store: BaseStore, backup: &BackupId) -> Result<BackupReader, RepositoryError> {
        let key = store.manifest(backup);
        let plain = store.get_document(&key, Kind::Manifest, DOCUMENT_LEN_MAX).await?;
        let manifest = Manifest::decode(key.as_str(), plain)?;
        if manifest.header().backup != *backup {
            return Err(RepositoryError::damaged(
                &key,
                "it is the manifest of another backup",
            ));
        }
        Ok(BackupReader {
            store,
            manifest,
            maps: Mutex::default(),
        })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its header.
    pub fn header(&self) -> &BackupHeader {
        self.manifest.header()
    }

    /// Where it was read from.
    pub(super) fn store(&self) -> &BaseStore {
        &self.store
    }

    /// The map of one part of a file.
    ///
    /// # Errors
    /// `Storage`, `Damaged`.
    pub async fn part(&self, part: &PartRef) -> Result<PartMap, RepositoryError> {
        let entry = self.manifest.maps().get(part.map as usize);
        let entry = entry.ok_or_else(|| {
            RepositoryError::damaged(
                self.manifest.object(),
                format!("it names map {} and lists no such", part.map),
            )
        })?;
        let object = match self.kept_map(part.map) {
            Some(object) => object,
            None => self.read_map(part.map, &entry.id).await?,
        };
        let read = object.part(part.offset, part.len);
        read.map_err(|malformed| RepositoryError::damaged(&self.store.map(&entry.id), malformed.0))
    }

    fn kept_map(&self, map: u32) -> Option<Arc<MapObject>> {
        let kept = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter()
            .find(|(index, _)| *index == map)
            .map(|(_, object)| object.clone())
    }

    async fn read_map(&self, map: u32, id: &PartId) -> Result<Arc<MapObject>, RepositoryError> {
        let key = self.store.map(id);
        let plain = self.store.get_document(&key, Kind::Map, DOCUMENT_LEN_MAX).await?;
        let object = MapObject::decode(plain, |pack| self.manifest.pack_index(pack))
            .map_err(|malformed| RepositoryError::damaged(&key, malformed.0))?;
        let object = Arc::new(object);
        let mut kept = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front((map, object.clone()));
        kept.truncate(MAPS_KEPT);
        Ok(object)
    }

    /// Checks by LIST that every pack and map object that the manifest names is there and has its length.
    ///
    /// # Errors
    /// `Damaged` naming the first that is not; `Storage`.
    pub async fn check_objects(&self) -> Result<(), RepositoryError> {
        let packs = self
            .manifest
            .packs()
            .iter()
            .map(|pack| (&pack.id.backup, self.store.pack(&pack.id), pack.size));
        let maps = self
            .manifest
            .maps()
            .iter()
            .map(|map| (&map.id.backup, self.store.map(&map.id), map.size));
        let mut wanted: Vec<_> = packs.chain(maps).collect();
        wanted.sort_unstable();
        for of_backup in wanted.chunk_by(|a, b| a.0 == b.0) {
            let Some((backup, ..)) = of_backup.first() else {
                continue;
            };
            let listed = self.store.list_backup(backup).await?;
            for (_, key, size) in of_backup {
                // A listing comes sorted by key.
                let found = listed
                    .binary_search_by(|meta| meta.key.cmp(key))
                    .ok()
                    .and_then(|at| listed.get(at));
                if found.map(|meta| meta.size) != Some(*size) {
                    let problem = match found {
                        Some(meta) => format!("it is {} bytes long where {size} were written", meta.size),
                        None => "it is missing".to_owned(),
                    };
                    let backup = &self.header().backup;
                    return Err(RepositoryError::damaged(
                        key,
                        format!("{problem}; base backup {backup} needs it"),
                    ));
                }
            }
        }
        Ok(())
    }
}
