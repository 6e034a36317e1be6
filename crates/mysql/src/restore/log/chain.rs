//! Whether binlog files may become relay logs: each whole and undamaged, each joined to the one before it.
//!
//! The servers' appliers step over a missing transaction without a word, so this is looked at before a byte reaches one:
//! every event's checksum and position, transactions whole, and what a file says lies before it (MySQL's previous GTIDs,
//! MariaDB's list) equal to what was read before it. Pure and streaming: a file is fed in portions while it is written.
//!
//! Transactions may come twice: where another server took over, what it had replicated before, and where an interrupted
//! replay goes on. MySQL passes over what it has. MariaDB does not; there the chain says from where on a file is to be
//! applied, which is one point, as a position of its domains is.
//!
//! Invariants: after an error the chain is of no use any more; what [`LogChain::end_file`] tells counts transactions that
//! are whole, that the data lacks, and no others.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tidemark_types::Timestamp;

use super::error::LogError;
use super::executed::Executed;
use super::reader::{FileReader, Meaning, Step};
use super::scan::{Applied, is_all_or_nothing};
use crate::binlog::{
    BinlogOffset, FileEnd, Flavor, Logged, Transaction, TransactionGtid, TransactionKind, XaId,
};
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
    /// An earlier replay was interrupted behind the offset.
    pub interrupted: Option<Interrupted>,
}

/// A replay that was interrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interrupted {
    /// What the data has executed now.
    pub has: Executed,
    /// The place that it was on its way to: behind it nothing was begun.
    pub target: LogPlace,
    /// So many transactions may have been under way at once.
    pub in_flight: usize,
}

/// A place in an archived log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlace {
    /// The branch, as the archive numbers it.
    pub branch: u32,
    /// The binlog file on it, by name.
    pub file: String,
    /// The offset in it.
    pub offset: u64,
}

/// A binlog file that is to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// The branch that it is on, as the archive numbers it. A file of another branch than the one before comes from another
    /// server, or another incarnation. What it says lies before it may be less than the files before hold: then it repeats
    /// transactions.
    pub branch: u32,
    /// Its name, such as `bin.000003`.
    pub name: String,
    /// How it ends.
    pub ending: FileEnding,
}

impl LogFile {
    /// A place in it.
    pub fn place(&self, offset: BinlogOffset) -> LogPlace {
        LogPlace {
            branch: self.branch,
            file: self.name.clone(),
            offset: offset.0,
        }
    }

    /// Whether a place lies in it.
    pub fn holds(&self, place: &LogPlace) -> bool {
        self.branch == place.branch && self.name == place.file
    }
}

/// How a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileEnding {
    /// Where it ended: with the event that ends a file, or anywhere, when its server crashed. A tail that is no whole
    /// transaction never happened then, as the next file's list proves.
    Ended,
    /// Here, between two transactions: the target, or where the log goes on on another branch.
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
    /// From where on it is to be applied; `None`: the data has all of it. In MySQL its beginning, or the start.
    pub apply_from: Option<BinlogOffset>,
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
    /// What the data may have of what comes; `None` when that lies behind.
    overlap: Option<Overlap>,
    server_ids: BTreeSet<u32>,
    prepared: Vec<PreparedXa>,
    has_anonymous: bool,
    last_commit: Option<Timestamp>,
    file: File,
}

/// Transactions come that the data may have.
#[derive(Debug)]
struct Overlap {
    applied: Applied,
    interrupted: Option<Interrupted>,
}

impl Overlap {
    /// Whether a transaction, which the data lacks, may have been begun when the replay was interrupted.
    fn is_in_flight(&mut self, file: &LogFile, transaction: &Transaction) -> bool {
        let Some(Interrupted {
            target, in_flight, ..
        }) = &mut self.interrupted
        else {
            return false;
        };
        let is_past_target = file.holds(target) && transaction.begin.0 >= target.offset;
        let is_in_flight = *in_flight > 0 && !is_past_target;
        *in_flight = in_flight.saturating_sub(1);
        is_in_flight
    }
}

/// The file that is being read.
#[derive(Debug)]
struct File {
    log_file: LogFile,
    begins_branch: bool,
    apply_from: Option<BinlogOffset>,
    reader: FileReader,
    is_listed: bool,
    /// An event begins where applying is to begin.
    has_start: bool,
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
        let interrupted = start.interrupted.clone();
        let has = interrupted.as_ref().map(|interrupted| interrupted.has.clone());
        let overlap = has.clone().map(|has| Overlap {
            applied: Applied::new(&start.executed, has),
            interrupted,
        });
        LogChain {
            executed: has.unwrap_or_else(|| start.executed.clone()),
            start,
            is_started: false,
            logged: None,
            overlap,
            server_ids: BTreeSet::new(),
            prepared: Vec::new(),
            has_anonymous: false,
            last_commit: None,
            file: File::new(LogFile {
                branch: 0,
                name: String::new(),
                ending: FileEnding::Ended,
            }),
        }
    }

    /// Begins the next file.
    pub fn begin_file(&mut self, file: &LogFile) {
        self.file = File {
            begins_branch: self.file.log_file.branch != file.branch,
            apply_from: (self.is_started && self.goes_straight_on()).then_some(BinlogOffset::FIRST_EVENT),
            ..File::new(file.clone())
        };
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
            let at = self.start.offset.unwrap_or(end);
            let is_between = self.file.is_listed && (at == end || self.file.has_start);
            self.start_at(at, is_between)?;
        }
        let file = &mut self.file;
        if file.times.last() != file.last_time.as_ref() {
            file.times.extend(file.last_time);
        }
        Ok(FileFacts {
            end,
            format_end: file.format_end,
            last_transaction: file.last_transaction,
            apply_from: file.apply_from,
            transactions: file.transactions,
            executed: self.executed.clone(),
            times: std::mem::take(&mut file.times),
        })
    }

    /// Checks that the log may end here: that everything was found in it that the data has.
    ///
    /// # Errors
    /// [`LogError::Apart`].
    pub fn end(&self) -> Result<(), LogError> {
        match &self.overlap {
            Some(overlap) if !overlap.applied.is_all_seen() => Err(self.apart("its end".to_owned())),
            Some(_) | None => Ok(()),
        }
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
                file: self.file.log_file.name.clone(),
            });
        }
        if !self.is_started {
            self.look_for_start(&step)?;
        }
        match step.meaning {
            Meaning::Format(found) => self.check_vendor(found, step.end),
            Meaning::Listed(listed) => self.join(listed),
            Meaning::Ends(transaction) => self.transaction(&transaction),
            Meaning::Incident(message) if self.is_started => Err(LogError::Incident {
                file: self.file.log_file.name.clone(),
                at: step.begin,
                message,
            }),
            // What is missing before the start, the base holds.
            Meaning::Incident(_) | Meaning::Begins | Meaning::Other => Ok(()),
        }?;
        if self.file.reader.is_between() {
            self.file.settled = step.end;
        }
        Ok(())
    }

    /// Whether applying begins with this event. Not before the file has told what lies before it; up to there are no
    /// transactions.
    fn look_for_start(&mut self, step: &Step) -> Result<(), LogError> {
        let begins = matches!(step.meaning, Meaning::Begins);
        let offset = self.start.offset;
        self.file.has_start |= offset == Some(step.begin);
        let is_start = self.file.is_listed && offset.map_or(begins, |offset| step.begin >= offset);
        if !is_start {
            return Ok(());
        }
        let is_between = step.is_between && (offset.is_none() || self.file.has_start);
        self.start_at(offset.unwrap_or(step.begin), is_between)
    }

    fn check_vendor(&mut self, found: Flavor, format_end: BinlogOffset) -> Result<(), LogError> {
        let expected = self.executed.flavor();
        self.file.format_end = format_end;
        self.file.last_transaction = format_end;
        if found == expected {
            return Ok(());
        }
        Err(LogError::Vendor {
            file: self.file.log_file.name.clone(),
            expected,
            found,
        })
    }

    /// Compares what the file says lies before it with what was read.
    fn join(&mut self, listed: Logged) -> Result<(), LogError> {
        self.file.is_listed = true;
        let joins = match &self.logged {
            None => true,
            Some(_) if self.file.begins_branch => self.join_branch(&listed),
            Some(logged) => *logged == listed,
        };
        if !joins {
            return Err(LogError::NotJoined {
                file: self.file.log_file.name.clone(),
                listed: listed.to_string(),
                logged: self.logged.as_ref().map_or(String::new(), Logged::to_string),
            });
        }
        if self.logged.is_none() || self.file.begins_branch {
            self.logged = Some(listed);
        }
        Ok(())
    }

    /// A branch begins. What it says lies before it must be in the log, or in the data; what it lacks of that, it repeats.
    fn join_branch(&mut self, listed: &Logged) -> bool {
        match (listed, &self.executed) {
            (Logged::MySql(listed), Executed::MySql(executed)) => executed.contains_all(listed),
            (Logged::MariaDb(listed), Executed::MariaDb(executed)) => {
                let listed = listed.position();
                // Further on in a domain than we are: log is missing.
                let is_within = executed.is_at_or_past_all(&listed);
                let applied = Applied::new(&Executed::MariaDb(listed), self.executed.clone());
                if applied.is_passed() {
                    self.file.apply_from = Some(BinlogOffset::FIRST_EVENT);
                } else {
                    self.file.apply_from = None;
                    self.overlap = Some(Overlap {
                        applied,
                        interrupted: None,
                    });
                }
                is_within
            }
            (_, _) => false,
        }
    }

    /// Whether what comes is to be applied as it is: MySQL passes over what it has by itself.
    fn goes_straight_on(&self) -> bool {
        self.overlap
            .as_ref()
            .is_none_or(|overlap| overlap.applied.is_passed())
    }

    /// Applying begins here. Nothing may lie between what the data holds and this point, which must lie between two
    /// transactions.
    fn start_at(&mut self, at: BinlogOffset, is_between: bool) -> Result<(), LogError> {
        if !is_between {
            return Err(LogError::Start {
                file: self.file.log_file.name.clone(),
                at,
            });
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
            // Not of this vendor: refused already.
            (_, _) => None,
        };
        if let Some(missing) = missing {
            return Err(LogError::BehindBase {
                file: self.file.log_file.name.clone(),
                at,
                missing,
            });
        }
        self.is_started = true;
        self.file.apply_from = self.goes_straight_on().then_some(at);
        Ok(())
    }

    fn transaction(&mut self, transaction: &Transaction) -> Result<(), LogError> {
        if !self.log(&transaction.gtid) {
            return Err(LogError::Repeated {
                file: self.file.log_file.name.clone(),
                at: transaction.begin,
                gtid: transaction.gtid.to_string(),
            });
        }
        if transaction.gtid == TransactionGtid::Anonymous {
            self.has_anonymous = true;
            if self.start.offset.is_none() {
                return Err(LogError::Anonymous {
                    file: self.file.log_file.name.clone(),
                    at: transaction.begin,
                });
            }
        }
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
        if self.is_started && self.is_new(transaction)? {
            self.file.transactions += 1;
        }
        self.last_commit = Some(transaction.commit_time);
        self.file.note(transaction);
        Ok(())
    }

    /// Whether the data lacks a transaction. It has it from here on.
    fn is_new(&mut self, transaction: &Transaction) -> Result<bool, LogError> {
        let gtid = &transaction.gtid;
        if let Some(overlap) = &mut self.overlap {
            if overlap.applied.holds(gtid) {
                if overlap.applied.is_passed() {
                    self.file.apply_from.get_or_insert(transaction.end);
                }
                return Ok(false);
            }
            let is_in_flight = overlap.is_in_flight(&self.file.log_file, transaction);
            if !overlap.applied.is_passed() {
                return Err(self.apart(gtid.to_string()));
            }
            if is_in_flight && !is_all_or_nothing(transaction) {
                return Err(LogError::InPart {
                    file: self.file.log_file.name.clone(),
                    at: transaction.begin,
                    gtid: gtid.to_string(),
                });
            }
        }
        Ok(self.executed.advance(gtid))
    }

    fn apart(&self, before: String) -> LogError {
        LogError::Apart {
            file: self.file.log_file.name.clone(),
            executed: self.executed.to_string(),
            before,
        }
    }

    /// Adds a transaction to what lies in the log; false when it lies there already.
    fn log(&mut self, gtid: &TransactionGtid) -> bool {
        self.logged.as_mut().is_none_or(|logged| logged.add(gtid))
    }
}

impl File {
    fn new(log_file: LogFile) -> File {
        File {
            log_file,
            begins_branch: false,
            apply_from: None,
            reader: FileReader::new(),
            is_listed: false,
            has_start: false,
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
            file: self.log_file.name.clone(),
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
        match self.log_file.ending {
            FileEnding::Ended if self.reader.end() == FileEnd::Closed => Ok(whole),
            FileEnding::Ended => Ok(self.settled),
            FileEnding::Cut(cut) => match cut_problem(cut) {
                None => Ok(cut),
                Some(problem) => Err(LogError::Cut {
                    file: self.log_file.name.clone(),
                    cut,
                    problem,
                }),
            },
        }
    }
}
