//! Places of tablespaces in a restore: where they were, or where `--tablespace OLD=NEW` puts them.
//!
//! Links under `pg_tblspc/` are made before files are laid down, and `tablespace_map` is written to agree with them:
//! the server makes the links anew from it when recovery begins.

use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::RestoreError;
use super::recovery_config::give_to_owner;
use crate::basebackup::{Tablespace, format_tablespace_map};

/// `OLD=NEW`: a tablespace, named by its OID or by its location in the backup, and its new location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceMapping {
    /// OID in decimal digits, or absolute path.
    pub old: String,
    /// Absolute path.
    pub new: PathBuf,
}

impl FromStr for TablespaceMapping {
    type Err = RestoreError;

    fn from_str(text: &str) -> Result<TablespaceMapping, RestoreError> {
        let wrong = |problem: &str| RestoreError::Mapping {
            mapping: text.to_owned(),
            problem: problem.to_owned(),
        };
        let (old, new) = text.split_once('=').ok_or_else(|| wrong("expected OLD=NEW"))?;
        if !old.starts_with('/') && old.parse::<u32>().is_err() {
            return Err(wrong("OLD is neither an absolute path nor an OID"));
        }
        if !new.starts_with('/') {
            return Err(wrong("NEW is not an absolute path"));
        }
        Ok(TablespaceMapping {
            old: old.trim_end_matches('/').to_owned(),
            new: PathBuf::from(new),
        })
    }
}

/// Where the backup's tablespaces go. Pure: nothing is looked at or made.
///
/// # Errors
/// [`RestoreError::Mapping`] for a mapping that fits no tablespace, or a location given to two.
pub fn map_tablespaces(
    tablespaces: &[Tablespace],
    mappings: &[TablespaceMapping],
) -> Result<Vec<Tablespace>, RestoreError> {
    let fits = |mapping: &TablespaceMapping, tablespace: &Tablespace| {
        mapping.old == tablespace.oid.to_string() || Path::new(&mapping.old) == tablespace.location
    };
    let wrong = |mapping: &TablespaceMapping, problem: String| RestoreError::Mapping {
        mapping: format!("{}={}", mapping.old, mapping.new.display()),
        problem,
    };
    for mapping in mappings {
        if !tablespaces
            .iter()
            .any(|tablespace| !tablespace.is_in_place() && fits(mapping, tablespace))
        {
            let known: Vec<String> = tablespaces
                .iter()
                .map(|tablespace| format!("{} ({})", tablespace.location.display(), tablespace.oid))
                .collect();
            let problem = match known.as_slice() {
                [] => "the backup has no tablespaces".to_owned(),
                known => format!("the backup has no such tablespace; it has: {}", known.join(", ")),
            };
            return Err(wrong(mapping, problem));
        }
    }
    let mut mapped: Vec<Tablespace> = Vec::new();
    for tablespace in tablespaces {
        let mut fitting = mappings.iter().filter(|mapping| fits(mapping, tablespace));
        let mapping = fitting.next();
        if let Some(second) = fitting.next() {
            return Err(wrong(second, "the tablespace is mapped twice".to_owned()));
        }
        let location = mapping.map_or(&tablespace.location, |mapping| &mapping.new);
        if let (Some(mapping), true) = (mapping, mapped.iter().any(|other| other.location == *location)) {
            return Err(wrong(mapping, "another tablespace goes there too".to_owned()));
        }
        mapped.push(Tablespace {
            oid: tablespace.oid,
            location: location.clone(),
        });
    }
    Ok(mapped)
}

/// Refuses locations that hold anything. Changes nothing; call it before the first file is written. Blocks.
///
/// # Errors
/// [`RestoreError::NotEmpty`]; [`RestoreError::Io`] when a location cannot be looked at.
pub fn check_tablespaces_empty(tablespaces: &[Tablespace]) -> Result<(), RestoreError> {
    for tablespace in tablespaces.iter().filter(|tablespace| !tablespace.is_in_place()) {
        let path = &tablespace.location;
        match std::fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(true) => return Err(RestoreError::NotEmpty { path: path.clone() }),
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(RestoreError::io("look at", path)(error)),
        }
    }
    Ok(())
}

/// Makes the locations and the links to them below `data_directory`, and returns the text of the `tablespace_map` that
/// agrees with them. Existing links are replaced, so a restore can be repeated. As root, what is made gets the owner of
/// the data directory. Blocks.
///
/// # Errors
/// [`RestoreError::Io`].
pub fn link_tablespaces(data_directory: &Path, tablespaces: &[Tablespace]) -> Result<String, RestoreError> {
    let links = data_directory.join("pg_tblspc");
    make_directory(data_directory, &links)?;
    for tablespace in tablespaces {
        let link = links.join(tablespace.oid.to_string());
        if tablespace.is_in_place() {
            make_directory(data_directory, &link)?;
            continue;
        }
        make_directory(data_directory, &tablespace.location)?;
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(RestoreError::io("replace", &link)(error));
            }
            _ => {}
        }
        std::os::unix::fs::symlink(&tablespace.location, &link)
            .and_then(|()| give_to_owner(data_directory, &link))
            .map_err(RestoreError::io("link", &link))?;
    }
    Ok(format_tablespace_map(tablespaces))
}

/// Makes a directory and what lies above it; what is there already stays as it is.
fn make_directory(data_directory: &Path, path: &Path) -> Result<(), RestoreError> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| give_to_owner(data_directory, path))
        .map_err(RestoreError::io("make", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tablespace(oid: u32, location: &str) -> Tablespace {
        Tablespace {
            oid,
            location: location.into(),
        }
    }

    #[test]
    fn mappings_go_by_location_or_oid() {
        let mappings = ["/a/=/new/a", "20=/new/b"].map(|text| text.parse().unwrap());
        let tablespaces = [tablespace(10, "/a"), tablespace(20, "/b"), tablespace(30, "/c")];
        assert_eq!(
            map_tablespaces(&tablespaces, &mappings).unwrap(),
            [
                tablespace(10, "/new/a"),
                tablespace(20, "/new/b"),
                tablespace(30, "/c")
            ]
        );
    }

    #[test]
    fn mappings_that_fit_nothing_or_collide_are_refused() {
        for text in ["/x=/new", "99=/new", "/inplace=/new"] {
            let mapping = text.parse().unwrap();
            let tablespaces = [tablespace(10, "/a"), tablespace(11, "pg_tblspc/11")];
            assert!(map_tablespaces(&tablespaces, &[mapping]).is_err(), "{text}");
        }
        let both = ["/a=/new", "/b=/new"].map(|text| text.parse().unwrap());
        assert!(map_tablespaces(&[tablespace(10, "/a"), tablespace(20, "/b")], &both).is_err());
        let twice = ["/a=/new", "10=/other"].map(|text| text.parse().unwrap());
        assert!(map_tablespaces(&[tablespace(10, "/a")], &twice).is_err());
        for text in ["/a", "a=/b", "/a=b", "="] {
            assert!(text.parse::<TablespaceMapping>().is_err(), "{text}");
        }
    }

    #[test]
    fn links_are_made_and_full_places_refused() {
        let root = tempfile::tempdir().unwrap();
        let (data, place) = (root.path().join("data"), root.path().join("spaces/a"));
        std::fs::create_dir(&data).unwrap();
        let tablespaces = [
            tablespace(10, place.to_str().unwrap()),
            tablespace(11, "pg_tblspc/11"),
        ];
        check_tablespaces_empty(&tablespaces).unwrap();
        for _ in 0..2 {
            let map = link_tablespaces(&data, &tablespaces).unwrap();
            assert_eq!(map, format!("10 {}\n", place.display()));
        }
        assert_eq!(std::fs::read_link(data.join("pg_tblspc/10")).unwrap(), place);
        assert!(data.join("pg_tblspc/11").is_dir());
        std::fs::write(place.join("x"), "").unwrap();
        assert!(matches!(
            check_tablespaces_empty(&tablespaces),
            Err(RestoreError::NotEmpty { .. })
        ));
    }
}
