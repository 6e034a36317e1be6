//! Who gets in, how, and what is said when not.

use tidemark_testkit::{Certificate, Port, Scratch};
use tidemark_types::{ErrorClass, Secret};

use super::*;
use crate::MysqlError;
use crate::binlog::Flavor;

const PASSWORD: &str = "open sesame";

/// An account's settings: over TCP, with `query` behind the URL.
fn tcp(server: &MysqlServer, user: &str, query: &str) -> ConnectOptions {
    let url = format!("{}/?{query}", server.url_as(user)).replace("127.0.0.1", "localhost");
    let options = ConnectOptions::parse(&url).unwrap();
    options.with_password(Secret::new(PASSWORD))
}

/// How a connection came about: TLS version (empty without), account, and whether it answers.
fn ways_in(options: &ConnectOptions) -> (String, String) {
    block_on(async {
        let mut sql = Sql::connect(options).await.unwrap();
        let row = sql
            .query_one("ask who we are", "SELECT CURRENT_USER() AS user")
            .await
            .unwrap();
        let status = sql
            .query_one("ask for TLS", "SHOW STATUS LIKE 'Ssl_version'")
            .await
            .unwrap();
        (
            status.text("Value").unwrap().to_owned(),
            row.text("user").unwrap().to_owned(),
        )
    })
}

fn refusal(options: &ConnectOptions) -> MysqlError {
    block_on(Sql::connect(options))
        .map(|sql| sql.host().to_owned())
        .unwrap_err()
}

#[track_caller]
fn assert_refused(options: &ConnectOptions, class: ErrorClass, words: &[&str]) {
    let error = refusal(options);
    let text = error.to_string();
    assert_eq!(error.class(), class, "{text}");
    for word in words {
        assert!(text.contains(word), "{text}");
    }
    assert!(!text.contains(PASSWORD), "{text}");
}

fn guarded(version: MysqlVersion, scratch: &Scratch) -> (MysqlServer, Certificate) {
    let certificate = Certificate::for_localhost(scratch);
    let server = MysqlServer::builder(version)
        .option(&format!("ssl_cert = {}", certificate.certificate.display()))
        .option(&format!("ssl_key = {}", certificate.key.display()))
        .account("tide", PASSWORD, "REPLICATION SLAVE")
        .start();
    (server, certificate)
}

#[test]
fn tls_is_as_the_mode_says() {
    for version in ALL {
        let scratch = Scratch::new("tls");
        let (server, certificate) = guarded(version, &scratch);
        let ca = format!("ssl-ca={}", certificate.certificate.display());
        for mode in ["", "ssl-mode=REQUIRED"] {
            assert!(
                ways_in(&tcp(&server, "tide", mode)).0.starts_with("TLSv1"),
                "{version} {mode}"
            );
        }
        for mode in ["VERIFY_CA", "VERIFY_IDENTITY"] {
            let (tls, user) = ways_in(&tcp(&server, "tide", &format!("ssl-mode={mode}&{ca}")));
            assert!(tls.starts_with("TLSv1"), "{version} {mode}");
            assert_eq!(user, "tide@%");
        }
        assert_eq!(
            ways_in(&tcp(&server, "tide", "ssl-mode=DISABLED")).0,
            "",
            "{version}"
        );
        // Another name than the certificate's, another root, a file that is not there.
        let mut other_name = tcp(&server, "tide", &format!("ssl-mode=VERIFY_IDENTITY&{ca}"));
        other_name.hosts = vec![Host::Tcp {
            name: "127.0.0.1".to_owned(),
            port: server.port(),
        }];
        assert_refused(
            &other_name,
            ErrorClass::Config,
            &["TLS with 127.0.0.1", "not valid for name"],
        );
        let other_root = Scratch::new("tls");
        let other_root = Certificate::for_localhost(&other_root);
        let other_ca = format!("ssl-mode=VERIFY_CA&ssl-ca={}", other_root.certificate.display());
        assert_refused(
            &tcp(&server, "tide", &other_ca),
            ErrorClass::Config,
            &["TLS with localhost", "invalid peer certificate"],
        );
        let no_file = tcp(&server, "tide", "ssl-mode=VERIFY_CA&ssl-ca=/none.pem");
        assert_refused(
            &no_file,
            ErrorClass::Config,
            &["ssl-ca /none.pem", "does not exist"],
        );
    }
}

/// MySQL makes certificates of its own, MariaDB from 11.4 on too; 10.11 has none and is taken in clear, or not.
#[test]
fn servers_as_they_are_installed() {
    for version in ALL {
        let server = MysqlServer::builder(version)
            .account("tide", PASSWORD, "REPLICATION SLAVE")
            .start();
        let has_tls = version != MysqlVersion::MariaDb1011;
        // Twice: MySQL knows the password the second time, and asks for less.
        for _ in 0..2 {
            assert_eq!(
                ways_in(&tcp(&server, "tide", "")).0.is_empty(),
                !has_tls,
                "{version}"
            );
            assert_eq!(
                ways_in(&tcp(&server, "tide", "ssl-mode=DISABLED")).0,
                "",
                "{version}"
            );
        }
        if !has_tls {
            let required = tcp(&server, "tide", "ssl-mode=REQUIRED");
            assert_refused(
                &required,
                ErrorClass::Config,
                &["does not offer TLS", "ssl-mode=REQUIRED"],
            );
        }
    }
}

/// The full exchange in clear: the server has not seen the password yet, and gets it under its key.
#[test]
fn a_password_in_clear_tcp_goes_under_the_servers_key() {
    let server = MysqlServer::builder(MysqlVersion::Mysql97)
        .account("tide", PASSWORD, "REPLICATION SLAVE")
        .start();
    server.sql(&format!(
        "CREATE USER old IDENTIFIED WITH sha256_password BY '{PASSWORD}'"
    ));
    for user in ["tide", "old"] {
        assert_eq!(
            ways_in(&tcp(&server, user, "ssl-mode=DISABLED")),
            (String::new(), format!("{user}@%"))
        );
        assert!(ways_in(&tcp(&server, user, "")).0.starts_with("TLSv1"));
        let wrong = tcp(&server, user, "ssl-mode=DISABLED").with_password(Secret::new("sesame"));
        assert_refused(&wrong, ErrorClass::Config, &["Access denied", "(error 1045)"]);
    }
}

#[test]
fn who_is_turned_down_is_told_why() {
    for version in ALL {
        let server = MysqlServer::builder(version)
            .account("tide", PASSWORD, "REPLICATION SLAVE")
            .start();
        let wrong = tcp(&server, "tide", "").with_password(Secret::new("sesame"));
        assert_refused(
            &wrong,
            ErrorClass::Config,
            &["connect to localhost", "Access denied", "(error 1045)"],
        );
        let nobody = ConnectOptions::socket(server.socket(), "nobody");
        assert_refused(&nobody, ErrorClass::Config, &["Access denied"]);
        server.stop();
        assert_refused(
            &tcp(&server, "tide", ""),
            ErrorClass::Transient,
            &["connect to localhost"],
        );
        assert_refused(&root(&server), ErrorClass::Transient, &["sock"]);
    }
    let unknown = ConnectOptions::parse("mysql://u@no-such-host.invalid").unwrap();
    assert_refused(
        &unknown,
        ErrorClass::Transient,
        &["look up host no-such-host.invalid"],
    );
}

/// Without a password, by who is behind the socket.
#[test]
fn a_socket_tells_who_connects() {
    let me = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    let server = MysqlServer::start_new(MysqlVersion::MariaDb118);
    server.sql(&format!("CREATE OR REPLACE USER '{me}'@localhost IDENTIFIED VIA unix_socket; GRANT ALL ON *.* TO '{me}'@localhost"));
    let (tls, user) = ways_in(&ConnectOptions::socket(server.socket(), me.as_str()));
    assert_eq!((tls.as_str(), user), ("", format!("{me}@localhost")));
}

/// Somebody else's port: one that says nothing, one that speaks another protocol, one that hangs up.
#[test]
fn what_is_no_server_is_told_apart() {
    use std::io::Write;
    let listen = |greeting: &'static [u8], stay: bool| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(greeting).unwrap();
            if stay {
                std::thread::sleep(std::time::Duration::from_secs(5));
            }
        });
        ConnectOptions::parse(&format!("mysql://u@127.0.0.1:{port}/?connect-timeout=1")).unwrap()
    };
    assert_refused(
        &listen(b"", true),
        ErrorClass::Transient,
        &["no answer from 127.0.0.1"],
    );
    assert_refused(
        &listen(b"", false),
        ErrorClass::Transient,
        &["connection to 127.0.0.1", "lost"],
    );
    assert_refused(
        &listen(b"\x04\0\0\0SSH-", true),
        ErrorClass::Permanent,
        &["no greeting"],
    );
    let full = b"\x17\0\0\0\xFF\x10\x04Too many connections";
    assert_refused(
        &listen(full, true),
        ErrorClass::Transient,
        &["Too many connections (error 1040)"],
    );
    let mut old = b"\x4a\0\0\0\x0a5.7.44\0\x01\0\0\x0012345678\0\xff\xf7\x08\x02\0\xff\x81\x15".to_vec();
    old.extend([0; 10]);
    old.extend(b"123456789012\0mysql_native_password\0");
    old[0] = u8::try_from(old.len() - 4).unwrap();
    assert_refused(
        &listen(old.leak(), true),
        ErrorClass::Config,
        &["version is 5.7.44", "8.0"],
    );
}

/// Of several hosts the first that serves and takes writes is taken.
#[test]
fn several_hosts_are_tried_for_the_source() {
    let replica = MysqlServer::start_new(MysqlVersion::Mysql97);
    let source = MysqlServer::start_new(MysqlVersion::MariaDb118);
    for server in [&replica, &source] {
        server.sql("CREATE USER tide@'%'; GRANT REPLICATION SLAVE ON *.* TO tide@'%'");
    }
    replica.sql("SET GLOBAL super_read_only = ON");
    let nobody = Port::reserve();
    let url = |query: &str| {
        format!(
            "mysql://tide@127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}/{query}",
            nobody.number(),
            replica.port(),
            source.port()
        )
    };
    let connect = |query: &str| block_on(Sql::connect(&ConnectOptions::parse(&url(query)).unwrap()));
    assert_eq!(connect("").unwrap().flavor(), Flavor::MariaDb);
    assert_eq!(connect("?target=any").unwrap().flavor(), Flavor::MySql);
    source.sql("SET GLOBAL read_only = ON");
    let error = connect("").unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient);
    let text = error.to_string();
    assert!(
        text.contains("no host can be used") && text.contains("is read_only"),
        "{text}"
    );
}

#[test]
fn statements_give_rows_and_errors() {
    for version in ALL {
        let server = MysqlServer::start_new(version);
        server.sql("SET GLOBAL sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES'");
        block_on(async {
            let mut sql = Sql::connect(&root(&server)).await.unwrap();
            let text = "it's \\ a `test`\0";
            let statement = format!(
                "SELECT {} AS t, NULL AS n, REPEAT('x', 17000000) AS l",
                quote(text)
            );
            let row = sql.query_one("test", &statement).await;
            // The default of max_allowed_packet is 16 MiB in MariaDB and 64 MiB in MySQL.
            match version {
                MysqlVersion::Mysql97 => {
                    let row = row.unwrap();
                    assert_eq!((row.text("t"), row.text("n")), (Some(text), None));
                    assert_eq!(row.bytes("l").map(<[u8]>::len), Some(17_000_000));
                }
                _ => assert_eq!(row.unwrap().text("l"), None, "{version}"),
            }
            let error = sql.query("test", "SELECT nonsense").await.unwrap_err();
            assert_eq!(
                error.server_error().map(|error| error.code),
                Some(1054),
                "{error}"
            );
            // The connection goes on after the server's error, not after a dropped or late answer.
            sql.execute("test", "DO 1").await.unwrap();
            let late = sql.with_timeout(std::time::Duration::from_millis(50));
            let mut late = late;
            let error = late.query("test", "SELECT SLEEP(1)").await.unwrap_err();
            assert!(matches!(error, MysqlError::Timeout { .. }), "{error}");
            let error = late.query("test", "SELECT 1").await.unwrap_err();
            assert!(error.to_string().contains("connect again"), "{error}");
        });
    }
}

#[test]
fn facts_are_those_of_the_server() {
    for version in ALL {
        let server = MysqlServer::start_new(version);
        server.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); INSERT INTO d.t VALUES (1); FLUSH BINARY LOGS");
        block_on(async {
            let mut sql = Sql::connect(&root(&server)).await.unwrap();
            let facts = sql.server_facts().await.unwrap();
            assert_eq!(facts.version.flavor == Flavor::MariaDb, version.is_mariadb());
            assert!(facts.log_bin);
            let basename = server.binlog_directory().join("bin");
            assert_eq!(facts.log_bin_basename.as_deref(), basename.to_str());
            assert_eq!(facts.server_id.to_string(), server.sql("SELECT @@server_id"));
            match version.is_mariadb() {
                true => assert_eq!((facts.uuid, facts.gtid_mode), (None, None)),
                false => {
                    assert_eq!(
                        facts.uuid.unwrap().to_string(),
                        server.sql("SELECT @@server_uuid")
                    );
                    assert_eq!(facts.gtid_mode.as_deref(), Some("ON"));
                }
            }
            match sql.gtid_state().await.unwrap() {
                GtidState::MySql { executed, purged } => {
                    assert_eq!((executed.count(), purged.count()), (3, 0));
                }
                GtidState::MariaDb { binlog, current } => {
                    assert_eq!(binlog.to_string(), server.sql("SELECT @@gtid_binlog_pos"));
                    assert_eq!(current, binlog);
                }
            }
            let files = sql.binlog_files().await.unwrap();
            assert_eq!(files.len(), 2);
            let first = std::fs::metadata(&server.binlog_files()[0]).unwrap().len();
            assert_eq!(
                files[0],
                BinlogFile {
                    name: "bin.000001".to_owned(),
                    bytes: first
                }
            );
            let end = sql.log_end().await.unwrap();
            assert_eq!(
                (end.file.as_str(), end.position.0),
                ("bin.000002", files[1].bytes)
            );
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap();
            let distance = i64::try_from(now.as_micros()).unwrap() - end.time.0;
            assert!((0..60_000_000).contains(&distance), "{distance}");
            assert_eq!(sql.replicas().await.unwrap(), []);
        });
    }
}
