//! Archived binlog files as relay logs: names in an index, files put in place when they are whole.
//!
//! A running server does not notice names that are added to its index (tried: MySQL 9.7), so all are in it from the beginning,
//! and empty files stand for those that have not come. A file comes into place by rename, after all of it was checked.
//!
//! MariaDB's parallel applier reads ahead, over the end of the last file that is there, and an error in the next one discards
//! what is queued. So the file behind the last one is not empty there, but holds a format description and nothing else: the
//! applier opens it, sees that it is past the end it was given, and stops in order. The server's own relay log takes the number
//! behind all of ours.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use tidemark_types::Timestamp;
use tokio::sync::{mpsc, watch};

use super::RestoreError;
use super::log::{FailureSearch, FileEnding, FileFacts, LogChain, LogFile, PreparedXa, TransactionReader};
use super::options::RELAY_BASENAME;
use super::owner::ServerUser;
use crate::binlog::{BinlogOffset, Flavor};
use crate::gtid::MariaDbState;

/// Bytes read at once when a file is looked through.
const READ_BYTES: usize = 1 << 20;

/// A file that is in place.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) facts: FileFacts,
    /// The chain, as it stands at the end of the file.
    pub(super) chain: ChainEnd,
}

/// What lies in all files up to here.
#[derive(Debug, Clone, Default)]
pub(super) struct ChainEnd {
    pub(super) server_ids: BTreeSet<u32>,
    pub(super) prepared: Vec<PreparedXa>,
    pub(super) binlog_state: Option<MariaDbState>,
    pub(super) last_commit: Option<Timestamp>,
    pub(super) has_anonymous: bool,
}

/// The directory of relay logs.
#[derive(Debug, Clone)]
pub(super) struct RelayLogs {
    directory: PathBuf,
    user: ServerUser,
    flavor: Flavor,
    files: Vec<LogFile>,
}

impl RelayLogs {
    /// Lays the directory out anew: an index of `files`, and empty files. The server must not run. Blocks.
    ///
    /// # Errors
    /// [`RestoreError::Io`].
    pub(super) fn lay_out(
        directory: PathBuf,
        user: ServerUser,
        flavor: Flavor,
        files: Vec<LogFile>,
    ) -> Result<RelayLogs, RestoreError> {
        if directory.exists() {
            fs::remove_dir_all(&directory).map_err(RestoreError::io("empty", &directory))?;
        }
        user.make_directory(&directory)?;
        let relay = RelayLogs {
            directory,
            user,
            flavor,
            files,
        };
        let mut index = String::new();
        for number in 0..relay.files.len() {
            let path = relay.path(number);
            user.create(&path)?;
            index.push_str(&format!("{}\n", path.display()));
        }
        user.write(&relay.directory.join("relay.index"), index.as_bytes())?;
        Ok(relay)
    }

    /// The files.
    pub(super) fn files(&self) -> &[LogFile] {
        &self.files
    }

    /// Name of the file of this number, from zero on, as the server knows it.
    pub(super) fn file_name(number: usize) -> String {
        format!("{RELAY_BASENAME}.{:06}", number + 1)
    }

    /// The number of a file that the server names; `None` for one that is none of ours.
    pub(super) fn number_of(&self, name: &str) -> Option<usize> {
        let (_, number) = name.rsplit_once('.')?;
        let number = number.parse::<usize>().ok()?.checked_sub(1)?;
        (number < self.files.len()).then_some(number)
    }

    /// Frees the room of a file that is applied and not needed again. Its name stays.
    pub(super) fn discard(&self, number: usize) -> Result<(), RestoreError> {
        self.user.create(&self.path(number)).map(drop)
    }

    /// Looks through transactions of the files `begin.0..=end.0`, from the offset `begin.1` in the first to `end.1` in the last.
    /// They were checked when they were put in place. Blocks.
    ///
    /// # Errors
    /// [`RestoreError::Io`], [`RestoreError::Log`].
    pub(super) fn look_through(
        &self,
        begin: (usize, BinlogOffset),
        end: (usize, BinlogOffset),
        search: &mut FailureSearch,
    ) -> Result<(), RestoreError> {
        for number in begin.0..=end.0 {
            let path = self.path(number);
            let mut file = fs::File::open(&path).map_err(RestoreError::io("open", &path))?;
            let mut reader = TransactionReader::new(&self.files[number].name);
            let mut buffer = vec![0; READ_BYTES];
            loop {
                let count = file.read(&mut buffer).map_err(RestoreError::io("read", &path))?;
                if count == 0 {
                    break;
                }
                reader.feed(&buffer[..count], |transaction| {
                    let is_in = (number > begin.0 || transaction.begin >= begin.1)
                        && (number < end.0 || transaction.end <= end.1);
                    if is_in {
                        search.look(number, transaction);
                    }
                })?;
            }
        }
        Ok(())
    }

    fn path(&self, number: usize) -> PathBuf {
        self.directory.join(RelayLogs::file_name(number))
    }

    fn temporary_path(&self) -> PathBuf {
        self.directory.join("incoming")
    }

    /// Puts the file that was written into its place, cut at its end.
    fn place(&self, number: usize, file: &fs::File, facts: &FileFacts) -> Result<(), RestoreError> {
        let (from, to) = (self.temporary_path(), self.path(number));
        file.set_len(facts.end.0)
            .map_err(RestoreError::io("cut", &from))?;
        let next = number + 1;
        if self.flavor == Flavor::MariaDb && next < self.files.len() {
            self.put_stopper(next, &from, facts.format_end)?;
        }
        fs::rename(&from, &to).map_err(RestoreError::io("put into place", &to))
    }

    /// Before the file behind it is announced: the beginning of a file, up to behind its format description.
    fn put_stopper(&self, number: usize, like: &Path, format_end: BinlogOffset) -> Result<(), RestoreError> {
        let mut head = Vec::new();
        fs::File::open(like)
            .and_then(|file| file.take(format_end.0).read_to_end(&mut head))
            .map_err(RestoreError::io("read", like))?;
        self.user.write(&self.path(number), &head)
    }
}

/// Takes the log, file after file, checks it, and puts it where the server reads it. Blocking: for a thread of its own, while
/// another applies what is there.
#[derive(Debug)]
pub struct RelayFeed {
    relay: RelayLogs,
    chain: LogChain,
    placed: mpsc::Sender<Placed>,
    /// The number of the file that comes next, or is being written.
    next: usize,
    file: Option<fs::File>,
    /// Bytes of the file so far.
    at: BinlogOffset,
    /// How many files are applied.
    applied: watch::Receiver<usize>,
    /// Lengths of the files that are in place.
    lengths: Vec<u64>,
}

impl RelayFeed {
    /// A feed, and the other end of it.
    pub(super) fn new(relay: RelayLogs, chain: LogChain) -> (RelayFeed, FeedEnd) {
        // As many as there can be: telling never waits.
        let (placed, receiver) = mpsc::channel(relay.files.len().max(1));
        let (sender, applied) = watch::channel(0);
        let feed = RelayFeed {
            relay,
            chain,
            placed,
            next: 0,
            file: None,
            at: BinlogOffset(0),
            applied,
            lengths: Vec::new(),
        };
        let end = FeedEnd {
            placed: receiver,
            applied: sender,
        };
        (feed, end)
    }

    /// Waits until no more than `bytes` of files that are in place wait to be applied, so that a log which comes faster than it
    /// is applied does not fill the disk. Returns at once when nobody applies any more: the replay says why. May be dropped.
    pub async fn wait_for_room(&mut self, bytes: u64) {
        let lengths = &self.lengths;
        let waiting = |applied: &usize| lengths.iter().skip(*applied).sum::<u64>() <= bytes;
        // An error says that the other end is gone.
        let _ = self.applied.wait_for(waiting).await;
    }

    /// Begins the next file, whose first byte is wanted next; `None` when all are there.
    ///
    /// # Errors
    /// [`RestoreError::Io`].
    pub fn begin_file(&mut self) -> Result<Option<LogFile>, RestoreError> {
        let Some(log_file) = self.relay.files.get(self.next).cloned() else {
            return Ok(None);
        };
        self.file = Some(self.relay.user.create(&self.relay.temporary_path())?);
        self.at = BinlogOffset(0);
        self.chain.begin_file(&log_file);
        Ok(Some(log_file))
    }

    /// Takes the next bytes of the file. What lies behind the place where it is to be cut is passed over.
    ///
    /// # Errors
    /// [`RestoreError::Log`] when they may not be applied, [`RestoreError::Io`]. The feed is of no use then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        let Some((file, log_file)) = self.file.as_mut().zip(self.relay.files.get(self.next)) else {
            return Ok(());
        };
        let bytes = match log_file.ending {
            FileEnding::Cut(cut) => {
                let left = usize::try_from(cut.bytes_since(self.at)).unwrap_or(usize::MAX);
                bytes.get(..left).unwrap_or(bytes)
            }
            FileEnding::Ended => bytes,
        };
        self.chain.feed(bytes)?;
        self.at = self.at.plus(bytes.len() as u64);
        std::io::Write::write_all(file, bytes)
            .map_err(RestoreError::io("write", &self.relay.temporary_path()))
    }

    /// Ends the file: checks it as a whole, and puts it where the server reads it.
    ///
    /// # Errors
    /// As [`RelayFeed::write`].
    pub fn end_file(&mut self) -> Result<(), RestoreError> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        let facts = self.chain.end_file()?;
        if self.next + 1 == self.relay.files.len() {
            self.chain.end()?;
        }
        self.relay.place(self.next, &file, &facts)?;
        self.next += 1;
        self.lengths.push(facts.end.0);
        let chain = ChainEnd {
            server_ids: self.chain.server_ids().clone(),
            prepared: self.chain.prepared().to_vec(),
            binlog_state: self.chain.binlog_state().cloned(),
            last_commit: self.chain.last_commit(),
            has_anonymous: self.chain.has_anonymous(),
        };
        // When nobody listens any more, the replay has failed, and says so itself.
        let _ = self.placed.try_send(Placed { facts, chain });
        Ok(())
    }
}

/// What the applier holds of a feed.
#[derive(Debug)]
pub(super) struct FeedEnd {
    /// Files, as they come in place.
    pub(super) placed: mpsc::Receiver<Placed>,
    /// To tell how many are applied.
    pub(super) applied: watch::Sender<usize>,
}
