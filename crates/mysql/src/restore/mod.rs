//! MySQL's and MariaDB's part of a restore: a private server on the laid-down data, the archived log as its relay logs, its own
//! applier, the proof that it stands where the log ends. Where the bytes come from is not known here, nor how a target is found.
//!
//! - [`ServerProgram`] finds the server, [`PrivateOptions`] say how it runs.
//! - [`Replay`] starts it and applies what [`RelayFeed`] takes in and checks ([`LogChain`]).
//! - [`ReplayState`] tells how far an interrupted replay came.

mod applier;
mod control;
mod error;
mod load;
mod log;
mod options;
mod owner;
mod prepare;
mod program;
mod relay;
mod replay;
mod server;
mod state;
#[cfg(test)]
mod tests;

pub use applier::ReplayProgress;
pub use error::{FailedTransaction, RestoreError};
pub use load::load_dump;
pub use log::{
    Executed, FileEnding, FileFacts, Interrupted, LogChain, LogError, LogFile, LogPlace, LogStart,
    PreparedXa, TimeMark,
};
pub use options::PrivateOptions;
pub use prepare::prepare_backup;
pub use program::{Series, ServerProgram};
pub use relay::RelayFeed;
pub use replay::{Ending, Held, Replay, ReplayStart, Replayed};
pub use server::{LeftRunning, ServerLaunch};
pub use state::ReplayState;
