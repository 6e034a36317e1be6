//! How the archives of a remote base backup map onto the data directory.
//!
//! The server sends `base.tar` for the data directory and `<oid>.tar` for each tablespace outside it; paths in the
//! latter begin with the version directory. With PostgreSQL 15 on archives carry these names, before they come in the
//! order of the list of tablespaces, in which the data directory has no OID.

use super::label::Tablespace;
use super::rules::{FileKind, is_excluded_name, kind_of, oid};

/// One archive of a remote base backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    /// `base.tar`: the data directory.
    DataDirectory,
    /// `<oid>.tar`: a tablespace.
    Tablespace(u32),
}

impl Archive {
    /// From the name in the server's "new archive" message; `None` for a name no server gives.
    pub fn from_name(name: &str) -> Option<Archive> {
        match name.strip_suffix(".tar")? {
            "base" => Some(Archive::DataDirectory),
            number => oid(number).map(Archive::Tablespace),
        }
    }

    /// Of the archive that comes for an entry of the list of tablespaces.
    pub fn of_tablespace(tablespace: Option<&Tablespace>) -> Archive {
        tablespace.map_or(Archive::DataDirectory, |tablespace| {
            Archive::Tablespace(tablespace.oid)
        })
    }

    /// Where an entry of this archive is restored to, below the data directory.
    pub fn restored_path(self, entry: &str) -> String {
        match self {
            Archive::DataDirectory => entry.to_owned(),
            Archive::Tablespace(oid) if entry.is_empty() => format!("pg_tblspc/{oid}"),
            Archive::Tablespace(oid) => format!("pg_tblspc/{oid}/{entry}"),
        }
    }

    /// What the entry is; the same answer as for the file on disk.
    pub fn kind_of(self, entry: &str) -> FileKind {
        kind_of(&self.restored_path(entry))
    }
}

/// Whether a file that a server sent is written by the backup itself (label, map, manifest) or never belongs into one.
pub fn is_backup_metadata(path: &str) -> bool {
    !path.contains('/') && is_excluded_name(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::basebackup::rules::RelationSegment;
    use crate::wal::{Fork, Relation};

    #[test]
    fn archives_are_told_by_name() {
        assert_eq!(Archive::from_name("base.tar"), Some(Archive::DataDirectory));
        assert_eq!(Archive::from_name("16400.tar"), Some(Archive::Tablespace(16400)));
        for name in ["base", "../x.tar", "0.tar", "x.tar", "base.tar.gz"] {
            assert_eq!(Archive::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn files_of_a_tablespace_have_the_kind_they_have_on_disk() {
        let archive = Archive::Tablespace(16400);
        let relation = Relation {
            tablespace: 16400,
            database: 5,
            number: 16401,
        };
        assert_eq!(
            archive.kind_of("PG_15_202209061/5/16401"),
            FileKind::Relation(RelationSegment {
                relation,
                fork: Fork::Main,
                number: 0
            })
        );
        assert_eq!(archive.restored_path(""), "pg_tblspc/16400");
        assert_eq!(
            Archive::DataDirectory.kind_of("global/pg_control"),
            FileKind::ControlFile
        );
    }

    #[test]
    fn label_map_and_manifest_are_metadata() {
        assert!(is_backup_metadata("backup_label") && is_backup_metadata("tablespace_map"));
        assert!(!is_backup_metadata("base/5/backup_label") && !is_backup_metadata("PG_VERSION"));
    }
}
