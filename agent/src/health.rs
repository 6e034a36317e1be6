//! Whether a server is protected as it should be, and why not. Pure: facts, thresholds and the time are handed in.

use std::time::Duration;

use serde::Serialize;
use tidemark_types::{Timestamp, format_duration};

use crate::config::ServerSettings;
use crate::schedule::Schedule;
use crate::state::{Facts, Pipeline};

/// A lag of this many times `max_lag` is no hiccup any more.
const LAG_FACTOR: u32 = 10;
/// A stream that has not begun after this time does not begin by itself.
const SLOW_START: Duration = Duration::from_secs(300);

/// What a server is measured against.
#[derive(Debug, Clone)]
pub struct Thresholds {
    /// More lag than this is unhealthy.
    pub lag: Duration,
    /// When base backups are made.
    pub schedule: Schedule,
}

impl Thresholds {
    /// Those that follow from a server's settings.
    pub fn of(settings: &ServerSettings) -> Thresholds {
        Thresholds {
            lag: settings.max_lag.saturating_mul(LAG_FACTOR),
            schedule: settings.base_backup.schedule.clone(),
        }
    }
}

/// One reason why a server is not healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Complaint {
    /// A short name for alert rules.
    pub kind: &'static str,
    /// What is wrong, for people.
    pub text: String,
}

fn complaint(kind: &'static str, text: impl Into<String>) -> Complaint {
    Complaint {
        kind,
        text: text.into(),
    }
}

/// Everything that is wrong with a server at `now`; empty: it is healthy.
pub fn complaints(facts: &Facts, thresholds: &Thresholds, now: Timestamp) -> Vec<Complaint> {
    let mut found = Vec::new();
    found.extend(pipeline_complaint(facts, now));
    // Beside another agent that does the work, lag and base backups are that one's.
    if !matches!(facts.pipeline, Pipeline::StandingBy { .. }) {
        found.extend(lag_complaint(facts, thresholds, now));
        found.extend(slot_complaint(facts));
        found.extend(base_backup_complaint(facts, thresholds, now));
    }
    found.extend(
        facts
            .alarms
            .iter()
            .map(|(kind, text)| complaint(kind, text.clone())),
    );
    found
}

fn pipeline_complaint(facts: &Facts, now: Timestamp) -> Option<Complaint> {
    let slow = facts
        .pipeline_since
        .map(|since| now.since(since))
        .filter(|age| *age > SLOW_START);
    match (&facts.pipeline, slow) {
        (Pipeline::Starting, Some(age)) => {
            let text = format!("streaming has not begun for {}", format_duration(age));
            Some(complaint("not_streaming", text))
        }
        (Pipeline::Starting | Pipeline::Streaming | Pipeline::StandingBy { .. }, _) => None,
        (Pipeline::Conflict { reason }, _) => Some(complaint("conflict", reason)),
        (Pipeline::Failed { reason, .. }, _) => Some(complaint("failed", reason)),
        (Pipeline::Stopped, _) => Some(complaint("stopped", "the agent has stopped streaming")),
    }
}

fn lag_complaint(facts: &Facts, thresholds: &Thresholds, now: Timestamp) -> Option<Complaint> {
    let lag = facts.lag(now);
    (lag > thresholds.lag).then(|| {
        let (lag, bound) = (format_duration(lag), format_duration(thresholds.lag));
        complaint(
            "lag",
            format!("the oldest commit that is not in the repository has waited for {lag} (bound: {bound})"),
        )
    })
}

fn slot_complaint(facts: &Facts) -> Option<Complaint> {
    let slot = facts.slot.as_ref()?;
    matches!(slot.wal_status.as_str(), "unreserved" | "lost").then(|| {
        complaint(
            "slot",
            format!("replication slot {} is {}", slot.name, slot.wal_status),
        )
    })
}

fn base_backup_complaint(facts: &Facts, thresholds: &Thresholds, now: Timestamp) -> Option<Complaint> {
    let backups = &facts.base_backups;
    if !backups.known {
        return None;
    }
    let failure = match &backups.last_failure {
        Some(reason) => format!("; the last attempt failed: {reason}"),
        None => String::new(),
    };
    let Some(newest) = &backups.newest else {
        return Some(complaint(
            "no_base_backup",
            format!("there is no base backup yet: nothing can be restored{failure}"),
        ));
    };
    let overdue = thresholds.schedule.overdue_after(newest.ended)?;
    (now > overdue).then(|| {
        let age = format_duration(now.since(newest.ended));
        complaint(
            "base_backup_overdue",
            format!("the newest base backup is {age} old: two runs were missed{failure}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::BackupKind;
    use crate::state::{BackupFacts, FailureClass, SlotFacts};
    use tidemark_types::{ErrorClass, LogFiles, Lsn, WalSegmentSize, parse_time};

    fn at(text: &str) -> Timestamp {
        parse_time(text, Timestamp(0)).unwrap()
    }

    fn thresholds() -> Thresholds {
        Thresholds {
            lag: Duration::from_secs(50),
            schedule: "0 2 * * *".parse().unwrap(),
        }
    }

    fn healthy() -> Facts {
        let mut facts = Facts::default();
        enter(&mut facts, Pipeline::Streaming, at("2026-11-21T10:00:00Z"));
        facts.base_backups.known = true;
        facts.base_backups.newest = Some(BackupFacts {
            id: "20261121T020000Z".to_owned(),
            kind: BackupKind::Full,
            began: at("2026-11-21T02:00:00Z"),
            ended: at("2026-11-21T02:10:00Z"),
            size_bytes: 1,
            stored_bytes: 1,
        });
        facts
    }

    fn end() -> tidemark_types::Position {
        LogFiles::Wal(WalSegmentSize::DEFAULT).lsn(Lsn(100))
    }

    fn enter(facts: &mut Facts, pipeline: Pipeline, now: Timestamp) {
        facts.pipeline = pipeline;
        facts.pipeline_since = Some(now);
    }

    fn kinds(facts: &Facts, now: &str) -> Vec<&'static str> {
        let found = complaints(facts, &thresholds(), at(now));
        found.into_iter().map(|complaint| complaint.kind).collect()
    }

    const NOW: &str = "2026-11-21T12:00:00Z";

    #[test]
    fn a_streaming_server_with_a_fresh_backup_is_healthy() {
        assert_eq!(complaints(&healthy(), &thresholds(), at(NOW)), []);
    }

    #[test]
    fn lag_counts_from_ten_times_max_lag() {
        let mut facts = healthy();
        facts.note_commit(end(), at(NOW).minus(Duration::from_secs(50)));
        assert_eq!(kinds(&facts, NOW), [] as [&str; 0]);
        assert_eq!(kinds(&facts, "2026-11-21T12:00:01Z"), ["lag"]);
        facts.note_durable(end());
        assert_eq!(kinds(&facts, "2026-11-21T12:00:01Z"), [] as [&str; 0]);
    }

    #[test]
    fn a_stopped_pipeline_says_why() {
        let reason = "connect to db1:5432: connection refused".to_owned();
        let mut facts = healthy();
        let class = FailureClass(ErrorClass::Transient);
        enter(
            &mut facts,
            Pipeline::Failed {
                reason: reason.clone(),
                class,
            },
            at(NOW),
        );
        assert_eq!(
            complaints(&facts, &thresholds(), at(NOW)),
            [Complaint {
                kind: "failed",
                text: reason
            }]
        );
    }

    #[test]
    fn a_start_may_take_minutes_but_not_longer() {
        let mut facts = healthy();
        enter(&mut facts, Pipeline::Starting, at(NOW));
        assert_eq!(kinds(&facts, "2026-11-21T12:05:00Z"), [] as [&str; 0]);
        assert_eq!(kinds(&facts, "2026-11-21T12:05:01Z"), ["not_streaming"]);
    }

    #[test]
    fn without_a_backup_nothing_can_be_restored_but_not_knowing_is_no_complaint() {
        let mut facts = healthy();
        facts.base_backups.newest = None;
        facts.base_backups.last_failure = Some("no space".to_owned());
        assert_eq!(
            complaints(&facts, &thresholds(), at(NOW)),
            [complaint(
                "no_base_backup",
                "there is no base backup yet: nothing can be restored; the last attempt failed: no space"
            )]
        );
        facts.base_backups.known = false;
        assert_eq!(kinds(&facts, NOW), [] as [&str; 0]);
    }

    #[test]
    fn a_backup_is_overdue_after_two_missed_runs() {
        assert_eq!(kinds(&healthy(), "2026-11-23T02:00:00Z"), [] as [&str; 0]);
        assert_eq!(kinds(&healthy(), "2026-11-23T02:00:01Z"), ["base_backup_overdue"]);
    }

    #[test]
    fn beside_a_working_agent_only_alarms_count() {
        let mut facts = healthy();
        let holder = "db2".to_owned();
        enter(&mut facts, Pipeline::StandingBy { holder }, at(NOW));
        facts.base_backups.newest = None;
        assert_eq!(kinds(&facts, NOW), [] as [&str; 0]);
        facts.alarms.insert("unindexed_range", "bad CRC".to_owned());
        assert_eq!(kinds(&facts, NOW), ["unindexed_range"]);
    }

    #[test]
    fn a_slot_that_loses_its_log_is_a_complaint() {
        let mut facts = healthy();
        facts.slot = Some(SlotFacts {
            name: "tidemark_shop".to_owned(),
            wal_status: "unreserved".to_owned(),
            retained_bytes: 1,
            safe_bytes: Some(0),
        });
        assert_eq!(kinds(&facts, NOW), ["slot"]);
    }
}
