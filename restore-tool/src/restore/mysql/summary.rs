//! What came of a restore.

use std::path::{Path, PathBuf};

use serde::Serialize;
use tidemark_mysql::restore::Replayed;
use tidemark_types::Timestamp;

use super::place::Place;
use crate::command::list::print_json;
use crate::engine::Engine;
use crate::plan::Plan;
use crate::restore::summary::{PhaseSeconds, Phases};

/// Where a restored server stands in the log of the original.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct StoppedAt {
    /// The branch, and the file and offset on it.
    branch: Option<u32>,
    position: Option<String>,
    /// MySQL: `gtid_executed`; MariaDB: the last GTID of each domain.
    gtid_set: String,
    /// MariaDB: what `gtid_binlog_state` was.
    #[serde(skip_serializing_if = "Option::is_none")]
    gtid_binlog_state: Option<String>,
    /// When the last transaction that is in committed.
    commit_time: Option<Timestamp>,
}

/// What came of a restore.
#[derive(Debug, Serialize)]
pub struct Summary<'a> {
    data_directory: &'a Path,
    state_directory: &'a Path,
    /// Where the lost server's configuration files lie, if the backup holds any.
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration: Option<PathBuf>,
    /// `open`, `read-only` or `shut down`.
    state: &'static str,
    socket: Option<PathBuf>,
    pid: Option<u32>,
    stopped_at: StoppedAt,
    /// Transactions that were applied.
    transactions: u64,
    /// XA transactions that are prepared, as behind `XA COMMIT`.
    prepared_xa: Vec<String>,
    /// What the original had and the base backup lacks.
    missing: &'a [String],
    phases: PhaseSeconds,
    plan: &'a Plan,
}

impl<'a> Summary<'a> {
    /// Of a server that reached its target.
    pub fn new(
        place: &'a Place,
        plan: &'a Plan,
        phases: &Phases,
        missing: &'a [String],
        state: &'static str,
        replayed: &Replayed,
    ) -> Summary<'a> {
        let running = replayed.running.as_ref();
        Summary {
            data_directory: &place.data,
            state_directory: &place.state,
            configuration: Some(place.state.join("configuration")).filter(|folder| folder.is_dir()),
            state,
            socket: running.map(|running| running.socket.clone()),
            pid: running.map(|running| running.pid),
            stopped_at: StoppedAt {
                branch: replayed.place.as_ref().map(|place| place.branch),
                position: replayed
                    .place
                    .as_ref()
                    .map(|place| format!("{}:{}", place.file, place.offset)),
                gtid_set: replayed.executed.to_string(),
                gtid_binlog_state: replayed.binlog_state.clone(),
                commit_time: plan
                    .last_commit
                    .as_ref()
                    .map(|commit| commit.time)
                    .or(replayed.last_commit),
            },
            transactions: replayed.transactions,
            prepared_xa: replayed.prepared.iter().map(ToString::to_string).collect(),
            missing,
            phases: phases.into(),
            plan,
        }
    }

    /// Prints it to standard output.
    ///
    /// # Errors
    /// When that is closed.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return print_json(self);
        }
        println!(
            "restored {} into {}: {}",
            self.plan.server,
            self.data_directory.display(),
            self.state
        );
        let stopped = &self.stopped_at;
        let position = stopped
            .position
            .as_deref()
            .unwrap_or("the end of its base backup");
        let time = stopped
            .commit_time
            .map_or("no commit in the log that was applied".to_owned(), |time| {
                format!("last commit in: {time}")
            });
        println!(
            "stands at {position}; {time}; {} transactions were applied",
            self.transactions
        );
        println!("GTIDs: {}", stopped.gtid_set);
        if let Some(state) = &stopped.gtid_binlog_state {
            println!("before it writes a binlog of its own: SET GLOBAL gtid_binlog_state = '{state}'");
        }
        if let Some(configuration) = &self.configuration {
            println!("configuration of the lost server: {}", configuration.display());
        }
        for missing in self.missing {
            println!("not in the base backup, and so not here: {missing}");
        }
        for id in &self.prepared_xa {
            println!(
                "an XA transaction is prepared and holds its locks until: XA COMMIT {id}, or XA ROLLBACK {id}"
            );
        }
        if let Some(socket) = &self.socket {
            let client = match self.plan.engine {
                Engine::Mariadb => "mariadb",
                Engine::Mysql | Engine::Postgresql => "mysql",
            };
            println!(
                "connect as a user of the original: {client} --socket={}\nno application reaches it there; to go live, stop it \
                 with SHUTDOWN and start it with a configuration of your own",
                socket.display()
            );
        }
        self.phases.print();
        Ok(())
    }
}
