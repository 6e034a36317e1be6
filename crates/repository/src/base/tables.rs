//! The pack and map tables of a manifest being written.
//!
//! Indices are given out before all is known of what they name: a pack's when the first frame in it is placed, a map
//! object's when the first part goes into it.

use std::collections::HashMap;

use super::id::PartId;
use super::manifest::{Manifest, MapEntry, PackEntry};

/// Packs and map objects by index.
#[derive(Debug, Default)]
pub(super) struct Tables {
    packs: Vec<(PartId, Option<PackEntry>)>,
    pack_index: HashMap<PartId, u32>,
    maps: Vec<Option<MapEntry>>,
    /// Index here of each of the parent's map objects that is referred to.
    shared_maps: HashMap<u32, u32>,
    open_map: Option<u32>,
}

impl Tables {
    /// The index of a pack that is being written.
    pub(super) fn new_pack(&mut self, id: &PartId) -> u32 {
        if let Some(index) = self.pack_index.get(id) {
            return *index;
        }
        let index = self.packs.len() as u32;
        self.packs.push((id.clone(), None));
        self.pack_index.insert(id.clone(), index);
        index
    }

    /// The index of a pack of an earlier backup.
    pub(super) fn share_pack(&mut self, entry: &PackEntry) -> u32 {
        let index = self.new_pack(&entry.id);
        self.close_packs([entry.clone()]);
        index
    }

    /// What a pack is called.
    pub(super) fn pack_id(&self, index: u32) -> &PartId {
        match self.packs.get(index as usize) {
            Some((id, _)) => id,
            None => unreachable!("pack index {index} was never given out"),
        }
    }

    /// Completes packs that were written; those that nothing was placed in are of no interest.
    pub(super) fn close_packs(&mut self, entries: impl IntoIterator<Item = PackEntry>) {
        for entry in entries {
            let index = self.pack_index.get(&entry.id);
            if let Some((_, slot)) = index.and_then(|index| self.packs.get_mut(*index as usize)) {
                *slot = Some(entry);
            }
        }
    }

    /// The index of the parent's map object `map`, or `None` when the parent has no such.
    pub(super) fn share_map(&mut self, parent: &Manifest, map: u32) -> Option<u32> {
        if let Some(index) = self.shared_maps.get(&map) {
            return Some(*index);
        }
        let entry = parent.maps().get(map as usize)?;
        let packs = entry
            .packs
            .iter()
            .map(|pack| Some(self.share_pack(parent.packs().get(*pack as usize)?)));
        let packs = packs.collect::<Option<_>>()?;
        let index = self.maps.len() as u32;
        self.maps.push(Some(MapEntry {
            id: entry.id.clone(),
            size: entry.size,
            packs,
        }));
        self.shared_maps.insert(map, index);
        Some(index)
    }

    /// The index of the map object that is being written.
    pub(super) fn open_map(&mut self) -> u32 {
        *self.open_map.get_or_insert_with(|| {
            self.maps.push(None);
            self.maps.len() as u32 - 1
        })
    }

    /// Completes the map object that was being written.
    pub(super) fn close_map(&mut self, entry: MapEntry) {
        if let Some(slot) = self
            .open_map
            .take()
            .and_then(|index| self.maps.get_mut(index as usize))
        {
            *slot = Some(entry);
        }
    }

    /// Both tables, or `None` when one of their entries was never completed.
    pub(super) fn finish(self) -> Option<(Vec<PackEntry>, Vec<MapEntry>)> {
        let packs = self
            .packs
            .into_iter()
            .map(|(_, entry)| entry)
            .collect::<Option<_>>()?;
        Some((packs, self.maps.into_iter().collect::<Option<_>>()?))
    }
}
