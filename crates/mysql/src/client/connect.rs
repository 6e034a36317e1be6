//! From settings to a session: which host, with or without TLS, the handshake, and whether the server is the source.

use std::io;
use std::net::SocketAddr;

use tidemark_net::{Roots, TlsSettings, TlsStartError, Transport, dial_tcp, start_tls};
use tokio::time::{Instant, timeout_at};

use super::auth::{Credentials, authenticate, refusal};
use super::greeting::{Greeting, NoGreeting, ServerVersion, capability};
use super::options::{ConnectOptions, Host, SslMode, TlsOptions};
use super::text_result::run;
use super::wire::Wire;
use crate::error::MysqlError;

pub(super) const OPERATION: &str = "connect";

/// A connection that is ready for commands.
#[derive(Debug)]
pub(super) struct Session {
    pub wire: Wire,
    pub version: ServerVersion,
    pub connection_id: u32,
}

/// Connects to the first host that serves and is the source, where one is asked for.
///
/// A server that turns the user or the password down ends the search; one that cannot be reached, is starting, full, or a
/// replica does not.
pub(super) async fn connect(options: &ConnectOptions) -> Result<Session, MysqlError> {
    let mut attempts = Vec::new();
    for host in &options.hosts {
        match connect_host(options, host).await {
            Ok(session) => return Ok(session),
            Err(error) if may_try_next(&error) => attempts.push(error),
            Err(error) => return Err(error),
        }
    }
    match attempts.len() {
        1 => Err(attempts.remove(0)),
        _ => Err(MysqlError::NoHost { attempts }),
    }
}

fn may_try_next(error: &MysqlError) -> bool {
    match error {
        MysqlError::Server { error, .. } => error.class().is_transient(),
        MysqlError::Auth { .. } | MysqlError::TlsFile(_) => false,
        _ => true,
    }
}

/// One host: all addresses of its name.
async fn connect_host(options: &ConnectOptions, host: &Host) -> Result<Session, MysqlError> {
    let mut last_error = MysqlError::Resolve {
        host: host.to_string(),
        source: io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
    };
    for address in addresses(options, host).await? {
        let deadline = Instant::now() + options.connect_timeout;
        let attempt = async {
            let transport = dial(options, host, address).await?;
            let mut session = greet(options, host, transport, deadline).await?;
            if options.source_only {
                check_writable(&mut session, deadline).await?;
            }
            Ok(session)
        };
        match timeout_at(deadline, attempt).await {
            Ok(Err(error @ (MysqlError::Connect { .. } | MysqlError::Timeout { .. }))) => last_error = error,
            Ok(result) => return result,
            Err(_) => {
                last_error = MysqlError::Timeout {
                    operation: OPERATION,
                    host: host.to_string(),
                    after: options.connect_timeout,
                };
            }
        }
    }
    Err(last_error)
}

/// The addresses behind a host; one `None` for a socket.
async fn addresses(options: &ConnectOptions, host: &Host) -> Result<Vec<Option<SocketAddr>>, MysqlError> {
    let Host::Tcp { name, port } = host else {
        return Ok(vec![None]);
    };
    let look_up = tokio::net::lookup_host((name.as_str(), *port));
    match tokio::time::timeout(options.connect_timeout, look_up).await {
        Ok(Ok(found)) => Ok(found.map(Some).collect()),
        Ok(Err(source)) => Err(MysqlError::Resolve {
            host: name.clone(),
            source,
        }),
        Err(_) => Err(MysqlError::Timeout {
            operation: "look up host",
            host: host.to_string(),
            after: options.connect_timeout,
        }),
    }
}

async fn dial(
    options: &ConnectOptions,
    host: &Host,
    address: Option<SocketAddr>,
) -> Result<Transport, MysqlError> {
    let dialled = match (host, address) {
        (Host::Socket(path), _) => Transport::dial_unix(path).await,
        (_, Some(address)) => dial_tcp(address, &options.keepalives).await.map(Transport::Tcp),
        (_, None) => Err(io::ErrorKind::AddrNotAvailable.into()),
    };
    dialled.map_err(|source| MysqlError::Connect {
        host: host.to_string(),
        source,
    })
}

/// The handshake (manual: "Connection Phase").
async fn greet(
    options: &ConnectOptions,
    host: &Host,
    transport: Transport,
    deadline: Instant,
) -> Result<Session, MysqlError> {
    let mut wire = Wire::new(transport, host.to_string());
    let payload = wire.receive(OPERATION, deadline).await?;
    if let Some((&0xFF, content)) = payload.split_first() {
        return Err(refusal(&wire, content));
    }
    let greeting = Greeting::read(&payload).map_err(|error| match error {
        NoGreeting::Malformed => MysqlError::Protocol {
            operation: OPERATION,
            problem: "no greeting of MySQL's protocol; is it a MySQL or MariaDB server's port?".to_owned(),
        },
        NoGreeting::Version(found) => MysqlError::UnsupportedVersion { found },
    })?;
    if !greeting.version.is_supported() {
        let found = greeting.version.text;
        return Err(MysqlError::UnsupportedVersion { found });
    }
    let tls = wants_tls(&options.tls, host, &greeting)?;
    if tls {
        wire.queue(OPERATION, &greeting.response_front(true))?;
        wire.send(OPERATION).await?;
        wire = encrypt(wire, options, host).await?;
    }
    let who = Credentials {
        user: &options.user,
        password: options.password.as_ref().map_or("", |password| password.expose()),
    };
    let method = greeting.method.clone();
    // A plugin that is not spoken may be the server's default only, and not this account's: the server will say.
    let answer = method
        .answer(who.password, wire.transport().is_private())
        .unwrap_or_default();
    let response = greeting.response(tls, who.user, &method.plugin, &answer);
    wire.queue(OPERATION, &response.unwrap_or_default())?;
    authenticate(&mut wire, &who, method, deadline).await?;
    Ok(Session {
        wire,
        version: greeting.version,
        connection_id: greeting.connection_id,
    })
}

fn wants_tls(tls: &TlsOptions, host: &Host, greeting: &Greeting) -> Result<bool, MysqlError> {
    let is_offered = greeting.capabilities & capability::SSL != 0;
    match (host, tls.mode) {
        (Host::Socket(_), _) | (_, SslMode::Disabled) => Ok(false),
        (_, SslMode::Preferred) => Ok(is_offered),
        _ if is_offered => Ok(true),
        (_, mode) => Err(MysqlError::TlsRefused {
            host: host.to_string(),
            mode: mode.word(),
        }),
    }
}

async fn encrypt(wire: Wire, options: &ConnectOptions, host: &Host) -> Result<Wire, MysqlError> {
    let Some((Transport::Tcp(stream), sequence)) = wire.into_transport() else {
        // Whoever injects something before the handshake is not to be taken for the server behind it.
        return Err(MysqlError::Protocol {
            operation: OPERATION,
            problem: "bytes before TLS has begun".to_owned(),
        });
    };
    let name = match host {
        Host::Tcp { name, .. } => name.as_str(),
        Host::Socket(_) => "",
    };
    let transport = start_tls(stream, name, &handshake_settings(&options.tls))
        .await
        .map_err(|error| match error {
            TlsStartError::File(error) => MysqlError::TlsFile(error),
            TlsStartError::Handshake(source) => MysqlError::Tls {
                host: host.to_string(),
                source,
            },
        })?;
    let mut wire = Wire::new(transport, host.to_string());
    wire.set_sequence(sequence);
    Ok(wire)
}

/// MySQL's meaning of `ssl-mode`: only the modes that verify look at the certificate.
fn handshake_settings(tls: &TlsOptions) -> TlsSettings {
    let verifies = matches!(tls.mode, SslMode::VerifyCa | SslMode::VerifyIdentity);
    TlsSettings {
        roots: match &tls.ca {
            _ if !verifies => Roots::Anybody,
            Some(path) => Roots::File(path.clone()),
            None => Roots::System,
        },
        check_name: tls.mode == SslMode::VerifyIdentity,
        client: tls.client.clone(),
        sni: true,
    }
}

async fn check_writable(session: &mut Session, deadline: Instant) -> Result<(), MysqlError> {
    let operation = "ask whether the server takes writes";
    let rows = run(
        &mut session.wire,
        operation,
        "SELECT @@GLOBAL.read_only AS v",
        deadline,
    )
    .await?;
    // MariaDB 12 has words for it.
    let takes_writes = rows
        .first()
        .and_then(|row| row.text("v"))
        .is_some_and(|word| word == "0" || word.eq_ignore_ascii_case("OFF"));
    if takes_writes {
        return Ok(());
    }
    Err(MysqlError::ReadOnly {
        host: session.wire.host().to_owned(),
    })
}
