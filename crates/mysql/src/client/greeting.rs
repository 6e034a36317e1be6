//! The first packet of a server, and the capabilities that we answer with (manual: "Protocol::Handshake").

use tidemark_types::ByteReader;

use super::auth::Method;
use crate::binlog::Flavor;

/// Capabilities, `CLIENT_…` in the manual.
pub(super) mod capability {
    /// MySQL: old, always set. MariaDB from 10.2 on clears it to say that it is none (`CLIENT_MYSQL`).
    pub const LONG_PASSWORD: u32 = 1;
    pub const LONG_FLAG: u32 = 1 << 2;
    pub const PROTOCOL_41: u32 = 1 << 9;
    pub const SSL: u32 = 1 << 11;
    pub const TRANSACTIONS: u32 = 1 << 13;
    pub const SECURE_CONNECTION: u32 = 1 << 15;
    pub const PLUGIN_AUTH: u32 = 1 << 19;
    pub const CONNECT_ATTRIBUTES: u32 = 1 << 20;
}

/// What we can do. Results end with EOF packets: CLIENT_DEPRECATE_EOF is left out.
const OURS: u32 = capability::LONG_PASSWORD
    | capability::LONG_FLAG
    | capability::PROTOCOL_41
    | capability::TRANSACTIONS
    | capability::SECURE_CONNECTION
    | capability::PLUGIN_AUTH;

/// Without these nobody speaks to us.
const NEEDED: u32 = capability::PROTOCOL_41 | capability::SECURE_CONNECTION | capability::PLUGIN_AUTH;

/// utf8mb4_general_ci: known to all versions of both vendors.
const CHARACTER_SET: u8 = 45;

/// The longest packet that we say we take: the greatest that there is.
const PACKET_BYTES_MAX: u32 = 1 << 30;

/// What a server says of itself.
#[derive(Debug, Clone)]
pub(super) struct Greeting {
    pub version: ServerVersion,
    pub connection_id: u32,
    pub capabilities: u32,
    pub method: Method,
}

/// A server's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerVersion {
    /// Whose server it is.
    pub flavor: Flavor,
    /// The numbers: `(9, 7, 0)`.
    pub number: (u16, u16, u16),
    /// As the server writes it, without MariaDB's `5.5.5-`.
    pub text: String,
}

impl ServerVersion {
    fn parse(text: &str, flavor: Flavor) -> Option<ServerVersion> {
        // MariaDB up to 10.x says this first, for replicas that take 10 for older than 5 (`RPL_VERSION_HACK`).
        let text = match flavor {
            Flavor::MariaDb => text.strip_prefix("5.5.5-").unwrap_or(text),
            Flavor::MySql => text,
        };
        let mut numbers = text
            .split(|c: char| !c.is_ascii_digit())
            .map(|digits| digits.parse().ok());
        let number = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(ServerVersion {
            flavor,
            number,
            text: text.to_owned(),
        })
    }

    /// Whether it is one that we speak to.
    pub(super) fn is_supported(&self) -> bool {
        let oldest = match self.flavor {
            Flavor::MySql => (8, 0, 0),
            Flavor::MariaDb => (10, 6, 0),
        };
        self.number >= oldest
    }
}

/// Why a first packet is no greeting.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoGreeting {
    /// It makes no sense, or is of another protocol.
    Malformed,
    /// Its version is none.
    Version(String),
}

impl Greeting {
    /// Reads a greeting, protocol version 10.
    pub fn read(payload: &[u8]) -> Result<Greeting, NoGreeting> {
        let mut reader = ByteReader::new(payload);
        let mut read = || {
            (reader.u8()? == 10).then_some(())?;
            let version = String::from_utf8_lossy(reader.c_string()?).into_owned();
            let connection_id = reader.u32()?;
            let mut challenge = reader.take(8)?.to_vec();
            reader.take(1)?;
            let low = reader.u16()?;
            // Character set and status.
            reader.take(1 + 2)?;
            let high = reader.u16()?;
            // The challenge's length, and what is reserved.
            reader.take(1 + 10)?;
            // The second part of the challenge: 12 bytes and a NUL.
            challenge.extend(reader.take(13)?);
            let plugin = reader.c_string()?;
            let capabilities = u32::from(low) | u32::from(high) << 16;
            (capabilities & NEEDED == NEEDED).then_some(())?;
            Some((
                version,
                connection_id,
                capabilities,
                Method::new(plugin, &challenge),
            ))
        };
        let (text, connection_id, capabilities, method) = read().ok_or(NoGreeting::Malformed)?;
        let is_mariadb = text.contains("MariaDB") || capabilities & capability::LONG_PASSWORD == 0;
        let flavor = if is_mariadb {
            Flavor::MariaDb
        } else {
            Flavor::MySql
        };
        let version = ServerVersion::parse(&text, flavor).ok_or(NoGreeting::Version(text))?;
        Ok(Greeting {
            version,
            connection_id,
            capabilities,
            method,
        })
    }

    /// What both can do, with TLS if it is to begin.
    fn shared(&self, tls: bool) -> u32 {
        let optional = self.capabilities & capability::CONNECT_ATTRIBUTES;
        let tls = if tls { capability::SSL } else { 0 };
        OURS | optional | tls
    }

    /// The front of a response; all of it, where TLS is asked for (manual: "Protocol::SSLRequest").
    pub fn response_front(&self, tls: bool) -> Vec<u8> {
        let mut front = self.shared(tls).to_le_bytes().to_vec();
        front.extend(PACKET_BYTES_MAX.to_le_bytes());
        front.push(CHARACTER_SET);
        front.extend([0; 23]);
        front
    }

    /// The response (manual: "Protocol::HandshakeResponse41"). `None` when the answer is longer than any method's.
    pub fn response(&self, tls: bool, user: &str, plugin: &str, answer: &[u8]) -> Option<Vec<u8>> {
        let mut response = self.response_front(tls);
        response.extend(user.bytes().chain([0]));
        response.push(u8::try_from(answer.len()).ok()?);
        response.extend(answer);
        response.extend(plugin.bytes().chain([0]));
        if self.shared(tls) & capability::CONNECT_ATTRIBUTES != 0 {
            response.extend(attributes());
        }
        Some(response)
    }
}

/// Who we are, for `performance_schema.session_connect_attrs`.
fn attributes() -> Vec<u8> {
    let pairs = [
        ("program_name", "tidemark"),
        ("_client_version", env!("CARGO_PKG_VERSION")),
    ];
    let mut attributes = vec![0];
    for word in pairs.into_iter().flat_map(|(key, value)| [key, value]) {
        // Words of ours, far below the 250 that one byte tells.
        attributes.push(word.len() as u8);
        attributes.extend(word.bytes());
    }
    attributes[0] = (attributes.len() - 1) as u8;
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn greeting(version: &str, capabilities: u32) -> Vec<u8> {
        let mut payload = vec![10];
        payload.extend(version.bytes().chain([0]));
        payload.extend(7_u32.to_le_bytes());
        payload.extend(b"01234567\0");
        payload.extend((capabilities as u16).to_le_bytes());
        payload.extend([45, 2, 0]);
        payload.extend(((capabilities >> 16) as u16).to_le_bytes());
        payload.extend([21; 11]);
        payload.extend(b"89abcdefghij\0mysql_native_password\0");
        payload
    }

    #[test]
    fn a_greeting_tells_vendor_version_and_challenge() {
        let read = |version, capabilities| Greeting::read(&greeting(version, capabilities));
        let mysql = read("9.7.0", NEEDED | 1).unwrap();
        assert_eq!(mysql.version.flavor, Flavor::MySql);
        assert_eq!(mysql.version.number, (9, 7, 0));
        assert_eq!(mysql.connection_id, 7);
        assert_eq!(mysql.method.challenge, b"0123456789abcdefghij");
        assert_eq!(mysql.method.plugin, "mysql_native_password");
        let mariadb = read("5.5.5-10.11.18-MariaDB-deb12-log", NEEDED).unwrap();
        assert_eq!(mariadb.version.number, (10, 11, 18));
        assert_eq!(mariadb.version.text, "10.11.18-MariaDB-deb12-log");
        assert!(mariadb.version.is_supported());
        // A vendor that hides its name is known by its capabilities.
        assert_eq!(read("11.8.2", NEEDED).unwrap().version.flavor, Flavor::MariaDb);
        assert!(!read("5.7.44-log", NEEDED | 1).unwrap().version.is_supported());
        assert!(
            !read("5.5.5-10.5.9-MariaDB", NEEDED)
                .unwrap()
                .version
                .is_supported()
        );
        assert_eq!(read("9.7.0", 1).unwrap_err(), NoGreeting::Malformed);
        assert_eq!(
            read("new", NEEDED | 1).unwrap_err(),
            NoGreeting::Version("new".to_owned())
        );
    }

    proptest! {
        #[test]
        fn any_greeting_never_panics(payload: Vec<u8>, tail: Vec<u8>) {
            let _ = Greeting::read(&payload);
            let _ = Greeting::read(&[&b"\x0a9.7.0\0"[..], &tail].concat());
        }
    }
}
