//! Finds the server program that a restore runs: of the backup's vendor and release series.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::RestoreError;
use crate::binlog::Flavor;

/// A `mysqld` or `mariadbd`, and what lies around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerProgram {
    /// The program.
    pub path: PathBuf,
    /// Whose it is.
    pub flavor: Flavor,
    /// Its version: `(9, 7, 4)`.
    pub version: (u16, u16, u16),
}

/// A release series: data of one is not opened by a program of another (MySQL upgrades it beyond return, or refuses).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// The vendor.
    pub flavor: Flavor,
    /// The first two numbers of the version: `(9, 7)`.
    pub number: (u16, u16),
}

impl std::fmt::Display for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}.{}", self.flavor, self.number.0, self.number.1)
    }
}

impl Series {
    /// That of a version as a server writes it: `9.7.4-2`, `10.11.18-MariaDB-log`; `None` when it is none.
    pub fn of_version(flavor: Flavor, version: &str) -> Option<Series> {
        let mut numbers = version
            .split(|c: char| !c.is_ascii_digit())
            .map(|digits| digits.parse().ok());
        Some(Series {
            flavor,
            number: (numbers.next()??, numbers.next()??),
        })
    }
}

/// The oldest MySQL whose words for replicas we use.
const OLDEST_MYSQL: (u16, u16, u16) = (8, 0, 26);

impl ServerProgram {
    /// Finds a program of `series`: `named` (`--mysqld`) and no other if that is given, else on `search_path` (the
    /// environment's PATH) and where packages install them. Runs `mysqld --version`; blocks.
    ///
    /// # Errors
    /// [`RestoreError::WrongSeries`] or [`RestoreError::NoServer`] for a named program,
    /// [`RestoreError::ProgramNotFound`] without one.
    pub fn find(
        series: Series,
        named: Option<&Path>,
        search_path: Option<&OsStr>,
    ) -> Result<ServerProgram, RestoreError> {
        if let Some(path) = named {
            let program = ServerProgram::look_at(path)?;
            return if program.series() == series {
                Ok(program)
            } else {
                Err(RestoreError::WrongSeries {
                    path: path.to_owned(),
                    found: program.series(),
                    expected: series,
                })
            };
        }
        let directories = directories(search_path);
        let names: &[&str] = match series.flavor {
            Flavor::MySql => &["mysqld"],
            Flavor::MariaDb => &["mariadbd", "mysqld"],
        };
        let candidates = directories
            .iter()
            .flat_map(|directory| names.iter().map(|name| directory.join(name)));
        candidates
            .filter(|path| path.is_file())
            .filter_map(|path| ServerProgram::look_at(&path).ok())
            .find(|program| program.series() == series)
            .ok_or(RestoreError::ProgramNotFound {
                series,
                looked_in: directories,
            })
    }

    /// Its release series.
    pub fn series(&self) -> Series {
        Series {
            flavor: self.flavor,
            number: (self.version.0, self.version.1),
        }
    }

    /// The directory that it is installed under, as `basedir` has it.
    pub(super) fn base(&self) -> Option<&Path> {
        self.path.parent().and_then(Path::parent)
    }

    /// Another program of the same installation, else of this name on the PATH.
    pub(super) fn sibling(&self, name: &str) -> PathBuf {
        let base = self.path.parent().and_then(Path::parent);
        let places = base
            .into_iter()
            .flat_map(|base| ["bin", "sbin", "scripts"].map(|place| base.join(place).join(name)));
        let mut places = places.filter(|path| path.is_file());
        places.next().unwrap_or_else(|| PathBuf::from(name))
    }

    /// Where it finds its messages, character sets and plugins, as settings. A program that was moved, or installed under
    /// a prefix, looks in vain where it was built for.
    pub(super) fn places(&self) -> Vec<(&'static str, PathBuf)> {
        let Some(base) = self.base() else {
            return Vec::new();
        };
        let share = ["share/mysql", "share/mariadb", "share"].map(|place| base.join(place));
        let share = share.iter().find(|place| place.join("charsets").is_dir());
        let plugins = [
            "lib/mysql/plugin",
            "lib64/mysql/plugin",
            "lib/mariadb/plugin",
            "lib64/mariadb/plugin",
            "lib/plugin",
        ];
        let plugins = plugins.map(|place| base.join(place));
        let mut places = vec![("basedir", base.to_owned())];
        if let Some(share) = share {
            places.push(("lc_messages_dir", share.clone()));
            places.push(("character_sets_dir", share.join("charsets")));
        }
        places.extend(
            plugins
                .iter()
                .find(|place| place.is_dir())
                .map(|place| ("plugin_dir", place.clone())),
        );
        places
    }

    fn look_at(path: &Path) -> Result<ServerProgram, RestoreError> {
        let problem = |problem: String| RestoreError::NoServer {
            path: path.to_owned(),
            problem,
        };
        let output = Command::new(path)
            .args(["--no-defaults", "--version"])
            .output()
            .map_err(|error| problem(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (flavor, version) = parse_version(&text).ok_or_else(|| {
            problem(format!(
                "--version printed \"{}\" ({})",
                text.trim(),
                output.status
            ))
        })?;
        if flavor == Flavor::MySql && version < OLDEST_MYSQL {
            return Err(problem("MySQL before 8.0.26 is not supported".to_owned()));
        }
        Ok(ServerProgram {
            path: path.to_owned(),
            flavor,
            version,
        })
    }
}

/// "…/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))", "mariadbd  Ver 10.11.18-MariaDB-0+deb12u1 for …".
fn parse_version(text: &str) -> Option<(Flavor, (u16, u16, u16))> {
    let (_, version) = text.split_once(" Ver ")?;
    let version = version.split_whitespace().next()?;
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|digits| digits.parse().ok());
    let flavor = if version.contains("MariaDB") {
        Flavor::MariaDb
    } else {
        Flavor::MySql
    };
    Some((flavor, (numbers.next()??, numbers.next()??, numbers.next()??)))
}

/// Where to look, in order: PATH, then the layouts of packages.
fn directories(search_path: Option<&OsStr>) -> Vec<PathBuf> {
    let packages = [
        "/usr/sbin",
        "/usr/libexec",
        "/usr/local/mysql/bin",
        "/usr/local/sbin",
        "/usr/local/bin",
        "/opt/homebrew/bin",
    ];
    let on_path = search_path.map(std::env::split_paths).into_iter().flatten();
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in on_path.chain(packages.into_iter().map(PathBuf::from)) {
        if directory.is_absolute() && !found.contains(&directory) {
            found.push(directory);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(line: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mysqld");
        std::fs::write(&path, format!("#!/bin/sh\necho '{line}'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (directory, path)
    }

    fn series(flavor: Flavor, number: (u16, u16)) -> Series {
        Series { flavor, number }
    }

    #[test]
    fn vendors_are_told_apart_by_the_version() {
        assert_eq!(
            parse_version("/x/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))\n"),
            Some((Flavor::MySql, (9, 7, 4)))
        );
        assert_eq!(
            parse_version(
                "mysqld  Ver 10.11.18-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)"
            ),
            Some((Flavor::MariaDb, (10, 11, 18)))
        );
        assert_eq!(parse_version("postgres (PostgreSQL) 17.1"), None);
    }

    #[test]
    fn the_search_passes_over_other_vendors() {
        let (mariadb, _) = program("mysqld  Ver 42.1.3-MariaDB for x");
        let (mysql, wanted) = program("mysqld  Ver 42.1.9 for x");
        let path = std::env::join_paths([mariadb.path(), mysql.path()]).unwrap();
        let found = ServerProgram::find(series(Flavor::MySql, (42, 1)), None, Some(&path)).unwrap();
        assert_eq!(found.path, wanted);
    }

    #[test]
    fn a_named_program_of_another_series_is_refused() {
        let (_directory, path) = program("mysqld  Ver 42.1.3-MariaDB for x");
        let error = ServerProgram::find(series(Flavor::MariaDb, (42, 2)), Some(&path), None).unwrap_err();
        assert!(matches!(error, RestoreError::WrongSeries { .. }), "{error}");
        let error = ServerProgram::find(series(Flavor::MariaDb, (42, 2)), None, None).unwrap_err();
        assert!(error.to_string().contains("--mysqld"), "{error}");
    }
}
