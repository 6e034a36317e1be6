//! Whether binlog files may become relay logs: each whole and undamaged, each joined to the one before it.
//!
//! The servers' appliers step over a missing transaction without a word, so this is looked at before a byte reaches one:
//! every event's checksum and position, transactions whole, and what a file says lies before it (MySQL's previous GTIDs,
//! MariaDB's list) equal to what was read before it. Pure and streaming: a file is fed in portions while it is written.
//!
//! Invariants: after an error the chain is of no use any more; what [`LogChain::end_file`] tells counts transactions that
//! are whole, from where applying begins, and no others.

use std::collections::BTreeSet;

use tidemark_types::Timestamp;

use super::error::LogError;
use super::executed::Executed;
use super::reader::{FileReader, Logged, Meaning, Step};
use crate::binlog::{BinlogOffset, FileEnd, Flavor, Transaction, TransactionGtid, TransactionKind, XaId};
use crate::gtid::MariaDbState;

/// So many bytes lie between two marks of log time at least.
const TIME_MARK_BYTES: u64 = 1 << 20;

/// Where applying begins, and what the data holds there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStart {
    /// The offset in the first file, between two transactions. `None`: from its first transaction on, for MySQL, which
    /// passes over what the data holds.
    pub offset: Option<BinlogOffset>,
    /// What the data holds. In MySQL it may be more than what lies before the offset, never less; in MariaDB it is the
    /// position there.
    pub executed: Executed,
}

/// How a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileEnding {
    /// With the event that ends a file: the server went on to the next.
    Closed,
    /// Anywhere: the server crashed, and went on with the next file. A tail that is no whole transaction never happened,
    /// as the next file's list proves.
    Crashed,
    /// Here, between two transactions: the target.
    Cut(BinlogOffset),
}

/// A moment of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeMark {
    /// The end of a transaction.
    pub end: BinlogOffset,
    /// When it committed.
    pub commit_time: Timestamp,
}

/// What a file that may be applied holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// Where the bytes end that may be applied.
    pub end: BinlogOffset,
    /// Where its first event, the format description, ends.
    pub format_end: BinlogOffset,
    /// The end of its last transaction, or of what comes before the first.
    pub last_transaction: BinlogOffset,
    /// Transactions in it that a server is to execute: neither before the start, nor in the data already.
    pub transactions: u64,
    /// What a server has executed when it has applied all up to the end of this file.
    pub executed: Executed,
    /// Times in it, ascending by position, about one for each MiB; the last one is that of its last transaction.
    pub times: Vec<TimeMark>,
}

/// An XA transaction that is prepared and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedXa {
    /// Its identifier.
    pub id: XaId,
    /// The transaction that prepared it.
    pub gtid: TransactionGtid,
}

/// Reads the files of one line of the log, one after the other.
#[derive(Debug)]
pub struct LogChain {
    start: LogStart,
    is_started: bool,
    logged: Option<Logged>,
    executed: Executed,
    server_ids: BTreeSet<u32>,
    prepared: Vec<PreparedXa>,
    has_anonymous: bool,
    last_commit: Option<Timestamp>,
    file: File,
}

/// The file that is being read.
#[derive(Debug)]
struct File {
    name: String,
    ending: FileEnding,
    reader: FileReader,
    is_listed: bool,
    format_end: BinlogOffset,
    settled: BinlogOffset,
    last_transaction: BinlogOffset,
    transactions: u64,
    times: Vec<TimeMark>,
    last_time: Option<TimeMark>,
}

impl LogChain {
    /// A chain that begins with the file that `start` lies in.
    pub fn new(start: LogStart) -> LogChain {
        LogChain {
            executed: start.executed.clone(),
            start,
            is_started: false,
            logged: None,
            server_ids: BTreeSet::new(),
            prepared: Vec::new(),
            has_anonymous: false,
            last_commit: None,
            file: File::new("", FileEnding::Closed),
        }
    }

    /// Begins the next file. `name` is for messages.
    pub fn begin_file(&mut self, name: &str, ending: FileEnding) {
        self.file = File::new(name, ending);
    }

    /// Adds the next bytes of the file.
    ///
    /// # Errors
    /// Why it may not be applied.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), LogError> {
        while let Some(step) = self.file.next(&mut bytes)? {
            self.step(step)?;
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// Why it may not be applied.
    pub fn end_file(&mut self) -> Result<FileFacts, LogError> {
        let end = self.file.usable_end()?;
        if !self.is_started {
            // Nothing of this file is to be applied.
            self.start_at(end)?;
        }
        let file = &mut self.file;
        if file.times.last() != file.last_time.as_ref() {
            file.times.extend(file.last_time);
        }
        Ok(FileFacts {
            end,
            format_end: file.format_end,
            last_transaction: file.last_transaction,
            transactions: file.transactions,
            executed: self.executed.clone(),
            times: std::mem::take(&mut file.times),
        })
    }

    /// What a server has executed when it has applied what was read.
    pub fn executed(&self) -> &Executed {
        &self.executed
    }

    /// MariaDB: the state of the binlog that ends here, as `gtid_binlog_state` has it.
    pub fn binlog_state(&self) -> Option<&MariaDbState> {
        match &self.logged {
            Some(Logged::MariaDb(state)) => Some(state),
            Some(Logged::MySql(_)) | None => None,
        }
    }

    /// The servers that wrote events in what was read: one of the same id would pass over them.
    pub fn server_ids(&self) -> &BTreeSet<u32> {
        &self.server_ids
    }

    /// XA transactions that were prepared in what was read, and not ended there.
    pub fn prepared(&self) -> &[PreparedXa] {
        &self.prepared
    }

    /// Whether transactions without a GTID were read (MySQL with `gtid_mode = OFF`).
    pub fn has_anonymous(&self) -> bool {
        self.has_anonymous
    }

    /// When the last transaction that was read committed.
    pub fn last_commit(&self) -> Option<Timestamp> {
        self.last_commit
    }

    fn step(&mut self, step: Step) -> Result<(), LogError> {
        self.server_ids.insert(step.server_id);
        let begins = matches!(step.meaning, Meaning::Begins);
        if begins && !self.file.is_listed {
            return Err(LogError::Unlisted {
                file: self.file.name.clone(),
            });
        }
        let is_start = match self.start.offset {
            Some(offset) => step.begin >= offset,
            None => begins,
        };
        if !self.is_started && is_start {
            if !step.is_between {
                return Err(self.no_start(self.start.offset.unwrap_or(step.begin)));
            }
            self.start_at(step.begin)?;
        }
        match step.meaning {
            Meaning::Format(found) => self.check_vendor(found, step.end),
            Meaning::Listed(listed) => self.join(listed),
            Meaning::Ends(transaction) => self.transaction(&transaction),
            Meaning::Incident(message) => Err(LogError::Incident {
                file: self.file.name.clone(),
                at: step.begin,
                message,
            }),
            Meaning::Begins | Meaning::Other => Ok(()),
        }?;
        if self.file.reader.is_between() {
            self.file.settled = step.end;
        }
        Ok(())
    }

    fn check_vendor(&mut self, found: Flavor, format_end: BinlogOffset) -> Result<(), LogError> {
        let expected = self.executed.flavor();
        self.file.format_end = format_end;
        self.file.last_transaction = format_end;
        if found == expected {
            return Ok(());
        }
        Err(LogError::Vendor {
            file: self.file.name.clone(),
            expected,
            found,
        })
    }

    /// Compares what the file says lies before it with what was read.
    fn join(&mut self, listed: Logged) -> Result<(), LogError> {
        self.file.is_listed = true;
        match &self.logged {
            None => self.logged = Some(listed),
            Some(logged) if *logged == listed => {}
            Some(logged) => {
                return Err(LogError::NotJoined {
                    file: self.file.name.clone(),
                    listed: listed.to_string(),
                    logged: logged.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Applying begins here. Nothing may lie between what the data holds and this point.
    fn start_at(&mut self, at: BinlogOffset) -> Result<(), LogError> {
        if self.start.offset.is_some_and(|offset| offset != at) {
            return Err(self.no_start(self.start.offset.unwrap_or(at)));
        }
        let missing = match (&self.logged, &self.start.executed) {
            (Some(Logged::MySql(logged)), Executed::MySql(held)) => {
                let missing = logged.minus(held);
                (!missing.is_empty()).then(|| missing.to_string())
            }
            (Some(Logged::MariaDb(logged)), Executed::MariaDb(held)) => {
                let logged = logged.position();
                (logged != *held).then(|| logged.to_string())
            }
            // A file without any transaction need not tell what lies before it.
            (_, _) => None,
        };
        if let Some(missing) = missing {
            return Err(LogError::BehindBase {
                file: self.file.name.clone(),
                at,
                missing,
            });
        }
        self.is_started = true;
        Ok(())
    }

    fn no_start(&self, at: BinlogOffset) -> LogError {
        LogError::Start {
            file: self.file.name.clone(),
            at,
        }
    }

    fn transaction(&mut self, transaction: &Transaction) -> Result<(), LogError> {
        if !self.log(&transaction.gtid) {
            return Err(LogError::Repeated {
                file: self.file.name.clone(),
                at: transaction.begin,
                gtid: transaction.gtid.to_string(),
            });
        }
        self.has_anonymous |= transaction.gtid == TransactionGtid::Anonymous;
        match &transaction.kind {
            TransactionKind::XaPrepare(id) => self.prepared.push(PreparedXa {
                id: id.clone(),
                gtid: transaction.gtid.clone(),
            }),
            TransactionKind::XaCommit(id) | TransactionKind::XaRollback(id) => {
                self.prepared.retain(|prepared| prepared.id != *id);
            }
            _ => {}
        }
        if self.is_started && self.executed.advance(&transaction.gtid) {
            self.file.transactions += 1;
        }
        self.last_commit = Some(transaction.commit_time);
        self.file.note(transaction);
        Ok(())
    }

    /// Adds a transaction to what lies in the log; false when it lies there already.
    fn log(&mut self, gtid: &TransactionGtid) -> bool {
        match (&mut self.logged, gtid) {
            (Some(Logged::MySql(set)), TransactionGtid::MySql(gtid)) => set.add(gtid),
            (Some(Logged::MariaDb(state)), TransactionGtid::MariaDb(gtid)) => {
                state.advance(*gtid);
                true
            }
            (_, _) => true,
        }
    }
}

impl File {
    fn new(name: &str, ending: FileEnding) -> File {
        File {
            name: name.to_owned(),
            ending,
            reader: FileReader::new(),
            is_listed: false,
            format_end: BinlogOffset::FIRST_EVENT,
            settled: BinlogOffset::FIRST_EVENT,
            last_transaction: BinlogOffset::FIRST_EVENT,
            transactions: 0,
            times: Vec::new(),
            last_time: None,
        }
    }

    fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Step>, LogError> {
        self.reader.next(bytes).map_err(|source| LogError::Damaged {
            file: self.name.clone(),
            source,
        })
    }

    fn note(&mut self, transaction: &Transaction) {
        self.last_transaction = transaction.end;
        let mark = TimeMark {
            end: transaction.end,
            commit_time: transaction.commit_time,
        };
        let before = self.times.last().map_or(BinlogOffset(0), |mark| mark.end);
        if mark.end.bytes_since(before) >= TIME_MARK_BYTES {
            self.times.push(mark);
        }
        self.last_time = Some(mark);
    }

    /// Where the bytes end that may be applied.
    fn usable_end(&self) -> Result<BinlogOffset, LogError> {
        let whole = self.reader.whole();
        let cut_problem = |cut: BinlogOffset| match self.reader.end() {
            _ if whole < cut => Some("an event that begins before it ends behind it, or bytes are missing"),
            FileEnd::Torn { .. } => {
                Some("an event that begins before it ends behind it, or bytes are missing")
            }
            _ if whole > cut => Some("bytes behind it were given"),
            _ if !self.reader.is_between() => Some("it lies within a transaction"),
            _ => None,
        };
        match self.ending {
            FileEnding::Closed if self.reader.end() == FileEnd::Closed => Ok(whole),
            FileEnding::Closed => Err(LogError::Unfinished {
                file: self.name.clone(),
                at: whole,
            }),
            FileEnding::Crashed => Ok(self.settled),
            FileEnding::Cut(cut) => match cut_problem(cut) {
                None => Ok(cut),
                Some(problem) => Err(LogError::Cut {
                    file: self.name.clone(),
                    cut,
                    problem,
                }),
            },
        }
    }
}
