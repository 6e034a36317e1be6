//! The decoder against the log of real servers and what their `pg_waldump` says of it (`golden`, `live`), against logs
//! written by hand for what no installed server writes (`synthetic`), and against damage (`damage`).

mod corpus;
mod damage;
mod golden;
mod live;
mod synthetic;
mod waldump;
mod writer;

use tidemark_types::{Lsn, WalSegmentSize};

use super::*;

/// The segment size of every log here.
fn small() -> WalSegmentSize {
    WalSegmentSize::try_from(1 << 20).unwrap()
}

/// What is compared of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    begin: Lsn,
    end: Lsn,
    previous: Lsn,
    xid: u32,
    manager: String,
    length: u32,
    blocks: Vec<(u8, String, &'static str, u32)>,
    main_bytes: Option<usize>,
}

impl Seen {
    fn of(record: &Record<'_>) -> Seen {
        Seen {
            begin: record.begin,
            end: record.end,
            previous: record.previous,
            xid: record.xid,
            manager: record.manager.to_string(),
            length: record.length,
            blocks: record
                .blocks
                .iter()
                .map(|block| {
                    (
                        block.id,
                        block.relation.to_string(),
                        block.fork.name(),
                        block.block,
                    )
                })
                .collect(),
            main_bytes: record.main.map(<[u8]>::len),
        }
    }
}

/// Where the log in `bytes` starts, as its first page says.
fn start_of(bytes: &[u8]) -> Lsn {
    Lsn(u64::from_le_bytes(bytes[8..16].try_into().unwrap()))
}

/// Decodes `bytes` divided into the given lengths, again and again, and hands each record to `visit`.
fn decode_in_parts(
    bytes: &[u8],
    lengths: &[usize],
    mut visit: impl FnMut(&Record<'_>),
) -> Result<WalDecoder, WalError> {
    let mut decoder = WalDecoder::new(start_of(bytes), small());
    let mut rest = bytes;
    for length in lengths.iter().cycle() {
        let (mut input, later) = rest.split_at((*length).min(rest.len()));
        while let Some(record) = decoder.next(&mut input)? {
            visit(&record);
        }
        assert!(input.is_empty(), "None means that the input is used up");
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    Ok(decoder)
}

fn decode(bytes: &[u8]) -> (Vec<Seen>, WalDecoder) {
    let mut seen = Vec::new();
    let decoder = decode_in_parts(bytes, &[bytes.len()], |record| seen.push(Seen::of(record))).unwrap();
    (seen, decoder)
}
