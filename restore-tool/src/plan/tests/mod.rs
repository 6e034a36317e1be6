//! Planning over made-up worlds: transactions at positions, slices cut where a test wants them. Those of WAL are here.

mod binlog;

use std::collections::BTreeMap;

use tidemark_repository::log::{ChainHash, SliceFlags, SliceKey, TimeRange, coverage};
use tidemark_types::{HistoryEntry, Lsn, TimelineHistory, TimelineId, Timestamp, WalSegmentSize};

use super::base::Point;
use super::*;

const MIB: u64 = 1 << 20;

/// One transaction's end.
#[derive(Debug, Clone, Copy)]
struct Tx {
    timeline: u32,
    lsn: u64,
    kind: EndingKind,
    time: i64,
    xid: u32,
}

/// What a server did, and what of it is stored: everything, but for what a test cuts off.
struct World {
    txs: Vec<Tx>,
    points: Vec<(u32, u64, &'static str)>,
    /// Stored ranges of each timeline, cut at every `step` bytes.
    stored: Vec<(u32, u64, u64)>,
    step: u64,
    bases: Vec<Base>,
    histories: Vec<TimelineHistory>,
    covered: Option<(u32, u64, i64)>,
    read: usize,
}

const TX_LEN: u64 = 40;

fn size() -> WalSegmentSize {
    WalSegmentSize::try_from(MIB).unwrap()
}

fn lsn(lsn: u64) -> Position {
    LogFiles::Wal(size()).lsn(Lsn(lsn))
}

fn secs(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000_000)
}

fn base(id: &str, timeline: u32, begin: u64, end: u64, started: i64) -> Base {
    let point = |at| Point {
        branch: Branch(timeline),
        position: lsn(at),
    };
    Base {
        id: id.to_owned(),
        kind: BackupKind::Full,
        parent: None,
        begin: point(begin),
        end: point(end),
        started: secs(started),
        stopped: secs(started + 1),
        bytes: 1000,
        stored_bytes: 100,
    }
}

impl World {
    /// Log from 1 MiB to 4 MiB on timeline 1, and a base backup at its begin, taken at second 100.
    fn new() -> World {
        World {
            txs: Vec::new(),
            points: Vec::new(),
            stored: vec![(1, MIB, 4 * MIB)],
            step: 300_000,
            bases: vec![base("first", 1, MIB + 40, MIB + 80, 100)],
            histories: Vec::new(),
            covered: None,
            read: 0,
        }
    }

    fn tx(mut self, timeline: u32, lsn: u64, kind: EndingKind, time: i64, xid: u32) -> World {
        self.txs.push(Tx {
            timeline,
            lsn,
            kind,
            time: time * 1_000_000,
            xid,
        });
        self
    }

    fn commit(self, lsn: u64, time: i64, xid: u32) -> World {
        self.tx(1, lsn, EndingKind::Commit, time, xid)
    }

    /// Commits at 2 MiB (second 200, xid 20), at 3 MiB (300, 30) and a little later (301, 31).
    fn with_three() -> World {
        World::new()
            .commit(2 * MIB, 200, 20)
            .commit(3 * MIB, 300, 30)
            .commit(3 * MIB + 800, 301, 31)
    }

    fn slices(&self, timeline: u32, begin: u64, end: u64) -> Vec<SliceKey> {
        let mut cuts: Vec<u64> = (begin..end)
            .step_by(usize::try_from(self.step).unwrap())
            .collect();
        cuts.extend((begin..=end).filter(|at| at % MIB == 0));
        cuts.push(end);
        cuts.sort_unstable();
        cuts.dedup();
        cuts.windows(2)
            .map(|pair| self.slice(timeline, pair[0], pair[1]))
            .collect()
    }

    fn slice(&self, timeline: u32, begin: u64, end: u64) -> SliceKey {
        let hash = |at: u64| {
            if at.is_multiple_of(16 * MIB) {
                ChainHash::ORIGIN
            } else {
                ChainHash((at ^ u64::from(timeline) << 60).to_be_bytes())
            }
        };
        let ends_here =
            |tx: &&Tx| tx.timeline == timeline && begin < tx.lsn + TX_LEN && tx.lsn + TX_LEN <= end;
        let mut times = None;
        for tx in self
            .txs
            .iter()
            .filter(ends_here)
            .filter(|tx| tx.kind != EndingKind::Prepare)
        {
            times = TimeRange::union(times, Some(TimeRange::at(Timestamp(tx.time))));
        }
        let back = self
            .txs
            .iter()
            .find(|tx| tx.timeline == timeline && tx.lsn < end && end < tx.lsn + TX_LEN);
        let has_point = self
            .points
            .iter()
            .any(|(on, at, _)| *on == timeline && begin <= *at && *at < end);
        let mut flags = SliceFlags::default();
        if has_point {
            flags = flags.with(SliceFlags::RESTORE_POINT);
        }
        if self
            .txs
            .iter()
            .filter(ends_here)
            .any(|tx| tx.kind == EndingKind::Prepare)
        {
            flags = flags.with(SliceFlags::PREPARE);
        }
        if end.is_multiple_of(MIB) {
            flags = flags.with(SliceFlags::ENDS_FILE);
        }
        SliceKey {
            file: begin / MIB,
            begin: begin % MIB,
            end: begin % MIB + (end - begin),
            begin_hash: hash(begin),
            end_hash: hash(end),
            back: back.map_or(0, |tx| end - tx.lsn),
            times,
            flags,
        }
    }

    fn listed(&self) -> Listed {
        let mut slices: BTreeMap<u32, Vec<SliceKey>> = BTreeMap::new();
        for history in &self.histories {
            slices.entry(history.timeline.0).or_default();
        }
        for (timeline, begin, end) in &self.stored {
            slices
                .entry(*timeline)
                .or_default()
                .extend(self.slices(*timeline, *begin, *end));
        }
        let branches = slices.into_iter().map(|(timeline, mut slices)| {
            let history = self
                .histories
                .iter()
                .find(|history| history.timeline.0 == timeline);
            let root = TimelineHistory::root(TimelineId(timeline));
            let log = BranchLog {
                files: LogFiles::Wal(size()),
                ancestry: Ancestry::of_timeline(history.unwrap_or(&root), size()),
                runs: coverage(&mut slices),
                stored: StoredLens::default(),
            };
            (Branch(timeline), log)
        });
        let lease = self.covered.map(|(timeline, at, time)| {
            let mut lease = lease_at(time);
            lease.covered = Some(tidemark_repository::lease::Covered {
                time: secs(time),
                branch: Branch(timeline),
                position: lsn(at).at,
            });
            lease
        });
        Listed {
            server: "shop".parse().unwrap(),
            generation: Generation(1),
            system_id: "7".to_owned(),
            engine: Engine::Postgresql,
            branches: branches.collect(),
            bases: self.bases.clone(),
            set_aside: Vec::new(),
            unreadable_bases: Vec::new(),
            lease,
            gaps: Vec::new(),
        }
    }

    /// What reading a slice would tell.
    fn facts(&self, slice: &LineSlice<'_>, wanted: Option<u32>) -> SliceFacts {
        let ends_here = |tx: &&Tx| {
            let end = tx.lsn + TX_LEN;
            Branch(tx.timeline) == slice.branch && slice.begin < lsn(end) && lsn(end) <= slice.end
        };
        let mut endings: Vec<Ending> = self
            .txs
            .iter()
            .filter(ends_here)
            .map(|tx| Ending {
                begin: lsn(tx.lsn),
                end: lsn(tx.lsn + TX_LEN),
                kind: tx.kind,
                time: Timestamp(tx.time),
                transaction: TransactionId::Xid(tx.xid),
                is_wanted: wanted == Some(tx.xid),
            })
            .collect();
        endings.sort_by_key(|ending| ending.begin);
        let here = |at: u64| slice.begin <= lsn(at) && lsn(at) < slice.end;
        let points = self
            .points
            .iter()
            .filter(|(on, at, _)| Branch(*on) == slice.branch && here(*at));
        SliceFacts {
            points: points
                .map(|(_, at, name)| RestorePoint {
                    begin: lsn(*at),
                    time: secs(0),
                    name: (*name).to_owned(),
                })
                .collect(),
            last: endings.last().map(RecordSpan::from),
            endings,
        }
    }

    fn plan_on(&mut self, timeline: Option<u32>, request: &Request) -> Result<Plan, Pending> {
        let listed = self.listed();
        let ancestry = match timeline {
            Some(timeline) => &listed.branches[&Branch(timeline)].ancestry,
            None => listed.newest_branch().expect("a timeline"),
        };
        let lines = listed.lines(ancestry);
        let xid = match request.target {
            Target::Transaction(TransactionId::Xid(xid)) => Some(xid),
            _ => None,
        };
        answer(&listed, ancestry, &lines, request, |id| {
            self.read += 1;
            self.facts(&lines[id.line].slice(id.slice).unwrap(), xid)
        })
    }

    fn plan(&mut self, target: Target) -> Result<Plan, Pending> {
        self.plan_on(None, &request(target))
    }

    fn time(&mut self, time: Timestamp) -> Result<Plan, Pending> {
        self.plan(Target::Time(time))
    }
}

/// A lease that was written at second `time`, and covers nothing.
fn lease_at(time: i64) -> tidemark_repository::lease::Lease {
    tidemark_repository::lease::Lease {
        number: 1,
        writer: String::new(),
        host: String::new(),
        boot_id: String::new(),
        pid: 1,
        generation: Generation(1),
        beat: secs(time),
        released: false,
        covered: None,
    }
}

/// Plans, and reads what is asked for on the way.
fn answer(
    listed: &Listed,
    ancestry: &Ancestry,
    lines: &[Line<'_>],
    request: &Request,
    mut facts: impl FnMut(SliceId) -> SliceFacts,
) -> Result<Plan, Pending> {
    let mut known = Known::default();
    loop {
        match plan(listed, ancestry, lines, &known, request) {
            Err(Pending::Read(ids)) => {
                assert!(!ids.is_empty(), "nothing to read, and no answer");
                for id in ids {
                    assert!(known.get(id).is_none(), "{id:?} is asked for twice");
                    known.insert(id, facts(id));
                }
            }
            other => return other,
        }
    }
}

fn request(target: Target) -> Request {
    Request {
        target,
        exclusive: false,
        pick: None,
    }
}

/// Xid of the last commit that is in, and the record after which recovery stops.
fn outcome(plan: &Plan) -> (Option<u32>, Option<u64>) {
    let after = match plan.recovery {
        RecoveryTarget::After(record) => Some(record.begin.lsn().0),
        RecoveryTarget::Consistency => None,
    };
    (plan.last_commit.as_ref().map(xid), after)
}

fn xid(ending: &Ending) -> u32 {
    match ending.transaction {
        TransactionId::Xid(xid) => xid,
        TransactionId::Gtid(_) => panic!("PostgreSQL has no GTIDs"),
    }
}

fn xid_target(xid: u32) -> Target {
    Target::Transaction(TransactionId::Xid(xid))
}

fn reason(pending: Pending) -> String {
    match pending {
        Pending::Unreachable(unreachable) => {
            format!("{}; {}", unreachable.reason, unreachable.nearest.join(", "))
        }
        Pending::Ambiguous(ambiguity) => ambiguity.reason,
        Pending::Read(ids) => panic!("still to read: {ids:?}"),
    }
}

#[test]
fn a_time_between_two_commits_stops_after_the_first() {
    let plan = World::with_three().time(secs(250)).unwrap();
    assert_eq!(outcome(&plan), (Some(20), Some(2 * MIB)));
    assert_eq!(
        (plan.log.begin, plan.log.end),
        (lsn(MIB + 40), lsn(2 * MIB + TX_LEN))
    );
}

#[test]
fn exactly_at_a_commit_it_is_in_unless_exclusive() {
    assert_eq!(
        outcome(&World::with_three().time(secs(300)).unwrap()),
        (Some(30), Some(3 * MIB))
    );
    let exclusive = Request {
        exclusive: true,
        ..request(Target::Time(secs(300)))
    };
    assert_eq!(
        outcome(&World::with_three().plan_on(None, &exclusive).unwrap()),
        (Some(20), Some(2 * MIB))
    );
}

#[test]
fn commits_of_one_millisecond_are_told_apart_by_microseconds() {
    let mut world = World::new();
    for (index, micros) in [500, 501, 502].into_iter().enumerate() {
        world.txs.push(Tx {
            timeline: 1,
            lsn: 2 * MIB + index as u64 * 100,
            kind: EndingKind::Commit,
            time: 200_000_000 + micros,
            xid: 20 + index as u32,
        });
    }
    let plan = world.time(Timestamp(200_000_501)).unwrap();
    assert_eq!(outcome(&plan), (Some(21), Some(2 * MIB + 100)));
}

#[test]
fn a_time_after_the_last_commit_needs_proof() {
    let error = World::with_three().time(secs(400)).unwrap_err();
    assert!(reason(error).contains("--target-time 1970-01-01T00:05:01Z"));
    let mut covered = World::with_three();
    covered.covered = Some((1, 4 * MIB, 500));
    assert_eq!(
        outcome(&covered.time(secs(400)).unwrap()),
        (Some(31), Some(3 * MIB + 800))
    );
    let error = covered.time(secs(501)).unwrap_err();
    assert!(reason(error).contains("complete up to 1970-01-01T00:08:20Z only"));
    // The lease is ahead of what is stored: it proves nothing.
    covered.covered = Some((1, 5 * MIB, 500));
    assert!(covered.time(secs(400)).is_err());
}

#[test]
fn an_idle_database_is_restored_to_the_end_of_its_backup() {
    // The last commit lies before the backup's end; the next is an hour away.
    let mut world = World::new().commit(MIB + 40, 99, 9).commit(3 * MIB, 3600, 10);
    world.bases = vec![base("first", 1, MIB, MIB + 500, 100)];
    let plan = world.time(secs(1000)).unwrap();
    assert_eq!(outcome(&plan), (Some(9), None));
    assert!(
        plan.log.end <= lsn(3 * MIB),
        "nothing later is given to the server"
    );
    // And with nothing at all before it.
    let mut silent = World::new().commit(3 * MIB, 3600, 10);
    assert_eq!(outcome(&silent.time(secs(1000)).unwrap()), (None, None));
    assert!(reason(silent.time(secs(99)).unwrap_err()).contains("before the end of the first base backup"));
}

#[test]
fn before_the_first_backup_the_earliest_place_is_named() {
    let mut world = World::new()
        .commit(MIB + 40, 150, 9)
        .commit(MIB + 200, 160, 10)
        .commit(2 * MIB, 200, 20);
    world.bases = vec![base("first", 1, MIB, MIB + 300, 140)];
    let text = reason(world.time(secs(155)).unwrap_err());
    assert!(
        text.contains("before the end of the first base backup, first"),
        "{text}"
    );
    assert!(text.contains("--target-time 1970-01-01T00:02:40Z"), "{text}");
    assert_eq!(
        outcome(&world.time(secs(160)).unwrap()),
        (Some(10), None),
        "what was offered is reachable"
    );
}

#[test]
fn the_newest_backup_that_ends_before_the_stop_is_taken() {
    let mut world = World::with_three();
    world
        .bases
        .push(base("second", 1, 2 * MIB + 1000, 2 * MIB + 2000, 250));
    world
        .bases
        .push(base("third", 1, 3 * MIB + 900, 3 * MIB + 1200, 310));
    assert_eq!(world.time(secs(300)).unwrap().base.id, "second");
    assert_eq!(
        world.time(secs(220)).unwrap().base.id,
        "second",
        "no transaction between the commit and its end"
    );
    assert_eq!(outcome(&world.time(secs(220)).unwrap()), (Some(20), None));
    assert_eq!(world.time(secs(200)).unwrap().base.id, "second");
    assert_eq!(
        world.plan(Target::Lsn(Lsn(2 * MIB + 10))).unwrap().base.id,
        "first"
    );
}

#[test]
fn a_clock_an_hour_ahead_is_not_guessed_about() {
    let hour = 3600;
    let world = || {
        World::new()
            .commit(2 * MIB, 200, 20)
            .commit(2 * MIB + 400, 210 + hour, 21)
            .commit(3 * MIB, 300, 30)
    };
    let error = world()
        .commit(3 * MIB + 800, 5000, 31)
        .time(secs(1000))
        .unwrap_err();
    let Pending::Ambiguous(ambiguity) = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        (ambiguity.first.0, ambiguity.last.0),
        (lsn(2 * MIB), lsn(3 * MIB))
    );
    for (pick, xid) in [(Pick::First, 20), (Pick::Last, 30)] {
        let request = Request {
            pick: Some(pick),
            ..request(Target::Time(secs(1000)))
        };
        let plan = world()
            .commit(3 * MIB + 800, 5000, 31)
            .plan_on(None, &request)
            .unwrap();
        assert_eq!(outcome(&plan).0, Some(xid));
    }
    // Before the glitch and after it there is one reading.
    assert_eq!(outcome(&world().time(secs(205)).unwrap()).0, Some(20));
}

#[test]
fn a_little_disorder_is_no_glitch() {
    let mut world = World::new().commit(2 * MIB, 200, 20);
    for (lsn, micros, xid) in [(100, 300, 21), (200, 100, 22), (300, 900_000, 23)] {
        let (lsn, time) = (2 * MIB + lsn, 300_000_000 + micros);
        world.txs.push(Tx {
            timeline: 1,
            lsn,
            kind: EndingKind::Commit,
            time,
            xid,
        });
    }
    // The rule is the server's own: stop before the first that is later.
    assert_eq!(outcome(&world.time(Timestamp(300_000_200)).unwrap()).0, Some(20));
    assert_eq!(outcome(&world.time(Timestamp(300_000_300)).unwrap()).0, Some(22));
}

#[test]
fn a_prepared_transaction_belongs_in_without_its_commit() {
    let world = || {
        World::new()
            .commit(2 * MIB, 200, 20)
            .tx(1, 2 * MIB + 500_000, EndingKind::Prepare, 210, 21)
            .tx(1, 3 * MIB, EndingKind::Commit, 300, 21)
    };
    let plan = world().time(secs(250)).unwrap();
    assert_eq!(outcome(&plan), (Some(20), Some(2 * MIB + 500_000)));
    // Prepared after the target, although nothing was committed before it: stays out.
    assert_eq!(
        outcome(&world().time(secs(205)).unwrap()),
        (Some(20), Some(2 * MIB))
    );
    assert_eq!(
        outcome(&world().plan(xid_target(21)).unwrap()),
        (Some(21), Some(3 * MIB))
    );
}

#[test]
fn a_transaction_is_found_wherever_it_is() {
    let mut world = World::with_three();
    assert_eq!(
        outcome(&world.plan(xid_target(20)).unwrap()),
        (Some(20), Some(2 * MIB))
    );
    let exclusive = Request {
        exclusive: true,
        ..request(xid_target(30))
    };
    assert_eq!(
        outcome(&world.plan_on(None, &exclusive).unwrap()),
        (Some(20), Some(2 * MIB))
    );
    assert!(reason(world.plan(xid_target(77)).unwrap_err()).contains("transaction 77"));
}

#[test]
fn a_name_is_found_and_two_of_a_kind_are_told() {
    let mut world = World::with_three();
    world.points = vec![(1, 2 * MIB + 600_000, "before upgrade")];
    assert_eq!(
        outcome(&world.plan(Target::Name("before upgrade".to_owned())).unwrap()).0,
        Some(20)
    );
    world.points.push((1, 3 * MIB + 400, "before upgrade"));
    let twice = world.plan(Target::Name("before upgrade".to_owned())).unwrap_err();
    assert!(reason(twice).contains("2 restore points"));
    let last = Request {
        pick: Some(Pick::Last),
        ..request(Target::Name("before upgrade".to_owned()))
    };
    assert_eq!(outcome(&world.plan_on(None, &last).unwrap()).0, Some(30));
    assert!(world.plan(Target::Name("none".to_owned())).is_err());
}

#[test]
fn an_lsn_means_the_transactions_that_begin_up_to_it() {
    let mut world = World::with_three();
    for (lsn, exclusive, xid) in [
        (3 * MIB, false, 30),
        (3 * MIB, true, 20),
        (3 * MIB + 1, true, 30),
        (3 * MIB + 799, false, 30),
        (4 * MIB, false, 31),
    ] {
        let request = Request {
            exclusive,
            ..request(Target::Lsn(Lsn(lsn)))
        };
        assert_eq!(
            outcome(&world.plan_on(None, &request).unwrap()).0,
            Some(xid),
            "{lsn:X} {exclusive}"
        );
    }
    assert!(
        reason(world.plan(Target::Lsn(Lsn(4 * MIB + 1))).unwrap_err()).contains("--target-lsn 0/00400000")
    );
    assert!(reason(world.plan(Target::Lsn(Lsn(MIB + 50))).unwrap_err()).contains("first base backup"));
}

#[test]
fn latest_is_the_last_record_and_a_torn_one_stays_out() {
    let mut world = World::with_three();
    assert_eq!(
        outcome(&world.plan(Target::Latest).unwrap()),
        (Some(31), Some(3 * MIB + 800))
    );
    // Only the first half of the last commit was stored.
    world.stored = vec![(1, MIB, 3 * MIB + 820)];
    let plan = world.plan(Target::Latest).unwrap();
    assert_eq!(outcome(&plan), (Some(30), Some(3 * MIB)));
    assert_eq!(
        world.plan(Target::Immediate).unwrap().recovery,
        RecoveryTarget::Consistency
    );
}

#[test]
fn a_gap_is_not_crossed() {
    let mut world = World::with_three();
    world.stored = vec![(1, MIB, 2 * MIB + 300_000), (1, 3 * MIB, 4 * MIB)];
    assert_eq!(outcome(&world.time(secs(200)).unwrap()).0, Some(20));
    let text = reason(world.time(secs(250)).unwrap_err());
    assert!(
        text.contains("no base backup") || text.contains("gap") || text.contains("first base"),
        "{text}"
    );
    assert!(reason(world.plan(Target::Lsn(Lsn(2 * MIB + 400_000))).unwrap_err()).contains("gap from"));
    world
        .bases
        .push(base("after", 1, 3 * MIB + 100, 3 * MIB + 300, 305));
    let plan = world.time(secs(301)).unwrap();
    assert_eq!((plan.base.id.as_str(), plan.gaps.len()), ("after", 1));
    assert!(reason(world.time(secs(250)).unwrap_err()).contains("behind a gap"));
}

/// Timeline 2 left timeline 1 at 3 MiB + 400; timeline 1 went on to 4 MiB.
fn forked() -> World {
    let mut world = World::with_three().tx(2, 3 * MIB + 500_000, EndingKind::Commit, 400, 40);
    world.histories = vec![TimelineHistory {
        timeline: TimelineId(2),
        ancestors: vec![HistoryEntry {
            timeline: TimelineId(1),
            end: Lsn(3 * MIB + 400),
        }],
    }];
    world.stored.push((2, 3 * MIB, 3 * MIB + 900_000));
    world
}

#[test]
fn a_fork_is_followed_and_what_it_left_is_named() {
    let plan = forked().time(secs(400)).unwrap();
    assert_eq!(outcome(&plan), (Some(40), Some(3 * MIB + 500_000)));
    let legs: Vec<_> = plan
        .ancestry
        .iter()
        .map(|leg| (leg.branch.0, leg.end.lsn().0))
        .collect();
    assert_eq!(legs, [(1, 3 * MIB + 400), (2, 3 * MIB + 500_000 + TX_LEN)]);
    assert_eq!(plan.dead_ends.len(), 1);
    // Transaction 31 lies past the fork on the parent: on the child's line it never happened.
    assert_eq!(outcome(&forked().time(secs(350)).unwrap()).0, Some(30));
    assert_eq!(
        outcome(
            &forked()
                .plan_on(Some(1), &request(Target::Time(secs(301))))
                .unwrap()
        )
        .0,
        Some(31)
    );
}

#[test]
fn a_timeline_that_no_backup_reaches_is_not_the_newest() {
    let mut world = forked();
    world.stored.push((3, 9 * MIB, 9 * MIB + 500));
    let listed = world.listed();
    assert_eq!(
        listed.newest_branch().map(|newest| newest.branch),
        Some(Branch(2))
    );
    // A history file without log makes no timeline either.
    world.histories.push(TimelineHistory {
        timeline: TimelineId(9),
        ancestors: Vec::new(),
    });
    let newest = world.listed();
    assert_eq!(
        newest.newest_branch().map(|newest| newest.branch),
        Some(Branch(2))
    );
}

#[test]
fn few_slices_are_read() {
    let mut world = World::with_three();
    world.step = 1000;
    world.time(secs(250)).unwrap();
    assert!(world.read <= 40, "{} slices were read", world.read);
}

/// The times of the only window, after making sure that both can be reached.
fn times(world: &mut World) -> Option<(Timestamp, Timestamp)> {
    let listed = world.listed();
    let lines = listed.lines(&listed.branches[&Branch(1)].ancestry);
    let mut known = Known::default();
    let windows = loop {
        let (windows, missing) = windows(&listed, Branch(1), &lines, &known);
        if missing.is_empty() {
            break windows;
        }
        for id in missing {
            assert!(known.get(id).is_none(), "{id:?} is asked for twice");
            known.insert(id, world.facts(&lines[id.line].slice(id.slice).unwrap(), None));
        }
    };
    assert_eq!(windows.len(), 1, "{windows:?}");
    assert!(windows[0].earliest_position <= windows[0].latest_position);
    let times = windows[0].earliest_time.zip(windows[0].latest_time);
    assert_eq!(
        times.is_some(),
        windows[0].earliest_time.or(windows[0].latest_time).is_some()
    );
    if let Some((earliest, latest)) = times {
        assert!(earliest <= latest, "{earliest} to {latest}");
        world.time(earliest).unwrap();
        world.time(latest).unwrap();
        assert!(
            world.time(Timestamp(latest.0 + 1)).is_err(),
            "{latest} is not the latest"
        );
    }
    times
}

#[test]
fn the_window_of_an_idle_server_ends_where_its_times_do() {
    // Nothing ended since before the backup, taken from second 100 to 101.
    let mut world = World::new().commit(MIB + 40, 99, 9);
    world.bases = vec![base("first", 1, MIB, MIB + 500, 100)];
    assert_eq!(times(&mut world), Some((secs(99), secs(99))));
    world.covered = Some((1, 4 * MIB, 90));
    assert_eq!(times(&mut world), Some((secs(99), secs(99))));
    world.covered = Some((1, 4 * MIB, 150));
    assert_eq!(times(&mut world), Some((secs(99), secs(150))));
}

#[test]
fn a_window_begins_with_what_a_plan_looks_at() {
    // The last transaction before the backup ended in an earlier segment than the backup begins in.
    let mut world = World::new().commit(MIB + 40, 99, 9);
    world.bases = vec![base("first", 1, 2 * MIB + 40, 2 * MIB + 500, 110)];
    world.covered = Some((1, 4 * MIB, 150));
    assert_eq!(times(&mut world), Some((secs(110), secs(150))));
    // That is how planning lists it.
    world.stored = vec![(1, 2 * MIB, 4 * MIB)];
    assert_eq!(times(&mut world), Some((secs(110), secs(150))));
}

#[test]
fn a_server_without_transactions_has_a_window_once_its_agent_tells_of_one() {
    let mut world = World::new();
    assert_eq!(times(&mut world), None);
    world.covered = Some((1, 4 * MIB, 99));
    assert_eq!(times(&mut world), None);
    world.covered = Some((1, 4 * MIB, 150));
    assert_eq!(times(&mut world), Some((secs(100), secs(150))));
}

#[test]
fn a_window_begins_at_the_newest_transaction_before_the_end_of_the_backup() {
    // The last in the log is not the newest, and the slice goes on with later ones.
    let mut world = World::new()
        .commit(MIB + 40, 150, 9)
        .commit(MIB + 200, 161, 10)
        .commit(MIB + 300, 160, 11)
        .commit(MIB + 600, 170, 12)
        .commit(2 * MIB, 200, 20);
    world.bases = vec![base("first", 1, MIB, MIB + 500, 140)];
    assert_eq!(times(&mut world), Some((secs(161), secs(200))));
    let before = reason(world.time(Timestamp(161_000_000 - 1)).unwrap_err());
    assert!(before.contains("--target-time 1970-01-01T00:02:41Z"), "{before}");
}

#[test]
fn a_window_does_not_begin_before_a_transaction_that_the_backup_holds_prepared() {
    let mut world = World::new()
        .commit(MIB + 40, 150, 9)
        .tx(1, MIB + 200, EndingKind::Prepare, 155, 10)
        .commit(2 * MIB, 200, 20);
    world.bases = vec![base("first", 1, MIB, MIB + 500, 140)];
    assert_eq!(times(&mut world), Some((secs(155), secs(200))));
    assert!(world.time(secs(154)).is_err());
}

#[test]
fn what_is_offered_on_an_idle_server_is_reachable() {
    let mut world = World::new().commit(MIB + 40, 99, 9);
    world.bases = vec![base("first", 1, MIB, MIB + 500, 100)];
    let text = reason(world.time(secs(50)).unwrap_err());
    assert!(text.contains("--target-time 1970-01-01T00:01:39Z"), "{text}");
    assert_eq!(outcome(&world.time(secs(99)).unwrap()).0, Some(9));
}
