//! Which transactions of the log a server has not applied: after a failure, and when an interrupted replay goes on. Pure.

use std::collections::BTreeSet;

use super::executed::Executed;
use crate::binlog::{Transaction, TransactionEnd, TransactionGtid, TransactionKind};

/// A transaction and the file it lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::restore) struct Located {
    /// The file's number among those that are applied, from zero on.
    pub(in crate::restore) file: usize,
    pub(in crate::restore) transaction: Transaction,
}

/// Looks through transactions in the order of the log for those that a server lacks.
#[derive(Debug)]
pub(in crate::restore) struct UnappliedSearch {
    has: Executed,
    /// MariaDB: domains whose last applied transaction was passed. What follows in them is not applied.
    passed: BTreeSet<u32>,
    in_flight_max: usize,
    /// The first transactions that are not applied, at most `in_flight_max`.
    unapplied: Vec<Located>,
    /// An applied transaction lies behind one that is not.
    has_applied_behind: bool,
    applied: u64,
}

/// What came of the search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::restore) struct Unapplied {
    /// The first transactions that are not applied, as many as a server may have begun with.
    pub(in crate::restore) first: Vec<Located>,
    /// An applied transaction lies behind one that is not.
    pub(in crate::restore) has_applied_behind: bool,
    /// So many are applied.
    pub(in crate::restore) applied: u64,
    /// The server stands where the log has no transaction.
    pub(in crate::restore) is_elsewhere: bool,
}

impl UnappliedSearch {
    /// A search where `before` was executed when applying began, and `has` is executed now. A server may have begun with
    /// `in_flight_max` transactions at once.
    pub(in crate::restore) fn new(before: &Executed, has: Executed, in_flight_max: usize) -> UnappliedSearch {
        let passed = match (before, &has) {
            (Executed::MariaDb(before), Executed::MariaDb(has)) => before
                .gtids()
                .filter(|gtid| has.last(gtid.domain) == Some(*gtid))
                .map(|gtid| gtid.domain)
                .collect(),
            (_, _) => BTreeSet::new(),
        };
        UnappliedSearch {
            has,
            passed,
            in_flight_max,
            unapplied: Vec::new(),
            has_applied_behind: false,
            applied: 0,
        }
    }

    /// Looks at the next transaction. Of the file, the number is kept.
    pub(in crate::restore) fn look(&mut self, file: usize, transaction: &Transaction) {
        if self.is_applied(&transaction.gtid) {
            self.has_applied_behind |= !self.unapplied.is_empty();
            self.applied += 1;
        } else if self.unapplied.len() < self.in_flight_max {
            self.unapplied.push(Located {
                file,
                transaction: transaction.clone(),
            });
        }
    }

    /// Ends the search.
    pub(in crate::restore) fn end(self) -> Unapplied {
        let is_elsewhere = match &self.has {
            Executed::MySql(_) => false,
            Executed::MariaDb(has) => has.gtids().any(|gtid| !self.passed.contains(&gtid.domain)),
        };
        Unapplied {
            first: self.unapplied,
            has_applied_behind: self.has_applied_behind,
            applied: self.applied,
            is_elsewhere,
        }
    }

    fn is_applied(&mut self, gtid: &TransactionGtid) -> bool {
        match (&self.has, gtid) {
            (Executed::MySql(has), TransactionGtid::MySql(gtid)) => has.contains(gtid),
            (Executed::MariaDb(has), TransactionGtid::MariaDb(gtid)) => {
                let last = has.last(gtid.domain);
                if last.is_none() || self.passed.contains(&gtid.domain) {
                    return false;
                }
                if last == Some(*gtid) {
                    self.passed.insert(gtid.domain);
                }
                true
            }
            (_, _) => false,
        }
    }
}

/// Whether a transaction that a server had begun with when it was killed is either wholly in the data or not at all, and its
/// GTID with it. So it is for changes of engines with transactions; DDL, engines without, and XA leave something behind.
pub(in crate::restore) fn is_all_or_nothing(transaction: &Transaction) -> bool {
    transaction.kind == TransactionKind::Changes
        && !transaction.contains_ddl
        && matches!(
            transaction.ended_by,
            TransactionEnd::Xid | TransactionEnd::Payload
        )
}

#[cfg(test)]
mod tests {
    use tidemark_types::Timestamp;

    use super::*;
    use crate::binlog::{BinlogOffset, Flavor, TimeSource};

    fn transaction(gtid: TransactionGtid) -> Transaction {
        Transaction {
            begin: BinlogOffset(4),
            end: BinlogOffset(8),
            gtid,
            server_id: 1,
            commit_time: Timestamp(0),
            time_source: TimeSource::Commit,
            original_commit_time: None,
            kind: TransactionKind::Changes,
            ended_by: TransactionEnd::Xid,
            contains_ddl: false,
            claimed_bytes: None,
        }
    }

    fn search(before: &str, has: &str, log: &[&str]) -> Unapplied {
        let read = |text| Executed::parse(Flavor::MariaDb, text).unwrap();
        let mut search = UnappliedSearch::new(&read(before), read(has), 2);
        for gtid in log {
            search.look(0, &transaction(TransactionGtid::MariaDb(gtid.parse().unwrap())));
        }
        search.end()
    }

    fn first(unapplied: &Unapplied) -> Vec<String> {
        let gtids = unapplied.first.iter();
        gtids
            .map(|located| located.transaction.gtid.to_string())
            .collect()
    }

    #[test]
    fn a_domain_goes_on_behind_its_last() {
        let found = search(
            "0-1-4,1-1-9",
            "0-1-5,1-1-9",
            &["0-1-5", "0-1-6", "1-1-10", "0-1-7"],
        );
        assert_eq!(first(&found), ["0-1-6", "1-1-10"]);
        assert!(!found.has_applied_behind && !found.is_elsewhere);
    }

    #[test]
    fn domains_that_stand_apart_are_told() {
        let found = search("0-1-4", "0-1-5,1-1-2", &["0-1-5", "0-1-6", "1-1-1", "1-1-2"]);
        assert_eq!(first(&found), ["0-1-6"]);
        assert!(found.has_applied_behind);
    }

    #[test]
    fn numbers_that_do_not_ascend_are_no_order() {
        let found = search("0-1-4", "0-2-3", &["0-1-9", "0-2-3", "0-1-5"]);
        assert_eq!(first(&found), ["0-1-5"]);
    }

    #[test]
    fn a_position_that_the_log_lacks_is_told() {
        assert!(search("0-1-4", "0-1-50", &["0-1-5", "0-1-6"]).is_elsewhere);
        assert!(!search("0-1-4", "0-1-4", &[]).is_elsewhere);
    }

    #[test]
    fn a_set_of_gtids_may_have_holes() {
        let uuid = "11111111-2222-3333-4444-555555555555";
        let read = |text: &str| Executed::parse(Flavor::MySql, &format!("{uuid}:{text}")).unwrap();
        let mut search = UnappliedSearch::new(&read("1"), read("1-2:4"), 8);
        for number in 2..6 {
            let gtid = format!("{uuid}:{number}").parse().unwrap();
            search.look(0, &transaction(TransactionGtid::MySql(gtid)));
        }
        let found = search.end();
        assert_eq!(first(&found), [format!("{uuid}:3"), format!("{uuid}:5")]);
        assert!(found.has_applied_behind);
    }
}
