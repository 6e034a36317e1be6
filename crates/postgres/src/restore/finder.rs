//! Finds the server programs of the backup's major version on this host.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::RestoreError;
use crate::version::ServerVersion;

/// A directory of server programs of a known version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPrograms {
    /// The directory.
    pub directory: PathBuf,
    /// Version of the `postgres` in it.
    pub version: ServerVersion,
}

impl ServerPrograms {
    /// Path of a program, such as "postgres".
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Finds programs of version `major`: in `named` (`--pg-bin`) and nowhere else if that is given, else on
    /// `search_path` (the environment's PATH) and where packages install them. Runs `postgres --version`; blocks.
    ///
    /// # Errors
    /// [`RestoreError::WrongMajor`] or [`RestoreError::NoServer`] for a named directory,
    /// [`RestoreError::BinariesNotFound`] without one.
    pub fn find(
        major: u32,
        named: Option<&Path>,
        search_path: Option<&OsStr>,
    ) -> Result<ServerPrograms, RestoreError> {
        if let Some(directory) = named {
            let programs = ServerPrograms::look_into(directory)?;
            return if programs.version.major() == major {
                Ok(programs)
            } else {
                let found = programs.version.major();
                Err(RestoreError::WrongMajor {
                    directory: directory.to_owned(),
                    found,
                    expected: major,
                })
            };
        }
        let candidates = candidates(major, search_path);
        candidates
            .iter()
            .filter(|directory| directory.join("postgres").is_file())
            .filter_map(|directory| ServerPrograms::look_into(directory).ok())
            .find(|programs| programs.version.major() == major)
            .ok_or(RestoreError::BinariesNotFound {
                major,
                looked_in: candidates,
            })
    }

    fn look_into(directory: &Path) -> Result<ServerPrograms, RestoreError> {
        let problem = |problem: String| RestoreError::NoServer {
            directory: directory.to_owned(),
            problem,
        };
        let output = Command::new(directory.join("postgres"))
            .arg("--version")
            .output()
            .map_err(|error| problem(error.to_string()))?;
        // "postgres (PostgreSQL) 17.11 (Debian 17.11-1)"
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text
            .split_once("(PostgreSQL) ")
            .and_then(|(_, rest)| ServerVersion::parse(rest.trim()));
        match version {
            Some(version) => Ok(ServerPrograms {
                directory: directory.to_owned(),
                version,
            }),
            None => Err(problem(format!(
                "postgres --version printed \"{}\" ({})",
                text.trim(),
                output.status
            ))),
        }
    }
}

/// Where to look, in order: PATH, then the layouts of packages.
fn candidates(major: u32, search_path: Option<&OsStr>) -> Vec<PathBuf> {
    let packages = [
        format!("/usr/lib/postgresql/{major}/bin"),
        format!("/usr/pgsql-{major}/bin"),
        format!("/usr/libexec/postgresql{major}"),
        format!("/opt/homebrew/opt/postgresql@{major}/bin"),
        format!("/usr/local/opt/postgresql@{major}/bin"),
        format!("/Applications/Postgres.app/Contents/Versions/{major}/bin"),
        "/usr/local/pgsql/bin".to_owned(),
    ];
    let mut found: Vec<PathBuf> = Vec::new();
    let on_path = search_path.map(std::env::split_paths).into_iter().flatten();
    for directory in on_path.chain(packages.into_iter().map(PathBuf::from)) {
        if directory.is_absolute() && !found.contains(&directory) {
            found.push(directory);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A directory whose `postgres` prints this.
    fn programs(line: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postgres");
        std::fs::write(&path, format!("#!/bin/sh\necho '{line}'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        directory
    }

    #[test]
    fn the_search_path_comes_first_and_other_versions_are_passed_over() {
        let (old, new) = (
            programs("postgres (PostgreSQL) 42.1"),
            programs("postgres (PostgreSQL) 43.7 (Debian)"),
        );
        let path = std::env::join_paths([old.path(), new.path()]).unwrap();
        let found = ServerPrograms::find(43, None, Some(&path)).unwrap();
        assert_eq!(found.directory, new.path());
        assert_eq!(found.version.to_string(), "43.7");
    }

    #[test]
    fn nothing_found_says_what_to_install() {
        let error = ServerPrograms::find(99, None, None).unwrap_err().to_string();
        assert!(
            error.contains("postgresql-99") && error.contains("--pg-bin"),
            "{error}"
        );
    }

    #[test]
    fn a_named_directory_of_another_version_is_refused() {
        let directory = programs("postgres (PostgreSQL) 42.1");
        let error = ServerPrograms::find(17, Some(directory.path()), None).unwrap_err();
        assert!(
            matches!(
                error,
                RestoreError::WrongMajor {
                    found: 42,
                    expected: 17,
                    ..
                }
            ),
            "{error}"
        );
        let error = ServerPrograms::find(17, Some(Path::new("/nowhere")), None).unwrap_err();
        assert!(matches!(error, RestoreError::NoServer { .. }), "{error}");
    }
}
