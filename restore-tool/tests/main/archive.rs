//! An archive of binlog files, made as an agent would make it, but all at once.

use std::path::Path;
use std::sync::Arc;

use tidemark_mysql::archive::{BinlogBranch, BranchEnd};
use tidemark_mysql::binlog::{BinlogDecoder, Fact, Flavor, Transaction, TransactionKind, Transactions};
use tidemark_repository::base::{BackupFacts, BackupId, BackupWriter, Intent, LogPosition};
use tidemark_repository::log::{ChainHash, Resume, SliceAssembler, SliceDraft, SliceFlags};
use tidemark_repository::{Archive, Branch, NewServer, Repository, SealedSlice};
use tidemark_storage::{StorageOptions, open};
use tidemark_testkit::MysqlVersion;
use tidemark_types::{Generation, Timestamp};
use tokio::runtime::Runtime;

/// A repository with the binlogs of one server, `orders`.
pub struct BinlogArchive {
    runtime: Runtime,
    archive: Archive,
    flavor: Flavor,
    backups: u32,
}

/// One binlog file as it is to be archived.
pub struct File {
    /// Its number.
    pub number: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether the server has ended it.
    pub has_ended: bool,
}

impl File {
    /// A server's file as a replica gets it: not in use, whether or not it is.
    pub fn read(path: &Path, has_ended: bool) -> File {
        /// The lowest byte of the flags in the header of the first event, the format description.
        const FLAGS: usize = 4 + 17;
        const IN_USE: u8 = 1;
        let mut bytes = std::fs::read(path).unwrap();
        bytes[FLAGS] &= !IN_USE;
        let name = path.file_name().unwrap().to_str().unwrap();
        File {
            number: name.rsplit_once('.').unwrap().1.parse().unwrap(),
            bytes,
            has_ended,
        }
    }
}

impl BinlogArchive {
    /// An archive in the repository at `url`.
    pub fn new(url: &str, version: MysqlVersion) -> BinlogArchive {
        let runtime = Runtime::new().unwrap();
        let flavor = if version.is_mariadb() {
            Flavor::MariaDb
        } else {
            Flavor::MySql
        };
        let new = NewServer {
            engine: if version.is_mariadb() { "mariadb" } else { "mysql" }.to_owned(),
            system_id: "1".to_owned(),
            version: version.number().to_owned(),
            log_file_len: None,
        };
        let archive = runtime.block_on(async {
            let storage = open(&url.parse().unwrap(), &StorageOptions::default())
                .await
                .unwrap();
            let repository = Repository::open_or_create(Arc::clone(&storage), Timestamp(0))
                .await
                .unwrap();
            let server = "orders".parse().unwrap();
            repository
                .create_archive(&server, Generation(1), new, Timestamp(0))
                .await
                .unwrap()
        });
        BinlogArchive {
            runtime,
            archive,
            flavor,
            backups: 0,
        }
    }

    /// Stores `files` as branch `number`, in slices of `step` bytes and wider ones.
    pub fn store(&self, number: u32, follows: Option<BranchEnd>, files: &[File], step: usize) {
        let branch = Branch(number);
        let record = BinlogBranch {
            basename: "bin".to_owned(),
            flavor: self.flavor,
            server: "1".to_owned(),
            first_file: files[0].number,
            reason: "a test".to_owned(),
            follows,
        };
        let text = serde_json::to_vec(&record).unwrap();
        let put = self
            .archive
            .put_branch_file(branch, BinlogBranch::FILE_NAME, text.into());
        self.runtime.block_on(put).unwrap();
        let mut assembler =
            SliceAssembler::new(self.archive.record().chain_key, Resume::origin(files[0].number));
        assert_eq!(ChainHash::ORIGIN, Resume::origin(1).seed);
        for file in files {
            self.store_file(branch, file, step, &mut assembler);
        }
    }

    fn store_file(&self, branch: Branch, file: &File, step: usize, assembler: &mut SliceAssembler) {
        let (mut decoder, mut transactions) = (BinlogDecoder::new(), Transactions::new());
        let mut rest = file.bytes.as_slice();
        while !rest.is_empty() {
            let room = usize::try_from(assembler.room()).unwrap();
            let (now, later) = rest.split_at(rest.len().min(step).min(room));
            rest = later;
            assembler.push(now).unwrap();
            let mut input = now;
            while let Some(event) = decoder.next(&mut input).unwrap() {
                let fact = Fact::of(&event).unwrap();
                if let Some(transaction) = transactions.add(&event, fact.as_ref()).unwrap() {
                    note(assembler, &transaction);
                }
            }
            let back = decoder.position().bytes_since(decoder.whole());
            self.put(branch, assembler.cut(back, file.has_ended && rest.is_empty()));
        }
    }

    fn put(&self, branch: Branch, drafts: Vec<SliceDraft>) {
        for draft in drafts {
            let slice = SealedSlice::seal(&draft).unwrap();
            self.runtime
                .block_on(self.archive.put_slice(branch, &slice))
                .unwrap();
        }
    }

    /// A base backup without any file, whose data are those of one place in the log.
    pub fn back_up(&mut self, branch: u32, file: u64, offset: u64, at: Timestamp) {
        let place = LogPosition {
            branch,
            file,
            offset,
            text: format!("bin.{file:06}:{offset}"),
        };
        let facts = BackupFacts {
            engine: self.archive.record().engine.clone(),
            server_version: self.archive.record().version.clone(),
            begin: place.clone(),
            end: place,
            started: at,
            stopped: at,
            engine_facts: serde_json::Value::Null,
        };
        self.backups += 1;
        let intent = Intent {
            backup: BackupId::new(at, self.backups),
            parent: None,
            host: String::new(),
            boot: String::new(),
            process: 1,
            started: at,
            refreshed: at,
        };
        self.runtime.block_on(async {
            let writer = BackupWriter::begin(self.archive.base(), intent, None, |_| true)
                .await
                .unwrap();
            writer.finish(Vec::new(), facts).await.unwrap();
        });
    }
}

fn note(assembler: &mut SliceAssembler, transaction: &Transaction) {
    assembler.note_time(transaction.commit_time);
    if transaction.contains_ddl {
        assembler.note_flags(SliceFlags::DDL);
    }
    if matches!(transaction.kind, TransactionKind::XaPrepare(_)) {
        assembler.note_flags(SliceFlags::PREPARE);
    }
}
