//! The manifest: the document that makes a base backup exist.
//!
//! Stored as JSON lines in one sealed object: the header, then one line per pack, per map object and per file (sorted
//! by path), then the end. Read whole, parsed line by line: memory follows the number of files, not their size.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tidemark_types::Timestamp;

use super::id::{BackupId, PartId};
use crate::error::RepositoryError;

/// Version of the manifest's lines.
const VERSION: u32 = 1;

/// Whether a backup stores everything, or lays changes over its parent's maps. Both restore alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// Every byte is in its own packs.
    Full,
    /// Unchanged bytes lie in packs of earlier backups.
    Incremental,
}

/// A point in a server's log, in the terms that slices are stored by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPosition {
    /// The branch (timeline).
    pub branch: u32,
    /// The log file's number.
    pub file: u64,
    /// The byte offset in it.
    pub offset: u64,
    /// The same point as the engine writes it, such as an LSN.
    pub text: String,
}

/// What the caller knows about the backup when it is complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupFacts {
    /// `postgresql`, `mysql` or `mariadb`.
    pub engine: String,
    /// The server's version, as it calls itself.
    pub server_version: String,
    /// Log is needed from here to restore this backup.
    pub begin: LogPosition,
    /// And at least up to here: no target before it can be reached from this backup.
    pub end: LogPosition,
    /// When the backup began.
    pub started: Timestamp,
    /// When its last byte of data had been read.
    pub stopped: Timestamp,
    /// Whatever else the engine's restore needs; only it reads this.
    #[serde(default)]
    pub engine_facts: serde_json::Value,
}

/// Sums over a backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Files, without directories and links.
    pub files: u64,
    /// Their sizes, in bytes.
    pub bytes: u64,
    /// Bytes of files that this backup stored itself.
    pub new_bytes: u64,
    /// Bytes of packs and maps that it wrote.
    pub new_stored: u64,
    /// Bytes of earlier backups' packs and maps that it refers to.
    pub referenced_stored: u64,
}

/// The first line of a manifest: all that choosing a backup needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupHeader {
    /// Version of the lines that follow.
    pub version: u32,
    /// The backup's name.
    pub backup: BackupId,
    /// Full or incremental.
    pub kind: BackupKind,
    /// The backup whose maps an incremental one was laid over.
    pub parent: Option<BackupId>,
    /// Sums.
    pub totals: Totals,
    /// What the caller said.
    #[serde(flatten)]
    pub facts: BackupFacts,
}

/// A pack that the backup's maps name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackEntry {
    /// Which pack.
    #[serde(flatten)]
    pub id: PartId,
    /// Length of the object in bytes.
    pub size: u64,
    /// Number of frames in it.
    pub frames: u32,
    /// Where its table of page hashes begins; it ends with the object.
    pub hashes: u64,
    /// The object id in its header, hexadecimal. Encryption will bind frames to it.
    pub object_id: String,
    /// Salt of its key, hexadecimal; reserved for encryption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
    /// Id of its key; reserved for encryption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
}

/// A map object that the backup's files name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapEntry {
    /// Which map object.
    #[serde(flatten)]
    pub id: PartId,
    /// Length of the object in bytes.
    pub size: u64,
    /// Indices into the manifest's pack table of the packs that it names.
    pub packs: Vec<u32>,
}

/// Where the map of one part of a file lies: index into the map table, offset and length of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(u32, u32, u32)", into = "(u32, u32, u32)")]
pub struct PartRef {
    /// Index into the manifest's map table.
    pub map: u32,
    /// Where in the object's records the part's begins.
    pub offset: u32,
    /// Its length.
    pub len: u32,
}

impl From<(u32, u32, u32)> for PartRef {
    fn from((map, offset, len): (u32, u32, u32)) -> PartRef {
        PartRef { map, offset, len }
    }
}

impl From<PartRef> for (u32, u32, u32) {
    fn from(part: PartRef) -> (u32, u32, u32) {
        (part.map, part.offset, part.len)
    }
}

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A file with bytes.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, and where it leads.
    Link(String),
}

/// A path of the backup without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    /// The path relative to the data directory, with `/` between its parts; unique within a backup.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// When it was last modified.
    pub modified: Timestamp,
    /// The engine's own word for what it is for; only the engine's restore reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// A path of the backup and where its bytes lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// What it is.
    #[serde(flatten)]
    pub meta: FileMeta,
    /// Length in bytes.
    pub size: u64,
    /// The maps of its parts, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartRef>,
}

/// One line of a manifest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Header(Box<BackupHeader>),
    Pack(PackEntry),
    Map(MapEntry),
    File(FileEntry),
    End { files: u64 },
}

/// A manifest that was read (or is about to be written): header and tables in memory, file lines parsed as they are
/// asked for.
#[derive(Debug)]
pub struct Manifest {
    object: String,
    header: BackupHeader,
    packs: Vec<PackEntry>,
    pack_index: HashMap<PartId, u32>,
    maps: Vec<MapEntry>,
    plain: Vec<u8>,
    files_begin: usize,
}

impl Manifest {
    /// The header.
    pub fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// The packs its maps name.
    pub fn packs(&self) -> &[PackEntry] {
        &self.packs
    }

    /// The map objects its files name.
    pub fn maps(&self) -> &[MapEntry] {
        &self.maps
    }

    /// Index of a pack in [`Manifest::packs`].
    pub(super) fn pack_index(&self, id: &PartId) -> Option<u32> {
        self.pack_index.get(id).copied()
    }

    /// Its files, directories and links, sorted by path; parsed one by one.
    ///
    /// The end line was found when the manifest was read, so that a list that ends is complete.
    pub fn files(&self) -> impl Iterator<Item = Result<FileEntry, RepositoryError>> + '_ {
        lines(self.plain.get(self.files_begin..).unwrap_or_default()).map_while(|line| {
            match parse(&self.object, line) {
                Ok(Line::File(file)) => Some(Ok(file)),
                Ok(Line::End { .. }) => None,
                Ok(_) => Some(Err(RepositoryError::damaged(
                    &self.object,
                    "a table line follows a file line",
                ))),
                Err(error) => Some(Err(error)),
            }
        })
    }

    /// Reads the plain bytes of the manifest stored as `object`.
    ///
    /// # Errors
    /// `Damaged` when lines are missing, out of order or malformed; `TooNew`.
    pub(super) fn decode(object: &str, plain: Vec<u8>) -> Result<Manifest, RepositoryError> {
        let damaged = |problem: &str| RepositoryError::damaged(object, problem);
        let mut at = 0;
        let header = decode_header(object, lines(&plain).next().unwrap_or_default())?;
        let (mut packs, mut maps) = (Vec::new(), Vec::new());
        for (index, line) in lines(&plain).enumerate() {
            match parse(object, line)? {
                Line::Header(_) if index == 0 => {}
                Line::Pack(pack) => packs.push(pack),
                Line::Map(map) => maps.push(map),
                Line::File(_) | Line::End { .. } => break,
                Line::Header(_) => return Err(damaged("it has two headers")),
            }
            at += line.len() + 1;
        }
        let end = lines(&plain).next_back().map(|line| parse(object, line));
        let Some(Ok(Line::End { files })) = end else {
            return Err(damaged("its end is missing"));
        };
        let rest = plain.get(at..).unwrap_or_default();
        if lines(rest).count() as u64 != files.saturating_add(1) {
            return Err(damaged("it lists another number of files than it says"));
        }
        if maps
            .iter()
            .flat_map(|map| &map.packs)
            .any(|pack| *pack as usize >= packs.len())
        {
            return Err(damaged("a map names a pack that is not listed"));
        }
        let pack_index = packs
            .iter()
            .zip(0..)
            .map(|(pack, index)| (pack.id.clone(), index))
            .collect();
        Ok(Manifest {
            object: object.to_owned(),
            header,
            packs,
            pack_index,
            maps,
            plain,
            files_begin: at,
        })
    }

    /// The manifest's key, for errors.
    pub(super) fn object(&self) -> &str {
        &self.object
    }
}

/// Reads a manifest's first line.
pub(super) fn decode_header(object: &str, line: &[u8]) -> Result<BackupHeader, RepositoryError> {
    match parse(object, line)? {
        Line::Header(header) if header.version > VERSION => {
            let found = u16::try_from(header.version).unwrap_or(u16::MAX);
            Err(RepositoryError::TooNew {
                object: object.to_owned(),
                found,
                supported: VERSION as u16,
            })
        }
        Line::Header(header) => Ok(*header),
        _ => Err(RepositoryError::damaged(
            object,
            "it does not begin with a header",
        )),
    }
}

/// What a manifest is made of; [`ManifestContent::encode`] writes it.
pub(super) struct ManifestContent {
    pub(super) backup: BackupId,
    pub(super) kind: BackupKind,
    pub(super) parent: Option<BackupId>,
    pub(super) totals: Totals,
    pub(super) facts: BackupFacts,
    pub(super) packs: Vec<PackEntry>,
    pub(super) maps: Vec<MapEntry>,
    pub(super) files: Vec<FileEntry>,
}

impl ManifestContent {
    /// The header, and the plain bytes of the whole manifest.
    pub(super) fn encode(self) -> Result<(BackupHeader, Vec<u8>), serde_json::Error> {
        let ManifestContent {
            backup,
            kind,
            parent,
            totals,
            facts,
            packs,
            maps,
            mut files,
        } = self;
        let header = BackupHeader {
            version: VERSION,
            backup,
            kind,
            parent,
            totals,
            facts,
        };
        files.sort_unstable_by(|a, b| a.meta.path.cmp(&b.meta.path));
        let end = Line::End {
            files: files.len() as u64,
        };
        let all = std::iter::once(Line::Header(Box::new(header.clone())))
            .chain(packs.into_iter().map(Line::Pack))
            .chain(maps.into_iter().map(Line::Map))
            .chain(files.into_iter().map(Line::File))
            .chain(std::iter::once(end));
        let mut plain = Vec::new();
        for line in all {
            serde_json::to_writer(&mut plain, &line)?;
            plain.push(b'\n');
        }
        Ok((header, plain))
    }
}

/// The lines of a manifest, without the newline that ends each.
fn lines(plain: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    plain
        .strip_suffix(b"\n")
        .unwrap_or(plain)
        .split(|byte| *byte == b'\n')
}

fn parse(object: &str, line: &[u8]) -> Result<Line, RepositoryError> {
    serde_json::from_slice(line)
        .map_err(|error| RepositoryError::damaged(object, format!("a line cannot be read: {error}")))
}
