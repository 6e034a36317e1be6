//! From settings to a session: which host, with or without TLS, the start-up exchange, and whether the server is of
//! the wanted kind. Replication and SQL connections both come from here, so they behave alike.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tidemark_net::{TlsStartError, Transport, dial_tcp, start_tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::auth::{Credentials, authenticate};
use super::channel_binding::server_end_point;
use super::message::{Message, Row};
use super::tls;
use super::wire::Wire;
use crate::conninfo::{
    ConnInfo, Host, HostAddress, Lookup, SslMode, TargetSessionAttrs, Wanted, is_default_socket_directory,
    look_up,
};
use crate::error::PostgresError;
use crate::version::ServerVersion;

const OPERATION: &str = "connect";

/// What the connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// SQL in the settings' database.
    Sql,
    /// Physical replication (manual: "Streaming Replication Protocol").
    Replication,
}

/// A connection that is ready for commands.
pub(crate) struct Session {
    pub wire: Wire,
    /// Settings the server reported.
    pub parameters: BTreeMap<String, String>,
    /// Process number and key as sent.
    pub backend_key: Bytes,
    pub version: ServerVersion,
}

/// Connects to the first host that serves and is of the wanted kind.
///
/// As in libpq, a server that turns the user, password or database down ends the search; one that cannot be reached,
/// is starting, full, or of the wrong kind does not.
pub(crate) async fn connect(info: &ConnInfo, purpose: Purpose) -> Result<Session, PostgresError> {
    let mut attempts = Vec::new();
    let rounds: &[TargetSessionAttrs] = match info.target {
        TargetSessionAttrs::PreferStandby => &[TargetSessionAttrs::Standby, TargetSessionAttrs::Any],
        _ => &[info.target],
    };
    for target in rounds {
        attempts.clear();
        for host in &info.hosts {
            match connect_host(info, host, purpose, *target).await {
                Ok(session) => return Ok(session),
                Err(error) if info.hosts.len() > 1 && may_try_next(&error) => {
                    tracing::debug!(%host, %error, "host does not serve");
                    attempts.push((host.to_string(), error));
                }
                Err(error) => attempts.push((host.to_string(), error)),
            }
            if attempts.last().is_some_and(|(_, error)| !may_try_next(error)) {
                break;
            }
        }
    }
    match (attempts.pop(), attempts.is_empty()) {
        (Some((_, error)), true) => Err(error),
        (Some((_, error)), false) if !may_try_next(&error) => Err(error),
        (last, _) => {
            attempts.extend(last);
            Err(PostgresError::NoHost { attempts })
        }
    }
}

fn may_try_next(error: &PostgresError) -> bool {
    match error {
        PostgresError::Server { error, .. } => error.class().is_transient(),
        PostgresError::Auth { .. } | PostgresError::TlsFile { .. } | PostgresError::ConnInfo(_) => false,
        _ => true,
    }
}

/// Whether and how TLS is tried on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    No,
    IfOffered,
    Yes,
}

/// One host: all addresses of its name, with and without TLS as `sslmode` says.
async fn connect_host(
    info: &ConnInfo,
    host: &Host,
    purpose: Purpose,
    target: TargetSessionAttrs,
) -> Result<Session, PostgresError> {
    let ways: &[Encryption] = match (info.tls.mode, &host.address) {
        (_, HostAddress::SocketDirectory(_)) | (SslMode::Disable, _) => &[Encryption::No],
        (SslMode::Allow, _) => &[Encryption::No, Encryption::Yes],
        (SslMode::Prefer, _) => &[Encryption::IfOffered, Encryption::No],
        (SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull, _) => &[Encryption::Yes],
    };
    let mut first_error = None;
    for way in ways {
        let error = match connect_way(info, host, purpose, *way).await {
            Ok(mut session) => {
                check_kind(&mut session, target, info.connect_timeout).await?;
                return Ok(session);
            }
            Err(error) => error,
        };
        if !other_encryption_may_help(&error) {
            return Err(first_error.unwrap_or(error));
        }
        first_error = first_error.or(Some(error));
    }
    Err(first_error.unwrap_or_else(|| PostgresError::NoHost { attempts: Vec::new() }))
}

/// `pg_hba.conf` may want the other kind of connection; a handshake that fails may not be needed.
fn other_encryption_may_help(error: &PostgresError) -> bool {
    match error {
        PostgresError::Server { error, .. } => error.is_authentication(),
        PostgresError::Tls { .. } => true,
        _ => false,
    }
}

async fn connect_way(
    info: &ConnInfo,
    host: &Host,
    purpose: Purpose,
    encryption: Encryption,
) -> Result<Session, PostgresError> {
    let attempt = |address| async move {
        let work = start(info, host, address, purpose, encryption);
        match info.connect_timeout {
            None => work.await,
            Some(after) => timeout(after, work).await.unwrap_or_else(|_| {
                Err(PostgresError::Timeout {
                    operation: OPERATION,
                    host: host.to_string(),
                    after,
                })
            }),
        }
    };
    let mut last_error = None;
    for address in addresses(host, info.connect_timeout).await? {
        match attempt(address).await {
            Err(error @ (PostgresError::Connect { .. } | PostgresError::Timeout { .. })) => {
                last_error = Some(error);
            }
            result => return result,
        }
    }
    Err(last_error.unwrap_or_else(|| PostgresError::Resolve {
        host: host.to_string(),
        source: io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
    }))
}

/// The addresses behind a host; one `None` for a socket.
async fn addresses(host: &Host, limit: Option<Duration>) -> Result<Vec<Option<SocketAddr>>, PostgresError> {
    let name = match &host.address {
        HostAddress::SocketDirectory(_) => return Ok(vec![None]),
        HostAddress::Ip { address, .. } => return Ok(vec![Some(SocketAddr::new(*address, host.port))]),
        HostAddress::Name(name) => name,
    };
    let operation = "look up host";
    let look_up = tokio::net::lookup_host((name.as_str(), host.port));
    let found = match limit {
        None => look_up.await,
        Some(after) => timeout(after, look_up)
            .await
            .map_err(|_| PostgresError::Timeout {
                operation,
                host: host.to_string(),
                after,
            })?,
    };
    match found {
        Ok(found) => Ok(found.map(Some).collect()),
        Err(source) => Err(PostgresError::Resolve {
            host: name.clone(),
            source,
        }),
    }
}

async fn start(
    info: &ConnInfo,
    host: &Host,
    address: Option<SocketAddr>,
    purpose: Purpose,
    encryption: Encryption,
) -> Result<Session, PostgresError> {
    let failed = |source| PostgresError::Connect {
        host: host.to_string(),
        source,
    };
    let transport = match (address, host.socket_path()) {
        (Some(address), _) => {
            let stream = dial_tcp(address, &info.keepalives).await.map_err(failed)?;
            encrypt(stream, info, host, encryption).await?
        }
        (None, Some(path)) => Transport::dial_unix(&path).await.map_err(failed)?,
        (None, None) => return Err(failed(io::ErrorKind::AddrNotAvailable.into())),
    };
    let end_point = match &transport {
        Transport::Tls(stream) => stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first)
            .and_then(server_end_point),
        _ => None,
    };
    let mut wire = Wire::new(transport, host.to_string());
    send_startup(&mut wire, info, purpose)?;
    let from_file = password_from_file(info, host, purpose).await;
    let credentials = Credentials {
        user: &info.user,
        password: info.password.as_ref().or(match &from_file {
            Lookup::Found(password) => Some(password),
            _ => None,
        }),
        ignored_passfile: match &from_file {
            Lookup::Ignored(reason) => Some(reason),
            _ => None,
        },
        channel_binding: info.channel_binding,
        end_point,
    };
    authenticate(&mut wire, &credentials).await?;
    read_parameters(wire).await
}

/// Asks for TLS (manual: "SSL Session Encryption") and shakes hands. Exactly one byte is read in clear, so nothing
/// injected before the handshake is ever taken for the server's word.
async fn encrypt(
    mut stream: TcpStream,
    info: &ConnInfo,
    host: &Host,
    encryption: Encryption,
) -> Result<Transport, PostgresError> {
    if encryption == Encryption::No {
        return Ok(Transport::Tcp(stream));
    }
    let lost = |source| PostgresError::ConnectionLost {
        operation: "ask for TLS",
        host: host.to_string(),
        source,
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(lost)?;
    match stream.read_u8().await.map_err(lost)? {
        b'S' => {}
        b'N' if encryption == Encryption::IfOffered => return Ok(Transport::Tcp(stream)),
        b'N' => {
            return Err(PostgresError::TlsRefused {
                host: host.to_string(),
                sslmode: info.tls.mode.word(),
            });
        }
        other => {
            let problem = format!("byte {other:#04x} in answer to SSLRequest");
            return Err(PostgresError::Protocol {
                operation: OPERATION,
                problem,
            });
        }
    }
    let settings = tls::handshake_settings(&info.tls)?;
    let started = start_tls(stream, &host.name().unwrap_or_default(), &settings).await;
    started.map_err(|error| match error {
        TlsStartError::File(error) => tls::file_error(error),
        TlsStartError::Handshake(source) => PostgresError::Tls {
            host: host.to_string(),
            source,
        },
    })
}

fn send_startup(wire: &mut Wire, info: &ConnInfo, purpose: Purpose) -> Result<(), PostgresError> {
    let mut parameters = vec![("user", info.user.as_str()), ("client_encoding", "UTF8")];
    match purpose {
        Purpose::Sql => parameters.push(("database", &info.dbname)),
        // The name is not used; pg_receivewal sends this one.
        Purpose::Replication => parameters.extend([("database", "replication"), ("replication", "true")]),
    }
    if let Some(name) = &info.application_name {
        parameters.push(("application_name", name));
    }
    if let Some(options) = &info.options {
        parameters.push(("options", options));
    }
    frontend::startup_message(parameters, wire.queue()).map_err(|error| PostgresError::Auth {
        user: info.user.clone(),
        host: wire.host().to_owned(),
        problem: error.to_string(),
    })
}

/// Replication connections go by the database name `replication` in the password file; the real database's line
/// serves them too, since it is the same user's password.
async fn password_from_file(info: &ConnInfo, host: &Host, purpose: Purpose) -> Lookup {
    let Some(path) = info.passfile.clone().filter(|_| info.password.is_none()) else {
        return Lookup::NotFound;
    };
    let (user, dbname, port) = (info.user.clone(), info.dbname.clone(), host.port);
    let hosts = match &host.address {
        HostAddress::SocketDirectory(directory) => {
            let mut names = vec![directory.display().to_string()];
            if is_default_socket_directory(directory) {
                names.push("localhost".to_owned());
            }
            names
        }
        _ => host.name().into_iter().collect(),
    };
    let looked_up = tokio::task::spawn_blocking(move || {
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let databases: &[&str] = match purpose {
            Purpose::Sql => &[&dbname],
            Purpose::Replication => &["replication", &dbname],
        };
        look_up(
            &path,
            Wanted {
                hosts: &hosts,
                port,
                databases,
                user: &user,
            },
        )
    });
    looked_up
        .await
        .unwrap_or_else(|error| Lookup::Ignored(error.to_string()))
}

async fn read_parameters(mut wire: Wire) -> Result<Session, PostgresError> {
    let mut parameters = BTreeMap::new();
    let mut backend_key = Bytes::new();
    loop {
        match wire.receive(OPERATION).await? {
            Message::ParameterStatus(name, value) => {
                parameters.insert(name, value);
            }
            Message::BackendKeyData(key) => backend_key = key,
            Message::ReadyForQuery => break,
            Message::Error(error) => {
                return Err(PostgresError::Server {
                    operation: format!("connect to {}", wire.host()),
                    error,
                });
            }
            Message::Notice(_) | Message::Other(b'v') => {}
            other => return Err(wire.unexpected(OPERATION, &other)),
        }
    }
    let found = parameters.get("server_version").cloned().unwrap_or_default();
    match ServerVersion::parse(&found) {
        Some(version) if version >= ServerVersion::OLDEST => Ok(Session {
            wire,
            parameters,
            backend_key,
            version,
        }),
        _ => Err(PostgresError::UnsupportedVersion { found, needed: "13" }),
    }
}

/// What `target_session_attrs` goes by.
struct Kind {
    in_recovery: bool,
    read_only: bool,
}

async fn check_kind(
    session: &mut Session,
    target: TargetSessionAttrs,
    limit: Option<Duration>,
) -> Result<(), PostgresError> {
    if target == TargetSessionAttrs::Any {
        return Ok(());
    }
    let kind = kind_of(session, limit).await?;
    let (fits, found) = match target {
        TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby => return Ok(()),
        TargetSessionAttrs::ReadWrite => (!kind.read_only, "read-only"),
        TargetSessionAttrs::ReadOnly => (kind.read_only, "read-write"),
        TargetSessionAttrs::Primary => (!kind.in_recovery, "a standby"),
        TargetSessionAttrs::Standby => (kind.in_recovery, "a primary"),
    };
    if fits {
        return Ok(());
    }
    Err(PostgresError::WrongKind {
        host: session.wire.host().to_owned(),
        wanted: target.word(),
        found,
    })
}

/// Servers from 14 on report both settings. 13 is asked for `transaction_read_only`, which a standby always has: on a
/// replication connection no better question exists, so there a read-only primary counts as a standby.
async fn kind_of(session: &mut Session, limit: Option<Duration>) -> Result<Kind, PostgresError> {
    let is_on = |name: &str| session.parameters.get(name).map(|value| value == "on");
    if let (Some(in_recovery), Some(read_only)) =
        (is_on("in_hot_standby"), is_on("default_transaction_read_only"))
    {
        return Ok(Kind {
            in_recovery,
            read_only: read_only || in_recovery,
        });
    }
    let limit = limit.unwrap_or(ConnInfo::DEFAULT_CONNECT_TIMEOUT);
    let rows = simple_query(
        &mut session.wire,
        "SHOW transaction_read_only",
        "ask the server's kind",
        limit,
    )
    .await?;
    let read_only = rows.first().and_then(|row| row.text(0)) == Some("on");
    Ok(Kind {
        in_recovery: read_only,
        read_only,
    })
}

/// Runs one command in the simple protocol and collects its rows. `limit` bounds the wait for each message.
///
/// After a server's error the connection is ready again; after any other error it is not to be used.
pub(crate) async fn simple_query(
    wire: &mut Wire,
    command: &str,
    operation: &'static str,
    limit: Duration,
) -> Result<Vec<Row>, PostgresError> {
    frontend::query(command, wire.queue()).map_err(|error| wire.protocol(operation, error.to_string()))?;
    let mut rows = Vec::new();
    let mut failure = None;
    loop {
        match wire.receive_within(operation, limit).await? {
            Message::DataRow(row) => rows.push(row),
            Message::Error(error) => {
                let fatal = matches!(error.severity.as_str(), "FATAL" | "PANIC");
                failure = Some(PostgresError::Server {
                    operation: operation.to_owned(),
                    error,
                });
                if fatal {
                    break;
                }
            }
            Message::ReadyForQuery => break,
            Message::RowDescription(_)
            | Message::CommandComplete(_)
            | Message::ParameterStatus(..)
            | Message::Notice(_)
            | Message::Other(_) => {}
            other => return Err(wire.unexpected(operation, &other)),
        }
    }
    failure.map_or(Ok(rows), Err)
}
