//! Which transactions of the log a server has not applied: after a failure, and when an interrupted replay goes on. Pure.

use std::collections::BTreeSet;

use super::executed::Executed;
use crate::binlog::{Transaction, TransactionEnd, TransactionGtid, TransactionKind};
use crate::gtid::GtidSet;

/// A transaction and the file it lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::restore) struct Located {
    /// The file's number among those that are applied, from zero on.
    pub(in crate::restore) file: usize,
    pub(in crate::restore) transaction: Transaction,
}

/// Which transactions of a log a server has, when they are looked at in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    has: Executed,
    /// MariaDB: domains whose last applied transaction was passed. What follows in them is not applied.
    passed: BTreeSet<u32>,
    /// MySQL: what was seen, and what lies before the log.
    seen: GtidSet,
}

impl Applied {
    /// A server that has executed `has`; the log begins where `before` was executed.
    pub(super) fn new(before: &Executed, has: Executed) -> Applied {
        let passed = match (before, &has) {
            (Executed::MariaDb(before), Executed::MariaDb(has)) => before
                .gtids()
                .filter(|gtid| has.last(gtid.domain) == Some(*gtid))
                .map(|gtid| gtid.domain)
                .collect(),
            (_, _) => BTreeSet::new(),
        };
        let seen = match before {
            Executed::MySql(before) => before.clone(),
            Executed::MariaDb(_) => GtidSet::new(),
        };
        Applied { has, passed, seen }
    }

    /// Whether the server has the transaction, which is the next one.
    pub(super) fn holds(&mut self, gtid: &TransactionGtid) -> bool {
        match (&self.has, gtid) {
            (Executed::MySql(has), TransactionGtid::MySql(gtid)) => {
                self.seen.add(gtid);
                has.contains(gtid)
            }
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

    /// Whether nothing comes any more that the server has; in MySQL, whose sets have no order, it does not matter.
    pub(super) fn is_passed(&self) -> bool {
        match &self.has {
            Executed::MySql(_) => true,
            Executed::MariaDb(_) => self.is_all_seen(),
        }
    }

    /// Whether all that the server has was seen.
    pub(super) fn is_all_seen(&self) -> bool {
        match &self.has {
            Executed::MySql(has) => self.seen.contains_all(has),
            Executed::MariaDb(has) => has.gtids().all(|gtid| self.passed.contains(&gtid.domain)),
        }
    }
}

/// Looks for the transaction that a server failed at.
#[derive(Debug)]
pub(in crate::restore) struct FailureSearch {
    applied: Applied,
    /// The GTID that the server named.
    named: Option<String>,
    found: Option<Located>,
}

impl FailureSearch {
    /// A search in the log from where `before` was executed, for a server that has executed `has`: for the transaction that
    /// it `named`, else the first that it lacks.
    pub(in crate::restore) fn new(before: &Executed, has: Executed, named: Option<String>) -> FailureSearch {
        FailureSearch {
            applied: Applied::new(before, has),
            named,
            found: None,
        }
    }

    /// Looks at the next transaction, in the file of this number.
    pub(in crate::restore) fn look(&mut self, file: usize, transaction: &Transaction) {
        let is_held = self.applied.holds(&transaction.gtid);
        let is_named = || self.named.as_ref() == Some(&transaction.gtid.to_string());
        if !is_held && (self.found.is_none() || is_named()) {
            self.found = Some(Located {
                file,
                transaction: transaction.clone(),
            });
        }
    }

    /// What was found.
    pub(in crate::restore) fn found(self) -> Option<Located> {
        self.found
    }
}

/// Whether a transaction that a server had begun with when it was killed is either wholly in the data or not at all, and its
/// GTID with it. So it is for changes of engines with transactions; DDL, engines without, and XA leave something behind.
pub(super) fn is_all_or_nothing(transaction: &Transaction) -> bool {
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

    /// Which of `log` a server lacks that has `has`, and whether all that it has was passed.
    fn lacking(flavor: Flavor, before: &str, has: &str, log: &[&str]) -> (Vec<String>, bool) {
        let read = |text| Executed::parse(flavor, text).unwrap();
        let mut applied = Applied::new(&read(before), read(has));
        let gtid = |text: &&str| match flavor {
            Flavor::MySql => TransactionGtid::MySql(text.parse().unwrap()),
            Flavor::MariaDb => TransactionGtid::MariaDb(text.parse().unwrap()),
        };
        let lacking = log.iter().filter(|text| !applied.holds(&gtid(text)));
        let lacking = lacking.map(|text| (*text).to_owned()).collect();
        (lacking, applied.is_all_seen())
    }

    #[test]
    fn a_domain_goes_on_behind_its_last() {
        let log = ["0-1-5", "0-1-6", "1-1-10", "0-1-7"];
        let (lacking, is_passed) = lacking(Flavor::MariaDb, "0-1-4,1-1-9", "0-1-5,1-1-9", &log);
        assert_eq!(lacking, ["0-1-6", "1-1-10", "0-1-7"]);
        assert!(is_passed);
    }

    #[test]
    fn numbers_that_do_not_ascend_are_no_order() {
        let (lacking, _) = lacking(Flavor::MariaDb, "0-1-4", "0-2-3", &["0-1-9", "0-2-3", "0-1-5"]);
        assert_eq!(lacking, ["0-1-5"]);
    }

    #[test]
    fn a_position_that_the_log_lacks_is_never_passed() {
        assert!(!lacking(Flavor::MariaDb, "0-1-4", "0-1-50", &["0-1-5", "0-1-6"]).1);
        assert!(lacking(Flavor::MariaDb, "0-1-4", "0-1-4", &[]).1);
    }

    #[test]
    fn a_set_of_gtids_may_have_holes() {
        let uuid = "11111111-2222-3333-4444-555555555555";
        let log: Vec<String> = (2..6).map(|number| format!("{uuid}:{number}")).collect();
        let log: Vec<&str> = log.iter().map(String::as_str).collect();
        let (lacking, is_all_seen) = lacking(
            Flavor::MySql,
            &format!("{uuid}:1"),
            &format!("{uuid}:1-2:4:9"),
            &log,
        );
        assert_eq!(lacking, [log[1], log[3]]);
        assert!(!is_all_seen, "9 was not seen");
    }

    #[test]
    fn the_transaction_that_a_server_names_is_the_one_that_failed() {
        let search = |named: Option<&str>| {
            let read = |text| Executed::parse(Flavor::MariaDb, text).unwrap();
            let mut search = FailureSearch::new(&read("0-1-1"), read("0-1-2"), named.map(str::to_owned));
            for (file, gtid) in ["0-1-2", "0-1-3", "0-1-4", "0-1-5"].into_iter().enumerate() {
                search.look(
                    file,
                    &transaction(TransactionGtid::MariaDb(gtid.parse().unwrap())),
                );
            }
            search.found().unwrap().file
        };
        assert_eq!(search(None), 1);
        assert_eq!(search(Some("0-1-4")), 2);
        assert_eq!(search(Some("0-9-9")), 1);
    }
}
