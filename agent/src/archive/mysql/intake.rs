//! Takes binlog in as it is streamed: parses it, gathers what it tells, and hands it to the shipper.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemark_mysql::binlog::{
    BinlogDecoder, BinlogError, BinlogOffset, Fact, Format, Logged, Transaction, TransactionKind,
    Transactions,
};
use tidemark_repository::log::SliceFlags;
use tidemark_types::{BinlogBasename, LogFiles, LogPosition, Position};

use super::follow::FollowError;
use super::start::Start;
use crate::archive::shipper::Shipper;
use crate::state::ServerState;

/// What a binlog file begins with; it is never sent.
const MAGIC: &[u8] = b"\xFEbin";

/// The log of one branch on its way to the repository.
pub struct Intake {
    /// Where bytes go.
    pub shipper: Shipper,
    files: LogFiles,
    /// The file that the server has to name next, and where in it bytes have to begin.
    next: LogPosition,
    /// Where received bytes end; `None` before the first file was named.
    at: Option<LogPosition>,
    /// Received bytes before this point are stored and lie before the grain that is compared first: they are parsed only.
    compared_from: LogPosition,
    parser: Option<Parser>,
    /// What lies in the log up to here; `None` while that is not known, after streaming began in mid-file.
    logged: Option<Logged>,
    /// Damage at these positions was met before, in the same bytes received before: go on past it.
    damage_known: BTreeSet<LogPosition>,
    state: Arc<ServerState>,
}

/// Reads one file. `None` in its place: the file is damaged, and goes unread to its end.
struct Parser {
    decoder: BinlogDecoder,
    transactions: Transactions,
}

impl Intake {
    /// Begins where `start` says.
    pub fn new(
        shipper: Shipper,
        start: &Start,
        files: LogFiles,
        damage_known: BTreeSet<LogPosition>,
        state: Arc<ServerState>,
    ) -> Intake {
        Intake {
            shipper,
            files,
            next: start.event,
            at: None,
            compared_from: start.resume.start,
            parser: None,
            logged: None,
            damage_known,
            state,
        }
    }

    /// Where received bytes end, as the server writes it.
    pub fn received(&self) -> Option<Position> {
        self.at.map(|at| self.files.position(at))
    }

    /// The file that the server has to name next.
    pub fn next_file(&self) -> u64 {
        self.next.file
    }

    /// How far everything is durable, as the server writes it.
    pub fn durable(&self) -> Position {
        self.files.position(self.shipper.durable())
    }

    /// Ships what was received and no slice has taken yet.
    pub fn cut(&mut self) {
        self.cut_at(false);
    }

    fn cut_at(&mut self, ends_file: bool) {
        let back = self.parser.as_ref().map_or(0, |parser| {
            parser.decoder.position().bytes_since(parser.decoder.whole())
        });
        self.shipper.cut(back, ends_file);
    }

    /// The server goes on in the file `name`, at `position`: the file before it has ended.
    ///
    /// # Errors
    /// It is not the file, or not the place, that comes next.
    pub fn begin_file(&mut self, name: &str, position: BinlogOffset) -> Result<(), FollowError> {
        let unexpected = |at: Option<LogPosition>| FollowError::UnexpectedFile {
            name: name.to_owned(),
            position: position.0,
            after: at,
        };
        let LogFiles::Binlog { basename, .. } = self.files else {
            return Err(unexpected(self.at));
        };
        let found = BinlogBasename::parse_file(name).filter(|(found, _)| *found == basename);
        let found = found.map(|(_, file)| LogPosition {
            file,
            offset: position.0,
        });
        if found.is_some() && found == self.at {
            // The file that is being sent is named again.
            return Ok(());
        }
        // The magic is never sent.
        let offset = self.next.offset.max(BinlogOffset::FIRST_EVENT.0);
        let file = self.next.file;
        if found != Some(LogPosition { file, offset }) {
            return Err(unexpected(self.at));
        }
        if self.at.is_some() {
            self.cut_at(true);
        }
        self.next = LogPosition::start_of(file + 1);
        self.parser = Some(Parser::new());
        if position > BinlogOffset::FIRST_EVENT {
            // The format follows, and then the bytes from here on.
            self.at = found;
            return Ok(());
        }
        self.at = Some(LogPosition::start_of(file));
        self.receive(BinlogOffset(0), MAGIC)
    }

    /// The format of the file that is being sent from its middle on.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn format(&mut self, event: &[u8]) -> Result<(), FollowError> {
        let at = BinlogOffset(self.at.map_or(0, |at| at.offset));
        let format = Format::of_event(event, at)?;
        self.parser = Some(Parser {
            decoder: BinlogDecoder::join(at, format),
            transactions: Transactions::join(),
        });
        self.logged = None;
        Ok(())
    }

    /// Takes in the bytes of the file from `begin` on.
    ///
    /// # Errors
    /// Bytes that do not follow, that differ from what is stored, that make no sense.
    pub fn receive(&mut self, begin: BinlogOffset, mut bytes: &[u8]) -> Result<(), FollowError> {
        let Some(at) = self.at.filter(|at| at.offset == begin.0) else {
            return Err(FollowError::Discontinuous {
                received: begin.0,
                expected: self.at,
            });
        };
        bytes = self.pass_over(at, bytes)?;
        while !bytes.is_empty() {
            let room = usize::try_from(self.shipper.room()).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(bytes.len().min(room));
            self.shipper.push(now)?;
            self.advance(now)?;
            let position = self.shipper.position();
            if position.grain_start() == position {
                self.cut_at(false);
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Parses what lies before the first grain that is compared; the rest.
    fn pass_over<'b>(&mut self, at: LogPosition, bytes: &'b [u8]) -> Result<&'b [u8], FollowError> {
        if at.file != self.compared_from.file || at.offset >= self.compared_from.offset {
            return Ok(bytes);
        }
        let before = usize::try_from(self.compared_from.offset - at.offset).unwrap_or(usize::MAX);
        let (before, rest) = bytes.split_at(bytes.len().min(before));
        self.advance(before)?;
        Ok(rest)
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<(), FollowError> {
        if let Some(at) = &mut self.at {
            at.offset += bytes.len() as u64;
        }
        self.parse(bytes)?;
        let whole = match (&self.parser, self.at) {
            (Some(parser), Some(at)) => Some(LogPosition {
                file: at.file,
                offset: parser.decoder.whole().0,
            }),
            (None, at) => at,
            (Some(_), None) => None,
        };
        if let Some(whole) = whole {
            self.shipper.note_whole(whole);
        }
        Ok(())
    }

    /// Reads the events that end in `input`.
    fn parse(&mut self, mut input: &[u8]) -> Result<(), FollowError> {
        while let Some(mut parser) = self.parser.take() {
            let met = parser.next(&mut input);
            match met {
                Ok(Met::Nothing) => {
                    self.parser = Some(parser);
                    break;
                }
                Ok(met) => {
                    self.parser = Some(parser);
                    self.note(met)?;
                }
                Err(error) => self.damaged(error)?,
            }
        }
        Ok(())
    }

    /// Takes note of what an event told.
    fn note(&mut self, met: Met) -> Result<(), FollowError> {
        match met {
            Met::Transaction(transaction) => self.transaction(&transaction),
            Met::Before(listed) => return self.join(listed),
            Met::Unseen => self.passed_over(),
            Met::Nothing | Met::Other => {}
        }
        Ok(())
    }

    /// A transaction that began before streaming did may end here, with a time that nobody knows: readers have to look for
    /// it. What is stored already was told of when it was received first.
    fn passed_over(&mut self) {
        if self.at > Some(self.shipper.durable()) {
            self.shipper.note_flags(SliceFlags::UNINDEXED);
        }
    }

    /// Compares what a file says lies before it with what was received before it.
    fn join(&mut self, listed: Logged) -> Result<(), FollowError> {
        match &self.logged {
            Some(logged) if *logged != listed => Err(FollowError::NotJoined {
                file: self.at.unwrap_or_default().file,
                listed: listed.to_string(),
                logged: logged.to_string(),
            }),
            _ => {
                self.logged = Some(listed);
                Ok(())
            }
        }
    }

    fn transaction(&mut self, transaction: &Transaction) {
        let shipper = &mut self.shipper;
        shipper.note_commit();
        shipper.note_time(transaction.commit_time);
        if transaction.contains_ddl {
            shipper.note_flags(SliceFlags::DDL);
        }
        match transaction.kind {
            TransactionKind::XaPrepare(_) => shipper.note_flags(SliceFlags::PREPARE),
            TransactionKind::Incident => self.alarm(
                "incident",
                format!(
                    "the server says that changes are missing in its binlog at {:?}",
                    self.received()
                ),
            ),
            _ => {}
        }
        if let Some(logged) = &mut self.logged {
            logged.add(&transaction.gtid);
        }
        if let Some(at) = self.at {
            let end = self.files.position(LogPosition {
                file: at.file,
                offset: transaction.end.0,
            });
            self.state
                .update(|facts| facts.note_commit(end, transaction.commit_time));
        }
    }

    /// Bytes that make no sense are received once more; if they still make none, they are stored as they are.
    fn damaged(&mut self, error: BinlogError) -> Result<(), FollowError> {
        let at = LogPosition {
            file: self.at.unwrap_or_default().file,
            offset: error.position().0,
        };
        if !self.damage_known.contains(&at) {
            return Err(FollowError::Damaged { at, source: error });
        }
        tracing::error!(
            damage = %error,
            "the server's binlog is damaged; it is stored as it is, and the rest of the file is not indexed"
        );
        self.alarm("unindexed_range", error.to_string());
        self.shipper.note_flags(SliceFlags::UNINDEXED);
        self.logged = None;
        Ok(())
    }

    fn alarm(&self, kind: &'static str, text: String) {
        self.state.update(|facts| facts.alarms.insert(kind, text));
    }
}

/// What an event told.
enum Met {
    /// No event ended.
    Nothing,
    /// A transaction ended.
    Transaction(Box<Transaction>),
    /// What lies before the file.
    Before(Logged),
    /// A part of a transaction whose begin was not received.
    Unseen,
    /// Nothing that matters here.
    Other,
}

impl Parser {
    fn new() -> Parser {
        Parser {
            decoder: BinlogDecoder::new(),
            transactions: Transactions::new(),
        }
    }

    /// Reads the next event that ends in `input`.
    fn next(&mut self, input: &mut &[u8]) -> Result<Met, BinlogError> {
        let Some(event) = self.decoder.next(input)? else {
            return Ok(Met::Nothing);
        };
        let fact = Fact::of(&event)?;
        if let Some(transaction) = self.transactions.add(&event, fact.as_ref())? {
            return Ok(Met::Transaction(Box::new(transaction)));
        }
        if self.transactions.is_joining() {
            return Ok(Met::Unseen);
        }
        Ok(match &fact {
            Some(fact) => Logged::before(fact).map_or(Met::Other, Met::Before),
            None => Met::Other,
        })
    }
}
