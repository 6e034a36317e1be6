//! Logs that are whole, and logs that are not, built event by event.

use super::*;
use crate::binlog::tests::writer::Writer;
use crate::binlog::{BinlogOffset, ChecksumAlgorithm, EventType, Flavor};
use crate::gtid::GtidSet;

const UUID: &str = "abababab-abab-abab-abab-abababababab";

/// A file in the making.
struct Made {
    writer: Writer,
    flavor: Flavor,
}

impl Made {
    /// A file that says that `before` lies before it.
    fn new(flavor: Flavor, before: &str) -> Made {
        let mut writer = Writer::new(flavor, ChecksumAlgorithm::Crc32);
        match flavor {
            Flavor::MySql => {
                let set: GtidSet = mysql(before).parse().unwrap();
                writer.event(EventType::PREVIOUS_GTIDS, 0, &set.encode());
            }
            Flavor::MariaDb => {
                let gtids: Vec<&str> = before.split(',').filter(|text| !text.is_empty()).collect();
                let mut body = (gtids.len() as u32).to_le_bytes().to_vec();
                for gtid in gtids {
                    let gtid: crate::gtid::MariaDbGtid = gtid.parse().unwrap();
                    body.extend(gtid.domain.to_le_bytes());
                    body.extend(gtid.server.to_le_bytes());
                    body.extend(gtid.sequence.to_le_bytes());
                }
                writer.event(EventType::GTID_LIST, 0, &body);
            }
        }
        Made { writer, flavor }
    }

    /// With a transaction: in MariaDB of this domain and server 77.
    fn with(mut self, domain: u32, number: u64) -> Made {
        match self.flavor {
            Flavor::MySql => {
                self.writer.gtid(number);
                self.writer.query("BEGIN");
            }
            Flavor::MariaDb => {
                let mut body = number.to_le_bytes().to_vec();
                body.extend(domain.to_le_bytes());
                body.extend([0; 7]);
                self.writer.event(EventType::MARIADB_GTID, 0, &body);
            }
        }
        self.writer.commit();
        self
    }

    fn with_statement(mut self, number: u64, text: &str) -> Made {
        self.writer.gtid(number);
        self.writer.query(text);
        self
    }

    fn end(&self) -> BinlogOffset {
        BinlogOffset(self.writer.bytes.len() as u64)
    }
}

/// `1-5:7` as a set.
fn mysql(numbers: &str) -> String {
    if numbers.is_empty() {
        String::new()
    } else {
        format!("{UUID}:{numbers}")
    }
}

fn executed(flavor: Flavor, text: &str) -> Executed {
    let text = if flavor == Flavor::MySql {
        mysql(text)
    } else {
        text.to_owned()
    };
    Executed::parse(flavor, &text).unwrap()
}

/// A log that is applied to data that holds `held`, from the beginning of its first file on.
fn chain(flavor: Flavor, held: &str) -> LogChain {
    LogChain::new(LogStart {
        offset: (flavor == Flavor::MariaDb).then_some(BinlogOffset::FIRST_EVENT),
        executed: executed(flavor, held),
        interrupted: None,
    })
}

fn add_as(chain: &mut LogChain, made: &Made, branch: u32) -> Result<FileFacts, LogError> {
    chain.begin_file(&LogFile {
        branch,
        name: "bin.000001".to_owned(),
        ending: FileEnding::Ended,
    });
    for part in made.writer.bytes.chunks(7) {
        chain.feed(part)?;
    }
    chain.end_file()
}

fn add(chain: &mut LogChain, made: &Made) -> Result<FileFacts, LogError> {
    add_as(chain, made, 1)
}

const BOTH: [Flavor; 2] = [Flavor::MySql, Flavor::MariaDb];

fn list(flavor: Flavor, numbers: &'static str, mariadb: &'static str) -> &'static str {
    match flavor {
        Flavor::MySql => numbers,
        Flavor::MariaDb => mariadb,
    }
}

#[test]
fn files_that_join_are_counted() {
    for flavor in BOTH {
        let mut chain = chain(flavor, "");
        let first = add(&mut chain, &Made::new(flavor, "").with(5, 1).with(5, 2)).unwrap();
        assert_eq!(first.transactions, 2);
        assert!(first.apply_from.is_some());
        let before = list(flavor, "1-2", "5-77-2");
        let second = add(&mut chain, &Made::new(flavor, before).with(5, 3)).unwrap();
        assert_eq!(second.transactions, 1);
        assert_eq!(second.executed, executed(flavor, list(flavor, "1-3", "5-77-3")));
        assert_eq!(chain.end(), Ok(()));
    }
}

#[test]
fn a_transaction_that_is_missing_shows_in_the_next_file() {
    for flavor in BOTH {
        let mut chain = chain(flavor, "");
        // 2 was taken out, events and all: the file itself is sound.
        add(&mut chain, &Made::new(flavor, "").with(5, 1).with(5, 3)).unwrap();
        let before = list(flavor, "1-4", "5-77-4");
        let error = add(&mut chain, &Made::new(flavor, before).with(5, 5)).unwrap_err();
        assert!(matches!(error, LogError::NotJoined { .. }), "{error}");
    }
    // In the middle of what MariaDB's position does not tell apart, only bytes do: positions within the file.
    let mut chain = chain(Flavor::MySql, "");
    add(&mut chain, &Made::new(Flavor::MySql, "").with(5, 1).with(5, 3)).unwrap();
    let error = add(&mut chain, &Made::new(Flavor::MySql, "1-3").with(5, 4)).unwrap_err();
    assert!(matches!(error, LogError::NotJoined { .. }), "{error}");
}

#[test]
fn log_that_begins_behind_the_data_is_refused() {
    for flavor in BOTH {
        let mut chain = chain(flavor, list(flavor, "1-2", "5-77-2"));
        let before = list(flavor, "1-3", "5-77-3");
        let error = add(&mut chain, &Made::new(flavor, before).with(5, 4)).unwrap_err();
        assert!(matches!(error, LogError::BehindBase { .. }), "{error}");
    }
}

#[test]
fn what_the_data_has_is_not_counted() {
    let mut chain = chain(Flavor::MySql, "1-2");
    let facts = add(
        &mut chain,
        &Made::new(Flavor::MySql, "").with(5, 1).with(5, 2).with(5, 3),
    )
    .unwrap();
    assert_eq!(facts.transactions, 1);
}

#[test]
fn a_transaction_that_comes_twice_is_refused() {
    let mut chain = chain(Flavor::MySql, "");
    let error = add(&mut chain, &Made::new(Flavor::MySql, "1-4").with(5, 2)).unwrap_err();
    assert!(matches!(error, LogError::BehindBase { .. }), "{error}");
    let mut chain = self::chain(Flavor::MySql, "1-4");
    let error = add(&mut chain, &Made::new(Flavor::MySql, "1-4").with(5, 2)).unwrap_err();
    assert!(matches!(error, LogError::Repeated { .. }), "{error}");
}

#[test]
fn another_vendors_log_is_refused() {
    let mut chain = chain(Flavor::MariaDb, "");
    let error = add(&mut chain, &Made::new(Flavor::MySql, "")).unwrap_err();
    assert!(matches!(error, LogError::Vendor { .. }), "{error}");
}

/// Another server took over, and its log repeats what it had replicated: nothing is counted twice, and MariaDB is told where
/// to go on.
#[test]
fn what_a_branch_repeats_is_passed_over() {
    for flavor in BOTH {
        let mut chain = chain(flavor, "");
        add(
            &mut chain,
            &Made::new(flavor, "").with(5, 1).with(5, 2).with(5, 3),
        )
        .unwrap();
        let repeated = Made::new(flavor, list(flavor, "1", "5-77-1"))
            .with(5, 2)
            .with(5, 3);
        let middle = repeated.end();
        let branch = repeated.with(5, 4);
        let facts = add_as(&mut chain, &branch, 2).unwrap();
        assert_eq!(facts.transactions, 1);
        let from = match flavor {
            Flavor::MySql => BinlogOffset::FIRST_EVENT,
            Flavor::MariaDb => middle,
        };
        assert_eq!(facts.apply_from, Some(from));
        let before = list(flavor, "1-4", "5-77-4");
        let next = add_as(&mut chain, &Made::new(flavor, before).with(5, 5), 2).unwrap();
        assert_eq!(
            (next.transactions, next.apply_from),
            (1, Some(BinlogOffset::FIRST_EVENT))
        );
        assert_eq!(chain.end(), Ok(()));
    }
}

#[test]
fn a_branch_that_repeats_whole_files() {
    let mut chain = chain(Flavor::MariaDb, "");
    add(&mut chain, &Made::new(Flavor::MariaDb, "").with(5, 1).with(5, 2)).unwrap();
    let old = add_as(&mut chain, &Made::new(Flavor::MariaDb, "").with(5, 1), 2).unwrap();
    assert_eq!((old.transactions, old.apply_from), (0, None));
    let made = Made::new(Flavor::MariaDb, "5-77-1").with(5, 2);
    let new = add_as(&mut chain, &made, 2).unwrap();
    // All of it was repeated: it is to be applied from its end on.
    assert_eq!((new.transactions, new.apply_from), (0, Some(made.end())));
}

#[test]
fn a_branch_that_knows_more_than_we_have_is_refused() {
    for flavor in BOTH {
        let mut chain = chain(flavor, "");
        add(&mut chain, &Made::new(flavor, "").with(5, 1)).unwrap();
        let branch = Made::new(flavor, list(flavor, "1-2", "5-77-2")).with(5, 3);
        let error = add_as(&mut chain, &branch, 2).unwrap_err();
        assert!(matches!(error, LogError::NotJoined { .. }), "{error}");
    }
}

/// A MariaDB branch in whose log the last transaction that we have does not come back has other contents.
#[test]
fn a_branch_that_never_gets_where_we_are_is_refused() {
    let mut chain = chain(Flavor::MariaDb, "");
    add(&mut chain, &Made::new(Flavor::MariaDb, "").with(5, 1).with(5, 2)).unwrap();
    add_as(&mut chain, &Made::new(Flavor::MariaDb, "5-77-1").with(5, 9), 2).unwrap();
    assert!(matches!(chain.end(), Err(LogError::Apart { .. })));
}

fn interrupted(flavor: Flavor, held: &str, has: &str, in_flight: usize) -> LogChain {
    LogChain::new(LogStart {
        offset: (flavor == Flavor::MariaDb).then_some(BinlogOffset::FIRST_EVENT),
        executed: executed(flavor, held),
        interrupted: Some(Interrupted {
            has: executed(flavor, has),
            target: LogPlace {
                branch: 1,
                file: "bin.000001".to_owned(),
                offset: 1 << 20,
            },
            in_flight,
        }),
    })
}

#[test]
fn an_interrupted_replay_goes_on_behind_what_the_data_has() {
    for flavor in BOTH {
        let has = list(flavor, "1-2", "5-77-2");
        let mut chain = interrupted(flavor, "", has, 4);
        let first = Made::new(flavor, "").with(5, 1).with(5, 2);
        let middle = first.end();
        let facts = add(&mut chain, &first.with(5, 3)).unwrap();
        assert_eq!(facts.transactions, 1);
        if flavor == Flavor::MariaDb {
            assert_eq!(facts.apply_from, Some(middle));
        }
        assert_eq!(facts.executed, executed(flavor, list(flavor, "1-3", "5-77-3")));
        assert_eq!(chain.end(), Ok(()));
    }
}

#[test]
fn domains_that_came_to_places_apart_cannot_go_on() {
    let mut chain = interrupted(Flavor::MariaDb, "", "5-77-1,6-77-1", 4);
    let made = Made::new(Flavor::MariaDb, "").with(5, 1).with(5, 2).with(6, 1);
    let error = add(&mut chain, &made).unwrap_err();
    assert!(matches!(error, LogError::Apart { .. }), "{error}");
}

/// The target was moved back to before what the data has.
#[test]
fn data_past_the_target_cannot_go_on() {
    let mut chain = interrupted(Flavor::MySql, "", "1-5", 4);
    add(&mut chain, &Made::new(Flavor::MySql, "").with(5, 1).with(5, 2)).unwrap();
    assert!(matches!(chain.end(), Err(LogError::Apart { .. })));
}

#[test]
fn what_may_be_there_in_part_is_not_repeated() {
    let log = || {
        Made::new(Flavor::MySql, "")
            .with(5, 1)
            .with(5, 2)
            .with_statement(3, "ALTER TABLE t ADD c INT")
    };
    let error = add(&mut interrupted(Flavor::MySql, "", "1", 2), &log()).unwrap_err();
    assert!(matches!(error, LogError::InPart { .. }), "{error}");
    // One worker was not that far.
    assert!(add(&mut interrupted(Flavor::MySql, "", "1", 1), &log()).is_ok());
}

#[test]
fn a_file_is_cut_between_transactions_only() {
    let made = Made::new(Flavor::MySql, "").with(5, 1);
    let boundary = made.end();
    let made = made.with(5, 2);
    let cut = |at: BinlogOffset, bytes: usize| {
        let mut chain = chain(Flavor::MySql, "");
        chain.begin_file(&LogFile {
            name: "bin.000001".to_owned(),
            ending: FileEnding::Cut(at),
            branch: 1,
        });
        chain.feed(&made.writer.bytes[..bytes]).unwrap();
        chain.end_file()
    };
    let boundary_bytes = usize::try_from(boundary.0).unwrap();
    assert_eq!(cut(boundary, boundary_bytes).unwrap().transactions, 1);
    for (at, bytes) in [
        (boundary, boundary_bytes + 60),
        (boundary, boundary_bytes - 1),
        (BinlogOffset(boundary.0 + 1), boundary_bytes + 1),
    ] {
        assert!(
            matches!(cut(at, bytes), Err(LogError::Cut { .. })),
            "{at} {bytes}"
        );
    }
}

/// What a server that crashed left behind its last whole transaction never happened.
#[test]
fn the_tail_of_a_crash_is_left_out() {
    let made = Made::new(Flavor::MySql, "").with(5, 1);
    let boundary = made.end();
    let mut made = made;
    made.writer.gtid(2);
    made.writer.query("BEGIN");
    let mut chain = chain(Flavor::MySql, "");
    let facts = add(&mut chain, &made).unwrap();
    assert_eq!((facts.end, facts.transactions), (boundary, 1));
    assert!(add(&mut chain, &Made::new(Flavor::MySql, "1").with(5, 2)).is_ok());
}
