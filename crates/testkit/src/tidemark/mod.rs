//! The built binaries, run as an operator runs them.
//!
//! They are taken as they lie in the target directory: whoever runs these tests builds them first.

mod agent;
mod metrics;
mod program;
mod repository;
mod restore;
mod restore_mysql;

pub use agent::{Agent, AgentBuilder};
pub use metrics::Metrics;
pub use program::{accessible_copy, program};
pub use repository::TestRepository;
pub use restore::{Restore, RestoredServer, tidemark_restore};
pub use restore_mysql::{MysqlRestore, RestoredMysql};
