//! Judging the facts: what stands in the way, what is risky, what is fine. Pure.

use std::path::Path;
use std::time::Duration;

use tidemark_types::{ByteSize, Finding, Severity};

use super::facts::ServerFacts;
use super::monitor::WalStatus;
use super::standby_names::names_standby;
use super::wanted::Wanted;

/// WAL format is known up to here.
const NEWEST_KNOWN_MAJOR: u32 = 18;

/// One sender streams, another serves a remote base backup.
const SENDERS_NEEDED: i64 = 2;

/// A clock that is off by more than this makes lag figures and "restore to a time" mean something else than the
/// operator's watch says.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// Judges what was found against what is wanted, in a fixed order.
pub fn findings(facts: &ServerFacts, wanted: &Wanted) -> Vec<Finding> {
    let mut report = Report {
        facts,
        wanted,
        list: Vec::new(),
    };
    report.identity();
    report.role();
    report.wal_settings();
    if wanted.archive_spool.is_none() {
        report.senders_and_slots();
        report.slot();
        report.slot_limits();
    }
    report.archiving();
    report.synchronous();
    report.base_backups();
    report.clock();
    report.list
}

struct Report<'a> {
    facts: &'a ServerFacts,
    wanted: &'a Wanted,
    list: Vec<Finding>,
}

impl Report<'_> {
    fn add(
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

    fn ok(&mut self, subject: &'static str, message: impl Into<String>) {
        self.add(Severity::Ok, subject, message, None);
    }

    fn identity(&mut self) {
        let (version, host) = (self.facts.version, &self.facts.host);
        if version.major() > NEWEST_KNOWN_MAJOR {
            let message = format!(
                "PostgreSQL {version} is newer than {NEWEST_KNOWN_MAJOR}, the newest whose WAL this build can read"
            );
            self.add(Severity::Error, "version", message, None);
        } else {
            let kind = if self.facts.in_recovery {
                "standby"
            } else {
                "primary"
            };
            self.ok("version", format!("PostgreSQL {version} at {host}, a {kind}"));
        }
        if let Some(known) = self
            .wanted
            .system_id
            .filter(|known| *known != self.facts.system_id)
        {
            let message = format!(
                "system identifier {} is not {known}, which the repository knows under this name",
                self.facts.system_id
            );
            let remedy = "if this server takes the name over (pg_upgrade, initdb, a restore that went live): tidemark-agent \
                          adopt\nif it is another one: give it a name of its own";
            self.add(
                Severity::Error,
                "system identifier",
                message,
                Some(remedy.to_owned()),
            );
        }
        if self.wanted.password_in_url {
            let message = "the password stands in the connection URL, where everybody sees it who sees the \
                           configuration; use password_file, PGPASSWORD or ~/.pgpass";
            self.add(Severity::Warning, "password", message, None);
        }
        if self.facts.value("server_encoding") == "SQL_ASCII" {
            let message = "server_encoding is SQL_ASCII: names that are not ASCII may be shown garbled";
            self.add(Severity::Note, "server_encoding", message, None);
        }
    }

    fn role(&mut self) {
        let role = self.facts.role.clone();
        let name = quoted(&role.name);
        if !self.wanted.replicates() {
            // Neither log nor base backups come over a replication connection.
        } else if role.superuser || role.replication {
            self.ok("replication right", format!("role {name} may replicate"));
        } else {
            let message = format!("role {name} has no REPLICATION attribute: it cannot stream WAL");
            self.add(
                Severity::Error,
                "replication right",
                message,
                Some(format!("ALTER ROLE {name} REPLICATION;")),
            );
        }
        let sees_all = role.superuser || (role.reads_all_settings && role.reads_all_stats);
        if !sees_all {
            let message = format!(
                "role {name} is not in pg_monitor: data_directory and the synchronous state cannot be seen"
            );
            self.add(
                Severity::Warning,
                "monitoring right",
                message,
                Some(format!("GRANT pg_monitor TO {name};")),
            );
        }
        if !role.superuser && !role.checkpoints && self.facts.version.major() >= 15 {
            let message =
                format!("role {name} is not in pg_checkpoint: base backups wait for spread checkpoints only");
            self.add(
                Severity::Note,
                "checkpoint right",
                message,
                Some(format!("GRANT pg_checkpoint TO {name};")),
            );
        }
        self.function_right(
            role.switches_wal,
            "pg_switch_wal()",
            "a base backup of an idle server ends late",
        );
        self.function_right(
            role.makes_restore_points,
            "pg_create_restore_point(text)",
            "named restore points cannot be made with it",
        );
    }

    fn function_right(&mut self, granted: bool, function: &'static str, consequence: &str) {
        let role = &self.facts.role;
        if granted || role.superuser {
            return;
        }
        let name = quoted(&role.name);
        let message = format!("role {name} may not call {function}: {consequence}");
        let remedy = format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {name};");
        self.add(Severity::Note, "function right", message, Some(remedy));
    }

    fn wal_settings(&mut self) {
        match self.facts.value("wal_level") {
            "minimal" => {
                let remedy = alter("wal_level", "replica", true);
                let message = "wal_level is minimal: the log cannot bring a database back";
                self.add(Severity::Error, "wal_level", message, Some(remedy));
            }
            level => self.ok("wal_level", format!("wal_level is {level}")),
        }
        if self.facts.value("full_page_writes") == "off" {
            let message =
                "full_page_writes is off: pages torn by a crash cannot be mended, here or in a restore";
            self.add(
                Severity::Warning,
                "full_page_writes",
                message,
                Some(alter("full_page_writes", "on", false)),
            );
        }
        if self.facts.value("fsync") == "off" {
            let message = "fsync is off: a crash of the host can damage this database";
            self.add(
                Severity::Warning,
                "fsync",
                message,
                Some(alter("fsync", "on", false)),
            );
        }
        if self.facts.value("data_checksums") == "off" {
            let message = "data checksums are off: damaged pages are backed up unnoticed; to enable them stop the \
                           server and run pg_checksums --enable";
            self.add(Severity::Warning, "data_checksums", message, None);
        } else {
            self.ok("data_checksums", "data checksums are on");
        }
    }

    fn senders_and_slots(&mut self) {
        let ours_active = self.facts.slot.as_ref().is_some_and(|slot| slot.active);
        let limit = self.number("max_wal_senders");
        let free = limit - i64::from(self.facts.wal_senders_used) + i64::from(ours_active);
        if free < 1 || limit == 0 {
            let message = format!("all {limit} WAL senders are taken: the agent cannot connect");
            self.add(
                Severity::Error,
                "max_wal_senders",
                message,
                Some(alter("max_wal_senders", "10", true)),
            );
        } else if free < SENDERS_NEEDED {
            let message = "one WAL sender is free: a remote base backup needs a second one beside the stream";
            let more = (limit + SENDERS_NEEDED).to_string();
            self.add(
                Severity::Warning,
                "max_wal_senders",
                message,
                Some(alter("max_wal_senders", &more, true)),
            );
        } else {
            self.ok(
                "max_wal_senders",
                format!("{free} of {limit} WAL senders are free"),
            );
        }
        let limit = self.number("max_replication_slots");
        let free = limit - i64::from(self.facts.slots_used);
        if self.facts.slot.is_none() && free < 1 {
            let message = format!(
                "all {limit} replication slots are taken: \"{}\" cannot be made",
                self.wanted.slot
            );
            let more = (limit + 2).to_string();
            self.add(
                Severity::Error,
                "max_replication_slots",
                message,
                Some(alter("max_replication_slots", &more, true)),
            );
        }
    }

    fn slot(&mut self) {
        let name = &self.wanted.slot;
        let drop = format!("SELECT pg_drop_replication_slot('{}');", name.replace('\'', "''"));
        let Some(slot) = &self.facts.slot else {
            let message = format!("slot \"{name}\" does not exist yet; the agent makes it");
            return self.add(Severity::Note, "slot", message, None);
        };
        if slot.slot_type != "physical" {
            let message = format!(
                "slot \"{name}\" is {}, a physical one is needed; name another in slot =",
                slot.slot_type
            );
            return self.add(Severity::Error, "slot", message, None);
        }
        let reason = slot
            .invalidation_reason
            .as_deref()
            .unwrap_or("max_slot_wal_keep_size was reached");
        let held = ByteSize(slot.retained_bytes);
        match slot.wal_status {
            _ if slot.is_lost() => {
                let message = format!(
                    "slot \"{name}\" is lost ({reason}): there is a gap in the log; drop it and let the agent begin anew"
                );
                self.add(Severity::Error, "slot", message, Some(drop));
            }
            Some(WalStatus::Unreserved) => {
                let message =
                    format!("slot \"{name}\" loses its WAL at the next checkpoint; it holds back {held}");
                self.add(Severity::Warning, "slot", message, None);
            }
            _ => {
                let state = if slot.active { "in use" } else { "not in use" };
                self.ok(
                    "slot",
                    format!("slot \"{name}\" is {state} and holds back {held}"),
                );
            }
        }
    }

    /// The slot holds WAL while the agent is dead, too: only the server itself can bound that.
    fn slot_limits(&mut self) {
        match self
            .facts
            .setting("max_slot_wal_keep_size")
            .map(super::Setting::bytes)
        {
            Some(None) => {
                let message = "max_slot_wal_keep_size is unlimited: while the agent is dead its slot holds back WAL \
                               until the disk is full and the database stops";
                let size = self.wanted.max_slot_retained.map_or_else(
                    || "64GB".to_owned(),
                    |size| format!("{}MB", size.0.div_ceil(1 << 20).max(1)),
                );
                let remedy = Some(alter("max_slot_wal_keep_size", &size, false));
                self.add(Severity::Warning, "max_slot_wal_keep_size", message, remedy);
            }
            Some(Some(limit)) => {
                self.ok(
                    "max_slot_wal_keep_size",
                    format!("slots hold back {} at most", ByteSize(limit)),
                );
            }
            None => {}
        }
        if self.number("idle_replication_slot_timeout") > 0 {
            let message = "idle_replication_slot_timeout is set: after an outage of that length the slot is lost, and \
                           with it the log in between";
            let remedy = alter("idle_replication_slot_timeout", "0", false);
            self.add(
                Severity::Warning,
                "idle_replication_slot_timeout",
                message,
                Some(remedy),
            );
        }
    }

    fn archiving(&mut self) {
        let mode = self.facts.value("archive_mode").to_owned();
        let has_command = [
            self.facts.value("archive_command"),
            self.facts.value("archive_library"),
        ]
        .iter()
        .any(|command| !command.is_empty() && *command != "(disabled)");
        match (&self.wanted.archive_spool, mode.as_str()) {
            (Some(_), "off") => {
                let message = "archive_mode is off: nothing reaches the spool directory";
                self.add(
                    Severity::Error,
                    "archive_mode",
                    message,
                    Some(alter("archive_mode", "on", true)),
                );
            }
            (Some(spool), _) if !has_command => {
                let message = "archive_mode is on and archive_command is empty: the server keeps all WAL";
                let command = format!("tidemark-agent archive-wal --spool {} %p", spool.display());
                let remedy = alter("archive_command", &command, false);
                self.add(Severity::Error, "archive_command", message, Some(remedy));
            }
            (_, "always") => {
                let message = "archive_mode is always: a standby archives too, and its segments may differ from the \
                               primary's in bytes that do not matter";
                self.add(
                    Severity::Warning,
                    "archive_mode",
                    message,
                    Some(alter("archive_mode", "on", true)),
                );
            }
            (None, "on") if !has_command => {
                let message =
                    "archive_mode is on and archive_command is empty: the server keeps all WAL for ever";
                self.add(
                    Severity::Warning,
                    "archive_command",
                    message,
                    Some(alter("archive_mode", "off", true)),
                );
            }
            (None, "on") => {
                let message = "another tool archives WAL beside the agent; both can go on";
                self.add(Severity::Note, "archive_mode", message, None);
            }
            _ => {}
        }
    }

    fn synchronous(&mut self) {
        let names = self.facts.value("synchronous_standby_names");
        let us = &self.wanted.application_name;
        match (self.wanted.synchronous, names_standby(names, us)) {
            (true, false) => {
                let message = format!(
                    "synchronous is wanted, but synchronous_standby_names (\"{names}\") does not list \"{us}\": commits do not wait for the repository"
                );
                let value = if names.is_empty() {
                    quoted(us)
                } else {
                    format!("FIRST 1 ({}, {})", quoted(us), inner_names(names))
                };
                self.add(
                    Severity::Error,
                    "synchronous_standby_names",
                    message,
                    Some(alter("synchronous_standby_names", &value, false)),
                );
            }
            (true, true) => {
                let message =
                    "commits wait for the repository: while it cannot be reached, commits stop, on purpose";
                self.add(Severity::Note, "synchronous_standby_names", message, None);
                self.synchronous_commit();
            }
            (false, true) => {
                let message = format!(
                    "synchronous_standby_names lists \"{us}\", so commits may wait for the repository, but synchronous = true is not set; set it, or take the name off the list"
                );
                self.add(Severity::Warning, "synchronous_standby_names", message, None);
            }
            (false, false) => {}
        }
    }

    fn synchronous_commit(&mut self) {
        let message = match self.facts.value("synchronous_commit") {
            level @ ("off" | "local") => format!("synchronous_commit is {level}: commits do not wait for the repository"),
            "remote_apply" => "synchronous_commit is remote_apply: nothing is applied here; durable counts as applied".to_owned(),
            "remote_write" => "synchronous_commit is remote_write: commits wait until the agent has them in memory, not until they are durable".to_owned(),
            _ => return,
        };
        self.add(
            Severity::Warning,
            "synchronous_commit",
            message,
            Some(alter("synchronous_commit", "on", false)),
        );
    }

    fn base_backups(&mut self) {
        let Some(wanted) = &self.wanted.data_directory else {
            return;
        };
        let role = &self.facts.role;
        let name = quoted(&role.name);
        if !role.runs_backup_functions && !role.superuser {
            let functions = if self.facts.version.major() >= 15 {
                ["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"]
            } else {
                [
                    "pg_start_backup(text, boolean, boolean)",
                    "pg_stop_backup(boolean, boolean)",
                ]
            };
            let message =
                format!("role {name} may not begin and end base backups, which data_directory needs");
            let remedy = format!(
                "GRANT EXECUTE ON FUNCTION pg_catalog.{}, pg_catalog.{} TO {name};",
                functions[0], functions[1]
            );
            self.add(Severity::Error, "backup right", message, Some(remedy));
        }
        match self.facts.value("data_directory") {
            "" => {}
            actual if Path::new(actual) == wanted => {
                self.ok(
                    "data_directory",
                    format!("data_directory is {actual}, as configured"),
                );
            }
            actual => {
                let message = format!(
                    "the server says its data_directory is {actual}, the configuration says {}; a link would explain \
                     it, another server would not",
                    wanted.display()
                );
                self.add(Severity::Warning, "data_directory", message, None);
            }
        }
    }

    fn clock(&mut self) {
        let off = Duration::from_micros(self.facts.clock_ahead_micros.unsigned_abs());
        let direction = if self.facts.clock_ahead_micros < 0 {
            "behind"
        } else {
            "ahead of"
        };
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

    /// A numeric setting; zero where it is absent.
    fn number(&self, name: &str) -> i64 {
        self.facts
            .setting(name)
            .and_then(super::Setting::number)
            .unwrap_or(0)
    }
}

/// `ALTER SYSTEM`, with what makes it take effect.
fn alter(setting: &str, value: &str, needs_restart: bool) -> String {
    let value = value.replace('\'', "''");
    let then = if needs_restart {
        "-- then restart the server"
    } else {
        "SELECT pg_reload_conf();"
    };
    format!("ALTER SYSTEM SET {setting} = '{value}'; {then}")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The list within `FIRST n (...)`, or the plain list.
fn inner_names(setting: &str) -> &str {
    match (setting.find('('), setting.rfind(')')) {
        (Some(open), Some(close)) => setting.get(open + 1..close).unwrap_or(setting),
        _ => setting,
    }
}

#[cfg(test)]
mod tests;
