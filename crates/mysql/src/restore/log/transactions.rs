//! The transactions of one file, for who wants nothing else of it.

use super::error::LogError;
use super::reader::{FileReader, Meaning};
use crate::binlog::Transaction;

/// Reads the transactions of a file that was checked.
pub(in crate::restore) struct TransactionReader {
    name: String,
    reader: FileReader,
}

impl TransactionReader {
    /// A reader of a file from its first byte on. `name` is for messages.
    pub(in crate::restore) fn new(name: &str) -> TransactionReader {
        TransactionReader {
            name: name.to_owned(),
            reader: FileReader::new(),
        }
    }

    /// Adds the next bytes; calls `see` for each transaction that ends in them.
    ///
    /// # Errors
    /// [`LogError::Damaged`].
    pub(in crate::restore) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut see: impl FnMut(&Transaction),
    ) -> Result<(), LogError> {
        let damaged = |source| LogError::Damaged {
            file: self.name.clone(),
            source,
        };
        while let Some(step) = self.reader.next(&mut bytes).map_err(damaged)? {
            if let Meaning::Ends(transaction) = step.meaning {
                see(&transaction);
            }
        }
        Ok(())
    }
}
