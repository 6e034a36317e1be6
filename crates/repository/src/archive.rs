//! One generation of one server: its slices, branch files, changed-blocks objects and recorded gaps.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidemark_storage::{InvalidKey, ObjectKey, PutMode, Storage, StorageError};
use tidemark_types::Timestamp;

use crate::RepositoryError;
use crate::base::{BaseStore, HashKey};
use crate::envelope::{self, HEADER_LEN, Header, Kind, Sealed};
use crate::layout::{Branch, Layout, parse_branch};
use crate::log::{GRAIN_LEN, LogPosition, SliceDraft, SliceKey};
use crate::server::{ServerRecord, create_json, read_json};

/// Log is written once and read seldom: the fastest level.
const LOG_LEVEL: i32 = 1;
/// Bound of what a branch file may hold (a segment of 1 GiB, at most).
const BRANCH_FILE_LEN_MAX: u64 = 1 << 30;
/// Bound of a changed-blocks object: far above what one grain of log can name.
const CHANGES_LEN_MAX: u64 = 1 << 30;

/// One generation of one server.
#[derive(Debug, Clone)]
pub struct Archive {
    storage: Arc<dyn Storage>,
    layout: Layout,
    record: ServerRecord,
}

/// A hole in the log, and why it is there. An object of its own, so that it is known for as long as the log is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapRecord {
    /// The branch that has the hole.
    pub branch: Branch,
    /// Where what is stored ends.
    pub begin: LogPosition,
    /// Where it goes on.
    pub end: LogPosition,
    /// When it was found.
    pub found: Timestamp,
    /// How it came about.
    pub reason: String,
}

/// A slice ready to be written.
#[derive(Debug, Clone)]
pub struct SealedSlice {
    /// Its name.
    pub key: SliceKey,
    object: Sealed,
}

impl SealedSlice {
    /// Compresses a slice. CPU work: call it off the reactor.
    ///
    /// # Errors
    /// `Codec` when zstd fails.
    pub fn seal(draft: &SliceDraft) -> Result<SealedSlice, RepositoryError> {
        let name = draft.key.to_string();
        let object = envelope::seal(Kind::Slice, slice_object_id(&name), &draft.chunks, LOG_LEVEL)?;
        Ok(SealedSlice {
            key: draft.key,
            object,
        })
    }

    /// Bytes as stored.
    pub fn stored_len(&self) -> u64 {
        self.object.bytes.len() as u64
    }
}

/// A slice's id is its name, so that a copy under another server's name stays the same object.
fn slice_object_id(name: &str) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..16]);
    id
}

impl Archive {
    pub(crate) fn new(storage: Arc<dyn Storage>, record: ServerRecord) -> Archive {
        let layout = Layout::new(&record.name, record.generation);
        Archive {
            storage,
            layout,
            record,
        }
    }

    /// The store.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The keys of this generation.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The base backups of this generation.
    pub fn base(&self) -> BaseStore {
        BaseStore::new(
            Arc::clone(&self.storage),
            self.layout.clone(),
            HashKey(self.record.chain_key.0),
        )
    }

    /// Who this is.
    pub fn record(&self) -> &ServerRecord {
        &self.record
    }

    /// The branches that slices are stored of, in ascending order.
    ///
    /// # Errors
    /// What the store says.
    pub async fn branches(&self) -> Result<Vec<Branch>, RepositoryError> {
        let folders = self.storage.folders(&self.layout.log_folder()).await?;
        Ok(folders.iter().filter_map(|name| parse_branch(name)).collect())
    }

    /// The slices of a branch from log file `from_file` on, in order of their names. Names of other things are left
    /// out with a warning: somebody else wrote there.
    ///
    /// # Errors
    /// What the store says.
    pub async fn slices(&self, branch: Branch, from_file: u64) -> Result<Vec<SliceKey>, RepositoryError> {
        let folder = self.layout.branch_folder(branch);
        let mut start_after = format!("{folder}{}", SliceKey::first_name(from_file));
        let mut slices = Vec::new();
        loop {
            let page = self.storage.list(&folder, Some(&start_after)).await?;
            for object in &page.objects {
                match object.key.file_name().parse() {
                    Ok(slice) => slices.push(slice),
                    Err(_) => tracing::warn!(object = %object.key, "this is no slice; left out"),
                }
            }
            match page.objects.last() {
                Some(last) if page.more => last.key.as_str().clone_into(&mut start_after),
                _ => return Ok(slices),
            }
        }
    }

    /// Writes a slice. Success when it is stored already, with the same content.
    ///
    /// # Errors
    /// `Conflict` when its name holds other content; what the store says (write it again then).
    pub async fn put_slice(&self, branch: Branch, slice: &SealedSlice) -> Result<(), RepositoryError> {
        self.put_sealed(&self.layout.slice(branch, &slice.key.to_string()), &slice.object)
            .await
    }

    /// Reads a slice and proves its content. `NotFound` from the store means: list the file again, it was superseded.
    ///
    /// # Errors
    /// What the store says, `Damaged`, `TooNew`, `Encrypted`.
    pub async fn read_slice(&self, branch: Branch, slice: &SliceKey) -> Result<StoredSlice, RepositoryError> {
        let key = self.layout.slice(branch, &slice.to_string());
        let data = self.storage.get(&key, None).await?;
        Ok(StoredSlice {
            key: *slice,
            object: key,
            bytes: data.bytes,
        })
    }

    /// Writes a file that belongs to a branch. Success when the same is stored already.
    ///
    /// # Errors
    /// `Conflict` when its name holds other content; what the store says.
    pub async fn put_branch_file(
        &self,
        branch: Branch,
        name: &str,
        plain: Bytes,
    ) -> Result<(), RepositoryError> {
        let key = self
            .layout
            .branch_file(branch, name)
            .map_err(|error| invalid(&error))?;
        let object = envelope::seal(Kind::BranchFile, rand::random(), &[plain], LOG_LEVEL)?;
        self.put_sealed(&key, &object).await
    }

    /// Reads a file that belongs to a branch; `None` when it is not there.
    ///
    /// # Errors
    /// What the store says, `Damaged`, `TooNew`, `Encrypted`.
    pub async fn read_branch_file(
        &self,
        branch: Branch,
        name: &str,
    ) -> Result<Option<Vec<u8>>, RepositoryError> {
        let key = self
            .layout
            .branch_file(branch, name)
            .map_err(|error| invalid(&error))?;
        self.read_sealed(&key, Kind::BranchFile, BRANCH_FILE_LEN_MAX)
            .await
    }

    /// Names of the files that belong to a branch.
    ///
    /// # Errors
    /// What the store says.
    pub async fn branch_files(&self, branch: Branch) -> Result<Vec<String>, RepositoryError> {
        let keys = self.list_folder(&self.layout.files_folder(branch)).await?;
        Ok(keys
            .iter()
            .filter_map(|key| key.file_name().strip_suffix(".zst").map(str::to_owned))
            .collect())
    }

    /// Writes the changed blocks of `[begin, end)` of a log file. A cache: what is there already stays.
    ///
    /// # Errors
    /// What the store says.
    pub async fn put_changes(
        &self,
        branch: Branch,
        file: u64,
        begin: u64,
        end: u64,
        plain: Bytes,
    ) -> Result<(), RepositoryError> {
        let key = self.layout.changes(branch, file, begin, end);
        let object = envelope::seal(Kind::Changes, rand::random(), &[plain], LOG_LEVEL)?;
        match self.storage.put(&key, object.bytes, PutMode::Create).await {
            Ok(_) | Err(StorageError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the changed blocks of `[begin, end)` of a log file; `None` when they are not there.
    ///
    /// # Errors
    /// What the store says, `Damaged`, `TooNew`, `Encrypted`.
    pub async fn read_changes(
        &self,
        branch: Branch,
        file: u64,
        begin: u64,
        end: u64,
    ) -> Result<Option<Vec<u8>>, RepositoryError> {
        self.read_sealed(
            &self.layout.changes(branch, file, begin, end),
            Kind::Changes,
            CHANGES_LEN_MAX,
        )
        .await
    }

    /// Records a gap. One record per place: a later finding of the same hole changes nothing.
    ///
    /// # Errors
    /// What the store says.
    pub async fn record_gap(&self, gap: &GapRecord) -> Result<(), RepositoryError> {
        let key = self.layout.gap(gap.branch, gap.begin.file, gap.begin.offset);
        create_json(&*self.storage, &key, gap).await.map(|_| ())
    }

    /// All recorded gaps.
    ///
    /// # Errors
    /// What the store says, `Damaged`.
    pub async fn gaps(&self) -> Result<Vec<GapRecord>, RepositoryError> {
        let mut gaps = Vec::new();
        for key in self.list_folder(&self.layout.gaps_folder()).await? {
            gaps.extend(read_json::<GapRecord>(&*self.storage, &key).await?);
        }
        Ok(gaps)
    }

    async fn list_folder(&self, folder: &str) -> Result<Vec<ObjectKey>, RepositoryError> {
        let mut keys: Vec<ObjectKey> = Vec::new();
        loop {
            let page = self
                .storage
                .list(folder, keys.last().map(ObjectKey::as_str))
                .await?;
            keys.extend(page.objects.into_iter().map(|object| object.key));
            if !page.more {
                return Ok(keys);
            }
        }
    }

    async fn put_sealed(&self, key: &ObjectKey, object: &Sealed) -> Result<(), RepositoryError> {
        match self.storage.put(key, object.bytes.clone(), PutMode::Create).await {
            Ok(_) => Ok(()),
            Err(StorageError::AlreadyExists { .. }) => self.check_same(key, &object.header).await,
            Err(error) => Err(error.into()),
        }
    }

    /// A reply may have been lost: the same content under the same name is success.
    async fn check_same(&self, key: &ObjectKey, mine: &Header) -> Result<(), RepositoryError> {
        let stored = self.storage.get(key, Some(0..HEADER_LEN as u64)).await?;
        let stored = Header::decode(key.as_str(), &stored.bytes)?;
        if stored.plain_hash == mine.plain_hash && stored.plain_len == mine.plain_len {
            return Ok(());
        }
        Err(RepositoryError::Conflict {
            object: key.to_string(),
            problem: "another writer stored other bytes under the same name".to_owned(),
        })
    }

    async fn read_sealed(
        &self,
        key: &ObjectKey,
        kind: Kind,
        len_max: u64,
    ) -> Result<Option<Vec<u8>>, RepositoryError> {
        match self.storage.get(key, None).await {
            Ok(data) => envelope::open(key.as_str(), kind, &data.bytes, len_max).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn invalid(error: &InvalidKey) -> RepositoryError {
    RepositoryError::Missing(error.to_string())
}

/// A slice as it was read, still compressed.
#[derive(Debug, Clone)]
pub struct StoredSlice {
    /// Its name.
    pub key: SliceKey,
    object: ObjectKey,
    bytes: Bytes,
}

impl StoredSlice {
    /// Decompresses it and proves its content. CPU work: call it off the reactor.
    ///
    /// # Errors
    /// `Damaged`, `TooNew`, `Encrypted`.
    pub fn open(&self) -> Result<Vec<u8>, RepositoryError> {
        let plain = envelope::open(self.object.as_str(), Kind::Slice, &self.bytes, GRAIN_LEN)?;
        if plain.len() as u64 != self.key.len() {
            return Err(RepositoryError::damaged(
                &self.object,
                "its length is not the one in its name",
            ));
        }
        Ok(plain)
    }

    /// Bytes as stored.
    pub fn stored_len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Damage found in it by a reader that knows more than one slice.
    pub(crate) fn damaged(&self, problem: &str) -> RepositoryError {
        RepositoryError::damaged(&self.object, problem)
    }

    /// Bytes that another slice contradicts.
    pub(crate) fn conflict(&self, problem: &str) -> RepositoryError {
        RepositoryError::Conflict {
            object: self.object.to_string(),
            problem: problem.to_owned(),
        }
    }
}
