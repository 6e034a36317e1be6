//! The server's user, and files that are made for it.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, lchown};
use std::path::Path;

use super::RestoreError;

/// Who the server runs as: the owner of its data directory. It refuses to run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerUser {
    /// User and group, when we are root and have to become it.
    become_ids: Option<(u32, u32)>,
}

impl ServerUser {
    /// The owner of `data_directory`.
    ///
    /// # Errors
    /// [`RestoreError::OwnedByRoot`], [`RestoreError::Io`].
    pub(super) fn of(data_directory: &Path) -> Result<ServerUser, RestoreError> {
        let owner = std::fs::metadata(data_directory).map_err(RestoreError::io("look at", data_directory))?;
        if !rustix::process::geteuid().is_root() {
            return Ok(ServerUser { become_ids: None });
        }
        if owner.uid() == 0 {
            return Err(RestoreError::OwnedByRoot {
                path: data_directory.to_owned(),
            });
        }
        Ok(ServerUser {
            become_ids: Some((owner.uid(), owner.gid())),
        })
    }

    /// User and group to become; `None` for our own.
    pub(super) fn ids(self) -> Option<(u32, u32)> {
        self.become_ids
    }

    /// Makes a directory that only this user may enter, if it is not there.
    pub(super) fn make_directory(self, path: &Path) -> Result<(), RestoreError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .and_then(|()| self.give(path))
            .map_err(RestoreError::io("make", path))
    }

    /// Creates a file, empty, that only this user may read.
    pub(super) fn create(self, path: &Path) -> Result<std::fs::File, RestoreError> {
        let create = || {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(path)?;
            self.give(path)?;
            Ok(file)
        };
        create().map_err(RestoreError::io("create", path))
    }

    /// Makes sure that a file is there that this user may append to.
    pub(super) fn create_if_absent(self, path: &Path) -> Result<(), RestoreError> {
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .and_then(|_| self.give(path))
            .map_err(RestoreError::io("create", path))
    }

    /// Writes a small file that only this user may read.
    pub(super) fn write(self, path: &Path, contents: &[u8]) -> Result<(), RestoreError> {
        self.create(path)?
            .write_all(contents)
            .map_err(RestoreError::io("write", path))
    }

    fn give(self, path: &Path) -> std::io::Result<()> {
        match self.become_ids {
            Some((user, group)) => lchown(path, Some(user), Some(group)),
            None => Ok(()),
        }
    }
}
