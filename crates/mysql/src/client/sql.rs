//! Ordinary SQL, over the same kind of session that dumps use: the same settings, TLS, authentication and errors. Results come
//! as text.

use std::sync::Arc;
use std::time::Duration;

use tidemark_net::Transport;
use tokio::time::Instant;

use super::connect::{Session, connect};
use super::greeting::ServerVersion;
use super::options::ConnectOptions;
use super::text_result::{Row, begin, next_row, run};
use crate::binlog::Flavor;
use crate::error::MysqlError;

/// How long a statement may take: ours read views and settings. What takes longer says so with [`Sql::with_timeout`].
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection for SQL. It is closed when it is dropped; the server then rolls back what was not committed.
#[derive(Debug)]
pub struct Sql {
    session: Session,
    timeout: Duration,
    /// A statement was not heard out: what comes next on the connection is its answer, not the next one's.
    is_out_of_step: bool,
}

impl Sql {
    /// Connects.
    ///
    /// # Errors
    /// Any of [`MysqlError`]'s connection variants.
    pub async fn connect(options: &ConnectOptions) -> Result<Sql, MysqlError> {
        let mut sql = Sql {
            session: connect(options).await?,
            timeout: STATEMENT_TIMEOUT,
            is_out_of_step: false,
        };
        // Whatever the server's defaults are, statements and literals of ours mean what they say.
        sql.execute(
            "set up the session",
            "SET SESSION sql_mode = '', time_zone = '+00:00'",
        )
        .await?;
        Ok(sql)
    }

    /// The same connection with another limit for each of its statements.
    pub fn with_timeout(mut self, timeout: Duration) -> Sql {
        self.timeout = timeout;
        self
    }

    /// The server's version.
    pub fn version(&self) -> &ServerVersion {
        &self.session.version
    }

    /// Whose server it is.
    pub fn flavor(&self) -> Flavor {
        self.session.version.flavor
    }

    /// The host that serves: `host:port` or the socket's path.
    pub fn host(&self) -> &str {
        self.session.wire.host()
    }

    /// Whether nobody can listen: TLS, a socket, the loopback interface.
    pub fn is_private(&self) -> bool {
        match self.session.wire.transport() {
            Transport::Tcp(stream) => stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback()),
            Transport::Unix(_) | Transport::Tls(_) => true,
        }
    }

    /// The connection's number in the server, for KILL.
    pub fn connection_id(&self) -> u32 {
        self.session.connection_id
    }

    /// Runs one statement and returns its rows; none for a statement without a result. `operation` says in errors what it is
    /// for. Not for results that do not fit into memory.
    ///
    /// # Errors
    /// [`MysqlError::Server`], after which the connection goes on; [`MysqlError::Timeout`], [`MysqlError::ConnectionLost`] and
    /// [`MysqlError::Protocol`], after which it does not. Nor does it when the future is dropped, which leaves the statement
    /// running on the server.
    pub async fn query(&mut self, operation: &'static str, statement: &str) -> Result<Vec<Row>, MysqlError> {
        self.step_out(operation)?;
        let deadline = Instant::now() + self.timeout;
        let result = run(&mut self.session.wire, operation, statement, deadline).await;
        self.is_out_of_step = !matches!(result, Ok(_) | Err(MysqlError::Server { .. }));
        result
    }

    /// Runs one statement whose rows need not fit into memory: they are asked for one by one. The limit of time holds for each
    /// of them. Dropped before the last row, it leaves the connection of no further use.
    ///
    /// # Errors
    /// As [`Sql::query`].
    pub async fn rows(&mut self, operation: &'static str, statement: &str) -> Result<Rows<'_>, MysqlError> {
        self.step_out(operation)?;
        let deadline = Instant::now() + self.timeout;
        let names = begin(&mut self.session.wire, operation, statement, deadline).await;
        self.is_out_of_step = !matches!(names, Ok(None) | Err(MysqlError::Server { .. }));
        let names = names?;
        Ok(Rows {
            sql: self,
            operation,
            names,
        })
    }

    /// Until a statement was heard out, nothing else may be asked.
    fn step_out(&mut self, operation: &'static str) -> Result<(), MysqlError> {
        if self.is_out_of_step {
            return Err(MysqlError::Protocol {
                operation,
                problem: "the connection was given up in the middle of a statement; connect again".to_owned(),
            });
        }
        self.is_out_of_step = true;
        Ok(())
    }

    /// As [`Sql::query`], for a statement that gives exactly one row.
    ///
    /// # Errors
    /// As [`Sql::query`], and [`MysqlError::Result`] for any other number of rows.
    pub async fn query_one(&mut self, operation: &'static str, statement: &str) -> Result<Row, MysqlError> {
        let mut rows = self.query(operation, statement).await?;
        match (rows.pop(), rows.len()) {
            (Some(row), 0) => Ok(row),
            (last, before) => Err(MysqlError::Result {
                operation,
                problem: format!("{} rows instead of one", before + usize::from(last.is_some())),
            }),
        }
    }

    /// As [`Sql::query`], for a statement whose result is of no interest.
    ///
    /// # Errors
    /// As [`Sql::query`].
    pub async fn execute(&mut self, operation: &'static str, statement: &str) -> Result<(), MysqlError> {
        self.query(operation, statement).await.map(drop)
    }
}

/// The rows of a result that does not fit into memory.
#[derive(Debug)]
pub struct Rows<'s> {
    sql: &'s mut Sql,
    operation: &'static str,
    /// `None` when there are no more rows.
    names: Option<Arc<[String]>>,
}

impl Rows<'_> {
    /// The next row; `None` behind the last.
    ///
    /// # Errors
    /// As [`Sql::query`].
    pub async fn next(&mut self) -> Result<Option<Row>, MysqlError> {
        let Some(names) = &self.names else {
            return Ok(None);
        };
        let deadline = Instant::now() + self.sql.timeout;
        let row = next_row(&mut self.sql.session.wire, self.operation, names, deadline).await;
        if matches!(row, Ok(None) | Err(MysqlError::Server { .. })) {
            self.sql.is_out_of_step = false;
            self.names = None;
        }
        row
    }
}

/// `text` as a string literal, quotes included. Backslashes are escapes: see the session's `sql_mode`.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for c in text.chars() {
        match c {
            '\0' => quoted.push_str("\\0"),
            '\'' | '\\' => quoted.extend(['\\', c]),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// `name` as an identifier, backticks included.
pub fn quote_name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_stays_text() {
        assert_eq!(quote(r"it's \0"), r"'it\'s \\0'");
        assert_eq!(quote_name("a`b"), "`a``b`");
    }
}
