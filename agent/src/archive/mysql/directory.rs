//! The second way in: the binlog files where the server writes them, for a server that allows no replication connection.
//!
//! A thread reads them and hands over what a dump would: whole events, the next file when the index names it. What a crash
//! tore at a file's end is left out, as a dump leaves it out.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tidemark_mysql::binlog::{BinlogOffset, EventHeader};
use tidemark_mysql::client::StreamItem;
use tidemark_types::{BinlogBasename, LogPosition};
use tokio::sync::mpsc;

/// The files are looked at at least this often: the kernel's word may be lost.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Of a long event so much is handed over at once.
const PORTION: usize = 1 << 20;
/// Items that wait for their taker: with [`PORTION`], the memory that reading ahead takes.
const AHEAD: usize = 4;
/// The common header of an event.
const HEADER_BYTES: usize = 19;
/// Where in the first event's header the bit lies that says that the file is in use (`LOG_EVENT_BINLOG_IN_USE_F`). A server
/// sends it cleared, and takes its checksum as if it were.
const IN_USE_BYTE: usize = 17;
const IN_USE_BIT: u8 = 1;

/// Where a server's binlog files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinlogDirectory {
    /// The directory.
    pub path: PathBuf,
    /// What the files' names begin with; the index is `<basename>.index`.
    pub basename: BinlogBasename,
}

/// Why the files cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("read {}: {source}", path.display())]
pub struct DirectoryError {
    path: PathBuf,
    source: io::Error,
}

impl DirectoryError {
    /// Whether a file is gone that was to be read: the server purged it.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// What is read next.
enum Item {
    File(String, BinlogOffset),
    Format(Bytes),
    Bytes(BinlogOffset, Bytes),
}

/// Reads on as the server writes.
pub struct DirectoryTail {
    items: mpsc::Receiver<Result<Item, DirectoryError>>,
    current: Option<Item>,
}

impl DirectoryTail {
    /// Begins with the event at `event`.
    pub fn start(directory: BinlogDirectory, event: LogPosition) -> DirectoryTail {
        let (sender, items) = mpsc::channel(AHEAD);
        // Ends when nobody takes what it reads.
        tokio::task::spawn_blocking(move || {
            let mut reader = Reader {
                directory,
                sender: sender.clone(),
            };
            if let Err(Stop::Failed(error)) = reader.run(event) {
                let _ = sender.blocking_send(Err(error));
            }
        });
        DirectoryTail { items, current: None }
    }

    /// The next item. May be dropped: it then comes at the next call.
    ///
    /// # Errors
    /// The files cannot be read.
    pub async fn next(&mut self) -> Result<StreamItem<'_>, DirectoryError> {
        let item = self.items.recv().await.transpose()?;
        self.current = item;
        Ok(match &self.current {
            None => StreamItem::End,
            Some(Item::File(name, position)) => StreamItem::File {
                name,
                position: *position,
            },
            Some(Item::Format(event)) => StreamItem::Format(event),
            Some(Item::Bytes(begin, bytes)) => StreamItem::Bytes {
                begin: *begin,
                bytes,
                wants_acknowledgement: false,
            },
        })
    }
}

/// Why reading ends.
enum Stop {
    /// Nobody takes what is read.
    Unwanted,
    Failed(DirectoryError),
}

struct Reader {
    directory: BinlogDirectory,
    sender: mpsc::Sender<Result<Item, DirectoryError>>,
}

impl Reader {
    fn run(&mut self, event: LogPosition) -> Result<(), Stop> {
        let changes = Changes::of(&self.directory.path);
        let mut at = event;
        loop {
            self.read_file(&mut at, &changes)?;
            at = LogPosition::start_of(at.file + 1);
        }
    }

    /// Reads a file from `at` on until the index names the next one.
    fn read_file(&mut self, at: &mut LogPosition, changes: &Changes) -> Result<(), Stop> {
        let name = self.directory.basename.file_name(at.file);
        let path = self.directory.path.join(&name);
        let failed = |source| {
            Stop::Failed(DirectoryError {
                path: path.clone(),
                source,
            })
        };
        let file = File::open(&path).map_err(failed)?;
        let first = BinlogOffset::FIRST_EVENT.0;
        at.offset = at.offset.max(first);
        self.send(Item::File(name, BinlogOffset(at.offset)))?;
        if at.offset > first {
            let format = read_event(&file, first).map_err(failed)?.unwrap_or_default();
            self.send(Item::Format(format.into()))?;
        }
        loop {
            // Asked before the rest is read: when the next file is there, this one gets no more.
            let has_next = self.has_file(at.file + 1).map_err(failed)?;
            while self.read_one(&file, at).map_err(failed)? {}
            if has_next {
                return Ok(());
            }
            changes.wait();
            if self.sender.is_closed() {
                return Err(Stop::Unwanted);
            }
        }
    }

    /// Hands over the next event, if it is there as a whole.
    fn read_one(&self, file: &File, at: &mut LogPosition) -> io::Result<bool> {
        let Some(len) = whole_event_len(file, at.offset)? else {
            return Ok(false);
        };
        let end = at.offset + len;
        while at.offset < end {
            let portion = usize::try_from(end - at.offset).unwrap_or(PORTION).min(PORTION);
            let mut bytes = vec![0; portion];
            file.read_exact_at(&mut bytes, at.offset)?;
            if at.offset == BinlogOffset::FIRST_EVENT.0 {
                clear_in_use(&mut bytes);
            }
            let begin = BinlogOffset(at.offset);
            at.offset += portion as u64;
            if self
                .sender
                .blocking_send(Ok(Item::Bytes(begin, bytes.into())))
                .is_err()
            {
                return Err(io::Error::other("nobody reads on"));
            }
        }
        Ok(true)
    }

    fn send(&self, item: Item) -> Result<(), Stop> {
        self.sender.blocking_send(Ok(item)).map_err(|_| Stop::Unwanted)
    }

    /// Whether the index names a file of this number.
    fn has_file(&self, number: u64) -> io::Result<bool> {
        let name = self.directory.basename.file_name(number);
        let index = self
            .directory
            .path
            .join(format!("{}.index", self.directory.basename.as_str()));
        let text = std::fs::read_to_string(index)?;
        Ok(text.lines().any(|line| {
            Path::new(line)
                .file_name()
                .is_some_and(|found| found == name.as_str())
        }))
    }
}

/// The length of the event at `offset`, if the file holds all of it.
fn whole_event_len(file: &File, offset: u64) -> io::Result<Option<u64>> {
    let mut header = [0; HEADER_BYTES];
    let left = file.metadata()?.len().saturating_sub(offset);
    if left < HEADER_BYTES as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut header, offset)?;
    let len = EventHeader::parse(&header).map_or(0, |header| u64::from(header.length));
    // A length that cannot be is for the parser to find.
    let len = len.max(HEADER_BYTES as u64);
    Ok((len <= left).then_some(len))
}

/// The first event of a file, which says its format.
fn read_event(file: &File, offset: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(len) = whole_event_len(file, offset)? else {
        return Ok(None);
    };
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(PORTION).min(PORTION)];
    file.read_exact_at(&mut bytes, offset)?;
    clear_in_use(&mut bytes);
    Ok(Some(bytes))
}

fn clear_in_use(event: &mut [u8]) {
    if let Some(flags) = event.get_mut(IN_USE_BYTE) {
        *flags &= !IN_USE_BIT;
    }
}

/// Notices that a directory's files changed.
struct Changes {
    news: Receiver<()>,
    /// Ends with this object.
    _watcher: Option<RecommendedWatcher>,
}

impl Changes {
    fn of(directory: &Path) -> Changes {
        // One piece of news is as good as many.
        let (sender, news) = sync_channel(1);
        let watcher = notify::recommended_watcher(move |_| {
            let _ = sender.try_send(());
        })
        .and_then(|mut watcher| {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        })
        .inspect_err(|error| {
            tracing::warn!(
                %error,
                directory = %directory.display(),
                every = ?LOOK_EVERY,
                "the binlog directory cannot be watched; looking at it now and then"
            );
        })
        .ok();
        Changes {
            news,
            _watcher: watcher,
        }
    }

    /// Waits until something may have changed.
    fn wait(&self) {
        match self.news.recv_timeout(LOOK_EVERY) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            // There is no watcher, and nobody to wait for.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event of `len` bytes.
    fn event(len: u32) -> Vec<u8> {
        let mut bytes = vec![7; len as usize];
        bytes[9..13].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    async fn bytes_of(tail: &mut DirectoryTail) -> (u64, usize) {
        match tail.next().await.unwrap() {
            StreamItem::Bytes { begin, bytes, .. } => (begin.0, bytes.len()),
            other => panic!("{other:?}"),
        }
    }

    async fn file_of(tail: &mut DirectoryTail) -> (String, u64) {
        match tail.next().await.unwrap() {
            StreamItem::File { name, position } => (name.to_owned(), position.0),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn whole_events_are_read_and_the_next_file_when_the_index_names_it() {
        let scratch = tempfile::tempdir().unwrap();
        let write =
            |name: &str, parts: &[&[u8]]| std::fs::write(scratch.path().join(name), parts.concat()).unwrap();
        write("bin.000001", &[b"\xFEbin", &event(30), &event(50)[..40]]);
        write("bin.index", &[b"./bin.000001\n"]);
        let directory = BinlogDirectory {
            path: scratch.path().to_owned(),
            basename: BinlogBasename::new("bin"),
        };
        let mut tail = DirectoryTail::start(directory.clone(), LogPosition::start_of(1));
        assert_eq!(file_of(&mut tail).await, ("bin.000001".to_owned(), 4));
        assert_eq!(bytes_of(&mut tail).await, (4, 30));
        // Half of an event is none, until the rest comes.
        write(
            "bin.000001",
            &[b"\xFEbin", &event(30), &event(50), &event(99)[..20]],
        );
        assert_eq!(bytes_of(&mut tail).await, (34, 50));
        // What was torn when the next file began is left out.
        write("bin.000002", &[b"\xFEbin", &event(30)]);
        write("bin.index", &[b"./bin.000001\n./bin.000002\n"]);
        assert_eq!(file_of(&mut tail).await, ("bin.000002".to_owned(), 4));
        assert_eq!(bytes_of(&mut tail).await, (4, 30));
        // From the middle, the format comes along.
        let mut tail = DirectoryTail::start(directory, LogPosition { file: 1, offset: 34 });
        assert_eq!(file_of(&mut tail).await, ("bin.000001".to_owned(), 34));
        let format = tail.next().await.unwrap();
        assert!(
            matches!(format, StreamItem::Format(bytes) if bytes.len() == 30 && bytes[IN_USE_BYTE] & IN_USE_BIT == 0)
        );
        assert_eq!(bytes_of(&mut tail).await, (34, 50));
    }

    #[tokio::test]
    async fn a_file_that_is_gone_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = BinlogDirectory {
            path: scratch.path().to_owned(),
            basename: BinlogBasename::new("bin"),
        };
        let mut tail = DirectoryTail::start(directory, LogPosition::start_of(1));
        assert!(tail.next().await.unwrap_err().is_missing());
    }
}
