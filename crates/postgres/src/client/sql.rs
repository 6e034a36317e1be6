//! Ordinary SQL over the same kind of session that replication uses.
//!
//! `tokio-postgres` does the SQL. It would dial, encrypt and authenticate in its own way, with fewer modes and other
//! errors; so it is given a session that is already authenticated, behind a stream that swallows its start-up message
//! and replays the server's greeting.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tidemark_net::Transport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, Row};

use super::connect::{Purpose, Session, connect};
use crate::conninfo::ConnInfo;
use crate::error::PostgresError;
use crate::version::ServerVersion;

/// How long a query of ours may take. They read views and settings; a backup's start waits for a checkpoint and says
/// so with [`SqlClient::with_timeout`].
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long [`SqlClient::close`] waits for the farewell to be sent.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// An SQL connection. It owns the task that drives it: the task ends when this is closed or dropped.
pub struct SqlClient {
    client: tokio_postgres::Client,
    task: ConnectionTask,
    version: ServerVersion,
    host: String,
    timeout: Duration,
}

impl SqlClient {
    /// Connects as `info` says.
    /// # Errors
    /// Any of [`PostgresError`]'s connection variants.
    pub async fn connect(info: &ConnInfo) -> Result<SqlClient, PostgresError> {
        let session = connect(info, Purpose::Sql).await?;
        let (version, host) = (session.version, session.wire.host().to_owned());
        let stream = AdoptedStream::new(session);
        let mut config = tokio_postgres::Config::new();
        config
            .user(&info.user)
            .ssl_mode(tokio_postgres::config::SslMode::Disable);
        let (client, connection) = config
            .connect_raw(stream, NoTls)
            .await
            .map_err(|source| sql_error("connect", source))?;
        let task = tokio::spawn(async move {
            // Whoever waits for an answer is told too; this is for the log of an idle connection.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "SQL connection ended");
            }
        });
        Ok(SqlClient {
            client,
            task: ConnectionTask(task),
            version,
            host,
            timeout: QUERY_TIMEOUT,
        })
    }

    /// The same connection with another limit for each of its queries.
    pub fn with_timeout(mut self, timeout: Duration) -> SqlClient {
        self.timeout = timeout;
        self
    }

    /// The client itself. Its cancel tokens do not work: they would dial on their own.
    pub fn client(&self) -> &tokio_postgres::Client {
        &self.client
    }

    /// The server's version.
    pub fn version(&self) -> ServerVersion {
        self.version
    }

    /// The host that serves: `host:port` or the socket's path.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Runs a query. `operation` says in errors what it is for.
    /// # Errors
    /// [`PostgresError::Server`], [`PostgresError::Sql`] when the connection is gone, [`PostgresError::Timeout`].
    /// Dropping the future leaves the query running on the server.
    pub async fn query(
        &self,
        operation: &'static str,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, PostgresError> {
        self.bounded(operation, self.client.query(statement, parameters))
            .await
    }

    /// Runs a query that gives exactly one row.
    /// # Errors
    /// As [`SqlClient::query`].
    pub async fn query_one(
        &self,
        operation: &'static str,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, PostgresError> {
        self.bounded(operation, self.client.query_one(statement, parameters))
            .await
    }

    async fn bounded<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, PostgresError> {
        match timeout(self.timeout, work).await {
            Ok(result) => result.map_err(|source| sql_error(operation, source)),
            Err(_) => Err(PostgresError::Timeout {
                operation,
                host: self.host.clone(),
                after: self.timeout,
            }),
        }
    }

    /// The client and its task apart, for a caller that needs to own the client. The task must be kept as long.
    pub fn into_parts(self) -> (tokio_postgres::Client, ConnectionTask) {
        (self.client, self.task)
    }

    /// Says farewell to the server and ends the connection's task.
    pub async fn close(self) {
        let SqlClient { client, mut task, .. } = self;
        drop(client);
        // Past the limit the task is ended without a farewell.
        let _ = timeout(CLOSE_TIMEOUT, &mut task.0).await;
    }
}

/// The task that drives an SQL connection. Dropping it ends the connection.
pub struct ConnectionTask(JoinHandle<()>);

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An error of the SQL client: the server's own words where there are any.
pub(crate) fn sql_error(operation: &str, source: tokio_postgres::Error) -> PostgresError {
    let operation = operation.to_owned();
    match source.as_db_error() {
        Some(error) => PostgresError::Server {
            operation,
            error: Box::new(error.into()),
        },
        None => PostgresError::Sql { operation, source },
    }
}

/// A session as a stream that looks like a fresh one to `tokio-postgres`.
struct AdoptedStream {
    transport: Transport,
    /// The server's greeting, and what was read ahead.
    greeting: Bytes,
    startup: Startup,
}

/// How much of the start-up message was swallowed.
enum Startup {
    /// Its length field is not whole yet.
    Length(BytesMut),
    /// So many bytes are still to come.
    Body(usize),
}

impl AdoptedStream {
    fn new(session: Session) -> AdoptedStream {
        let mut greeting = BytesMut::new();
        message(&mut greeting, b'R', &0_i32.to_be_bytes());
        for (name, value) in &session.parameters {
            let body = [name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat();
            message(&mut greeting, b'S', &body);
        }
        message(&mut greeting, b'K', &session.backend_key);
        message(&mut greeting, b'Z', b"I");
        let (transport, ahead) = session.wire.into_parts();
        greeting.extend_from_slice(&ahead);
        AdoptedStream {
            transport,
            greeting: greeting.freeze(),
            startup: Startup::Length(BytesMut::new()),
        }
    }

    /// How many of `bytes` belong to the start-up message.
    fn swallow(&mut self, bytes: &[u8]) -> usize {
        match &mut self.startup {
            Startup::Length(seen) => {
                let wanted = 4_usize.saturating_sub(seen.len()).min(bytes.len());
                seen.extend_from_slice(bytes.get(..wanted).unwrap_or_default());
                if let Ok(length) = seen.clone().try_get_u32() {
                    self.startup = Startup::Body(usize::try_from(length).unwrap_or(0).saturating_sub(4));
                }
                wanted
            }
            Startup::Body(left) => {
                let wanted = (*left).min(bytes.len());
                *left -= wanted;
                wanted
            }
        }
    }
}

fn message(queue: &mut BytesMut, tag: u8, body: &[u8]) {
    queue.put_u8(tag);
    queue.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
    queue.put_slice(body);
}

impl AsyncRead for AdoptedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.greeting.is_empty() {
            return Pin::new(&mut this.transport).poll_read(cx, buf);
        }
        let part = this.greeting.split_to(this.greeting.len().min(buf.remaining()));
        buf.put_slice(&part);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for AdoptedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.swallow(buf) {
            0 => Pin::new(&mut this.transport).poll_write(cx, buf),
            swallowed => Poll::Ready(Ok(swallowed)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
