//! Writing and deleting whole objects, and probing for conditional writes.

use std::sync::atomic::Ordering;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::Bytes;

use crate::s3::failure::{code, status};
use crate::s3::{S3Storage, within};
use crate::{Capabilities, ETag, ObjectKey, Operation, PutMode, StorageError, probe as conditional};

/// Most keys that one DeleteObjects takes.
const DELETE_BATCH: usize = 1000;

/// Which condition a put carries to the store.
#[derive(Debug, Clone, Copy)]
enum Condition<'a> {
    None,
    Absent,
    Tag(&'a ETag),
}

/// A put in any mode: conditional where the probe saw that the store honours it, else a look goes first.
pub(super) async fn put(
    storage: &S3Storage,
    key: &ObjectKey,
    body: Bytes,
    mode: &PutMode,
) -> Result<Option<ETag>, StorageError> {
    let able = crate::Storage::capabilities(storage);
    let subject = storage.subject(Operation::Put, key.as_str());
    let condition = match mode {
        PutMode::Overwrite => Condition::None,
        PutMode::Create if able.atomic_create => Condition::Absent,
        PutMode::Update(tag) if able.atomic_update => Condition::Tag(tag),
        PutMode::Create => match look(storage, key).await? {
            Some(_) => return Err(subject.already_exists()),
            None => Condition::None,
        },
        PutMode::Update(expected) => match look(storage, key).await? {
            Some(present) if present.e_tag.as_ref() == Some(&expected.0) => Condition::None,
            _ => return Err(subject.changed()),
        },
    };
    send(storage, key, body, condition).await
}

async fn send(
    storage: &S3Storage,
    key: &ObjectKey,
    body: Bytes,
    condition: Condition<'_>,
) -> Result<Option<ETag>, StorageError> {
    let subject = storage.subject(Operation::Put, key.as_str());
    let length = body.len() as u64;
    let request = storage
        .client()
        .put_object()
        .bucket(storage.bucket())
        .key(storage.full(key.as_str()))
        .body(ByteStream::from(body));
    let request = match condition {
        Condition::None => request,
        Condition::Absent => request.if_none_match("*"),
        Condition::Tag(tag) => request.if_match(&tag.0),
    };
    let send = async {
        request
            .send()
            .await
            .map_err(|error| match (condition, status(&error)) {
                (Condition::Absent, 412) => subject.already_exists(),
                // An update of an object that is not there: 404 on AWS, 412 elsewhere.
                (Condition::Tag(_), 412) => subject.changed(),
                (Condition::Tag(_), 404) if code(&error) != Some("NoSuchBucket") => subject.changed(),
                _ => subject.error(&error),
            })
    };
    let answer = within(subject, length, send).await?;
    Ok(answer.e_tag.map(ETag))
}

pub(super) async fn head(
    storage: &S3Storage,
    operation: Operation,
    key: &ObjectKey,
) -> Result<HeadObjectOutput, StorageError> {
    let subject = storage.subject(operation, key.as_str());
    let request = storage
        .client()
        .head_object()
        .bucket(storage.bucket())
        .key(storage.full(key.as_str()));
    within(subject, 0, async {
        request
            .send()
            .await
            .map_err(|error| subject.read_error(&error, None))
    })
    .await
}

/// What is there, if anything.
pub(super) async fn look(
    storage: &S3Storage,
    key: &ObjectKey,
) -> Result<Option<HeadObjectOutput>, StorageError> {
    match head(storage, Operation::Put, key).await {
        Ok(present) => Ok(Some(present)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a fresh key twice on condition that it is absent, then once on condition of a tag that it does not have. A
/// store that refuses such requests altogether honours nothing either.
pub(super) async fn probe(storage: &S3Storage, prefix: &ObjectKey) -> Result<Capabilities, StorageError> {
    let key = conditional::key_below(prefix)?;
    let seen = attempt_probe(storage, &key).await;
    let cleaned = delete(storage, std::slice::from_ref(&key)).await;
    let seen = seen?;
    cleaned?;
    Ok(seen)
}

async fn attempt_probe(storage: &S3Storage, key: &ObjectKey) -> Result<Capabilities, StorageError> {
    let body = Bytes::from_static(b"probe\n");
    send(storage, key, body.clone(), Condition::None).await?;
    let wrong = ETag(conditional::WRONG_TAG.to_owned());
    Ok(Capabilities {
        atomic_create: is_refused(send(storage, key, body.clone(), Condition::Absent).await)?,
        atomic_update: is_refused(send(storage, key, body, Condition::Tag(&wrong)).await)?,
    })
}

fn is_refused(put: Result<Option<ETag>, StorageError>) -> Result<bool, StorageError> {
    match put {
        Err(StorageError::AlreadyExists { .. } | StorageError::Changed { .. }) => Ok(true),
        Err(error) if error.class().is_transient() => Err(error),
        _ => Ok(false),
    }
}

/// Deletes in batches, or one by one where the store does not know batches.
pub(super) async fn delete(storage: &S3Storage, keys: &[ObjectKey]) -> Result<(), StorageError> {
    for batch in keys.chunks(DELETE_BATCH) {
        let singly = batch.len() == 1 || storage.shared.deletes_singly.load(Ordering::Relaxed);
        if !singly && delete_batch(storage, batch).await? {
            continue;
        }
        for key in batch {
            delete_one(storage, key).await?;
        }
    }
    Ok(())
}

/// Whether the store knows this kind of request.
async fn delete_batch(storage: &S3Storage, keys: &[ObjectKey]) -> Result<bool, StorageError> {
    let first = keys.first().map(ObjectKey::as_str).unwrap_or_default();
    let subject = storage.subject(Operation::Delete, first);
    let objects = keys
        .iter()
        .map(|key| {
            ObjectIdentifier::builder()
                .key(storage.full(key.as_str()))
                .build()
        })
        .collect::<Result<Vec<_>, _>>();
    let batch = objects
        .and_then(|objects| Delete::builder().set_objects(Some(objects)).quiet(true).build())
        .map_err(|error| subject.failed(tidemark_types::ErrorClass::Permanent, error.to_string()))?;
    let request = storage
        .client()
        .delete_objects()
        .bucket(storage.bucket())
        .delete(batch);
    let send = async { Ok(request.send().await) };
    let answer = match within(subject, 0, send).await? {
        Ok(answer) => answer,
        Err(error) if is_unknown_request(status(&error), code(&error)) => {
            tracing::info!(
                store = storage.shared.url,
                "the store knows no batched deletes: deleting one by one"
            );
            storage.shared.deletes_singly.store(true, Ordering::Relaxed);
            return Ok(false);
        }
        Err(error) => return Err(subject.error(&error)),
    };
    match answer
        .errors()
        .iter()
        .find(|error| error.code() != Some("NoSuchKey"))
    {
        None => Ok(true),
        Some(error) => {
            let key = error.key().unwrap_or(first);
            let key = key.strip_prefix(&storage.shared.prefix).unwrap_or(key);
            let subject = storage.subject(Operation::Delete, key);
            Err(subject.refused_delete(
                error.code().unwrap_or_default(),
                error.message().unwrap_or_default(),
            ))
        }
    }
}

/// What stores say that want another checksum than the SDK sends, or have no such request at all.
fn is_unknown_request(status: u16, code: Option<&str>) -> bool {
    matches!(status, 405 | 501)
        || (status == 400
            && matches!(
                code,
                Some(
                    "InvalidRequest"
                        | "MissingContentMD5"
                        | "InvalidDigest"
                        | "NotImplemented"
                        | "InvalidArgument"
                )
            ))
}

async fn delete_one(storage: &S3Storage, key: &ObjectKey) -> Result<(), StorageError> {
    let subject = storage.subject(Operation::Delete, key.as_str());
    let request = storage
        .client()
        .delete_object()
        .bucket(storage.bucket())
        .key(storage.full(key.as_str()));
    let delete = within(subject, 0, async {
        request
            .send()
            .await
            .map_err(|error| subject.read_error(&error, None))
    });
    match delete.await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
