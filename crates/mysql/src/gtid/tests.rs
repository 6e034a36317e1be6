//! Text, binary form and laws of both vendors' GTIDs.

use proptest::prelude::*;

use super::*;

const A: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
const B: &str = "bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee";

fn set(text: &str) -> GtidSet {
    text.replace('A', A).replace('B', B).parse().unwrap()
}

fn text(set: &GtidSet) -> String {
    set.to_string().replace(A, "A").replace(B, "B")
}

#[test]
fn sets_are_printed_as_servers_print_them() {
    for (given, expected) in [
        ("", ""),
        ("A:1", "A:1"),
        ("A:1-5:7", "A:1-5:7"),
        ("A:7:1-5:6", "A:1-7"),
        ("A:3-4:1-2", "A:1-4"),
        ("B:1, A:2 ,\n A:1", "A:1-2,B:1"),
        ("A:tag:5", "A:tag:5"),
        ("A:1:tag:5:other_1:1-3", "A:1:other_1:1-3:tag:5"),
        ("A:XY:5,A:xy:6,A:9", "A:9:xy:5-6"),
        (" A : 1 - 3 : tag : 2 ,,", "A:1-3:tag:2"),
        ("A:9223372036854775806", "A:9223372036854775806"),
    ] {
        assert_eq!(text(&set(given)), expected, "{given}");
    }
    let without_dashes = format!("{}:1", A.replace('-', "").to_uppercase());
    assert_eq!(without_dashes.parse::<GtidSet>().unwrap(), set("A:1"));
}

#[test]
fn what_is_no_set_is_refused() {
    for given in [
        "A",
        "A:",
        "A:0",
        "A:0-1",
        "A:2-1",
        "A:1-",
        "A:-1",
        "A:+1",
        "A:1--2",
        "A:9223372036854775807",
        "A:99999999999999999999",
        "A:1-9223372036854775807",
        "A:tag",
        "A:tag:",
        "A:1:tag",
        "A:tag:other:1",
        "A:1tag:1",
        "A:t-g:1",
        "x",
        "A:é:1",
        ":1",
        "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeeeff:1",
        "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeee:1",
        "aaaaaaaabbbb-cccc-dddd-eeeeeeeeeeee:1",
        "A:a_tag_of_thirty_three_characters_:1",
    ] {
        let given = given.replace('A', A);
        assert!(given.parse::<GtidSet>().is_err(), "{given}");
    }
    let error = "0-1-5".parse::<GtidSet>().unwrap_err().to_string();
    assert_eq!(
        error,
        "not a GTID: '0-1-5' (a server's uuid is 8-4-4-4-12 hexadecimal digits)"
    );
}

#[test]
fn single_transactions() {
    let gtid: Gtid = format!("{A}:tag:7").parse().unwrap();
    assert_eq!(gtid.to_string(), format!("{A}:tag:7"));
    for several in ["A:1-2", "A:1,B:1", "", "A:1:3"] {
        assert!(
            several.replace('A', A).replace('B', B).parse::<Gtid>().is_err(),
            "{several}"
        );
    }
    let mut all = set("A:1-5");
    assert!(!all.contains(&gtid));
    assert!(all.add(&gtid) && all.contains(&gtid));
    let beyond = Gtid {
        number: Interval::NUMBER_MAX + 1,
        ..gtid
    };
    assert!(!all.add(&beyond) && !all.contains(&beyond));
}

#[test]
fn sets_are_compared_with_holes_and_tags() {
    let whole = set("A:1-10:tag:1-3,B:5");
    assert!(whole.contains_all(&set("A:2-3:10,B:5")));
    assert!(!whole.contains_all(&set("A:11")));
    assert!(!whole.contains_all(&set("B:tag:5")));
    assert!(!set("A:1-3:5-7").contains_all(&set("A:3-5")));
    assert_eq!(
        text(&whole.minus(&set("A:1:3-4:10:tag:2,B:1-9"))),
        "A:2:5-9:tag:1:3"
    );
    assert_eq!(text(&whole.intersection(&set("A:9-20:tag:3-4"))), "A:9-10:tag:3");
    assert_eq!(whole.count(), 14);
    assert_eq!(
        set("A:1-9223372036854775806,B:1-9223372036854775806:tag:1-9223372036854775806").count(),
        u64::MAX
    );
}

/// As the server's `Gtid_set::encode` writes them.
#[test]
fn the_binary_form() {
    let untagged = set("A:1-5:7");
    let mut bytes = vec![1, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend([
        0xAA, 0xAA, 0xAA, 0xAA, 0xBB, 0xBB, 0xCC, 0xCC, 0xDD, 0xDD, 0xEE, 0xEE, 0xEE, 0xEE, 0xEE, 0xEE,
    ]);
    for number in [2u64, 1, 6, 7, 8] {
        bytes.extend(number.to_le_bytes());
    }
    assert_eq!(untagged.encode(), bytes);
    assert_eq!(GtidSet::decode(&bytes), Ok(untagged));
    let mut tagged = vec![1, 1, 0, 0, 0, 0, 0, 1];
    tagged.extend(&bytes[8..24]);
    tagged.extend(b"\x06tag");
    for number in [1u64, 4, 5] {
        tagged.extend(number.to_le_bytes());
    }
    assert_eq!(set("A:tag:4").encode(), tagged);
    assert_eq!(GtidSet::decode(&tagged), Ok(set("A:tag:4")));

    let error = |bytes: &[u8]| GtidSet::decode(bytes).unwrap_err().to_string();
    assert_eq!(error(&bytes[..40]), "set of GTIDs is damaged at byte 40 of 40");
    assert_eq!(
        error(&[&bytes[..], &[0]].concat()),
        "set of GTIDs is damaged at byte 64 of 65"
    );
    // A format of the future; intervals out of order, empty, or out of range.
    assert!(GtidSet::decode(&[0, 0, 0, 0, 0, 0, 0, 2]).is_err());
    for (first, second) in [
        ((7u64, 8u64), (1u64, 6u64)),
        ((1, 6), (6, 7)),
        ((1, 1), (3, 4)),
        ((0, 2), (3, 4)),
        ((1, 2), (3, 1 << 63)),
    ] {
        let mut damaged = bytes[..32].to_vec();
        for number in [first.0, first.1, second.0, second.1] {
            damaged.extend(number.to_le_bytes());
        }
        assert!(GtidSet::decode(&damaged).is_err(), "{first:?} {second:?}");
    }
    // A number of sources or intervals that is not there costs nothing.
    assert!(GtidSet::decode(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0]).is_err());
}

/// A set over few sources and small numbers, so that sets meet.
fn any_set() -> impl Strategy<Value = GtidSet> {
    let interval = (0u8..2, 0u8..3, 1u64..40, 1u64..8);
    proptest::collection::vec(interval, 0..12).prop_map(|intervals| {
        let mut set = GtidSet::new();
        for (server, tag, begin, count) in intervals {
            let tag = ["", "a", "b"][usize::from(tag)];
            let source = SourceId {
                uuid: ServerUuid([server; 16]),
                tag: Tag::from_bytes(tag.as_bytes()).unwrap(),
            };
            set.add_interval(&source, Interval::new(begin, begin + count).unwrap());
        }
        set
    })
}

/// Its members, one by one: the slow way to everything.
fn members(set: &GtidSet) -> std::collections::BTreeSet<(SourceId, u64)> {
    set.intervals()
        .flat_map(|(source, interval)| {
            (interval.begin()..interval.end()).map(move |number| (source.clone(), number))
        })
        .collect()
}

proptest! {
    #[test]
    fn sets_are_sets(a in any_set(), b in any_set(), number in 1u64..50) {
        let (of_a, of_b) = (members(&a), members(&b));
        prop_assert_eq!(members(&a.union(&b)), &of_a | &of_b);
        prop_assert_eq!(members(&a.minus(&b)), &of_a - &of_b);
        prop_assert_eq!(members(&a.intersection(&b)), &of_a & &of_b);
        prop_assert_eq!(a.contains_all(&b), of_a.is_superset(&of_b));
        prop_assert_eq!(a == b, of_a == of_b);
        prop_assert_eq!(a.count(), of_a.len() as u64);
        prop_assert_eq!(a.is_empty(), of_a.is_empty());
        for source in a.intervals().chain(b.intervals()).map(|(source, _)| source) {
            let gtid = Gtid { source: source.clone(), number };
            prop_assert_eq!(a.contains(&gtid), of_a.contains(&(source.clone(), number)));
            let mut more = a.clone();
            more.add(&gtid);
            prop_assert_eq!(members(&more).len(), of_a.len() + usize::from(!a.contains(&gtid)));
        }
    }

    #[test]
    fn sets_survive_text_and_binary(a in any_set()) {
        let parsed: GtidSet = a.to_string().parse().unwrap();
        prop_assert_eq!(&parsed, &a);
        prop_assert_eq!(GtidSet::decode(&a.encode()).unwrap(), a);
    }

    #[test]
    fn any_text_and_bytes_never_panic(text in "[a-f0-9:, -]{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = text.parse::<GtidSet>();
        let _ = text.parse::<MariaDbPosition>();
        let _ = GtidSet::decode(&bytes);
    }

    #[test]
    fn positions_survive_text(gtids in proptest::collection::vec((0u32..5, 1u32..4, any::<u64>()), 0..8)) {
        let mut position = MariaDbPosition::new();
        for (domain, server, sequence) in gtids {
            position.advance(MariaDbGtid { domain, server, sequence });
        }
        prop_assert_eq!(position.to_string().parse::<MariaDbPosition>().unwrap(), position.clone());
        prop_assert!(position.is_at_or_past_all(&position));
    }
}

#[test]
fn positions_of_mariadb() {
    let position: MariaDbPosition = "1-2-5, 0-1-100".parse().unwrap();
    assert_eq!(position.to_string(), "0-1-100,1-2-5");
    assert!("".parse::<MariaDbPosition>().unwrap().is_empty());
    for given in [
        "0-1",
        "0-1-2-3",
        "a-1-2",
        "0-1-",
        "0-1-+2",
        "4294967296-1-1",
        "0-4294967296-1",
        "0-1-18446744073709551616",
        "0-1-1,0-2-2",
    ] {
        assert!(given.parse::<MariaDbPosition>().is_err(), "{given}");
    }
    let gtid = |text: &str| text.parse::<MariaDbGtid>().unwrap();
    assert!(position.is_at_or_past(gtid("0-9-100")) && position.is_at_or_past(gtid("0-1-7")));
    assert!(!position.is_at_or_past(gtid("0-1-101")) && !position.is_at_or_past(gtid("7-1-1")));
    assert!(position.is_at_or_past_all(&"0-1-99".parse().unwrap()));
    assert!(!position.is_at_or_past_all(&"0-1-99,7-1-1".parse().unwrap()));
}

#[test]
fn states_of_mariadb() {
    let gtids = |text: &str| {
        text.split(',')
            .map(|gtid| gtid.parse::<MariaDbGtid>().unwrap())
            .collect::<MariaDbState>()
    };
    let state = gtids("0-1-5,0-3-9,0-2-7,1-1-1");
    assert_eq!(state.to_string(), "0-1-5,0-3-9,0-2-7,1-1-1");
    assert_eq!(state.position().to_string(), "0-2-7,1-1-1");
    // The order of the others says nothing; which came last does.
    assert_eq!(state, gtids("1-1-1,0-3-9,0-1-5,0-2-7"));
    assert_ne!(state, gtids("0-1-5,0-2-7,0-3-9,1-1-1"));
    let mut later = state;
    later.advance("0-1-12".parse().unwrap());
    assert_eq!(later.to_string(), "0-2-7,0-3-9,0-1-12,1-1-1");
}
