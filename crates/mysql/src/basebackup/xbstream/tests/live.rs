//! What mariadb-backup really writes, compared with what its own unpacker makes of it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use tidemark_testkit::{MysqlServer, MysqlVersion, Scratch};

use super::*;

const LOAD: &str = "
    CREATE DATABASE d; USE d;
    CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(2000));
    INSERT INTO t SELECT seq, REPEAT(MD5(seq), 50) FROM seq_1_to_10000;
    CREATE TABLE m (id INT PRIMARY KEY, v TEXT) ENGINE = MyISAM;
    INSERT INTO m SELECT seq, MD5(seq) FROM seq_1_to_1000;
    CREATE TABLE nothing (id INT) ENGINE = MyISAM;
    CREATE TABLE a (id INT PRIMARY KEY, v TEXT) ENGINE = Aria;
    INSERT INTO a SELECT seq, MD5(seq) FROM seq_1_to_1000;";

/// Tables of every engine come, go, change their form and their name.
const CHURN: &str = "USE d;
    CREATE OR REPLACE TABLE d.c (id INT PRIMARY KEY, v TEXT) ENGINE = Aria; INSERT INTO d.c SELECT seq, MD5(seq) FROM seq_1_to_200;
    ALTER TABLE d.c ADD COLUMN w INT; RENAME TABLE d.c TO d.e; ALTER TABLE d.e ENGINE = InnoDB; ALTER TABLE d.e ENGINE = MyISAM;
    TRUNCATE d.a; INSERT INTO d.a SELECT seq, MD5(seq) FROM seq_1_to_2000; OPTIMIZE TABLE d.m;
    CREATE OR REPLACE TABLE d.f (id INT PRIMARY KEY, v TEXT); INSERT INTO d.f SELECT seq, MD5(seq) FROM seq_1_to_2000;
    DROP TABLE d.e; TRUNCATE d.f; DROP TABLE d.f;";

fn backup(server: &MysqlServer) -> Vec<u8> {
    let output = server
        .tool("mariadb-backup")
        .args(["--backup", "--stream=xbstream", "--parallel=2"])
        .arg(format!("--datadir={}", server.data_directory().display()))
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{messages}");
    output.stdout
}

/// What the vendor's unpacker makes of a stream.
fn unpack(version: MysqlVersion, stream: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let scratch = Scratch::new("xb");
    let mut unpacker = version
        .tool("mbstream")
        .args(["-x", "-C"])
        .arg(scratch.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    unpacker.stdin.take().unwrap().write_all(stream).unwrap();
    assert!(unpacker.wait().unwrap().success());
    let mut files = BTreeMap::new();
    read_tree(scratch.path(), scratch.path(), &mut files);
    files
}

#[track_caller]
fn unpacked_alike(version: MysqlVersion) {
    let server = MysqlServer::start_new(version);
    server.sql(LOAD);
    let stream = backup(&server);
    let ours = files(&stream, 64 << 10).unwrap();
    assert!(ours.keys().any(|path| path == "d/t.ibd" || path == "d/t.new"));
    assert!(ours.contains_key("d/nothing.MYD"), "an empty file");
    assert!(ours.len() > 100);
    let theirs = unpack(version, &stream);
    assert!(ours == theirs, "{:?}\n{:?}", ours.keys(), theirs.keys());

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = SetOnDrop(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                server.sql(CHURN);
            }
        });
        for _ in 0..3 {
            let stream = backup(&server);
            let (ours, theirs) = (files(&stream, 64 << 10).unwrap(), unpack(version, &stream));
            assert!(ours == theirs, "{:?}\n{:?}", ours.keys(), theirs.keys());
        }
    });
}

/// Ends the churn, also when an assertion fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn read_tree(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_tree(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.insert(name, fs::read(&path).unwrap());
        }
    }
}

#[test]
fn mariadb_1011() {
    unpacked_alike(MysqlVersion::MariaDb1011);
}

#[test]
fn mariadb_118() {
    unpacked_alike(MysqlVersion::MariaDb118);
}
