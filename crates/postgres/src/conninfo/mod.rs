//! Connection settings, as libpq reads them (manual: "Parameter Key Words"), checked before anything is dialled.
//!
//! Left out, and refused by name: `service` files, `sslnegotiation=direct`, GSSAPI, CRLs, `requirepeer`. A key that
//! libpq does not know either is an error too.

mod environment;
mod passfile;
mod settings;
mod syntax;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tidemark_types::Secret;

pub(crate) use environment::is_default_socket_directory;
pub(crate) use passfile::{Lookup, Wanted, look_up};

pub use environment::Environment;
pub use tidemark_net::{ClientCertificate, Keepalives};

/// Settings that make no sense. No variant repeats a value that could be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnInfoError {
    /// Neither a `postgresql://` URL nor `key=value` pairs.
    #[error("connection string: {problem}")]
    Syntax {
        /// What is wrong.
        problem: String,
    },
    /// A key that nobody knows.
    #[error("connection setting \"{key}\" is unknown")]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// A key or value that libpq knows and we do not.
    #[error("connection setting \"{key}\" is not supported: {problem}")]
    Unsupported {
        /// The key.
        key: String,
        /// What to do instead.
        problem: String,
    },
    /// A value that the key cannot have.
    #[error("connection setting \"{key}\": \"{value}\" is not valid, expected {expected}")]
    InvalidValue {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What would do.
        expected: &'static str,
    },
    /// As many ports as hosts are needed, or one.
    #[error("connection setting \"{key}\" has {found} entries for {hosts} hosts")]
    CountMismatch {
        /// The key with the odd number.
        key: String,
        /// Its entries.
        found: usize,
        /// The hosts.
        hosts: usize,
    },
    /// Nobody says who connects.
    #[error(
        "no user name: write one into the URL or set PGUSER (the operating system's user name cannot be found)"
    )]
    NoUser,
}

/// Where one host of the list is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostAddress {
    /// A name to be looked up.
    Name(String),
    /// A numeric address (`hostaddr`, or `host` with one); the name, where given too, is what TLS checks.
    Ip {
        /// The address to dial.
        address: IpAddr,
        /// The name that goes with it.
        name: Option<String>,
    },
    /// The directory of a Unix-domain socket.
    SocketDirectory(PathBuf),
}

/// One host of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Where.
    pub address: HostAddress,
    /// The port; for a socket the number in its file name.
    pub port: u16,
}

impl Host {
    /// The socket's file, for a socket.
    pub fn socket_path(&self) -> Option<PathBuf> {
        match &self.address {
            HostAddress::SocketDirectory(directory) => {
                Some(directory.join(format!(".s.PGSQL.{}", self.port)))
            }
            _ => None,
        }
    }

    /// The name that certificates and password files go by; `None` for a socket.
    pub fn name(&self) -> Option<String> {
        match &self.address {
            HostAddress::Name(name) => Some(name.clone()),
            HostAddress::Ip { address, name } => Some(name.clone().unwrap_or_else(|| address.to_string())),
            HostAddress::SocketDirectory(_) => None,
        }
    }
}

/// `host:port`, or the socket's path.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.socket_path(), self.name()) {
            (Some(path), _) => write!(f, "{}", path.display()),
            (None, Some(name)) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            (None, name) => write!(f, "{}:{}", name.unwrap_or_default(), self.port),
        }
    }
}

/// Declares an enum whose values are libpq's words.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $expected:literal { $($(#[$vmeta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vmeta])* $variant,)* }

        impl $name {
            /// libpq's word for it.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }

            fn parse(key: &str, value: &str) -> Result<$name, ConnInfoError> {
                match value {
                    $($word => Ok($name::$variant),)*
                    _ => Err(ConnInfoError::InvalidValue {
                        key: key.to_owned(),
                        value: value.to_owned(),
                        expected: $expected,
                    }),
                }
            }
        }
    };
}

words! {
    /// How much TLS is wanted (manual: "SSL Mode Descriptions"). A socket never has any.
    SslMode, "disable, allow, prefer, require, verify-ca or verify-full" {
        /// None.
        Disable = "disable",
        /// Without first, with it if that is turned down.
        Allow = "allow",
        /// With it first, without if the server has none.
        Prefer = "prefer",
        /// Encrypted; the certificate is checked only if there is a root file.
        Require = "require",
        /// The certificate must come from a root in the root file.
        VerifyCa = "verify-ca",
        /// As before, and its name must be the host's.
        VerifyFull = "verify-full",
    }
}

words! {
    /// Whether SCRAM must be bound to the TLS channel.
    ChannelBinding, "disable, prefer or require" {
        /// Never.
        Disable = "disable",
        /// Where the server offers it.
        Prefer = "prefer",
        /// Or no connection.
        Require = "require",
    }
}

words! {
    /// Which kind of server will do.
    TargetSessionAttrs, "any, read-write, read-only, primary, standby or prefer-standby" {
        /// Every server.
        Any = "any",
        /// One that takes writes by default.
        ReadWrite = "read-write",
        /// One that does not.
        ReadOnly = "read-only",
        /// One that is not in recovery.
        Primary = "primary",
        /// One in recovery.
        Standby = "standby",
        /// One in recovery, or any if there is none.
        PreferStandby = "prefer-standby",
    }
}

/// Where trusted roots come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificates {
    /// Not said: `~/.postgresql/root.crt` if it exists.
    Default(Option<PathBuf>),
    /// `sslrootcert=FILE`.
    File(PathBuf),
    /// `sslrootcert=system`: the operating system's.
    System,
}

/// All that concerns TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// How much of it.
    pub mode: SslMode,
    /// Whom to trust.
    pub roots: RootCertificates,
    /// Who we are.
    pub client: Option<ClientCertificate>,
    /// Whether the host's name goes into the handshake.
    pub sni: bool,
}

/// Checked connection settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnInfo {
    /// The hosts, in the order to try; never empty.
    pub hosts: Vec<Host>,
    /// Who connects.
    pub user: String,
    /// Which database SQL connections use.
    pub dbname: String,
    /// The password, unless it comes from the password file.
    pub password: Option<Secret>,
    /// Whether the password stood in the connection string itself, where `ps` and configuration readers see it.
    pub password_in_string: bool,
    /// The password file.
    pub passfile: Option<PathBuf>,
    /// TLS.
    pub tls: TlsSettings,
    /// Binding of SCRAM to TLS.
    pub channel_binding: ChannelBinding,
    /// Which kind of server will do.
    pub target: TargetSessionAttrs,
    /// How long one host may take from dialling to being ready; `None`: for ever.
    pub connect_timeout: Option<Duration>,
    /// Our name in the server's views, and in `synchronous_standby_names`.
    pub application_name: Option<String>,
    /// Command-line options for the server's session.
    pub options: Option<String>,
    /// TCP keepalives.
    pub keepalives: Keepalives,
}

impl ConnInfo {
    /// How long one host may take when the settings do not say: libpq waits for ever, an agent must not.
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

    /// Reads a URL or a `key=value` list; what it leaves open comes from `environment`, then from libpq's defaults.
    /// # Errors
    /// [`ConnInfoError`], which names the key.
    pub fn parse(text: &str, environment: &Environment) -> Result<ConnInfo, ConnInfoError> {
        settings::resolve(syntax::parse(text)?, environment)
    }

    /// These settings with another password (the caller's `password_file`).
    pub fn with_password(mut self, password: Secret) -> ConnInfo {
        self.password = Some(password);
        self.password_in_string = false;
        self
    }

    /// These settings with another application name.
    pub fn with_application_name(mut self, name: impl Into<String>) -> ConnInfo {
        self.application_name = Some(name.into());
        self
    }

    /// These settings with another kind of server.
    pub fn with_target(mut self, target: TargetSessionAttrs) -> ConnInfo {
        self.target = target;
        self
    }

    /// These settings with another database.
    pub fn with_dbname(mut self, dbname: impl Into<String>) -> ConnInfo {
        self.dbname = dbname.into();
        self
    }
}

#[cfg(test)]
mod tests;
