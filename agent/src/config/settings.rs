//! Typed settings: what a configuration that keeps all rules says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemark_mysql::basebackup::BackupMethod;
use tidemark_mysql::binlog::Flavor;
use tidemark_mysql::client::ConnectOptions;
use tidemark_postgres::ConnInfo;
use tidemark_storage::{StorageOptions, StorageUrl};
use tidemark_types::{ByteSize, ErrorClass, Secret, ServerName};

use super::values::Percent;
use crate::exit::Failure;
use crate::schedule::Schedule;

/// Everything the agent was told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything is kept.
    pub repository: RepositorySettings,
    /// Where to answer HTTP; `None`: nowhere.
    pub http: Option<HttpSettings>,
    /// The servers to protect: at least one, no two of one name.
    pub servers: Vec<Server>,
}

/// `[repository]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositorySettings {
    /// Its address.
    pub url: StorageUrl,
    /// The store's address when it is not AWS.
    pub endpoint: Option<String>,
    /// The store's region, when the environment does not say it.
    pub region: Option<String>,
    /// Whether the bucket goes into the path instead of the host name; `None`: as the endpoint usually wants it.
    pub path_style: Option<bool>,
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// `HOST:PORT`.
    pub listen: String,
}

/// Which database a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// PostgreSQL, 13 to 18.
    Postgresql,
    /// MySQL, 8.0 to 9.x.
    Mysql,
    /// MariaDB, 10.6 to 11.x.
    Mariadb,
}

/// One `[[server]]`.
#[derive(Debug, Clone)]
pub enum Server {
    /// PostgreSQL.
    Postgresql(Arc<PostgresqlSettings>),
    /// MySQL or MariaDB.
    Mysql(Arc<MysqlSettings>),
}

/// What is said of a server whatever it runs.
#[derive(Debug)]
pub struct ServerSettings {
    /// What the user calls it.
    pub name: ServerName,
    /// What it runs.
    pub engine: Engine,
    /// A file that holds the password; was closed to other users when the configuration was read.
    pub password_file: Option<PathBuf>,
    /// Its data directory on this host; `None`: base backups come over the connection.
    pub data_directory: Option<PathBuf>,
    /// How long a commit may wait before it is shipped.
    pub max_lag: Duration,
    /// How often the lease is rewritten.
    pub heartbeat: Duration,
    /// `[server.base_backup]`
    pub base_backup: BaseBackupSettings,
}

/// A PostgreSQL server.
#[derive(Debug)]
pub struct PostgresqlSettings {
    /// What is said of any server.
    pub server: Arc<ServerSettings>,
    /// How to reach it, under its application name. Lacks what is in `password_file`: use
    /// [`PostgresqlSettings::connect_info`] to connect.
    pub connection: ConnInfo,
    /// The replication slot.
    pub slot: String,
    /// The name the server sees, and that `synchronous_standby_names` may hold.
    pub application_name: String,
    /// Whether commits are meant to wait for the repository.
    pub synchronous: bool,
    /// What the slot may hold back before it is given up; `None`: no bound of ours.
    pub max_slot_retained: Option<ByteSize>,
    /// Where `archive-wal` leaves files.
    pub archive_spool: Option<PathBuf>,
}

/// A MySQL or MariaDB server.
#[derive(Debug)]
pub struct MysqlSettings {
    /// What is said of any server.
    pub server: Arc<ServerSettings>,
    /// Which of the two.
    pub flavor: Flavor,
    /// How to reach it. Lacks what is in `password_file`: use [`MysqlSettings::connect_options`] to connect.
    pub connection: ConnectOptions,
    /// The number that the agent registers with as a replica; `None`: one that nobody uses is chosen.
    pub server_id: Option<u32>,
    /// Whether commits are meant to wait for the repository, by semi-synchronous replication.
    pub semi_sync: bool,
    /// What brings the binlog.
    pub log_source: LogSource,
    /// How base backups are taken.
    pub copy: CopySettings,
}

/// How base backups of MySQL and MariaDB are taken: keys of `[server.base_backup]`.
#[derive(Debug, Default)]
pub struct CopySettings {
    /// The way; `None`: what serves.
    pub method: Option<BackupMethod>,
    /// Where a clone is made; `None`: beside the data directory.
    pub scratch_directory: Option<PathBuf>,
    /// The `mariadb-backup` to run; `None`: the one that is found.
    pub program: Option<PathBuf>,
}

/// What brings the binlog of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogSource {
    /// The server sends it, as to a replica.
    Replication,
    /// Its files are read: in this directory, or where the server says that it writes them.
    Directory(Option<PathBuf>),
}

/// `[server.base_backup]`
#[derive(Debug, Clone)]
pub struct BaseBackupSettings {
    /// When, in UTC.
    pub schedule: Schedule,
    /// How long after a full one the next full one is made.
    pub full_every: Duration,
    /// The zstd level, 1 to 19.
    pub level: i32,
    /// How many files are read and compressed at once, at least 1.
    pub jobs: usize,
    /// The share of the pages called unchanged that an incremental backup reads all the same.
    pub verify_unchanged: Percent,
}

impl Settings {
    /// The server of this name.
    ///
    /// # Errors
    /// When there is none; the message names those that there are.
    pub fn server(&self, name: &ServerName) -> Result<&Server, Failure> {
        let found = self.servers.iter().find(|server| server.common().name == *name);
        found.ok_or_else(|| {
            let names: Vec<&str> = self
                .servers
                .iter()
                .map(|server| server.common().name.as_str())
                .collect();
            Failure::new(
                ErrorClass::Config,
                format!("the configuration has no server \"{name}\""),
            )
            .hint(format!("it has: {}", names.join(", ")))
        })
    }
}

impl RepositorySettings {
    /// What to open the store with.
    pub fn storage_options(&self) -> StorageOptions {
        StorageOptions {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
            ..StorageOptions::default()
        }
    }
}

impl Server {
    /// What is said of it whatever it runs.
    pub fn common(&self) -> &Arc<ServerSettings> {
        match self {
            Server::Postgresql(settings) => &settings.server,
            Server::Mysql(settings) => &settings.server,
        }
    }

    /// What is said of a PostgreSQL server; `None` of others.
    pub fn postgresql(&self) -> Option<&Arc<PostgresqlSettings>> {
        match self {
            Server::Postgresql(settings) => Some(settings),
            Server::Mysql(_) => None,
        }
    }
}

impl ServerSettings {
    /// The password in its file, if there is one: read each time, so that it can change under a running agent.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn password(&self) -> Result<Option<Secret>, Failure> {
        let Some(file) = &self.password_file else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(file).map_err(|error| {
            let message = format!("read password_file {}: {error}", file.display());
            Failure::new(ErrorClass::Config, message)
        })?;
        Ok(Some(Secret::new(text.lines().next().unwrap_or_default())))
    }
}

impl PostgresqlSettings {
    /// How to connect now.
    ///
    /// # Errors
    /// When the password's file cannot be read.
    pub fn connect_info(&self) -> Result<ConnInfo, Failure> {
        let connection = self.connection.clone();
        Ok(match self.server.password()? {
            Some(password) => connection.with_password(password),
            None => connection,
        })
    }
}

impl MysqlSettings {
    /// How to connect now.
    ///
    /// # Errors
    /// When the password's file cannot be read.
    pub fn connect_options(&self) -> Result<ConnectOptions, Failure> {
        let connection = self.connection.clone();
        Ok(match self.server.password()? {
            Some(password) => connection.with_password(password),
            None => connection,
        })
    }
}

impl Engine {
    /// As it is written in the configuration, in the repository, in logs and in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Engine::Postgresql => "postgresql",
            Engine::Mysql => "mysql",
            Engine::Mariadb => "mariadb",
        }
    }
}
