//! Writing one base backup: files are begun and ended, frames of them arrive in any order, the manifest comes last.
//!
//! Who does what: readers fill [`FrameBuffer`](super::FrameBuffer)s and encode them on worker threads, each
//! [`PackSink`] appends frames to packs, and the one [`BackupWriter`] keeps the books. It counts the bytes of each
//! file that have landed, so that a file may be ended before its last frames arrive. Memory: the extents of unfinished
//! files, one map object, and an entry of some hundred bytes for each file.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bytes::Bytes;

use super::frame::FileId;
use super::id::{BackupId, PartId};
use super::intent::{self, Announced, Intent};
use super::manifest::{
    BackupFacts, BackupHeader, BackupKind, EntryKind, FileEntry, FileMeta, ManifestContent, MapEntry,
    PackEntry, PartRef, Totals,
};
use super::map::{FrameRef, MapBuilder, PART_LEN, PartMap, Placement, Uncovered, part_lens};
use super::pack::{PackSink, PlacedFrame};
use super::reader::BackupReader;
use super::store::BaseStore;
use super::tables::Tables;
use crate::envelope::Kind;
use crate::error::RepositoryError;

/// Bytes of records after which a map object is closed.
const MAP_LEN: usize = 4 << 20;
/// No manifest, and no map object, is larger than this when decompressed.
pub(super) const DOCUMENT_LEN_MAX: u64 = 2 << 30;

/// The books of a base backup being written.
#[derive(Debug)]
pub struct BackupWriter {
    store: BaseStore,
    intent: Intent,
    parent: Option<Arc<BackupReader>>,
    next_pack: Arc<AtomicU32>,
    tables: Tables,
    map: MapBuilder,
    maps_written: u32,
    files: Vec<FileEntry>,
    open: HashMap<FileId, OpenFile>,
    left_out: HashSet<FileId>,
    totals: Totals,
}

/// A file whose bytes are still arriving.
#[derive(Debug, Default)]
struct OpenFile {
    /// Its entry in the parent, when pages are laid over that.
    base: Option<FileEntry>,
    placements: Vec<Placement>,
    /// Bytes that arrived.
    landed: u64,
    /// How many are to arrive, once that is known.
    expected: Option<u64>,
}

impl BackupWriter {
    /// Announces the backup that `intent` names, on top of `parent` if there is one, and checks that everything the
    /// parent refers to is still there. `gone` may say of another backup's intent that its process is known dead.
    ///
    /// # Errors
    /// `Conflict` when another backup runs; `Damaged` when an object of the parent is missing; `Storage`.
    pub async fn begin(
        store: BaseStore,
        intent: Intent,
        parent: Option<Arc<BackupReader>>,
        gone: impl Fn(&Intent) -> bool,
    ) -> Result<BackupWriter, RepositoryError> {
        intent::announce(&store, &intent, gone).await?;
        if let Some(parent) = &parent
            && let Err(error) = parent.check_objects().await
        {
            intent::withdraw(&store, &intent.backup).await?;
            return Err(error);
        }
        Ok(BackupWriter {
            store,
            intent,
            parent,
            next_pack: Arc::default(),
            tables: Tables::default(),
            map: MapBuilder::default(),
            maps_written: 0,
            files: Vec::new(),
            open: HashMap::new(),
            left_out: HashSet::new(),
            totals: Totals::default(),
        })
    }

    /// The backup's name.
    pub fn backup(&self) -> &BackupId {
        &self.intent.backup
    }

    /// Another sink for frames, which closes packs at `pack_len` stored bytes. Each writes one pack at a time; several
    /// use a store that takes parallel uploads better.
    pub fn pack_sink(&self, pack_len: u64) -> PackSink {
        PackSink::new(
            self.store.clone(),
            self.intent.backup.clone(),
            pack_len,
            self.next_pack.clone(),
        )
    }

    /// For whoever keeps saying that the backup is alive while it is written.
    pub fn announced(&self) -> Announced {
        Announced::new(self.store.clone(), self.intent.clone())
    }

    /// Takes a directory or a link in.
    pub fn add_path(&mut self, meta: FileMeta) {
        self.files.push(FileEntry {
            meta,
            size: 0,
            parts: Vec::new(),
        });
    }

    /// Begins a file all of whose bytes will be given.
    pub fn begin_file(&mut self, meta: FileMeta) -> FileId {
        self.open_file(meta, OpenFile::default())
    }

    /// Begins a file of which only changed bytes will be given: the rest is as in `base`, the parent's entry.
    pub fn begin_overlay(&mut self, meta: FileMeta, base: FileEntry) -> FileId {
        self.open_file(
            meta,
            OpenFile {
                base: Some(base),
                ..OpenFile::default()
            },
        )
    }

    fn open_file(&mut self, meta: FileMeta, open: OpenFile) -> FileId {
        let file = FileId(self.files.len() as u32);
        self.files.push(FileEntry {
            meta,
            size: 0,
            parts: Vec::new(),
        });
        self.open.insert(file, open);
        file
    }

    /// Takes a file back that was begun, and may have been ended: nothing of it belongs into the backup, whatever of it
    /// arrived or is still on its way. Some engines copy a table again when it changed its form meanwhile.
    pub fn take_back(&mut self, file: FileId) {
        let is_mapped = self.open.remove(&file).is_none();
        if let Some(entry) = self.files.get(file.0 as usize)
            && self.left_out.insert(file)
            && is_mapped
        {
            self.totals.files -= 1;
            self.totals.bytes -= entry.size;
        }
    }

    /// Gives a file that was begun, and may have been ended, another path.
    pub fn rename(&mut self, file: FileId, path: String) {
        if let Some(entry) = self.files.get_mut(file.0 as usize) {
            entry.meta.path = path;
        }
    }

    /// Stores the names object beside the manifest: what the engine's files are called by its users.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn put_names(&self, plain: Bytes) -> Result<(), RepositoryError> {
        let key = self.store.names(&self.intent.backup);
        self.store.put_document(&key, Kind::Names, &[plain]).await?;
        Ok(())
    }

    /// Takes a file in that has the bytes it had in the parent, of which `base` is the entry.
    ///
    /// # Errors
    /// `Backup` when there is no parent.
    pub fn keep_unchanged(&mut self, meta: FileMeta, base: &FileEntry) -> Result<(), RepositoryError> {
        let parts = base
            .parts
            .iter()
            .map(|part| self.share(part))
            .collect::<Result<_, _>>()?;
        self.count_file(&meta, base.size);
        self.files.push(FileEntry {
            meta,
            size: base.size,
            parts,
        });
        Ok(())
    }

    /// Takes in where a frame lies. Ends every file whose last bytes it holds.
    ///
    /// # Errors
    /// `Backup` when a piece belongs to no open file, or see [`BackupWriter::end_file`].
    pub async fn place(&mut self, placed: PlacedFrame) -> Result<(), RepositoryError> {
        let pack = self.tables.new_pack(&placed.pack);
        let frame = FrameRef { pack, ..placed.frame };
        let mut offset = 0u32;
        for piece in placed.pieces {
            let placement = Placement {
                begin: piece.offset,
                len: u64::from(piece.len),
                at: Some((frame, offset)),
            };
            offset += piece.len;
            self.totals.new_bytes += u64::from(piece.len);
            self.land(piece.file, placement).await?;
        }
        Ok(())
    }

    /// Says that the bytes `[offset, offset + len)` of a file are zeros; they count as given.
    ///
    /// # Errors
    /// As [`BackupWriter::place`].
    pub async fn add_zeros(&mut self, file: FileId, offset: u64, len: u64) -> Result<(), RepositoryError> {
        self.land(
            file,
            Placement {
                begin: offset,
                len,
                at: None,
            },
        )
        .await
    }

    async fn land(&mut self, file: FileId, placement: Placement) -> Result<(), RepositoryError> {
        if self.left_out.contains(&file) {
            return Ok(());
        }
        let Some(open) = self.open.get_mut(&file) else {
            return Err(self.misuse(format!("bytes of file {} arrived, which is not open", file.0)));
        };
        open.landed += placement.len;
        open.placements.push(placement);
        self.end_if_landed(file).await
    }

    /// Says that a file is `size` bytes long and that `given` bytes of it were, or will be, given. May come before its
    /// frames have arrived.
    ///
    /// # Errors
    /// `Backup` when bytes were given twice or, beyond what the parent has, not at all; `Damaged` or `Storage` when
    /// the parent's map cannot be read.
    pub async fn end_file(&mut self, file: FileId, size: u64, given: u64) -> Result<(), RepositoryError> {
        let (Some(open), Some(entry)) = (self.open.get_mut(&file), self.files.get_mut(file.0 as usize))
        else {
            return Err(self.misuse(format!("file {} was ended, which is not open", file.0)));
        };
        open.expected = Some(given);
        entry.size = size;
        self.end_if_landed(file).await
    }

    async fn end_if_landed(&mut self, file: FileId) -> Result<(), RepositoryError> {
        let landed = self
            .open
            .get(&file)
            .is_some_and(|open| open.expected == Some(open.landed));
        match self.open.remove(&file) {
            Some(open) if landed => self.map_file(file, open).await,
            Some(open) => {
                self.open.insert(file, open);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Makes the maps of a file that is complete.
    async fn map_file(&mut self, file: FileId, open: OpenFile) -> Result<(), RepositoryError> {
        let Some(entry) = self.files.get(file.0 as usize) else {
            return Ok(());
        };
        let (meta, size) = (entry.meta.clone(), entry.size);
        let mut by_part = split_by_part(open.placements);
        let mut parts = Vec::new();
        for (index, len) in part_lens(size).enumerate() {
            let placements = by_part.remove(&(index as u64)).unwrap_or_default();
            let base = open
                .base
                .as_ref()
                .and_then(|base| Some((base.parts.get(index)?, base_len(base, index))));
            let part = match base {
                Some((base, base_len)) if placements.is_empty() && base_len == len => self.share(base)?,
                base => {
                    let base = match base {
                        Some((base, _)) => Some(self.parent_part(base).await?),
                        None => None,
                    };
                    let laid = PartMap::lay_over(base.as_ref(), len, &placements)
                        .map_err(|uncovered| self.misuse(describe(&meta.path, index, uncovered)))?;
                    self.store_part(&laid).await?
                }
            };
            parts.push(part);
        }
        if let Some(index) = by_part.into_keys().next() {
            return Err(self.misuse(format!(
                "{}: bytes past its end were given, in part {index}",
                meta.path
            )));
        }
        self.count_file(&meta, size);
        if let Some(entry) = self.files.get_mut(file.0 as usize) {
            entry.parts = parts;
        }
        Ok(())
    }

    /// A part's map in the parent, its packs numbered as in this backup.
    async fn parent_part(&mut self, part: &PartRef) -> Result<PartMap, RepositoryError> {
        let parent = self.parent()?;
        let mut map = parent.part(part).await?;
        for frame in map.frames_mut() {
            let entry = parent.manifest().packs().get(frame.pack as usize);
            let entry = entry.ok_or_else(|| self.misuse("a frame of the parent names no pack".to_owned()))?;
            frame.pack = self.tables.share_pack(entry);
        }
        Ok(map)
    }

    /// A reference to a part of the parent, in terms of this backup's tables.
    fn share(&mut self, part: &PartRef) -> Result<PartRef, RepositoryError> {
        let parent = self.parent()?;
        let map = self.tables.share_map(parent.manifest(), part.map);
        let map = map.ok_or_else(|| self.misuse("an entry of the parent names no map".to_owned()))?;
        Ok(PartRef { map, ..*part })
    }

    /// Adds a part's map to the open map object.
    async fn store_part(&mut self, part: &PartMap) -> Result<PartRef, RepositoryError> {
        let map = self.tables.open_map();
        let (offset, len) = self.map.add(part);
        if self.map.len() >= MAP_LEN {
            self.close_map().await?;
        }
        Ok(PartRef { map, offset, len })
    }

    /// Writes the open map object. Compressing its few MiB takes some ten milliseconds.
    async fn close_map(&mut self) -> Result<(), RepositoryError> {
        if self.map.len() == 0 {
            return Ok(());
        }
        let id = PartId {
            backup: self.intent.backup.clone(),
            number: self.maps_written,
        };
        let builder = std::mem::take(&mut self.map);
        let packs = builder.packs().to_vec();
        let (front, records) = builder.finish(|pack| self.tables.pack_id(pack));
        let chunks = [Bytes::from(front), Bytes::from(records)];
        let size = self
            .store
            .put_document(&self.store.map(&id), Kind::Map, &chunks)
            .await?;
        self.maps_written += 1;
        self.tables.close_map(MapEntry { id, size, packs });
        Ok(())
    }

    /// Commits the backup: writes the last maps and the manifest, and withdraws the intent. `packs` are what all sinks
    /// returned from [`PackSink::finish`].
    ///
    /// # Errors
    /// `Backup` when a file was not ended or a pack is missing from `packs`; `Storage`. Without an `Ok` the backup may
    /// or may not exist; [`super::list_backups`] tells.
    pub async fn finish(
        mut self,
        packs: Vec<PackEntry>,
        facts: BackupFacts,
    ) -> Result<BackupHeader, RepositoryError> {
        if let Some(file) = self.open.keys().next() {
            let path = self
                .files
                .get(file.0 as usize)
                .map_or("", |entry| &entry.meta.path)
                .to_owned();
            let count = self.open.len();
            return Err(self.misuse(format!(
                "{count} files were not ended or miss bytes, {path} among them"
            )));
        }
        self.close_map().await?;
        self.tables.close_packs(packs);
        let (packs, maps) = std::mem::take(&mut self.tables)
            .finish()
            .ok_or_else(|| self.misuse("a pack that frames were placed in was not finished".to_owned()))?;
        self.sum_stored(&packs, &maps);
        let content = ManifestContent {
            backup: self.intent.backup.clone(),
            kind: if self.parent.is_some() {
                BackupKind::Incremental
            } else {
                BackupKind::Full
            },
            parent: self.parent.as_ref().map(|parent| parent.header().backup.clone()),
            totals: self.totals,
            facts,
            packs,
            maps,
            files: self.take_files(),
        };
        let (header, plain) = content
            .encode()
            .map_err(|error| self.misuse(format!("its manifest cannot be written: {error}")))?;
        let key = self.store.manifest(&self.intent.backup);
        self.store
            .put_document(&key, Kind::Manifest, &[plain.into()])
            .await?;
        intent::withdraw(&self.store, &self.intent.backup).await?;
        Ok(header)
    }

    /// Gives the backup up and removes what it wrote. Sinks are aborted or finished before.
    ///
    /// # Errors
    /// `Storage`; what is left is then removed by upkeep.
    pub async fn abandon(self) -> Result<(), RepositoryError> {
        let keys = self.store.list_backup(&self.intent.backup).await?;
        let intent = self.store.intent(&self.intent.backup);
        let data: Vec<_> = keys
            .into_iter()
            .map(|meta| meta.key)
            .filter(|key| *key != intent)
            .collect();
        self.store.storage().delete(&data).await?;
        intent::withdraw(&self.store, &self.intent.backup).await
    }

    fn take_files(&mut self) -> Vec<FileEntry> {
        let left_out = std::mem::take(&mut self.left_out);
        let files = std::mem::take(&mut self.files).into_iter().zip(0..);
        files
            .filter(|(_, number)| !left_out.contains(&FileId(*number)))
            .map(|(file, _)| file)
            .collect()
    }

    fn sum_stored(&mut self, packs: &[PackEntry], maps: &[MapEntry]) {
        let packs = packs.iter().map(|pack| (&pack.id, pack.size));
        for (id, size) in packs.chain(maps.iter().map(|map| (&map.id, map.size))) {
            if id.backup == self.intent.backup {
                self.totals.new_stored += size;
            } else {
                self.totals.referenced_stored += size;
            }
        }
    }

    fn count_file(&mut self, meta: &FileMeta, size: u64) {
        if meta.kind == EntryKind::File {
            self.totals.files += 1;
            self.totals.bytes += size;
        }
    }

    fn parent(&self) -> Result<Arc<BackupReader>, RepositoryError> {
        self.parent
            .clone()
            .ok_or_else(|| self.misuse("a full backup was told to keep bytes of a parent".to_owned()))
    }

    fn misuse(&self, problem: String) -> RepositoryError {
        RepositoryError::Backup {
            backup: self.intent.backup.to_string(),
            problem,
        }
    }
}

/// Length of a part of a file as the parent has it.
fn base_len(base: &FileEntry, index: usize) -> u64 {
    part_lens(base.size).nth(index).unwrap_or(0)
}

/// Sorts placements into the parts they lie in, cutting those that cross a border; offsets are then within the part.
fn split_by_part(placements: Vec<Placement>) -> HashMap<u64, Vec<Placement>> {
    let mut parts: HashMap<u64, Vec<Placement>> = HashMap::new();
    for mut placement in placements {
        while placement.len > 0 {
            let (part, begin) = (placement.begin / PART_LEN, placement.begin % PART_LEN);
            let len = placement.len.min(PART_LEN - begin);
            parts.entry(part).or_default().push(Placement {
                begin,
                len,
                ..placement
            });
            placement.begin += len;
            placement.len -= len;
            // Only what lies in a frame is cut, and that is shorter than a part.
            placement.at = placement
                .at
                .map(|(frame, offset)| (frame, offset.saturating_add(len as u32)));
        }
    }
    for placements in parts.values_mut() {
        placements.sort_unstable_by_key(|placement| placement.begin);
    }
    parts
}

fn describe(path: &str, part: usize, uncovered: Uncovered) -> String {
    let part_begin = part as u64 * PART_LEN;
    match uncovered {
        Uncovered::Missing { begin, end } => {
            format!(
                "{path}: bytes {}..{} were not given",
                part_begin + begin,
                part_begin + end
            )
        }
        Uncovered::Misplaced { begin } => {
            format!(
                "{path}: bytes at {} were given twice or lie past its end",
                part_begin + begin
            )
        }
    }
}
