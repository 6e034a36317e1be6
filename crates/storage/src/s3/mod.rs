//! `s3://`: a repository below a prefix of a bucket, on AWS or any store that speaks S3.
//!
//! The SDK's own retries are off: [`crate::Retrying`] decides. What stores differ in is found out by the probe
//! (conditional writes) or on the way (batched deletes), and safety never rests on it.

mod client;
mod failure;
mod listing;
mod upload;
mod write;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::DateTime;
use bytes::Bytes;
use tidemark_types::{ErrorClass, Secret, Timestamp};

use crate::retry::{Retrier, RetryPolicy};
use crate::s3::failure::Subject;
use crate::{
    Capabilities, ETag, ListPage, ObjectData, ObjectKey, ObjectMeta, Operation, PutMode, Storage,
    StorageError, StorageMetrics, Upload,
};

/// Longest wait for the answer to a request that moves no object.
const REQUEST_MAX: Duration = Duration::from_secs(60);
/// Slowest transfer that is waited for, in bytes per second; added to [`REQUEST_MAX`] by length.
const TRANSFER_RATE_MIN: u64 = 256 << 10;

/// Credentials given by hand.
#[derive(Debug, Clone)]
pub struct S3Credentials {
    /// The access key id, which is no secret.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: Secret,
    /// For temporary credentials.
    pub session_token: Option<Secret>,
}

/// What an S3 store is opened with.
#[derive(Debug)]
pub(crate) struct S3Settings {
    pub(crate) bucket: String,
    pub(crate) prefix: Option<ObjectKey>,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) path_style: Option<bool>,
    pub(crate) credentials: Option<S3Credentials>,
    /// For the parts of uploads.
    pub(crate) retry: RetryPolicy,
    pub(crate) metrics: Arc<StorageMetrics>,
}

/// A prefix of a bucket. Clones share everything.
#[derive(Clone)]
pub(crate) struct S3Storage {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    bucket: String,
    /// Before every key: empty, or ending in `/`.
    prefix: String,
    /// For people: `s3://bucket/prefix`.
    url: String,
    retrier: Retrier,
    capabilities: Mutex<Capabilities>,
    /// The store was seen to refuse DeleteObjects.
    deletes_singly: AtomicBool,
}

impl fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Storage")
            .field("url", &self.shared.url)
            .finish_non_exhaustive()
    }
}

impl S3Storage {
    /// Prepares a client; sends nothing to the store.
    pub(crate) async fn open(settings: S3Settings) -> Result<S3Storage, StorageError> {
        let client = client::connect(&settings).await?;
        let url = match &settings.prefix {
            Some(prefix) => format!("s3://{}/{prefix}", settings.bucket),
            None => format!("s3://{}", settings.bucket),
        };
        Ok(S3Storage {
            shared: Arc::new(Shared {
                client,
                prefix: settings
                    .prefix
                    .map(|prefix| format!("{prefix}/"))
                    .unwrap_or_default(),
                bucket: settings.bucket,
                url,
                retrier: Retrier::new(settings.retry, settings.metrics),
                capabilities: Mutex::default(),
                deletes_singly: AtomicBool::new(false),
            }),
        })
    }

    fn client(&self) -> &Client {
        &self.shared.client
    }

    fn bucket(&self) -> &str {
        &self.shared.bucket
    }

    /// A name below the repository's root, as the store knows it.
    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.shared.prefix)
    }

    fn subject<'a>(&'a self, operation: Operation, name: &'a str) -> Subject<'a> {
        Subject {
            operation,
            name,
            url: &self.shared.url,
            bucket: &self.shared.bucket,
        }
    }
}

/// Ends work that gets no answer. `bytes` is how much it moves.
async fn within<T>(
    subject: Subject<'_>,
    bytes: u64,
    work: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, StorageError> {
    let limit = REQUEST_MAX + Duration::from_secs(bytes / TRANSFER_RATE_MIN);
    // A request of the SDK is a large future, and every one around it would hold it: on the heap, none does.
    match tokio::time::timeout(limit, Box::pin(work)).await {
        Ok(done) => done,
        Err(_) => Err(subject.failed(
            ErrorClass::Transient,
            format!("no answer within {} s", limit.as_secs()),
        )),
    }
}

fn timestamp(time: Option<&DateTime>) -> Timestamp {
    let micros = |time: &DateTime| time.as_nanos() / 1_000;
    Timestamp(time.map_or(0, |time| i64::try_from(micros(time)).unwrap_or(0)))
}

#[async_trait]
impl Storage for S3Storage {
    fn url(&self) -> &str {
        &self.shared.url
    }

    fn capabilities(&self) -> Capabilities {
        *self
            .shared
            .capabilities
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn probe(&self, prefix: &ObjectKey) -> Result<Capabilities, StorageError> {
        let seen = write::probe(self, prefix).await?;
        *self
            .shared
            .capabilities
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = seen;
        upload::clear_leftovers(self).await;
        Ok(seen)
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<Option<ETag>, StorageError> {
        write::put(self, key, body, &mode).await
    }

    async fn upload(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(upload::S3Upload::new(self.clone(), key.clone())))
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<ObjectData, StorageError> {
        let subject = self.subject(Operation::Get, key.as_str());
        // S3 has no way to ask for no bytes.
        if let Some(range) = range.as_ref().filter(|range| range.is_empty()) {
            return Err(subject.invalid_range(range));
        }
        let request = self
            .client()
            .get_object()
            .bucket(self.bucket())
            .key(self.full(key.as_str()));
        let request = match &range {
            // The last byte is part of a Range header.
            Some(range) => request.range(format!("bytes={}-{}", range.start, range.end.saturating_sub(1))),
            None => request,
        };
        let send = async {
            request
                .send()
                .await
                .map_err(|error| subject.read_error(&error, range.as_ref()))
        };
        let answer = within(subject, 0, send).await?;
        let length = u64::try_from(answer.content_length.unwrap_or(0)).unwrap_or(0);
        let size = match &answer.content_range {
            Some(range) => size_in_content_range(range).ok_or_else(|| {
                subject.failed(
                    ErrorClass::Permanent,
                    format!("the store answered with the range \"{range}\""),
                )
            })?,
            None if range.is_some() => {
                let problem = "the store ignores ranges and sent the whole object";
                return Err(subject.failed(ErrorClass::Permanent, problem));
            }
            None => length,
        };
        let body = answer.body;
        let collect = async { body.collect().await.map_err(|error| subject.broken_body(&error)) };
        let bytes = within(subject, length, collect).await?.into_bytes();
        if bytes.len() as u64 != length {
            let problem = format!("{} of {length} bytes came", bytes.len());
            return Err(subject.failed(ErrorClass::Transient, problem));
        }
        Ok(ObjectData {
            bytes,
            size,
            etag: answer.e_tag.map(ETag),
        })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        let answer = write::head(self, Operation::Head, key).await?;
        Ok(ObjectMeta {
            key: key.clone(),
            size: u64::try_from(answer.content_length.unwrap_or(0)).unwrap_or(0),
            modified: timestamp(answer.last_modified.as_ref()),
        })
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> Result<ListPage, StorageError> {
        listing::page(self, prefix, start_after).await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        listing::folders(self, prefix).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        write::delete(self, keys).await
    }
}

/// The size of the whole object, from `bytes 0-99/1234` (RFC 9110, section 14.4).
fn size_in_content_range(text: &str) -> Option<u64> {
    text.rsplit_once('/')
        .and_then(|(_, size)| size.trim().parse().ok())
}
