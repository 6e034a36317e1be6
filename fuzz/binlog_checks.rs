//! What the fuzz targets of the mysql crate check. Also run over the committed corpora by its tests, on stable Rust.

use std::ops::ControlFlow;

use super::writer::Writer;
use crate::binlog::{BinlogDecoder, ChecksumAlgorithm, EventType, Fact, Flavor, PayloadReader, Transactions};
use crate::gtid::{GtidSet, MariaDbPosition};

/// Decodes a file to its end, in inputs of `portion` bytes; what was seen, as text.
fn decode(bytes: &[u8], portion: usize) -> Vec<String> {
    let mut decoder = BinlogDecoder::new();
    let mut transactions = Transactions::join();
    let mut payloads = PayloadReader::new();
    let mut seen = Vec::new();
    for mut input in bytes.chunks(portion.max(1)) {
        loop {
            assert!(seen.len() <= 3 * bytes.len(), "the decoder makes no progress");
            match decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    assert!(event.begin < event.end);
                    let fact = Fact::of(&event);
                    if let Ok(Some(Fact::Payload(payload))) = &fact {
                        let mut inner = Vec::new();
                        let read = payloads.read(&event, payload, |event| {
                            inner.push(format!("{:?} {:?}", event.header, Fact::of(event)));
                            ControlFlow::Continue(())
                        });
                        seen.push(format!("{inner:?} {read:?}"));
                    }
                    let transaction = fact.as_ref().map(|fact| transactions.add(&event, fact.as_ref()));
                    seen.push(format!("{:?} {fact:?} {transaction:?}", event.header));
                }
                Err(error) => {
                    seen.push(format!("{error} {}", decoder.whole()));
                    return seen;
                }
            }
        }
        assert!(input.is_empty());
    }
    assert_eq!(decoder.position().0, bytes.len() as u64);
    seen.push(format!("{:?}", decoder.end()));
    seen
}

/// Any bytes, as a file or as events under checksums that hold: no panic, and the same events and errors however the bytes
/// are divided. The first byte says how, the second what the bytes are.
pub fn binlog_decoder(data: &[u8]) {
    let [portion, mode, bytes @ ..] = data else {
        return;
    };
    let file = if mode & 1 == 0 {
        bytes.to_vec()
    } else {
        events(*mode, bytes)
    };
    assert_eq!(decode(&file, file.len()), decode(&file, usize::from(*portion)));
}

/// A file of events whose types and lengths, and whose contents, are these bytes.
fn events(mode: u8, mut bytes: &[u8]) -> Vec<u8> {
    let flavor = if mode & 2 == 0 {
        Flavor::MySql
    } else {
        Flavor::MariaDb
    };
    let checksum = if mode & 4 == 0 {
        ChecksumAlgorithm::None
    } else {
        ChecksumAlgorithm::Crc32
    };
    let mut writer = Writer::new(flavor, checksum);
    while let [kind, length, rest @ ..] = bytes {
        let (body, behind) = rest.split_at_checked(usize::from(*length)).unwrap_or((rest, &[]));
        writer.event(EventType(*kind), 0, body);
        bytes = behind;
    }
    writer.bytes
}

/// Any bytes, as a set in binary and as text: no panic, what is accepted is written back as the same set, and sets obey the
/// laws of sets.
pub fn gtid_set(data: &[u8]) {
    if let Ok(set) = GtidSet::decode(data) {
        assert_eq!(GtidSet::decode(&set.encode()).as_ref(), Ok(&set));
        assert_eq!(set.to_string().parse().as_ref(), Ok(&set));
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(position) = text.parse::<MariaDbPosition>() {
        assert_eq!(position.to_string().parse().as_ref(), Ok(&position));
        assert!(position.is_at_or_past_all(&position));
    }
    let (a, b) = text.split_once('|').unwrap_or((text, ""));
    let (Ok(a), Ok(b)) = (a.parse::<GtidSet>(), b.parse::<GtidSet>()) else {
        return;
    };
    assert_eq!(a.to_string().parse().as_ref(), Ok(&a));
    assert_eq!(GtidSet::decode(&a.encode()).as_ref(), Ok(&a));
    let (union, common) = (a.union(&b), a.intersection(&b));
    assert_eq!(union, b.union(&a));
    assert_eq!(common, b.intersection(&a));
    assert!(union.contains_all(&a) && union.contains_all(&b));
    assert!(a.contains_all(&common) && b.contains_all(&common));
    assert_eq!(a.minus(&b).union(&common), a);
    assert!(a.minus(&b).intersection(&b).is_empty());
    assert_eq!(a.contains_all(&b), union == a);
}
