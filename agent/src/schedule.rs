//! When a base backup is due. Pure: everything it looks at is handed in.
//!
//! Schedules are cron expressions of five fields, in UTC: a host's zone changes twice a year and hides or doubles an
//! hour.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use tidemark_types::Timestamp;

/// After a failed attempt the next one waits this long, doubled with each failure in a row.
const FIRST_RETRY: Duration = Duration::from_secs(60);
/// A server that cannot be backed up is tried again at least this often.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// A cron expression that comes round again and again.
#[derive(Clone)]
pub struct Schedule {
    cron: Cron,
    text: String,
}

/// Text that is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not a schedule (expected five cron fields, minute hour day month weekday, such as \"0 2 * * *\")"
)]
pub struct InvalidSchedule(pub String);

impl Schedule {
    /// The first run after `time`.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        let next = self.cron.find_next_occurrence(&time.to_chrono(), false);
        next.ok().map(Timestamp::from_chrono)
    }

    /// When a backup that ended at `ended` is too old: the second run after it has come and it is still the newest.
    pub fn overdue_after(&self, ended: Timestamp) -> Option<Timestamp> {
        self.next_after(self.next_after(ended)?)
    }
}

impl FromStr for Schedule {
    type Err = InvalidSchedule;

    fn from_str(text: &str) -> Result<Schedule, InvalidSchedule> {
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let invalid = || InvalidSchedule(text.to_owned());
        let schedule = Schedule {
            cron: parser.parse(text).map_err(|_| invalid())?,
            text: text.to_owned(),
        };
        // "30 February" parses and never comes.
        schedule.next_after(Timestamp(0)).ok_or_else(invalid)?;
        Ok(schedule)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({})", self.text)
    }
}

/// Whether a backup may refer to an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// Stores every page.
    Full,
    /// Stores the pages that changed since its parent.
    Incremental,
}

impl BackupKind {
    /// As it appears in metrics, messages and tables.
    pub fn label(self) -> &'static str {
        match self {
            BackupKind::Full => "full",
            BackupKind::Incremental => "incremental",
        }
    }
}

/// Why a backup is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// This generation has none: a new server, an upgraded or re-made one.
    NoneYet,
    /// The log has a hole after the newest one, and nothing past the hole can be restored without a new one.
    Gap,
    /// Its time has come.
    Scheduled,
}

impl Cause {
    /// For logs: "base backup begins: …".
    pub fn label(self) -> &'static str {
        match self {
            Cause::NoneYet => "there is none yet",
            Cause::Gap => "the log has a gap after the newest one",
            Cause::Scheduled => "scheduled",
        }
    }
}

/// What is known about the base backups of a server's present generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupHistory {
    /// When the newest complete one began.
    pub newest_began: Option<Timestamp>,
    /// When the newest complete full one began.
    pub newest_full_began: Option<Timestamp>,
    /// Whether a gap lies after the newest one.
    pub gap_since: bool,
    /// When the last attempt failed, if none succeeded since.
    pub last_failure: Option<Timestamp>,
    /// How many attempts failed in a row.
    pub failures_in_a_row: u32,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Begin one.
    Due {
        /// Of this kind, or full when no parent serves.
        kind: BackupKind,
        /// Why.
        cause: Cause,
    },
    /// Ask again at this time.
    Wait {
        /// The next run, or the next retry.
        until: Timestamp,
    },
}

/// Decides whether a base backup is due at `now`.
pub fn decide(
    schedule: &Schedule,
    full_every: Duration,
    history: &BackupHistory,
    now: Timestamp,
) -> Decision {
    let scheduled = history.newest_began.and_then(|began| schedule.next_after(began));
    let cause = match (history.newest_began, scheduled) {
        (None, _) => Cause::NoneYet,
        _ if history.gap_since => Cause::Gap,
        (_, Some(next)) if next > now => return Decision::Wait { until: next },
        _ => Cause::Scheduled,
    };
    match retry_at(history).filter(|retry| *retry > now) {
        Some(until) => Decision::Wait { until },
        None => Decision::Due {
            kind: kind_due(full_every, history, now),
            cause,
        },
    }
}

fn retry_at(history: &BackupHistory) -> Option<Timestamp> {
    let doublings = history.failures_in_a_row.saturating_sub(1).min(16);
    let pause = FIRST_RETRY.saturating_mul(1 << doublings).min(LONGEST_RETRY);
    history.last_failure.map(|failed| failed.plus(pause))
}

/// Full when the newest full backup is older than `full_every`, or there is none.
pub fn kind_due(full_every: Duration, history: &BackupHistory, now: Timestamp) -> BackupKind {
    match history.newest_full_began {
        Some(began) if now.since(began) < full_every => BackupKind::Incremental,
        _ => BackupKind::Full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_types::parse_time;

    const DAYS_30: Duration = Duration::from_secs(30 * 86_400);

    fn at(text: &str) -> Timestamp {
        parse_time(text, Timestamp(0)).unwrap()
    }

    fn nightly() -> Schedule {
        "0 2 * * *".parse().unwrap()
    }

    fn after_a_backup() -> BackupHistory {
        BackupHistory {
            newest_began: Some(at("2026-11-20T02:00:00Z")),
            newest_full_began: Some(at("2026-11-01T02:00:00Z")),
            ..BackupHistory::default()
        }
    }

    #[test]
    fn the_next_run_is_in_utc_and_later_than_the_moment_asked_about() {
        let next = |time| nightly().next_after(at(time)).unwrap();
        assert_eq!(next("2026-11-21T01:59:59Z"), at("2026-11-21T02:00:00Z"));
        assert_eq!(next("2026-11-21T02:00:00Z"), at("2026-11-22T02:00:00Z"));
    }

    #[test]
    fn what_never_comes_or_is_no_cron_expression_is_refused() {
        for text in ["", "daily", "0 2 * *", "0 0 2 * * *", "61 2 * * *", "0 0 30 2 *"] {
            assert_eq!(
                text.parse::<Schedule>().unwrap_err(),
                InvalidSchedule(text.to_owned())
            );
        }
    }

    #[test]
    fn a_weekend_without_runs_is_not_overdue() {
        let weekdays: Schedule = "0 2 * * 1-5".parse().unwrap();
        let friday = at("2026-11-20T02:30:00Z");
        assert_eq!(weekdays.overdue_after(friday), Some(at("2026-11-24T02:00:00Z")));
    }

    #[test]
    fn the_first_backup_is_due_at_once_and_full() {
        let now = at("2026-11-20T12:00:00Z");
        let due = Decision::Due {
            kind: BackupKind::Full,
            cause: Cause::NoneYet,
        };
        assert_eq!(decide(&nightly(), DAYS_30, &BackupHistory::default(), now), due);
    }

    #[test]
    fn between_runs_nothing_is_due_unless_the_log_has_a_gap() {
        let now = at("2026-11-20T12:00:00Z");
        let wait = Decision::Wait {
            until: at("2026-11-21T02:00:00Z"),
        };
        assert_eq!(decide(&nightly(), DAYS_30, &after_a_backup(), now), wait);
        let with_gap = BackupHistory {
            gap_since: true,
            ..after_a_backup()
        };
        let due = Decision::Due {
            kind: BackupKind::Incremental,
            cause: Cause::Gap,
        };
        assert_eq!(decide(&nightly(), DAYS_30, &with_gap, now), due);
    }

    #[test]
    fn a_run_missed_while_the_agent_was_down_is_made_up_for() {
        let now = at("2026-11-23T12:00:00Z");
        let due = Decision::Due {
            kind: BackupKind::Incremental,
            cause: Cause::Scheduled,
        };
        assert_eq!(decide(&nightly(), DAYS_30, &after_a_backup(), now), due);
    }

    #[test]
    fn a_full_one_is_due_when_the_last_full_one_is_old() {
        let now = at("2026-12-01T02:00:00Z");
        let due = Decision::Due {
            kind: BackupKind::Full,
            cause: Cause::Scheduled,
        };
        assert_eq!(decide(&nightly(), DAYS_30, &after_a_backup(), now), due);
    }

    #[test]
    fn failures_are_retried_ever_more_slowly_but_at_least_hourly() {
        let failed = at("2026-11-20T12:00:00Z");
        let after = |failures, seconds| {
            let history = BackupHistory {
                last_failure: Some(failed),
                failures_in_a_row: failures,
                ..BackupHistory::default()
            };
            decide(
                &nightly(),
                DAYS_30,
                &history,
                failed.plus(Duration::from_secs(seconds)),
            )
        };
        let wait = |seconds| Decision::Wait {
            until: failed.plus(Duration::from_secs(seconds)),
        };
        assert_eq!(after(1, 59), wait(60));
        assert_eq!(after(3, 100), wait(240));
        assert_eq!(after(4_000_000_000, 100), wait(3600));
        assert!(matches!(after(1, 60), Decision::Due { .. }));
    }
}
