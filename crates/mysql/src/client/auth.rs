//! Authentication (manual: "Authentication Method"): what a plugin wants to be answered.
//!
//! Left out: PAM and LDAP, Kerberos, FIDO, MariaDB's parsec, and the methods that MySQL 9 has dropped. Their accounts are told what
//! to use instead.

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use tidemark_types::ByteReader;
use tokio::time::Instant;

use super::connect::OPERATION;
use super::rsa;
use super::wire::Wire;
use crate::error::{MysqlError, ServerError};

/// The length of a challenge; the server puts a NUL behind it.
const CHALLENGE_BYTES: usize = 20;

const NATIVE: &str = "mysql_native_password";
const CACHING_SHA2: &str = "caching_sha2_password";
/// Older than the one above. Servers from 8.4 on ask for it when they do not know the user, so as not to tell.
const SHA256_PLUGIN: &str = "sha256_password";
/// These ask nothing of the client: the server looks at who is behind the socket (MySQL's and MariaDB's name), or lets in.
const ASK_NOTHING: [&str; 2] = ["auth_socket", "unix_socket"];

/// Who wants in.
pub(super) struct Credentials<'a> {
    pub user: &'a str,
    /// Empty: none.
    pub password: &'a str,
}

/// A plugin and its challenge, as the server names them at first or when it switches.
#[derive(Debug, Clone)]
pub(super) struct Method {
    pub plugin: String,
    pub challenge: Vec<u8>,
}

impl Method {
    /// `challenge` may end with a NUL.
    pub fn new(plugin: &[u8], challenge: &[u8]) -> Method {
        let challenge = challenge.get(..CHALLENGE_BYTES).unwrap_or(challenge);
        Method {
            plugin: String::from_utf8_lossy(plugin).into_owned(),
            challenge: challenge.to_vec(),
        }
    }

    /// The first answer; `None` for a plugin that is not spoken. `is_private`: nobody can listen.
    pub fn answer(&self, password: &str, is_private: bool) -> Option<Vec<u8>> {
        /// Asks for the server's public key.
        const SEND_KEY: u8 = 1;

        match self.plugin.as_str() {
            plugin if ASK_NOTHING.contains(&plugin) => Some(Vec::new()),
            NATIVE | CACHING_SHA2 if password.is_empty() => Some(Vec::new()),
            NATIVE => Some(native_answer(password, &self.challenge)),
            CACHING_SHA2 => Some(sha2_answer(password, &self.challenge)),
            SHA256_PLUGIN if is_private || password.is_empty() => Some(with_nul(password)),
            SHA256_PLUGIN => Some(vec![SEND_KEY]),
            _ => None,
        }
    }
}

/// SHA1(password) xor SHA1(challenge, SHA1(SHA1(password))) (`scramble` in `password.c`).
fn native_answer(password: &str, challenge: &[u8]) -> Vec<u8> {
    let sha1 = |bytes: &[u8]| digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes);
    let once = sha1(password.as_bytes());
    let twice = sha1(once.as_ref());
    xor(
        once.as_ref(),
        sha1(&[challenge, twice.as_ref()].concat()).as_ref(),
    )
}

/// SHA256(password) xor SHA256(SHA256(SHA256(password)), challenge) (`generate_sha256_scramble`).
fn sha2_answer(password: &str, challenge: &[u8]) -> Vec<u8> {
    let sha2 = |bytes: &[u8]| digest(&SHA256, bytes);
    let once = sha2(password.as_bytes());
    let twice = sha2(once.as_ref());
    xor(
        once.as_ref(),
        sha2(&[twice.as_ref(), challenge].concat()).as_ref(),
    )
}

fn with_nul(password: &str) -> Vec<u8> {
    password.bytes().chain([0]).collect()
}

/// `bytes` under `mask`, which begins anew at its end.
fn xor(bytes: &[u8], mask: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .zip(mask.iter().cycle())
        .map(|(a, b)| a ^ b)
        .collect()
}

/// Goes on from the first answer until the server is content.
pub(super) async fn authenticate(
    wire: &mut Wire,
    who: &Credentials<'_>,
    mut method: Method,
    deadline: Instant,
) -> Result<(), MysqlError> {
    const OK: u8 = 0x00;
    const MORE: u8 = 0x01;
    const SWITCH: u8 = 0xFE;
    const ERROR: u8 = 0xFF;

    // A server switches once, and asks for more at most twice.
    for _ in 0..8 {
        let reply = wire.receive(OPERATION, deadline).await?;
        match reply.split_first() {
            Some((&OK, _)) => return Ok(()),
            Some((&ERROR, content)) => return Err(refusal(wire, content)),
            Some((&SWITCH, content)) => {
                method = read_switch(content).ok_or_else(|| {
                    let plugin = if content.is_empty() {
                        "mysql_old_password"
                    } else {
                        "of a form"
                    };
                    unspoken(wire, who, plugin)
                })?;
                let answer = method
                    .answer(who.password, wire.transport().is_private())
                    .ok_or_else(|| unspoken(wire, who, &method.plugin))?;
                wire.queue(OPERATION, &answer)?;
            }
            Some((&MORE, content)) => match method.plugin.as_str() {
                CACHING_SHA2 => answer_caching_sha2(wire, who, &method, content)?,
                SHA256_PLUGIN => answer_sealed(wire, who, &method, content)?,
                _ => break,
            },
            _ => break,
        }
    }
    Err(MysqlError::Protocol {
        operation: OPERATION,
        problem: format!("an exchange that is none of {}", method.plugin),
    })
}

fn read_switch(content: &[u8]) -> Option<Method> {
    let mut reader = ByteReader::new(content);
    let plugin = reader.c_string()?;
    Some(Method::new(plugin, reader.rest()))
}

/// What the server asks beyond the first answer (`caching_sha2_password_authenticate`).
fn answer_caching_sha2(
    wire: &mut Wire,
    who: &Credentials<'_>,
    method: &Method,
    asked: &[u8],
) -> Result<(), MysqlError> {
    const KNOWN: &[u8] = &[3];
    const FULL: &[u8] = &[4];
    const SEND_KEY: &[u8] = &[2];

    match asked {
        // The server has the password's hash in its cache, and says OK next.
        KNOWN => Ok(()),
        FULL if wire.transport().is_private() => wire.queue(OPERATION, &with_nul(who.password)),
        FULL => wire.queue(OPERATION, SEND_KEY),
        pem => answer_sealed(wire, who, method, pem),
    }
}

/// The password under the server's public key.
fn answer_sealed(
    wire: &mut Wire,
    who: &Credentials<'_>,
    method: &Method,
    pem: &[u8],
) -> Result<(), MysqlError> {
    let secret = xor(&with_nul(who.password), &method.challenge);
    let sealed = rsa::encrypt(pem, &secret).map_err(|problem| MysqlError::Protocol {
        operation: OPERATION,
        problem: format!("a public key that {problem}"),
    })?;
    wire.queue(OPERATION, &sealed)
}

pub(super) fn refusal(wire: &Wire, content: &[u8]) -> MysqlError {
    let operation = format!("connect to {}", wire.host());
    match ServerError::read(content) {
        Some(error) => MysqlError::Server { operation, error },
        None => MysqlError::Protocol {
            operation: OPERATION,
            problem: "an error without a number".to_owned(),
        },
    }
}

fn unspoken(wire: &Wire, who: &Credentials<'_>, plugin: &str) -> MysqlError {
    MysqlError::Auth {
        user: who.user.to_owned(),
        host: wire.host().to_owned(),
        problem: format!(
            "the account's authentication plugin '{plugin}' is not spoken; ALTER USER … IDENTIFIED WITH {CACHING_SHA2} \
             (MySQL) or VIA {NATIVE} (MariaDB), or give the agent an account of its own"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the servers' own words: what they store, and how they check (`check_scramble`).
    #[test]
    fn answers_prove_the_password_without_telling_it() {
        let challenge: Vec<u8> = (1..=20).collect();
        let method = |plugin: &str| Method::new(plugin.as_bytes(), &[&challenge[..], b"\0"].concat());
        let sha1 = |bytes: &[u8]| digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec();
        let sha2 = |bytes: &[u8]| digest(&SHA256, bytes).as_ref().to_vec();

        let stored = sha1(&sha1(b"sesame"));
        let answer = method(NATIVE).answer("sesame", false).unwrap();
        let once = xor(&answer, &sha1(&[&challenge[..], &stored].concat()));
        assert_eq!(sha1(&once), stored);

        let stored = sha2(&sha2(b"sesame"));
        let answer = method(CACHING_SHA2).answer("sesame", false).unwrap();
        let once = xor(&answer, &sha2(&[&stored[..], &challenge].concat()));
        assert_eq!(sha2(&once), stored);

        for plugin in [NATIVE, CACHING_SHA2] {
            assert_eq!(method(plugin).answer("", false), Some(Vec::new()));
        }
        assert_eq!(method("unix_socket").answer("sesame", false), Some(Vec::new()));
        let sha256 = |is_private| method(SHA256_PLUGIN).answer("sesame", is_private);
        assert_eq!(sha256(true), Some(b"sesame\0".to_vec()));
        assert_eq!(sha256(false), Some(vec![1]));
        assert_eq!(method("dialog").answer("sesame", false), None);
    }
}
