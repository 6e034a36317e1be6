//! Listing by ListObjectsV2.

use tidemark_types::ErrorClass;

use crate::s3::{S3Storage, timestamp, within};
use crate::{ListPage, ObjectKey, ObjectMeta, Operation, StorageError};

/// One page. Objects whose keys no repository would use are stepped over.
pub(super) async fn page(
    storage: &S3Storage,
    prefix: &str,
    start_after: Option<&str>,
) -> Result<ListPage, StorageError> {
    let subject = storage.subject(Operation::List, prefix);
    // Garage 2.5 begins at start-after even when that lies before the prefix, and ends at the first key without the
    // prefix: a key between the two makes its answer empty. So only a start-after within the prefix is sent.
    let mut after = match start_after {
        Some(after) if after < prefix => None,
        Some(after) if !after.starts_with(prefix) => return Ok(ListPage::default()),
        after => after.map(|name| storage.full(name)),
    };
    loop {
        let request = storage
            .client()
            .list_objects_v2()
            .bucket(storage.bucket())
            .prefix(storage.full(prefix))
            .set_start_after(after.clone());
        let send = async { request.send().await.map_err(|error| subject.error(&error)) };
        let answer = within(subject, 0, send).await?;
        let mut page = ListPage {
            objects: Vec::with_capacity(answer.contents().len()),
            more: answer.is_truncated().unwrap_or(false),
        };
        for object in answer.contents() {
            let full = object.key().unwrap_or_default();
            if after.as_deref().is_some_and(|after| full <= after) {
                // Directory buckets (S3 Express) list in no order and ignore start-after.
                let problem = "the store does not list in the order of keys, which a repository needs";
                return Err(subject.failed(ErrorClass::Permanent, problem));
            }
            let name = full.strip_prefix(&storage.shared.prefix).unwrap_or_default();
            if let Ok(key) = ObjectKey::new(name) {
                page.objects.push(ObjectMeta {
                    key,
                    size: u64::try_from(object.size().unwrap_or(0)).unwrap_or(0),
                    modified: timestamp(object.last_modified()),
                });
            }
            after = Some(full.to_owned());
        }
        // A page may be empty only at the end: nobody could ask for the one after it.
        if !page.objects.is_empty() || !page.more || answer.contents().is_empty() {
            return Ok(page);
        }
    }
}

/// The folders directly below `prefix`, by the delimiter.
pub(super) async fn folders(storage: &S3Storage, prefix: &str) -> Result<Vec<String>, StorageError> {
    let subject = storage.subject(Operation::List, prefix);
    let full = storage.full(prefix);
    let mut found = Vec::new();
    let mut token = None;
    loop {
        let request = storage
            .client()
            .list_objects_v2()
            .bucket(storage.bucket())
            .prefix(&full)
            .delimiter("/")
            .set_continuation_token(token);
        let send = async { request.send().await.map_err(|error| subject.error(&error)) };
        let answer = within(subject, 0, send).await?;
        let names = answer
            .common_prefixes()
            .iter()
            .filter_map(|folder| folder.prefix());
        let names = names.filter_map(|folder| folder.strip_prefix(&full)?.strip_suffix('/'));
        found.extend(
            names
                .filter(|name| ObjectKey::new(*name).is_ok())
                .map(str::to_owned),
        );
        token = answer.next_continuation_token().map(str::to_owned);
        if token.is_none() || !answer.is_truncated().unwrap_or(false) {
            // In the order of keys `a-b/` comes before `a/`; in that of names `a` comes first.
            found.sort_unstable();
            found.dedup();
            return Ok(found);
        }
    }
}
