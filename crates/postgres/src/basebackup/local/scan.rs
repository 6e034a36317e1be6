//! Walks a data directory and lists what belongs into a base backup.
//!
//! Only names, sizes and modes are looked at. A running server creates, grows, shrinks and drops files meanwhile: what
//! vanishes during the walk is left out, what appears after it is replayed from WAL. What is left out for another
//! reason (sockets, names that are not UTF-8) is listed in [`Scan::skipped`], never dropped in silence.

use std::collections::HashSet;
use std::fs::{DirEntry, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tidemark_types::Timestamp;

use crate::basebackup::BaseBackupError;
use crate::basebackup::label::Tablespace;
use crate::basebackup::rules::{
    FileKind, RelationFileName, is_emptied_directory, is_excluded_name, is_temporary_relation, kind_of, oid,
    relation_directory,
};
use crate::wal::Fork;

/// A file to be backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it is restored to, below the data directory.
    pub path: String,
    /// Where it is read from.
    pub location: PathBuf,
    /// Its size when it was listed. Bytes past it come from WAL.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// When it was last written.
    pub modified: Timestamp,
    /// What it is.
    pub kind: FileKind,
}

/// A directory to be made, with its mode. Parents come before children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceDirectory {
    /// Where it is restored to, below the data directory.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
}

/// Something in the data directory that is no file, directory or tablespace link, or has a name we cannot store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Where it lies.
    pub location: PathBuf,
    /// Why it was left out.
    pub reason: &'static str,
}

/// What a data directory holds.
#[derive(Debug, Default)]
pub struct Scan {
    /// Files, sorted by path, except that `pg_control` comes last: it must be read after all others.
    pub files: Vec<SourceFile>,
    /// All directories, the data directory itself excluded.
    pub directories: Vec<SourceDirectory>,
    /// Tablespaces, by OID.
    pub tablespaces: Vec<Tablespace>,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
}

impl Scan {
    /// Bytes in all files together, as they were listed.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// Lists what belongs into a base backup of `data_directory`. Blocks: call it off the reactor.
///
/// `catalog_version` ([`crate::control_file::ControlFile::catalog_version`]) tells the cluster's own directory in a
/// tablespace from those that other major versions may have there after pg_upgrade.
///
/// # Errors
/// [`BaseBackupError::Io`] when a directory cannot be read, unless it is gone (the data directory may not be).
pub fn scan(data_directory: &Path, catalog_version: u32) -> Result<Scan, BaseBackupError> {
    std::fs::metadata(data_directory)
        .map_err(|source| BaseBackupError::io("look at", data_directory, source))?;
    let mut walker = Walker {
        version_suffix: format!("_{catalog_version}"),
        inner_tablespaces: inner_tablespaces(data_directory)?,
        scan: Scan::default(),
    };
    walker.directory(data_directory, "")?;
    let mut scan = walker.scan;
    scan.files.sort_by(|a, b| {
        let last = |file: &SourceFile| file.kind == FileKind::ControlFile;
        last(a).cmp(&last(b)).then_with(|| a.path.cmp(&b.path))
    });
    scan.directories.sort_by(|a, b| a.path.cmp(&b.path));
    scan.tablespaces.sort_by_key(|tablespace| tablespace.oid);
    Ok(scan)
}

/// Tablespaces whose location lies inside the data directory, outside `pg_tblspc/`: they are read by way of their
/// link, so the walk must not read them a second time.
fn inner_tablespaces(data_directory: &Path) -> Result<HashSet<PathBuf>, BaseBackupError> {
    let links = data_directory.join("pg_tblspc");
    let mut found = HashSet::new();
    for entry in entries(&links)? {
        let Ok(target) = std::fs::read_link(entry.path()) else {
            continue;
        };
        let inside = match (target.canonicalize(), data_directory.canonicalize()) {
            (Ok(target), Ok(root)) => target.strip_prefix(&root).map(Path::to_owned).ok(),
            _ => None,
        };
        found.extend(inside.map(|relative| data_directory.join(relative)));
    }
    Ok(found)
}

struct Walker {
    /// How the name of our directory in a tablespace ends: `PG_<major>_<catalog version>`.
    version_suffix: String,
    inner_tablespaces: HashSet<PathBuf>,
    scan: Scan,
}

impl Walker {
    /// Lists `location`, whose content is restored below `path` (empty for the data directory).
    fn directory(&mut self, location: &Path, path: &str) -> Result<(), BaseBackupError> {
        let entries = entries(location)?;
        let holds_relations = relation_directory(path).is_some();
        let unlogged = if holds_relations {
            unlogged_filenodes(&entries)
        } else {
            HashSet::new()
        };
        for entry in entries {
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                self.skip(entry.path(), "its name is not UTF-8");
                continue;
            };
            if is_excluded_name(name)
                || (holds_relations && (is_temporary_relation(name) || is_unlogged(name, &unlogged)))
            {
                continue;
            }
            let below = if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}/{name}")
            };
            self.entry(&entry, below)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &DirEntry, path: String) -> Result<(), BaseBackupError> {
        let location = entry.path();
        let Some(metadata) = present("look at", &location, std::fs::symlink_metadata(&location))? else {
            return Ok(());
        };
        let tablespace = path.strip_prefix("pg_tblspc/").and_then(oid);
        if is_emptied_directory(&path) {
            return self.emptied_directory(&location, &path);
        }
        match tablespace {
            Some(oid) if metadata.is_symlink() => return self.tablespace(oid, &location, &path),
            Some(oid) if metadata.is_dir() => {
                self.scan.tablespaces.push(Tablespace {
                    oid,
                    location: PathBuf::from(&path),
                });
            }
            _ => {}
        }
        if metadata.is_dir() {
            let inner_tablespace = self.inner_tablespaces.contains(&location);
            self.add_directory(path.clone(), &metadata);
            if inner_tablespace {
                Ok(())
            } else {
                self.directory(&location, &path)
            }
        } else if metadata.is_file() {
            self.add_file(path, location, &metadata);
            Ok(())
        } else {
            self.skip(location, "it is neither a file nor a directory");
            Ok(())
        }
    }

    /// A directory restored empty. `pg_wal` is often a link to another disk: it is restored as a directory, with the
    /// directories below it that a server expects.
    fn emptied_directory(&mut self, location: &Path, path: &str) -> Result<(), BaseBackupError> {
        let Some(metadata) = present("look at", location, std::fs::metadata(location))? else {
            return Ok(());
        };
        self.add_directory(path.to_owned(), &metadata);
        if path == "pg_wal" {
            for inner in ["archive_status", "summaries"] {
                let inner_location = location.join(inner);
                if let Some(metadata) =
                    present("look at", &inner_location, std::fs::metadata(&inner_location))?
                {
                    self.add_directory(format!("{path}/{inner}"), &metadata);
                }
            }
        }
        Ok(())
    }

    /// A tablespace behind a link: of its location only the cluster's own version directory is ours.
    fn tablespace(&mut self, oid: u32, link: &Path, path: &str) -> Result<(), BaseBackupError> {
        let Some(location) = present("read link", link, std::fs::read_link(link))? else {
            return Ok(());
        };
        for entry in entries(link)? {
            let name = entry.file_name();
            match name.to_str() {
                Some(name) if name.starts_with("PG_") && name.ends_with(&self.version_suffix) => {
                    self.entry(&entry, format!("{path}/{name}"))?;
                }
                _ => self.skip(
                    entry.path(),
                    "it is not this cluster's directory in the tablespace",
                ),
            }
        }
        self.scan.tablespaces.push(Tablespace { oid, location });
        Ok(())
    }

    fn add_directory(&mut self, path: String, metadata: &Metadata) {
        self.scan.directories.push(SourceDirectory {
            path,
            mode: metadata.permissions().mode() & 0o7777,
        });
    }

    fn add_file(&mut self, path: String, location: PathBuf, metadata: &Metadata) {
        let micros = metadata
            .mtime()
            .saturating_mul(1_000_000)
            .saturating_add(metadata.mtime_nsec() / 1000);
        self.scan.files.push(SourceFile {
            kind: kind_of(&path),
            path,
            location,
            size: metadata.len(),
            mode: metadata.permissions().mode() & 0o7777,
            modified: Timestamp(micros),
        });
    }

    fn skip(&mut self, location: PathBuf, reason: &'static str) {
        self.scan.skipped.push(Skipped { location, reason });
    }
}

/// The file nodes of unlogged relations in one directory: those with an init fork. All their other forks are reset
/// from it at the end of recovery, and are left out.
fn unlogged_filenodes(entries: &[DirEntry]) -> HashSet<u32> {
    entries
        .iter()
        .filter_map(|entry| RelationFileName::parse(entry.file_name().to_str()?))
        .filter(|name| name.fork == Fork::Init)
        .map(|name| name.filenode)
        .collect()
}

fn is_unlogged(name: &str, unlogged: &HashSet<u32>) -> bool {
    RelationFileName::parse(name)
        .is_some_and(|name| name.fork != Fork::Init && unlogged.contains(&name.filenode))
}

/// The entries of a directory; none when it is gone.
fn entries(directory: &Path) -> Result<Vec<DirEntry>, BaseBackupError> {
    let Some(entries) = present("list", directory, std::fs::read_dir(directory))? else {
        return Ok(Vec::new());
    };
    entries
        .collect::<Result<_, _>>()
        .map_err(|source| BaseBackupError::io("list", directory, source))
}

/// What was found, or `None` when it is gone by now.
fn present<T>(
    operation: &'static str,
    path: &Path,
    result: std::io::Result<T>,
) -> Result<Option<T>, BaseBackupError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BaseBackupError::io(operation, path, source)),
    }
}

#[cfg(test)]
mod tests;
