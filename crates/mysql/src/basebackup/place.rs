//! Makes sure that a server runs on this host, in the data directory that it is said to run in.

use std::fs;
use std::path::{Path, PathBuf};

use super::BaseBackupError;
use crate::client::{Host, Sql};

/// Where a server on this host has its data.
///
/// `named` is where it is said to be, `host` how it was reached. MySQL writes its `server_uuid` into its data directory, which
/// proves it. MariaDB has nothing of the kind: its server is here when it was reached through a socket or the loopback
/// interface, or has this host's name.
///
/// # Errors
/// [`BaseBackupError::Elsewhere`]; [`BaseBackupError::Io`] when the directory cannot be looked into; what the server says.
pub async fn local_data_directory(
    sql: &mut Sql,
    host: &Host,
    named: Option<&Path>,
) -> Result<PathBuf, BaseBackupError> {
    let statement = "SELECT @@GLOBAL.datadir AS datadir, @@GLOBAL.hostname AS hostname";
    let row = sql.query_one("ask the server where it runs", statement).await?;
    let found = PathBuf::from(row.text("datadir").unwrap_or_default());
    let expected = named.map_or_else(|| found.clone(), Path::to_owned);
    let elsewhere = || BaseBackupError::Elsewhere {
        host: host.to_string(),
        found: found.clone(),
        expected: expected.clone(),
    };
    let look =
        |path: &Path| fs::canonicalize(path).map_err(|error| BaseBackupError::io("look into", path, error));
    if look(&expected)? != look(&found).map_err(|_| elsewhere())? {
        return Err(elsewhere());
    }
    let is_here = match sql.server_facts().await?.uuid {
        Some(uuid) => {
            let file = expected.join("auto.cnf");
            let text =
                fs::read_to_string(&file).map_err(|error| BaseBackupError::io("read", &file, error))?;
            let line = format!("server-uuid={uuid}");
            text.lines().any(|found| found.trim().eq_ignore_ascii_case(&line))
        }
        None => is_local(host) || row.text("hostname") == Some(&*this_host()),
    };
    if is_here { Ok(expected) } else { Err(elsewhere()) }
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Socket(_) => true,
        Host::Tcp { name, .. } => {
            name == "localhost"
                || name
                    .parse()
                    .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
        }
    }
}

fn this_host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
