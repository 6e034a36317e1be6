//! What the fuzz targets check. Also run over the committed corpora by the tests of the postgres crate, on stable Rust.

use tidemark_types::{Lsn, WalSegmentSize};

use super::writer::Writer;
use crate::wal::{ChangedBlocks, Fact, WalDecoder, WalVersion};

/// Decodes a log to its end, stepping over damage, in inputs of `portion` bytes; what was seen, as text.
fn decode(bytes: &[u8], portion: usize, changed: &mut ChangedBlocks) -> Vec<String> {
    let start = bytes.get(8..16).map_or(Lsn(1 << 20), |address| {
        Lsn(address
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)))
    });
    let segment_size = WalSegmentSize::try_from(1 << 20).unwrap();
    let mut decoder = WalDecoder::new(start, segment_size);
    let mut seen = Vec::new();
    for mut input in bytes.chunks(portion.max(1)) {
        loop {
            assert!(seen.len() <= bytes.len(), "the decoder makes no progress");
            match decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(record)) => {
                    let fact = Fact::of(&record);
                    assert!(record.begin < record.end);
                    changed.add(&record, fact.as_ref().ok().and_then(Option::as_ref));
                    seen.push(format!("{record:?} {fact:?}"));
                }
                Err(error) => {
                    seen.push(error.to_string());
                    decoder.resync();
                }
            }
        }
        assert!(input.is_empty());
    }
    assert!(
        start
            .0
            .checked_add(bytes.len() as u64)
            .is_none_or(|end| decoder.position() == Lsn(end))
    );
    seen
}

/// Any bytes, as a log: no panic, and the same records and errors however the bytes are divided. The first byte says how.
pub fn wal_decoder(data: &[u8]) {
    let Some((portion, log)) = data.split_first() else {
        return;
    };
    let mut changed = ChangedBlocks::default();
    let whole = decode(log, log.len(), &mut changed);
    let divided = decode(log, usize::from(*portion), &mut ChangedBlocks::default());
    assert_eq!(whole, divided);
    assert_eq!(ChangedBlocks::decode(&changed.encode()).as_ref(), Ok(&changed));
}

/// Any bytes, as a record's content under a checksum that holds: version, resource manager, operation, body.
pub fn wal_record(data: &[u8]) {
    let [version, manager, info, body @ ..] = data else {
        return;
    };
    let version = WalVersion::ALL[usize::from(*version) % WalVersion::ALL.len()];
    let mut writer = Writer::new(version);
    writer.record(*manager, *info, body);
    let mut changed = ChangedBlocks::default();
    decode(&writer.bytes, writer.bytes.len(), &mut changed);
    assert_eq!(ChangedBlocks::decode(&changed.encode()).as_ref(), Ok(&changed));
}

/// Any bytes, as an encoding of changed blocks: no panic, and what is accepted is the one encoding of its set.
pub fn changed_blocks(data: &[u8]) {
    if let Ok(changed) = ChangedBlocks::decode(data) {
        assert_eq!(changed.encode(), data);
        let mut doubled = changed.clone();
        doubled.merge(changed.clone());
        assert_eq!(doubled, changed);
    }
}
