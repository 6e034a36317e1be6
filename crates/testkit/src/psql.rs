//! Asking a server by way of psql, and running its tools against it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::command::run_sql;
use crate::install::PgVersion;

/// A place where a server answers: a socket directory and a port, as superuser `postgres`.
#[derive(Debug, Clone)]
pub struct Psql {
    version: PgVersion,
    socket_dir: PathBuf,
    port: u16,
    database: String,
}

impl Psql {
    /// The server of `version` on `port` in `socket_dir`, its database `postgres`.
    pub fn new(version: PgVersion, socket_dir: &Path, port: u16) -> Psql {
        Psql {
            version,
            socket_dir: socket_dir.to_owned(),
            port,
            database: "postgres".to_owned(),
        }
    }

    /// The same server, another database.
    pub fn database(&self, name: &str) -> Psql {
        Psql {
            database: name.to_owned(),
            ..self.clone()
        }
    }

    /// Runs SQL and returns its rows: one a line, columns apart by `|`. Several statements run one by one, each in
    /// a transaction of its own. Panics with the server's message when one fails.
    #[track_caller]
    pub fn query(&self, sql: &str) -> String {
        self.try_query(sql).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// As [`Psql::query`]; an error carries what psql wrote to stderr.
    pub fn try_query(&self, sql: &str) -> Result<String> {
        run_sql(
            self.tool("psql")
                .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"]),
            sql,
        )
    }

    /// A command for one of the version's programs (`pgbench`, `pg_amcheck`, `pg_receivewal`, ...) that connects to
    /// this server by the environment.
    pub fn tool(&self, program: &str) -> Command {
        let mut command = self.version.tool(program);
        command
            .env("PGHOST", &self.socket_dir)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", &self.database)
            .env("PGCONNECT_TIMEOUT", "10");
        command
    }

    /// An order-independent digest of a table's rows: their number and a sum of hashes of their text form.
    /// Equal on servers of all versions that hold the same rows.
    #[track_caller]
    pub fn digest(&self, table: &str) -> String {
        self.digest_where(table, "true")
    }

    /// As [`Psql::digest`], of the rows for which `condition` holds.
    #[track_caller]
    pub fn digest_where(&self, table: &str, condition: &str) -> String {
        self.query(&format!(
            "SET TimeZone = 'UTC'; \
             SELECT count(*) || ' rows, ' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM {table} AS t WHERE {condition}"
        ))
    }
}
