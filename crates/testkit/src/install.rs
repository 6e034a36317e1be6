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

/// A version of MySQL or MariaDB that the tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MysqlVersion {
    /// MySQL 9.7.
    Mysql97,
    /// MariaDB 10.11.
    MariaDb1011,
    /// MariaDB 11.8.
    MariaDb118,
}

impl MysqlVersion {
    /// All of them.
    pub const ALL: [MysqlVersion; 3] = [
        MysqlVersion::Mysql97,
        MysqlVersion::MariaDb1011,
        MysqlVersion::MariaDb118,
    ];

    /// Whether it is MariaDB.
    pub fn is_mariadb(self) -> bool {
        self != MysqlVersion::Mysql97
    }

    /// What its version string begins with.
    pub fn number(self) -> &'static str {
        match self {
            MysqlVersion::Mysql97 => "9.7",
            MysqlVersion::MariaDb1011 => "10.11",
            MysqlVersion::MariaDb118 => "11.8",
        }
    }

    /// The prefix that it is installed under. Panics when it is not.
    pub fn prefix(self) -> PathBuf {
        let (variable, directory) = match self {
            MysqlVersion::Mysql97 => ("TIDEMARK_MYSQL97", "mysql-9.7"),
            MysqlVersion::MariaDb1011 => ("TIDEMARK_MARIADB1011", "mariadb-10.11"),
            MysqlVersion::MariaDb118 => ("TIDEMARK_MARIADB118", "mariadb-11.8"),
        };
        let prefix = configured(variable, cache().join(directory));
        require(&prefix.join(self.server_name()), &self.to_string());
        prefix
    }

    /// The server itself. Panics when it is not installed.
    pub fn server_program(self) -> PathBuf {
        self.prefix().join(self.server_name())
    }

    fn server_name(self) -> &'static str {
        if self.is_mariadb() {
            "usr/sbin/mariadbd"
        } else {
            "usr/sbin/mysqld"
        }
    }

    /// A command for one of this version's programs, run as the servers' user. MariaDB's are found by MySQL's names too:
    /// `mysql`, `mysqldump`, `mysqlbinlog`.
    pub fn tool(self, program: &str) -> Command {
        let program = match program {
            "mysql" if self.is_mariadb() => "mariadb".to_owned(),
            _ if self.is_mariadb() => program.replacen("mysql", "mariadb-", 1),
            _ => program.to_owned(),
        };
        ServerUser::current().command(self.prefix().join("usr/bin").join(program))
    }
}

/// `MySQL 9.7`.
impl fmt::Display for MysqlVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vendor = if self.is_mariadb() { "MariaDB" } else { "MySQL" };
        write!(f, "{vendor} {}", self.number())
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
