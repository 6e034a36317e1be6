//! Authentication (manual: "SASL Authentication", "Message Flow: Start-up"): SCRAM-SHA-256 with and without channel
//! binding, MD5, and a cleartext password where nobody can listen.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as Binding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;
use tidemark_types::Secret;

use super::message::{Authentication, Message};
use super::wire::Wire;
use crate::conninfo::ChannelBinding;
use crate::error::PostgresError;

const OPERATION: &str = "authenticate";

/// Who wants in.
pub(super) struct Credentials<'a> {
    pub user: &'a str,
    pub password: Option<&'a Secret>,
    /// Why a password file was not used, to be told if a password is missing.
    pub ignored_passfile: Option<&'a str>,
    pub channel_binding: ChannelBinding,
    /// `tls-server-end-point` of the channel, under TLS.
    pub end_point: Option<Vec<u8>>,
}

/// Answers the server's requests until it is content.
pub(super) async fn authenticate(wire: &mut Wire, who: &Credentials<'_>) -> Result<(), PostgresError> {
    let request = next(wire).await?;
    if who.channel_binding == ChannelBinding::Require && !matches!(request, Authentication::Sasl(_)) {
        return Err(failure(
            wire,
            who,
            "channel_binding=require, but the server does not ask for SCRAM over TLS",
        ));
    }
    match request {
        Authentication::Ok => return Ok(()),
        Authentication::CleartextPassword => {
            if !wire.transport().is_private() {
                let problem = "the server asks for the password in clear on an unencrypted connection; use TLS, or scram-sha-256 in pg_hba.conf";
                return Err(failure(wire, who, problem));
            }
            let password = password(wire, who)?.expose().to_owned();
            send(wire, who, |queue| {
                frontend::password_message(password.as_bytes(), queue)
            })?;
        }
        Authentication::Md5Password { salt } => {
            let hash = md5_hash(
                who.user.as_bytes(),
                password(wire, who)?.expose().as_bytes(),
                salt,
            );
            send(wire, who, |queue| {
                frontend::password_message(hash.as_bytes(), queue)
            })?;
        }
        Authentication::Sasl(mechanisms) => scram(wire, who, &mechanisms).await?,
        Authentication::Unsupported(method) => {
            let problem = format!(
                "the server asks for method {method} (GSSAPI, SSPI or the like), which is not spoken; use scram-sha-256 in pg_hba.conf"
            );
            return Err(failure(wire, who, &problem));
        }
        Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => {
            return Err(wire.protocol(OPERATION, "a SASL message before SASL began".to_owned()));
        }
    }
    match next(wire).await? {
        Authentication::Ok => Ok(()),
        other => Err(wire.protocol(OPERATION, format!("{other:?} instead of AuthenticationOk"))),
    }
}

async fn scram(wire: &mut Wire, who: &Credentials<'_>, offered: &[String]) -> Result<(), PostgresError> {
    let offers = |name: &str| offered.iter().any(|mechanism| mechanism == name);
    let end_point = who
        .end_point
        .clone()
        .filter(|_| who.channel_binding != ChannelBinding::Disable);
    let (binding, mechanism) = match end_point {
        Some(data) if offers(SCRAM_SHA_256_PLUS) => (Binding::tls_server_end_point(data), SCRAM_SHA_256_PLUS),
        // "y": we could have, the server did not offer it. The server checks that this is true.
        Some(_) if offers(SCRAM_SHA_256) => (Binding::unrequested(), SCRAM_SHA_256),
        None if offers(SCRAM_SHA_256) => (Binding::unsupported(), SCRAM_SHA_256),
        _ => {
            let problem = format!("the server offers only {}", offered.join(", "));
            return Err(failure(wire, who, &problem));
        }
    };
    if who.channel_binding == ChannelBinding::Require && mechanism != SCRAM_SHA_256_PLUS {
        return Err(failure(
            wire,
            who,
            "channel_binding=require, but SCRAM cannot be bound to this connection",
        ));
    }
    let mut scram = ScramSha256::new(password(wire, who)?.expose().as_bytes(), binding);
    send(wire, who, |queue| {
        frontend::sasl_initial_response(mechanism, scram.message(), queue)
    })?;
    let Authentication::SaslContinue(challenge) = next(wire).await? else {
        return Err(wire.protocol(OPERATION, "no SASL challenge".to_owned()));
    };
    scram
        .update(&challenge)
        .map_err(|error| failure(wire, who, &error.to_string()))?;
    send(wire, who, |queue| frontend::sasl_response(scram.message(), queue))?;
    let Authentication::SaslFinal(proof) = next(wire).await? else {
        return Err(wire.protocol(OPERATION, "no SASL outcome".to_owned()));
    };
    scram.finish(&proof).map_err(|error| {
        let problem = format!("the server does not prove that it knows the password: {error}");
        failure(wire, who, &problem)
    })
}

async fn next(wire: &mut Wire) -> Result<Authentication, PostgresError> {
    loop {
        match wire.receive(OPERATION).await? {
            Message::Authentication(request) => return Ok(request),
            Message::Error(error) => {
                return Err(PostgresError::Server {
                    operation: format!("connect to {}", wire.host()),
                    error,
                });
            }
            // NegotiateProtocolVersion, and notices of a login trigger or a pooler.
            Message::Notice(_) | Message::Other(b'v') => {}
            other => return Err(wire.unexpected(OPERATION, &other)),
        }
    }
}

fn send(
    wire: &mut Wire,
    who: &Credentials<'_>,
    encode: impl FnOnce(&mut bytes::BytesMut) -> std::io::Result<()>,
) -> Result<(), PostgresError> {
    // The only failure is a NUL within the text.
    encode(wire.queue()).map_err(|error| failure(wire, who, &error.to_string()))
}

fn password<'a>(wire: &Wire, who: &Credentials<'a>) -> Result<&'a Secret, PostgresError> {
    who.password.ok_or_else(|| match who.ignored_passfile {
        Some(reason) => failure(
            wire,
            who,
            &format!("the server asks for a password, and {reason}"),
        ),
        None => failure(
            wire,
            who,
            "the server asks for a password and none is given; use password_file, PGPASSWORD or ~/.pgpass",
        ),
    })
}

fn failure(wire: &Wire, who: &Credentials<'_>, problem: &str) -> PostgresError {
    PostgresError::Auth {
        user: who.user.to_owned(),
        host: wire.host().to_owned(),
        problem: problem.to_owned(),
    }
}
