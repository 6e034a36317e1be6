//! Dumps from real servers: their files come out byte by byte.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tidemark_testkit::{MysqlServer, MysqlVersion, wait_for};

use super::client::Client;
use super::*;
use crate::binlog::{BinlogDecoder, EventHeader, FileEnd};

fn flavor(version: MysqlVersion) -> Flavor {
    if version.is_mariadb() {
        Flavor::MariaDb
    } else {
        Flavor::MySql
    }
}

fn start_dump(server: &MysqlServer, replica: &Replica, command: &[u8]) -> Client {
    let mut client = Client::connect(&server.socket());
    for statement in replica.statements(flavor(server.version())) {
        client.statement(&statement);
    }
    client.execute(&replica.registration());
    client.send(command, 0);
    client
}

/// What lies in files, by file, from where a dump begins to the end of the log.
fn dump_files(server: &MysqlServer, replica: &Replica, command: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut client = start_dump(server, replica, command);
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut current = String::new();
    let mut dump = Dump::new();
    loop {
        let payload = client.receive().0;
        let bytes = match SourcePacket::read(&payload, false).unwrap() {
            SourcePacket::End => return files,
            SourcePacket::Error { code, message } => panic!("{code} {message}"),
            SourcePacket::Event { bytes, .. } => bytes,
        };
        match dump.take(bytes).unwrap() {
            Dumped::File { file, position } => {
                file.clone_into(&mut current);
                let is_beginning = position == BinlogOffset::FIRST_EVENT;
                let magic: &[u8] = if is_beginning { b"\xFEbin" } else { b"" };
                files.insert(file.to_owned(), magic.to_vec());
            }
            Dumped::Event { bytes, .. } => files.get_mut(&current).unwrap().extend(bytes),
            Dumped::Format(_) | Dumped::Aside(_) => {}
        }
    }
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
    let replica = replica(4001, false);
    let request = |file, position| DumpRequest {
        file,
        position,
        ends_with_log: true,
    };
    let whole_log = request("bin.000001", BinlogOffset::FIRST_EVENT);
    let dumped = dump_files(
        &server,
        &replica,
        &whole_log.command(&replica, flavor(version)).unwrap(),
    );
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
    let request = request(last, middle);
    let mut commands = vec![request.command(&replica, flavor(version)).unwrap()];
    // MySQL's other command, whose position has 64 bits.
    commands.extend((flavor(version) == Flavor::MySql).then(|| request.long_command(&replica, 3).unwrap()));
    for command in commands {
        let rest = dump_files(&server, &replica, &command);
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
    let file = server.binlog_files().pop().unwrap();
    let file = file.file_name().unwrap().to_str().unwrap();
    let request = DumpRequest {
        file,
        position: BinlogOffset::FIRST_EVENT,
        ends_with_log: false,
    };
    let replica = replica(4002, true);
    let mut client = start_dump(
        &server,
        &replica,
        &request.command(&replica, flavor(version)).unwrap(),
    );
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| server.sql("INSERT INTO d.t VALUES (1)"));
        let end = loop {
            let payload = client.receive().0;
            let packet = SourcePacket::read(&payload, true).unwrap();
            if let SourcePacket::Event {
                bytes,
                wants_acknowledgement: true,
            } = packet
            {
                break EventHeader::parse(bytes).unwrap().end_position;
            }
        };
        let waiting =
            "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'INSERT INTO d.t%'";
        wait_for("the commit to wait", Duration::from_secs(20), || {
            server.sql(waiting) == "1"
        });
        assert!(!commit.is_finished());
        client.send(&semi_sync_acknowledgement(file, BinlogOffset(end.into())), 0);
        commit.join().unwrap();
    });
    let acknowledged = server.sql(&format!("SHOW GLOBAL STATUS LIKE '{count}'"));
    assert!(acknowledged.ends_with("\t1"), "{acknowledged}");
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
