//! Connection settings: `mysql://user@host:port,host2:port2/?key=value&…`, checked before anything is dialled.
//!
//! Keys are the words of MySQL's own client: `ssl-mode`, `ssl-ca`, `ssl-cert`, `ssl-key`, `socket`, `connect-timeout` (seconds);
//! and `target` (`source` or `any`), our own. Option files are not read.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tidemark_net::{ClientCertificate, Keepalives};
use tidemark_types::Secret;

/// Settings that make no sense. No variant repeats a value that could be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Not such a URL.
    #[error("server URL: {problem}")]
    Syntax {
        /// What is wrong, and what would do.
        problem: &'static str,
    },
    /// A key that means nothing here.
    #[error(
        "server URL: setting '{key}' is unknown (known are ssl-mode, ssl-ca, ssl-cert, ssl-key, socket, connect-timeout, target)"
    )]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// A value that the key cannot have.
    #[error("server URL: {key}={value} is not valid, expected {expected}")]
    InvalidValue {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What would do.
        expected: &'static str,
    },
}

/// How much TLS is wanted (manual: "Command Options for Encrypted Connections"). A socket never has any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// None.
    Disabled,
    /// Where the server offers it.
    Preferred,
    /// Encrypted; the certificate is not looked at.
    Required,
    /// The certificate must come from a root.
    VerifyCa,
    /// As before, and it must name the host.
    VerifyIdentity,
}

impl SslMode {
    const ALL: [SslMode; 5] = [
        SslMode::Disabled,
        SslMode::Preferred,
        SslMode::Required,
        SslMode::VerifyCa,
        SslMode::VerifyIdentity,
    ];

    /// MySQL's word for it.
    pub fn word(self) -> &'static str {
        match self {
            SslMode::Disabled => "DISABLED",
            SslMode::Preferred => "PREFERRED",
            SslMode::Required => "REQUIRED",
            SslMode::VerifyCa => "VERIFY_CA",
            SslMode::VerifyIdentity => "VERIFY_IDENTITY",
        }
    }
}

/// All that concerns TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// How much of it.
    pub mode: SslMode,
    /// The file of trusted roots, for the modes that verify; without one the operating system's are trusted.
    pub ca: Option<PathBuf>,
    /// Who we are.
    pub client: Option<ClientCertificate>,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name or address, and a port.
    Tcp {
        /// Without the brackets of an IPv6 address.
        name: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Socket(PathBuf),
}

/// `host:port`, or the socket's path.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Tcp { name, port } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Host::Tcp { name, port } => write!(f, "{name}:{port}"),
            Host::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Checked connection settings. Their `Debug` form hides the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// The hosts, in the order to try; never empty.
    pub hosts: Vec<Host>,
    /// Who connects.
    pub user: String,
    /// The password, from a file or the environment.
    pub password: Option<Secret>,
    /// TLS, for hosts that are no sockets.
    pub tls: TlsOptions,
    /// How long one address may take, authentication included.
    pub connect_timeout: Duration,
    /// Whether a server that is `read_only` is passed over. By default where several hosts are named: one of them is the
    /// source, and which one changes.
    pub source_only: bool,
    /// How a peer that went away without a word is noticed.
    pub keepalives: Keepalives,
}

impl ConnectOptions {
    const DEFAULT_PORT: u16 = 3306;
    const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
    /// A peer that is gone is given up after about a minute.
    const KEEPALIVES: Keepalives = Keepalives {
        enabled: true,
        idle: Some(Duration::from_secs(30)),
        interval: Some(Duration::from_secs(10)),
        count: Some(3),
        user_timeout: None,
    };

    /// Settings for a unix socket.
    pub fn socket(path: impl Into<PathBuf>, user: impl Into<String>) -> ConnectOptions {
        ConnectOptions {
            hosts: vec![Host::Socket(path.into())],
            user: user.into(),
            password: None,
            tls: TlsOptions {
                mode: SslMode::Preferred,
                ca: None,
                client: None,
            },
            connect_timeout: ConnectOptions::DEFAULT_CONNECT_TIMEOUT,
            source_only: false,
            keepalives: ConnectOptions::KEEPALIVES,
        }
    }

    /// Reads a URL; `mariadb://` does as well. A password is no part of it: see [`ConnectOptions::with_password`].
    ///
    /// # Errors
    /// Any of [`OptionsError`].
    pub fn parse(url: &str) -> Result<ConnectOptions, OptionsError> {
        let syntax = |problem| OptionsError::Syntax { problem };
        let rest = ["mysql://", "mariadb://"]
            .into_iter()
            .find_map(|scheme| url.strip_prefix(scheme))
            .ok_or(syntax("expected mysql://USER@HOST:PORT"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        if !database.is_empty() {
            return Err(syntax(
                "names a database; all of a server is protected, leave it out",
            ));
        }
        let (user, hosts) = authority
            .rsplit_once('@')
            .ok_or(syntax("names no user; expected mysql://USER@HOST:PORT"))?;
        if user.contains(':') {
            return Err(syntax(
                "holds a password; give it by password_file or the environment, where nobody sees it",
            ));
        }
        let user = percent_decode(user)?;
        if user.is_empty() {
            return Err(syntax("names no user; expected mysql://USER@HOST:PORT"));
        }
        let mut options = ConnectOptions::socket("", user);
        options.hosts = hosts
            .split(',')
            .filter(|host| !host.is_empty())
            .map(parse_host)
            .collect::<Result<_, _>>()?;
        options.source_only = options.hosts.len() > 1;
        options.read_settings(query)?;
        if options.hosts.is_empty() {
            return Err(syntax(
                "names neither host nor socket; expected mysql://USER@HOST:PORT",
            ));
        }
        Ok(options)
    }

    /// These settings with a password.
    pub fn with_password(mut self, password: Secret) -> ConnectOptions {
        self.password = Some(password);
        self
    }

    fn read_settings(&mut self, query: &str) -> Result<(), OptionsError> {
        let (mut certificate, mut key_file) = (None, None);
        for setting in query.split('&').filter(|setting| !setting.is_empty()) {
            let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
            let value = percent_decode(value)?;
            match key {
                "ssl-mode" => self.tls.mode = parse_mode(&value)?,
                "ssl-ca" => self.tls.ca = Some(value.into()),
                "ssl-cert" => certificate = Some(PathBuf::from(value)),
                "ssl-key" => key_file = Some(PathBuf::from(value)),
                "connect-timeout" => self.connect_timeout = parse_seconds(&value)?,
                "target" => self.source_only = parse_target(&value)?,
                "socket" => self.set_socket(value)?,
                "password" => {
                    return Err(OptionsError::Syntax {
                        problem: "holds a password; give it by password_file or the environment, where nobody sees it",
                    });
                }
                _ => return Err(OptionsError::UnknownKey { key: key.to_owned() }),
            }
        }
        self.tls.client = match (certificate, key_file) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
            _ => {
                return Err(OptionsError::Syntax {
                    problem: "has one of ssl-cert and ssl-key; both are needed",
                });
            }
        };
        Ok(())
    }

    /// A socket stands for the one host that may be named beside it, `localhost`.
    fn set_socket(&mut self, path: String) -> Result<(), OptionsError> {
        let is_local = |host: &Host| matches!(host, Host::Tcp { name, .. } if name == "localhost");
        if self.hosts.len() > 1 || !self.hosts.iter().all(is_local) {
            return Err(OptionsError::Syntax {
                problem: "has a socket beside other hosts than localhost",
            });
        }
        self.hosts = vec![Host::Socket(path.into())];
        Ok(())
    }
}

fn parse_host(text: &str) -> Result<Host, OptionsError> {
    let (name, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, rest)) => (address, Some(rest.strip_prefix(':').unwrap_or_default())),
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        None => ConnectOptions::DEFAULT_PORT,
        Some(text) => text.parse().map_err(|_| OptionsError::InvalidValue {
            key: "port",
            value: text.to_owned(),
            expected: "a number up to 65535",
        })?,
    };
    Ok(Host::Tcp {
        name: percent_decode(name)?,
        port,
    })
}

fn parse_mode(value: &str) -> Result<SslMode, OptionsError> {
    SslMode::ALL
        .into_iter()
        .find(|mode| mode.word().eq_ignore_ascii_case(value))
        .ok_or_else(|| OptionsError::InvalidValue {
            key: "ssl-mode",
            value: value.to_owned(),
            expected: "DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY",
        })
}

fn parse_seconds(value: &str) -> Result<Duration, OptionsError> {
    match value.parse() {
        Ok(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds)),
        _ => Err(OptionsError::InvalidValue {
            key: "connect-timeout",
            value: value.to_owned(),
            expected: "1 to 3600 seconds",
        }),
    }
}

fn parse_target(value: &str) -> Result<bool, OptionsError> {
    match value {
        "source" => Ok(true),
        "any" => Ok(false),
        _ => Err(OptionsError::InvalidValue {
            key: "target",
            value: value.to_owned(),
            expected: "source or any",
        }),
    }
}

fn percent_decode(text: &str) -> Result<String, OptionsError> {
    let invalid = || OptionsError::Syntax {
        problem: "holds a % that begins no encoded character",
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit().and_then(|high| Some(high << 4 | digit()?));
        bytes.push(
            value
                .and_then(|value| u8::try_from(value).ok())
                .ok_or_else(invalid)?,
        );
    }
    String::from_utf8(bytes).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(name: &str, port: u16) -> Host {
        Host::Tcp {
            name: name.to_owned(),
            port,
        }
    }

    #[test]
    fn a_url_says_who_where_and_how() {
        let options = ConnectOptions::parse(
            "mysql://tide%40mark@db1:3307,[::1],db3/?ssl-mode=verify_ca&ssl-ca=/etc/ca%20.pem&connect-timeout=3",
        )
        .unwrap();
        assert_eq!(options.user, "tide@mark");
        assert_eq!(
            options.hosts,
            [tcp("db1", 3307), tcp("::1", 3306), tcp("db3", 3306)]
        );
        assert_eq!(options.hosts[1].to_string(), "[::1]:3306");
        assert_eq!(options.tls.mode, SslMode::VerifyCa);
        assert_eq!(options.tls.ca, Some(PathBuf::from("/etc/ca .pem")));
        assert_eq!(options.connect_timeout, Duration::from_secs(3));
        assert!(options.source_only);
        let options = ConnectOptions::parse("mariadb://u@h").unwrap();
        assert_eq!(options.hosts, [tcp("h", 3306)]);
        assert_eq!(options.tls.mode, SslMode::Preferred);
        assert!(!options.source_only);
        let options = ConnectOptions::parse("mysql://u@localhost/?socket=/run/s").unwrap();
        assert_eq!(options.hosts, [Host::Socket("/run/s".into())]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_no_password_is_repeated() {
        for (url, expected) in [
            ("postgresql://u@h", "server URL: expected mysql://USER@HOST:PORT"),
            ("mysql://h", "server URL: names no user"),
            ("mysql://@h", "server URL: names no user"),
            ("mysql://u@", "server URL: names neither host nor socket"),
            (
                "mysql://u:sesame@h",
                "server URL: holds a password; give it by password_file",
            ),
            ("mysql://u@h/?password=sesame", "server URL: holds a password"),
            ("mysql://u@h/shop", "server URL: names a database"),
            (
                "mysql://u@h:x",
                "server URL: port=x is not valid, expected a number up to 65535",
            ),
            ("mysql://u@[::1]3", "server URL: port= is not valid"),
            (
                "mysql://u@h/?ssl-mode=verify",
                "server URL: ssl-mode=verify is not valid, expected DISABLED",
            ),
            (
                "mysql://u@h/?sslmode=require",
                "server URL: setting 'sslmode' is unknown",
            ),
            (
                "mysql://u@h/?ssl-cert=/c",
                "server URL: has one of ssl-cert and ssl-key",
            ),
            (
                "mysql://u@h/?socket=/s",
                "server URL: has a socket beside other hosts",
            ),
            ("mysql://u%4@h", "server URL: holds a %"),
            (
                "mysql://u@h/?target=primary",
                "server URL: target=primary is not valid",
            ),
        ] {
            let text = ConnectOptions::parse(url).unwrap_err().to_string();
            assert!(text.starts_with(expected), "{url}: {text}");
            assert!(!text.contains("sesame"), "{text}");
        }
        let options = ConnectOptions::parse("mysql://u@h").unwrap();
        let options = options.with_password(Secret::new("sesame"));
        assert!(!format!("{options:?}").contains("sesame"));
    }
}
