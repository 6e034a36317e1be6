//! Making a server: initdb, configuration, first start.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::command::run;
use crate::install::PgVersion;
use crate::postgres::server::{Launch, PostgresServer};
use crate::scratch::Scratch;

/// Settings of every test server. Durability across a power failure is not what tests look at, so fsync is off;
/// shared memory segments lie in the data directory, so that nothing stays behind when a killed server is thrown away.
const BASE_CONFIGURATION: &str = "\
wal_level = replica
max_wal_senders = 10
max_replication_slots = 10
archive_mode = off
fsync = off
shared_buffers = 32MB
dynamic_shared_memory_type = mmap
jit = off
log_line_prefix = '%m [%p] '
log_replication_commands = on
timezone = 'UTC'
log_timezone = 'UTC'
";

/// What a new server shall be like; see [`PostgresServer::builder`].
#[derive(Debug)]
pub struct Builder {
    version: PgVersion,
    initdb: Vec<String>,
    configuration: String,
    hba: String,
    launch: Launch,
}

impl Builder {
    pub(crate) fn new(version: PgVersion) -> Builder {
        Builder {
            version,
            initdb: Vec::new(),
            configuration: BASE_CONFIGURATION.to_owned(),
            hba: String::new(),
            launch: Launch::default(),
        }
    }

    /// The size of a WAL segment in MiB (default 16).
    pub fn wal_segment_mib(self, size: u32) -> Builder {
        self.initdb_argument(&format!("--wal-segsize={size}"))
    }

    /// Turns data checksums off; they are on by default.
    pub fn without_data_checksums(mut self) -> Builder {
        self.initdb.retain(|argument| argument != "--data-checksums");
        // Before 18 they are off unless asked for, and initdb does not know the option.
        if self.version >= PgVersion::V18 {
            self.initdb.push("--no-data-checksums".to_owned());
        }
        self.launch.checksums = false;
        self
    }

    /// Another argument for initdb.
    pub fn initdb_argument(mut self, argument: &str) -> Builder {
        self.initdb.push(argument.to_owned());
        self
    }

    /// A line for postgresql.conf, after and so above the harness's own.
    pub fn conf(mut self, line: &str) -> Builder {
        self.configuration.push_str(line);
        self.configuration.push('\n');
        self
    }

    /// A line for pg_hba.conf, before those that trust every local connection.
    pub fn hba(mut self, line: &str) -> Builder {
        self.hba.push_str(line);
        self.hba.push('\n');
        self
    }

    /// A variable for the server's environment, at every start (`LD_PRELOAD`, `FAKETIME`, ...). initdb does not see it.
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.launch.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the data directory and starts the server. Panics when either fails.
    #[track_caller]
    pub fn start(self) -> PostgresServer {
        let server = self.create();
        server.start();
        server
    }

    /// Makes the data directory only.
    #[track_caller]
    pub fn create(self) -> PostgresServer {
        let scratch = Scratch::new("pg");
        let data = scratch.path().join("data");
        self.initdb(&data);
        append(&data.join("postgresql.conf"), &self.configuration);
        if !self.hba.is_empty() {
            let path = data.join("pg_hba.conf");
            let rest = fs::read_to_string(&path).expect("read pg_hba.conf");
            fs::write(&path, self.hba + &rest).expect("write pg_hba.conf");
        }
        PostgresServer::new(self.version, scratch, data, self.launch)
    }

    fn initdb(&self, data: &Path) {
        let mut command = self.version.tool("initdb");
        command.arg("-D").arg(data).args([
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]);
        if self.launch.checksums {
            command.arg("--data-checksums");
        }
        run(command.args(&self.initdb)).expect_success();
    }
}

fn append(path: &Path, text: &str) {
    let written = OpenOptions::new()
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.unwrap_or_else(|error| panic!("append to {}: {error}", path.display()));
}
