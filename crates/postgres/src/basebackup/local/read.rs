//! Reads the files of a running cluster, and checks pages as it goes.
//!
//! A server writes pages while we read them, so a page can be torn: half old, half new. Such a page is no damage; full
//! page images in WAL, which every server forces during a base backup, replace it at replay. But nothing *in* a page
//! that fails its checksum can be trusted to say so, its LSN least of all. Therefore a page that looks bad is read
//! again, with pauses far longer than one write takes, until it is whole, gone, or bad every time: then it is reported
//! ([`BadPage`]) and its bytes are kept as they are.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use tidemark_types::Lsn;

use super::scan::SourceFile;
use crate::basebackup::BaseBackupError;
use crate::page::{BlockNumber, PAGE_SIZE, Page, PageCheck, page_lsn, verify_page};

/// Pauses before each further look at pages that look bad: about half a second in all, shared by all bad pages of one
/// read, so that a file full of damage does not take hours.
const REREAD_PAUSES_MS: [u64; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/// A page that was bad every time it was read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BadPage {
    /// The file, by the path it is restored to.
    pub path: String,
    /// The block, counted across the segments of the fork.
    pub block: u32,
    /// The checksum on the page.
    pub stored: u16,
    /// The checksum its content gives.
    pub computed: u16,
    /// The LSN on the page, for whoever looks into it; not to be trusted.
    pub lsn: Lsn,
}

/// What one read gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PagesRead {
    /// Bytes at the front of the buffer that were filled. Less than the buffer holds: the file ends there by now.
    pub bytes: usize,
    /// Pages among them that are bad.
    pub bad: Vec<BadPage>,
}

/// An open file of the cluster. Reads take `&self`: several threads may read ranges of one file.
#[derive(Debug)]
pub struct SourceReader {
    file: File,
    location: PathBuf,
    path: String,
    /// The number of the file's first block, if pages are to be verified.
    first_block: Option<u32>,
}

impl SourceReader {
    /// Opens `source`; `None` when it was dropped since it was listed, which is no error. With `verify`, the pages of
    /// relation files are checked: pass [`crate::control_file::ControlFile::has_data_checksums`].
    ///
    /// # Errors
    /// [`BaseBackupError::Io`].
    pub fn open(
        source: &SourceFile,
        pages_per_segment: u32,
        verify: bool,
    ) -> Result<Option<SourceReader>, BaseBackupError> {
        let file = match File::open(&source.location) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BaseBackupError::io("open", &source.location, error)),
        };
        let segment = source.kind.segment().filter(|_| verify);
        Ok(Some(SourceReader {
            file,
            location: source.location.clone(),
            path: source.path.clone(),
            first_block: segment.map(|segment| segment.number.wrapping_mul(pages_per_segment)),
        }))
    }

    /// Fills `buffer` from `offset` on, verifies the whole pages in it, and reads again those that look torn. Blocks,
    /// for about half a second when pages stay bad. `offset` is a multiple of [`PAGE_SIZE`] where pages are verified.
    ///
    /// # Errors
    /// [`BaseBackupError::Io`]. Bad pages are a finding, not an error.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<PagesRead, BaseBackupError> {
        let bytes = self.fill(offset, buffer)?;
        let mut read = PagesRead {
            bytes,
            bad: Vec::new(),
        };
        let Some(first_block) = self.first_block else {
            return Ok(read);
        };
        debug_assert!(offset.is_multiple_of(PAGE_SIZE as u64));
        let first = first_block.wrapping_add(u32::try_from(offset / PAGE_SIZE as u64).unwrap_or(u32::MAX));
        let mut suspects = suspects(&buffer[..bytes], first);
        for pause in REREAD_PAUSES_MS {
            if suspects.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(pause));
            self.read_again(offset, first, buffer, &mut read.bytes, &mut suspects)?;
        }
        read.bad = suspects
            .into_iter()
            .filter_map(|index| self.finding(buffer, first, index))
            .collect();
        Ok(read)
    }

    /// Reads the suspect pages once more and keeps those that still look bad. A page that is gone (the file was
    /// truncated) ends what was read there.
    fn read_again(
        &self,
        offset: u64,
        first: u32,
        buffer: &mut [u8],
        bytes: &mut usize,
        suspects: &mut Vec<usize>,
    ) -> Result<(), BaseBackupError> {
        let (pages, _) = buffer.as_chunks_mut::<PAGE_SIZE>();
        let mut still_bad = Vec::new();
        for &index in suspects.iter() {
            let Some(page) = pages.get_mut(index) else {
                continue;
            };
            let mut fresh = [0; PAGE_SIZE];
            let position = index * PAGE_SIZE;
            if self.fill(offset.saturating_add(position as u64), &mut fresh)? < PAGE_SIZE {
                *bytes = (*bytes).min(position);
                break;
            }
            *page = fresh;
            if let PageCheck::Bad { .. } = verify_page(page, block_at(first, index)) {
                still_bad.push(index);
            }
        }
        *suspects = still_bad;
        Ok(())
    }

    fn finding(&self, buffer: &[u8], first: u32, index: usize) -> Option<BadPage> {
        let page: &Page = buffer.as_chunks::<PAGE_SIZE>().0.get(index)?;
        let block = block_at(first, index);
        match verify_page(page, block) {
            PageCheck::Bad { stored, computed } => Some(BadPage {
                path: self.path.clone(),
                block: block.0,
                stored,
                computed,
                lsn: page_lsn(page),
            }),
            PageCheck::Valid | PageCheck::New => None,
        }
    }

    /// Reads until the buffer is full or the file ends.
    fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, BaseBackupError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(BaseBackupError::io("read", &self.location, error)),
            }
        }
        Ok(filled)
    }
}

/// Indexes of the whole pages that look bad.
fn suspects(bytes: &[u8], first: u32) -> Vec<usize> {
    let (pages, _) = bytes.as_chunks::<PAGE_SIZE>();
    let looks_bad = |(index, page): (usize, &Page)| {
        matches!(verify_page(page, block_at(first, index)), PageCheck::Bad { .. }).then_some(index)
    };
    pages.iter().enumerate().filter_map(looks_bad).collect()
}

fn block_at(first: u32, index: usize) -> BlockNumber {
    BlockNumber(first.wrapping_add(u32::try_from(index).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::basebackup::rules::kind_of;
    use crate::page::page_checksum;
    use tidemark_types::Timestamp;

    fn page(block: u32, fill: u8) -> Page {
        let mut page = [fill; PAGE_SIZE];
        let sum = page_checksum(&page, BlockNumber(block));
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    fn source(directory: &tempfile::TempDir, path: &str, bytes: &[u8]) -> SourceFile {
        let location = directory.path().join("file");
        std::fs::write(&location, bytes).unwrap();
        SourceFile {
            path: path.to_owned(),
            location,
            size: bytes.len() as u64,
            mode: 0o600,
            modified: Timestamp(0),
            kind: kind_of(path),
        }
    }

    #[test]
    fn a_page_that_stays_bad_is_reported_with_its_block() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes: Vec<u8> = [page(1000, 1), page(1001, 2), page(1002, 3)].concat();
        bytes[PAGE_SIZE + 5000] ^= 1;
        let file = source(&directory, "base/5/16384.10", &bytes);
        let reader = SourceReader::open(&file, 100, true).unwrap().unwrap();
        let mut buffer = vec![0; 2 * PAGE_SIZE];
        let read = reader.read(PAGE_SIZE as u64, &mut buffer).unwrap();
        assert_eq!(read.bytes, 2 * PAGE_SIZE);
        assert_eq!(read.bad.iter().map(|bad| bad.block).collect::<Vec<_>>(), [1001]);
        assert_eq!(buffer, bytes[PAGE_SIZE..]);
    }

    #[test]
    fn a_torn_page_is_read_again_until_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (page(0, 1), page(0, 2));
        let torn: Vec<u8> = [&new[..4096], &old[4096..]].concat();
        let file = source(&directory, "base/5/16384", &torn);
        let reader = SourceReader::open(&file, 131_072, true).unwrap().unwrap();
        let writer = std::fs::OpenOptions::new()
            .write(true)
            .open(&file.location)
            .unwrap();
        let finished = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            writer.write_all_at(&new, 0).unwrap();
        });
        let mut buffer = vec![0; PAGE_SIZE];
        let read = reader.read(0, &mut buffer).unwrap();
        finished.join().unwrap();
        assert_eq!(
            read,
            PagesRead {
                bytes: PAGE_SIZE,
                bad: Vec::new()
            }
        );
        assert_eq!(buffer, new);
    }

    #[test]
    fn a_page_that_is_cut_off_meanwhile_ends_the_read() {
        let directory = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = [page(0, 1), [7; PAGE_SIZE]].concat();
        let file = source(&directory, "base/5/16384", &bytes);
        let reader = SourceReader::open(&file, 131_072, true).unwrap().unwrap();
        let writer = std::fs::OpenOptions::new()
            .write(true)
            .open(&file.location)
            .unwrap();
        let cut = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            writer.set_len(PAGE_SIZE as u64).unwrap();
        });
        let mut buffer = vec![0; 4 * PAGE_SIZE];
        let read = reader.read(0, &mut buffer).unwrap();
        cut.join().unwrap();
        assert_eq!(
            read,
            PagesRead {
                bytes: PAGE_SIZE,
                bad: Vec::new()
            }
        );
    }

    #[test]
    fn a_dropped_file_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = source(&directory, "base/5/16384", &[]);
        std::fs::remove_file(&file.location).unwrap();
        assert!(SourceReader::open(&file, 131_072, true).unwrap().is_none());
    }

    #[test]
    fn files_without_checksums_are_read_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let file = source(&directory, "pg_xact/0000", &[7; 3 * PAGE_SIZE]);
        let reader = SourceReader::open(&file, 131_072, true).unwrap().unwrap();
        let mut buffer = vec![0; 4 * PAGE_SIZE];
        assert_eq!(
            reader.read(0, &mut buffer).unwrap(),
            PagesRead {
                bytes: 3 * PAGE_SIZE,
                bad: Vec::new()
            }
        );
    }
}
