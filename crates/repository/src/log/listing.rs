//! Listing the slices of a branch, for readers that want sizes, one file alone, or a great many at once.

use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use tidemark_storage::{ObjectMeta, Storage};

use super::SliceKey;
use crate::RepositoryError;
use crate::archive::Archive;
use crate::layout::Branch;

/// Key ranges listed at the same time: a page of 1000 names takes an S3 store about 100 ms.
const RANGES_AT_ONCE: u64 = 16;
/// A range is worth a request of its own from so many log files on.
const FILES_PER_RANGE_MIN: u64 = 64;

/// The slices of a branch as a listing tells them, in no order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SliceList {
    /// The slices.
    pub slices: Vec<SliceKey>,
    /// Their stored lengths in bytes, in the same order.
    pub stored_lens: Vec<u32>,
}

impl SliceList {
    fn add(&mut self, name: &str, size: u64) {
        match name.parse() {
            Ok(slice) => {
                self.slices.push(slice);
                self.stored_lens.push(u32::try_from(size).unwrap_or(u32::MAX));
            }
            Err(_) => tracing::warn!(object = name, "this is no slice; left out"),
        }
    }

    fn append(&mut self, mut later: SliceList) {
        self.slices.append(&mut later.slices);
        self.stored_lens.append(&mut later.stored_lens);
    }
}

impl Archive {
    /// The slices of `branch` from log file `from_file` on, with their stored lengths. `last_file` guesses the last
    /// file, so that several ranges are listed at once; a wrong guess costs time only.
    ///
    /// # Errors
    /// What the store says.
    pub async fn list_slices(
        &self,
        branch: Branch,
        from_file: u64,
        last_file: Option<u64>,
    ) -> Result<SliceList, RepositoryError> {
        let folder = self.layout().branch_folder(branch);
        if let Some(list) = visit(Arc::clone(self.storage()), folder.clone(), from_file).await? {
            return Ok(list);
        }
        let borders = borders(from_file, last_file.unwrap_or(from_file));
        let ends = borders.iter().skip(1).copied().map(Some).chain([None]);
        let ranges = borders
            .iter()
            .zip(ends)
            .map(|(begin, end)| list_range(&**self.storage(), &folder, *begin, end));
        let mut list = SliceList::default();
        let mut lists = stream::iter(ranges).buffered(RANGES_AT_ONCE as usize);
        while let Some(part) = lists.try_next().await? {
            list.append(part);
        }
        Ok(list)
    }

    /// The slices of one log file, in order of their names.
    ///
    /// # Errors
    /// What the store says.
    pub async fn list_file(&self, branch: Branch, file: u64) -> Result<Vec<SliceKey>, RepositoryError> {
        let folder = self.layout().branch_folder(branch);
        let list = list_range(&**self.storage(), &folder, file, file.checked_add(1)).await?;
        Ok(list.slices)
    }
}

/// The slices in a folder from log file `from_file` on, where the store reads a folder at once anyway.
async fn visit(
    storage: Arc<dyn Storage>,
    folder: String,
    from_file: u64,
) -> Result<Option<SliceList>, RepositoryError> {
    let visited = tokio::task::spawn_blocking(move || {
        let first = SliceKey::first_name(from_file);
        let mut list = SliceList::default();
        let visited = storage.visit_folder(&folder, &mut |name, size| {
            if *name > *first {
                list.add(name, size);
            }
        });
        visited.map(|visited| visited.map(|()| list)).transpose()
    });
    let visited = visited.await;
    Ok(visited.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?)
}

/// Files at which ranges of about even length begin.
fn borders(from_file: u64, last_file: u64) -> Vec<u64> {
    let files = last_file.saturating_sub(from_file).saturating_add(1);
    let ranges = (files / FILES_PER_RANGE_MIN).clamp(1, RANGES_AT_ONCE);
    (0..ranges)
        .map(|range| from_file + files / ranges * range)
        .collect()
}

/// The slices of the files `[begin, end)`.
async fn list_range(
    storage: &dyn Storage,
    folder: &str,
    begin: u64,
    end: Option<u64>,
) -> Result<SliceList, RepositoryError> {
    // Names continue after the file's number, so all of them come after it.
    let mut start_after = format!("{folder}{}", SliceKey::first_name(begin));
    let end = end.map(|file| format!("{folder}{}", SliceKey::first_name(file)));
    let is_wanted = |key: &str| end.as_deref().is_none_or(|end| key < end);
    let mut list = SliceList::default();
    loop {
        let page = storage.list(folder, Some(&start_after)).await?;
        let wanted = |object: &&ObjectMeta| is_wanted(object.key.as_str());
        for object in page.objects.iter().filter(wanted) {
            list.add(object.key.file_name(), object.size);
        }
        match page.objects.last() {
            Some(last) if page.more && is_wanted(last.key.as_str()) => {
                last.key.as_str().clone_into(&mut start_after);
            }
            _ => return Ok(list),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_begin_at_the_first_file_and_do_not_overlap() {
        assert_eq!(borders(7, 7), [7]);
        assert_eq!(borders(7, 3), [7]);
        let many = borders(100, 100_000);
        assert_eq!((many.len(), many[0]), (16, 100));
        assert!(many.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
