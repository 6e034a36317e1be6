//! Base backups: which files belong into one, reading them, and what makes a copy a base backup.
//!
//! Two ways, one outcome. Local: [`BackupSession`] keeps the backup open on the server, [`scan`] lists the files and
//! [`SourceReader`] reads them, page by page. Remote: [`TarReader`] takes apart what `BASE_BACKUP` sends. Paths, file
//! kinds and rules are the same for both ([`kind_of`]). Where the bytes go is not known here.

mod archive;
mod error;
mod facts;
mod label;
mod local;
mod manifest_facts;
mod names;
mod rules;
mod server_manifest;
mod session;
mod tar;

pub use archive::{Archive, is_backup_metadata};
pub use error::BaseBackupError;
pub(crate) use error::{database_message, sql_class};
pub use facts::{ConfigurationFile, DatabaseFacts, ServerFacts};
pub use label::{
    BACKUP_LABEL_FILE, BackupLabel, TABLESPACE_MAP_FILE, Tablespace, format_tablespace_map,
    parse_tablespace_map,
};
pub use local::{BadPage, PagesRead, Scan, Skipped, SourceDirectory, SourceFile, SourceReader, scan};
pub use manifest_facts::{BAD_PAGES_LISTED, BackupWay, ManifestFacts};
pub use names::{RelationName, query_relation_names};
pub use rules::{
    DEFAULT_TABLESPACE, FileKind, GLOBAL_TABLESPACE, RelationSegment, is_emptied_directory, is_excluded_name,
    kind_of,
};
pub use server_manifest::{
    ChecksumAlgorithm, FileChecksum, FileDigest, ManifestFile, ServerManifest, ServerManifestError, WalRange,
};
pub use session::{BackupSession, BackupStart, BackupStop};
pub use tar::{TarError, TarEvent, TarReader};
