//! Putting a file into the spool: whole, durable, and never in place of another.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tidemark_types::ErrorClass;

use super::source::Source;
use crate::exit::Failure;

/// The server runs under umask 077, and the agent may be another user of its group.
const MODE: u32 = 0o640;
const COMPARE_BYTES: usize = 256 << 10;

/// Stores `source` in `spool`. On success it is durable there, from this call or an earlier one.
pub fn store(mut source: Source, spool: &Path) -> anyhow::Result<()> {
    let target = spool.join(&source.name);
    if !target.try_exists().context("look into the spool")? {
        remove_leftovers(spool, &source.name);
        let written = Temporary::write(&mut source, spool)?;
        match written.rename_to(&target) {
            Ok(()) => return sync_directory(spool),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => source.file.rewind()?,
            Err(error) => return Err(error).with_context(|| format!("rename into {}", target.display())),
        }
    }
    accept_identical(source, &target)?;
    sync_directory(spool)
}

/// A file already there is as good as a new one if it has the same content: a server sends a file again when it crashed
/// before it took note of the success.
fn accept_identical(source: Source, target: &Path) -> anyhow::Result<()> {
    let there = File::open(target).with_context(|| format!("open {}", target.display()))?;
    let same_length = there.metadata()?.len() == source.length;
    if !same_length || !same_bytes(source.file, &there).context("compare with the file in the spool")? {
        let message = format!("{} is already there with other content", target.display());
        let hint = "two servers share this spool, or one was re-made: give each server its own archive_spool";
        // Not the class of a conflict's exit code: the manual wants a plain failure, and the server tries again.
        return Err(Failure::new(ErrorClass::Permanent, message).hint(hint).into());
    }
    there.sync_all().context("sync the file in the spool")
}

fn same_bytes(mut left: File, mut right: &File) -> io::Result<bool> {
    let mut buffers = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
    loop {
        let read = left.read(&mut buffers.0)?;
        let (left, right_buffer) = (buffers.0.get(..read), buffers.1.get_mut(..read));
        if read == 0 {
            return Ok(true);
        }
        let (Some(left), Some(right_buffer)) = (left, right_buffer) else {
            return Ok(false);
        };
        right.read_exact(right_buffer)?;
        if left != right_buffer {
            return Ok(false);
        }
    }
}

/// Removes what an earlier call left of this file when it was killed. The server archives one file at a time.
fn remove_leftovers(spool: &Path, name: &str) {
    let prefix = format!(".{name}.");
    let entries = fs::read_dir(spool).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| {
        let file_name = entry.file_name();
        let text = file_name.to_string_lossy();
        text.starts_with(&prefix) && text.ends_with(".tmp")
    });
    for entry in ours {
        // One that cannot be removed is in nobody's way: this call's has another name.
        let _ = fs::remove_file(entry.path());
    }
}

/// A file under a name of its own; removed unless it was renamed.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    /// Copies `source` into a new file in `spool` and syncs it.
    fn write(source: &mut Source, spool: &Path) -> anyhow::Result<Temporary> {
        let path = spool.join(format!(".{}.{}.tmp", source.name, std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&path)
            .with_context(|| format!("create {}", path.display()))?;
        let temporary = Temporary { path };
        let copied = io::copy(&mut source.file, &mut file).context("copy it into the spool")?;
        if copied != source.length {
            let message = format!("it had {} bytes, and {copied} were read", source.length);
            return Err(Failure::new(ErrorClass::Corrupt, message).into());
        }
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        file.sync_all().context("sync it in the spool")?;
        Ok(temporary)
    }

    /// Gives it its name, unless that is taken.
    fn rename_to(self, target: &Path) -> io::Result<()> {
        match renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => {
                std::mem::forget(self);
                Ok(())
            }
            // Some file systems (NFS, older FUSE) have no such rename; a link never replaces either.
            Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(&self.path, target),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What stays behind is removed when the file is sent again.
        let _ = fs::remove_file(&self.path);
    }
}

fn sync_directory(spool: &Path) -> anyhow::Result<()> {
    let synced = File::open(spool).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("sync {}", spool.display()))
}
