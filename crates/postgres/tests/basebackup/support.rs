//! Taking a local base backup into a plain directory, the way the agent does into packs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tidemark_postgres::basebackup::{
    BackupSession, BackupStop, BadPage, Scan, ServerFacts, SourceReader, Tablespace, scan,
};
use tidemark_postgres::control_file::ControlFile;
use tidemark_postgres::restore::link_tablespaces;
use tidemark_testkit::{PostgresServer, ServerUser, run};
use tokio_postgres::{Client, NoTls};

/// A superuser's connection to the database `postgres`.
pub async fn connect(server: &PostgresServer) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.conninfo(), NoTls)
        .await
        .expect("connect");
    tokio::spawn(connection);
    client
}

/// What a copied backup knows.
pub struct Copied {
    pub stop: BackupStop,
    pub facts: ServerFacts,
    pub control: ControlFile,
    pub bad: Vec<BadPage>,
}

/// Takes a base backup of `server` into `target`, tablespaces into `place(oid)`.
pub async fn copy_backup(server: &PostgresServer, target: &Path, place: impl Fn(u32) -> PathBuf) -> Copied {
    let facts = ServerFacts::query(&connect(server).await)
        .await
        .expect("ask for facts");
    let session = BackupSession::start(connect(server).await, "tidemark test", true)
        .await
        .expect("begin");
    let (control, _) = ControlFile::read(server.data_directory()).expect("read pg_control");
    let scan = scan(server.data_directory(), control.catalog_version).expect("scan");
    let bad = lay_down(&scan, &control, target, place);
    session.check().await.expect("check");
    let stop = session.stop().await.expect("stop");
    fs::write(target.join("backup_label"), &stop.backup_label).unwrap();
    ServerUser::current().own(&target.join("backup_label"));
    Copied {
        stop,
        facts,
        control,
        bad,
    }
}

fn lay_down(
    scan: &Scan,
    control: &ControlFile,
    target: &Path,
    place: impl Fn(u32) -> PathBuf,
) -> Vec<BadPage> {
    let user = ServerUser::current();
    let mapped: Vec<Tablespace> = scan
        .tablespaces
        .iter()
        .map(|tablespace| Tablespace {
            oid: tablespace.oid,
            location: place(tablespace.oid),
        })
        .collect();
    let map = link_tablespaces(target, &mapped).expect("link tablespaces");
    if !map.is_empty() {
        fs::write(target.join("tablespace_map"), map).unwrap();
        user.own(&target.join("tablespace_map"));
    }
    for directory in &scan.directories {
        let path = target.join(&directory.path);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(directory.mode)).unwrap();
        user.own(&path);
    }
    let mut bad = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    for file in &scan.files {
        let Some(reader) = SourceReader::open(file, control.pages_per_segment, true).expect("open") else {
            continue;
        };
        let mut content = Vec::new();
        loop {
            let read = reader.read(content.len() as u64, &mut buffer).expect("read");
            content.extend_from_slice(&buffer[..read.bytes]);
            bad.extend(read.bad);
            if read.bytes < buffer.len() {
                break;
            }
        }
        let path = target.join(&file.path);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)).unwrap();
        user.own(&path);
    }
    bad
}

/// Copies the server's whole pg_wal into `archive`, the segment in use closed before.
pub fn copy_wal(server: &PostgresServer, archive: &Path) {
    server.psql("SELECT pg_switch_wal()");
    let mut copy = ServerUser::current().command("cp");
    run(copy
        .arg("-r")
        .arg(server.data_directory().join("pg_wal"))
        .arg(archive))
    .expect_success();
}
