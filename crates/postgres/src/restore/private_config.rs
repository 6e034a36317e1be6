//! The configuration a restored server is started with for `--start`: reachable by one socket, talking to nobody.
//!
//! The backup's own configuration may name libraries, certificates, memory sizes and peers that this host lacks, and
//! `postgresql.auto.conf` overrides any configuration file. So the settings here are given twice: in a file, for whoever
//! starts the server by hand later, and as arguments, which override everything. The user's files are not touched.

use std::path::{Path, PathBuf};

use tidemark_types::WalSegmentSize;

use super::RestoreError;
use super::recovery_config::{sync_directory, write_synced};
use super::settings_file::setting_line;
use crate::control_file::RecoveryRequirements;

const CONFIG_FILE: &str = "postgresql.conf";
const HBA_FILE: &str = "pg_hba.conf";
const IDENT_FILE: &str = "pg_ident.conf";
const PID_FILE: &str = "server.pid";

/// The socket's directory is open to the server's user and root only, so whoever gets that far is trusted.
const HBA: &str = "# Private server of tidemark-restore: one socket, in a directory that only its owner may enter.\n\
                   local all all trust\nlocal replication all trust\n";

/// Room beside what the backup says is needed: the log may raise these settings on the way (XLOG_PARAMETER_CHANGE), and
/// a hot standby with too little pauses or ends there, and must be started anew with more.
const REQUIREMENT_FLOOR: RecoveryRequirements = RecoveryRequirements {
    max_connections: 200,
    max_worker_processes: 32,
    max_wal_senders: 32,
    max_prepared_transactions: 100,
    max_locks_per_transaction: 128,
};

/// How to start a restored server in private.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateConfig {
    /// Directory for configuration, socket, log and pid file. Belongs to the server's user, mode 0700. Its path must
    /// be short: a socket path holds about 100 bytes.
    pub directory: PathBuf,
    /// Part of the socket's name; nothing listens on the network.
    pub port: u16,
    /// What the server is given of the settings that replay demands.
    pub requirements: RecoveryRequirements,
    /// The cluster's: `min_wal_size` must be at least twice as much, and its default is not for the larger ones.
    pub wal_segment_size: WalSegmentSize,
    /// The backup's may name libraries that this host lacks, or start workers that act on the world (pg_cron), so the
    /// default is none. Needed when an extension has WAL of its own (custom resource managers, PostgreSQL 15 on).
    pub shared_preload_libraries: String,
    /// `shared_buffers`, such as "128MB".
    pub shared_buffers: String,
}

impl PrivateConfig {
    /// A private server in `directory` with no libraries and 128 MB of shared buffers. `requirements` is the least that it
    /// is given: the greater of manifest and control file.
    pub fn new(
        directory: impl Into<PathBuf>,
        port: u16,
        requirements: RecoveryRequirements,
        wal_segment_size: WalSegmentSize,
    ) -> PrivateConfig {
        PrivateConfig {
            directory: directory.into(),
            port,
            requirements: requirements.max(REQUIREMENT_FLOOR),
            wal_segment_size,
            shared_preload_libraries: String::new(),
            shared_buffers: "128MB".to_owned(),
        }
    }

    /// The file that the server's output goes to.
    pub fn log_file(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// Writes the configuration files. Blocks.
    ///
    /// # Errors
    /// [`RestoreError::Io`], or [`RestoreError::Setting`] for a path or value that a line cannot hold.
    pub fn write(&self) -> Result<(), RestoreError> {
        let mut text =
            "# Private server of tidemark-restore. Its arguments repeat these settings.\n".to_owned();
        for (name, value) in self.settings() {
            text.push_str(&setting_line(name, &value)?);
        }
        write_synced(&self.directory, CONFIG_FILE, &text)?;
        write_synced(&self.directory, HBA_FILE, HBA)?;
        write_synced(&self.directory, IDENT_FILE, "")?;
        sync_directory(&self.directory)
    }

    /// Arguments for `postgres` on `data_directory`.
    pub fn arguments(&self, data_directory: &Path) -> Vec<String> {
        let mut arguments = vec!["-D".to_owned(), data_directory.display().to_string()];
        let config_file = self.path(CONFIG_FILE);
        for (name, value) in std::iter::once(("config_file", config_file)).chain(self.settings()) {
            arguments.push("-c".to_owned());
            arguments.push(format!("{name}={value}"));
        }
        arguments
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// As much as so many segments, as a setting. The server's own defaults are 5 and 64 of 16 MiB.
    fn wal_segments(&self, count: u64) -> String {
        format!("{}MB", (self.wal_segment_size.bytes() >> 20) * count)
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let given = self.requirements;
        let mut settings = vec![
            ("hba_file", self.path(HBA_FILE)),
            ("ident_file", self.path(IDENT_FILE)),
            ("unix_socket_directories", self.directory.display().to_string()),
            ("port", self.port.to_string()),
            ("external_pid_file", self.path(PID_FILE)),
            ("max_connections", given.max_connections.to_string()),
            ("max_worker_processes", given.max_worker_processes.to_string()),
            ("max_wal_senders", given.max_wal_senders.to_string()),
            (
                "max_prepared_transactions",
                given.max_prepared_transactions.to_string(),
            ),
            (
                "max_locks_per_transaction",
                given.max_locks_per_transaction.to_string(),
            ),
            ("shared_preload_libraries", self.shared_preload_libraries.clone()),
            ("shared_buffers", self.shared_buffers.clone()),
            ("min_wal_size", self.wal_segments(5)),
            ("max_wal_size", self.wal_segments(64)),
        ];
        settings.extend(FIXED.iter().map(|&(name, value)| (name, value.to_owned())));
        settings
    }
}

/// The rest, with the reason where it is not plain.
const FIXED: [(&str, &str); 21] = [
    ("listen_addresses", ""),
    ("unix_socket_permissions", "0700"),
    ("unix_socket_group", ""),
    ("ssl", "off"),
    // Never into the archive it came from.
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    // Commits of the promoted server would wait for standbys that do not exist.
    ("synchronous_standby_names", ""),
    ("wal_level", "replica"),
    ("hot_standby", "on"),
    // Subscriptions of the original would take changes away from it.
    ("max_logical_replication_workers", "0"),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("jit", "off"),
    ("huge_pages", "off"),
    // Standard error is the log file.
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_min_messages", "warning"),
    ("lc_messages", "C"),
    ("restart_after_crash", "off"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(value: u32) -> RecoveryRequirements {
        RecoveryRequirements {
            max_connections: value,
            max_worker_processes: value,
            max_wal_senders: value,
            max_prepared_transactions: value,
            max_locks_per_transaction: value,
        }
    }

    fn segments_of_16_mib() -> WalSegmentSize {
        WalSegmentSize::try_from(16 << 20).unwrap()
    }

    #[test]
    fn every_setting_is_an_argument_as_well_as_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let config = PrivateConfig::new(directory.path(), 5433, needed(1000), segments_of_16_mib());
        config.write().unwrap();
        let text = std::fs::read_to_string(directory.path().join(CONFIG_FILE)).unwrap();
        let arguments = config.arguments(Path::new("/data"));
        for wanted in [
            "max_connections=1000",
            "listen_addresses=",
            "archive_mode=off",
            "shared_preload_libraries=",
        ] {
            assert!(arguments.iter().any(|argument| argument == wanted), "{wanted}");
        }
        let lines = text.lines().filter(|line| !line.starts_with('#')).count();
        let settings = arguments.iter().filter(|argument| *argument == "-c").count();
        assert_eq!(lines + 1, settings, "config_file itself is an argument only");
    }

    #[test]
    fn requirements_are_never_lowered() {
        let config = PrivateConfig::new("/tmp/x", 5433, needed(1), segments_of_16_mib());
        assert!(
            config
                .arguments(Path::new("/data"))
                .iter()
                .any(|argument| argument == "max_connections=200")
        );
    }
}
