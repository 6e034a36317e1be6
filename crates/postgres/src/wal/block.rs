//! Block references: which page of which relation file a record touches.
//!
//! Layout: `access/xlogrecord.h`; the checks are those of `DecodeXLogRecord` in the server's `xlogreader.c`. Page
//! images are stepped over, never unpacked: Tidemark asks which block changed, the server redoes it.

use std::fmt;

use super::version::WalVersion;
use tidemark_types::ByteReader;

/// A relation's files, as the server locates them (`RelFileLocator`; `RelFileNode` before 16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Relation {
    /// OID of the tablespace.
    pub tablespace: u32,
    /// OID of the database; zero for shared catalogs.
    pub database: u32,
    /// The relation's file number, which is its OID only until it is first rewritten.
    pub number: u32,
}

/// As `pg_waldump` prints it: `1663/5/16384`.
impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tablespace, self.database, self.number)
    }
}

/// The size of a relation in a record.
pub(crate) const RELATION_BYTES: usize = 12;

impl Relation {
    #[inline]
    pub(crate) fn read(reader: &mut ByteReader<'_>) -> Option<Relation> {
        Some(Relation {
            tablespace: reader.u32()?,
            database: reader.u32()?,
            number: reader.u32()?,
        })
    }
}

/// One of a relation's files (`common/relpath.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fork {
    /// The data.
    Main,
    /// The free-space map, `_fsm`.
    FreeSpace,
    /// The visibility map, `_vm`.
    Visibility,
    /// What an unlogged relation is reset to, `_init`.
    Init,
}

impl Fork {
    /// Every fork, in the order of their numbers.
    pub const ALL: [Fork; 4] = [Fork::Main, Fork::FreeSpace, Fork::Visibility, Fork::Init];

    /// The fork with this number.
    pub fn from_number(number: u32) -> Option<Fork> {
        usize::try_from(number)
            .ok()
            .and_then(|index| Fork::ALL.get(index).copied())
    }

    /// Its name, as `pg_waldump` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Fork::Main => "main",
            Fork::FreeSpace => "fsm",
            Fork::Visibility => "vm",
            Fork::Init => "init",
        }
    }
}

/// A page that a record changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRef {
    /// Its number in the record, from zero to 32.
    pub id: u8,
    /// The relation.
    pub relation: Relation,
    /// The fork of the relation.
    pub fork: Fork,
    /// The page's number in the fork, over all its segment files.
    pub block: u32,
    /// Bytes of page image in the record; `None` when it carries none.
    pub image_bytes: Option<u16>,
    /// Redo begins with an empty page.
    pub will_init: bool,
}

const ID_MAX: u8 = 32;
const ID_TOP_LEVEL_XID: u8 = 252;
const ID_ORIGIN: u8 = 253;
const ID_DATA_LONG: u8 = 254;
const ID_DATA_SHORT: u8 = 255;

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_RELATION: u8 = 0x80;

const IMAGE_HAS_HOLE: u8 = 0x01;

/// Whether a page image's flags say that it is compressed. The flags were renumbered in 15.
fn is_compressed(version: WalVersion, image_flags: u8) -> bool {
    match version {
        WalVersion::V13 | WalVersion::V14 => image_flags & 0x02 != 0,
        // pglz, lz4, zstd
        _ => image_flags & (0x04 | 0x08 | 0x10) != 0,
    }
}

/// What the headers between a record's fixed header and its data say.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RecordLayout {
    /// The transaction that the record's subtransaction belongs to, when it is the first record to say so.
    pub(crate) top_level_xid: Option<u32>,
    /// Bytes of main data, at the end of the record.
    pub(crate) main_bytes: usize,
}

/// Parses the headers at the start of `body` (a record after its fixed header) into `blocks`. `body_bytes` is the
/// body's whole length, of which `body` may be a beginning.
///
/// # Errors
/// What makes no sense.
#[inline]
pub(crate) fn read_layout(
    body: &[u8],
    body_bytes: usize,
    version: WalVersion,
    blocks: &mut Vec<BlockRef>,
) -> Result<RecordLayout, &'static str> {
    blocks.clear();
    let mut reader = ByteReader::new(body);
    let mut layout = RecordLayout::default();
    let mut data_bytes = 0usize;
    let cut = "headers longer than the record";
    // The headers end where what they announce fills the rest of the record.
    loop {
        let consumed = body.len() - reader.rest().len();
        if body_bytes.saturating_sub(consumed) <= data_bytes {
            let is_exact = body_bytes - consumed == data_bytes;
            return is_exact
                .then_some(layout)
                .ok_or("headers announce more data than the record holds");
        }
        match reader.u8().ok_or(cut)? {
            ID_DATA_SHORT => {
                layout.main_bytes = reader.u8().ok_or(cut)?.into();
                data_bytes += layout.main_bytes;
            }
            ID_DATA_LONG => {
                layout.main_bytes = usize::try_from(reader.u32().ok_or(cut)?).map_err(|_| cut)?;
                data_bytes = data_bytes.saturating_add(layout.main_bytes);
            }
            ID_ORIGIN => {
                reader.u16().ok_or(cut)?;
                continue;
            }
            ID_TOP_LEVEL_XID if version >= WalVersion::V14 => {
                layout.top_level_xid = Some(reader.u32().ok_or(cut)?);
                continue;
            }
            id if id <= ID_MAX => {
                let (block, bytes) = read_block(id, &mut reader, version, blocks.last())?;
                blocks.push(block);
                data_bytes = data_bytes.saturating_add(bytes);
                continue;
            }
            _ => return Err("unknown block id"),
        }
        // Main data is announced last.
        let consumed = body.len() - reader.rest().len();
        return (body_bytes.checked_sub(consumed) == Some(data_bytes))
            .then_some(layout)
            .ok_or("headers and data do not add up to the record's length");
    }
}

/// One block header after its id; with it, the bytes of image and data that it announces.
#[inline]
fn read_block(
    id: u8,
    reader: &mut ByteReader<'_>,
    version: WalVersion,
    previous: Option<&BlockRef>,
) -> Result<(BlockRef, usize), &'static str> {
    let cut = "a block header longer than the record";
    if previous.is_some_and(|previous| previous.id >= id) {
        return Err("block ids out of order");
    }
    let flags = reader.u8().ok_or(cut)?;
    let data_bytes = reader.u16().ok_or(cut)?;
    if (flags & HAS_DATA != 0) != (data_bytes > 0) {
        return Err("a block's data flag and data length disagree");
    }
    let image_bytes = if flags & HAS_IMAGE == 0 {
        None
    } else {
        let length = reader.u16().ok_or(cut)?;
        let _hole_offset = reader.u16().ok_or(cut)?;
        let image_flags = reader.u8().ok_or(cut)?;
        if is_compressed(version, image_flags) && image_flags & IMAGE_HAS_HOLE != 0 {
            reader.u16().ok_or(cut)?;
        }
        Some(length)
    };
    let relation = if flags & SAME_RELATION == 0 {
        Relation::read(reader).ok_or(cut)?
    } else {
        previous
            .ok_or("the first block refers to the relation of the block before it")?
            .relation
    };
    let block = BlockRef {
        id,
        relation,
        fork: Fork::from_number((flags & FORK_MASK).into()).ok_or("unknown fork number")?,
        block: reader.u32().ok_or(cut)?,
        image_bytes,
        will_init: flags & WILL_INIT != 0,
    };
    Ok((
        block,
        usize::from(data_bytes) + usize::from(image_bytes.unwrap_or(0)),
    ))
}
