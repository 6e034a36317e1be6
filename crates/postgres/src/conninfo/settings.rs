//! From key and value to [`ConnInfo`]: defaults, ranges, and which keys go together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tidemark_types::Secret;

use super::{
    ChannelBinding, ClientCertificate, ConnInfo, ConnInfoError, Environment, Host, HostAddress, Keepalives,
    RootCertificates, SslMode, TargetSessionAttrs, TlsSettings, syntax::Pairs,
};

const DEFAULT_PORT: u16 = 5432;

/// Keys that mean something here.
const KNOWN: [&str; 27] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "channel_binding",
    "connect_timeout",
    "client_encoding",
    "options",
    "application_name",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "sslmode",
    "sslnegotiation",
    "sslcompression",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "sslsni",
    "gssencmode",
    "target_session_attrs",
];

/// Keys that libpq knows and we refuse, with what to do instead.
const UNSUPPORTED: [(&str, &str); 20] = [
    (
        "service",
        "connection service files are not read; write the settings out",
    ),
    (
        "servicefile",
        "connection service files are not read; write the settings out",
    ),
    ("replication", "it is set as needed"),
    (
        "sslpassword",
        "use a key file without a passphrase, readable by this user only",
    ),
    ("sslcertmode", "leave it out"),
    ("sslcrl", "revocation lists are not read"),
    ("sslcrldir", "revocation lists are not read"),
    ("ssl_min_protocol_version", "TLS 1.2 and 1.3 are spoken"),
    ("ssl_max_protocol_version", "TLS 1.2 and 1.3 are spoken"),
    ("min_protocol_version", "protocol 3.0 is spoken"),
    ("max_protocol_version", "protocol 3.0 is spoken"),
    ("requirepeer", "leave it out"),
    ("require_auth", "use channel_binding=require"),
    ("krbsrvname", "GSSAPI is not spoken"),
    ("gsslib", "GSSAPI is not spoken"),
    ("gssdelegation", "GSSAPI is not spoken"),
    ("load_balance_hosts", "hosts are tried in order"),
    ("scram_client_key", "use a password"),
    ("scram_server_key", "use a password"),
    ("oauth_issuer", "OAuth is not spoken"),
];

struct Settings<'a> {
    given: BTreeMap<String, String>,
    environment: &'a Environment,
}

pub(super) fn resolve(pairs: Pairs, environment: &Environment) -> Result<ConnInfo, ConnInfoError> {
    for (key, _) in &pairs {
        check_key(key)?;
    }
    if environment.default_of("service").is_some() {
        check_key("service")?;
    }
    let settings = Settings {
        given: pairs.into_iter().collect(),
        environment,
    };
    settings.check_fixed()?;
    let user = settings
        .get("user")
        .or_else(|| environment.user().map(str::to_owned))
        .ok_or(ConnInfoError::NoUser)?;
    Ok(ConnInfo {
        hosts: settings.hosts()?,
        dbname: settings.get("dbname").unwrap_or_else(|| user.clone()),
        user,
        password_in_string: settings
            .given
            .get("password")
            .is_some_and(|word| !word.is_empty()),
        password: settings.get("password").map(Secret::new),
        passfile: settings
            .get("passfile")
            .map(PathBuf::from)
            .or_else(|| environment.home_file(".pgpass")),
        tls: settings.tls()?,
        channel_binding: settings.word("channel_binding", ChannelBinding::parse, ChannelBinding::Prefer)?,
        target: settings.word(
            "target_session_attrs",
            TargetSessionAttrs::parse,
            TargetSessionAttrs::Any,
        )?,
        connect_timeout: settings.connect_timeout()?,
        application_name: settings
            .get("application_name")
            .or_else(|| settings.get("fallback_application_name")),
        options: settings.get("options"),
        keepalives: settings.keepalives()?,
    })
}

fn check_key(key: &str) -> Result<(), ConnInfoError> {
    if KNOWN.contains(&key) {
        return Ok(());
    }
    match UNSUPPORTED.iter().find(|(name, _)| *name == key) {
        Some((_, problem)) => Err(ConnInfoError::Unsupported {
            key: key.to_owned(),
            problem: (*problem).to_owned(),
        }),
        None => Err(ConnInfoError::UnknownKey { key: key.to_owned() }),
    }
}

fn invalid(key: &str, value: &str, expected: &'static str) -> ConnInfoError {
    ConnInfoError::InvalidValue {
        key: key.to_owned(),
        value: value.to_owned(),
        expected,
    }
}

impl Settings<'_> {
    /// What was given, else what the environment says; an empty value counts as not given, as in libpq.
    fn get(&self, key: &str) -> Option<String> {
        let given = self
            .given
            .get(key)
            .map(String::as_str)
            .filter(|value| !value.is_empty());
        given
            .or_else(|| self.environment.default_of(key))
            .map(str::to_owned)
    }

    fn word<T>(
        &self,
        key: &str,
        parse: fn(&str, &str) -> Result<T, ConnInfoError>,
        default: T,
    ) -> Result<T, ConnInfoError> {
        self.get(key).map_or(Ok(default), |value| parse(key, &value))
    }

    fn integer(&self, key: &str) -> Result<Option<i64>, ConnInfoError> {
        self.get(key)
            .map(|value| {
                value
                    .trim()
                    .parse()
                    .map_err(|_| invalid(key, &value, "a whole number"))
            })
            .transpose()
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ConnInfoError> {
        Ok(self.integer(key)?.map_or(default, |value| value != 0))
    }

    /// A positive number of `unit`s; zero and less mean "the system's default".
    fn duration(&self, key: &str, unit: Duration) -> Result<Option<Duration>, ConnInfoError> {
        let count = self
            .integer(key)?
            .and_then(|value| u32::try_from(value).ok())
            .filter(|value| *value > 0);
        Ok(count.map(|count| unit.saturating_mul(count)))
    }

    /// Keys of which only one value makes sense here.
    fn check_fixed(&self) -> Result<(), ConnInfoError> {
        let refuse = |key: &str, problem: &str| {
            Err(ConnInfoError::Unsupported {
                key: key.to_owned(),
                problem: problem.to_owned(),
            })
        };
        match self.get("client_encoding") {
            Some(name) if !["utf8", "utf-8", "auto"].contains(&name.to_ascii_lowercase().as_str()) => {
                return refuse("client_encoding", "connections speak UTF8");
            }
            _ => {}
        }
        if self.get("gssencmode").is_some_and(|mode| mode == "require") {
            return refuse("gssencmode", "GSSAPI is not spoken; use sslmode");
        }
        if self.get("sslnegotiation").is_some_and(|mode| mode != "postgres") {
            return refuse("sslnegotiation", "TLS is negotiated in the traditional way");
        }
        Ok(())
    }

    /// libpq counts less than 2 s as 2 s, and zero or less as no limit.
    fn connect_timeout(&self) -> Result<Option<Duration>, ConnInfoError> {
        Ok(match self.integer("connect_timeout")? {
            None => Some(ConnInfo::DEFAULT_CONNECT_TIMEOUT),
            Some(seconds) => u64::try_from(seconds)
                .ok()
                .filter(|seconds| *seconds > 0)
                .map(|seconds| Duration::from_secs(seconds.max(2))),
        })
    }

    fn keepalives(&self) -> Result<Keepalives, ConnInfoError> {
        let second = Duration::from_secs(1);
        Ok(Keepalives {
            enabled: self.flag("keepalives", true)?,
            idle: self.duration("keepalives_idle", second)?,
            interval: self.duration("keepalives_interval", second)?,
            count: self
                .integer("keepalives_count")?
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n > 0),
            user_timeout: self.duration("tcp_user_timeout", Duration::from_millis(1))?,
        })
    }

    fn hosts(&self) -> Result<Vec<Host>, ConnInfoError> {
        let list = |key: &str| {
            self.get(key).map(|text| {
                text.split(',')
                    .map(|item| item.trim().to_owned())
                    .collect::<Vec<_>>()
            })
        };
        let names = list("host");
        let addresses = list("hostaddr");
        let count = addresses.as_ref().or(names.as_ref()).map_or(1, Vec::len);
        let entry = |key: &str, values: &Option<Vec<String>>, index: usize, one_for_all: bool| match values {
            None => Ok(String::new()),
            Some(values) if values.len() == count => Ok(values.get(index).cloned().unwrap_or_default()),
            Some(values) if one_for_all && values.len() == 1 => Ok(values.concat()),
            Some(values) => Err(ConnInfoError::CountMismatch {
                key: key.to_owned(),
                found: values.len(),
                hosts: count,
            }),
        };
        let ports = list("port");
        (0..count)
            .map(|index| {
                Ok(Host {
                    address: self.address(
                        &entry("host", &names, index, false)?,
                        &entry("hostaddr", &addresses, index, false)?,
                    )?,
                    port: port(&entry("port", &ports, index, true)?)?,
                })
            })
            .collect()
    }

    fn address(&self, host: &str, hostaddr: &str) -> Result<HostAddress, ConnInfoError> {
        if !hostaddr.is_empty() {
            let address = hostaddr
                .parse::<IpAddr>()
                .map_err(|_| invalid("hostaddr", hostaddr, "a numeric IPv4 or IPv6 address"))?;
            let name = (!host.is_empty()).then(|| host.to_owned());
            return Ok(HostAddress::Ip { address, name });
        }
        if host.is_empty() {
            return Ok(HostAddress::SocketDirectory(self.environment.socket_directory()));
        }
        if host.starts_with('/') {
            return Ok(HostAddress::SocketDirectory(PathBuf::from(host)));
        }
        if host.starts_with('@') {
            return Err(ConnInfoError::Unsupported {
                key: "host".to_owned(),
                problem: "abstract sockets are not dialled; use a socket directory".to_owned(),
            });
        }
        Ok(match host.parse() {
            Ok(address) => HostAddress::Ip { address, name: None },
            Err(_) => HostAddress::Name(host.to_owned()),
        })
    }

    fn tls(&self) -> Result<TlsSettings, ConnInfoError> {
        let roots = match self.get("sslrootcert") {
            Some(word) if word == "system" => RootCertificates::System,
            Some(file) => RootCertificates::File(PathBuf::from(file)),
            None => RootCertificates::Default(
                self.environment
                    .home_file(".postgresql/root.crt")
                    .filter(|path| path.exists()),
            ),
        };
        // libpq: "system" with a mode that does not check names would trust anybody's certificate.
        let default = if roots == RootCertificates::System {
            SslMode::VerifyFull
        } else {
            SslMode::Prefer
        };
        let mode = self.word("sslmode", SslMode::parse, default)?;
        if roots == RootCertificates::System && mode != SslMode::VerifyFull {
            return Err(invalid(
                "sslmode",
                mode.word(),
                "verify-full, as sslrootcert=system demands",
            ));
        }
        Ok(TlsSettings {
            mode,
            roots,
            client: self.client_certificate(),
            sni: self.flag("sslsni", true)?,
        })
    }

    /// A certificate that was named must exist; the default one counts only if it does.
    fn client_certificate(&self) -> Option<ClientCertificate> {
        let home = |name: &str| self.environment.home_file(&format!(".postgresql/{name}"));
        let certificate = match self.get("sslcert") {
            Some(path) => PathBuf::from(path),
            None => home("postgresql.crt").filter(|path| path.exists())?,
        };
        let key = self
            .get("sslkey")
            .map(PathBuf::from)
            .or_else(|| home("postgresql.key"))?;
        Some(ClientCertificate { certificate, key })
    }
}

fn port(text: &str) -> Result<u16, ConnInfoError> {
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    text.parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| invalid("port", text, "a number from 1 to 65535"))
}
