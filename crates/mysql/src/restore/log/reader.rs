//! One binlog file as a sequence of what matters to a restore: whose it is, what lies before it, whole transactions.

use crate::binlog::{
    BinlogDecoder, BinlogError, BinlogOffset, Fact, FileEnd, Flavor, Logged, Transaction, Transactions,
};

/// An event.
pub(super) struct Step {
    pub(super) begin: BinlogOffset,
    pub(super) end: BinlogOffset,
    pub(super) server_id: u32,
    /// No transaction was open before it.
    pub(super) is_between: bool,
    pub(super) meaning: Meaning,
}

/// What an event means to a restore.
pub(super) enum Meaning {
    /// The file is this vendor's.
    Format(Flavor),
    /// This lies before the file.
    Listed(Logged),
    /// A transaction begins.
    Begins,
    /// A transaction ends.
    Ends(Box<Transaction>),
    /// The source says that changes are missing.
    Incident(String),
    /// Nothing.
    Other,
}

/// Reads one file.
#[derive(Debug)]
pub(super) struct FileReader {
    decoder: BinlogDecoder,
    transactions: Transactions,
}

impl FileReader {
    pub(super) fn new() -> FileReader {
        FileReader {
            decoder: BinlogDecoder::new(),
            transactions: Transactions::new(),
        }
    }

    /// The next event; `None` when `input` is used up.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Step>, BinlogError> {
        let Some(event) = self.decoder.next(input)? else {
            return Ok(None);
        };
        let fact = Fact::of(&event)?;
        let is_between = self.transactions.open().is_none();
        let ended = self.transactions.add(&event, fact.as_ref())?;
        let meaning = match (ended, fact) {
            (_, Some(Fact::Incident { message, .. })) => Meaning::Incident(message.into_owned()),
            (Some(transaction), _) => Meaning::Ends(Box::new(transaction)),
            (None, Some(Fact::Format)) => Meaning::Format(event.format.flavor),
            (None, Some(Fact::MySqlGtid(_) | Fact::MariaDbGtid(_))) => Meaning::Begins,
            (None, fact) => fact
                .as_ref()
                .and_then(Logged::before)
                .map_or(Meaning::Other, Meaning::Listed),
        };
        Ok(Some(Step {
            begin: event.begin,
            end: event.end,
            server_id: event.header.server_id,
            is_between,
            meaning,
        }))
    }

    /// Whether the last event ended its transaction, or lies in none.
    pub(super) fn is_between(&self) -> bool {
        self.transactions.open().is_none()
    }

    /// Where the last whole event ends.
    pub(super) fn whole(&self) -> BinlogOffset {
        self.decoder.whole()
    }

    /// How the bytes end.
    pub(super) fn end(&self) -> FileEnd {
        self.decoder.end()
    }
}
