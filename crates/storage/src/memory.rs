//! Objects in memory: the reference that the other backends are compared with, and the ground of fast tests.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_types::{Clock, SystemClock, Timestamp};

use crate::{
    Capabilities, ETag, ListPage, ObjectData, ObjectKey, ObjectMeta, PutMode, Storage, StorageError, Upload,
    probe, range,
};

const URL: &str = "memory://";
/// As many as S3 puts into a page.
const PAGE_OBJECTS: usize = 1000;

/// A store in memory. Clones share their objects.
#[derive(Clone)]
pub struct MemoryStorage {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
    page_objects: usize,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    versions: u64,
    capabilities: Capabilities,
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Bytes,
    version: u64,
    modified: Timestamp,
}

impl Object {
    fn etag(&self) -> ETag {
        ETag(format!("v{}", self.version))
    }
}

impl Default for MemoryStorage {
    fn default() -> MemoryStorage {
        MemoryStorage::new()
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStorage").finish_non_exhaustive()
    }
}

impl MemoryStorage {
    /// An empty store.
    pub fn new() -> MemoryStorage {
        MemoryStorage {
            state: Arc::default(),
            clock: Arc::new(SystemClock),
            page_objects: PAGE_OBJECTS,
        }
    }

    /// Stamps objects with this clock from now on.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> MemoryStorage {
        self.clock = clock;
        self
    }

    /// Puts at most so many objects into one page of a listing.
    #[must_use]
    pub fn with_page_size(mut self, objects: usize) -> MemoryStorage {
        self.page_objects = objects.max(1);
        self
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// Changes the bytes of an object behind everybody's back, as a rotten disk would; false when there is none.
    pub fn tamper(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state();
        let Some(object) = state.objects.get_mut(key) else {
            return false;
        };
        let mut bytes = object.bytes.to_vec();
        change(&mut bytes);
        object.bytes = Bytes::from(bytes);
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, key: &ObjectKey) -> Result<Object, StorageError> {
        self.state()
            .objects
            .get(key.as_str())
            .cloned()
            .ok_or_else(|| StorageError::NotFound {
                subject: key.to_string(),
                url: URL.to_owned(),
            })
    }

    fn write(&self, key: &ObjectKey, bytes: Bytes, mode: &PutMode) -> Result<ETag, StorageError> {
        let (subject, url) = (key.to_string(), URL.to_owned());
        let modified = self.clock.now();
        let mut state = self.state();
        let present = state.objects.get(key.as_str()).map(Object::etag);
        match mode {
            PutMode::Create if present.is_some() => return Err(StorageError::AlreadyExists { subject, url }),
            PutMode::Update(expected) if present.as_ref() != Some(expected) => {
                return Err(StorageError::Changed { subject, url });
            }
            _ => {}
        }
        state.versions += 1;
        let object = Object {
            bytes,
            version: state.versions,
            modified,
        };
        let etag = object.etag();
        state.objects.insert(key.to_string(), object);
        Ok(etag)
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn url(&self) -> &str {
        URL
    }

    fn capabilities(&self) -> Capabilities {
        self.state().capabilities
    }

    async fn probe(&self, prefix: &ObjectKey) -> Result<Capabilities, StorageError> {
        let seen = probe::run(self, prefix).await?;
        self.state().capabilities = seen;
        Ok(seen)
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<Option<ETag>, StorageError> {
        self.write(key, body, &mode).map(Some)
    }

    async fn upload(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(MemoryUpload {
            storage: self.clone(),
            key: key.clone(),
            bytes: Vec::new(),
        }))
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<ObjectData, StorageError> {
        let object = self.object(key)?;
        let size = u64::try_from(object.bytes.len()).unwrap_or(u64::MAX);
        let range = range::clip(range, size).map_err(|range| StorageError::InvalidRange {
            subject: key.to_string(),
            url: URL.to_owned(),
            begin: range.start,
            end: range.end,
        })?;
        let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        Ok(ObjectData {
            bytes: object.bytes.slice(index(range.start)..index(range.end)),
            size,
            etag: Some(object.etag()),
        })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        let object = self.object(key)?;
        Ok(ObjectMeta {
            key: key.clone(),
            size: u64::try_from(object.bytes.len()).unwrap_or(u64::MAX),
            modified: object.modified,
        })
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> Result<ListPage, StorageError> {
        let state = self.state();
        let from = match start_after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut page = ListPage::default();
        for (name, object) in state.objects.range::<str, _>((from, Bound::Unbounded)) {
            if !name.starts_with(prefix) {
                break;
            }
            if page.objects.len() == self.page_objects {
                page.more = true;
                break;
            }
            if let Ok(key) = ObjectKey::new(name.as_str()) {
                page.objects.push(ObjectMeta {
                    key,
                    size: u64::try_from(object.bytes.len()).unwrap_or(u64::MAX),
                    modified: object.modified,
                });
            }
        }
        Ok(page)
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let state = self.state();
        let mut found: Vec<String> = state
            .objects
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .map_while(|(name, _)| name.strip_prefix(prefix))
            .filter_map(|rest| rest.split_once('/'))
            .map(|(folder, _)| folder.to_owned())
            .collect();
        // In the order of keys `a-b/x` comes before `a/x`; in that of names `a` comes first.
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        let mut state = self.state();
        for key in keys {
            state.objects.remove(key.as_str());
        }
        Ok(())
    }
}

struct MemoryUpload {
    storage: MemoryStorage,
    key: ObjectKey,
    bytes: Vec<u8>,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn complete(self: Box<Self>) -> Result<(), StorageError> {
        self.storage
            .write(&self.key, Bytes::from(self.bytes), &PutMode::Overwrite)?;
        Ok(())
    }

    async fn abort(self: Box<Self>) -> Result<(), StorageError> {
        Ok(())
    }
}
