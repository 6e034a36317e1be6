//! Base backups of MySQL and MariaDB: the ways to get a consistent copy, and what makes it a base backup. Knows no storage.
//!
//! Three ways, one outcome: a stream of [`FileEvent`]s, and [`ManifestFacts`]. [`ProgramRun`] takes what `mariadb-backup`
//! streams; a clone has MySQL copy itself, and [`DirectoryRead`] reads the copy. Where the bytes go is not known here.

mod clone;
mod directory;
mod dump;
mod error;
mod event;
mod facts;
mod place;
mod program;
mod xbstream;

pub use clone::{ScratchDirectory, check_clonable, clone};
pub use directory::DirectoryRead;
pub use dump::{DumpFacts, DumpRun};
pub use error::BaseBackupError;
pub use event::FileEvent;
pub use facts::{BackupMethod, ConfigurationFile, LogState, ManifestFacts, ServerDescription};
pub use place::local_data_directory;
pub use program::{BINLOG_INFO_FILES, BackupProgram, ProgramOptions, ProgramRun, read_binlog_info};
pub use xbstream::{XbstreamError, XbstreamReader};
