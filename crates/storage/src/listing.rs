//! Whole listings over the pages of a store, one after another or several key ranges at once.

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::{ObjectMeta, Storage, StorageError};

/// Key ranges listed at the same time. A page of 1000 keys takes an S3 store about 100 ms; more requests at once gain
/// little and run into its rate limits.
const RANGES_AT_ONCE: usize = 16;

/// All objects whose keys begin with `prefix`, come after `start_after` and before `end_before`, in the order of their
/// keys' bytes. Holds them all in memory: some 200 bytes each.
///
/// # Errors
/// What [`Storage::list`] says.
pub async fn list_all(
    storage: &dyn Storage,
    prefix: &str,
    start_after: Option<&str>,
    end_before: Option<&str>,
) -> Result<Vec<ObjectMeta>, StorageError> {
    collect(storage, prefix, start_after, |key| {
        end_before.is_none_or(|end| key < end)
    })
    .await
}

/// The objects up to the first whose key is not `wanted` any more.
async fn collect(
    storage: &dyn Storage,
    prefix: &str,
    start_after: Option<&str>,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<ObjectMeta>, StorageError> {
    let mut objects: Vec<ObjectMeta> = Vec::new();
    let mut page = storage.list(prefix, start_after).await?;
    loop {
        let wanted_of_page = page.objects.partition_point(|object| wanted(object.key.as_str()));
        let more = page.more && wanted_of_page == page.objects.len();
        page.objects.truncate(wanted_of_page);
        objects.append(&mut page.objects);
        match objects.last() {
            Some(last) if more => page = storage.list(prefix, Some(last.key.as_str())).await?,
            _ => return Ok(objects),
        }
    }
}

/// As [`list_all`], but cut at `boundaries` (ascending keys or parts of keys, which the caller chooses so that the
/// ranges between them are about even), with the ranges listed concurrently.
///
/// # Errors
/// The first error of any range; the others are then called off.
pub async fn list_parallel(
    storage: &dyn Storage,
    prefix: &str,
    start_after: Option<&str>,
    boundaries: &[String],
) -> Result<Vec<ObjectMeta>, StorageError> {
    let mut begins = vec![start_after];
    begins.extend(
        boundaries
            .iter()
            .map(|boundary| Some(boundary.as_str()))
            .filter(|at| *at > start_after),
    );
    let ends = begins.iter().skip(1).copied().chain([None]);
    let lists = begins.iter().zip(ends).map(|(begin, end)| {
        // Through its end: the next range begins after that key.
        collect(storage, prefix, *begin, move |key| {
            end.is_none_or(|end| key <= end)
        })
    });
    let lists: Vec<Vec<ObjectMeta>> = stream::iter(lists).buffered(RANGES_AT_ONCE).try_collect().await?;
    Ok(lists.into_iter().flatten().collect())
}
