//! `file://`: a repository in a directory, on a local disk or a mounted share.
//!
//! A key is a path below the root. Objects are written beside the tree, in [`temp::FOLDER`], and moved into place, so
//! a reader sees them whole or not at all. Everything goes through a descriptor of the root that stays open: a file
//! system that is unmounted and replaced by an empty mount point is never written to by accident.
//!
//! A name cannot be an object and a folder at once here (`a` beside `a/b`), which S3 would allow; no key of a
//! repository needs that.

mod failure;
mod lock;
mod root;
mod temp;
mod walk;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;

use crate::file::failure::{Failure, Subject};
use crate::file::root::{Root, etag_of, is_file, modified_of, size_of};
use crate::file::temp::{Publish, TempFile};
use crate::{
    Capabilities, ETag, ListPage, ObjectData, ObjectKey, ObjectMeta, Operation, PutMode, Storage,
    StorageError, Upload, probe, range,
};

/// Most objects in one page of a listing. A page costs one pass over the names of its folder, and about 200 bytes of
/// memory per object: this bounds both, at 5 passes and 100 MiB for a folder of a million objects.
const PAGE_OBJECTS: usize = 200_000;

/// A directory that holds objects.
#[derive(Debug)]
pub struct FileStorage {
    root: Arc<Root>,
    capabilities: Mutex<Capabilities>,
    page_objects: usize,
}

impl FileStorage {
    /// Opens `path` for reading and writing. Creates it when it is not there, and removes what crashed writers left
    /// behind.
    ///
    /// # Errors
    /// [`StorageError::Config`] when it is no directory or may not be written; [`StorageError::Failed`] otherwise.
    pub async fn open(path: &Path) -> Result<FileStorage, StorageError> {
        let path = path.to_owned();
        let root = blocking(move || {
            let root = Root::create(&path)?;
            temp::clear_leftovers(&root)?;
            Ok(root)
        })
        .await?;
        Ok(FileStorage::over(root))
    }

    /// Opens `path` for reading alone; writes nothing there.
    ///
    /// # Errors
    /// [`StorageError::Config`] when there is no such directory or it may not be read.
    pub async fn open_read_only(path: &Path) -> Result<FileStorage, StorageError> {
        let path = path.to_owned();
        Ok(FileStorage::over(blocking(move || Root::existing(&path)).await?))
    }

    fn over(root: Root) -> FileStorage {
        FileStorage {
            root: Arc::new(root),
            capabilities: Mutex::default(),
            page_objects: PAGE_OBJECTS,
        }
    }

    #[cfg(test)]
    fn with_page_size(mut self, objects: usize) -> FileStorage {
        self.page_objects = objects;
        self
    }

    /// Runs `work` on the blocking pool; dropping the future does not stop it.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Root>) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let root = Arc::clone(&self.root);
        blocking(move || work(&root)).await
    }
}

#[async_trait]
impl Storage for FileStorage {
    fn url(&self) -> &str {
        self.root.url()
    }

    fn capabilities(&self) -> Capabilities {
        *self.capabilities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn probe(&self, prefix: &ObjectKey) -> Result<Capabilities, StorageError> {
        self.run(|root| temp::clear_leftovers(root)).await?;
        let seen = probe::run(self, prefix).await?;
        *self.capabilities.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        Ok(seen)
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<Option<ETag>, StorageError> {
        let key = key.clone();
        self.run(move |root| {
            let mut temp = TempFile::create(root, &key)?;
            temp.write(&body)?;
            temp.publish(match mode {
                PutMode::Create => Publish::Create,
                PutMode::Overwrite => Publish::Overwrite,
                PutMode::Update(etag) => Publish::Update(etag),
            })
            .map(Some)
        })
        .await
    }

    async fn upload(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StorageError> {
        let name = key.clone();
        let temp = self.run(move |root| TempFile::create(root, &name)).await?;
        Ok(Box::new(FileUpload {
            root: Arc::clone(&self.root),
            key: key.clone(),
            temp: Some(temp),
        }))
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<ObjectData, StorageError> {
        let key = key.clone();
        self.run(move |root| read(root, &key, range)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        let key = key.clone();
        self.run(move |root| {
            let subject = Subject::object(root, Operation::Head, &key);
            let stat =
                statat(root.dir(), key.as_str(), AtFlags::empty()).map_err(|e| subject.read_error(e))?;
            if !is_file(&stat) {
                return Err(subject.not_found());
            }
            Ok(ObjectMeta {
                size: size_of(&stat),
                modified: modified_of(&stat),
                key,
            })
        })
        .await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> Result<ListPage, StorageError> {
        let prefix = prefix.to_owned();
        let start_after = start_after.unwrap_or_default().to_owned();
        let limit = self.page_objects;
        self.run(move |root| walk::page(root, &prefix, &start_after, limit))
            .await
    }

    fn visit_folder(
        &self,
        folder: &str,
        each: &mut dyn FnMut(&str, u64),
    ) -> Option<Result<(), StorageError>> {
        Some(walk::visit_objects(&self.root, folder, each))
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let prefix = prefix.to_owned();
        self.run(move |root| walk::folders(root, &prefix)).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        let keys = keys.to_vec();
        self.run(move |root| root.delete(&keys)).await
    }
}

/// Reads an object or a part of it from one open descriptor, so that size, tag and bytes are of one version.
fn read(root: &Root, key: &ObjectKey, range: Option<Range<u64>>) -> Result<ObjectData, StorageError> {
    let subject = Subject::object(root, Operation::Get, key);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = openat(root.dir(), key.as_str(), flags, Mode::empty()).map_err(|e| subject.read_error(e))?;
    let stat = fstat(&file).map_err(|e| subject.error(e))?;
    if !is_file(&stat) {
        return Err(subject.not_found());
    }
    let size = size_of(&stat);
    let range = range::clip(range, size).map_err(|range| subject.invalid_range(&range))?;
    let length = usize::try_from(range.end - range.start).map_err(|_| subject.error(Errno::FBIG))?;
    let mut bytes = vec![0; length];
    File::from(file)
        .read_exact_at(&mut bytes, range.start)
        .map_err(|e| subject.failed(Failure::from_io(&e)))?;
    Ok(ObjectData {
        bytes: Bytes::from(bytes),
        size,
        etag: Some(etag_of(&stat)),
    })
}

/// An object that grows in a temporary file.
struct FileUpload {
    root: Arc<Root>,
    key: ObjectKey,
    /// Absent only while a write runs, or after one was dropped or failed.
    temp: Option<TempFile>,
}

impl FileUpload {
    fn take(&mut self) -> Result<TempFile, StorageError> {
        self.temp.take().ok_or_else(|| StorageError::Failed {
            operation: Operation::Put,
            subject: self.key.to_string(),
            url: self.root.url().to_owned(),
            class: tidemark_types::ErrorClass::Permanent,
            source: "an earlier write of this upload failed or was called off".into(),
        })
    }
}

#[async_trait]
impl Upload for FileUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        let mut temp = self.take()?;
        let temp = blocking(move || temp.write(&bytes).map(|()| temp)).await?;
        self.temp = Some(temp);
        Ok(())
    }

    async fn complete(mut self: Box<Self>) -> Result<(), StorageError> {
        let temp = self.take()?;
        blocking(move || temp.publish(Publish::Overwrite)).await?;
        Ok(())
    }

    async fn abort(mut self: Box<Self>) -> Result<(), StorageError> {
        let temp = self.temp.take();
        blocking(move || {
            drop(temp);
            Ok(())
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => match stopped.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(StorageError::Failed {
                operation: Operation::Open,
                subject: "file work".to_owned(),
                url: "file://".to_owned(),
                class: tidemark_types::ErrorClass::Cancelled,
                source: Box::new(cancelled),
            }),
        },
    }
}
