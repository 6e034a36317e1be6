//! Damaged logs: found, told, stepped over, and never worse.

use proptest::prelude::*;

use super::golden::load;
use super::*;

/// Decodes everything that can be decoded; the errors, and the records.
fn decode_damaged(bytes: &[u8], start: Lsn) -> (Vec<Seen>, Vec<WalError>, WalDecoder) {
    let mut decoder = WalDecoder::new(start, small());
    let (mut seen, mut errors) = (Vec::new(), Vec::new());
    let mut input = bytes;
    loop {
        match decoder.next(&mut input) {
            Ok(Some(record)) => seen.push(Seen::of(&record)),
            Ok(None) => break,
            Err(error) => {
                errors.push(error);
                decoder.resync();
            }
        }
    }
    (seen, errors, decoder)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A flipped bit takes the record it lies in, and at most what begins on the pages around it. What is left is true.
    #[test]
    fn a_flipped_bit_takes_little_with_it(offset in 8192usize..3 << 20, bit in 0u8..8) {
        let mut log = load(17, "log");
        log.truncate(3 << 20);
        let (whole, _) = decode(&log);
        log[offset] ^= 1 << bit;
        let (seen, errors, decoder) = decode_damaged(&log, start_of(&log));
        let mut seen_records = seen.iter();
        let mut lost = Vec::new();
        let mut next = seen_records.next();
        for record in &whole {
            if next == Some(record) {
                next = seen_records.next();
            } else {
                lost.push(record);
            }
        }
        prop_assert_eq!(next, None, "a record that was never written");
        let at = start_of(&log).0 + offset as u64;
        prop_assert!(lost.is_empty() || !errors.is_empty() || decoder.end_of_log().is_some());
        // A length or a page of zero is the end of the log, and says nothing of what follows.
        if decoder.end_of_log().is_none() {
            for record in lost {
                let near = record.end.0 + 8192 > at && record.begin.0 < at + 4 * 8192;
                prop_assert!(near, "{record:?} lost by damage at {}", Lsn(at));
            }
        }
        let is_near = errors.iter().all(|error| error.position().0 <= at + 2 * 8192);
        prop_assert!(is_near, "{errors:?} by damage at {}", Lsn(at));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..30_000), start in 0u64..1 << 40) {
        let (seen, _, decoder) = decode_damaged(&bytes, Lsn(start));
        prop_assert!(seen.is_empty());
        prop_assert_eq!(decoder.position(), Lsn(start + bytes.len() as u64));
    }

    #[test]
    fn random_changed_blocks_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let framed = [b"TMCB\x01".to_vec(), bytes].concat();
        if let Ok(changed) = ChangedBlocks::decode(&framed) {
            prop_assert_eq!(changed.encode(), framed);
        }
    }

    #[test]
    fn damaged_changed_blocks_are_refused_or_another_set(cut in 0usize..400, offset in 0usize..400, bit in 0u8..8) {
        let mut changed = ChangedBlocks::default();
        decode_in_parts(&load(17, "log")[..1 << 20], &[usize::MAX], |record| changed.add_record(record).unwrap()).unwrap();
        let encoded = changed.encode();
        let cut = cut * encoded.len() / 400;
        prop_assert!(ChangedBlocks::decode(&encoded[..cut]).is_err());
        let mut flipped = encoded.clone();
        flipped[offset * encoded.len() / 400] ^= 1 << bit;
        prop_assert_ne!(ChangedBlocks::decode(&flipped).ok(), Some(changed));
    }

    /// Stretches of log, gathered one by one and merged in any order, are the whole.
    #[test]
    fn merged_stretches_are_the_whole(cuts in proptest::collection::vec(0usize..14_000, 1..5), backwards: bool) {
        let log = load(15, "log");
        let mut whole = ChangedBlocks::default();
        let mut parts = vec![ChangedBlocks::default(); cuts.len() + 1];
        let mut number = 0;
        decode_in_parts(&log, &[usize::MAX], |record| {
            whole.add_record(record).unwrap();
            let part = cuts.iter().filter(|cut| **cut <= number).count();
            parts[part].add_record(record).unwrap();
            number += 1;
        }).unwrap();
        if backwards {
            parts.reverse();
        }
        let mut merged = ChangedBlocks::default();
        for part in parts {
            merged.merge(ChangedBlocks::decode(&part.encode()).unwrap());
        }
        prop_assert!(merged == whole);
    }
}

#[test]
fn a_later_format_is_told_apart_from_damage() {
    let error = |bytes: &[u8]| ChangedBlocks::decode(bytes).unwrap_err();
    assert_eq!(error(b"TMCB\x02"), DecodeChangedBlocksError::Version(2));
    assert_eq!(error(b"TMC"), DecodeChangedBlocksError::Magic);
    assert_eq!(
        error(b"TMCB\x01\0").to_string(),
        "list of changed blocks is damaged at byte 5 of 6"
    );
}
