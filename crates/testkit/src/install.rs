//! Where the installed servers are: by environment, else where `scripts/install-test-servers.sh` puts them.
//!
//! The defaults are those of `scripts/env.sh`. A missing program is a panic that names the command which
//! installs it, never a skipped test.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::user::ServerUser;

/// A major version of PostgreSQL that the tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PgVersion {
    /// PostgreSQL 15.
    V15,
    /// PostgreSQL 17.
    V17,
    /// PostgreSQL 18.
    V18,
}

impl PgVersion {
    /// All of them, oldest first.
    pub const ALL: [PgVersion; 3] = [PgVersion::V15, PgVersion::V17, PgVersion::V18];

    /// The number as in `PG_VERSION`.
    pub fn major(self) -> u32 {
        match self {
            PgVersion::V15 => 15,
            PgVersion::V17 => 17,
            PgVersion::V18 => 18,
        }
    }

    /// The directory of this version's programs. Panics when they are not installed.
    pub fn bin_dir(self) -> PathBuf {
        let major = self.major();
        let default = match self {
            PgVersion::V15 => PathBuf::from("/usr/lib/postgresql/15/bin"),
            _ => cache().join(format!("postgresql-{major}/usr/lib/postgresql/{major}/bin")),
        };
        let dir = configured(&format!("TIDEMARK_PG{major}_BIN"), default);
        require(&dir.join("postgres"), &format!("PostgreSQL {major}"));
        dir
    }

    /// A command for one of this version's programs (`pg_waldump`, `pg_amcheck`, ...), run as the servers' user.
    pub fn tool(self, program: &str) -> Command {
        ServerUser::current().command(self.bin_dir().join(program))
    }
}

impl fmt::Display for PgVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.major().fmt(f)
    }
}

/// The S3 server Garage.
pub(crate) fn garage() -> PathBuf {
    let path = configured("TIDEMARK_GARAGE", cache().join("garage/bin/garage"));
    require(&path, "the S3 server Garage");
    path
}

/// The S3 simulator moto.
pub(crate) fn moto() -> PathBuf {
    let path = configured("TIDEMARK_MOTO", cache().join("moto/bin/moto_server"));
    require(&path, "the S3 simulator moto");
    path
}

/// The library that shifts a process's clock when preloaded: `LD_PRELOAD` it and set `FAKETIME` (`+1h`).
/// Panics when it is not installed.
pub fn faketime_library() -> PathBuf {
    let default = PathBuf::from("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1");
    let path = configured("TIDEMARK_FAKETIME", default);
    require(&path, "libfaketime");
    path
}

fn configured(variable: &str, default: PathBuf) -> PathBuf {
    env::var_os(variable).map_or(default, PathBuf::from)
}

fn cache() -> PathBuf {
    if let Some(cache) = env::var_os("TIDEMARK_CACHE") {
        return cache.into();
    }
    if rustix::process::getuid().is_root() {
        return "/var/cache/tidemark".into();
    }
    let home = env::var_os("HOME").expect("HOME is set");
    Path::new(&home).join(".cache/tidemark")
}

fn require(path: &Path, what: &str) {
    assert!(
        path.is_file(),
        "{what} is not installed ({} does not exist): run scripts/install-test-servers.sh",
        path.display()
    );
}
