//! From events to whole transactions: where each begins and ends, its GTID, when it committed, what it is.
//!
//! Where one begins and ends is as for the servers' own appliers: `Log_event::starts_group` and `ends_group` in MySQL's
//! `sql/log_event.h`, `Gtid_log_event::FL_STANDALONE` and `Log_event::is_group_event` in MariaDB's.

use std::ops::ControlFlow;

use tidemark_types::Timestamp;

use super::error::BinlogError;
use super::event::{BinlogOffset, Event};
use super::facts::Fact;
use super::gtid_event::{AlterPhase, MariaDbGtidEvent, MySqlGtidEvent};
use super::payload::{Payload, PayloadReader};
use super::query::{Query, StatementKind, XaId};
use crate::gtid::{Gtid, MariaDbGtid};

/// A whole transaction. Targets lie between two of these, never within one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Where its first event begins.
    pub begin: BinlogOffset,
    /// Where its last event ends.
    pub end: BinlogOffset,
    /// Which one it is.
    pub gtid: TransactionGtid,
    /// The server that executed it first.
    pub server_id: u32,
    /// When it committed on the server whose log this is.
    pub commit_time: Timestamp,
    /// Where this time comes from.
    pub time_source: TimeSource,
    /// When it committed where it was executed first; MySQL only.
    pub original_commit_time: Option<Timestamp>,
    /// What it is.
    pub kind: TransactionKind,
    /// What ends it.
    pub ended_by: TransactionEnd,
    /// It changes the schema, wholly or among other things (CREATE TABLE … SELECT).
    pub contains_ddl: bool,
    /// Its length as its GTID event claims it; MySQL only.
    pub claimed_bytes: Option<u64>,
}

impl Transaction {
    /// Its length in the file.
    pub fn bytes(&self) -> u64 {
        self.end.bytes_since(self.begin)
    }
}

/// The identity of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TransactionGtid {
    /// MySQL's.
    MySql(Gtid),
    /// MariaDB's.
    MariaDb(MariaDbGtid),
    /// None (MySQL with `gtid_mode = OFF`).
    Anonymous,
}

/// Where a commit time comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeSource {
    /// The server wrote down the microsecond of the commit (MySQL since 8.0.1).
    Commit,
    /// The second at which the last statement began, plus how long it took where that is told: the commit is not before
    /// it, and may be long after (a long INSERT … SELECT on MariaDB). `SET TIMESTAMP` forges it.
    Statement,
}

/// What a transaction is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionKind {
    /// Changes of data; also none at all.
    Changes,
    /// One statement that changes the schema or administers the server.
    Ddl,
    /// An ALTER TABLE began, and another transaction is to end it (MariaDB's `binlog_alter_two_phase`).
    AlterStart,
    /// An XA transaction is prepared: it holds its locks until another transaction ends it.
    XaPrepare(XaId),
    /// An XA transaction that was prepared earlier is committed.
    XaCommit(XaId),
    /// An XA transaction that was prepared earlier is rolled back.
    XaRollback(XaId),
    /// The server says that changes are missing here.
    Incident,
}

/// What ends a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionEnd {
    /// XID: an engine with transactions committed it.
    Xid,
    /// The statement COMMIT: only engines without transactions took part.
    Commit,
    /// The statement ROLLBACK: what engines without transactions did remains.
    Rollback,
    /// Its one statement.
    Statement,
    /// XA_PREPARE.
    XaPrepare,
    /// The payload that holds all of it.
    Payload,
    /// INCIDENT.
    Incident,
}

/// A transaction whose end has not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Where it begins.
    pub begin: BinlogOffset,
    /// Which one it is.
    pub gtid: TransactionGtid,
}

/// Puts the events of a file together to transactions.
///
/// A file ends in the midst of one only when its server crashed, or still writes: [`open`](Transactions::open) then tells
/// it. The server rolls such a transaction back; it never happened. A crash of the machine, or a torn write, can also
/// leave the beginning of an event behind ([`super::FileEnd::Torn`]), with or without an open transaction.
#[derive(Debug)]
pub struct Transactions {
    open: Option<Open>,
    /// Events before the first transaction are passed over.
    is_joining: bool,
    payloads: PayloadReader,
}

#[derive(Debug)]
struct Open {
    transaction: OpenTransaction,
    server_id: u32,
    /// MySQL's commit time; or the second of MariaDB's GTID event.
    commit: Option<Timestamp>,
    begun: Option<Timestamp>,
    original_commit: Option<Timestamp>,
    claimed_bytes: Option<u64>,
    /// BEGIN was seen, or is not needed.
    is_in_body: bool,
    /// It is one statement, whatever it says.
    is_standalone: bool,
    contains_ddl: bool,
    is_alter_start: bool,
}

impl Transactions {
    /// From a file's beginning on, or from the beginning of a transaction.
    pub fn new() -> Transactions {
        Transactions {
            open: None,
            is_joining: false,
            payloads: PayloadReader::new(),
        }
    }

    /// From any event on: what comes before the first that begins a transaction is passed over.
    pub fn join() -> Transactions {
        Transactions {
            is_joining: true,
            ..Transactions::new()
        }
    }

    /// Whether no transaction has begun yet since [`join`](Transactions::join): what was added so far may belong to one that
    /// had, and ends unseen.
    pub fn is_joining(&self) -> bool {
        self.is_joining
    }

    /// The transaction that has begun and not ended.
    pub fn open(&self) -> Option<&OpenTransaction> {
        self.open.as_ref().map(|open| &open.transaction)
    }

    /// Adds the next event of the file, with its fact. The transaction that it ends, if it does.
    ///
    /// # Errors
    /// [`BinlogError::TransactionCut`] when an event cannot be where it is, as the transaction before it has no end: events
    /// are missing. [`BinlogError::Malformed`] when it lies outside of any, or is not what it claims to be.
    pub fn add(
        &mut self,
        event: &Event<'_>,
        fact: Option<&Fact<'_>>,
    ) -> Result<Option<Transaction>, BinlogError> {
        match fact {
            Some(Fact::MySqlGtid(gtid)) => self.begin(event, Open::of_mysql(event, gtid))?,
            Some(Fact::MariaDbGtid(gtid)) => self.begin(event, Open::of_mariadb(event, gtid))?,
            Some(Fact::Format | Fact::Rotate { .. } | Fact::Stop | Fact::Checkpoint { .. }) => {
                self.expect_none(event)?;
            }
            Some(Fact::PreviousGtids(_) | Fact::GtidList(_)) => self.expect_none(event)?,
            Some(Fact::Heartbeat { .. }) => {}
            Some(Fact::Incident { .. }) if self.open.is_none() => {}
            None if event.header.is_ignorable() => {}
            _ if self.is_joining => {}
            Some(Fact::Query(query)) => return self.query(event, query),
            Some(Fact::Commit { .. }) => {
                return self.end(event, TransactionKind::Changes, TransactionEnd::Xid);
            }
            Some(Fact::Incident { .. }) => {
                return self.end(event, TransactionKind::Incident, TransactionEnd::Incident);
            }
            Some(Fact::XaPrepare { id, is_one_phase }) => {
                let kind = xa_kind(id, *is_one_phase);
                return self.end(event, kind, TransactionEnd::XaPrepare);
            }
            Some(Fact::Payload(payload)) => return self.payload(event, payload),
            Some(Fact::StatementText(_) | Fact::TableMap(_) | Fact::Rows(_)) | None => {
                self.expect_open(event)?;
            }
        }
        Ok(None)
    }

    fn begin(&mut self, event: &Event<'_>, open: Open) -> Result<(), BinlogError> {
        self.expect_none(event)?;
        self.is_joining = false;
        self.open = Some(open);
        Ok(())
    }

    fn expect_none(&self, event: &Event<'_>) -> Result<(), BinlogError> {
        match &self.open {
            None => Ok(()),
            Some(open) => Err(cut(open, event)),
        }
    }

    fn expect_open(&mut self, event: &Event<'_>) -> Result<&mut Open, BinlogError> {
        self.open.as_mut().ok_or_else(|| outside(event))
    }

    fn query(&mut self, event: &Event<'_>, query: &Query<'_>) -> Result<Option<Transaction>, BinlogError> {
        let kind = query
            .kind()
            .ok_or_else(|| event.malformed("an XA statement without an identifier"))?;
        let open = self.expect_open(event)?;
        let ends_standalone = open.is_standalone || !open.is_in_body;
        let (kind, ended_by) = match kind {
            StatementKind::XaCommit(id) => (TransactionKind::XaCommit(id), TransactionEnd::Statement),
            StatementKind::XaRollback(id) => (TransactionKind::XaRollback(id), TransactionEnd::Statement),
            StatementKind::Begin | StatementKind::XaStart if open.is_in_body => return Err(cut(open, event)),
            StatementKind::Begin | StatementKind::XaStart => {
                open.is_in_body = true;
                return Ok(None);
            }
            StatementKind::Commit | StatementKind::Rollback if !open.is_in_body => {
                return Err(event.malformed("it ends a transaction that did not begin"));
            }
            _ if ends_standalone && open.is_alter_start => {
                (TransactionKind::AlterStart, TransactionEnd::Statement)
            }
            _ if ends_standalone => (TransactionKind::Ddl, TransactionEnd::Statement),
            StatementKind::Commit => (TransactionKind::Changes, TransactionEnd::Commit),
            StatementKind::Rollback => (TransactionKind::Changes, TransactionEnd::Rollback),
            StatementKind::Ddl => {
                open.contains_ddl = true;
                return Ok(None);
            }
            StatementKind::Other => return Ok(None),
        };
        // The clock when it was logged, which even SET TIMESTAMP does not forge.
        let logged = event
            .header
            .time()
            .0
            .saturating_add(i64::from(query.exec_seconds) * 1_000_000);
        open.begun = Some(Timestamp(logged));
        self.end(event, kind, ended_by)
    }

    fn payload(
        &mut self,
        event: &Event<'_>,
        payload: &Payload<'_>,
    ) -> Result<Option<Transaction>, BinlogError> {
        let mut look = PayloadLook::default();
        self.payloads.read(event, payload, |inner| look.at(inner))?;
        if let Some(error) = look.error {
            return Err(error);
        }
        self.expect_open(event)?.contains_ddl |= look.contains_ddl;
        self.end(
            event,
            look.kind.unwrap_or(TransactionKind::Changes),
            TransactionEnd::Payload,
        )
    }

    fn end(
        &mut self,
        event: &Event<'_>,
        kind: TransactionKind,
        ended_by: TransactionEnd,
    ) -> Result<Option<Transaction>, BinlogError> {
        let open = self.open.take().ok_or_else(|| outside(event))?;
        let (commit_time, time_source) = match open.commit {
            Some(time) => (time, TimeSource::Commit),
            None => (open.begun.unwrap_or(event.header.time()), TimeSource::Statement),
        };
        let is_ddl = matches!(kind, TransactionKind::Ddl | TransactionKind::AlterStart);
        Ok(Some(Transaction {
            begin: open.transaction.begin,
            end: event.end,
            gtid: open.transaction.gtid,
            server_id: open.server_id,
            commit_time,
            time_source,
            original_commit_time: open.original_commit,
            kind,
            ended_by,
            contains_ddl: open.contains_ddl || is_ddl,
            claimed_bytes: open.claimed_bytes,
        }))
    }
}

/// What is looked for in a payload: BEGIN, behind it perhaps DDL (CREATE TABLE … SELECT), and then nothing but changes
/// and a commit; or XA START, and at the very end what became of it.
#[derive(Default)]
struct PayloadLook {
    is_xa: bool,
    contains_ddl: bool,
    kind: Option<TransactionKind>,
    error: Option<BinlogError>,
}

impl PayloadLook {
    fn at(&mut self, inner: &Event<'_>) -> ControlFlow<()> {
        match Fact::of(inner) {
            Ok(Some(Fact::Query(query))) => match query.kind() {
                Some(StatementKind::XaStart) => self.is_xa = true,
                Some(StatementKind::Ddl) => self.contains_ddl = true,
                _ => {}
            },
            Ok(Some(Fact::XaPrepare { id, is_one_phase })) => self.kind = Some(xa_kind(&id, is_one_phase)),
            // The rest of the statement's text and of the rows is not worth decompressing.
            Ok(Some(Fact::TableMap(_) | Fact::Rows(_))) if !self.is_xa => return ControlFlow::Break(()),
            Ok(_) => {}
            Err(error) => {
                self.error = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

impl Default for Transactions {
    fn default() -> Transactions {
        Transactions::new()
    }
}

impl Open {
    fn of_mysql(event: &Event<'_>, gtid: &MySqlGtidEvent) -> Open {
        Open {
            transaction: OpenTransaction {
                begin: event.begin,
                gtid: gtid
                    .gtid
                    .clone()
                    .map_or(TransactionGtid::Anonymous, TransactionGtid::MySql),
            },
            server_id: event.header.server_id,
            commit: gtid.immediate_commit,
            begun: None,
            original_commit: gtid.original_commit,
            claimed_bytes: gtid.transaction_bytes,
            is_in_body: false,
            is_standalone: false,
            contains_ddl: false,
            is_alter_start: false,
        }
    }

    fn of_mariadb(event: &Event<'_>, gtid: &MariaDbGtidEvent) -> Open {
        Open {
            transaction: OpenTransaction {
                begin: event.begin,
                gtid: TransactionGtid::MariaDb(gtid.gtid),
            },
            server_id: event.header.server_id,
            commit: None,
            begun: Some(event.header.time()),
            original_commit: None,
            claimed_bytes: None,
            is_in_body: true,
            is_standalone: gtid.is_standalone,
            contains_ddl: gtid.is_ddl && !gtid.is_standalone,
            is_alter_start: gtid.alter == Some(AlterPhase::Start),
        }
    }
}

fn xa_kind(id: &XaId, is_one_phase: bool) -> TransactionKind {
    if is_one_phase {
        TransactionKind::Changes
    } else {
        TransactionKind::XaPrepare(id.clone())
    }
}

fn cut(open: &Open, event: &Event<'_>) -> BinlogError {
    BinlogError::TransactionCut {
        begin: open.transaction.begin,
        at: event.begin,
        kind: event.header.kind,
    }
}

fn outside(event: &Event<'_>) -> BinlogError {
    event.malformed("it lies outside of any transaction")
}
