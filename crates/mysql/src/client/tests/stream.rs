//! Dumps from real servers: their files come out byte by byte.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tidemark_testkit::wait_for;
use tidemark_types::ErrorClass;

use super::*;
use crate::MysqlError;
use crate::binlog::{BinlogDecoder, BinlogOffset, FileEnd, Flavor};
use crate::gtid::ServerUuid;
use crate::replication::{DumpRequest, Replica};

/// Nothing of a test takes longer.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What a stream may hold of an event at a time: far less than the long ones have.
const PART_BYTES_MAX: usize = 1 << 20;

fn flavor(version: MysqlVersion) -> Flavor {
    if version.is_mariadb() {
        Flavor::MariaDb
    } else {
        Flavor::MySql
    }
}

fn replica(server_id: u32, semi_sync: bool) -> Replica {
    let mut uuid = [7; 16];
    uuid[..4].copy_from_slice(&server_id.to_be_bytes());
    Replica {
        server_id,
        uuid: ServerUuid(uuid),
        heartbeat: Duration::from_secs(1),
        semi_sync,
    }
}

fn to_the_end(file: &str, position: BinlogOffset) -> DumpRequest<'_> {
    DumpRequest {
        file,
        position,
        ends_with_log: true,
    }
}

fn from_now_on(file: &str) -> DumpRequest<'_> {
    DumpRequest {
        file,
        position: BinlogOffset::FIRST_EVENT,
        ends_with_log: false,
    }
}

/// What lies in files, by file, from where a dump begins to the end of the log.
async fn read_files(stream: &mut BinlogStream) -> Result<BTreeMap<String, Vec<u8>>, MysqlError> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let (mut current, mut first) = (String::new(), 0);
    loop {
        match stream.next().await? {
            StreamItem::File { name, position } => {
                name.clone_into(&mut current);
                let is_beginning = position == BinlogOffset::FIRST_EVENT;
                let magic: &[u8] = if is_beginning { b"\xFEbin" } else { b"" };
                first = position.0 - magic.len() as u64;
                files.insert(name.to_owned(), magic.to_vec());
            }
            StreamItem::Bytes { begin, bytes, .. } => {
                assert!(bytes.len() <= PART_BYTES_MAX, "{} bytes at once", bytes.len());
                let file = files.get_mut(&current).unwrap();
                assert_eq!(begin.0, first + file.len() as u64);
                file.extend(bytes);
            }
            StreamItem::Format(_) | StreamItem::Heartbeat => {}
            StreamItem::End => return Ok(files),
        }
    }
}

fn dump_files(server: &MysqlServer, request: &DumpRequest<'_>) -> BTreeMap<String, Vec<u8>> {
    block_on(async {
        let mut stream = BinlogStream::start(&root(server), &replica(4001, false), request)
            .await
            .unwrap();
        read_files(&mut stream).await.unwrap()
    })
}

/// As [`dump_files`], by MySQL's other command, whose position has 64 bits.
fn dump_files_by_long_command(server: &MysqlServer, request: &DumpRequest<'_>) -> BTreeMap<String, Vec<u8>> {
    block_on(async {
        let (options, replica) = (root(server), replica(4001, false));
        let session = super::super::connect::connect(&options).await.unwrap();
        let requested = (request.file.to_owned(), request.position);
        let command = request.long_command(&replica, 3).unwrap();
        let stream = BinlogStream::begin(session, &options, &replica, requested, &command).await;
        read_files(&mut stream.unwrap()).await.unwrap()
    })
}

fn load(server: &MysqlServer) {
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v LONGTEXT)");
    server.sql("INSERT INTO d.t VALUES (1, 'one'); FLUSH BINARY LOGS; UPDATE d.t SET v = 'two'");
    // An event that takes two packets.
    server.sql(
        "INSERT INTO d.t VALUES (2, REPEAT('x', 17000000)); FLUSH BINARY LOGS; DELETE FROM d.t WHERE id = 2",
    );
}

/// A file as it is sent. The one in use says so in its first event; what is sent does not.
fn read_as_sent(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[4 + 17] &= !1;
    bytes
}

/// Panics unless `sent` is what stands in the file from `begin` on: all that stood there `before` the dump, and what MariaDB
/// may have noted since, at a time of its own.
#[track_caller]
fn assert_sent(sent: &[u8], path: &Path, before: &[u8], begin: BinlogOffset) {
    let begin = usize::try_from(begin.0).unwrap();
    let after = read_as_sent(path);
    assert!(
        sent.len() >= before.len() - begin,
        "{} bytes of {}",
        sent.len(),
        before.len() - begin
    );
    assert!(
        after[begin..].starts_with(sent),
        "other bytes than in {}",
        path.display()
    );
}

fn assert_dumped_byte_by_byte(version: MysqlVersion, options: &[&str]) {
    let server = MysqlServer::builder(version)
        .option("max_allowed_packet = 64M")
        .options(options)
        .start();
    load(&server);
    let files = server.binlog_files();
    let before: Vec<Vec<u8>> = files.iter().map(|path| read_as_sent(path)).collect();
    let dumped = dump_files(&server, &to_the_end("bin.000001", BinlogOffset::FIRST_EVENT));
    assert_eq!(dumped.len(), files.len());
    for ((path, before), (name, sent)) in files.iter().zip(&before).zip(&dumped) {
        assert_eq!(path.file_name().unwrap().to_str(), Some(name.as_str()));
        assert_sent(sent, path, before, BinlogOffset(0));
    }
    // From the middle: the second event of the last file, whose format comes along without being part of it.
    let (path, before) = (files.last().unwrap(), before.last().unwrap());
    let mut decoder = BinlogDecoder::new();
    let mut input = &before[..];
    decoder.next(&mut input).unwrap();
    decoder.next(&mut input).unwrap();
    let (last, middle) = (dumped.keys().next_back().unwrap(), decoder.whole());
    let request = to_the_end(last, middle);
    let mut dumps = vec![dump_files(&server, &request)];
    dumps.extend((flavor(version) == Flavor::MySql).then(|| dump_files_by_long_command(&server, &request)));
    for rest in dumps {
        assert_eq!(rest.len(), 1);
        assert_sent(&rest[last], path, before, middle);
        let mut joined = BinlogDecoder::join(middle, decoder.format().unwrap().clone());
        let mut input = &rest[last][..];
        while joined.next(&mut input).unwrap().is_some() {}
        assert_eq!(joined.end(), FileEnd::Open);
    }
}

#[test]
fn mysql_97_is_dumped_byte_by_byte() {
    assert_dumped_byte_by_byte(MysqlVersion::Mysql97, &["binlog_transaction_compression = ON"]);
}

#[test]
fn mysql_97_without_checksums_is_dumped_byte_by_byte() {
    assert_dumped_byte_by_byte(MysqlVersion::Mysql97, &["binlog_checksum = NONE"]);
}

#[test]
fn mariadb_1011_is_dumped_byte_by_byte() {
    assert_dumped_byte_by_byte(MysqlVersion::MariaDb1011, &[]);
}

#[test]
fn mariadb_118_without_checksums_is_dumped_byte_by_byte() {
    assert_dumped_byte_by_byte(MysqlVersion::MariaDb118, &["binlog_checksum = NONE"]);
}

/// A commit waits for the acknowledgement, however long the source is ready to wait; and no longer.
fn assert_commits_wait(version: MysqlVersion, switch_on: &str, count: &str) {
    let server = MysqlServer::start_new(version);
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)");
    server.sql(switch_on);
    server.rotate();
    let file = last_file(&server);
    let options = root(&server);
    block_on(async {
        let mut stream = BinlogStream::start(&options, &replica(4002, true), &from_now_on(&file))
            .await
            .unwrap();
        let insert = async {
            let mut sql = Sql::connect(&options).await.unwrap();
            sql.execute("commit", "INSERT INTO d.t VALUES (1)").await.unwrap();
        };
        let mut insert = std::pin::pin!(insert);
        let end = loop {
            tokio::select! {
                () = &mut insert => panic!("{version}: the commit did not wait"),
                item = stream.next() => if let StreamItem::Bytes { begin, bytes, wants_acknowledgement: true } = item.unwrap() {
                    break begin.plus(bytes.len() as u64);
                },
            }
        };
        let mut sql = Sql::connect(&options).await.unwrap();
        let waiting = "SELECT COUNT(*) AS n FROM information_schema.processlist WHERE state LIKE 'Waiting for semi-sync%'";
        while sql
            .query_one("look for the commit", waiting)
            .await
            .unwrap()
            .text("n")
            != Some("1")
        {
            assert!(
                tokio::time::timeout(Duration::from_millis(10), &mut insert)
                    .await
                    .is_err()
            );
        }
        stream.acknowledge(&file, end).await.unwrap();
        tokio::time::timeout(TEST_TIMEOUT, insert).await.unwrap();
    });
    let acknowledged = server.sql(&format!("SHOW GLOBAL STATUS LIKE '{count}'"));
    assert!(acknowledged.ends_with("\t1"), "{acknowledged}");
}

fn last_file(server: &MysqlServer) -> String {
    let path = server.binlog_files().pop().unwrap();
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn commits_of_mysql_wait_for_the_acknowledgement() {
    let switch_on = "INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'; \
                     SET GLOBAL rpl_semi_sync_source_enabled = ON, GLOBAL rpl_semi_sync_source_timeout = 60000";
    assert_commits_wait(MysqlVersion::Mysql97, switch_on, "Rpl_semi_sync_source_yes_tx");
}

#[test]
fn commits_of_mariadb_wait_for_the_acknowledgement() {
    let switch_on =
        "SET GLOBAL rpl_semi_sync_master_enabled = ON, GLOBAL rpl_semi_sync_master_timeout = 60000";
    for version in [MysqlVersion::MariaDb1011, MysqlVersion::MariaDb118] {
        assert_commits_wait(version, switch_on, "Rpl_semi_sync_master_yes_tx");
    }
}

/// What a dump of everything from `file` on ends with, before anything of the log comes.
fn refusal(server: &MysqlServer, file: &str, position: u64) -> MysqlError {
    block_on(async {
        let request = to_the_end(file, BinlogOffset(position));
        let mut stream = BinlogStream::start(&root(server), &replica(4003, false), &request).await?;
        read_files(&mut stream).await
    })
    .unwrap_err()
}

#[test]
fn a_source_that_lacks_what_is_asked_for_says_so() {
    for version in ALL {
        let server = MysqlServer::start_new(version);
        server.sql("CREATE DATABASE d; FLUSH BINARY LOGS; FLUSH BINARY LOGS");
        // MariaDB keeps a file until a checkpoint of its own has passed it.
        wait_for("the first file to go", TEST_TIMEOUT, || {
            server.sql("PURGE BINARY LOGS TO 'bin.000002'");
            server.binlog_files().len() == 2
        });
        for file in ["bin.000001", "bin.000009"] {
            let error = refusal(&server, file, 4);
            assert!(
                matches!(error, MysqlError::LogMissing { .. }),
                "{version}: {error}"
            );
            assert!(error.to_string().contains(file), "{version}: {error}");
            assert_eq!(error.class(), ErrorClass::Permanent);
        }
        let error = refusal(&server, "bin.000003", 100_000);
        assert!(matches!(error, MysqlError::PastEnd { .. }), "{version}: {error}");
        // A file that vanished from under the server, on the way.
        std::fs::remove_file(server.binlog_directory().join("bin.000003")).unwrap();
        let error = refusal(&server, "bin.000002", 4);
        assert!(
            matches!(error, MysqlError::LogMissing { .. }),
            "{version}: {error}"
        );
    }
}

/// The second one with a number takes the first one's place, and the first one is told.
#[test]
fn two_replicas_of_one_number() {
    for version in ALL {
        let server = MysqlServer::start_new(version);
        let options = root(&server);
        block_on(async {
            let request = from_now_on("bin.000001");
            let mut first = BinlogStream::start(&options, &replica(4004, false), &request)
                .await
                .unwrap();
            while first.next().await.unwrap() != StreamItem::Heartbeat {}
            let mut second = BinlogStream::start(&options, &replica(4004, false), &request)
                .await
                .unwrap();
            second.next().await.unwrap();
            let ended = tokio::time::timeout(TEST_TIMEOUT, async {
                loop {
                    if let Err(error) = first.next().await {
                        break error;
                    }
                }
            });
            let error = ended.await.unwrap();
            assert!(
                matches!(error, MysqlError::ReplicaIdInUse { server_id: 4004, .. }),
                "{version}: {error}"
            );
            assert_eq!(error.class(), ErrorClass::Transient);
        });
    }
}

/// Heartbeats come on an idle log; a source that says nothing any more is given up.
#[test]
fn a_silent_source_is_given_up() {
    let server = MysqlServer::start_new(MysqlVersion::MariaDb1011);
    let options = root(&server);
    block_on(async {
        let mut stream = BinlogStream::start(&options, &replica(4005, false), &from_now_on("bin.000001"))
            .await
            .unwrap();
        for _ in 0..2 {
            while stream.next().await.unwrap() != StreamItem::Heartbeat {}
        }
        let pid = server.pid().unwrap().to_string();
        let signal = |name: &str| {
            let sent = std::process::Command::new("kill").args([name, &pid]).status();
            assert!(sent.unwrap().success());
        };
        signal("-STOP");
        let error = loop {
            // Dropped waits lose nothing and do not reset the clock.
            if let Ok(Err(error)) = tokio::time::timeout(Duration::from_millis(20), stream.next()).await {
                break error;
            }
        };
        signal("-CONT");
        assert!(matches!(error, MysqlError::Timeout { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::Transient);
    });
    server.sql("SELECT 1");
}

#[test]
fn a_dump_needs_its_privilege() {
    for version in ALL {
        let server = MysqlServer::builder(version)
            .account("nobody", "sesame", "SELECT")
            .start();
        let options = ConnectOptions::parse(&server.url_as("nobody")).unwrap();
        let options = options.with_password(tidemark_types::Secret::new("sesame"));
        let error = block_on(BinlogStream::start(
            &options,
            &replica(4006, false),
            &from_now_on("bin.000001"),
        ))
        .unwrap_err();
        assert_eq!(error.class(), ErrorClass::Config, "{version}: {error}");
        assert!(
            error.to_string().contains("REPLICATION SLAVE"),
            "{version}: {error}"
        );
    }
}

/// An agent whose repository is down does not read. The source waits for it, and for its own heartbeats, and goes on.
#[test]
fn a_replica_that_does_not_read_for_a_while_is_kept() {
    for version in ALL {
        let server = MysqlServer::builder(version)
            .option("max_allowed_packet = 64M")
            .option("net_write_timeout = 1")
            .option("net_retry_count = 1")
            .start();
        load(&server);
        let files = server.binlog_files().len();
        let dumped = block_on(async {
            let request = to_the_end("bin.000001", BinlogOffset::FIRST_EVENT);
            let mut stream = BinlogStream::start(&root(&server), &replica(4007, false), &request)
                .await
                .unwrap();
            // Far longer than the server's patience.
            tokio::time::sleep(Duration::from_secs(4)).await;
            read_files(&mut stream).await.unwrap()
        });
        assert_eq!(dumped.len(), files, "{version}");
    }
}

#[test]
fn replicas_are_seen_and_their_numbers_left_to_them() {
    for version in ALL {
        let server = MysqlServer::start_new(version);
        let options = root(&server);
        let identity = ReplicaIdentity::new("test");
        block_on(async {
            let mut sql = Sql::connect(&options).await.unwrap();
            let number = sql.unused_server_id(&identity).await.unwrap();
            let stream =
                BinlogStream::start(&options, &replica(number, false), &from_now_on("bin.000001")).await;
            let replicas = sql.replicas().await.unwrap();
            assert_eq!(replicas.len(), 1);
            assert_eq!(replicas[0].server_id, number);
            assert_ne!(sql.unused_server_id(&identity).await.unwrap(), number);
            drop(stream);
        });
    }
}

/// Log from before `gtid_mode = ON` is not sent while it is, and is again when it is not.
#[test]
fn log_without_gtids_comes_when_the_mode_permits_it() {
    let server = MysqlServer::builder(MysqlVersion::Mysql97)
        .option("gtid_mode = ON_PERMISSIVE")
        .start();
    server.sql("SET GTID_NEXT = 'ANONYMOUS'; CREATE DATABASE d; SET GTID_NEXT = 'AUTOMATIC'");
    server.sql("SET GLOBAL gtid_mode = ON");
    let error = refusal(&server, "bin.000001", 4);
    assert!(matches!(error, MysqlError::WithoutGtids { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Config);
    assert!(
        error.to_string().contains("SET GLOBAL gtid_mode = ON_PERMISSIVE"),
        "{error}"
    );
    server.sql("SET GLOBAL gtid_mode = ON_PERMISSIVE");
    let request = to_the_end("bin.000001", BinlogOffset::FIRST_EVENT);
    assert_eq!(dump_files(&server, &request).len(), server.binlog_files().len());
}
