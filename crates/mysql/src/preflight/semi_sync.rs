//! Semi-synchronous replication, judged: whether commits wait for the repository, for how long, and for nobody else.
//!
//! Manual: "Semisynchronous Replication"; MariaDB's knowledge base under the same name. MySQL 8.0.26 renamed plugin and
//! variables, MariaDB kept the old names.

use std::time::Duration;

use tidemark_types::{Severity, format_duration};

use super::findings::Report;
use crate::binlog::Flavor;
use crate::client::{ConnectedReplica, ReplicaIdentity};

/// The wait that counts as "for ever".
const PATIENCE: Duration = Duration::from_secs(86_400);
/// The longest that can be set, in milliseconds: seven weeks.
const TIMEOUT_MAX_MS: &str = "4294967295";

/// The prefix of the server's variables, and its word for a replica.
struct Words {
    prefix: &'static str,
    replica: &'static str,
}

const NEW: Words = Words {
    prefix: "rpl_semi_sync_source",
    replica: "replica",
};
const OLD: Words = Words {
    prefix: "rpl_semi_sync_master",
    replica: "slave",
};

impl Words {
    fn variable(&self, name: &str) -> String {
        format!("{}_{name}", self.prefix)
    }
}

impl Report<'_> {
    pub(super) fn semi_sync(&mut self) {
        if !self.wanted.semi_sync {
            return;
        }
        let words = match self.facts.settings.contains_key("rpl_semi_sync_source_enabled") {
            true => NEW,
            false => OLD,
        };
        let enabled = words.variable("enabled");
        match self.facts.is_on(&enabled) {
            Some(true) => {}
            Some(false) => {
                let message = format!(
                    "semi_sync is wanted, but {enabled} is off: commits do not wait for the repository"
                );
                let remedy = self.set(&enabled, "ON");
                return self.add(Severity::Error, "semi-sync", message, remedy);
            }
            None => return self.no_plugin(),
        }
        self.timeout(&words);
        self.wait_point(&words);
        self.without_replicas(&words);
        self.other_replicas(&words);
    }

    fn no_plugin(&mut self) {
        let message = "semi_sync is wanted, but the server's plugin for it is not installed";
        let remedy = match self.facts.flavor() {
            Flavor::MySql => Some(
                "INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so';\n\
                 SET PERSIST rpl_semi_sync_source_enabled = ON;"
                    .to_owned(),
            ),
            // Built in.
            Flavor::MariaDb => None,
        };
        self.add(Severity::Error, "semi-sync", message, remedy);
    }

    fn timeout(&mut self, words: &Words) {
        let variable = words.variable("timeout");
        let wait = Duration::from_millis(self.facts.number(&variable).unwrap_or(0.0) as u64);
        if wait >= PATIENCE {
            let message =
                "commits wait for the repository: while it cannot be reached, commits stop, on purpose";
            return self.add(Severity::Note, "semi-sync", message, None);
        }
        let message = format!(
            "{variable} is {}: when the repository cannot be reached for so long, commits go on without it, and a \
             lost host then loses them",
            format_duration(wait)
        );
        let remedy = self.set(&variable, TIMEOUT_MAX_MS);
        self.add(Severity::Warning, "semi-sync timeout", message, remedy);
    }

    fn wait_point(&mut self, words: &Words) {
        let variable = words.variable("wait_point");
        if self.facts.value(&variable) == "AFTER_COMMIT" {
            let message = format!(
                "{variable} is AFTER_COMMIT: others see a commit before the repository has it, and may see it lost"
            );
            let remedy = self.set(&variable, "AFTER_SYNC");
            self.add(Severity::Warning, "semi-sync wait point", message, remedy);
        }
    }

    fn without_replicas(&mut self, words: &Words) {
        let variable = words.variable(&format!("wait_no_{}", words.replica));
        if self.facts.is_on(&variable) == Some(false) {
            let message = format!("{variable} is off: while the agent is away, commits do not wait at all");
            let remedy = self.set(&variable, "ON");
            self.add(Severity::Warning, "semi-sync without replicas", message, remedy);
        }
    }

    /// The answers of as many replicas as are waited for release a commit. They are the repository's too only if there are
    /// not so many others.
    fn other_replicas(&mut self, words: &Words) {
        let variable = words.variable(&format!("wait_for_{}_count", words.replica));
        let waited_for = self.facts.number(&variable).unwrap_or(1.0) as u32;
        let connected = self.facts.semi_sync_replicas;
        let others = match self.agent_is_connected() {
            Some(true) => connected.saturating_sub(1),
            Some(false) | None => connected,
        };
        if others < waited_for {
            return;
        }
        let message = format!(
            "{others} other replicas acknowledge commits and {waited_for} is waited for: their answers may release a \
             commit that the repository does not have"
        );
        let remedy = match self.facts.settings.contains_key(&variable) {
            true => self.set(&variable, &(others + 1).to_string()),
            // MariaDB waits for one, always.
            false => Some("switch semi-synchronous replication off on the other replicas".to_owned()),
        };
        self.add(Severity::Warning, "semi-sync replicas", message, remedy);
    }

    /// `None`: our account does not see replicas.
    fn agent_is_connected(&self) -> Option<bool> {
        let replicas = self.facts.replicas.as_ref()?;
        let is_agent = |replica: &ConnectedReplica| {
            let is_ours = |identity: &ReplicaIdentity| identity.is_of(replica);
            Some(replica.server_id) == self.wanted.server_id
                || self.wanted.identity.as_ref().is_some_and(is_ours)
        };
        Some(replicas.iter().any(is_agent))
    }
}
