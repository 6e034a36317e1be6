//! Judging the facts: what stands in the way, what is risky, what is fine. Pure.

use std::time::Duration;

use tidemark_types::{ByteSize, Finding, Severity, format_duration};

use super::facts::SourceFacts;
use super::privileges::needed_privileges;
use super::remedy::{configure, grant, set};
use crate::binlog::Flavor;
use crate::client::{ReplicaIdentity, quote_name};

/// The log outlives an outage of the agent or its repository of this length: a weekend.
const RETENTION_MIN: Duration = Duration::from_secs(3 * 86_400);

/// A clock that is off by more than this makes lag figures and "restore to a time" mean something else than the operator's
/// watch says.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// From no GTIDs to GTIDs, under load (manual: "Enabling GTID Transactions Online").
const GTID_STEPS: [&str; 4] = [
    "SET PERSIST enforce_gtid_consistency = ON;  -- statements that violate it fail from now on",
    "SET PERSIST gtid_mode = OFF_PERMISSIVE;",
    "SET PERSIST gtid_mode = ON_PERMISSIVE;      -- then wait until Ongoing_anonymous_transaction_count is 0 and the agent has caught up",
    "SET PERSIST gtid_mode = ON;",
];

/// So many tables are named in a message.
const TABLES_NAMED: usize = 5;

/// What the configuration asks of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whether commits are to wait for the repository.
    pub semi_sync: bool,
    /// The number that the agent is to register with; `None`: one that nobody uses.
    pub server_id: Option<u32>,
    /// Who the agent is as a replica.
    pub identity: Option<ReplicaIdentity>,
    /// Whether base backups copy the server's files (a clone, mariadb-backup) instead of its rows.
    pub copies_files: bool,
}

/// Judges what was found against what is wanted, in a fixed order.
pub fn findings(facts: &SourceFacts, wanted: &Wanted) -> Vec<Finding> {
    let mut report = Report {
        facts,
        wanted,
        list: Vec::new(),
    };
    report.version();
    report.privileges();
    report.log();
    if facts.server.log_bin {
        report.log_content();
        report.log_durability();
        report.retention();
        report.gtids();
    }
    report.topology();
    report.server_id();
    report.tables();
    report.clone_plugin();
    report.semi_sync();
    report.clock();
    report.list
}

pub(super) struct Report<'a> {
    pub(super) facts: &'a SourceFacts,
    pub(super) wanted: &'a Wanted,
    list: Vec<Finding>,
}

impl Report<'_> {
    pub(super) fn add(
        &mut self,
        severity: Severity,
        subject: &'static str,
        message: impl Into<String>,
        remedy: Option<String>,
    ) {
        self.list.push(Finding {
            severity,
            subject,
            message: message.into(),
            remedy,
        });
    }

    pub(super) fn ok(&mut self, subject: &'static str, message: impl Into<String>) {
        self.add(Severity::Ok, subject, message, None);
    }

    /// The statement that sets a variable.
    pub(super) fn set(&self, name: &str, value: &str) -> Option<String> {
        Some(set(self.facts.flavor(), name, value))
    }

    fn version(&mut self) {
        let version = &self.facts.server.version;
        let kind = match self.facts.is_replica {
            Some(true) => ", a replica",
            Some(false) | None => "",
        };
        let message = format!("{} {} at {}{kind}", version.flavor, version.text, self.facts.host);
        self.ok("version", message);
        if !self.facts.is_private {
            let message = "the connection is not encrypted: whoever listens reads all that changes; give the server \
                           ssl_cert and ssl_key, and the agent's url ssl-mode=REQUIRED";
            self.add(Severity::Warning, "TLS", message, None);
        }
    }

    fn privileges(&mut self) {
        let needed = needed_privileges(self.wanted, self.facts.flavor());
        let missing: Vec<(&str, &str)> = needed
            .into_iter()
            .filter(|(name, _)| !self.facts.privileges.has(name))
            .collect();
        let account = &self.facts.account;
        if missing.is_empty() {
            let message = format!("account {account} may do all that streaming and base backups need");
            return self.ok("privileges", message);
        }
        let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
        let mut uses: Vec<&str> = missing.iter().map(|(_, use_)| *use_).collect();
        uses.dedup();
        let message = format!(
            "account {account} lacks {}, which {} needs",
            names.join(", "),
            uses.join(" and ")
        );
        let remedy = grant(&names, account);
        self.add(Severity::Error, "privileges", message, Some(remedy));
    }

    fn log(&mut self) {
        if self.facts.server.log_bin {
            return self.ok("log_bin", "the server writes a binlog");
        }
        let message =
            "log_bin is off: the server writes no binlog, so there is nothing to restore changes from";
        let remedy = configure("log_bin = binlog");
        self.add(Severity::Error, "log_bin", message, Some(remedy));
    }

    fn log_content(&mut self) {
        match self.facts.value("binlog_format") {
            "ROW" => self.ok("binlog_format", "binlog_format is ROW"),
            format => {
                let message = format!(
                    "binlog_format is {format}: statements that are replayed may change other rows than they did"
                );
                let remedy = self.set("binlog_format", "ROW");
                let severity = match format {
                    "STATEMENT" => Severity::Error,
                    _ => Severity::Warning,
                };
                self.add(severity, "binlog_format", message, remedy);
            }
        }
        let image = self.facts.value("binlog_row_image");
        if !image.eq_ignore_ascii_case("FULL") {
            let message = format!(
                "binlog_row_image is {image}: enough to restore, but the log cannot tell what rows were before"
            );
            let remedy = self.set("binlog_row_image", "FULL");
            self.add(Severity::Note, "binlog_row_image", message, remedy);
        }
        if self.facts.value("binlog_checksum") == "NONE" {
            let message = "binlog_checksum is NONE: log that is damaged on the server is not noticed";
            let remedy = self.set("binlog_checksum", "CRC32");
            self.add(Severity::Warning, "binlog_checksum", message, remedy);
        }
        if let Some(filter) = self.facts.log_filter.clone() {
            self.log_filter(
                "binlog_do_db",
                &filter.only,
                "databases but these are left out of the binlog",
            );
            self.log_filter(
                "binlog_ignore_db",
                &filter.without,
                "databases that are left out of the binlog",
            );
        }
        let is_encrypted = [
            self.facts.is_on("binlog_encryption"),
            self.facts.is_on("encrypt_binlog"),
        ];
        if is_encrypted.contains(&Some(true)) {
            let message = "binlogs are encrypted on the server; a replica gets them in clear, and so does the \
                           repository: restrict who may read it";
            self.add(Severity::Warning, "binlog encryption", message, None);
        }
    }

    fn log_filter(&mut self, option: &'static str, databases: &str, what: &str) {
        if databases.is_empty() {
            return;
        }
        let message = format!("{option} is {databases}: {what}, and their changes cannot be restored");
        let remedy = configure(&format!("(without {option})"));
        self.add(Severity::Error, option, message, Some(remedy));
    }

    fn log_durability(&mut self) {
        if self.facts.value("sync_binlog") != "1" {
            let message = format!(
                "sync_binlog is {}: after a crash of the host the server may lack log that it has sent; what the \
                 repository holds of it becomes a branch that leads nowhere",
                self.facts.value("sync_binlog")
            );
            let remedy = self.set("sync_binlog", "1");
            self.add(Severity::Warning, "sync_binlog", message, remedy);
        }
        let flush = self.facts.value("innodb_flush_log_at_trx_commit");
        if flush != "1" {
            let message = format!(
                "innodb_flush_log_at_trx_commit is {flush}: after a crash the server may lack transactions that its \
                 binlog and the repository hold"
            );
            let remedy = self.set("innodb_flush_log_at_trx_commit", "1");
            self.add(
                Severity::Warning,
                "innodb_flush_log_at_trx_commit",
                message,
                remedy,
            );
        }
    }

    /// There is no slot: the server removes log by age or by size, however far the agent is.
    fn retention(&mut self) {
        let seconds = match self.facts.is_on("binlog_expire_logs_auto_purge") {
            Some(false) => None,
            Some(true) | None => self.expire_seconds(),
        };
        match seconds.map(Duration::from_secs) {
            None => {
                let message = "binlogs are never removed by age: see that the disk does not fill";
                self.add(Severity::Note, "retention", message, None);
            }
            Some(kept) if kept < RETENTION_MIN => {
                let message = format!(
                    "binlogs are removed after {}: an outage of the agent or the repository that lasts longer is a \
                     gap in the log",
                    format_duration(kept)
                );
                let remedy = self.set("binlog_expire_logs_seconds", "604800");
                self.add(Severity::Warning, "retention", message, remedy);
            }
            Some(kept) => {
                let message = format!(
                    "binlogs are kept for {}, which bounds how long an outage may last",
                    format_duration(kept)
                );
                self.ok("retention", message);
            }
        }
        let total = self.facts.number("max_binlog_total_size").unwrap_or(0.0);
        if total > 0.0 {
            let message = format!(
                "max_binlog_total_size is {}: past it binlogs are removed, however far the agent is",
                ByteSize(total as u64)
            );
            self.add(
                Severity::Warning,
                "max_binlog_total_size",
                message,
                self.set("max_binlog_total_size", "0"),
            );
        }
        self.log_size();
    }

    /// `None`: never. Where there are both variables, either removes.
    fn expire_seconds(&self) -> Option<u64> {
        const DAY_SECONDS: f64 = 86_400.0;
        let seconds = self.facts.number("binlog_expire_logs_seconds");
        // MariaDB takes fractions of a day, and shows there what is set in seconds.
        let days = self.facts.number("expire_logs_days");
        let limits = [seconds, days.map(|days| (days * DAY_SECONDS).round())];
        let limits = limits.into_iter().flatten().filter(|limit| *limit > 0.0);
        limits.min_by(f64::total_cmp).map(|seconds| seconds as u64)
    }

    fn log_size(&mut self) {
        let Some(files) = &self.facts.binlog_files else {
            return;
        };
        let bytes = files.iter().map(|file| file.bytes).sum();
        let message = format!("{} binlog files of {} are there", files.len(), ByteSize(bytes));
        self.ok("binlog files", message);
    }

    fn gtids(&mut self) {
        if self.facts.flavor() == Flavor::MariaDb {
            if self.facts.is_on("gtid_strict_mode") == Some(false) {
                let message = "gtid_strict_mode is off: GTIDs may come out of order, and then a missing transaction \
                               does not show";
                let remedy = self.set("gtid_strict_mode", "ON");
                self.add(Severity::Warning, "gtid_strict_mode", message, remedy);
            }
            return;
        }
        match self.facts.value("gtid_mode") {
            "ON" => self.ok("gtid_mode", "gtid_mode is ON"),
            mode => {
                let message = format!(
                    "gtid_mode is {mode}: transactions without GTIDs can be restored on this server's log only; a \
                     failover to a replica cannot be followed"
                );
                let remaining = match mode {
                    "OFF_PERMISSIVE" => 2..,
                    "ON_PERMISSIVE" => 3..,
                    _ => 0..,
                };
                let remedy = GTID_STEPS.get(remaining).unwrap_or_default().join("\n");
                self.add(Severity::Warning, "gtid_mode", message, Some(remedy));
            }
        }
    }

    fn topology(&mut self) {
        let logs_replicated = self
            .facts
            .is_on("log_replica_updates")
            .or(self.facts.is_on("log_slave_updates"));
        let option = match self.facts.flavor() {
            Flavor::MySql => "log_replica_updates",
            Flavor::MariaDb => "log_slave_updates",
        };
        let is_cluster = self.facts.is_on("wsrep_on") == Some(true);
        let replicates = is_cluster || self.facts.is_replica == Some(true);
        if replicates && logs_replicated == Some(false) {
            let message = format!(
                "{option} is off: what this server gets from others does not come into its binlog, and cannot be restored"
            );
            self.add(
                Severity::Error,
                "log_replica_updates",
                message,
                Some(configure(&format!("{option} = ON"))),
            );
        }
        if is_cluster {
            let message = "the server is a node of a Galera cluster: each node has binlog files of its own, so name \
                           one node in url; another node is another log";
            self.add(Severity::Warning, "wsrep_on", message, None);
        }
    }

    fn server_id(&mut self) {
        let own = self.facts.server.server_id;
        if own == 0 {
            let message = "server_id is 0: the server serves no replica";
            let remedy = set(self.facts.flavor(), "server_id", "1");
            return self.add(Severity::Error, "server_id", message, Some(remedy));
        }
        let Some(wanted) = self.wanted.server_id else {
            return;
        };
        if wanted == own {
            let message = format!("server_id {wanted} is the server's own: a replica needs another");
            let remedy = "leave server_id out of the agent's configuration, or take another number";
            return self.add(Severity::Error, "server_id", message, Some(remedy.to_owned()));
        }
        let replicas = self.facts.replicas.iter().flatten();
        if replicas.into_iter().any(|replica| replica.server_id == wanted) {
            let message = format!(
                "a replica of server_id {wanted} is connected: the agent, if it is running; else one of the two will \
                 end the other's stream"
            );
            self.add(Severity::Note, "server_id", message, None);
        }
    }

    fn tables(&mut self) {
        let tables = &self.facts.foreign_tables;
        if tables.is_empty() {
            return self.ok("tables", "every table that our account sees is InnoDB's");
        }
        let names: Vec<String> = tables
            .iter()
            .take(TABLES_NAMED)
            .map(|table| format!("{}.{} ({})", table.schema, table.name, table.engine))
            .collect();
        let more = match tables.len().saturating_sub(TABLES_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let consequence = match self.facts.flavor() {
            Flavor::MySql => "a clone leaves their rows out, so base backups are dumps",
            Flavor::MariaDb => "base backups lock them while they are copied",
        };
        let message = format!(
            "{} tables are not InnoDB's: {}{more}; they know no transactions, and {consequence}",
            tables.len(),
            names.join(", ")
        );
        let remedies = tables.iter().take(TABLES_NAMED).map(|table| {
            let (schema, name) = (quote_name(&table.schema), quote_name(&table.name));
            format!("ALTER TABLE {schema}.{name} ENGINE = InnoDB;")
        });
        let remedy = remedies.collect::<Vec<_>>().join("\n");
        self.add(Severity::Warning, "tables", message, Some(remedy));
    }

    fn clone_plugin(&mut self) {
        if self.facts.flavor() != Flavor::MySql || self.facts.plugins.contains("clone") {
            return;
        }
        let severity = match self.wanted.copies_files {
            true => Severity::Warning,
            false => Severity::Note,
        };
        let message =
            "the clone plugin is not installed: base backups are dumps, which take and restore longer";
        let remedy = "INSTALL PLUGIN clone SONAME 'mysql_clone.so';".to_owned();
        self.add(severity, "clone plugin", message, Some(remedy));
    }

    fn clock(&mut self) {
        let Some(ahead) = self.facts.clock_ahead_micros else {
            return;
        };
        let off = Duration::from_micros(ahead.unsigned_abs());
        let direction = if ahead < 0 { "behind" } else { "ahead of" };
        if off > CLOCK_TOLERANCE + self.facts.clock_uncertainty {
            let message = format!(
                "the server's clock is {:.1} s {direction} this host's: times of a restore mean the server's clock; \
                 set both by NTP",
                off.as_secs_f64()
            );
            self.add(Severity::Warning, "clock", message, None);
        } else {
            self.ok("clock", "the server's clock agrees with this host's");
        }
    }
}

#[cfg(test)]
mod tests;
