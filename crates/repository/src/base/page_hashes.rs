//! The hashes of a file's pages as a backup stored them, to find out by hash what changed since.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::hash::PageHash;
use super::manifest::PartRef;
use super::map::PartMap;
use super::pack::PageTable;
use super::reader::BackupReader;
use crate::error::RepositoryError;

/// Tables kept in memory; a few hundred KiB each.
const TABLES_KEPT: usize = 32;

/// Reads page hashes of one backup. One for each task that compares.
#[derive(Debug)]
pub struct PageHashReader {
    reader: Arc<BackupReader>,
    tables: VecDeque<(u32, Arc<PageTable>)>,
}

impl PageHashReader {
    /// The page hashes of `reader`'s backup.
    pub fn new(reader: Arc<BackupReader>) -> PageHashReader {
        PageHashReader {
            reader,
            tables: VecDeque::new(),
        }
    }

    /// The hash of each page of one part of a file. `None` for a page that was not stored as a page of its own (it was
    /// cut off by a truncation, or pages had another size): such a page counts as changed. Costs one ranged read for
    /// each pack that the part lies in.
    ///
    /// # Errors
    /// `Storage`, `Damaged`.
    pub async fn of_part(
        &mut self,
        part: &PartRef,
        page_size: usize,
    ) -> Result<Vec<Option<PageHash>>, RepositoryError> {
        let map = self.reader.part(part).await?;
        let mut tables = HashMap::new();
        for frame in map.frames() {
            if let std::collections::hash_map::Entry::Vacant(slot) = tables.entry(frame.pack) {
                slot.insert(self.table(frame.pack).await?);
            }
        }
        Ok(self.hashes(&map, page_size, &tables))
    }

    fn hashes(
        &self,
        map: &PartMap,
        page_size: usize,
        tables: &HashMap<u32, Arc<PageTable>>,
    ) -> Vec<Option<PageHash>> {
        let key = self.reader.store().hash_key();
        let zeros = vec![0; page_size];
        let pages = map.len().div_ceil(page_size as u64);
        let hash = |page: u64| {
            let begin = page * page_size as u64;
            let end = (begin + page_size as u64).min(map.len());
            let mut extents = map.within(begin, end);
            let extent = extents
                .next()
                .filter(|extent| extent.begin == begin && extent.end() == end)?;
            let len = (end - begin) as usize;
            match map.frame_of(&extent) {
                None => zeros.get(..len).map(|page| PageHash::of(&key, page)),
                Some((frame, offset)) => tables
                    .get(&frame.pack)?
                    .hash(frame.number, offset, len, page_size),
            }
        };
        (0..pages).map(hash).collect()
    }

    async fn table(&mut self, pack: u32) -> Result<Arc<PageTable>, RepositoryError> {
        if let Some((_, table)) = self.tables.iter().find(|(index, _)| *index == pack) {
            return Ok(table.clone());
        }
        let store = self.reader.store();
        let entry = self.reader.manifest().packs().get(pack as usize).ok_or_else(|| {
            RepositoryError::damaged(
                self.reader.manifest().object(),
                "a map names a pack that is not listed",
            )
        })?;
        let object = store.pack(&entry.id);
        let data = store
            .storage()
            .get(&object, Some(entry.hashes..entry.size))
            .await?;
        let table = PageTable::decode(&store.hash_key(), &data.bytes)
            .map_err(|malformed| RepositoryError::damaged(&object, malformed.0))?;
        let table = Arc::new(table);
        self.tables.push_front((pack, table.clone()));
        self.tables.truncate(TABLES_KEPT);
        Ok(table)
    }
}
