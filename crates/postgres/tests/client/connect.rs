//! Getting in, and being kept out: passwords, TLS, hosts, timeouts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tidemark_postgres::{PostgresError, ReplicationClient, SqlClient};
use tidemark_testkit::{Certificate, PgVersion, PostgresServer, Scratch, wait_for};
use tidemark_types::ErrorClass;

use super::{block_on, conninfo};

struct Guarded {
    server: PostgresServer,
    certificate: PathBuf,
    _scratch: Scratch,
}

/// A server with TLS, SCRAM and MD5 users, one that may only come without TLS, and one that may not come at all.
fn guarded(version: PgVersion) -> Guarded {
    let scratch = Scratch::new("tls");
    let Certificate { certificate, key } = Certificate::for_localhost(&scratch);
    let server = PostgresServer::builder(version)
        .conf("ssl = on")
        .conf(&format!("ssl_cert_file = '{}'", certificate.display()))
        .conf(&format!("ssl_key_file = '{}'", key.display()))
        .hba("host all,replication scram 127.0.0.1/32 scram-sha-256")
        .hba("host all,replication legacy 127.0.0.1/32 md5")
        .hba("host all clear 127.0.0.1/32 password")
        .hba("hostnossl all plain 127.0.0.1/32 trust")
        .hba("hostssl all plain 127.0.0.1/32 reject")
        .hba("host all outsider 127.0.0.1/32 reject")
        .start();
    server.psql(
        "SET password_encryption = 'scram-sha-256';
         CREATE ROLE scram LOGIN REPLICATION PASSWORD 'it''s \"säcret\"';
         CREATE ROLE clear LOGIN PASSWORD 'secret';
         CREATE ROLE plain LOGIN; CREATE ROLE outsider LOGIN;
         SET password_encryption = 'md5';
         CREATE ROLE legacy LOGIN REPLICATION PASSWORD 'secret';",
    );
    Guarded {
        server,
        certificate,
        _scratch: scratch,
    }
}

const SCRAM: &str = r#"user=scram password='it\'s "säcret"'"#;

impl Guarded {
    fn url(&self, rest: &str) -> String {
        format!(
            "host=localhost hostaddr=127.0.0.1 port={} dbname=postgres {rest}",
            self.server.port()
        )
    }

    async fn both(&self, rest: &str) -> Result<bool, PostgresError> {
        let info = conninfo(&self.url(rest));
        ReplicationClient::connect(&info).await?.identify_system().await?;
        self.sql(rest).await
    }

    /// Connects for SQL, and says whether with TLS.
    async fn sql(&self, rest: &str) -> Result<bool, PostgresError> {
        let client = SqlClient::connect(&conninfo(&self.url(rest))).await?;
        let statement = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let row = client.query_one("ask for TLS", statement, &[]).await?;
        client.close().await;
        Ok(row.get(0))
    }

    async fn refusal(&self, rest: &str) -> PostgresError {
        self.both(rest).await.expect_err(rest)
    }
}

#[test]
fn passwords_and_sslmodes_as_libpq_means_them() {
    for version in PgVersion::ALL {
        let guarded = guarded(version);
        let root = format!("sslrootcert={}", guarded.certificate.display());
        block_on(async {
            for (rest, tls) in [
                (format!("{SCRAM} sslmode=disable"), false),
                (format!("{SCRAM} sslmode=allow"), false),
                (format!("{SCRAM} sslmode=prefer"), true),
                (format!("{SCRAM} sslmode=require"), true),
                (format!("{SCRAM} sslmode=verify-ca {root}"), true),
                (format!("{SCRAM} sslmode=verify-full {root}"), true),
                (format!("{SCRAM} sslmode=require channel_binding=require"), true),
                (format!("{SCRAM} sslmode=require channel_binding=disable"), true),
                ("user=legacy password=secret sslmode=disable".to_owned(), false),
                ("user=legacy password=secret sslmode=require".to_owned(), true),
            ] {
                assert_eq!(guarded.both(&rest).await.unwrap(), tls, "{version:?} {rest}");
            }
            assert!(
                guarded
                    .sql("user=clear password=secret sslmode=require")
                    .await
                    .unwrap()
            );
            assert!(
                !guarded.sql("user=plain sslmode=prefer").await.unwrap(),
                "turned down with TLS, then let in"
            );
        });
    }
}

#[test]
fn refusals_say_what_is_wrong_and_are_configuration_errors() {
    let guarded = guarded(PgVersion::V17);
    let scratch = Scratch::new("other");
    let other = Certificate::for_localhost(&scratch).certificate;
    block_on(async {
        let other = format!("sslrootcert={}", other.display());
        let own = format!("sslrootcert={}", guarded.certificate.display());
        let by_address = guarded
            .url(&format!("{SCRAM} sslmode=verify-full {own}"))
            .replace("host=localhost ", "");
        let wrong_name = SqlClient::connect(&conninfo(&by_address))
            .await
            .map(drop)
            .unwrap_err();
        for (error, expected) in [
            (
                guarded.refusal("user=scram password=wrong").await,
                "SQLSTATE 28P01",
            ),
            (
                guarded.refusal("user=scram").await,
                "use password_file, PGPASSWORD or ~/.pgpass",
            ),
            (guarded.sql("user=outsider").await.unwrap_err(), "SQLSTATE 28000"),
            (
                guarded.sql(&format!("{SCRAM} dbname=nosuch")).await.unwrap_err(),
                "SQLSTATE 3D000",
            ),
            (
                guarded
                    .sql("user=clear password=secret sslmode=disable")
                    .await
                    .unwrap_err(),
                "password in clear",
            ),
            (
                guarded
                    .refusal(&format!("{SCRAM} sslmode=verify-full {other}"))
                    .await,
                "TLS with localhost",
            ),
            (
                guarded.refusal(&format!("{SCRAM} sslmode=require {other}")).await,
                "TLS with localhost",
            ),
            (
                guarded.refusal(&format!("{SCRAM} sslmode=verify-ca")).await,
                "sslmode=verify-ca needs it",
            ),
            (
                guarded
                    .refusal(&format!("{SCRAM} sslmode=verify-ca sslrootcert=/none"))
                    .await,
                "does not exist",
            ),
            (
                guarded
                    .refusal(&format!("{SCRAM} sslmode=disable channel_binding=require"))
                    .await,
                "channel_binding=require",
            ),
            (wrong_name, "TLS with 127.0.0.1"),
        ] {
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.class(), ErrorClass::Config, "{error}");
            assert!(!error.to_string().contains("säcret"), "{error}");
        }
        let none = PostgresServer::start_new(PgVersion::V17);
        let error = SqlClient::connect(&conninfo(&format!("{}?sslmode=require", none.url())))
            .await
            .map(drop);
        assert!(
            matches!(error, Err(PostgresError::TlsRefused { .. })),
            "{error:?}"
        );
    });
}

#[test]
fn the_password_file_serves_replication_and_sql() {
    use std::os::unix::fs::PermissionsExt;
    let guarded = guarded(PgVersion::V17);
    let scratch = Scratch::new("pass");
    let file = scratch.file(
        "pgpass",
        format!("localhost:{}:postgres:legacy:secret\n", guarded.server.port()),
    );
    let set_mode =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let rest = format!("user=legacy passfile={}", file.display());
    block_on(async {
        set_mode(&file, 0o600);
        assert!(guarded.both(&rest).await.unwrap());
        set_mode(&file, 0o644);
        let error = guarded.refusal(&rest).await;
        assert!(error.to_string().contains("chmod 0600"), "{error}");
    });
}

#[test]
fn the_wanted_kind_of_server_is_found_among_several_hosts() {
    let primary = PostgresServer::start_new(PgVersion::V17);
    let standby = primary.start_standby();
    let url = |target: &str| {
        let (p, s) = (primary.port(), standby.port());
        conninfo(&format!(
            "postgresql://postgres@127.0.0.1:1,127.0.0.1:{s},127.0.0.1:{p}/postgres?target_session_attrs={target}"
        ))
    };
    block_on(async {
        for (target, server) in [
            ("any", &standby),
            ("primary", &primary),
            ("read-write", &primary),
            ("standby", &standby),
            ("read-only", &standby),
            ("prefer-standby", &standby),
        ] {
            let expected = format!("127.0.0.1:{}", server.port());
            assert_eq!(
                ReplicationClient::connect(&url(target)).await.unwrap().host(),
                expected,
                "{target}"
            );
            assert_eq!(
                SqlClient::connect(&url(target)).await.unwrap().host(),
                expected,
                "{target}"
            );
        }
        standby.kill9();
        let served = ReplicationClient::connect(&url("prefer-standby")).await.unwrap();
        assert_eq!(served.host(), format!("127.0.0.1:{}", primary.port()));
        let error = ReplicationClient::connect(&url("standby"))
            .await
            .map(drop)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("is a primary, and target_session_attrs=standby"),
            "{error}"
        );
        assert_eq!(error.class(), ErrorClass::Transient);
    });
}

#[test]
fn a_frozen_server_is_a_timeout_and_a_stopped_one_transient() {
    let server = PostgresServer::start_new(PgVersion::V17);
    let info = conninfo(&format!("{}?connect_timeout=2", server.url()));
    let signal = |signal| {
        let pid = i32::try_from(server.pid().unwrap())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    block_on(async {
        signal(rustix::process::Signal::STOP);
        let begun = Instant::now();
        let result = SqlClient::connect(&info).await.map(drop);
        signal(rustix::process::Signal::CONT);
        assert!(matches!(result, Err(PostgresError::Timeout { .. })), "{result:?}");
        assert!((1..10).contains(&begun.elapsed().as_secs()));
    });
    server.kill9();
    wait_for("the port to be closed", Duration::from_secs(10), || {
        !server.is_running()
    });
    block_on(async {
        let error = SqlClient::connect(&info).await.map(drop).unwrap_err();
        assert!(matches!(error, PostgresError::Connect { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::Transient);
    });
}

#[test]
fn several_connections_over_tcp_socket_and_url_forms_agree() {
    let server = PostgresServer::start_new(PgVersion::V18);
    block_on(async {
        for url in [server.url(), server.socket_url(), server.conninfo()] {
            let info = conninfo(&url).with_application_name("tidemark-test");
            let client = SqlClient::connect(&info).await.unwrap();
            let row = client
                .query_one(
                    "who",
                    "SELECT current_setting('application_name'), $1::int4",
                    &[&7],
                )
                .await;
            let row = row.unwrap();
            assert_eq!(
                (row.get::<_, String>(0), row.get::<_, i32>(1)),
                ("tidemark-test".to_owned(), 7)
            );
            assert_eq!(client.version().major(), 18);
            let error = client
                .query("try", "SELECT 1/0", &[])
                .await
                .map(drop)
                .unwrap_err();
            assert_eq!(error.sqlstate(), Some("22012"), "{error}");
            client.close().await;
        }
        let gone = || {
            server.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidemark-test'")
                == "0"
        };
        wait_for("our sessions to end", Duration::from_secs(10), gone);
    });
}
