//! Damaged logs: found, told, and never worse.

use proptest::prelude::*;

use super::golden::{VERSIONS, load};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// With checksums, whatever comes before a flipped bit is right, and nothing comes from behind it. The one bit that
    /// may flip is the flag of a file in use.
    #[test]
    fn a_flipped_bit_is_found(
        version in proptest::sample::select(VERSIONS.to_vec()),
        offset in 0usize..12_000,
        bit in 0u8..8,
    ) {
        const IN_USE_FLAG: usize = 4 + 17;
        let mut bytes = load(version, "crash");
        let whole = decode(&bytes);
        let end = usize::try_from(whole.whole.0).unwrap();
        let offset = offset % end;
        bytes[offset] ^= 1 << bit;
        let damaged = decode(&bytes);
        if (offset, bit) == (IN_USE_FLAG, 0) {
            prop_assert_eq!(damaged.error, None);
            prop_assert_eq!(damaged.transactions, whole.transactions);
        } else {
            // A length that grew may leave the event waiting for what never comes.
            let is_waiting = matches!(damaged.end, FileEnd::Torn { begin } if begin.0 <= offset as u64);
            prop_assert!(damaged.error.is_some() || is_waiting);
            prop_assert!(whole.events.starts_with(&damaged.events));
            prop_assert!(damaged.whole.0 <= offset as u64);
            prop_assert!(damaged.error.is_none_or(|error| error.position().0 <= offset as u64));
        }
    }

    /// Without checksums a flipped bit may pass; it does no harm.
    #[test]
    fn a_flipped_bit_without_checksums_never_panics(
        version in proptest::sample::select(VERSIONS.to_vec()),
        offset in 0usize..21_000,
        value: u8,
        portion in 1usize..3000,
    ) {
        let mut bytes = load(version, "nochecksum");
        let offset = offset % bytes.len();
        bytes[offset] = value;
        prop_assert_eq!(decode(&bytes), decode_in_parts(&bytes, &[portion]));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let decoded = decode(&[b"\xFEbin", &bytes[..]].concat());
        prop_assert!(decoded.events.is_empty());
    }

    #[test]
    fn random_events_never_panic(
        is_mariadb: bool,
        has_checksum: bool,
        events in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..200)), 0..20),
    ) {
        let flavor = if is_mariadb { Flavor::MariaDb } else { Flavor::MySql };
        let checksum = if has_checksum { ChecksumAlgorithm::Crc32 } else { ChecksumAlgorithm::None };
        let mut writer = super::writer::Writer::new(flavor, checksum);
        for (kind, body) in &events {
            writer.event(EventType(*kind), 0, body);
        }
        prop_assert_eq!(decode(&writer.bytes), decode_in_parts(&writer.bytes, &[3]));
    }
}
