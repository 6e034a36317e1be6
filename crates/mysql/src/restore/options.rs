//! The option file of the private server: reachable by one socket, talking to nobody, writing no log of its own.
//!
//! It is the only one that the server reads (`--defaults-file`), and variables that were persisted into the data directory
//! are not loaded: a configuration from production names its server_id, peers, plugins and memory.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::RestoreError;
use super::program::ServerProgram;
use crate::binlog::Flavor;

/// Basename of relay logs and of their index, so that none of them is taken for a binlog.
pub(super) const RELAY_BASENAME: &str = "relay";

/// Settings of the original that replay or the data depend on, and no event carries: DDL that names no engine or row format
/// takes the server's. Those that name places of the original's host are left out.
const SETTINGS_OF_THE_ORIGINAL: [&str; 19] = [
    "character_set_server",
    "collation_server",
    "default_storage_engine",
    "default_table_encryption",
    "default_tmp_storage_engine",
    "explicit_defaults_for_timestamp",
    "ft_min_word_len",
    "innodb_checksum_algorithm",
    "innodb_compression_algorithm",
    "innodb_data_file_path",
    "innodb_default_row_format",
    "innodb_file_per_table",
    "innodb_ft_min_token_size",
    "innodb_page_size",
    "innodb_strict_mode",
    "innodb_temp_data_file_path",
    "innodb_undo_tablespaces",
    "lower_case_table_names",
    "partial_revokes",
];

/// What the private server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Making an empty data directory.
    Initialise,
    /// Being filled by a dump: nothing is flushed before the end.
    Load,
    /// Applying the log: nothing is flushed before the end.
    Replay,
    /// Being looked at: durable again.
    Serve,
}

/// How to run a restored server in private.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateOptions {
    /// Directory for option file, socket, log, relay logs and temporary files. Belongs to the server's user, mode 0700. Its
    /// path must be short: that of a socket holds about 100 bytes.
    pub directory: PathBuf,
    /// The number that the server goes by. One that no event of the log carries is chosen while replaying.
    pub server_id: u32,
    /// `innodb_buffer_pool_size`, in MiB.
    pub buffer_pool_mib: u64,
    /// How many workers apply the log.
    pub workers: u32,
    /// Settings of the original, and whatever else its data demands (keyring, plugins). See
    /// [`PrivateOptions::take_settings`].
    pub settings: Vec<(String, String)>,
    /// Whether the server, when all is done, refuses writes.
    pub is_read_only: bool,
}

impl PrivateOptions {
    /// Options with four workers, or as many as there are processors.
    pub fn new(directory: impl Into<PathBuf>, buffer_pool_mib: u64) -> PrivateOptions {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        PrivateOptions {
            directory: directory.into(),
            server_id: u32::MAX - 1,
            buffer_pool_mib,
            workers: u32::try_from(processors).unwrap_or(u32::MAX).clamp(4, 16),
            settings: Vec::new(),
            is_read_only: false,
        }
    }

    /// Takes those of the original's settings that its data or its log depend on.
    pub fn take_settings(&mut self, settings: &BTreeMap<String, String>) {
        let taken = SETTINGS_OF_THE_ORIGINAL.iter().filter_map(|name| {
            let value = settings.get(*name).filter(|value| !value.is_empty())?;
            // A setting that this server does not know any more was none of its data's either.
            Some((format!("loose_{name}"), value.clone()))
        });
        self.settings.extend(taken);
    }

    /// The socket that the server is reached by.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("sock")
    }

    /// The file that the server's messages go to.
    pub fn log_file(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.directory.join("server.pid")
    }

    pub(super) fn option_file(&self) -> PathBuf {
        self.directory.join("my.cnf")
    }

    pub(super) fn init_file(&self) -> PathBuf {
        self.directory.join("init.sql")
    }

    pub(super) fn relay_directory(&self) -> PathBuf {
        self.directory.join("relay")
    }

    pub(super) fn temporary_directory(&self) -> PathBuf {
        self.directory.join("tmp")
    }

    /// The text of the option file.
    ///
    /// # Errors
    /// [`RestoreError::Setting`] for a value that a line cannot hold.
    pub(super) fn text(
        &self,
        program: &ServerProgram,
        data_directory: &Path,
        purpose: Purpose,
    ) -> Result<String, RestoreError> {
        let mut text = "# Private server of tidemark-restore.\n[mysqld]\n".to_owned();
        for (name, value) in &self.settings {
            text.push_str(&line(name, value)?);
        }
        // Ours come last: the last one of a name counts.
        for (name, path) in self.paths(program, data_directory, purpose) {
            text.push_str(&line(name, &path.display().to_string())?);
        }
        for (name, value) in self.variable(program.flavor, purpose) {
            text.push_str(&line(name, &value)?);
        }
        for (name, value) in fixed(program.flavor, purpose) {
            text.push_str(&line(name, value)?);
        }
        Ok(text)
    }

    fn paths(
        &self,
        program: &ServerProgram,
        data_directory: &Path,
        purpose: Purpose,
    ) -> Vec<(&'static str, PathBuf)> {
        let temporary = self.temporary_directory();
        let relay = self.relay_directory();
        let load_directory = match program.flavor {
            Flavor::MySql => "replica_load_tmpdir",
            Flavor::MariaDb => "slave_load_tmpdir",
        };
        let mut paths = program.places();
        paths.extend([
            ("datadir", data_directory.to_owned()),
            ("socket", self.socket()),
            ("pid_file", self.pid_file()),
            ("log_error", self.log_file()),
            ("tmpdir", temporary.clone()),
            ("secure_file_priv", temporary.clone()),
            (load_directory, temporary),
            ("relay_log", relay.join(RELAY_BASENAME)),
            ("relay_log_index", relay.join("relay.index")),
        ]);
        if purpose != Purpose::Initialise {
            paths.push(("init_file", self.init_file()));
        }
        if program.flavor == Flavor::MariaDb {
            // Not in the data directory, where those of the original would be read.
            paths.push(("master_info_file", self.directory.join("master.info")));
            paths.push(("relay_log_info_file", self.directory.join("relay-log.info")));
        }
        paths
    }

    fn variable(&self, flavor: Flavor, purpose: Purpose) -> Vec<(&'static str, String)> {
        let is_read_only = match purpose {
            Purpose::Initialise | Purpose::Load => false,
            Purpose::Replay => true,
            Purpose::Serve => self.is_read_only,
        };
        let read_only = if is_read_only { "ON" } else { "OFF" };
        let (read_only_name, workers_name) = match flavor {
            Flavor::MySql => ("super_read_only", "replica_parallel_workers"),
            Flavor::MariaDb => ("read_only", "slave_parallel_threads"),
        };
        vec![
            ("server_id", self.server_id.to_string()),
            (
                "innodb_buffer_pool_size",
                format!("{}M", self.buffer_pool_mib.max(32)),
            ),
            (read_only_name, read_only.to_owned()),
            (workers_name, self.workers.to_string()),
        ]
    }
}

/// A line of an option file (manual: "Using Option Files"): quoted, with backslashes as escapes.
fn line(name: &str, value: &str) -> Result<String, RestoreError> {
    let is_name = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if !is_name || value.contains(['\n', '\r', '\0', '"']) {
        return Err(RestoreError::Setting {
            name: name.to_owned(),
        });
    }
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _ = match value {
        "" => writeln!(line, "{name}"),
        value => writeln!(line, "{name} = \"{}\"", value.replace('\\', "\\\\")),
    };
    Ok(line)
}

/// The rest, with the reason where it is not plain.
fn fixed(flavor: Flavor, purpose: Purpose) -> Vec<(&'static str, &'static str)> {
    let mut settings = COMMON.to_vec();
    settings.extend(match flavor {
        Flavor::MySql => MYSQL.as_slice(),
        Flavor::MariaDb => MARIADB.as_slice(),
    });
    let redo = match flavor {
        Flavor::MySql => ("loose_innodb_redo_log_capacity", "1G"),
        Flavor::MariaDb => ("innodb_log_file_size", "512M"),
    };
    if purpose != Purpose::Serve {
        settings.push(redo);
        settings.extend(RELAXED);
    }
    settings
}

const COMMON: [(&str, &str); 12] = [
    ("skip_networking", "ON"),
    ("skip_log_bin", ""),
    ("event_scheduler", "OFF"),
    ("local_infile", "OFF"),
    ("general_log", "OFF"),
    ("slow_query_log", "OFF"),
    // An event of the log may be as large as any.
    ("max_allowed_packet", "1G"),
    ("log_bin_trust_function_creators", "ON"),
    // The files are ours, and needed to go on.
    ("relay_log_purge", "OFF"),
    ("relay_log_recovery", "OFF"),
    // Beside a server_id that no event carries: events of the original's own are applied all the same.
    ("replicate_same_server_id", "ON"),
    ("max_connections", "50"),
];

const MYSQL: [(&str, &str); 15] = [
    ("replica_max_allowed_packet", "1G"),
    // mysqld-auto.cnf of the original.
    ("persisted_globals_load", "OFF"),
    ("loose_mysqlx", "OFF"),
    ("skip_replica_start", "ON"),
    ("replica_preserve_commit_order", "ON"),
    // Transactions with and without GTID are applied alike; those that the data holds are passed over.
    ("gtid_mode", "ON_PERMISSIVE"),
    ("enforce_gtid_consistency", "OFF"),
    ("log_replica_updates", "OFF"),
    ("loose_group_replication_start_on_boot", "OFF"),
    // No keys into the data directory.
    ("loose_auto_generate_certs", "OFF"),
    ("loose_caching_sha2_password_auto_generate_rsa_keys", "OFF"),
    ("loose_sha256_password_auto_generate_rsa_keys", "OFF"),
    // At least the largest event.
    ("replica_pending_jobs_size_max", "1G"),
    ("log_error_verbosity", "2"),
    ("performance_schema", "ON"),
];

const MARIADB: [(&str, &str); 9] = [
    ("slave_max_allowed_packet", "1G"),
    ("skip_slave_start", "ON"),
    ("slave_parallel_mode", "optimistic"),
    ("slave_parallel_max_queued", "16M"),
    // The log is applied as it is, whatever its sequence numbers; whether it is whole is looked at beforehand.
    ("gtid_strict_mode", "OFF"),
    // A table that is there already must not be replaced in silence.
    ("slave_ddl_exec_mode", "STRICT"),
    ("log_slave_updates", "OFF"),
    ("loose_wsrep_on", "OFF"),
    ("loose_feedback", "OFF"),
];

/// A crash of the host then means to begin anew; see [`super::ReplayState`].
const RELAXED: [(&str, &str); 4] = [
    ("innodb_flush_log_at_trx_commit", "0"),
    ("innodb_doublewrite", "OFF"),
    ("innodb_io_capacity", "10000"),
    ("innodb_io_capacity_max", "20000"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn program(flavor: Flavor) -> ServerProgram {
        ServerProgram {
            path: PathBuf::from("/nowhere/usr/sbin/mysqld"),
            flavor,
            version: (9, 7, 4),
        }
    }

    #[test]
    fn settings_of_the_original_never_override_ours() {
        let mut options = PrivateOptions::new("/tmp/x", 128);
        options.settings = vec![
            ("server_id".to_owned(), "77".to_owned()),
            ("lower_case_table_names".to_owned(), "1".to_owned()),
        ];
        for flavor in [Flavor::MySql, Flavor::MariaDb] {
            let text = options
                .text(&program(flavor), Path::new("/data"), Purpose::Replay)
                .unwrap();
            let last = |name: &str| {
                let value = text.lines().rev().find_map(|line| line.strip_prefix(name));
                value.map(|value| value.trim_matches([' ', '=', '"']).to_owned())
            };
            assert_eq!(last("server_id "), Some((u32::MAX - 1).to_string()));
            assert_eq!(last("lower_case_table_names").as_deref(), Some("1"));
            assert_eq!(last("innodb_doublewrite").as_deref(), Some("OFF"));
        }
    }

    #[test]
    fn a_server_to_be_looked_at_is_durable() {
        let options = PrivateOptions::new("/tmp/x", 128);
        let text = options
            .text(&program(Flavor::MySql), Path::new("/data"), Purpose::Serve)
            .unwrap();
        assert!(!text.contains("flush_log_at_trx_commit") && !text.contains("doublewrite"));
        assert!(text.contains("super_read_only = \"OFF\""), "{text}");
    }

    #[test]
    fn a_value_cannot_become_another_line() {
        for value in ["a\nserver_id=1", "a\"b"] {
            assert!(line("tmpdir", value).is_err(), "{value}");
        }
        assert_eq!(line("tmpdir", r"C:\x y").unwrap(), "tmpdir = \"C:\\\\x y\"\n");
    }
}
