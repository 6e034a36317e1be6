//! Logs captured from real servers by `scripts/capture-binlog.sh`, beside what the vendor's own mysqlbinlog says of them.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tidemark_types::Timestamp;

use super::dump::{Dump, parse, printed_kind};
use super::*;
use crate::gtid::{Gtid, GtidSet, MariaDbState};

/// The versions, and the files of each.
pub(super) const VERSIONS: [&str; 3] = ["mysql97", "mariadb1011", "mariadb118"];
const FILES: [&str; 5] = ["main", "next", "compressed", "nochecksum", "crash"];

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/binlog")
}

fn read(version: &str, name: &str) -> Vec<u8> {
    let path = testdata().join(version).join(format!("{name}.zst"));
    let file = std::fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    zstd::decode_all(&file[..]).unwrap()
}

pub(super) fn load(version: &str, name: &str) -> Vec<u8> {
    read(version, name)
}

fn load_dump(version: &str, name: &str) -> Dump {
    // Values are printed in the character set they are in.
    parse(&String::from_utf8_lossy(&read(version, &format!("{name}.dump"))))
}

/// Every file of every version.
fn all_files() -> impl Iterator<Item = (&'static str, &'static str)> {
    let of_all = VERSIONS
        .iter()
        .flat_map(|&version| FILES.iter().map(move |&name| (version, name)));
    of_all.chain([("mysql97", "anonymous")])
}

/// Panics unless the decoder saw exactly what the vendor's tool printed.
#[track_caller]
pub(super) fn assert_same(bytes: &[u8], decoded: &Decoded, dump: &Dump) {
    let begins: Vec<u64> = decoded.events.iter().map(|event| event.begin.0).collect();
    assert_eq!(begins, dump.begins);

    // The text of statements is printed only by `--verbose`.
    let printed = decoded
        .events
        .iter()
        .filter(|event| event.header.kind != EventType::ROWS_QUERY);
    let mut lines = dump.events.iter();
    for event in printed {
        // What a transaction that is cut off ends with is not printed.
        let Some(line) = lines.next() else {
            assert!(decoded.open.is_some(), "{event:?} was not printed");
            continue;
        };
        let seen = (
            event.header.timestamp,
            event.header.server_id,
            event.header.end_position,
            printed_kind(event.header.kind),
        );
        assert_eq!(
            seen,
            (line.timestamp, line.server_id, line.end_position, line.kind),
            "{event:?} is {line:?}"
        );
        if let Some(checksum) = line.checksum {
            let end = usize::try_from(event.end.0).unwrap();
            assert_eq!(
                bytes[end - 4..end],
                checksum.to_le_bytes(),
                "{event:?} is {line:?}"
            );
        }
    }
    assert_eq!(lines.next(), None);
    let inner: Vec<Vec<EventType>> = decoded
        .events
        .iter()
        .filter(|event| event.header.kind == EventType::TRANSACTION_PAYLOAD)
        .map(|event| {
            event
                .inner
                .iter()
                .copied()
                .filter(|kind| *kind != EventType::ROWS_QUERY)
                .collect()
        })
        .collect();
    assert_eq!(inner, dump.payloads);
    assert_same_transactions(decoded, dump);
}

fn gtid_text(gtid: &TransactionGtid) -> String {
    match gtid {
        TransactionGtid::MySql(gtid) => gtid.to_string(),
        TransactionGtid::MariaDb(gtid) => gtid.to_string(),
        TransactionGtid::Anonymous => "ANONYMOUS".to_owned(),
    }
}

fn assert_same_transactions(decoded: &Decoded, dump: &Dump) {
    let open = decoded.open.iter().map(|open| &open.gtid);
    let gtids: Vec<String> = decoded
        .transactions
        .iter()
        .map(|transaction| &transaction.gtid)
        .chain(open)
        .map(gtid_text)
        .collect();
    assert_eq!(gtids, dump.gtids);
    let starts = dump
        .events
        .iter()
        .filter(|line| line.value("immediate_commit_timestamp").is_some());
    let mysql = decoded
        .transactions
        .iter()
        .filter(|transaction| transaction.claimed_bytes.is_some());
    for (transaction, line) in mysql.zip(starts) {
        let micros = |time: Timestamp| time.0.to_string();
        assert_eq!(
            line.value("immediate_commit_timestamp"),
            Some(&*micros(transaction.commit_time))
        );
        let original = transaction.original_commit_time.map(micros);
        assert_eq!(line.value("original_committed_timestamp"), original.as_deref());
        assert_eq!(
            line.value("transaction_length"),
            Some(&*transaction.bytes().to_string())
        );
        assert_eq!(transaction.claimed_bytes, Some(transaction.bytes()));
        assert_eq!(transaction.time_source, TimeSource::Commit);
    }
}

#[test]
fn real_logs_are_decoded_as_mysqlbinlog_does() {
    for (version, name) in all_files() {
        let bytes = load(version, name);
        let decoded = decode(&bytes);
        assert_eq!(decoded.error, None, "{version} {name}");
        println!("{version} {name}: {} events", decoded.events.len());
        assert_same(&bytes, &decoded, &load_dump(version, name));
        assert_nothing_between_transactions(&decoded);
        let expected = match name {
            "crash" => None,
            _ => Some(FileEnd::Closed),
        };
        assert_eq!(expected.unwrap_or(decoded.end), decoded.end, "{version} {name}");
    }
}

/// Transactions lie one behind the other, but for what MariaDB notes of its files.
#[track_caller]
fn assert_nothing_between_transactions(decoded: &Decoded) {
    for pair in decoded.transactions.windows(2) {
        let (end, begin) = (pair[0].end, pair[1].begin);
        let mut between = decoded
            .events
            .iter()
            .filter(|event| event.begin >= end && event.end <= begin);
        assert!(
            end <= begin && between.all(|event| event.header.kind == EventType::BINLOG_CHECKPOINT),
            "{pair:?}"
        );
    }
}

fn format_of(bytes: &[u8]) -> Format {
    let mut decoder = BinlogDecoder::new();
    decoder.next(&mut &bytes[..]).unwrap();
    decoder.format().unwrap().clone()
}

#[test]
fn formats_tell_whose_a_file_is() {
    for (version, name) in all_files() {
        let format = format_of(&load(version, name));
        let (flavor, number) = match version {
            "mysql97" => (Flavor::MySql, "9.7."),
            "mariadb1011" => (Flavor::MariaDb, "10.11."),
            _ => (Flavor::MariaDb, "11.8."),
        };
        assert_eq!(format.flavor, flavor);
        assert!(format.server_version.starts_with(number), "{format:?}");
        let checksum = match name {
            "nochecksum" => ChecksumAlgorithm::None,
            _ => ChecksumAlgorithm::Crc32,
        };
        assert_eq!(format.checksum, checksum);
        // A killed server leaves its file marked as open.
        assert_eq!(format.is_in_use, name == "crash", "{version} {name}");
        assert_eq!(format.server_id, 77);
        // Only the first file since the server's start tells when that was.
        assert_eq!(
            format.created != 0,
            name == "anonymous",
            "{version} {name}: {}",
            format.created
        );
    }
}

#[test]
fn a_crash_leaves_an_open_transaction_and_a_torn_event() {
    for version in VERSIONS {
        let bytes = load(version, "crash");
        let decoded = decode(&bytes);
        let FileEnd::Torn { begin } = decoded.end else {
            panic!("{version} ends {:?}", decoded.end);
        };
        assert_eq!(begin, decoded.whole);
        assert!(begin.0 < bytes.len() as u64);
        let whole = decoded.transactions.last().unwrap();
        let open = decoded.open.unwrap();
        assert_eq!(open.begin, whole.end);
        // Cut at the last whole event, and at the last whole transaction.
        let events = decode(&bytes[..usize::try_from(begin.0).unwrap()]);
        assert_eq!((events.end, events.open), (FileEnd::Open, Some(open)));
        let transactions = decode(&bytes[..usize::try_from(whole.end.0).unwrap()]);
        assert_eq!((transactions.end, transactions.open), (FileEnd::Open, None));
    }
}

fn facts(bytes: &[u8], mut each: impl FnMut(&Fact<'_>)) {
    let mut decoder = BinlogDecoder::new();
    let mut input = bytes;
    while let Some(event) = decoder.next(&mut input).unwrap() {
        Fact::of(&event).unwrap().iter().for_each(&mut each);
    }
}

/// The set that a MySQL file begins with, and the one that the file after it must begin with.
fn mysql_sets(name: &str) -> (GtidSet, GtidSet) {
    let bytes = load("mysql97", name);
    let mut before = GtidSet::new();
    facts(&bytes, |fact| {
        if let Fact::PreviousGtids(set) = fact {
            before = set.clone();
        }
    });
    let mut after = before.clone();
    for transaction in decode(&bytes).transactions {
        if let TransactionGtid::MySql(gtid) = &transaction.gtid {
            assert!(!after.contains(gtid) && after.add(gtid) && after.contains(gtid));
        }
    }
    (before, after)
}

#[test]
fn files_of_mysql_join_by_their_previous_gtids() {
    let (_, after_main) = mysql_sets("main");
    let (before_next, after_next) = mysql_sets("next");
    let (before_compressed, after_compressed) = mysql_sets("compressed");
    let (before_nochecksum, _) = mysql_sets("nochecksum");
    assert_eq!(after_main, before_next);
    // The server was stopped and started between them: it writes one file, which is not kept.
    assert!(before_compressed.contains_all(&after_next));
    assert_eq!(after_compressed, before_nochecksum);
    for name in FILES {
        let printed = load_dump("mysql97", name).gtids_before;
        let (before, _) = mysql_sets(name);
        assert_eq!(before.to_string(), if printed == "empty" { "" } else { &printed });
        assert_eq!(GtidSet::decode(&before.encode()).unwrap(), before);
    }
    let tagged: Gtid =
        "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee:a_tag_of_thirty_two_characters_x:9223372036854775806"
            .parse()
            .unwrap();
    assert!(after_main.contains(&tagged));
    assert_eq!(after_main.minus(&before_next), GtidSet::new());
}

fn mariadb_states(version: &str, name: &str) -> (MariaDbState, MariaDbState) {
    let bytes = load(version, name);
    let mut before = MariaDbState::new();
    facts(&bytes, |fact| {
        if let Fact::GtidList(state) = fact {
            before = state.clone();
        }
    });
    let mut after = before.clone();
    for transaction in decode(&bytes).transactions {
        let TransactionGtid::MariaDb(gtid) = transaction.gtid else {
            panic!("{transaction:?} has no GTID of MariaDB");
        };
        after.advance(gtid);
    }
    (before, after)
}

#[test]
fn files_of_mariadb_join_by_their_gtid_lists() {
    for version in ["mariadb1011", "mariadb118"] {
        let (_, after_main) = mariadb_states(version, "main");
        let (before_next, after_next) = mariadb_states(version, "next");
        let (before_compressed, after_compressed) = mariadb_states(version, "compressed");
        let (before_nochecksum, _) = mariadb_states(version, "nochecksum");
        assert_eq!(after_main, before_next);
        assert_eq!(after_next, before_compressed);
        assert_eq!(after_compressed, before_nochecksum);
        for name in FILES {
            assert_eq!(
                mariadb_states(version, name).0.to_string(),
                load_dump(version, name).gtids_before
            );
        }
        assert!(after_main.position().to_string().ends_with(",5-78-1000000"));
    }
}

fn kinds(decoded: &Decoded, wanted: impl Fn(&Transaction) -> bool) -> usize {
    decoded
        .transactions
        .iter()
        .filter(|transaction| wanted(transaction))
        .count()
}

#[test]
fn transactions_are_told_apart() {
    for version in VERSIONS {
        let main = decode(&load(version, "main"));
        let count = |wanted: fn(&Transaction) -> bool| kinds(&main, wanted);
        let is_mariadb = version != "mysql97";
        // x1 and x2, and where engines may be mixed x4; x3 was committed in one phase.
        let prepared = count(|transaction| matches!(transaction.kind, TransactionKind::XaPrepare(_)));
        assert_eq!(prepared, if is_mariadb { 3 } else { 2 });
        let commits = count(|transaction| matches!(transaction.kind, TransactionKind::XaCommit(_)));
        let rollbacks = count(|transaction| matches!(transaction.kind, TransactionKind::XaRollback(_)));
        assert_eq!((commits, rollbacks), (1, prepared - 1));
        assert!(count(|transaction| transaction.ended_by == TransactionEnd::Commit) > 2);
        assert!(count(|transaction| transaction.kind == TransactionKind::Ddl) > 8);
        let alters = count(|transaction| transaction.kind == TransactionKind::AlterStart);
        assert_eq!(alters, if is_mariadb { 2 } else { 0 });
        // CREATE TABLE … SELECT.
        let mixed =
            count(|transaction| transaction.contains_ddl && transaction.kind == TransactionKind::Changes);
        assert!(mixed >= 1, "{version}");
        let big = main.transactions.iter().map(Transaction::bytes).max().unwrap();
        assert!(big > 4 << 20, "{version}: {big}");
    }
    let anonymous = decode(&load("mysql97", "anonymous"));
    assert_eq!(
        kinds(&anonymous, |transaction| transaction.gtid
            == TransactionGtid::Anonymous),
        anonymous.transactions.len()
    );
    let compressed = decode(&load("mysql97", "compressed"));
    assert_eq!(
        kinds(&compressed, |transaction| transaction.ended_by
            == TransactionEnd::Payload),
        5
    );
    let prepared = |transaction: &Transaction| matches!(transaction.kind, TransactionKind::XaPrepare(_));
    assert_eq!(kinds(&compressed, prepared), 1);
}

/// `SET TIMESTAMP` forges the second of an event; MySQL's commit time is another matter.
#[test]
fn a_forged_timestamp() {
    for version in VERSIONS {
        let main = decode(&load(version, "main"));
        let forged: Vec<_> = main
            .transactions
            .iter()
            .filter(|transaction| transaction.commit_time == Timestamp(1_000_000_000_000_000))
            .collect();
        assert_eq!(forged.len(), if version == "mysql97" { 0 } else { 1 });
        assert!(
            forged
                .iter()
                .all(|transaction| transaction.time_source == TimeSource::Statement)
        );
    }
}

#[test]
fn byte_by_byte_gives_the_same_events() {
    for (version, name) in all_files().filter(|(_, name)| *name != "main") {
        let bytes = load(version, name);
        assert_eq!(decode_in_parts(&bytes, &[1]), decode(&bytes), "{version} {name}");
    }
}

/// Whoever joins within a transaction is told that its end goes by unseen.
#[test]
fn ends_that_pass_unseen_are_told() {
    for (version, name) in all_files() {
        let bytes = load(version, name);
        let all = decode(&bytes);
        for event in &all.events[1..] {
            let mut input = &bytes[usize::try_from(event.begin.0).unwrap()..];
            let mut decoder = BinlogDecoder::join(event.begin, format_of(&bytes));
            let mut transactions = Transactions::join();
            let (mut found, mut unseen) = (Vec::new(), Vec::new());
            while let Ok(Some(event)) = decoder.next(&mut input) {
                let fact = Fact::of(&event).unwrap();
                found.extend(
                    transactions
                        .add(&event, fact.as_ref())
                        .unwrap()
                        .map(|transaction| transaction.end),
                );
                if transactions.is_joining() {
                    unseen.push(event.end);
                }
            }
            for transaction in all.transactions.iter().filter(|one| one.end > event.begin) {
                let is_found = found.contains(&transaction.end);
                assert_ne!(
                    is_found,
                    unseen.contains(&transaction.end),
                    "{version}/{name} {event:?}"
                );
                assert_eq!(is_found, event.begin <= transaction.begin);
            }
        }
    }
}

/// A dump may start at any event, and a decoder join there: it sees what one that began earlier sees from there on.
#[test]
fn joins_at_any_event() {
    for version in VERSIONS {
        let bytes = load(version, "compressed");
        let all = decode(&bytes);
        for (index, event) in all.events.iter().enumerate().skip(1) {
            let decoder = BinlogDecoder::join(event.begin, format_of(&bytes));
            let rest = &bytes[usize::try_from(event.begin.0).unwrap()..];
            let joined = run(decoder, Transactions::join(), rest, &[usize::MAX]);
            assert_eq!(joined.error, None);
            assert_eq!(joined.events, all.events[index..]);
            let later = all
                .transactions
                .iter()
                .filter(|transaction| transaction.begin >= event.begin);
            assert!(joined.transactions.iter().eq(later));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_division_gives_the_same_events(
        version in proptest::sample::select(VERSIONS.to_vec()),
        name in proptest::sample::select(FILES.to_vec()),
        lengths in proptest::collection::vec(prop_oneof![1usize..64, 1usize..20_000, 1usize..3_000_000], 1..40),
    ) {
        let bytes = load(version, name);
        let mut whole = decode(&bytes);
        let mut divided = decode_in_parts(&bytes, &lengths);
        // Of a long event in portions only the beginning is held, and its fact shows as much of it.
        for (event, other) in whole.events.iter_mut().zip(&mut divided.events) {
            if event.header.length > 1 << 20 {
                event.is_whole = other.is_whole;
            }
        }
        let differing = whole.events.iter().zip(&divided.events).find(|(event, other)| event != other);
        prop_assert_eq!(differing, None);
        prop_assert_eq!(&divided.error, &whole.error);
        prop_assert!(divided == whole);
    }

    /// A log that stops anywhere yields the events that are complete, and no error.
    #[test]
    fn any_beginning_gives_its_whole_events(
        version in proptest::sample::select(VERSIONS.to_vec()),
        end in 0usize..12_000,
    ) {
        let bytes = load(version, "crash");
        let end = end.min(bytes.len());
        let (whole, part) = (decode(&bytes), decode(&bytes[..end]));
        prop_assert_eq!(part.error, None);
        prop_assert!(whole.events.starts_with(&part.events));
        prop_assert!(whole.transactions.starts_with(&part.transactions));
        prop_assert!(whole.events.get(part.events.len()).is_none_or(|next| next.end.0 > end as u64));
        let is_open = end >= 4 && part.events.last().map_or(4, |event| event.end.0) == end as u64;
        prop_assert_eq!(part.end == FileEnd::Open, is_open);
    }
}
