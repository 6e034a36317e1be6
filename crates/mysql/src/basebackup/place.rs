//! Makes sure that a server runs on this host, in the data directory that it is said to run in.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::BaseBackupError;
use crate::client::{Host, Row, Sql};

/// Where a server on this host has its data.
///
/// `named` is where it is said to be, `host` how it was reached. MySQL writes its `server_uuid` into its data directory, which
/// proves it. MariaDB has nothing of the kind, and a tunnel may lead from this host's loopback interface to a server elsewhere,
/// with another server's files at the same path here: its server is here when it was reached by its own socket, or by its own
/// port through the loopback interface or under this host's name.
///
/// # Errors
/// [`BaseBackupError::Elsewhere`]; [`BaseBackupError::Io`] when the directory cannot be looked into; what the server says.
pub async fn local_data_directory(
    sql: &mut Sql,
    host: &Host,
    named: Option<&Path>,
) -> Result<PathBuf, BaseBackupError> {
    let statement = "SELECT @@GLOBAL.datadir AS datadir, @@GLOBAL.hostname AS hostname, @@GLOBAL.port AS port, \
                     @@GLOBAL.socket AS socket";
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
        None => is_direct(host, &row),
    };
    if is_here { Ok(expected) } else { Err(elsewhere()) }
}

/// Whether a server of this host was reached, and not by way of something else.
fn is_direct(host: &Host, server: &Row) -> bool {
    match host {
        Host::Socket(path) => {
            let own = Path::new(server.text("socket").unwrap_or_default());
            let look = |path: &Path| fs::canonicalize(path).ok();
            look(path).is_some() && look(path) == look(own)
        }
        Host::Tcp { name, port } => {
            let is_loopback =
                name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback());
            let is_here = is_loopback || server.text("hostname") == Some(&*this_host());
            is_here && server.parse("port") == Some(*port)
        }
    }
}

fn this_host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
