//! Takes in files whose bytes arrive one after the other: cut into pages, compared with the parent, filled into frames.
//!
//! One task feeds it; encoding frames is its workers' share. With a parent, pages are compared by their hashes, so that
//! only what changed is stored, although everything arrives. Any number of files may be open at once.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidemark_postgres::basebackup::BadPage;
use tidemark_repository::base::{
    BackupReader, BackupWriter, EntryKind, FRAME_LEN_DEFAULT, FileEntry, FileId, FileMeta, FrameBuffer,
    FrameEncoder, HashKey, PART_LEN, PageHash, PageHashReader,
};
use tokio::sync::mpsc;

use super::books::Books;
use super::lanes::{Lanes, Outlet, cancelled, encoder};
use super::take::Job;

/// Filled frames that wait for each encoder.
const BUFFERS_WAITING: usize = 2;

/// Looks at a page before it is taken in: its file, where in it, its bytes.
pub type Look = Box<dyn FnMut(&str, u64, &[u8]) -> Option<BadPage> + Send>;

/// See the module.
pub struct Intake<'a> {
    /// The manifest's books.
    pub writer: &'a mut BackupWriter,
    /// What sinks tell.
    pub books: Books,
    /// Looks at pages; `None`: nobody does.
    pub look: Option<Look>,
    page_size: usize,
    hash_key: HashKey,
    entries: HashMap<String, FileEntry>,
    hashes: Option<PageHashReader>,
    encoders: Vec<mpsc::Sender<FrameBuffer>>,
    next_encoder: usize,
    buffer: FrameBuffer,
}

/// A file whose bytes are arriving.
pub struct OpenFile {
    id: FileId,
    path: String,
    base: Option<FileEntry>,
    /// Hashes that the parent has of the pages from here to the end of the part.
    known: std::vec::IntoIter<Option<PageHash>>,
    /// The first page is held back to the file's end: logs mend their header when they go on in another file.
    first: Option<(Bytes, Option<PageHash>)>,
    /// Bytes of a page that has not arrived whole.
    page: BytesMut,
    at: u64,
    given: u64,
}

impl OpenFile {
    /// Its number in the books.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Where the bytes that come next go.
    pub fn next(&self) -> u64 {
        self.at + self.page.len() as u64
    }
}

impl<'a> Intake<'a> {
    /// Starts encoders and sinks, and takes in files of pages of `page_size` bytes, compared with those of `parent`.
    ///
    /// # Errors
    /// zstd out of memory; `Damaged` when the parent's manifest is.
    pub fn start(
        job: &Job,
        parent: Option<&Arc<BackupReader>>,
        page_size: usize,
        writer: &'a mut BackupWriter,
    ) -> anyhow::Result<(Intake<'a>, Lanes)> {
        let mut entries = HashMap::new();
        // Files come in any order.
        if let Some(parent) = parent {
            for entry in parent.manifest().files() {
                let entry = entry?;
                if entry.meta.kind == EntryKind::File {
                    entries.insert(entry.meta.path.clone(), entry);
                }
            }
        }
        let mut encoders = Vec::new();
        let lanes = Lanes::start(job.settings().base_backup.jobs, writer, |outlet, _| {
            let (buffers, waiting) = mpsc::channel(BUFFERS_WAITING);
            encoders.push(buffers);
            let encoder = encoder(job)?;
            Ok(move || encode(waiting, encoder, &outlet))
        })?;
        let intake = Intake {
            writer,
            books: Books::default(),
            look: None,
            page_size,
            hash_key: job.archive.base().hash_key(),
            entries,
            hashes: parent.map(|parent| PageHashReader::new(Arc::clone(parent))),
            encoders,
            next_encoder: 0,
            buffer: FrameBuffer::new(FRAME_LEN_DEFAULT, page_size),
        };
        Ok((intake, lanes))
    }

    /// A file begins. The parent's file of the same path is what it is compared with, or the one at `twin`.
    pub fn begin(&mut self, meta: FileMeta, twin: Option<&str>) -> OpenFile {
        let base = self.entries.remove(&meta.path);
        let base = base.or_else(|| self.entries.remove(twin?));
        let path = meta.path.clone();
        let id = match &base {
            Some(base) => self.writer.begin_overlay(meta, base.clone()),
            None => self.writer.begin_file(meta),
        };
        OpenFile {
            id,
            path,
            base,
            known: Vec::new().into_iter(),
            first: None,
            page: BytesMut::new(),
            at: 0,
            given: 0,
        }
    }

    /// The next bytes of a file.
    ///
    /// # Errors
    /// What the repository says; `Cancelled` when the backup was given up.
    pub async fn data(
        &mut self,
        file: &mut OpenFile,
        mut bytes: Bytes,
        lanes: &mut Lanes,
    ) -> anyhow::Result<()> {
        // Pages are cut as they lie in the file, however the stream is cut.
        loop {
            if file.page.is_empty() && bytes.len() >= self.page_size {
                let page = bytes.split_to(self.page_size);
                self.page(file, page, lanes).await?;
                continue;
            }
            let missing = (self.page_size - file.page.len()).min(bytes.len());
            file.page.extend_from_slice(&bytes.split_to(missing));
            if file.page.len() < self.page_size {
                return Ok(());
            }
            let page = file.page.split().freeze();
            self.page(file, page, lanes).await?;
        }
    }

    /// Overwrites bytes that came before; `false` when they do not lie in the file's first page.
    pub fn mend(&mut self, file: &mut OpenFile, offset: u64, bytes: &[u8]) -> bool {
        let mut first = match &file.first {
            Some((first, _)) => BytesMut::from(&first[..]),
            None => std::mem::take(&mut file.page),
        };
        let begin = usize::try_from(offset).unwrap_or(usize::MAX);
        let target = begin
            .checked_add(bytes.len())
            .and_then(|end| first.get_mut(begin..end));
        let fits = target.map(|target| target.copy_from_slice(bytes)).is_some();
        match &mut file.first {
            Some((held, _)) => *held = first.freeze(),
            None => file.page = first,
        }
        fits
    }

    /// Takes the next page of a file in.
    async fn page(&mut self, file: &mut OpenFile, page: Bytes, lanes: &mut Lanes) -> anyhow::Result<()> {
        if file.at.is_multiple_of(PART_LEN) {
            file.known = self.known_of(file).await?.into_iter();
        }
        let known = file.known.next().flatten();
        let at = file.at;
        file.at += page.len() as u64;
        if at == 0 {
            file.first = Some((page, known));
            return Ok(());
        }
        self.take(file, at, &page, known, lanes).await
    }

    /// Hashes that the parent has of the part that begins now.
    async fn known_of(&mut self, file: &OpenFile) -> anyhow::Result<Vec<Option<PageHash>>> {
        let part = usize::try_from(file.at / PART_LEN)
            .ok()
            .and_then(|number| file.base.as_ref()?.parts.get(number));
        match (part, &mut self.hashes) {
            (Some(part), Some(hashes)) => Ok(hashes.of_part(part, self.page_size).await?),
            _ => Ok(Vec::new()),
        }
    }

    /// Stores a page, unless the parent has it.
    async fn take(
        &mut self,
        file: &mut OpenFile,
        at: u64,
        page: &[u8],
        known: Option<PageHash>,
        lanes: &mut Lanes,
    ) -> anyhow::Result<()> {
        if let Some(look) = &mut self.look {
            self.books.note_bad(look(&file.path, at, page));
        }
        if known.is_some() && known == Some(PageHash::of(&self.hash_key, page)) {
            return Ok(());
        }
        file.given += page.len() as u64;
        if self.buffer.room_for(page.len() as u64) < page.len() {
            self.flush(lanes).await?;
        }
        self.buffer.push(file.id, at, page);
        Ok(())
    }

    /// A file is complete; says how long it is.
    ///
    /// # Errors
    /// As [`Intake::data`].
    pub async fn end(&mut self, mut file: OpenFile, lanes: &mut Lanes) -> anyhow::Result<u64> {
        let rest = file.page.split().freeze();
        if !rest.is_empty() {
            self.page(&mut file, rest, lanes).await?;
        }
        if let Some((first, known)) = file.first.take() {
            self.take(&mut file, 0, &first, known, lanes).await?;
        }
        self.writer.end_file(file.id, file.at, file.given).await?;
        Ok(file.at)
    }

    /// No more files come: waits until all frames lie in packs.
    ///
    /// # Errors
    /// As [`Intake::data`].
    pub async fn finish(mut self, lanes: &mut Lanes) -> anyhow::Result<Books> {
        self.flush(lanes).await?;
        self.encoders.clear();
        while let Some(event) = lanes.events.recv().await {
            self.books.take(event, self.writer).await?;
        }
        Ok(self.books)
    }

    /// Hands the frame being filled to the next encoder. The books are kept meanwhile: encoders may wait for them.
    async fn flush(&mut self, lanes: &mut Lanes) -> anyhow::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let fresh = FrameBuffer::new(FRAME_LEN_DEFAULT, self.page_size);
        let full = std::mem::replace(&mut self.buffer, fresh);
        let Some(encoder) = self.encoders.get(self.next_encoder) else {
            unreachable!("there is at least one encoder")
        };
        self.next_encoder = (self.next_encoder + 1) % self.encoders.len();
        let permit = loop {
            tokio::select! {
                permit = encoder.reserve() => break permit.map_err(|_| cancelled())?,
                () = lanes.stop.cancelled() => return Err(cancelled()),
                Some(event) = lanes.events.recv() => self.books.take(event, self.writer).await?,
            }
        };
        permit.send(full);
        Ok(())
    }
}

/// Encodes frames until there are no more; blocking.
fn encode(
    mut buffers: mpsc::Receiver<FrameBuffer>,
    mut encoder: FrameEncoder,
    outlet: &Outlet,
) -> anyhow::Result<()> {
    while let Some(buffer) = buffers.blocking_recv() {
        if outlet.frames.blocking_send(encoder.encode(&buffer)?).is_err() {
            break;
        }
    }
    Ok(())
}
