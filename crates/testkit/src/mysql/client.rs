//! Asking a server by way of its vendor's client, and running its tools against it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::command::run_sql;
use crate::install::MysqlVersion;

/// A place where a server answers: a unix socket, as root without a password.
#[derive(Debug, Clone)]
pub struct MysqlClient {
    version: MysqlVersion,
    socket: PathBuf,
}

impl MysqlClient {
    /// The server of `version` behind `socket`.
    pub fn new(version: MysqlVersion, socket: &Path) -> MysqlClient {
        MysqlClient {
            version,
            socket: socket.to_owned(),
        }
    }

    /// Runs SQL in one session and returns its rows: one a line, columns apart by tabs. Panics with the server's message
    /// when a statement fails.
    #[track_caller]
    pub fn query(&self, sql: &str) -> String {
        self.try_query(sql).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// As [`MysqlClient::query`]; an error carries what the client wrote to stderr.
    pub fn try_query(&self, sql: &str) -> Result<String> {
        run_sql(
            self.tool("mysql")
                .args(["--batch", "--skip-column-names", "--raw"]),
            sql,
        )
    }

    /// A command for one of the vendor's programs, by its MySQL name (`mysql`, `mysqldump`, `mysqlbinlog`, ...), that
    /// connects to this server as root.
    pub fn tool(&self, program: &str) -> Command {
        let mut command = self.version.tool(program);
        command
            .arg("--no-defaults")
            .arg(format!("--socket={}", self.socket.display()))
            .arg("--user=root");
        command
    }
}
