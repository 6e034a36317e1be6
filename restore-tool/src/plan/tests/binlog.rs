//! Worlds of binlogs: files of any length, transactions of many events, branches that count anew.

use proptest::prelude::*;
use tidemark_mysql::archive::{BinlogBranch, BranchEnd};
use tidemark_mysql::binlog::{Flavor, TransactionGtid};
use tidemark_mysql::gtid::MariaDbGtid;
use tidemark_types::{BinlogBasename, LogPosition};

use super::*;

/// Every event of a transaction is so long; what lies between transactions is one event each.
const EVENT_LEN: u64 = 30;
/// A binlog file begins with four bytes that are no event.
const MAGIC_LEN: u64 = 4;

/// One transaction.
#[derive(Debug, Clone, Copy)]
struct Group {
    branch: u32,
    file: u64,
    begin: u64,
    end: u64,
    kind: EndingKind,
    time: i64,
    sequence: u64,
}

/// One branch and how much of each file is stored; but for the last, all of them have ended.
#[derive(Debug)]
struct Stored {
    number: u32,
    first_file: u64,
    lens: Vec<u64>,
    last_has_ended: bool,
    follows: Option<(u32, u64, u64)>,
}

#[derive(Debug)]
struct Binlogs {
    engine: Engine,
    groups: Vec<Group>,
    branches: Vec<Stored>,
    /// A slice that was lost: branch, file, begin.
    lost: Option<(u32, u64, u64)>,
    step: u64,
    bases: Vec<Base>,
    covered: Option<(u32, u64, u64, i64)>,
}

fn files(branch: u32) -> LogFiles {
    LogFiles::Binlog {
        branch,
        basename: BinlogBasename::new("bin"),
    }
}

fn at(branch: u32, file: u64, offset: u64) -> Position {
    files(branch).position(LogPosition { file, offset })
}

fn base_at(id: &str, begin: Position, end: Position, started: i64) -> Base {
    let point = |position: Position| {
        let LogFiles::Binlog { branch, .. } = position.files else {
            panic!("a binlog")
        };
        Point {
            branch: Branch(branch),
            position,
        }
    };
    Base {
        begin: point(begin),
        end: point(end),
        ..base(id, 1, MIB, MIB, started)
    }
}

impl Binlogs {
    /// Files 1 (5000 bytes), 2 (3000) and 3 (so far 4000) of branch 1; a base backup near the begin of file 1.
    fn new() -> Binlogs {
        Binlogs {
            engine: Engine::Mysql,
            groups: Vec::new(),
            branches: vec![Stored {
                number: 1,
                first_file: 1,
                lens: vec![5000, 3000, 4000],
                last_has_ended: false,
                follows: None,
            }],
            lost: None,
            step: 700,
            bases: vec![base_at("first", at(1, 1, 200), at(1, 1, 200), 50)],
            covered: None,
        }
    }

    fn group(mut self, branch: u32, file: u64, range: (u64, u64), time: i64, sequence: u64) -> Binlogs {
        self.groups.push(Group {
            branch,
            file,
            begin: range.0,
            end: range.1,
            kind: EndingKind::Commit,
            time: time * 1_000_000,
            sequence,
        });
        self
    }

    /// 1 in file 1 at second 100; 2 there at 200, over several slices; 3 in file 2 at 300; 4 in file 3 at 400.
    fn with_four() -> Binlogs {
        Binlogs::new()
            .group(1, 1, (500, 800), 100, 1)
            .group(1, 1, (1000, 4000), 200, 2)
            .group(1, 2, (700, 1300), 300, 3)
            .group(1, 3, (400, 1000), 400, 4)
    }

    /// After four transactions another server took over, which has replicated 2, 3 and 4, but for the last bytes of
    /// file 3, where 5 is. It goes on with 6 at second 600.
    fn failed_over() -> Binlogs {
        let mut world = Binlogs::with_four()
            .group(1, 3, (2000, 2600), 500, 5)
            .group(2, 1, (500, 800), 203, 2)
            .group(2, 1, (900, 1200), 303, 3)
            .group(2, 1, (1200, 1500), 403, 4)
            .group(2, 1, (2000, 2300), 600, 6);
        world.branches.push(Stored {
            number: 2,
            first_file: 1,
            lens: vec![4500],
            last_has_ended: false,
            follows: Some((1, 3, 1000)),
        });
        world
    }

    fn of_file(&self, branch: u32, file: u64) -> impl Iterator<Item = &Group> {
        self.groups
            .iter()
            .filter(move |group| group.branch == branch && group.file == file)
    }

    /// Where an event ends last at or before an offset.
    fn whole(&self, branch: u32, file: u64, offset: u64) -> u64 {
        let mut ends = vec![0, MAGIC_LEN];
        for group in self.of_file(branch, file) {
            ends.push(group.begin);
            ends.extend((group.begin..group.end).step_by(EVENT_LEN as usize).skip(1));
            ends.push(group.end);
        }
        ends.into_iter().filter(|end| *end <= offset).max().unwrap()
    }

    fn slice(
        &self,
        branch: u32,
        file: u64,
        begin: u64,
        end: u64,
        ends_file: bool,
        is_first: bool,
    ) -> SliceKey {
        let hash = |file: u64, offset: u64| {
            let number = u64::from(branch) << 48 | file << 32 | offset;
            ChainHash(number.to_be_bytes())
        };
        let ended = || {
            self.of_file(branch, file)
                .filter(move |group| begin < group.end && group.end <= end)
        };
        let commits = ended().filter(|group| group.kind != EndingKind::Prepare);
        let times = commits.fold(None, |times, group| {
            TimeRange::union(times, Some(TimeRange::at(Timestamp(group.time))))
        });
        let mut flags = SliceFlags::default();
        if ended().any(|group| group.kind == EndingKind::Prepare) {
            flags = flags.with(SliceFlags::PREPARE);
        }
        if ends_file {
            flags = flags.with(SliceFlags::ENDS_FILE);
        }
        SliceKey {
            file,
            begin,
            end,
            begin_hash: if is_first {
                ChainHash::ORIGIN
            } else {
                hash(file, begin)
            },
            end_hash: if ends_file {
                hash(file + 1, 0)
            } else {
                hash(file, end)
            },
            back: end - self.whole(branch, file, end),
            times,
            flags,
        }
    }

    fn slices(&self, stored: &Stored) -> Vec<SliceKey> {
        let mut slices = Vec::new();
        for (index, len) in stored.lens.iter().enumerate() {
            let file = stored.first_file + index as u64;
            let ends = index + 1 < stored.lens.len() || stored.last_has_ended;
            let mut begin = 0;
            while begin < *len {
                let end = (begin + self.step).min(*len);
                let is_first = index == 0 && begin == 0;
                if self.lost != Some((stored.number, file, begin)) {
                    slices.push(self.slice(stored.number, file, begin, end, ends && end == *len, is_first));
                }
                begin = end;
            }
        }
        slices
    }

    fn listed(&self) -> Listed {
        let known: BTreeMap<Branch, BinlogBranch> = self
            .branches
            .iter()
            .map(|stored| {
                let facts = BinlogBranch {
                    basename: "bin".to_owned(),
                    flavor: Flavor::MariaDb,
                    server: "1".to_owned(),
                    first_file: stored.first_file,
                    reason: String::new(),
                    follows: stored
                        .follows
                        .map(|(branch, file, offset)| BranchEnd { branch, file, offset }),
                };
                (Branch(stored.number), facts)
            })
            .collect();
        let branches = self.branches.iter().map(|stored| {
            let branch = Branch(stored.number);
            let log = BranchLog {
                files: files(stored.number),
                ancestry: Ancestry::of_binlogs(branch, &known).unwrap(),
                runs: coverage(&mut self.slices(stored)),
                stored: StoredLens::default(),
            };
            (branch, log)
        });
        let lease = self.covered.map(|(branch, file, offset, time)| {
            let mut lease = lease_at(time);
            lease.covered = Some(tidemark_repository::lease::Covered {
                time: secs(time),
                branch: Branch(branch),
                position: LogPosition { file, offset },
            });
            lease
        });
        Listed {
            engine: self.engine,
            branches: branches.collect(),
            bases: self.bases.clone(),
            lease,
            ..World::new().listed()
        }
    }

    /// What reading a slice would tell. Fails when reading began too late for a transaction, or within an event.
    fn facts(&self, line: &Line<'_>, index: usize, wanted: Option<&TransactionId>) -> SliceFacts {
        let slice = line.slice(index).unwrap();
        let parse_from = line.parse_from(index).unwrap();
        let file = slice.key.file;
        assert_eq!(parse_from.at.file, file);
        assert_eq!(
            parse_from.at.offset,
            self.whole(slice.branch.0, file, parse_from.at.offset),
            "an event's begin"
        );
        let mut endings = Vec::new();
        for group in self.of_file(slice.branch.0, file) {
            let (begin, end) = (
                at(group.branch, file, group.begin),
                at(group.branch, file, group.end),
            );
            if !(slice.begin < end && end <= slice.end) {
                continue;
            }
            assert!(
                parse_from <= begin,
                "reading from {parse_from} misses the one from {begin}"
            );
            let transaction = gtid(group.sequence);
            endings.push(Ending {
                begin,
                end,
                kind: group.kind,
                time: Timestamp(group.time),
                is_wanted: wanted == Some(&transaction),
                transaction,
            });
        }
        endings.sort_by_key(|ending| ending.begin);
        SliceFacts {
            last: endings.last().map(RecordSpan::from),
            endings,
            points: Vec::new(),
        }
    }

    fn plan_on(&self, branch: Option<u32>, request: &Request) -> Result<Plan, Pending> {
        let listed = self.listed();
        let ancestry = match branch {
            Some(branch) => &listed.branches[&Branch(branch)].ancestry,
            None => listed.newest_branch().expect("a branch"),
        };
        let lines = listed.lines(ancestry);
        let wanted = match &request.target {
            Target::Transaction(transaction) => Some(transaction),
            _ => None,
        };
        answer(&listed, ancestry, &lines, request, |id| {
            self.facts(&lines[id.line], id.slice, wanted)
        })
    }

    fn plan(&self, target: Target) -> Result<Plan, Pending> {
        self.plan_on(None, &request(target))
    }

    fn time(&self, time: i64) -> Result<Plan, Pending> {
        self.plan(Target::Time(secs(time)))
    }
}

fn gtid(sequence: u64) -> TransactionId {
    TransactionId::Gtid(TransactionGtid::MariaDb(MariaDbGtid {
        domain: 0,
        server: 1,
        sequence,
    }))
}

fn point(file: u64, offset: u64) -> Target {
    Target::Binlog(BinlogPoint::parse(&format!("bin.{file:06}:{offset}")).unwrap())
}

fn exclusive(target: Target) -> Request {
    Request {
        exclusive: true,
        ..request(target)
    }
}

/// The number of the last transaction that is in, and where the log is cut.
fn outcome(plan: &Plan) -> (Option<u64>, Position) {
    let last = plan.last_in.as_ref().map(|ending| match &ending.transaction {
        TransactionId::Gtid(TransactionGtid::MariaDb(gtid)) => gtid.sequence,
        other => panic!("{other} is none of this world"),
    });
    (last, plan.log.end)
}

#[test]
fn a_time_takes_whole_transactions_and_cuts_behind_the_last() {
    let world = Binlogs::with_four();
    assert_eq!(outcome(&world.time(250).unwrap()), (Some(2), at(1, 1, 4000)));
    assert_eq!(outcome(&world.time(300).unwrap()), (Some(3), at(1, 2, 1300)));
    let before = world.plan_on(None, &exclusive(Target::Time(secs(300)))).unwrap();
    assert_eq!(outcome(&before), (Some(2), at(1, 1, 4000)));
    let text = reason(world.time(401).unwrap_err());
    assert!(text.contains("--target-time 1970-01-01T00:06:40Z"), "{text}");
    let mut covered = Binlogs::with_four();
    covered.covered = Some((1, 3, 4000, 450));
    assert_eq!(outcome(&covered.time(450).unwrap()), (Some(4), at(1, 3, 1000)));
}

#[test]
fn slices_of_any_width_give_the_same_plan() {
    for step in [100, 333, 700, 1000, 10_000] {
        let world = Binlogs {
            step,
            ..Binlogs::with_four()
        };
        assert_eq!(
            outcome(&world.time(250).unwrap()),
            (Some(2), at(1, 1, 4000)),
            "{step}"
        );
        let plan = world.plan(Target::Transaction(gtid(2))).unwrap();
        assert_eq!(outcome(&plan), (Some(2), at(1, 1, 4000)), "{step}");
        assert_eq!(plan.log.bytes, 3800, "{step}");
    }
}

#[test]
fn a_position_means_the_transactions_that_end_up_to_it() {
    let world = Binlogs::with_four();
    for (target, is_exclusive, last) in [
        (point(1, 4000), false, Some(2)),
        (point(1, 4000), true, Some(1)),
        (point(1, 3999), false, Some(1)),
        (point(1, 4001), true, Some(2)),
        (point(1, 5000), false, Some(2)),
        (point(2, 0), false, Some(2)),
        (point(2, 4), false, Some(2)),
        (point(3, 4000), false, Some(4)),
        (point(1, 300), false, None),
    ] {
        let request = Request {
            exclusive: is_exclusive,
            ..request(target)
        };
        let plan = world.plan_on(None, &request);
        assert_eq!(outcome(&plan.unwrap()).0, last, "{request:?}");
    }
}

#[test]
fn a_position_that_is_not_stored_is_not_guessed() {
    let world = Binlogs::with_four();
    let text = reason(world.plan(point(3, 4001)).unwrap_err());
    assert!(text.contains("what is stored ends at bin.000003:4000"), "{text}");
    assert!(text.contains("--target-position bin.000003:"), "{text}");
    // File 1 has ended: there is nothing behind its end.
    assert!(reason(world.plan(point(1, 5001)).unwrap_err()).contains("not stored"));
    // Another server's files.
    let other = Target::Binlog(BinlogPoint::parse("log.000001:300").unwrap());
    assert!(reason(world.plan(other).unwrap_err()).contains("not stored"));
    let text = reason(world.plan(point(1, 100)).unwrap_err());
    assert!(text.contains("--target-position bin.000001:200"), "{text}");
}

#[test]
fn a_gtid_is_found_with_it_or_without_it() {
    let world = Binlogs::with_four();
    let with = world.plan(Target::Transaction(gtid(3))).unwrap();
    assert_eq!(outcome(&with), (Some(3), at(1, 2, 1300)));
    let without = world
        .plan_on(None, &exclusive(Target::Transaction(gtid(3))))
        .unwrap();
    assert_eq!(outcome(&without), (Some(2), at(1, 1, 4000)));
    assert!(reason(world.plan(Target::Transaction(gtid(9))).unwrap_err()).contains("0-1-9 is not stored"));
}

#[test]
fn the_files_of_a_plan_are_named_and_the_last_is_cut() {
    let plan = Binlogs::with_four().time(350).unwrap();
    let files: Vec<_> = plan
        .files
        .iter()
        .map(|file| {
            (
                file.name.as_str(),
                file.part.begin,
                file.part.end,
                file.part.ends_file,
            )
        })
        .collect();
    assert_eq!(
        files,
        [("bin.000001", 200, 5000, true), ("bin.000002", 0, 1300, false)]
    );
    assert_eq!(plan.log.bytes, 4800 + 1300);
}

#[test]
fn latest_ends_with_the_last_whole_transaction() {
    let world = Binlogs::with_four();
    assert_eq!(
        outcome(&world.plan(Target::Latest).unwrap()),
        (Some(4), at(1, 3, 1000))
    );
    // Only a part of it is stored: in the midst of an event, and between two events.
    for len in [990, 700 - 700 % EVENT_LEN + 10] {
        let mut world = Binlogs::with_four();
        world.branches[0].lens[2] = len;
        assert_eq!(
            outcome(&world.plan(Target::Latest).unwrap()),
            (Some(3), at(1, 2, 1300)),
            "{len}"
        );
    }
}

#[test]
fn a_backup_that_ends_later_is_no_base() {
    let mut world = Binlogs::with_four();
    let with = |world: &Binlogs, time| world.time(time).unwrap().base.id;
    world
        .bases
        .push(base_at("second", at(1, 2, 1000), at(1, 2, 1300), 300));
    assert_eq!(with(&world, 299), "first", "the transaction at its end is later");
    assert_eq!(with(&world, 300), "second");
    // Between transactions 3 and 4: whichever is asked for, nothing is between.
    world
        .bases
        .push(base_at("third", at(1, 2, 2000), at(1, 3, 100), 350));
    let plan = world.time(320).unwrap();
    assert_eq!(
        (plan.base.id.as_str(), plan.recovery),
        ("third", RecoveryTarget::Consistency)
    );
    assert_eq!(outcome(&plan), (Some(3), at(1, 3, 100)));
    let immediate = world.plan(Target::Immediate).unwrap();
    assert_eq!(outcome(&immediate), (Some(3), at(1, 3, 100)));
}

#[test]
fn a_branch_goes_on_where_it_follows_another() {
    let world = Binlogs::failed_over();
    let plan = world.time(600).unwrap();
    assert_eq!(outcome(&plan), (Some(6), at(2, 1, 2300)));
    let legs: Vec<_> = plan
        .ancestry
        .iter()
        .map(|leg| (leg.branch.0, leg.begin, leg.end))
        .collect();
    assert_eq!(
        legs,
        [
            (1, at(1, 1, 200), at(1, 3, 1000)),
            (2, at(2, 1, 0), at(2, 1, 2300))
        ]
    );
    let files: Vec<_> = plan
        .files
        .iter()
        .map(|file| (file.branch.0, file.name.as_str(), file.part.end))
        .collect();
    assert_eq!(
        files,
        [
            (1, "bin.000001", 5000),
            (1, "bin.000002", 3000),
            (1, "bin.000003", 1000),
            (2, "bin.000001", 2300)
        ]
    );
    // Transaction 5 was archived and rolled back.
    let dead_ends = plan.dead_ends.as_slice();
    assert_eq!(dead_ends.len(), 1);
    assert_eq!(
        (dead_ends[0].branch.0, dead_ends[0].begin, dead_ends[0].end),
        (1, at(1, 3, 1000), at(1, 3, 4000))
    );
    assert_eq!(dead_ends[0].has_commits, Some(true));
    assert!(world.plan(Target::Transaction(gtid(5))).is_err());
    let old = world
        .plan_on(Some(1), &request(Target::Transaction(gtid(5))))
        .unwrap();
    assert_eq!(outcome(&old), (Some(5), at(1, 3, 2600)));
}

#[test]
fn a_repeated_transaction_is_where_it_happened_first() {
    let world = Binlogs::failed_over();
    let plan = world.plan(Target::Transaction(gtid(3))).unwrap();
    assert_eq!(outcome(&plan), (Some(3), at(1, 2, 1300)));
    // What the other server repeats is no clock that was set back.
    assert_eq!(outcome(&world.time(250).unwrap()), (Some(2), at(1, 1, 4000)));
    assert_eq!(outcome(&world.time(550).unwrap()), (Some(4), at(2, 1, 1500)));
}

#[test]
fn a_file_name_of_two_branches_is_asked_about() {
    let world = Binlogs::failed_over();
    let Pending::Ambiguous(ambiguity) = world.plan(point(1, 1500)).unwrap_err() else {
        panic!("one reading")
    };
    assert_eq!(
        (ambiguity.first.0, ambiguity.last.0),
        (at(1, 1, 1500), at(2, 1, 1500))
    );
    for (pick, expected) in [(Pick::First, Some(1)), (Pick::Last, Some(4))] {
        let request = Request {
            pick: Some(pick),
            ..request(point(1, 1500))
        };
        assert_eq!(outcome(&world.plan_on(None, &request).unwrap()).0, expected);
    }
    // One branch has so much of it.
    assert_eq!(outcome(&world.plan(point(1, 4800)).unwrap()).0, Some(2));
}

#[test]
fn a_branch_that_follows_none_needs_a_base_backup() {
    let mut world = Binlogs::failed_over();
    world.branches[1].follows = None;
    assert_eq!(world.listed().newest_branch().unwrap().branch, Branch(1));
    world
        .bases
        .push(base_at("second", at(2, 1, 900), at(2, 1, 1600), 450));
    assert_eq!(world.listed().newest_branch().unwrap().branch, Branch(2));
    let plan = world.time(600).unwrap();
    assert_eq!((plan.base.id.as_str(), plan.dead_ends.len()), ("second", 0));
    assert!(world.time(300).is_err(), "that is on the other branch");
}

#[test]
fn an_end_of_file_is_the_same_place_as_the_begin_of_the_next() {
    let mut world = Binlogs::failed_over();
    world.branches[0].last_has_ended = true;
    world.branches[1].follows = Some((1, 3, 4000));
    let plan = world.time(600).unwrap();
    assert_eq!(outcome(&plan).0, Some(6));
    assert_eq!(plan.dead_ends, []);
    let last = plan.files.iter().rfind(|file| file.branch == Branch(1)).unwrap();
    assert_eq!((last.part.end, last.part.ends_file), (4000, true));
    // More than there is: what is missing is a gap.
    world.branches[1].follows = Some((1, 3, 4001));
    let listed = world.listed();
    assert_eq!(listed.lines(listed.newest_branch().unwrap()).len(), 2);
    assert!(world.time(600).is_err());
}

#[test]
fn a_branch_without_log_between_two_others_is_passed() {
    let mut world = Binlogs::failed_over();
    world.branches[1].number = 3;
    for group in &mut world.groups {
        group.branch = if group.branch == 2 { 3 } else { group.branch };
    }
    world.branches[1].follows = Some((2, 1, 0));
    world.branches.push(Stored {
        number: 2,
        first_file: 1,
        lens: Vec::new(),
        last_has_ended: false,
        follows: Some((1, 3, 1000)),
    });
    assert_eq!(outcome(&world.time(600).unwrap()), (Some(6), at(3, 1, 2300)));
}

#[test]
fn a_lost_slice_is_a_gap() {
    let mut world = Binlogs::with_four();
    world.lost = Some((1, 2, 1400));
    assert_eq!(outcome(&world.time(300).unwrap()).0, Some(3));
    let text = reason(world.plan(point(2, 2000)).unwrap_err());
    assert!(
        text.contains("gap from bin.000002:1400 to bin.000002:2100"),
        "{text}"
    );
    assert!(world.time(400).is_err());
    world
        .bases
        .push(base_at("after", at(1, 3, 100), at(1, 3, 300), 390));
    let plan = world.time(400).unwrap();
    assert_eq!((plan.base.id.as_str(), plan.gaps.len()), ("after", 1));
}

#[test]
fn a_clock_that_was_set_is_told_from_a_long_statement_only_by_mysql() {
    let world = |engine| {
        let world = Binlogs::with_four().group(1, 3, (1500, 1800), 250, 5);
        Binlogs { engine, ..world }
    };
    assert!(matches!(
        world(Engine::Mysql).time(300),
        Err(Pending::Ambiguous(_))
    ));
    let plan = world(Engine::Mariadb).time(300).unwrap();
    assert_eq!(outcome(&plan).0, Some(3));
    let last = Request {
        pick: Some(Pick::Last),
        ..request(Target::Time(secs(300)))
    };
    let plan = world(Engine::Mariadb).plan_on(None, &last).unwrap();
    assert_eq!(outcome(&plan).0, Some(5));
}

#[test]
fn an_xa_transaction_stays_prepared_at_a_time_before_its_commit() {
    let mut world = Binlogs::with_four()
        .group(1, 3, (1500, 1800), 420, 5)
        .group(1, 3, (1800, 2000), 440, 6);
    world.groups[4].kind = EndingKind::Prepare;
    assert_eq!(outcome(&world.time(430).unwrap()), (Some(5), at(1, 3, 1800)));
    assert_eq!(outcome(&world.time(410).unwrap()), (Some(4), at(1, 3, 1000)));
    let plan = world.plan(Target::Transaction(gtid(5))).unwrap();
    assert_eq!(outcome(&plan), (Some(5), at(1, 3, 1800)));
    assert_eq!(plan.last_commit.unwrap().transaction, gtid(4));
}

#[test]
fn the_window_of_a_branch_is_reachable_at_both_ends() {
    let world = Binlogs::failed_over();
    let listed = world.listed();
    let lines = listed.lines(listed.newest_branch().unwrap());
    let mut known = Known::default();
    let windows = loop {
        let (windows, missing) = windows(&listed, Branch(2), &lines, &known);
        if missing.is_empty() {
            break windows;
        }
        for id in missing {
            known.insert(id, world.facts(&lines[id.line], id.slice, None));
        }
    };
    assert_eq!(windows.len(), 1);
    assert_eq!(windows[0].earliest_position, at(1, 1, 200));
    assert_eq!(windows[0].latest_time, Some(secs(600)));
    assert_eq!(windows[0].earliest_time, Some(secs(50)));
    for time in [50, 600] {
        world.time(time).unwrap();
    }
}

/// Transactions of two branches, the second of which follows the first somewhere between two of its transactions; and
/// into how long slices all of it is cut.
fn any_world() -> impl Strategy<Value = Binlogs> {
    let group = (1u64..200, 30u64..1500, 0i64..3);
    let file = || proptest::collection::vec(group.clone(), 0..6);
    let files = (
        proptest::collection::vec(file(), 1..4),
        proptest::collection::vec(file(), 1..3),
    );
    (files, 150u64..3000, 0usize..8).prop_map(|((first, second), step, kept)| {
        let mut world = Binlogs {
            step,
            ..Binlogs::new()
        };
        let (mut time, mut sequence) = (100, 0);
        world.branches.clear();
        for (number, files) in [(1, first), (2, second)] {
            let mut lens = Vec::new();
            for (index, groups) in files.into_iter().enumerate() {
                let mut at = 250;
                for (gap, len, seconds) in groups {
                    (time, sequence) = (time + seconds, sequence + 1);
                    world = world.group(
                        number,
                        index as u64 + 1,
                        (at + gap, at + gap + len),
                        time,
                        sequence,
                    );
                    at += gap + len;
                }
                lens.push(at + 50);
            }
            world.branches.push(Stored {
                number,
                first_file: 1,
                lens,
                last_has_ended: false,
                follows: None,
            });
        }
        let of_first = world.groups.iter().filter(|group| group.branch == 1);
        let left = of_first
            .take(kept)
            .last()
            .map_or((1, 250), |last| (last.file, last.end));
        world.branches[1].follows = Some((1, left.0, left.1));
        world
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However the log is cut into slices, a plan ends where a look over all of the transactions would.
    #[test]
    fn a_plan_ends_where_it_should(
        world in any_world(),
        time in 99i64..130,
        (branch, file, offset) in (1u32..3, 1u64..4, 0u64..6000),
        sequence in 1u64..30,
        is_exclusive: bool,
    ) {
        let base_end = at(1, 1, 200);
        let (_, left_file, left_offset) = world.branches[1].follows.unwrap();
        let is_kept = |branch, place| branch == 2 || place <= (left_file, left_offset);
        let mut on_line = world.groups.clone();
        on_line.retain(|group| is_kept(group.branch, (group.file, group.end)));
        let end = |group: &Group| at(group.branch, group.file, group.end);
        let ask = |target: Target| {
            let pick = if branch == 1 { Pick::First } else { Pick::Last };
            world.plan_on(Some(2), &Request { target, exclusive: is_exclusive, pick: Some(pick) })
        };
        let agree = |target: Target, last: Option<&Group>| {
            let plan = ask(target.clone()).unwrap();
            let expected = (last.map(|last| last.sequence), last.map_or(base_end, end));
            assert_eq!(outcome(&plan), expected, "{target} {is_exclusive}");
            let bytes: u64 = plan.files.iter().map(|file| file.part.end - file.part.begin).sum();
            assert_eq!(plan.log.bytes, bytes);
        };

        let limit = time * 1_000_000 - i64::from(is_exclusive);
        if let Some(later) = on_line.iter().position(|group| group.time > limit) {
            agree(Target::Time(secs(time)), on_line[..later].last());
        }
        match on_line.iter().position(|group| group.sequence == sequence) {
            Some(index) if is_exclusive => agree(Target::Transaction(gtid(sequence)), on_line[..index].last()),
            Some(index) => agree(Target::Transaction(gtid(sequence)), Some(&on_line[index])),
            None => assert!(ask(Target::Transaction(gtid(sequence))).is_err()),
        }
        let is_stored = |branch: &u32| {
            let lens = &world.branches[*branch as usize - 1].lens;
            let len = lens.get(file as usize - 1);
            is_kept(*branch, (file, offset)) && len.is_some_and(|len| offset <= *len)
        };
        let places: Vec<u32> = [1, 2].into_iter().filter(is_stored).collect();
        let place = if branch == 1 { places.first() } else { places.last() };
        let bound = place.map(|branch| at(*branch, file, offset).back(u64::from(is_exclusive)));
        match bound.filter(|bound| *bound >= base_end) {
            Some(bound) => agree(point(file, offset), on_line.iter().rfind(|group| end(group) <= bound)),
            None => assert!(ask(point(file, offset)).is_err()),
        }
    }
}
