//! What mariadb-backup really writes, compared with what its own unpacker makes of it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

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

#[track_caller]
fn unpacked_alike(version: MysqlVersion) {
    let server = MysqlServer::start_new(version);
    server.sql(LOAD);
    let output = server
        .tool("mariadb-backup")
        .args(["--backup", "--stream=xbstream", "--parallel=2"])
        .arg(format!("--datadir={}", server.data_directory().display()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let scratch = Scratch::new("xb");
    let mut unpacker = version
        .tool("mbstream")
        .args(["-x", "-C"])
        .arg(scratch.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    unpacker.stdin.take().unwrap().write_all(&output.stdout).unwrap();
    assert!(unpacker.wait().unwrap().success());
    let ours = files(&output.stdout, 64 << 10).unwrap();
    assert!(ours.keys().any(|path| path == "d/t.ibd" || path == "d/t.new"));
    assert!(ours.contains_key("d/nothing.MYD"), "an empty file");
    assert!(ours.len() > 100);
    let mut theirs = BTreeMap::new();
    read_tree(scratch.path(), scratch.path(), &mut theirs);
    assert!(ours == theirs, "{:?}\n{:?}", ours.keys(), theirs.keys());
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
