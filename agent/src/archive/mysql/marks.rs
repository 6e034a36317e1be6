//! What a server says while its binlog is followed: its clock, where its log ends, which files it still has.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_mysql::client::Sql;
use tidemark_repository::Branch;
use tidemark_types::{
    BinlogBasename, Clock, LogFiles, LogPosition, Position, SystemClock, Timestamp, format_duration,
};
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::start::ServerFiles;
use crate::archive::lease_keeper::{Mark, Marks};
use crate::state::{Facts, ServerState};

/// How often the server's files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Log that the server removes sooner than this is in danger: time enough for somebody to look, even on a weekend. Sooner
/// than half of the time that binlogs are kept at all, it is in danger on servers that keep them for less.
const PURGE_SOON: Duration = Duration::from_secs(2 * 86_400);

/// A server that is asked by SQL, by two tasks in turn.
pub struct BinlogMarks {
    sql: Mutex<Sql>,
    branch: Branch,
    files: LogFiles,
}

impl BinlogMarks {
    /// Asks over `sql` about the log of `branch`, whose files are called so.
    pub fn new(sql: Sql, branch: Branch, files: LogFiles) -> BinlogMarks {
        BinlogMarks {
            sql: Mutex::new(sql),
            branch,
            files,
        }
    }

    /// Asks for the clock and the end of the log.
    async fn ask(&self) -> anyhow::Result<Option<Mark>> {
        let end = self.sql.lock().await.log_end().await?;
        let position = BinlogBasename::parse_file(&end.file).map(|(_, file)| {
            self.files.position(LogPosition {
                file,
                offset: end.position.0,
            })
        });
        Ok(position.map(|position| Mark {
            time: end.time,
            branch: self.branch,
            end: position,
        }))
    }

    /// Watches over what the server will purge, and tells the state how far its log reaches.
    ///
    /// # Errors
    /// What the server says. Never returns otherwise. May be dropped.
    pub async fn watch(&self, state: &ServerState) -> anyhow::Result<()> {
        let mut watchdog = PurgeWatchdog::default();
        loop {
            let (files, retention) = self.look().await?;
            let mark = self.ask().await?;
            let now = SystemClock.now();
            state.update(|facts| {
                if let Some(mark) = mark {
                    facts.note_server_end(mark.end, now);
                }
                let Some(durable) = facts.durable else { return };
                facts.files_behind = files.bytes_behind(durable.at.file);
                let commit = facts.last_durable_commit();
                facts.purge_in = retention
                    .and_then(|retention| watchdog.remaining(&files, durable, commit, retention, now));
                alarm(facts, retention.unwrap_or_default());
            });
            sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self) -> anyhow::Result<(ServerFiles, Option<Duration>)> {
        let mut sql = self.sql.lock().await;
        let files = sql.binlog_files().await?;
        let files = ServerFiles::listed(&files);
        // In both vendors, since MariaDB 10.6; zero: no file is purged for its age.
        let statement = "SELECT @@GLOBAL.binlog_expire_logs_seconds AS seconds";
        let row = sql.query_one("read how long binlogs are kept", statement).await?;
        let seconds: u64 = row.parse("seconds").unwrap_or(0);
        Ok((files, (seconds > 0).then(|| Duration::from_secs(seconds))))
    }
}

impl Marks for BinlogMarks {
    async fn mark(&self) -> anyhow::Result<Option<Mark>> {
        self.ask().await
    }
}

/// Raises the alarm, and ends it, about log that the server will purge.
fn alarm(facts: &mut Facts, retention: Duration) {
    const KIND: &str = "purge";
    match facts
        .purge_in
        .filter(|left| *left < PURGE_SOON.min(retention / 2))
    {
        None => {
            facts.alarms.remove(KIND);
        }
        Some(left) => {
            let left = format_duration(Duration::from_secs(left.as_secs()));
            let text = format!("the server may purge binlog that is not in the repository in {left}");
            if facts.alarms.insert(KIND, text.clone()).is_none() {
                tracing::error!("{text}");
            }
        }
    }
}

/// Knows how long the server will keep the file that is not durable yet.
///
/// A server purges a file when it was last written longer ago than it is to be kept. It does not tell when that was: it is
/// taken for the moment at which the file was first seen not to be the last, or earlier, for that of the newest commit that
/// is durable (the file was written after it).
#[derive(Debug, Default)]
struct PurgeWatchdog {
    /// When files were first seen closed.
    closed: BTreeMap<u64, Timestamp>,
}

impl PurgeWatchdog {
    /// How long until the server may purge what is not durable; `None` when it is in the file in use.
    fn remaining(
        &mut self,
        files: &ServerFiles,
        durable: Position,
        last_durable_commit: Option<Timestamp>,
        retention: Duration,
        now: Timestamp,
    ) -> Option<Duration> {
        let file = durable.at.file;
        let is_closed = files.last().is_some_and(|last| file < last);
        self.closed.retain(|known, _| *known >= file);
        if !is_closed {
            return None;
        }
        let seen = *self.closed.entry(file).or_insert(now);
        let written = last_durable_commit.map_or(seen, |commit| commit.min(seen));
        Some(retention.saturating_sub(now.since(written)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_durable_is_kept_from_when_its_file_was_closed() {
        let files = |last: u64| ServerFiles::new((3..=last).map(|file| (file, 100)).collect());
        let durable = LogFiles::Binlog {
            branch: 1,
            basename: BinlogBasename::new("bin"),
        }
        .position(LogPosition { file: 4, offset: 50 });
        let day = Duration::from_secs(86_400);
        let at = |hour: i64| Timestamp(hour * 3_600_000_000);
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        let mut watchdog = PurgeWatchdog::default();
        let mut remaining =
            |last, commit, now| watchdog.remaining(&files(last), durable, commit, day, at(now));
        assert_eq!(remaining(4, None, 100), None, "the file is in use");
        assert_eq!(remaining(5, None, 101), hours(24));
        assert_eq!(remaining(6, None, 111), hours(14));
        assert_eq!(
            remaining(6, Some(at(99)), 111),
            hours(12),
            "written after that commit"
        );
        assert_eq!(remaining(6, None, 200), Some(Duration::ZERO));
    }

    #[test]
    fn the_alarm_comes_in_time_and_goes() {
        let week = Duration::from_secs(7 * 86_400);
        let is_raised = |facts: &mut Facts, left: Option<u64>, retention| {
            facts.purge_in = left.map(|hours| Duration::from_secs(hours * 3600));
            alarm(facts, retention);
            facts.alarms.contains_key("purge")
        };
        let mut facts = Facts::default();
        assert!(!is_raised(&mut facts, Some(49), week));
        assert!(is_raised(&mut facts, Some(47), week));
        assert!(!is_raised(&mut facts, None, week));
        assert!(
            !is_raised(&mut facts, Some(23), week / 7),
            "a day is all that is kept"
        );
        assert!(is_raised(&mut facts, Some(11), week / 7));
    }
}
