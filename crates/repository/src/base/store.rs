//! Where base backups of one generation lie, and their small objects whole.

use std::sync::Arc;

use bytes::Bytes;
use tidemark_storage::{ObjectKey, ObjectMeta, PutMode, Storage};

use super::hash::HashKey;
use super::id::{BackupId, PartId};
use super::writer::DOCUMENT_LEN_MAX;
use crate::envelope::{self, Kind};
use crate::error::RepositoryError;
use crate::layout::Layout;

/// zstd level of maps and manifests.
const DOCUMENT_LEVEL: i32 = 3;

/// The base backups of one generation of one server.
#[derive(Debug, Clone)]
pub struct BaseStore {
    storage: Arc<dyn Storage>,
    layout: Layout,
    key: HashKey,
}

impl BaseStore {
    /// The base backups below `layout` in `storage`, hashed with `key`.
    pub fn new(storage: Arc<dyn Storage>, layout: Layout, key: HashKey) -> BaseStore {
        BaseStore { storage, layout, key }
    }

    /// The key of page and frame hashes.
    pub fn hash_key(&self) -> HashKey {
        self.key
    }

    /// The store itself.
    pub(super) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// The folder of all base backups.
    pub(super) fn folder(&self) -> String {
        self.layout.base_folder()
    }

    /// The folder of one base backup.
    pub(super) fn backup_folder(&self, backup: &BackupId) -> String {
        format!("{}{backup}/", self.folder())
    }

    /// The key of one object of a base backup.
    pub(super) fn object(&self, backup: &BackupId, name: &str) -> ObjectKey {
        match self.layout.base(backup.as_str(), name) {
            Ok(key) => key,
            Err(error) => unreachable!("a backup's name is checked when it is made: {error}"),
        }
    }

    /// The key of a pack.
    pub fn pack(&self, id: &PartId) -> ObjectKey {
        self.object(&id.backup, &format!("pack-{:04}.zst", id.number))
    }

    /// The key of a map object.
    pub fn map(&self, id: &PartId) -> ObjectKey {
        self.object(&id.backup, &format!("map-{:04}.zst", id.number))
    }

    /// The key of a manifest.
    pub fn manifest(&self, backup: &BackupId) -> ObjectKey {
        self.object(backup, "manifest.zst")
    }

    /// The key of a names object.
    pub fn names(&self, backup: &BackupId) -> ObjectKey {
        self.object(backup, "names.zst")
    }

    /// Reads the names object of a backup; `None` when it has none.
    ///
    /// # Errors
    /// `Storage`, `Damaged`.
    pub async fn read_names(&self, backup: &BackupId) -> Result<Option<Vec<u8>>, RepositoryError> {
        match self
            .get_document(&self.names(backup), Kind::Names, DOCUMENT_LEN_MAX)
            .await
        {
            Ok(plain) => Ok(Some(plain)),
            Err(RepositoryError::Storage(error)) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The key of an intent.
    pub(super) fn intent(&self, backup: &BackupId) -> ObjectKey {
        self.object(backup, "intent.json")
    }

    /// Seals `chunks` and writes them; returns the object's length.
    pub(super) async fn put_document(
        &self,
        key: &ObjectKey,
        kind: Kind,
        chunks: &[Bytes],
    ) -> Result<u64, RepositoryError> {
        let sealed = envelope::seal(kind, rand::random(), chunks, DOCUMENT_LEVEL)?;
        let len = sealed.bytes.len() as u64;
        // The backup's random name keeps every other writer off this key; what may lie here is this very document,
        // written by an attempt whose reply was lost.
        self.storage.put(key, sealed.bytes, PutMode::Overwrite).await?;
        Ok(len)
    }

    /// Reads and proves a document.
    pub(super) async fn get_document(
        &self,
        key: &ObjectKey,
        kind: Kind,
        plain_len_max: u64,
    ) -> Result<Vec<u8>, RepositoryError> {
        let data = self.storage.get(key, None).await?;
        envelope::open(key.as_str(), kind, &data.bytes, plain_len_max)
    }

    /// Everything that lies in a backup's folder.
    pub(super) async fn list_backup(&self, backup: &BackupId) -> Result<Vec<ObjectMeta>, RepositoryError> {
        let folder = self.backup_folder(backup);
        let mut objects: Vec<ObjectMeta> = Vec::new();
        loop {
            let after = objects.last().map(|object| object.key.as_str());
            let page = self.storage.list(&folder, after).await?;
            objects.extend(page.objects);
            if !page.more {
                return Ok(objects);
            }
        }
    }
}
