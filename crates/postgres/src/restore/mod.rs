//! PostgreSQL's part of a restore: recovery settings, names asked by `restore_command`, tablespaces, server programs,
//! and the server itself. Where the bytes come from is not known here, nor how a target is found.

mod error;
mod finder;
mod private_config;
mod recovery_config;
mod server;
mod settings_file;
mod tablespaces;
mod wal_request;

pub use error::RestoreError;
pub use finder::ServerPrograms;
pub use private_config::PrivateConfig;
pub use recovery_config::{CommandWord, RecoverySettings, RecoveryTarget, TargetAction, restore_command};
pub use server::{LeftRunning, ReplayProgress, RestoredServer, ServerLaunch, ServerState};
pub use tablespaces::{TablespaceMapping, check_tablespaces_empty, link_tablespaces, map_tablespaces};
pub use wal_request::WalRequest;
