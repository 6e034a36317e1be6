//! The header that every binary object begins with, and whole small objects sealed behind it.
//!
//! The header rides in a zstd skippable frame (RFC 8878 section 3.1.2), so that an object that is not encrypted is a
//! valid zstd stream and `zstd -d` gives back the plain bytes. All integers are little-endian. `docs/FORMAT.md`
//! describes the same bytes for a stranger.
//!
//! Encryption is not written yet, but has its place: `cipher`, `key id` and `salt`. A reader refuses an object whose
//! cipher it does not know instead of guessing.

use std::cell::RefCell;
use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use zstd::zstd_safe::{self, CCtx, CParameter, InBuffer, OutBuffer};

use crate::error::RepositoryError;

/// Magic number of the skippable frame that holds the header (one of the sixteen that RFC 8878 leaves to users).
pub const HEADER_FRAME_MAGIC: u32 = 0x184D_2A5B;
/// The first bytes inside that frame.
const MAGIC: &[u8; 8] = b"TIDEMARK";
/// The newest format version that this program writes and reads.
pub const FORMAT_VERSION: u16 = 1;
/// Length of the header's content, without the eight bytes of the skippable frame around it.
const CONTENT_LEN: usize = 8 + 2 + 1 + 1 + 1 + 3 + 16 + 32 + 16 + 8 + 8 + 32 + 16 + 8;
/// Length of the header as stored: its bytes lead every binary object.
pub const HEADER_LEN: usize = 8 + CONTENT_LEN;
/// Stands for a length that was not known when the header was written.
const UNKNOWN: u64 = u64::MAX;

/// What an object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Bytes `[begin, end)` of one log file.
    Slice = 1,
    /// A file that belongs to a branch: timeline history, backup history, partial segment.
    BranchFile = 2,
    /// Which blocks one grain of log changed.
    Changes = 3,
    /// Frames of a base backup.
    Pack = 4,
    /// Where in packs the ranges of files lie.
    Map = 5,
    /// The document that commits a base backup.
    Manifest = 6,
    /// Names of relations.
    Names = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::{BranchFile, Changes, Manifest, Map, Names, Pack, Slice};
        [Slice, BranchFile, Changes, Pack, Map, Manifest, Names]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// BLAKE3 of an object's plain bytes.
pub type PlainHash = [u8; 32];
/// The first half of the BLAKE3 of an object's bytes behind the header.
pub type StoredHash = [u8; 16];

/// The header of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the object holds.
    pub kind: Kind,
    /// Names the object for encryption; also tells two attempts apart. Fixed before the first attempt to write.
    pub object_id: [u8; 16],
    /// Length of the plain bytes; `None` for objects that are written in pieces (packs).
    pub plain_len: Option<u64>,
    /// Length of what follows the header; `None` for objects that are written in pieces.
    pub stored_len: Option<u64>,
    /// BLAKE3 of the plain bytes; zero for objects that are written in pieces, whose frames carry their own.
    pub plain_hash: PlainHash,
    /// First half of the BLAKE3 of what follows the header: a flipped bit that decompression forgives is found too.
    /// Zero for objects that are written in pieces.
    pub stored_hash: StoredHash,
}

impl Header {
    /// The header of an object that is written in pieces.
    pub fn streamed(kind: Kind, object_id: [u8; 16]) -> Header {
        Header {
            kind,
            object_id,
            plain_len: None,
            stored_len: None,
            plain_hash: [0; 32],
            stored_hash: [0; 16],
        }
    }

    /// The bytes as stored, skippable frame included.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = BytesMut::with_capacity(HEADER_LEN);
        out.put_u32_le(HEADER_FRAME_MAGIC);
        out.put_u32_le(CONTENT_LEN as u32);
        out.put_slice(MAGIC);
        out.put_u16_le(FORMAT_VERSION);
        out.put_u8(self.kind as u8);
        out.put_u8(1); // codec: zstd
        out.put_u8(0); // cipher: none
        out.put_bytes(0, 3); // reserved
        out.put_bytes(0, 16); // key id
        out.put_bytes(0, 32); // salt
        out.put_slice(&self.object_id);
        out.put_u64_le(self.plain_len.unwrap_or(UNKNOWN));
        out.put_u64_le(self.stored_len.unwrap_or(UNKNOWN));
        out.put_slice(&self.plain_hash);
        out.put_slice(&self.stored_hash);
        let check = blake3::hash(&out);
        out.put_slice(&check.as_bytes()[..8]);
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(&out);
        bytes
    }

    /// Reads the header at the front of `bytes`; `object` names it in errors.
    ///
    /// # Errors
    /// `Damaged`, `TooNew` or `Encrypted`.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Header, RepositoryError> {
        let damaged = |problem: &str| RepositoryError::damaged(object, problem);
        let stored: &[u8; HEADER_LEN] = bytes
            .first_chunk()
            .ok_or_else(|| damaged("it is shorter than an object's header"))?;
        let mut fields = Fields(stored);
        if fields.u32() != HEADER_FRAME_MAGIC
            || fields.u32() != CONTENT_LEN as u32
            || fields.take::<8>() != *MAGIC
        {
            return Err(damaged("it does not begin with a tidemark header"));
        }
        let (content, check) = stored.split_at(HEADER_LEN - 8);
        if blake3::hash(content).as_bytes()[..8] != *check {
            return Err(damaged("the check of its header fails"));
        }
        let version = u16::from_le_bytes(fields.take());
        if version > FORMAT_VERSION {
            return Err(RepositoryError::TooNew {
                object: object.to_owned(),
                found: version,
                supported: FORMAT_VERSION,
            });
        }
        let [kind, codec, cipher] = fields.take();
        if cipher != 0 {
            return Err(RepositoryError::Encrypted {
                object: object.to_owned(),
            });
        }
        let kind = Kind::from_byte(kind).ok_or_else(|| damaged("its kind is unknown"))?;
        if codec != 1 {
            return Err(damaged("its codec is unknown"));
        }
        fields.take::<{ 3 + 16 + 32 }>();
        let object_id = fields.take();
        let known = |value: u64| (value != UNKNOWN).then_some(value);
        let (plain_len, stored_len) = (known(fields.u64()), known(fields.u64()));
        Ok(Header {
            kind,
            object_id,
            plain_len,
            stored_len,
            plain_hash: fields.take(),
            stored_hash: fields.take(),
        })
    }
}

/// Walks over the fields of a header, whose length was checked before.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

thread_local! {
    /// One compression context per thread: making one costs more than compressing a small slice.
    static CONTEXT: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
}

/// Seals the concatenation of `chunks` into one object: header and zstd frame. CPU work: call it off the reactor.
///
/// # Errors
/// `Codec` when zstd fails, which it does for lack of memory only.
pub fn seal(
    kind: Kind,
    object_id: [u8; 16],
    chunks: &[Bytes],
    level: i32,
) -> Result<Sealed, RepositoryError> {
    let mut hasher = blake3::Hasher::new();
    for chunk in chunks {
        hasher.update(chunk);
    }
    let plain_hash = *hasher.finalize().as_bytes();
    let plain_len: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
    let compressed = CONTEXT
        .with_borrow_mut(|context| compress(context, chunks, plain_len, level))
        .map_err(|source| RepositoryError::Codec {
            object: format!("{kind:?}"),
            source,
        })?;
    let stored_len = (compressed.len() - HEADER_LEN) as u64;
    let header = Header {
        kind,
        object_id,
        plain_len: Some(plain_len),
        stored_len: Some(stored_len),
        plain_hash,
        stored_hash: hash_stored(&compressed[HEADER_LEN..]),
    };
    let mut bytes = compressed;
    bytes[..HEADER_LEN].copy_from_slice(&header.encode());
    Ok(Sealed {
        bytes: bytes.into(),
        header,
    })
}

fn hash_stored(body: &[u8]) -> StoredHash {
    let mut hash = [0; 16];
    hash.copy_from_slice(&blake3::hash(body).as_bytes()[..16]);
    hash
}

/// An object ready to be written.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// The whole object.
    pub bytes: Bytes,
    /// The header at its front.
    pub header: Header,
}

/// Compresses `chunks` into one frame behind room for the header.
fn compress(
    context: &mut CCtx<'static>,
    chunks: &[Bytes],
    plain_len: u64,
    level: i32,
) -> io::Result<Vec<u8>> {
    let failed = |code| io::Error::other(zstd_safe::get_error_name(code));
    context
        .reset(zstd_safe::ResetDirective::SessionAndParameters)
        .map_err(failed)?;
    context
        .set_parameter(CParameter::CompressionLevel(level))
        .map_err(failed)?;
    context.set_pledged_src_size(Some(plain_len)).map_err(failed)?;
    let bound = zstd_safe::compress_bound(usize::try_from(plain_len).map_err(io::Error::other)?);
    // Log compresses well: begin with a quarter and grow, so that a slice does not hold memory that it never fills.
    let mut out = Vec::with_capacity(HEADER_LEN + bound / 4 + 1024);
    out.resize(HEADER_LEN, 0);
    let mut window = vec![0; zstd_safe::CCtx::out_size()];
    for chunk in chunks {
        let mut input = InBuffer::around(chunk);
        while input.pos() < chunk.len() {
            let mut output = OutBuffer::around(&mut window[..]);
            context.compress_stream(&mut output, &mut input).map_err(failed)?;
            out.extend_from_slice(output.as_slice());
        }
    }
    loop {
        let mut output = OutBuffer::around(&mut window[..]);
        let left = context.end_stream(&mut output).map_err(failed)?;
        out.extend_from_slice(output.as_slice());
        if left == 0 {
            return Ok(out);
        }
    }
}

/// Opens an object made by [`seal`] and proves its content. `plain_len_max` bounds what is allocated; `object` names
/// it in errors. CPU work: call it off the reactor.
///
/// # Errors
/// `Damaged` when anything does not fit, `TooNew`, `Encrypted`.
pub fn open(object: &str, kind: Kind, bytes: &[u8], plain_len_max: u64) -> Result<Vec<u8>, RepositoryError> {
    let header = Header::decode(object, bytes)?;
    let damaged = |problem: String| RepositoryError::damaged(object, problem);
    if header.kind != kind {
        return Err(damaged(format!(
            "it holds a {:?} where a {kind:?} was expected",
            header.kind
        )));
    }
    let body = &bytes[HEADER_LEN..];
    if header.stored_len != Some(body.len() as u64) {
        return Err(damaged(format!(
            "it holds {} bytes where {:?} were expected",
            body.len(),
            header.stored_len
        )));
    }
    if hash_stored(body) != header.stored_hash {
        return Err(damaged("its stored bytes do not match their hash".to_owned()));
    }
    let plain_len = header
        .plain_len
        .filter(|len| *len <= plain_len_max)
        .and_then(|len| usize::try_from(len).ok())
        .ok_or_else(|| damaged(format!("its length {:?} is impossible", header.plain_len)))?;
    let mut plain = Vec::with_capacity(plain_len);
    zstd::bulk::Decompressor::new()
        .and_then(|mut decompressor| decompressor.decompress_to_buffer(body, &mut plain))
        .map_err(|error| damaged(format!("it does not decompress: {error}")))?;
    if plain.len() != plain_len || *blake3::hash(&plain).as_bytes() != header.plain_hash {
        return Err(damaged("its content does not match its hash".to_owned()));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(plain: &[u8]) -> Sealed {
        let chunks: Vec<Bytes> = plain.chunks(1000).map(Bytes::copy_from_slice).collect();
        seal(Kind::Slice, [7; 16], &chunks, 1).unwrap()
    }

    #[test]
    fn a_sealed_object_is_a_valid_zstd_stream() {
        let plain = b"the quick brown fox ".repeat(10_000);
        let decoded = zstd::stream::decode_all(&sealed(&plain).bytes[..]).unwrap();
        assert_eq!(decoded, plain);
    }

    #[test]
    fn a_wrong_kind_is_refused() {
        let object = sealed(b"x");
        let error = open("servers/a/x", Kind::Manifest, &object.bytes, 10).unwrap_err();
        assert!(
            error.to_string().contains("holds a Slice where a Manifest"),
            "{error}"
        );
    }

    #[test]
    fn a_later_format_says_so() {
        let mut bytes = sealed(b"x").bytes.to_vec();
        bytes[16] = 9;
        let check = blake3::hash(&bytes[..HEADER_LEN - 8]);
        bytes[HEADER_LEN - 8..HEADER_LEN].copy_from_slice(&check.as_bytes()[..8]);
        assert!(matches!(
            open("x", Kind::Slice, &bytes, 10),
            Err(RepositoryError::TooNew { found: 9, .. })
        ));
    }

    proptest! {
        #[test]
        fn what_is_sealed_comes_back(plain in proptest::collection::vec(any::<u8>(), 0..5000)) {
            prop_assert_eq!(open("x", Kind::Slice, &sealed(&plain).bytes, 5000).unwrap(), plain);
        }

        #[test]
        fn one_flipped_bit_is_found(plain in proptest::collection::vec(0u8..4, 0..3000), bit: prop::sample::Index) {
            let mut bytes = sealed(&plain).bytes.to_vec();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(open("x", Kind::Slice, &bytes, 5000).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = open("x", Kind::Slice, &bytes, 5000);
            let mut framed = sealed(b"abc").bytes.to_vec();
            framed.truncate(HEADER_LEN);
            framed.extend_from_slice(&bytes);
            prop_assert!(open("x", Kind::Slice, &framed, 5000).is_err());
        }
    }
}
