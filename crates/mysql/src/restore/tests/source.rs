//! An original that is lost: its base, its log, what it held at which moment.

use std::fs;
use std::path::{Path, PathBuf};

use tidemark_testkit::{MysqlServer, MysqlVersion, Scratch, ServerUser, run};

use crate::binlog::{BinlogOffset, Flavor};
use crate::restore::{Executed, FileEnding, LogFile};

/// A moment of the original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) file: String,
    pub(super) offset: BinlogOffset,
    /// `gtid_executed`, or `gtid_binlog_pos`.
    pub(super) executed: String,
    /// MariaDB's `gtid_binlog_state`.
    pub(super) binlog_state: Option<String>,
    /// CHECKSUM TABLE of every table.
    pub(super) checksums: String,
    /// XA RECOVER.
    pub(super) prepared: String,
}

/// The original, with a copy of its data directory made while it was stopped.
pub(super) struct Source {
    pub(super) server: MysqlServer,
    pub(super) base: Moment,
    scratch: Scratch,
}

pub(super) fn flavor(version: MysqlVersion) -> Flavor {
    if version.is_mariadb() {
        Flavor::MariaDb
    } else {
        Flavor::MySql
    }
}

impl Source {
    /// Starts an original with these options, lets `load` write to it, and copies its data.
    pub(super) fn new(version: MysqlVersion, options: &[&str], load: &str) -> Source {
        let server = MysqlServer::builder(version).options(options).start();
        server.sql(load);
        let base = Source::moment_of(&server);
        server.stop();
        let scratch = Scratch::new("base");
        copy(&server.data_directory(), &scratch.path().join("data"));
        server.start();
        Source {
            server,
            base,
            scratch,
        }
    }

    pub(super) fn version(&self) -> MysqlVersion {
        self.server.version()
    }

    /// Lays the base down: a copy of the copy.
    pub(super) fn lay_down(&self, to: &Path) {
        copy(&self.scratch.path().join("data"), to);
    }

    /// What it holds now. Nobody may write meanwhile.
    pub(super) fn moment(&self) -> Moment {
        Source::moment_of(&self.server)
    }

    fn moment_of(server: &MysqlServer) -> Moment {
        let is_mariadb = server.version().is_mariadb();
        let (status, executed) = if is_mariadb {
            ("SHOW MASTER STATUS", "SELECT @@gtid_binlog_pos")
        } else {
            ("SHOW BINARY LOG STATUS", "SELECT @@gtid_executed")
        };
        let status = server.sql(status);
        let mut columns = status.split('\t');
        Moment {
            file: columns.next().unwrap().to_owned(),
            offset: BinlogOffset(columns.next().unwrap().parse().unwrap()),
            executed: server.sql(executed).replace('\n', ""),
            binlog_state: is_mariadb.then(|| server.sql("SELECT @@gtid_binlog_state")),
            checksums: checksums(|sql| server.sql(sql)),
            prepared: prepared(|sql| server.sql(sql)),
        }
    }

    /// The base's, as a restore takes it.
    pub(super) fn executed(&self) -> Executed {
        Executed::parse(flavor(self.version()), &self.base.executed).unwrap()
    }

    /// The files from `first` on up to a moment, each with its path.
    pub(super) fn files(&self, first: &str, until: &Moment) -> Vec<(LogFile, PathBuf)> {
        let named = self.server.binlog_files().into_iter().map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, path)
        });
        let from_first = named.skip_while(|(name, _)| name != first);
        let mut files: Vec<_> = from_first
            .map(|(name, path)| {
                let ending = if name == until.file {
                    FileEnding::Cut(until.offset)
                } else {
                    FileEnding::Ended
                };
                let file = LogFile {
                    branch: 1,
                    name,
                    ending,
                };
                (file, path)
            })
            .collect();
        let last = files.iter().position(|(file, _)| file.name == until.file);
        files.truncate(last.expect("the moment's file is there") + 1);
        files
    }
}

/// XA RECOVER, sorted: a server lists them as they lie in its memory.
pub(super) fn prepared(sql: impl Fn(&str) -> String) -> String {
    let rows = sql("XA RECOVER");
    let mut rows: Vec<&str> = rows.lines().collect();
    rows.sort_unstable();
    rows.join("\n")
}

/// CHECKSUM TABLE of every table of the tests' databases.
pub(super) fn checksums(sql: impl Fn(&str) -> String) -> String {
    let tables = sql(
        "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables WHERE table_schema LIKE 'd%' \
         AND table_type = 'BASE TABLE' ORDER BY 1",
    );
    let tables = tables.replace('\n', ", ");
    sql(&format!("CHECKSUM TABLE {tables}"))
}

fn copy(from: &Path, to: &Path) {
    let mut command = ServerUser::current().command("cp");
    run(command.arg("-a").arg(from).arg(to)).expect_success();
    assert!(fs::metadata(to).unwrap().is_dir());
}
