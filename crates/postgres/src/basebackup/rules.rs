//! What a path below the data directory is, and whether it belongs into a base backup.
//!
//! Pure rules over names, the same for files that are read from disk and for files that arrive in tar archives. They
//! follow `excludeDirContents`, `excludeFiles` and `sendDir` in the server's `basebackup.c`, and the manual's chapter
//! on low-level base backups. Paths are relative to the data directory with `/` between components; files of a
//! tablespace lie under `pg_tblspc/<oid>/PG_<major>_<catalog>/`.

use crate::control_file::CONTROL_FILE_PATH;
use crate::wal::{Fork, Relation};

/// OID of the tablespace `pg_default`, which lies under `base/`.
pub const DEFAULT_TABLESPACE: u32 = 1663;
/// OID of the tablespace `pg_global`, which lies under `global/`.
pub const GLOBAL_TABLESPACE: u32 = 1664;

/// One segment file of a relation fork: blocks from `number * pages_per_segment` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationSegment {
    /// Whose, with the default tablespaces spelled out.
    pub relation: Relation,
    /// Which of its forks. Of the main fork alone WAL names every changed block.
    pub fork: Fork,
    /// Which segment, from zero.
    pub number: u32,
}

/// What a file is, as far as a backup must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Pages of a relation.
    Relation(RelationSegment),
    /// `pg_control`: read after everything else, restored before a server may start.
    ControlFile,
    /// Anything else: whole and opaque.
    Plain,
}

impl FileKind {
    /// The relation segment it is, if it is one.
    pub fn segment(self) -> Option<RelationSegment> {
        match self {
            FileKind::Relation(segment) => Some(segment),
            FileKind::ControlFile | FileKind::Plain => None,
        }
    }

    /// The same for main forks only: the files whose changed blocks are known from WAL.
    pub fn main_fork(self) -> Option<RelationSegment> {
        self.segment().filter(|segment| segment.fork == Fork::Main)
    }

    /// Whether its pages carry checksums on a cluster that has them.
    pub fn is_checksummed(self) -> bool {
        self.segment().is_some()
    }
}

/// Directories that are kept, and kept empty: their content is made anew at a server's start, or is WAL.
const EMPTIED_DIRECTORIES: [&str; 8] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal",
];

/// Files left out wherever they lie.
const EXCLUDED_FILES: [&str; 7] = [
    "backup_label",
    "backup_manifest",
    "current_logfiles.tmp",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "tablespace_map",
];

/// Names that begin like this are left out wherever they lie: sort spill files, and the relation cache.
const EXCLUDED_PREFIXES: [&str; 2] = ["pgsql_tmp", "pg_internal.init"];

/// Whether the content of the directory `path` stays out of a backup (the directory itself is kept).
pub fn is_emptied_directory(path: &str) -> bool {
    EMPTIED_DIRECTORIES.contains(&path)
}

/// Whether a file or directory of this name stays out of a backup, wherever it lies.
pub fn is_excluded_name(name: &str) -> bool {
    EXCLUDED_FILES.contains(&name) || EXCLUDED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// What the file at `path` is.
pub fn kind_of(path: &str) -> FileKind {
    if path == CONTROL_FILE_PATH {
        return FileKind::ControlFile;
    }
    let Some((directory, name)) = path.rsplit_once('/') else {
        return FileKind::Plain;
    };
    let parsed = relation_directory(directory).zip(RelationFileName::parse(name));
    match parsed {
        Some(((tablespace, database), name)) => {
            let relation = Relation {
                tablespace,
                database,
                number: name.filenode,
            };
            FileKind::Relation(RelationSegment {
                relation,
                fork: name.fork,
                number: name.segment,
            })
        }
        None => FileKind::Plain,
    }
}

/// Whether `directory` holds the relation files of a tablespace and database, and of which.
pub(crate) fn relation_directory(directory: &str) -> Option<(u32, u32)> {
    let parts: Vec<&str> = directory.split('/').collect();
    match parts.as_slice() {
        ["global"] => Some((GLOBAL_TABLESPACE, 0)),
        ["base", database] => Some((DEFAULT_TABLESPACE, oid(database)?)),
        ["pg_tblspc", tablespace, version, database] if version.starts_with("PG_") => {
            Some((oid(tablespace)?, oid(database)?))
        }
        _ => None,
    }
}

/// A decimal OID without sign or leading zero.
pub(crate) fn oid(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

/// The parts of a relation's file name, `<filenode>[_<fork>][.<segment>]`
/// (`parse_filename_for_nontemp_relation` in the server's `reinit.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RelationFileName {
    pub filenode: u32,
    pub fork: Fork,
    pub segment: u32,
}

impl RelationFileName {
    pub fn parse(name: &str) -> Option<RelationFileName> {
        let (stem, segment) = match name.split_once('.') {
            Some((stem, number)) => (stem, oid(number)?),
            None => (name, 0),
        };
        let (filenode, fork) = match stem.split_once('_') {
            Some((filenode, "fsm")) => (filenode, Fork::FreeSpace),
            Some((filenode, "vm")) => (filenode, Fork::Visibility),
            Some((filenode, "init")) => (filenode, Fork::Init),
            Some(_) => return None,
            None => (stem, Fork::Main),
        };
        Some(RelationFileName {
            filenode: oid(filenode)?,
            fork,
            segment,
        })
    }
}

/// Whether `name` is a file of a temporary relation: `t<backend>_<filenode>[_<fork>][.<segment>]`
/// (`looks_like_temp_rel_name` in the server's `fd.c`).
pub(crate) fn is_temporary_relation(name: &str) -> bool {
    name.strip_prefix('t')
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(backend, file)| {
            !backend.is_empty()
                && backend.bytes().all(|byte| byte.is_ascii_digit())
                && RelationFileName::parse(file).is_some()
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(tablespace: u32, database: u32, filenode: u32, fork: Fork, number: u32) -> FileKind {
        let relation = Relation {
            tablespace,
            database,
            number: filenode,
        };
        FileKind::Relation(RelationSegment {
            relation,
            fork,
            number,
        })
    }

    #[test]
    fn relation_files_are_told_by_place_and_name() {
        assert_eq!(kind_of("base/5/16384"), segment(1663, 5, 16384, Fork::Main, 0));
        assert_eq!(
            kind_of("base/5/16384.12"),
            segment(1663, 5, 16384, Fork::Main, 12)
        );
        assert_eq!(
            kind_of("global/1262_fsm"),
            segment(1664, 0, 1262, Fork::FreeSpace, 0)
        );
        assert_eq!(
            kind_of("pg_tblspc/16400/PG_15_202209061/5/16401_vm.1"),
            segment(16400, 5, 16401, Fork::Visibility, 1)
        );
    }

    #[test]
    fn only_main_forks_are_trusted_to_wal() {
        assert!(kind_of("base/5/16384").main_fork().is_some());
        for path in [
            "base/5/16384_vm",
            "base/5/16384_fsm",
            "base/5/16384_init",
            "base/5/PG_VERSION",
        ] {
            assert!(kind_of(path).main_fork().is_none(), "{path}");
        }
    }

    #[test]
    fn everything_else_is_plain() {
        for path in [
            "PG_VERSION",
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "base/5/16384_old",
            "base/5/16384.0",
            "base/5/016384",
            "base/5/99999999999",
            "base/5/t3_16384",
            "base/5/x/16384",
            "pg_xact/0000",
            "pg_tblspc/16400/16401",
            "log/1234",
        ] {
            assert_eq!(kind_of(path), FileKind::Plain, "{path}");
        }
        assert_eq!(kind_of("global/pg_control"), FileKind::ControlFile);
    }

    #[test]
    fn temporary_relations_are_told_by_name() {
        for name in ["t3_16384", "t12_16384_fsm", "t1_16384.2"] {
            assert!(is_temporary_relation(name), "{name}");
        }
        for name in ["16384", "t_16384", "t3_", "t3_x", "tx_16384", "t3_16384_foo"] {
            assert!(!is_temporary_relation(name), "{name}");
        }
    }

    #[test]
    fn names_that_must_stay_out_are_left_out() {
        for name in [
            "postmaster.pid",
            "pgsql_tmp",
            "pgsql_tmp12.3",
            "pg_internal.init.77",
            "backup_label",
        ] {
            assert!(is_excluded_name(name), "{name}");
        }
        for name in [
            "postgresql.auto.conf",
            "backup_label.old",
            "PG_VERSION",
            "standby.signal",
        ] {
            assert!(!is_excluded_name(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_path_has_a_kind(path in ".{0,60}") {
            let kind = kind_of(&path);
            prop_assert!(!kind.is_checksummed() || path.contains('/'));
        }
    }
}
