//! PostgreSQL: connections and replication, the WAL parser, base backups, restore. Knows no storage.
pub mod basebackup;
mod client;
mod conninfo;
pub mod control_file;
mod error;
pub mod page;
pub mod preflight;
mod replication;
pub mod restore;
mod version;
pub mod wal;

pub use client::{ConnectionTask, SqlClient};
pub use conninfo::{
    ChannelBinding, ClientCertificate, ConnInfo, ConnInfoError, Environment, Host, HostAddress, Keepalives,
    RootCertificates, SslMode, TargetSessionAttrs, TlsSettings,
};
pub use error::{PostgresError, ServerError};
pub use replication::{
    BackupTablespace, BaseBackupEvent, BaseBackupOptions, BaseBackupStream, Checkpoint, ReplicationClient,
    SlotPosition, Started, StreamEvent, SystemIdentity, WalStream,
};
pub use version::ServerVersion;
