//! Finds out by which way a server's base backups are taken.

use std::fmt;
use std::path::PathBuf;

use tidemark_mysql::basebackup::{
    BackupMethod, BackupProgram, BaseBackupError, ServerDescription, check_clonable, local_data_directory,
};
use tidemark_mysql::client::{Host, Sql};
use tidemark_types::ErrorClass;

use crate::config::MysqlSettings;
use crate::exit::Failure;

/// What is known of a server before its backup begins.
pub struct Survey {
    /// The host that serves.
    pub host: Host,
    /// The way.
    pub way: Way,
    /// Pages that files are compared by, in bytes.
    pub page_size: u32,
}

/// A way, and what it needs.
pub enum Way {
    /// A clone, made in a directory.
    Clone {
        /// The server's.
        data_directory: PathBuf,
        /// Where the clone is made.
        scratch: PathBuf,
    },
    /// By `mariadb-backup`.
    Program {
        /// The server's.
        data_directory: PathBuf,
        /// The program.
        program: BackupProgram,
    },
    /// By a dump.
    Dump,
}

/// For people.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Clone {
                data_directory,
                scratch,
            } => write!(
                f,
                "clones of {}, made in {}",
                data_directory.display(),
                scratch.display()
            ),
            Way::Program { data_directory, .. } => {
                write!(f, "copies of {} by mariadb-backup", data_directory.display())
            }
            Way::Dump => f.write_str("dumps over the connection"),
        }
    }
}

/// Looks at the server.
///
/// # Errors
/// What the server says; `Config` when the way that is asked for is none here.
pub async fn survey(settings: &MysqlSettings) -> anyhow::Result<Survey> {
    let options = settings.connect_options()?;
    let mut sql = Sql::connect(&options).await?;
    let host = options.hosts.iter().find(|host| host.to_string() == sql.host());
    let host = host.cloned().ok_or_else(|| {
        let message = format!("connected to {}, which url does not name", sql.host());
        Failure::new(ErrorClass::Permanent, message)
    })?;
    let page_size = ServerDescription::query(&mut sql, false).await?.page_size()?;
    let way = way(settings, &mut sql, &host).await?;
    Ok(Survey { host, way, page_size })
}

/// The way that is asked for; else by files, and if that is none here, a dump.
async fn way(settings: &MysqlSettings, sql: &mut Sql, host: &Host) -> anyhow::Result<Way> {
    let [by_files, _] = BackupMethod::of(settings.flavor);
    let way = match settings.copy.method.unwrap_or(by_files) {
        BackupMethod::Clone => clone(settings, sql, host).await,
        BackupMethod::MariadbBackup => program(settings, sql, host).await,
        BackupMethod::Dump => Ok(Way::Dump),
    };
    match way {
        Err(error) if settings.copy.method.is_none() && is_unfit(&error, settings) => {
            tracing::warn!(reason = %error, "base backups by {} are not possible here: the server is dumped", by_files.label());
            Ok(Way::Dump)
        }
        way => Ok(way?),
    }
}

/// Whether a server cannot be backed up by its files as it is, which a dump does not mind. Of one whose data directory is
/// named, being there and readable is expected.
fn is_unfit(error: &BaseBackupError, settings: &MysqlSettings) -> bool {
    match error {
        BaseBackupError::Elsewhere { .. } | BaseBackupError::Io { .. } => {
            settings.server.data_directory.is_none()
        }
        BaseBackupError::NotInnoDb { .. }
        | BaseBackupError::Outside { .. }
        | BaseBackupError::NoClonePlugin
        | BaseBackupError::NoGtids { .. }
        | BaseBackupError::NoProgram
        | BaseBackupError::ProgramVersion { .. } => true,
        _ => false,
    }
}

async fn clone(settings: &MysqlSettings, sql: &mut Sql, host: &Host) -> Result<Way, BaseBackupError> {
    let named = settings.server.data_directory.as_deref();
    let data_directory = local_data_directory(sql, host, named).await?;
    check_clonable(sql, &data_directory).await?;
    let beside = || {
        let parent = data_directory.parent().unwrap_or(&data_directory);
        parent.join(format!("tidemark-clone-{}", settings.server.name))
    };
    let scratch = settings.copy.scratch_directory.clone().unwrap_or_else(beside);
    Ok(Way::Clone {
        data_directory,
        scratch,
    })
}

async fn program(settings: &MysqlSettings, sql: &mut Sql, host: &Host) -> Result<Way, BaseBackupError> {
    let named = settings.server.data_directory.as_deref();
    let data_directory = local_data_directory(sql, host, named).await?;
    let search_path = std::env::var_os("PATH");
    let found = BackupProgram::find(settings.copy.program.as_deref(), search_path.as_deref()).await?;
    let program = found.ok_or(BaseBackupError::NoProgram)?;
    program.check_series(&sql.version().text)?;
    Ok(Way::Program {
        data_directory,
        program,
    })
}
