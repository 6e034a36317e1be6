//! Where a restore goes: looked at, and refused, before anything is written.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tidemark_postgres::basebackup::{ManifestFacts, Tablespace};
use tidemark_postgres::restore::{check_tablespaces_empty, map_tablespaces};
use tidemark_types::{ByteSize, ErrorClass};

use crate::cli::RestoreArgs;
use crate::exit::Failure;
use crate::plan::Plan;
use crate::restore::delta::leads_to;
use crate::restore::lost_configuration;
use crate::restore::owner::Owner;
use crate::wal::state::StateDir;

/// Log that lies on the disk while it is replayed, at most: what waits to be taken, and the server's own.
pub(super) const LOG_ROOM: u64 = 1 << 30;

/// Longest path of a socket (`sun_path`), with room for its name.
const SOCKET_DIR_LEN_MAX: usize = 80;

/// The places of a restore.
#[derive(Debug)]
pub struct Place {
    /// The data directory.
    pub data: PathBuf,
    /// Tablespaces where they will lie.
    pub tablespaces: Vec<Tablespace>,
    /// The folder beside the data directory.
    pub state: StateDir,
    /// The folder for configuration files that lay outside the lost server's data directory, if there are any.
    pub configuration: Option<PathBuf>,
}

impl Place {
    /// Makes sure that the places are free and have room.
    ///
    /// # Errors
    /// `Conflict` when something is there already; when the disk is too small.
    pub fn check(args: &RestoreArgs, facts: &ManifestFacts, plan: &Plan) -> anyhow::Result<Place> {
        let (data, state) = data_and_state(&args.to)?;
        let entries = entries_of(&data)?;
        if entries > 0 && !args.delta {
            let message = format!("{} is not empty", data.display());
            return Err(Failure::new(ErrorClass::Conflict, message)
                .hint("restore into another directory, or over this one with --delta")
                .into());
        }
        if data.join("postmaster.pid").exists() {
            let message = format!(
                "{} belongs to a server that may be running: it has a postmaster.pid",
                data.display()
            );
            return Err(Failure::new(ErrorClass::Conflict, message)
                .hint("stop that server; if none runs, remove the file")
                .into());
        }
        if entries > 0 && !data.join("PG_VERSION").exists() {
            let message = format!(
                "{} is no data directory of PostgreSQL, so --delta does not touch it",
                data.display()
            );
            return Err(Failure::new(ErrorClass::Conflict, message).into());
        }
        if entries_of(state.path())? > 0 && !state.is_one() {
            let message = format!(
                "{} is needed for the restore and holds something else",
                state.path().display()
            );
            return Err(Failure::new(ErrorClass::Conflict, message)
                .hint("move it away, or restore into another directory")
                .into());
        }
        let tablespaces = map_tablespaces(&facts.tablespaces, &args.tablespace)?;
        let is_new = |space: &Tablespace| !(args.delta && leads_to(&data, space));
        let new: Vec<Tablespace> = tablespaces
            .iter()
            .filter(|space| is_new(space))
            .cloned()
            .collect();
        check_tablespaces_empty(&new)?;
        if !args.delta {
            check_room(
                &data,
                plan.base.bytes.saturating_add(plan.log.bytes.min(LOG_ROOM)),
            )?;
        }
        Ok(Place {
            data,
            tablespaces,
            configuration: lost_configuration(&facts.server).folder(state.path()),
            state,
        })
    }

    /// Makes the folder beside the data directory anew: it belongs to one restore.
    ///
    /// # Errors
    /// When that fails.
    pub fn make_state_dir(&self) -> anyhow::Result<()> {
        let path = self.state.path();
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
        make_private(path)
    }
}

/// Makes a directory that only its owner may enter, and those above it.
///
/// # Errors
/// When that fails.
pub fn make_private(path: &Path) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        }
        other => other,
    }
    .with_context(|| format!("make {}", path.display()))
}

/// Directory of a private server: in the folder `state`; under a short path where the name of the socket would be too long.
///
/// # Errors
/// When it cannot be made.
pub fn private_directory(state: &Path, owner: Owner) -> anyhow::Result<PathBuf> {
    let beside = state.join("server");
    if beside.as_os_str().len() <= SOCKET_DIR_LEN_MAX {
        return Ok(beside);
    }
    let short = std::env::temp_dir().join(format!("tidemark-restore-{}", std::process::id()));
    make_private(&short)?;
    owner.give(&short)?;
    Ok(short)
}

/// The data directory as an absolute path, and the folder beside it.
pub(super) fn data_and_state(to: &Path) -> anyhow::Result<(PathBuf, StateDir)> {
    let absolute = std::path::absolute(to).context("find the target directory")?;
    // Put together anew it has no slash at its end, behind which the folder would lie inside.
    let data: PathBuf = absolute.components().collect();
    let mut state = data.clone().into_os_string();
    state.push(".tidemark");
    Ok((data, StateDir::new(PathBuf::from(state))))
}

pub(super) fn entries_of(path: &Path) -> anyhow::Result<usize> {
    match fs::read_dir(path) {
        Ok(entries) => Ok(entries.count()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) if error.kind() == ErrorKind::NotADirectory => Err(Failure::usage(format!(
            "{} cannot be a directory: it, or something above it, is a file",
            path.display()
        ))
        .into()),
        Err(error) => Err(error).with_context(|| format!("look at {}", path.display())),
    }
}

/// Compares with what the file system has left. Tablespaces elsewhere are counted here too: rather too careful.
pub(super) fn check_room(data: &Path, needed: u64) -> anyhow::Result<()> {
    let existing = data
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing).with_context(|| format!("look at {}", existing.display()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if needed <= free {
        return Ok(());
    }
    let message = format!(
        "{} has room for {} and the restore needs {}",
        existing.display(),
        ByteSize(free),
        ByteSize(needed)
    );
    Err(Failure::new(ErrorClass::Config, message)
        .hint("restore onto a larger disk; nothing was written")
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_lies_beside_the_data_directory_however_that_is_written() {
        for to in [
            "/restore/shop",
            "/restore/shop/",
            "/restore//shop//",
            "/restore/./shop/.",
        ] {
            let (data, state) = data_and_state(Path::new(to)).unwrap();
            assert_eq!(data.as_os_str(), "/restore/shop", "{to}");
            assert_eq!(state.path().as_os_str(), "/restore/shop.tidemark", "{to}");
        }
    }
}
