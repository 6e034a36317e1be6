//! Objects of unknown length: a plain put when they stay small, else a multipart upload.
//!
//! Memory is bounded by [`PARTS_AT_ONCE`] parts on their way and one being filled. Parts are tried again here, since
//! nobody above has their bytes any more.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use tidemark_types::ErrorClass;
use tokio::task::JoinSet;

use crate::retry::Task;
use crate::s3::failure::{Subject, code};
use crate::s3::{S3Storage, within, write};
use crate::{ObjectKey, Operation, PutMode, StorageError, Upload};

/// Length of every part but the last. S3 wants at least 5 MiB, and some stores want all parts of one length.
const PART_BYTES: usize = 16 << 20;
/// Parts on their way at the same time.
const PARTS_AT_ONCE: usize = 3;
/// Most parts that S3 puts together.
const PARTS_MAX: i32 = 10_000;
/// From this age on an unfinished upload is a crashed writer's. No object of ours takes an hour.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

/// An object on its way to S3.
pub(super) struct S3Upload {
    storage: S3Storage,
    key: ObjectKey,
    /// The part being filled; shorter than [`PART_BYTES`] between calls.
    filling: BytesMut,
    /// Absent until the first part is full.
    multipart: Option<Multipart>,
    /// Bytes taken in so far.
    length: u64,
}

struct Multipart {
    id: String,
    parts_begun: i32,
    sending: JoinSet<Result<CompletedPart, StorageError>>,
    sent: Vec<CompletedPart>,
}

impl S3Upload {
    pub(super) fn new(storage: S3Storage, key: ObjectKey) -> S3Upload {
        S3Upload {
            storage,
            key,
            filling: BytesMut::new(),
            multipart: None,
            length: 0,
        }
    }

    /// The upload's id at the store, after beginning it if it is not begun.
    async fn multipart(&mut self) -> Result<&mut Multipart, StorageError> {
        let begun = match self.multipart.take() {
            Some(begun) => begun,
            None => Multipart {
                id: begin(&self.storage, &self.key).await?,
                parts_begun: 0,
                sending: JoinSet::new(),
                sent: Vec::new(),
            },
        };
        Ok(self.multipart.insert(begun))
    }

    /// Sends a part in the background, once fewer than [`PARTS_AT_ONCE`] are on their way.
    async fn send_part(&mut self, body: Bytes) -> Result<(), StorageError> {
        let (storage, key) = (self.storage.clone(), self.key.clone());
        let subject = storage.subject(Operation::Put, key.as_str());
        let multipart = self.multipart().await?;
        while multipart.sending.len() >= PARTS_AT_ONCE {
            multipart.reap(subject).await?;
        }
        if multipart.parts_begun >= PARTS_MAX {
            let problem = format!("the object is longer than {PARTS_MAX} parts of {PART_BYTES} bytes");
            return Err(subject.failed(ErrorClass::Permanent, problem));
        }
        multipart.parts_begun += 1;
        let part = Part {
            storage: storage.clone(),
            key: key.clone(),
            upload: multipart.id.clone(),
            number: multipart.parts_begun,
            body,
        };
        multipart.sending.spawn(part.send());
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), StorageError> {
        let rest = self.filling.split().freeze();
        if self.multipart.is_none() {
            return put_small(&self.storage, &self.key, rest).await;
        }
        if !rest.is_empty() {
            self.send_part(rest).await?;
        }
        let (storage, key, length) = (self.storage.clone(), self.key.clone(), self.length);
        let subject = storage.subject(Operation::Put, key.as_str());
        let multipart = self.multipart().await?;
        while !multipart.sending.is_empty() {
            multipart.reap(subject).await?;
        }
        multipart.sent.sort_unstable_by_key(CompletedPart::part_number);
        put_together(&storage, &key, multipart, length).await
    }

    /// Stops the parts on their way and tells the store to drop what it has.
    async fn discard(&mut self) -> Result<(), StorageError> {
        let Some(mut multipart) = self.multipart.take() else {
            return Ok(());
        };
        multipart.sending.shutdown().await;
        abort(
            &self.storage,
            &self.storage.full(self.key.as_str()),
            &multipart.id,
        )
        .await
    }

    /// Cleans up after `error`, which is what the caller gets to see.
    async fn fail(&mut self, error: StorageError) -> StorageError {
        if let Err(second) = self.discard().await {
            tracing::warn!(
                store = self.storage.shared.url, object = %self.key, error = %second,
                "cannot abort a failed upload: the next start will"
            );
        }
        error
    }
}

impl Multipart {
    /// Waits for one part.
    async fn reap(&mut self, subject: Subject<'_>) -> Result<(), StorageError> {
        match self.sending.join_next().await {
            Some(Ok(part)) => self.sent.push(part?),
            Some(Err(stopped)) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(cancelled) => return Err(subject.failed(ErrorClass::Cancelled, cancelled.to_string())),
            },
            None => {}
        }
        Ok(())
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), StorageError> {
        self.length = self.length.saturating_add(bytes.len() as u64);
        while !bytes.is_empty() {
            if self.filling.is_empty() && bytes.len() >= PART_BYTES {
                // Whole parts go on without a copy.
                let part = bytes.split_to(PART_BYTES);
                if let Err(error) = self.send_part(part).await {
                    return Err(self.fail(error).await);
                }
                continue;
            }
            let room = PART_BYTES - self.filling.len();
            self.filling
                .extend_from_slice(&bytes.split_to(room.min(bytes.len())));
            if self.filling.len() == PART_BYTES {
                let part = self.filling.split().freeze();
                if let Err(error) = self.send_part(part).await {
                    return Err(self.fail(error).await);
                }
            }
        }
        Ok(())
    }

    async fn complete(mut self: Box<Self>) -> Result<(), StorageError> {
        match self.finish().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fail(error).await),
        }
    }

    async fn abort(mut self: Box<Self>) -> Result<(), StorageError> {
        self.discard().await
    }
}

fn task<'a>(storage: &'a S3Storage, key: &'a ObjectKey) -> Task<'a> {
    Task {
        operation: Operation::Put,
        subject: key.as_str(),
        url: &storage.shared.url,
    }
}

async fn put_small(storage: &S3Storage, key: &ObjectKey, body: Bytes) -> Result<(), StorageError> {
    let put = || write::put(storage, key, body.clone(), &PutMode::Overwrite);
    storage.shared.retrier.run(task(storage, key), put).await?;
    Ok(())
}

async fn begin(storage: &S3Storage, key: &ObjectKey) -> Result<String, StorageError> {
    let subject = storage.subject(Operation::Put, key.as_str());
    let attempt = || {
        let request = storage
            .client()
            .create_multipart_upload()
            .bucket(storage.bucket())
            .key(storage.full(key.as_str()));
        within(subject, 0, async {
            request.send().await.map_err(|error| subject.error(&error))
        })
    };
    let answer = storage.shared.retrier.run(task(storage, key), attempt).await?;
    answer
        .upload_id
        .ok_or_else(|| subject.failed(ErrorClass::Permanent, "the store began an upload without an id"))
}

struct Part {
    storage: S3Storage,
    key: ObjectKey,
    upload: String,
    number: i32,
    body: Bytes,
}

impl Part {
    async fn send(self) -> Result<CompletedPart, StorageError> {
        let subject = self.storage.subject(Operation::Put, self.key.as_str());
        let attempt = || {
            let request = self
                .storage
                .client()
                .upload_part()
                .bucket(self.storage.bucket())
                .key(self.storage.full(self.key.as_str()))
                .upload_id(&self.upload)
                .part_number(self.number)
                .body(ByteStream::from(self.body.clone()));
            within(subject, self.body.len() as u64, async {
                request.send().await.map_err(|error| subject.error(&error))
            })
        };
        let answer = self
            .storage
            .shared
            .retrier
            .run(task(&self.storage, &self.key), attempt)
            .await?;
        Ok(CompletedPart::builder()
            .part_number(self.number)
            .set_e_tag(answer.e_tag)
            // Where the SDK added a checksum to the parts, S3 wants it repeated.
            .set_checksum_crc32(answer.checksum_crc32)
            .build())
    }
}

/// Completes an upload. When the reply to an earlier attempt was lost, the store does not know the upload any more:
/// then an object of the right length is the one just written.
async fn put_together(
    storage: &S3Storage,
    key: &ObjectKey,
    multipart: &Multipart,
    length: u64,
) -> Result<(), StorageError> {
    let subject = storage.subject(Operation::Put, key.as_str());
    let parts = CompletedMultipartUpload::builder()
        .set_parts(Some(multipart.sent.clone()))
        .build();
    let attempt = || {
        let request = storage
            .client()
            .complete_multipart_upload()
            .bucket(storage.bucket())
            .key(storage.full(key.as_str()))
            .upload_id(&multipart.id)
            .multipart_upload(parts.clone());
        // The store may copy all bytes before it answers.
        within(subject, length, async {
            match request.send().await {
                Ok(_) => Ok(()),
                Err(error) if code(&error) == Some("NoSuchUpload") => {
                    match write::look(storage, key).await? {
                        Some(present)
                            if present.content_length.and_then(|l| u64::try_from(l).ok()) == Some(length) =>
                        {
                            Ok(())
                        }
                        _ => Err(subject.error(&error)),
                    }
                }
                Err(error) => Err(subject.error(&error)),
            }
        })
    };
    storage.shared.retrier.run(task(storage, key), attempt).await
}

async fn abort(storage: &S3Storage, full_key: &str, id: &str) -> Result<(), StorageError> {
    let subject = storage.subject(Operation::Delete, full_key);
    let request = storage
        .client()
        .abort_multipart_upload()
        .bucket(storage.bucket())
        .key(full_key)
        .upload_id(id);
    let send = async { Ok(request.send().await) };
    match within(subject, 0, send).await? {
        Err(error) if code(&error) != Some("NoSuchUpload") => Err(subject.error(&error)),
        _ => Ok(()),
    }
}

/// Aborts uploads below the repository's prefix that crashed writers left: their parts are invisible, but paid for.
/// A store or a role that does not allow it is no reason not to start.
pub(super) async fn clear_leftovers(storage: &S3Storage) {
    let subject = storage.subject(Operation::Open, "unfinished uploads");
    let request = storage
        .client()
        .list_multipart_uploads()
        .bucket(storage.bucket())
        .prefix(storage.shared.prefix.as_str());
    let list = within(subject, 0, async {
        request.send().await.map_err(|error| subject.error(&error))
    });
    let uploads = match list.await {
        Ok(answer) => answer.uploads.unwrap_or_default(),
        Err(error) => {
            tracing::info!(store = storage.shared.url, %error, "cannot look for unfinished uploads");
            return;
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for upload in uploads {
        let begun = upload
            .initiated()
            .and_then(|time| u64::try_from(time.secs()).ok());
        let is_old = begun.is_some_and(|begun| now.saturating_sub(Duration::from_secs(begun)) > LEFTOVER_AGE);
        if let (true, Some(key), Some(id)) = (is_old, upload.key(), upload.upload_id()) {
            match abort(storage, key, id).await {
                Ok(()) => tracing::info!(
                    store = storage.shared.url,
                    object = key,
                    "aborted an unfinished upload"
                ),
                Err(error) => {
                    tracing::warn!(store = storage.shared.url, object = key, %error, "cannot abort an unfinished upload");
                }
            }
        }
    }
}
