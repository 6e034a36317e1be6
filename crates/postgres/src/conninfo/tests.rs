//! Settings as a whole: defaults, environment, overrides, refusals.

use super::*;

fn environment() -> Environment {
    Environment::new([], "os", "/home/os")
}

fn parse(text: &str) -> ConnInfo {
    ConnInfo::parse(text, &environment()).unwrap()
}

fn refusal(text: &str) -> String {
    ConnInfo::parse(text, &environment()).unwrap_err().to_string()
}

#[test]
fn several_hosts_with_one_port_or_one_each() {
    let show = |text: &str| {
        parse(text)
            .hosts
            .iter()
            .map(Host::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(show("postgresql://a:1,b,[::1]:3/x"), "a:1 b:5432 [::1]:3");
    assert_eq!(show("host=a,b port=7"), "a:7 b:7");
    assert_eq!(show("host=a,/run/pg port=7,8"), "a:7 /run/pg/.s.PGSQL.8");
    assert_eq!(show("postgresql://%2Frun%2Fpg/x"), "/run/pg/.s.PGSQL.5432");
    assert_eq!(show("host=db hostaddr=10.0.0.1"), "db:5432");
    assert_eq!(
        refusal("host=a,b,c port=1,2"),
        "connection setting \"port\" has 2 entries for 3 hosts"
    );
}

#[test]
fn defaults_are_libpqs() {
    let info = parse("host=h");
    assert_eq!((info.user.as_str(), info.dbname.as_str()), ("os", "os"));
    assert_eq!(info.tls.mode, SslMode::Prefer);
    assert_eq!(info.target, TargetSessionAttrs::Any);
    assert_eq!(info.passfile, Some(PathBuf::from("/home/os/.pgpass")));
    assert_eq!(info.connect_timeout, Some(ConnInfo::DEFAULT_CONNECT_TIMEOUT));
    assert_eq!(parse("connect_timeout=0").connect_timeout, None);
    assert_eq!(
        parse("connect_timeout=1").connect_timeout,
        Some(Duration::from_secs(2))
    );
    assert_eq!(parse("host=h sslrootcert=system").tls.mode, SslMode::VerifyFull);
    assert_eq!(parse("user=u").dbname, "u");
    assert!(matches!(
        parse("user=u").hosts[0].address,
        HostAddress::SocketDirectory(_)
    ));
}

#[test]
fn the_string_wins_over_the_environment() {
    let environment = Environment::new(
        [
            ("PGHOST", "envhost"),
            ("PGPORT", "9"),
            ("PGPASSWORD", "envpw"),
            ("PGSSLMODE", "require"),
            ("PGUSER", ""),
        ],
        "os",
        "/home/os",
    );
    let info = ConnInfo::parse("port=1", &environment).unwrap();
    assert_eq!(info.hosts[0].to_string(), "envhost:1");
    assert_eq!(info.user, "os");
    assert_eq!(info.tls.mode, SslMode::Require);
    assert_eq!(info.password, Some(Secret::new("envpw")));
    assert!(!info.password_in_string);
    let info = ConnInfo::parse("postgresql://u:urlpw@h/", &environment).unwrap();
    assert_eq!(info.password, Some(Secret::new("urlpw")));
    assert!(info.password_in_string);
    assert!(!info.with_password(Secret::new("x")).password_in_string);
}

#[test]
fn passwords_are_never_shown() {
    let info = parse("postgresql://u:hunter2@h/");
    assert!(!format!("{info:?}").contains("hunter2"));
    let environment = Environment::new([("PGPASSWORD", "hunter2")], "os", "/");
    assert!(!format!("{environment:?}").contains("hunter2"));
}

#[test]
fn refusals_name_the_key() {
    for (text, expected) in [
        ("hots=a", "connection setting \"hots\" is unknown"),
        (
            "service=prod",
            "connection setting \"service\" is not supported: connection service files are not read; write the settings out",
        ),
        (
            "sslmode=maybe",
            "connection setting \"sslmode\": \"maybe\" is not valid, expected disable, allow, prefer, require, verify-ca or verify-full",
        ),
        (
            "port=0",
            "connection setting \"port\": \"0\" is not valid, expected a number from 1 to 65535",
        ),
        (
            "connect_timeout=soon",
            "connection setting \"connect_timeout\": \"soon\" is not valid, expected a whole number",
        ),
        (
            "sslrootcert=system sslmode=require",
            "connection setting \"sslmode\": \"require\" is not valid, expected verify-full, as sslrootcert=system demands",
        ),
        (
            "client_encoding=LATIN1",
            "connection setting \"client_encoding\" is not supported: connections speak UTF8",
        ),
    ] {
        assert_eq!(refusal(text), expected);
    }
    let environment = Environment::new([("PGSERVICE", "prod")], "os", "/");
    assert!(matches!(
        ConnInfo::parse("", &environment),
        Err(ConnInfoError::Unsupported { .. })
    ));
}
