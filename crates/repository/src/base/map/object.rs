//! Map objects: many parts' maps and the list of packs that they name.
//!
//! The plain bytes are `version (1) · number of packs · packs · records`, a pack being the length of its backup's name,
//! that name and the pack's number, all integers varints. Records follow one another to the end; whoever refers to one
//! names its offset from the first and its length. The list makes an object mean the same in every manifest.

use std::collections::HashMap;

use super::super::id::{BackupId, PartId};
use super::super::varint::{self, Cursor, Malformed};
use super::codec;
use super::part::PartMap;

const VERSION: u64 = 1;

/// Collects the records of one map object.
#[derive(Debug, Default)]
pub(in super::super) struct MapBuilder {
    records: Vec<u8>,
    /// The manifest's pack indices in the order of the object's own list.
    packs: Vec<u32>,
    local: HashMap<u32, u32>,
}

impl MapBuilder {
    /// Adds a part; returns where its record lies.
    pub(in super::super) fn add(&mut self, part: &PartMap) -> (u32, u32) {
        let MapBuilder {
            records,
            packs,
            local,
        } = self;
        let begin = records.len();
        let number = |pack| {
            *local.entry(pack).or_insert_with(|| {
                packs.push(pack);
                packs.len() as u32 - 1
            })
        };
        codec::encode(part, number, records);
        (begin as u32, (records.len() - begin) as u32)
    }

    /// Bytes of records so far.
    pub(in super::super) fn len(&self) -> usize {
        self.records.len()
    }

    /// The manifest's indices of the packs that the records name.
    pub(in super::super) fn packs(&self) -> &[u32] {
        &self.packs
    }

    /// The plain bytes in front of the records, and the records. `name` tells what each pack is called.
    pub(in super::super) fn finish<'a>(self, name: impl Fn(u32) -> &'a PartId) -> (Vec<u8>, Vec<u8>) {
        let mut front = Vec::new();
        varint::put(&mut front, VERSION);
        varint::put(&mut front, self.packs.len() as u64);
        for pack in &self.packs {
            let PartId { backup, number } = name(*pack);
            varint::put(&mut front, backup.as_str().len() as u64);
            front.extend_from_slice(backup.as_str().as_bytes());
            varint::put(&mut front, u64::from(*number));
        }
        (front, self.records)
    }
}

/// A map object that was read.
#[derive(Debug)]
pub(in super::super) struct MapObject {
    plain: Vec<u8>,
    records_begin: usize,
    /// The manifest's index of each pack in the object's list.
    packs: Vec<u32>,
}

impl MapObject {
    /// Reads the plain bytes of a map object; `index` finds a pack in the manifest's table.
    pub(in super::super) fn decode(
        plain: Vec<u8>,
        index: impl Fn(&PartId) -> Option<u32>,
    ) -> Result<MapObject, Malformed> {
        let mut cursor = Cursor::new(&plain);
        if cursor.u64()? != VERSION {
            return Err(Malformed("its version is unknown"));
        }
        let count = cursor.count(3)?;
        let mut packs = Vec::with_capacity(count);
        for _ in 0..count {
            let len = cursor.count(1)?;
            let name = std::str::from_utf8(cursor.bytes(len)?).ok();
            let backup: Option<BackupId> = name.and_then(|name| name.parse().ok());
            let backup = backup.ok_or(Malformed("it names an impossible backup"))?;
            let pack = PartId {
                backup,
                number: cursor.u32()?,
            };
            packs.push(index(&pack).ok_or(Malformed("it names a pack that the manifest does not list"))?);
        }
        let records_begin = plain.len() - cursor.remaining();
        Ok(MapObject {
            plain,
            records_begin,
            packs,
        })
    }

    /// The part whose record lies at `offset`.
    pub(in super::super) fn part(&self, offset: u32, len: u32) -> Result<PartMap, Malformed> {
        let records = self.plain.get(self.records_begin..).unwrap_or_default();
        let begin = offset as usize;
        let record = begin
            .checked_add(len as usize)
            .and_then(|end| records.get(begin..end));
        codec::decode(
            record.ok_or(Malformed("a record lies past its end"))?,
            &self.packs,
        )
    }
}
