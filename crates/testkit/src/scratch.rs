//! Directories of one test, gone when it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::user::ServerUser;

/// A temporary directory owned by the servers' user and readable by all.
///
/// Removed on drop, unless `TIDEMARK_KEEP=1` is set: then its path is printed instead.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// Makes one; `label` becomes part of its name. The path is short enough to hold unix sockets.
    pub fn new(label: &str) -> Scratch {
        let mut dir = tempfile::Builder::new()
            .prefix(&format!("tidemark-{label}-"))
            .tempdir()
            .expect("make a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("open up the directory");
        ServerUser::current().own(dir.path());
        if std::env::var_os("TIDEMARK_KEEP").is_some_and(|keep| keep == "1") {
            dir.disable_cleanup(true);
            eprintln!("kept: {}", dir.path().display());
        }
        Scratch { dir }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a directory in it that belongs to the servers' user, and returns its path.
    pub fn subdir(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        ServerUser::current().own(&path);
        path
    }

    /// Writes a file in it that belongs to the servers' user, and returns its path.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, contents).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        ServerUser::current().own(&path);
        path
    }
}
