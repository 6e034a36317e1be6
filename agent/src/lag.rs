//! How long commits have been waiting to become durable. Pure: positions and times are handed in.

use std::collections::VecDeque;
use std::time::Duration;

use tidemark_types::{Position, Timestamp};

/// Commits closer together than this wait as one group: it bounds the memory, and the error of the measured lag.
const GROUP: Duration = Duration::from_millis(20);
/// With the repository down for long, later commits join the last group: the oldest one stays exact.
const GROUPS_MAX: usize = 1024;

/// Commits received one after the other, not durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    /// Commit time of the first.
    oldest: Timestamp,
    /// Commit time of the last.
    newest: Timestamp,
    /// Where the record of the last ends.
    end: Position,
}

/// Knows the oldest commit that is not durable.
///
/// Commit times are the server's. They need not be monotonic; the lag is that of the first commit in log order.
#[derive(Debug, Clone, Default)]
pub struct LagClock {
    waiting: VecDeque<Group>,
    /// Log that the server said it has and that has not arrived: it may hold commits.
    announced: Option<(Position, Timestamp)>,
    last_durable_commit: Option<Timestamp>,
}

impl LagClock {
    /// A commit, whose record ends at `end`, has arrived.
    pub fn commit(&mut self, end: Position, committed: Timestamp) {
        let full = self.waiting.len() >= GROUPS_MAX;
        match self.waiting.back_mut() {
            Some(group) if full || committed.since(group.oldest) < GROUP => {
                group.end = end;
                group.newest = committed;
            }
            _ => self.waiting.push_back(Group {
                oldest: committed,
                newest: committed,
                end,
            }),
        }
    }

    /// Bytes up to `position` have arrived; commits among them were told one by one.
    pub fn received(&mut self, position: Position) {
        self.announced = self.announced.filter(|(end, _)| position < *end);
    }

    /// The server has log up to `end`, and `received` of it has arrived.
    pub fn server_end(&mut self, end: Position, received: Option<Position>, now: Timestamp) {
        if Some(end) > received && self.announced.is_none() {
            self.announced = Some((end, now));
        }
    }

    /// Everything up to `position` is durable.
    pub fn durable(&mut self, position: Position) {
        while let Some(group) = self.waiting.front().filter(|group| group.end <= position) {
            self.last_durable_commit = self.last_durable_commit.max(Some(group.newest));
            self.waiting.pop_front();
        }
    }

    /// Forgets what waited: it will arrive again, or never.
    pub fn restart(&mut self) {
        self.waiting.clear();
        self.announced = None;
    }

    /// How long the oldest commit that is not durable, or log that may hold one, has waited.
    pub fn lag(&self, now: Timestamp) -> Duration {
        let commit = self.waiting.front().map(|group| group.oldest);
        let announced = self.announced.map(|(_, since)| since);
        let oldest = commit.into_iter().chain(announced).min();
        oldest.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Commit time of the newest commit that became durable.
    pub fn last_durable_commit(&self) -> Option<Timestamp> {
        self.last_durable_commit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_types::{LogFiles, Lsn, WalSegmentSize};

    fn lsn(lsn: u64) -> Position {
        LogFiles::Wal(WalSegmentSize::DEFAULT).lsn(Lsn(lsn))
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp(millis * 1000)
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_commit_until_it_is_durable() {
        let mut clock = LagClock::default();
        clock.commit(lsn(100), at(1000));
        clock.commit(lsn(200), at(3000));
        assert_eq!(clock.lag(at(4000)), Duration::from_secs(3));
        clock.durable(lsn(100));
        assert_eq!(clock.lag(at(4000)), Duration::from_secs(1));
        clock.durable(lsn(250));
        assert_eq!(clock.lag(at(4000)), Duration::ZERO);
        assert_eq!(clock.last_durable_commit(), Some(at(3000)));
    }

    #[test]
    fn a_half_durable_group_still_waits() {
        let mut clock = LagClock::default();
        clock.commit(lsn(100), at(1000));
        clock.commit(lsn(200), at(1005));
        clock.durable(lsn(150));
        assert_eq!(clock.lag(at(2000)), Duration::from_secs(1));
        assert_eq!(clock.last_durable_commit(), None);
    }

    #[test]
    fn log_known_but_not_received_counts_until_it_arrives() {
        let mut clock = LagClock::default();
        clock.server_end(lsn(500), Some(lsn(100)), at(1000));
        clock.server_end(lsn(900), Some(lsn(100)), at(2000));
        assert_eq!(clock.lag(at(3000)), Duration::from_secs(2));
        clock.received(lsn(500));
        assert_eq!(clock.lag(at(3000)), Duration::ZERO);
    }

    #[test]
    fn a_long_outage_neither_grows_memory_nor_forgets_the_oldest() {
        let mut clock = LagClock::default();
        for commit in 0..100_000 {
            clock.commit(lsn(commit as u64 + 1), at(commit * 100));
        }
        assert_eq!(clock.waiting.len(), GROUPS_MAX);
        assert_eq!(clock.lag(at(10_000_000)), Duration::from_secs(10_000));
        clock.durable(lsn(100_000));
        assert_eq!(clock.lag(at(10_000_000)), Duration::ZERO);
    }
}
