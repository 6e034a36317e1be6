//! Base backups of real servers, without the log: stored, laid down again, started on.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tidemark_repository::Archive;
use tidemark_repository::base::{
    BackupFacts, BackupHeader, BackupKind as StoredKind, EntryKind, FrameDecoder, RestoreLimits,
};
use tidemark_storage::MemoryStorage;
use tidemark_testkit::{MysqlServer, MysqlVersion, Scratch, ServerUser, run};

use super::*;
use crate::config::Server;
use crate::state::ServerState;

/// A server, and an archive that says that its log is stored.
struct Fixture {
    server: MysqlServer,
    archive: Archive,
    state: Arc<ServerState>,
    settings: Server,
    _home: Scratch,
}

const MARIADB_LOAD: &str = "
    CREATE DATABASE d; USE d;
    CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(2000), KEY (v(10)));
    INSERT INTO t SELECT seq, REPEAT(MD5(seq), 20) FROM seq_1_to_50000;
    CREATE TABLE still (id INT PRIMARY KEY, v VARCHAR(2000));
    INSERT INTO still SELECT seq, REPEAT(MD5(seq), 20) FROM seq_1_to_50000;
    CREATE TABLE m (id INT PRIMARY KEY, v TEXT) ENGINE = MyISAM;
    INSERT INTO m SELECT seq, MD5(seq) FROM seq_1_to_1000;
    CREATE TABLE a (id INT PRIMARY KEY, v TEXT) ENGINE = Aria;
    INSERT INTO a SELECT seq, MD5(seq) FROM seq_1_to_1000;";

const MYSQL_LOAD: &str = "
    INSTALL PLUGIN clone SONAME 'mysql_clone.so';
    CREATE DATABASE d; USE d;
    CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(2000), KEY (v(10)));
    SET SESSION cte_max_recursion_depth = 100000;
    INSERT INTO t WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
        SELECT i, REPEAT(SHA2(i, 256), 10) FROM n;
    CREATE TABLE still LIKE t; INSERT INTO still SELECT * FROM t;";

/// A tenth of a percent of the rows, apart.
const CHANGE: &str = "UPDATE d.t SET v = REPEAT('x', 600) WHERE id % 1000 = 7; DELETE FROM d.t WHERE id = 11";
const DIGEST: &str = "SELECT COUNT(*), SUM(CRC32(v)) FROM d.t; CHECKSUM TABLE d.t, d.still";

impl Fixture {
    async fn new(version: MysqlVersion) -> Fixture {
        let server = MysqlServer::start_new(version);
        let (engine, load) = if version.is_mariadb() {
            ("mariadb", MARIADB_LOAD)
        } else {
            ("mysql", MYSQL_LOAD)
        };
        server.sql(load);
        let home = Scratch::new("agent");
        let text = format!(
            "[repository]\nurl = \"file:///r\"\n[[server]]\nname = \"shop\"\nengine = \"{engine}\"\n\
             url = \"mysql://root@localhost/?socket={}\"\n[server.base_backup]\n{}\n",
            server.socket().display(),
            if version.is_mariadb() {
                format!(
                    "program = \"{}\"",
                    version.prefix().join("usr/bin/mariadb-backup").display()
                )
            } else {
                format!("scratch_directory = \"{}\"", home.path().join("clone").display())
            },
        );
        let (_, archive) = crate::testing::shop(MemoryStorage::new(), 1 << 24).await;
        let state = ServerState::for_tests("shop");
        state.update(|facts| facts.branch = Some(Branch(3)));
        let settings = crate::config::server_of(&text);
        let Server::Mysql(mysql) = &settings else {
            panic!("no PostgreSQL here")
        };
        let source = LogSource::connect(mysql).await.unwrap();
        let record = BinlogBranch {
            basename: "bin".to_owned(),
            flavor: source.sql.flavor(),
            server: source.identity,
            first_file: 1,
            reason: String::new(),
            follows: None,
        };
        let record = serde_json::to_vec(&record).unwrap();
        archive
            .put_branch_file(Branch(3), BinlogBranch::FILE_NAME, record.into())
            .await
            .unwrap();
        Fixture {
            server,
            archive,
            state,
            settings,
            _home: home,
        }
    }

    fn job(&self, kind: BackupKind) -> Job {
        Job {
            server: self.settings.clone(),
            archive: self.archive.clone(),
            kind,
            log: LogWriter::Here(Arc::clone(&self.state)),
            progress: Arc::default(),
        }
    }

    /// Takes one, and commits it as if its log were stored.
    async fn back_up(&self, kind: BackupKind) -> (BackupHeader, ManifestFacts) {
        let job = self.job(kind);
        let Server::Mysql(settings) = &self.settings else {
            panic!("no PostgreSQL here")
        };
        let survey = survey::survey(settings).await.unwrap();
        let found = match kind {
            BackupKind::Full => None,
            BackupKind::Incremental => newest(&self.archive).await.unwrap(),
        };
        let parent = found.map(|(reader, facts)| Parent { reader, facts });
        assert!(parent.iter().all(|parent| parent.fits(&survey)));
        let dataset = Dataset {
            settings,
            survey: &survey,
            parent: parent.as_ref(),
        };
        let reader = parent.as_ref().map(|parent| Arc::clone(&parent.reader));
        let now = SystemClock.now();
        let id = reader.as_ref().map(|reader| reader.header().backup.clone());
        let intent = super::super::host::intent(now, id);
        let mut writer = BackupWriter::begin(self.archive.base(), intent, reader, |_| false)
            .await
            .unwrap();
        let copied = dataset
            .copy(&job, &mut writer, &CancellationToken::new())
            .await
            .unwrap();
        assert_eq!(copied.branch, Branch(3));
        assert!(copied.begin <= copied.end);
        let position = |at: Position| tidemark_repository::base::LogPosition {
            branch: 3,
            file: at.at.file,
            offset: at.at.offset,
            text: at.to_string(),
        };
        let facts = BackupFacts {
            engine: "mysql".to_owned(),
            server_version: copied.server_version,
            begin: position(copied.begin),
            end: position(copied.end),
            started: now,
            stopped: copied.stopped,
            engine_facts: copied.engine_facts,
        };
        let header = writer.finish(copied.packs, facts).await.unwrap();
        let facts = serde_json::from_value(header.facts.engine_facts.clone()).unwrap();
        (header, facts)
    }

    /// Lays a backup down in `directory`.
    async fn lay_down(&self, header: &BackupHeader, directory: &Path) {
        let reader = BackupReader::open(self.archive.base(), &header.backup)
            .await
            .unwrap();
        let mut decoder = FrameDecoder::new(self.archive.base().hash_key()).unwrap();
        let mut files = reader.manifest().files();
        fs::create_dir(directory).unwrap();
        while let Some(batch) = reader
            .next_batch(&mut files, &RestoreLimits::default())
            .await
            .unwrap()
        {
            let made: Vec<Option<File>> = batch
                .files
                .iter()
                .map(|file| {
                    let path = directory.join(&file.meta.path);
                    if file.meta.kind == EntryKind::Directory {
                        fs::create_dir_all(path).unwrap();
                        return None;
                    }
                    let made = File::create(path).unwrap();
                    made.set_len(file.size).unwrap();
                    Some(made)
                })
                .collect();
            for fetch in &batch.fetches {
                let fetched = batch.read(&**self.archive.storage(), fetch).await.unwrap();
                for used in &fetch.frames {
                    let plain = batch.decode(&mut decoder, fetch, &fetched, used).unwrap();
                    for write in &used.writes {
                        let file = made[write.file as usize].as_ref().unwrap();
                        file.write_all_at(write.bytes(plain), write.offset).unwrap();
                    }
                }
            }
        }
        ServerUser::current().own_all(directory);
    }

    /// Lays a backup down, prepares it where that must be, checks its pages and starts a server on it.
    async fn restore(&self, header: &BackupHeader) -> MysqlServer {
        let version = self.server.version();
        let scratch = Scratch::new("laid");
        let base = scratch.path().join("data");
        self.lay_down(header, &base).await;
        if version.is_mariadb() {
            let mut prepare = version.tool("mariadb-backup");
            run(prepare
                .arg("--prepare")
                .arg(format!("--target-dir={}", base.display())))
            .expect_success();
        }
        for table in ["t", "still"] {
            let path = base.join(format!("d/{table}.ibd"));
            run(version.tool("innochecksum").arg(path)).expect_success();
        }
        let restored = MysqlServer::builder(version).create_with(|data| fs::rename(&base, data).unwrap());
        restored.start();
        restored
    }
}

async fn full_and_incremental(version: MysqlVersion) {
    let fixture = Fixture::new(version).await;
    let (full, facts) = fixture.back_up(BackupKind::Full).await;
    assert_eq!(full.kind, StoredKind::Full);
    assert_eq!(facts.server.version, fixture.server.sql("SELECT VERSION()"));
    let first = fixture.server.sql(DIGEST);
    fixture.server.sql(CHANGE);
    let second = fixture.server.sql(DIGEST);
    let (incremental, facts) = fixture.back_up(BackupKind::Incremental).await;
    assert_eq!(incremental.parent.as_ref(), Some(&full.backup));
    let (new, all) = (incremental.totals.new_bytes, full.totals.bytes);
    assert!(new < all / 4, "{new} of {all} bytes are new");
    fixture.server.sql("UPDATE d.t SET v = 'later'");

    let restored = fixture.restore(&full).await;
    assert_eq!(restored.sql(DIGEST), first);
    restored.stop();
    let restored = fixture.restore(&incremental).await;
    assert_eq!(restored.sql(DIGEST), second);
    if version.is_mariadb() {
        let tables = "CHECKSUM TABLE d.m, d.a";
        assert_eq!(restored.sql(tables), fixture.server.sql(tables));
        let exact = facts.exact.unwrap();
        assert_eq!(exact.gtid_binlog_pos, facts.after.gtid_binlog_pos);
        assert_eq!((exact.file, exact.offset), (facts.after.file, facts.after.offset));
    } else {
        assert_eq!(
            Some(restored.sql("SELECT @@gtid_executed")),
            facts.after.gtid_executed
        );
        assert_eq!(facts.exact, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_stored_page_by_page() {
    full_and_incremental(MysqlVersion::Mysql97).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_1011_is_stored_page_by_page() {
    full_and_incremental(MysqlVersion::MariaDb1011).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_118_is_stored_page_by_page() {
    full_and_incremental(MysqlVersion::MariaDb118).await;
}

/// Tables of every engine come, go, change their form and their name.
const CHURN: &str = "USE d;
    CREATE OR REPLACE TABLE c (id INT PRIMARY KEY, v TEXT) ENGINE = Aria; INSERT INTO c SELECT seq, MD5(seq) FROM seq_1_to_200;
    ALTER TABLE c ADD COLUMN w INT; RENAME TABLE c TO e; ALTER TABLE e ENGINE = InnoDB; ALTER TABLE e ENGINE = MyISAM;
    TRUNCATE a; INSERT INTO a SELECT seq, MD5(seq) FROM seq_1_to_1000; OPTIMIZE TABLE m; DROP TABLE e;";

/// The program then copies tables again, renames and removes them in the stream.
async fn amid_ddl(version: MysqlVersion) {
    let fixture = Fixture::new(version).await;
    fixture.server.sql(CHURN);
    let client = fixture.server.client();
    let done = CancellationToken::new();
    let (stop, ended) = (done.clone(), done.clone().drop_guard());
    let churning = std::thread::spawn(move || {
        while !stop.is_cancelled() {
            client.query(CHURN);
        }
    });
    let (full, _) = fixture.back_up(BackupKind::Full).await;
    let (incremental, _) = fixture.back_up(BackupKind::Incremental).await;
    drop(ended);
    churning.join().unwrap();
    let digest = "CHECKSUM TABLE d.t, d.still, d.m";
    for header in [full, incremental] {
        let restored = fixture.restore(&header).await;
        assert_eq!(restored.sql(digest), fixture.server.sql(digest));
        // Of a table that is being dropped the program itself may leave the definition without rows behind.
        let checked = restored.sql("CHECK TABLE d.a, d.m, d.t, d.still");
        assert!(checked.lines().all(|line| line.ends_with("\tOK")), "{checked}");
        assert_eq!(checked.lines().count(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_mariadb_1011_amid_ddl_restores() {
    amid_ddl(MysqlVersion::MariaDb1011).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_mariadb_118_amid_ddl_restores() {
    amid_ddl(MysqlVersion::MariaDb118).await;
}

/// Without a word about the way, what cannot be cloned is dumped.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_other_tables_than_innodbs_is_dumped() {
    let fixture = Fixture::new(MysqlVersion::Mysql97).await;
    fixture
        .server
        .sql("CREATE TABLE d.m (id INT PRIMARY KEY) ENGINE = MyISAM; INSERT INTO d.m VALUES (1)");
    let (full, facts) = fixture.back_up(BackupKind::Full).await;
    assert_eq!((facts.method, facts.missing.len()), (BackupMethod::Dump, 0));
    let exact = facts.exact.unwrap();
    assert_eq!(full.facts.begin.text, format!("{}:{}", exact.file, exact.offset));
    fixture.server.sql("INSERT INTO d.m VALUES (2)");
    let (incremental, _) = fixture.back_up(BackupKind::Incremental).await;
    assert!(
        incremental.totals.new_bytes < 100_000,
        "{}",
        incremental.totals.new_bytes
    );

    let scratch = Scratch::new("laid");
    let base = scratch.path().join("data");
    fixture.lay_down(&incremental, &base).await;
    let restored = MysqlServer::start_new(MysqlVersion::Mysql97);
    let mut paths = Vec::new();
    for folder in ["", "30-tables", "40-data"] {
        let entries = fs::read_dir(base.join("dump").join(folder)).unwrap();
        paths.extend(
            entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_file()),
        );
    }
    paths.sort();
    for path in paths {
        restored.sql(&fs::read_to_string(path).unwrap());
    }
    let digest = "CHECKSUM TABLE d.t, d.still, d.m";
    assert_eq!(restored.sql(digest), fixture.server.sql(digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_files_are_not_on_this_host_is_dumped() {
    let fixture = Fixture::new(MysqlVersion::MariaDb118).await;
    let Server::Mysql(settings) = &fixture.settings else {
        panic!("no PostgreSQL here")
    };
    let way = survey::survey(settings).await.unwrap().way;
    assert!(matches!(way, Way::Program { .. }));
    // As seen from another host.
    let (data, away) = (
        fixture.server.data_directory(),
        fixture.server.data_directory().with_extension("away"),
    );
    fs::rename(&data, &away).unwrap();
    let way = survey::survey(settings).await.unwrap().way;
    assert!(matches!(way, Way::Dump));
    fs::rename(&away, &data).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_log_is_not_stored_is_not_backed_up() {
    let fixture = Fixture::new(MysqlVersion::MariaDb118).await;
    fixture.state.update(|facts| facts.branch = Some(Branch(4)));
    let job = fixture.job(BackupKind::Full);
    let failed = super::super::take::take(&job, &CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(failed.to_string(), "the log of shop is not being stored yet");
    let record = BinlogBranch {
        basename: "bin".to_owned(),
        flavor: tidemark_mysql::binlog::Flavor::MariaDb,
        server: "1".to_owned(),
        first_file: 1,
        reason: String::new(),
        follows: None,
    };
    let record = serde_json::to_vec(&record).unwrap();
    fixture
        .archive
        .put_branch_file(Branch(4), BinlogBranch::FILE_NAME, record.into())
        .await
        .unwrap();
    let failed = super::super::take::take(&job, &CancellationToken::new())
        .await
        .unwrap_err();
    assert!(
        failed
            .to_string()
            .starts_with("the log of shop is stored of server 1 (bin.*)"),
        "{failed}"
    );
    let left = tidemark_repository::base::live_intents(&fixture.archive.base(), SystemClock.now()).await;
    assert_eq!(left.unwrap(), []);
}
