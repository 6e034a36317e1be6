//! What binlogs say.

use std::collections::BTreeMap;

use anyhow::Context;
use tidemark_mysql::binlog::{
    BinlogDecoder, BinlogOffset, Fact, Format, Transaction, TransactionKind, Transactions,
};
use tidemark_repository::{Archive, Branch};
use tidemark_types::{ErrorClass, GRAIN_LEN, LogPosition, Position};
use tokio::sync::Mutex;

use super::{Reader, Scan, run};
use crate::exit::Failure;
use crate::log_bytes::LogBytes;
use crate::plan::{Ending, EndingKind, LineSlice, RecordSpan, SliceFacts, TransactionId};

/// Reads one slice.
pub(super) async fn read(
    archive: &Archive,
    slice: &LineSlice<'_>,
    scan: Scan,
    formats: &Formats,
) -> anyhow::Result<SliceFacts> {
    let context = format!("read the binlog up to {} of branch {}", scan.end, slice.branch);
    let from = scan.parse_from;
    // Within the first grain, which is read from its begin on anyhow, the format description comes by itself.
    let (from, decoder, transactions) = if from.at.offset < GRAIN_LEN {
        (from.file_start(), BinlogDecoder::new(), Transactions::new())
    } else {
        let format = formats.of(archive, slice, from).await?;
        let decoder = BinlogDecoder::join(BinlogOffset(from.at.offset), format);
        (from, decoder, Transactions::join())
    };
    if from.at < slice.run.begin.position {
        return Err(headless(slice, from).into());
    }
    let bytes = scan.bytes(archive, slice, from);
    let reader = BinlogReader {
        decoder,
        transactions,
        facts: SliceFacts::default(),
        is_lost: false,
        scan,
    };
    run(reader, bytes).await.context(context)
}

/// The formats of the files that were met. Only a file's begin tells, which may be a grain of 16 MiB.
#[derive(Debug, Default)]
pub(super) struct Formats(Mutex<BTreeMap<(Branch, u64), Format>>);

impl Formats {
    async fn of(&self, archive: &Archive, slice: &LineSlice<'_>, before: Position) -> anyhow::Result<Format> {
        let file = (slice.branch, before.at.file);
        let known = self.0.lock().await.get(&file).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let format = read_format(archive, slice, before).await?;
        self.0.lock().await.insert(file, format.clone());
        Ok(format)
    }
}

/// The format of the file that holds `before`, read from its begin.
async fn read_format(archive: &Archive, slice: &LineSlice<'_>, before: Position) -> anyhow::Result<Format> {
    let begin = before.file_start();
    if begin.at < slice.run.begin.position {
        return Err(headless(slice, begin).into());
    }
    let mut bytes = LogBytes::new(archive, slice.branch, slice.run, begin, before, 1);
    let mut decoder = BinlogDecoder::new();
    while let Some(chunk) = bytes.next().await? {
        let mut input = chunk.bytes.as_slice();
        decoder.next(&mut input)?;
        if let Some(format) = decoder.format() {
            return Ok(format.clone());
        }
    }
    Err(headless(slice, begin).into())
}

fn headless(slice: &LineSlice<'_>, begin: Position) -> Failure {
    let message = format!(
        "the begin of a binlog file of branch {}, {begin}, is not stored: the rest of the file cannot be read without it",
        slice.branch
    );
    Failure::new(ErrorClass::Corrupt, message)
}

struct BinlogReader {
    decoder: BinlogDecoder,
    transactions: Transactions,
    facts: SliceFacts,
    /// The agent could not read on from here either.
    is_lost: bool,
    scan: Scan,
}

impl Reader for BinlogReader {
    fn feed(&mut self, mut input: &[u8]) -> anyhow::Result<()> {
        while !self.is_lost {
            match self.next(&mut input) {
                Ok(None) => return Ok(()),
                Ok(Some(Some(transaction))) => self.take(transaction),
                Ok(Some(None)) => {}
                Err(error) if self.scan.may_be_damaged => {
                    tracing::warn!(%error, "the binlog cannot be read from here on to the end of its file");
                    self.is_lost = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn facts(self) -> SliceFacts {
        self.facts
    }
}

impl BinlogReader {
    /// Reads an event, and the transaction that it ends; `None` when more input is needed.
    fn next(
        &mut self,
        input: &mut &[u8],
    ) -> Result<Option<Option<Transaction>>, tidemark_mysql::binlog::BinlogError> {
        let Some(event) = self.decoder.next(input)? else {
            return Ok(None);
        };
        let fact = Fact::of(&event)?;
        self.transactions.add(&event, fact.as_ref()).map(Some)
    }

    fn take(&mut self, transaction: Transaction) {
        let position = |offset: BinlogOffset| {
            self.scan.parse_from.files.position(LogPosition {
                file: self.scan.parse_from.at.file,
                offset: offset.0,
            })
        };
        let span = RecordSpan {
            begin: position(transaction.begin),
            end: position(transaction.end),
        };
        if !self.scan.counts(span.end) {
            return;
        }
        let id = TransactionId::Gtid(transaction.gtid);
        self.facts.last = Some(span);
        self.facts.endings.push(Ending {
            begin: span.begin,
            end: span.end,
            kind: kind(&transaction.kind),
            time: transaction.commit_time,
            is_wanted: self.scan.wanted.as_ref() == Some(&id),
            transaction: id,
        });
    }
}

/// An ALTER TABLE that another transaction is to end has changed nothing yet, as a prepared one has not.
fn kind(kind: &TransactionKind) -> EndingKind {
    match kind {
        TransactionKind::XaPrepare(_) | TransactionKind::AlterStart => EndingKind::Prepare,
        TransactionKind::XaRollback(_) => EndingKind::Abort,
        TransactionKind::Changes
        | TransactionKind::Ddl
        | TransactionKind::XaCommit(_)
        | TransactionKind::Incident => EndingKind::Commit,
    }
}
