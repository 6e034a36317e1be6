//! Keeps count of what was read of each file, and ends files in the manifest's books when all their units are done.

use std::collections::HashMap;

use tidemark_postgres::basebackup::{BAD_PAGES_LISTED, BadPage};
use tidemark_repository::RepositoryError;
use tidemark_repository::base::{BackupWriter, FileId, PlacedFrame};

use super::worker::UnitRead;

/// What workers and sinks tell.
#[derive(Debug)]
pub enum Event {
    /// A unit was read.
    Read(UnitRead),
    /// A frame lies in a pack.
    Placed(PlacedFrame),
}

/// Pages that were bad every time they were read.
#[derive(Debug, Default)]
pub struct BadPages {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Vec<BadPage>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Books {
    open: HashMap<FileId, OpenFile>,
    /// What was found on the way.
    pub bad: BadPages,
}

#[derive(Debug)]
struct OpenFile {
    /// The size that was planned; `None`: as much as is read.
    size: Option<u64>,
    units_left: usize,
    reads: Vec<UnitRead>,
}

impl OpenFile {
    fn new(size: Option<u64>, units: usize) -> OpenFile {
        OpenFile {
            size,
            units_left: units,
            reads: Vec::with_capacity(units),
        }
    }
}

impl Books {
    /// `file`, all of whose bytes are read, will be done when so many units of it were.
    pub fn expect(&mut self, file: FileId, units: usize) {
        self.open.insert(file, OpenFile::new(None, units));
    }

    /// `file`, which is `size` bytes long and laid over the parent's, will be done when so many units of it were read.
    pub fn expect_overlay(&mut self, file: FileId, size: u64, units: usize) {
        self.open.insert(file, OpenFile::new(Some(size), units));
    }

    /// Takes an event in.
    ///
    /// # Errors
    /// What the repository says.
    pub async fn take(&mut self, event: Event, writer: &mut BackupWriter) -> Result<(), RepositoryError> {
        match event {
            Event::Placed(placed) => writer.place(placed).await,
            Event::Read(read) => self.note_read(read, writer).await,
        }
    }

    async fn note_read(
        &mut self,
        mut read: UnitRead,
        writer: &mut BackupWriter,
    ) -> Result<(), RepositoryError> {
        self.note_bad(std::mem::take(&mut read.bad));
        let file = read.file;
        let Some(open) = self.open.get_mut(&file) else {
            unreachable!("units are made for expected files only")
        };
        open.reads.push(read);
        open.units_left = open.units_left.saturating_sub(1);
        if open.units_left > 0 {
            return Ok(());
        }
        let Some(open) = self.open.remove(&file) else {
            return Ok(());
        };
        end_file(file, &open, writer).await
    }

    /// Takes note of bad pages.
    pub fn note_bad(&mut self, bad: impl IntoIterator<Item = BadPage>) {
        for page in bad {
            tracing::error!(
                path = page.path,
                block = page.block,
                "a page is damaged: its checksum does not fit"
            );
            self.bad.count += 1;
            if self.bad.first.len() < BAD_PAGES_LISTED {
                self.bad.first.push(page);
            }
        }
    }
}

/// All units of a file were read. It may have been cut, or cut and extended again, since it was listed: what is then
/// missing is in the log, and stands as zeros here.
async fn end_file(file: FileId, open: &OpenFile, writer: &mut BackupWriter) -> Result<(), RepositoryError> {
    let is_gone = open.reads.iter().any(|read| read.is_gone);
    let read_to = open.reads.iter().map(|read| read.read_to).max().unwrap_or(0);
    if is_gone && read_to == 0 {
        writer.take_back(file);
        return Ok(());
    }
    let size = open.size.unwrap_or(read_to);
    let mut given = open.reads.iter().map(|read| read.given).sum();
    for missing in open.reads.iter().flat_map(|read| &read.missing) {
        let end = missing.end.min(size);
        if missing.begin < end {
            writer.add_zeros(file, missing.begin, end - missing.begin).await?;
            given += end - missing.begin;
        }
    }
    writer.end_file(file, size, given).await
}
