//! The captured logs of `testdata/wal` (`scripts/capture-wal.sh`) beside the output of `pg_waldump` for them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use proptest::prelude::*;
use tidemark_types::{TimelineId, Timestamp, parse_time};

use super::waldump::{Line, assert_same, parse};
use super::*;

const MAJORS: [u32; 3] = [15, 17, 18];

pub(super) fn load(major: u32, name: &str) -> Vec<u8> {
    let path: PathBuf = [
        env!("CARGO_MANIFEST_DIR"),
        "../../testdata/wal",
        &major.to_string(),
        &format!("{name}.zst"),
    ]
    .iter()
    .collect();
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
    zstd::decode_all(file).unwrap()
}

fn load_lines(major: u32, name: &str) -> Vec<Line> {
    parse(&String::from_utf8(load(major, name)).unwrap())
}

#[test]
fn every_record_is_as_pg_waldump_prints_it() {
    for major in MAJORS {
        let log = load(major, "log");
        let lines = load_lines(major, "waldump");
        let (seen, decoder) = decode(&log);
        assert_same(&seen, &lines);
        assert!(
            lines.len() > 10_000,
            "a log of {} records proves little",
            lines.len()
        );
        let info = decoder.page_info().unwrap();
        assert_eq!(info.version.major(), major);
        assert_eq!(info.timeline, TimelineId(2), "the log goes on past a promotion");
        assert!(info.system_id.is_some());
        assert_eq!(decoder.whole(), seen.last().map(|record| record.end));
        assert_eq!(
            decoder.end_of_log(),
            decoder.whole(),
            "the last segment is not full"
        );
        assert_eq!(decoder.position(), Lsn(start_of(&log).0 + log.len() as u64));
    }
}

#[test]
fn records_follow_each_other_without_a_hole() {
    for major in MAJORS {
        let (seen, _) = decode(&load(major, "log"));
        for pair in seen.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            assert_eq!(after.previous, before.begin);
            // The server's EndRecPtr: where the next record begins, but for a page header between them.
            let header = match before.end.0 {
                end if end % (1 << 20) == 0 => 40,
                end if end % 8192 == 0 => 24,
                _ => 0,
            };
            assert_eq!(after.begin.0, before.end.0 + header, "{before:?}");
        }
    }
}

/// A record that the server gave up after a crash, over several segments.
#[test]
fn a_record_overwritten_after_a_crash_does_not_stall() {
    for major in MAJORS {
        let log = load(major, "crash");
        let (seen, decoder) = decode(&log);
        assert_same(&seen, &load_lines(major, "crash-waldump"));
        let first = &seen[0];
        assert!(
            first.begin.bytes_since(start_of(&log)) > 1 << 20,
            "the record was long"
        );
        assert_eq!(first.begin.0 % (1 << 20), 40);
        assert_eq!(decoder.end_of_log(), None);
        assert_eq!(
            decoder.whole().unwrap().0 % (1 << 20),
            0,
            "the log ends in a segment switch"
        );
    }
}

/// Facts told by pg_waldump in words: kind of fact, time, number of subtransactions and dropped relations.
fn told(line: &Line) -> Option<(String, Option<Timestamp>, usize, usize)> {
    let text = &line.description;
    let list = |label: &str| {
        let from = text.find(label).map(|at| at + label.len());
        from.map_or(0, |from| {
            text[from..].split(';').next().unwrap().split_whitespace().count()
        })
    };
    let mut words = text.split([' ', ':']);
    let kind = words.next().unwrap().to_owned();
    let time = text
        .match_indices(" UTC")
        .next()
        .map(|(end, _)| parse_time(&format!("{}Z", &text[end - 26..end]), Timestamp(0)).unwrap());
    let is_fact = match line.manager.as_str() {
        "Transaction" => !matches!(kind.as_str(), "ASSIGNMENT" | "INVALIDATION"),
        "Storage" | "Database" | "Tablespace" => true,
        "XLOG" => !matches!(
            kind.as_str(),
            "FPI" | "FPI_FOR_HINT" | "NEXTOID" | "NOOP" | "BACKUP_END"
        ),
        _ => false,
    };
    // A PREPARE's lists are told again by the record that ends it, and are not read there.
    let is_end = line.manager == "Transaction" && kind != "PREPARE";
    let (subtransactions, dropped) = if is_end {
        (list("; subxacts:"), list("; rels:"))
    } else {
        (0, 0)
    };
    is_fact.then_some((kind, time, subtransactions, dropped))
}

fn read(fact: &Fact<'_>) -> (&'static str, Option<Timestamp>, usize, usize) {
    let kind = match fact {
        Fact::Commit(end) if end.is_prepared => "COMMIT_PREPARED",
        Fact::Commit(_) => "COMMIT",
        Fact::Abort(end) if end.is_prepared => "ABORT_PREPARED",
        Fact::Abort(_) => "ABORT",
        Fact::Prepare(_) => "PREPARE",
        Fact::RestorePoint { .. } => "RESTORE_POINT",
        Fact::Checkpoint {
            is_shutdown: true, ..
        } => "CHECKPOINT_SHUTDOWN",
        Fact::Checkpoint { .. } => "CHECKPOINT_ONLINE",
        Fact::CheckpointRedo { .. } => "CHECKPOINT_REDO",
        Fact::EndOfRecovery { .. } => "END_OF_RECOVERY",
        Fact::FullPageWrites(_) => "FPW_CHANGE",
        Fact::ParameterChange { .. } => "PARAMETER_CHANGE",
        Fact::SegmentSwitch => "SWITCH",
        Fact::OverwriteContinuation { .. } => "OVERWRITE_CONTRECORD",
        Fact::RelationCreate { .. } | Fact::TablespaceCreate { .. } => "CREATE",
        Fact::RelationTruncate { .. } => "TRUNCATE",
        Fact::DatabaseCreate {
            copied_from: Some(_), ..
        } => "CREATE_FILE_COPY",
        Fact::DatabaseCreate { .. } => "CREATE_WAL_LOG",
        Fact::DatabaseDrop { .. } | Fact::TablespaceDrop { .. } => "DROP",
    };
    match fact {
        Fact::Commit(end) | Fact::Abort(end) => {
            (kind, Some(end.time), end.subtransactions.len(), end.dropped.len())
        }
        Fact::Prepare(prepare) => (kind, Some(prepare.time), 0, 0),
        Fact::EndOfRecovery { time, .. } | Fact::OverwriteContinuation { time, .. } => {
            (kind, Some(*time), 0, 0)
        }
        _ => (kind, None, 0, 0),
    }
}

#[test]
fn every_fact_is_as_pg_waldump_tells_it() {
    let mut kinds = BTreeSet::new();
    for (major, log, dump) in MAJORS
        .into_iter()
        .flat_map(|major| [(major, "log", "waldump"), (major, "crash", "crash-waldump")])
    {
        let mut lines = load_lines(major, dump).into_iter();
        decode_in_parts(&load(major, log), &[usize::MAX], |record| {
            let line = lines.next().unwrap();
            let fact = Fact::of(record).unwrap();
            let told = told(&line);
            let told = told
                .as_ref()
                .map(|(kind, time, subs, drops)| (kind.as_str(), *time, *subs, *drops));
            assert_eq!(fact.as_ref().map(read), told, "{line:?}");
            kinds.extend(fact.as_ref().map(|fact| read(fact).0));
        })
        .unwrap();
    }
    let expected = "ABORT ABORT_PREPARED CHECKPOINT_ONLINE CHECKPOINT_REDO CHECKPOINT_SHUTDOWN COMMIT COMMIT_PREPARED \
                    CREATE CREATE_FILE_COPY CREATE_WAL_LOG DROP END_OF_RECOVERY FPW_CHANGE OVERWRITE_CONTRECORD \
                    PARAMETER_CHANGE PREPARE RESTORE_POINT SWITCH TRUNCATE";
    assert_eq!(kinds.into_iter().collect::<Vec<_>>().join(" "), expected);
}

/// The facts themselves, for what the lists above do not compare.
#[test]
fn facts_carry_their_details() {
    for major in MAJORS {
        let mut told = Vec::new();
        decode_in_parts(&load(major, "log"), &[usize::MAX], |record| {
            match Fact::of(record).unwrap() {
                Some(Fact::RestorePoint { name, time }) => {
                    assert!(time > Timestamp::from_postgres(0));
                    told.push(format!("restore point {name}"));
                }
                Some(Fact::Prepare(prepare)) => {
                    assert_eq!(prepare.xid, record.xid);
                    told.push(format!("prepare {}", String::from_utf8_lossy(prepare.gid)));
                }
                Some(Fact::ParameterChange { wal_level }) => told.push(format!("{wal_level:?}")),
                Some(Fact::FullPageWrites(on)) => told.push(format!("full pages {on}")),
                Some(Fact::EndOfRecovery {
                    timeline,
                    previous_timeline,
                    wal_level,
                    ..
                }) => {
                    assert_eq!(wal_level.is_some(), major >= 17);
                    told.push(format!("from {previous_timeline} to {timeline}"));
                }
                Some(Fact::Commit(end)) if end.is_prepared => assert_ne!(end.xid, record.xid),
                _ => {}
            }
            if let Some(top) = record.top_level_xid {
                assert!(top < record.xid);
                told.push("subtransaction".to_owned());
            }
        })
        .unwrap();
        let expected = [
            "restore point before the deed",
            "prepare first",
            "prepare second",
            "full pages false",
            "full pages true",
            "Logical",
            "subtransaction",
            "prepare third",
            "Minimal",
            "Replica",
            "from 1 to 2",
        ];
        assert_eq!(told, expected, "{major}");
    }
}

#[test]
fn changed_blocks_are_those_of_pg_waldump() {
    for major in MAJORS {
        let lines = load_lines(major, "waldump");
        let mut changed = ChangedBlocks::default();
        let mut cuts = Vec::new();
        decode_in_parts(&load(major, "log"), &[usize::MAX], |record| {
            changed.add_record(record).unwrap();
            if let Some(Fact::RelationTruncate { relation, blocks, .. }) = Fact::of(record).unwrap() {
                cuts.push((relation, blocks));
            }
        })
        .unwrap();
        let mut told = BTreeSet::new();
        for (_, relation, fork, block) in lines.iter().flat_map(|line| &line.blocks) {
            let parts: Vec<u32> = relation.split('/').map(|part| part.parse().unwrap()).collect();
            let relation = Relation {
                tablespace: parts[0],
                database: parts[1],
                number: parts[2],
            };
            if fork == "main" {
                told.insert((relation, *block));
            }
        }
        assert!(
            told.iter()
                .all(|(relation, block)| changed.is_changed(*relation, *block))
        );
        for (relation, changes) in changed.relations() {
            for block in changes.blocks().iter() {
                assert!(
                    told.contains(&(relation, block)),
                    "{relation} {block} did not change"
                );
            }
        }
        assert_eq!(cuts.len(), 1);
        for (relation, blocks) in cuts {
            let changes = changed.get(relation).unwrap();
            assert!(changes.limit(Fork::Main).unwrap() <= blocks);
            assert!(changed.is_changed(relation, 1 << 20), "past the cut");
        }
        assert_eq!(changed.databases().len(), if major == 17 { 1 } else { 2 });
        assert!(changed.minimal_at().is_some());
        let encoded = changed.encode();
        assert_eq!(ChangedBlocks::decode(&encoded).as_ref(), Ok(&changed));
        assert_eq!(ChangedBlocks::decode(&encoded).unwrap().encode(), encoded);
    }
}

#[test]
fn byte_by_byte_gives_the_same_records() {
    let log = load(17, "log");
    let whole = decode(&log[..3 << 19]).0;
    let mut seen = Vec::new();
    decode_in_parts(&log[..3 << 19], &[1], |record| seen.push(Seen::of(record))).unwrap();
    assert!(seen == whole, "{} records, not {}", seen.len(), whole.len());
}

/// At every page's start the decoder joins the log, and sees what one that began earlier sees from there on.
#[test]
fn joins_at_any_page() {
    let log = load(18, "log");
    let (all, _) = decode(&log);
    for page in (0..log.len()).step_by(8192 * 37).chain([1 << 20, 5 << 20]) {
        let start = Lsn(start_of(&log).0 + page as u64);
        // Behind a segment switch there are no pages to join at.
        let Some(first) = all.iter().position(|record| record.begin >= start) else {
            continue;
        };
        if log[page..page + 24].iter().all(|&byte| byte == 0) {
            continue;
        }
        let mut decoder = WalDecoder::new(start, small());
        let mut input = &log[page..];
        let record = decoder.next(&mut input).unwrap().unwrap();
        assert_eq!(Seen::of(&record), all[first], "from {start}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_division_gives_the_same_records(
        major in proptest::sample::select(MAJORS.to_vec()),
        lengths in proptest::collection::vec(prop_oneof![1usize..64, 1usize..20_000, 1usize..3_000_000], 1..40),
    ) {
        let log = load(major, "log");
        let (whole, _) = decode(&log);
        let mut seen = Vec::new();
        let decoder = decode_in_parts(&log, &lengths, |record| seen.push(Seen::of(record))).unwrap();
        prop_assert!(seen == whole, "{} records, not {}", seen.len(), whole.len());
        prop_assert_eq!(decoder.whole(), whole.last().map(|record| record.end));
    }

    /// A log that stops anywhere yields the records that are complete, and no error.
    #[test]
    fn any_beginning_gives_its_whole_records(end in 40usize..9 << 20, crash: bool) {
        let log = load(15, if crash { "crash" } else { "log" });
        let end = end.min(log.len());
        let (whole, _) = decode(&log);
        let (seen, decoder) = decode(&log[..end]);
        prop_assert!(whole.starts_with(&seen));
        let position = Lsn(start_of(&log).0 + end as u64);
        prop_assert_eq!(decoder.position(), position);
        let next = whole.get(seen.len());
        prop_assert!(next.is_none_or(|record| record.begin.0 + u64::from(record.length) > position.0 - 7));
    }
}
