//! What to fetch for a restore, and proving what was fetched.
//!
//! Files are taken in batches. Within a batch the extents of all files are ordered by pack and frame, so that each frame
//! is fetched and decoded once however many files use it, and neighbouring frames become one ranged read. Full and
//! incremental backups are alike here. Fetches of a batch are independent: any number may run at once, each with its
//! own bytes and decoder.

use std::ops::Range;

use bytes::Bytes;
use tidemark_storage::{ObjectKey, Storage, StorageError};

use super::frame::FrameDecoder;
use super::manifest::FileEntry;
use super::map::{FrameRef, PART_LEN};
use super::reader::BackupReader;
use crate::error::RepositoryError;

/// Bounds of a restore's memory and requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreLimits {
    /// Extents planned at once; each takes some eighty bytes. A whole file is never split.
    pub batch_extents: usize,
    /// Bytes of one ranged read: large enough that a request's latency does not matter.
    pub fetch_len: u64,
    /// Unwanted bytes between two frames that are read over rather than asked around.
    pub gap_len: u64,
}

impl Default for RestoreLimits {
    fn default() -> RestoreLimits {
        RestoreLimits {
            batch_extents: 256 << 10,
            fetch_len: 8 << 20,
            gap_len: 256 << 10,
        }
    }
}

/// Files, and all that must be fetched and written for them.
#[derive(Debug, Default)]
pub struct RestoreBatch {
    /// The files, directories and links of the batch.
    pub files: Vec<FileEntry>,
    /// Ranged reads that bring every stored byte of them.
    pub fetches: Vec<Fetch>,
    /// Ranges that are zeros and are stored nowhere.
    pub zeros: Vec<ZeroRange>,
}

/// A range of a file that is zeros; nothing to do in a file that was just made and has its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZeroRange {
    /// Index into [`RestoreBatch::files`].
    pub file: u32,
    /// Where in the file it begins.
    pub offset: u64,
    /// Its length.
    pub len: u64,
}

/// One ranged read of a pack.
#[derive(Debug)]
pub struct Fetch {
    /// The pack.
    pub object: ObjectKey,
    /// The bytes to read.
    pub range: Range<u64>,
    /// The frames among them that are wanted, in order.
    pub frames: Vec<FrameUse>,
}

/// A frame and where its bytes go.
#[derive(Debug)]
pub struct FrameUse {
    /// The frame.
    pub frame: FrameRef,
    /// What to write; never empty.
    pub writes: Vec<FrameWrite>,
}

/// A run of a frame's plain bytes and the place in a file where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameWrite {
    /// Index into [`RestoreBatch::files`].
    pub file: u32,
    /// Where in the file the bytes go.
    pub offset: u64,
    /// Where in the frame they begin.
    pub frame_offset: u32,
    /// How many.
    pub len: u32,
}

impl FrameWrite {
    /// The bytes to write, of the frame's plain bytes.
    pub fn bytes<'a>(&self, plain: &'a [u8]) -> &'a [u8] {
        let begin = self.frame_offset as usize;
        plain.get(begin..begin + self.len as usize).unwrap_or_default()
    }
}

impl BackupReader {
    /// Takes files from `files` until a batch is full; `None` when there are no more.
    ///
    /// # Errors
    /// `Storage`; `Damaged` when the manifest or a map is.
    pub async fn next_batch(
        &self,
        files: &mut (impl Iterator<Item = Result<FileEntry, RepositoryError>> + Send),
        limits: &RestoreLimits,
    ) -> Result<Option<RestoreBatch>, RepositoryError> {
        let mut batch = RestoreBatch::default();
        let mut uses = Vec::new();
        while uses.len() < limits.batch_extents
            && batch.files.len() < limits.batch_extents
            && let Some(file) = files.next()
        {
            let file = file?;
            self.plan_file(batch.files.len() as u32, &file, &mut uses, &mut batch.zeros)
                .await?;
            batch.files.push(file);
        }
        if batch.files.is_empty() {
            return Ok(None);
        }
        batch.fetches = self.group(uses, limits)?;
        Ok(Some(batch))
    }

    async fn plan_file(
        &self,
        number: u32,
        file: &FileEntry,
        uses: &mut Vec<(FrameRef, FrameWrite)>,
        zeros: &mut Vec<ZeroRange>,
    ) -> Result<(), RepositoryError> {
        let path = &file.meta.path;
        let mut mapped = 0;
        for (index, part) in file.parts.iter().enumerate() {
            let part_begin = index as u64 * PART_LEN;
            let map = self.part(part).await?;
            for extent in map.extents() {
                let offset = part_begin + extent.begin;
                match map.frame_of(extent) {
                    None => zeros.push(ZeroRange {
                        file: number,
                        offset,
                        len: extent.len,
                    }),
                    Some((frame, frame_offset)) => {
                        // An extent lies within its frame, whose length fits 32 bits.
                        let len = extent.len as u32;
                        uses.push((
                            *frame,
                            FrameWrite {
                                file: number,
                                offset,
                                frame_offset,
                                len,
                            },
                        ));
                    }
                }
            }
            mapped = part_begin + map.len();
        }
        if mapped != file.size {
            let problem = format!("{path} is {} bytes long and its maps cover {mapped}", file.size);
            return Err(RepositoryError::damaged(self.manifest().object(), problem));
        }
        Ok(())
    }

    /// Orders uses by where they lie and joins neighbours.
    fn group(
        &self,
        mut uses: Vec<(FrameRef, FrameWrite)>,
        limits: &RestoreLimits,
    ) -> Result<Vec<Fetch>, RepositoryError> {
        uses.sort_unstable_by_key(|(frame, write)| (frame.pack, frame.offset, frame.stored_len, *write));
        let mut fetches: Vec<Fetch> = Vec::new();
        for of_frame in uses.chunk_by(|a, b| a.0 == b.0) {
            let Some((frame, _)) = of_frame.first() else {
                continue;
            };
            let writes = of_frame.iter().map(|(_, write)| *write).collect();
            let used = FrameUse {
                frame: *frame,
                writes,
            };
            let entry = self.manifest().packs().get(frame.pack as usize).ok_or_else(|| {
                RepositoryError::damaged(self.manifest().object(), "a map names a pack that is not listed")
            })?;
            fetch_frame(&mut fetches, &self.store().pack(&entry.id), used, limits);
        }
        Ok(fetches)
    }
}

/// Has a frame read together with what lies before it in its pack, or by itself.
fn fetch_frame(fetches: &mut Vec<Fetch>, object: &ObjectKey, used: FrameUse, limits: &RestoreLimits) {
    match fetches.last_mut() {
        Some(last) if last.object == *object && joins(&last.range, &used.frame, limits) => {
            last.range.end = last.range.end.max(used.frame.end());
            last.frames.push(used);
        }
        _ => fetches.push(Fetch {
            object: object.clone(),
            range: used.frame.offset..used.frame.end(),
            frames: vec![used],
        }),
    }
}

/// Whether `frame` is read together with what lies before it.
fn joins(range: &Range<u64>, frame: &FrameRef, limits: &RestoreLimits) -> bool {
    frame.offset <= range.end.saturating_add(limits.gap_len)
        && frame.end().saturating_sub(range.start) <= limits.fetch_len
}

impl RestoreBatch {
    /// Leaves out what need not be written because `is_there` says so; returns how many bytes that is. Frames that nobody
    /// wants any more are not fetched.
    pub fn leave_out(&mut self, limits: &RestoreLimits, is_there: impl Fn(&FrameWrite) -> bool) -> u64 {
        let mut left_out = 0;
        for fetch in std::mem::take(&mut self.fetches) {
            for mut used in fetch.frames {
                let before = used.writes.iter().map(|write| u64::from(write.len)).sum::<u64>();
                used.writes.retain(|write| !is_there(write));
                left_out += before - used.writes.iter().map(|write| u64::from(write.len)).sum::<u64>();
                if !used.writes.is_empty() {
                    fetch_frame(&mut self.fetches, &fetch.object, used, limits);
                }
            }
        }
        left_out
    }

    /// Reads what `fetch` asks for.
    ///
    /// # Errors
    /// `Damaged`, with the files that cannot be restored, when the pack is missing or too short; `Storage`.
    pub async fn read(&self, storage: &dyn Storage, fetch: &Fetch) -> Result<Bytes, RepositoryError> {
        let wanted = fetch.range.end - fetch.range.start;
        match storage.get(&fetch.object, Some(fetch.range.clone())).await {
            Ok(data) if data.bytes.len() as u64 == wanted => Ok(data.bytes),
            Ok(_) | Err(StorageError::InvalidRange { .. }) => {
                Err(self.damaged(&fetch.object, "it is shorter than it was written", &fetch.frames))
            }
            Err(error) if error.is_not_found() => {
                Err(self.damaged(&fetch.object, "it is missing", &fetch.frames))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Decodes and proves one frame of what [`RestoreBatch::read`] brought. CPU work: run it off the reactor.
    ///
    /// # Errors
    /// `Damaged`, with the files that cannot be restored.
    pub fn decode<'d>(
        &self,
        decoder: &'d mut FrameDecoder,
        fetch: &Fetch,
        fetched: &[u8],
        used: &FrameUse,
    ) -> Result<&'d [u8], RepositoryError> {
        let FrameUse { frame, .. } = used;
        let begin = frame
            .offset
            .checked_sub(fetch.range.start)
            .and_then(|begin| usize::try_from(begin).ok());
        let stored = begin
            .and_then(|begin| fetched.get(begin..begin.checked_add(frame.stored_len as usize)?))
            .ok_or_else(|| {
                self.damaged(
                    &fetch.object,
                    "a frame lies past its end",
                    std::slice::from_ref(used),
                )
            })?;
        decoder
            .decode(stored, frame.plain_len, frame.mark)
            .map_err(|damage| {
                let problem = format!("frame {} at {}: {damage}", frame.number, frame.offset);
                self.damaged(&fetch.object, &problem, std::slice::from_ref(used))
            })
    }

    fn damaged(&self, object: &ObjectKey, problem: &str, frames: &[FrameUse]) -> RepositoryError {
        let mut files: Vec<u32> = frames
            .iter()
            .flat_map(|used| &used.writes)
            .map(|write| write.file)
            .collect();
        files.sort_unstable();
        files.dedup();
        let named: Vec<&str> = files
            .iter()
            .take(3)
            .filter_map(|file| self.files.get(*file as usize))
            .map(|file| file.meta.path.as_str())
            .collect();
        let more = match files.len().saturating_sub(named.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let problem = format!(
            "{problem}; without it {}{more} cannot be restored",
            named.join(", ")
        );
        RepositoryError::damaged(object, problem)
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::FrameMark;
    use super::*;

    /// A frame of 100 stored bytes with one write for each of two files.
    fn used(number: u32) -> FrameUse {
        let write = |file| FrameWrite {
            file,
            offset: u64::from(number) * 1000,
            frame_offset: file * 500,
            len: 500,
        };
        FrameUse {
            frame: FrameRef {
                pack: 0,
                number,
                offset: u64::from(number) * 100,
                stored_len: 100,
                plain_len: 1000,
                mark: FrameMark::default(),
            },
            writes: vec![write(0), write(1)],
        }
    }

    fn batch(frames: u32) -> RestoreBatch {
        RestoreBatch {
            fetches: vec![Fetch {
                object: ObjectKey::new("pack").unwrap(),
                range: 0..u64::from(frames) * 100,
                frames: (0..frames).map(used).collect(),
            }],
            ..RestoreBatch::default()
        }
    }

    fn ranges(batch: &RestoreBatch) -> Vec<Range<u64>> {
        batch.fetches.iter().map(|fetch| fetch.range.clone()).collect()
    }

    #[test]
    fn frames_that_nobody_wants_are_not_fetched() {
        let limits = RestoreLimits {
            gap_len: 150,
            ..RestoreLimits::default()
        };
        let mut wanted = batch(10);
        // Of frames 3, 6 and 7 everything is there, of frame 9 one file.
        let left_out = wanted.leave_out(&limits, |write| match write.offset {
            3000 | 6000 | 7000 => true,
            9000 => write.file == 0,
            _ => false,
        });
        assert_eq!(left_out, 3 * 1000 + 500);
        // The hole of one frame is read over, that of two is not.
        assert_eq!(ranges(&wanted), [0..600, 800..1000]);
        let frames = wanted.fetches.iter().flat_map(|fetch| &fetch.frames);
        let numbers: Vec<u32> = frames.clone().map(|used| used.frame.number).collect();
        assert_eq!(numbers, [0, 1, 2, 4, 5, 8, 9]);
        assert_eq!(frames.last().unwrap().writes.len(), 1);
    }

    #[test]
    fn nothing_is_fetched_of_what_is_all_there() {
        let mut there = batch(3);
        assert_eq!(there.leave_out(&RestoreLimits::default(), |_| true), 3000);
        assert!(there.fetches.is_empty());
    }
}
