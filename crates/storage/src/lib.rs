//! Object storage behind one trait: directories (`file://`) and S3-compatible stores (`s3://`), with retry and
//! metering as decorators.
//!
//! Knows keys and bytes, and nothing of what they mean.

mod address;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod error;
#[cfg(any(test, feature = "testing"))]
mod faulty;
mod file;
mod key;
mod listing;
#[cfg(any(test, feature = "testing"))]
mod memory;
mod metrics;
mod open;
mod probe;
mod range;
mod retry;
mod s3;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use address::{InvalidUrl, StorageUrl};
pub use error::{Operation, StorageError};
#[cfg(any(test, feature = "testing"))]
pub use faulty::{Fault, FaultyStorage, Trigger};
pub use file::FileStorage;
pub use key::{InvalidKey, ObjectKey};
pub use listing::{list_all, list_parallel};
#[cfg(any(test, feature = "testing"))]
pub use memory::MemoryStorage;
pub use metrics::{Metered, MetricsSnapshot, OperationSnapshot, StorageMetrics};
pub use open::{StorageOptions, open};
pub use retry::{RetryPolicy, Retrying};
pub use s3::S3Credentials;

/// What to do when the key is already there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutMode {
    /// Fail with [`StorageError::AlreadyExists`]. On a store that cannot do this atomically (see [`Capabilities`])
    /// a look comes before the write, so two writers at one instant may both succeed.
    Create,
    /// Replace it.
    Overwrite,
    /// Replace it only if its tag is still this one, else [`StorageError::Changed`]. On a store that cannot do this
    /// atomically a look comes before the write.
    Update(ETag),
}

/// A store's opaque mark of one version of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ETag(pub String);

/// What one object is, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key.
    pub key: ObjectKey,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last written, by the store's clock.
    pub modified: tidemark_types::Timestamp,
}

/// The answer to a read: the bytes asked for, and the object they are from.
#[derive(Debug, Clone)]
pub struct ObjectData {
    /// The bytes of the range asked for; shorter than asked only where the object ends.
    pub bytes: Bytes,
    /// Length of the whole object in bytes.
    pub size: u64,
    /// The version that was read.
    pub etag: Option<ETag>,
}

/// One page of a listing, in ascending order of keys.
#[derive(Debug, Clone, Default)]
pub struct ListPage {
    /// The objects of this page.
    pub objects: Vec<ObjectMeta>,
    /// Whether more may follow after the last of them.
    pub more: bool,
}

/// What a store was seen to honour (probed once, when it is opened for writing).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// [`PutMode::Create`] is atomic.
    pub atomic_create: bool,
    /// [`PutMode::Update`] is atomic.
    pub atomic_update: bool,
}

/// A place that keeps objects under keys.
///
/// An `Ok` from a write means: visible to every reader and durable. Writes are all or nothing: a reader never sees a
/// part of an object. After an `Err` a write may or may not have happened (the reply can be lost); callers write the
/// same content again or look. Every future may be dropped: a dropped write may or may not have happened.
#[async_trait]
pub trait Storage: Send + Sync + Debug {
    /// Where this is, for people; holds no secret.
    fn url(&self) -> &str;

    /// What the store honours; all false until [`Storage::probe`] ran.
    fn capabilities(&self) -> Capabilities;

    /// Finds out what the store honours by writing and deleting small objects under `prefix`.
    async fn probe(&self, prefix: &ObjectKey) -> Result<Capabilities, StorageError>;

    /// Writes an object whole.
    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<Option<ETag>, StorageError>;

    /// Begins an object of unknown length, written in parts; it appears when [`Upload::complete`] returns.
    /// Replaces what is there.
    async fn upload(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StorageError>;

    /// Reads an object, or the part of it in `range` (cut at its end; [`StorageError::InvalidRange`] when it begins
    /// past it).
    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<ObjectData, StorageError>;

    /// Looks at an object without reading it. [`StorageError::NotFound`] when there is none.
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError>;

    /// One page of the objects whose keys begin with `prefix` (a plain text prefix: end it with `/` for a folder) and
    /// come after `start_after`, in the order of their keys' bytes.
    async fn list(&self, prefix: &str, start_after: Option<&str>) -> Result<ListPage, StorageError>;

    /// Shows `each` the name and the size of every object directly in `folder` (which ends in `/`), in no order and in one
    /// pass: for a store that reads a folder as a whole even for one page of it. `None` of all others. Blocks the thread.
    fn visit_folder(
        &self,
        folder: &str,
        each: &mut dyn FnMut(&str, u64),
    ) -> Option<Result<(), StorageError>> {
        let _ = (folder, each);
        None
    }

    /// The names directly below the folder `prefix` (empty, or ending in `/`) that have something below them, sorted.
    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StorageError>;

    /// Deletes objects; those that are not there are no error. Stops at the first that cannot be deleted.
    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StorageError>;
}

/// A shared store is a store, so that decorators go around `Arc<dyn Storage>` too.
#[async_trait]
impl<S: Storage + ?Sized> Storage for Arc<S> {
    fn url(&self) -> &str {
        S::url(self)
    }

    fn capabilities(&self) -> Capabilities {
        S::capabilities(self)
    }

    async fn probe(&self, prefix: &ObjectKey) -> Result<Capabilities, StorageError> {
        S::probe(self, prefix).await
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<Option<ETag>, StorageError> {
        S::put(self, key, body, mode).await
    }

    async fn upload(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StorageError> {
        S::upload(self, key).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<ObjectData, StorageError> {
        S::get(self, key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        S::head(self, key).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> Result<ListPage, StorageError> {
        S::list(self, prefix, start_after).await
    }

    fn visit_folder(
        &self,
        folder: &str,
        each: &mut dyn FnMut(&str, u64),
    ) -> Option<Result<(), StorageError>> {
        S::visit_folder(self, folder, each)
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        S::folders(self, prefix).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        S::delete(self, keys).await
    }
}

/// An object being written in parts.
#[async_trait]
pub trait Upload: Send {
    /// Adds the next bytes. Parts may have any size; the backend groups them as the store demands.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError>;

    /// Makes the object visible and durable.
    async fn complete(self: Box<Self>) -> Result<(), StorageError>;

    /// Gives up and removes what was written. Dropping without it leaves an unfinished upload that the store, or the
    /// next start, has to clear away.
    async fn abort(self: Box<Self>) -> Result<(), StorageError>;
}
