//! The log that a restore applies: what is looked at before a server gets to see it. Pure.

mod chain;
mod error;
mod executed;
mod reader;
mod scan;
#[cfg(test)]
mod tests;
mod transactions;

pub use chain::{
    FileEnding, FileFacts, Interrupted, LogChain, LogFile, LogPlace, LogStart, PreparedXa, TimeMark,
};
pub use error::LogError;
pub use executed::Executed;
pub(super) use scan::{FailureSearch, Located};
pub(super) use transactions::TransactionReader;
