//! One file of a segment's length in the spool: whether it may be shipped, and whether it is what is stored.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use tidemark_postgres::wal::WalDecoder;
use tidemark_repository::log::{ChainHash, ChainKey, GRAIN_LEN, RunningHash, coverage};
use tidemark_repository::{LogPosition, SliceKey};
use tidemark_types::{ErrorClass, SegmentNumber, WalSegmentSize};

use super::access::denied;
use crate::exit::Failure;

/// Length of a long page header (`XLogLongPageHeaderData` in `xlog_internal.h`).
const LONG_HEADER_LEN: usize = 40;
/// How much is read at once.
pub const PIECE_LEN: usize = 256 << 10;

/// What every segment of one server has in common.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The system identifier that the archive belongs to.
    pub system_id: String,
    /// The segment size that the archive was begun with.
    pub size: WalSegmentSize,
}

impl Expected {
    /// Opens the file of `segment` (or its `.partial` one) and checks that it can belong to the archive. Blocking.
    ///
    /// # Errors
    /// `Conflict` when it does not: it stays, and somebody must look.
    pub fn open(&self, path: &Path, segment: SegmentNumber) -> anyhow::Result<File> {
        let mut file = File::open(path).map_err(|error| denied(error, "open", path))?;
        let len = file
            .metadata()
            .map_err(|error| denied(error, "look at", path))?
            .len();
        if len != self.size.bytes() {
            return Err(stranger(
                path,
                &format!("it has {len} bytes, and a segment has {}", self.size.bytes()),
            ));
        }
        let mut header = [0; LONG_HEADER_LEN];
        file.read_exact(&mut header)
            .map_err(|error| denied(error, "read", path))?;
        let mut decoder = WalDecoder::new(self.size.start_of(segment), self.size);
        decoder
            .next(&mut header.as_slice())
            .map_err(|error| stranger(path, &format!("its first page is not that segment's: {error}")))?;
        match decoder.page_info().and_then(|info| info.system_id) {
            Some(found) if found.to_string() == self.system_id => {}
            Some(found) => {
                let problem = format!(
                    "it comes from the cluster with system identifier {found}, and the archive belongs to {}",
                    self.system_id
                );
                return Err(stranger(path, &problem));
            }
            None => return Err(stranger(path, "its first page is empty")),
        }
        std::io::Seek::rewind(&mut file).map_err(|error| denied(error, "read", path))?;
        Ok(file)
    }
}

/// The chain's hash behind the log file at `path`, when it is `seed` before it. Blocking; reads all of the file.
///
/// # Errors
/// What the file system says.
pub fn chain_hash(mut file: File, path: &Path, key: ChainKey, seed: ChainHash) -> anyhow::Result<ChainHash> {
    let mut hash = RunningHash::new(key, seed);
    let mut buffer = vec![0; PIECE_LEN];
    let mut in_grain = 0;
    loop {
        // Never over a grain's border.
        let to_border = usize::try_from(GRAIN_LEN - in_grain).unwrap_or(usize::MAX);
        let wanted = to_border.min(buffer.len());
        let space = buffer.get_mut(..wanted).unwrap_or_default();
        let read = file.read(space).map_err(|error| denied(error, "read", path))?;
        let Some(piece) = space.get(..read).filter(|piece| !piece.is_empty()) else {
            return Ok(hash.current());
        };
        hash.update(piece);
        in_grain += piece.len() as u64;
        if in_grain == GRAIN_LEN {
            hash.next_grain();
            in_grain = 0;
        }
    }
}

fn stranger(path: &Path, problem: &str) -> anyhow::Error {
    Failure::new(
        ErrorClass::Conflict,
        format!("{} cannot be archived: {problem}", path.display()),
    )
    .hint("does another server archive into this spool? Move the file away once you know where it came from")
    .into()
}

/// The chain's hashes before and behind log file `file`, from the slices of that file; `None` when not all of it is
/// stored in one piece.
pub fn stored_hashes(slices: &mut [SliceKey], file: u64) -> Option<(ChainHash, ChainHash)> {
    let whole = coverage(slices).into_iter().find(|run| {
        run.begin.position == LogPosition::start_of(file)
            && run.end.position == LogPosition::start_of(file + 1)
    })?;
    Some((whole.begin.hash, whole.end.hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tidemark_repository::log::{Resume, SliceAssembler};

    const MIB: usize = 1 << 20;
    const KEY: ChainKey = ChainKey([5; 32]);

    fn expected() -> Expected {
        Expected {
            system_id: "77".to_owned(),
            size: WalSegmentSize::try_from(MIB as u64).expect("a segment size"),
        }
    }

    /// The first page of segment 3 of timeline 1, and nothing behind it.
    fn segment(system_id: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(0xD116_u16.to_le_bytes());
        bytes.extend(2_u16.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend((3 * MIB as u64).to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(system_id.to_le_bytes());
        bytes.extend((MIB as u32).to_le_bytes());
        bytes.extend(8192_u32.to_le_bytes());
        bytes.resize(MIB, 0);
        bytes
    }

    fn refusal(bytes: &[u8], number: u64) -> String {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("segment");
        fs::write(&path, bytes).expect("write the file");
        match expected().open(&path, SegmentNumber(number)) {
            Ok(_) => "none".to_owned(),
            Err(error) => {
                assert_eq!(crate::exit::class_of(&error), ErrorClass::Conflict);
                error
                    .to_string()
                    .rsplit_once("archived: ")
                    .expect("the form")
                    .1
                    .to_owned()
            }
        }
    }

    #[test]
    fn only_segments_of_the_archives_server_are_accepted() {
        assert_eq!(refusal(&segment(77), 3), "none");
        assert_eq!(
            refusal(&segment(78), 3),
            "it comes from the cluster with system identifier 78, and the archive belongs to 77"
        );
        assert_eq!(
            refusal(&segment(77)[..MIB - 1], 3),
            "it has 1048575 bytes, and a segment has 1048576"
        );
        assert_eq!(refusal(&vec![0; MIB], 3), "its first page is empty");
        let other = refusal(&segment(77), 4);
        assert!(
            other.starts_with("its first page is not that segment's: "),
            "{other}"
        );
    }

    #[test]
    fn a_file_leads_to_the_stored_hash_when_its_bytes_are_the_stored_ones() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("segment");
        let mut bytes = segment(77);
        bytes[MIB / 2] = 1;
        fs::write(&path, &bytes).expect("write the file");
        let mut assembler = SliceAssembler::new(KEY, Resume::origin(3));
        let mut slices = Vec::new();
        for piece in bytes.chunks(300_000) {
            assembler.push(piece).expect("nothing is stored yet");
            let ends_file = assembler.position().offset == MIB as u64;
            slices.extend(assembler.cut(0, ends_file).into_iter().map(|draft| draft.key));
        }
        let (seed, end) = stored_hashes(&mut slices.clone(), 3).expect("all of it is stored");
        let hash = |path: &Path| {
            let file = expected().open(path, SegmentNumber(3)).expect("a good segment");
            chain_hash(file, path, KEY, seed).expect("it can be read")
        };
        assert_eq!(hash(&path), end);
        bytes[MIB - 1] = 1;
        fs::write(&path, &bytes).expect("write the file");
        assert_ne!(hash(&path), end);
        slices.retain(|slice| slice.begin > 0);
        assert_eq!(stored_hashes(&mut slices, 3), None);
    }
}
