//! The parser against real logs, built ones and damaged ones.

mod corpus;
mod damage;
mod dump;
mod golden;
mod live;
mod synthetic;
pub(crate) mod writer;

use super::*;

/// An event with its fact, detached from the decoder.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    begin: BinlogOffset,
    end: BinlogOffset,
    header: EventHeader,
    is_whole: bool,
    fact: String,
    /// Of a payload: the types of what it holds.
    inner: Vec<EventType>,
}

/// What a file, or a part of one, came to.
#[derive(Debug, Clone, PartialEq)]
struct Decoded {
    events: Vec<Seen>,
    transactions: Vec<Transaction>,
    open: Option<OpenTransaction>,
    end: FileEnd,
    whole: BinlogOffset,
    error: Option<BinlogError>,
}

/// Decodes `bytes` in inputs of the given lengths, over and over.
fn decode_in_parts(bytes: &[u8], lengths: &[usize]) -> Decoded {
    run(BinlogDecoder::new(), Transactions::new(), bytes, lengths)
}

fn decode(bytes: &[u8]) -> Decoded {
    decode_in_parts(bytes, &[usize::MAX])
}

fn run(
    mut decoder: BinlogDecoder,
    mut transactions: Transactions,
    bytes: &[u8],
    lengths: &[usize],
) -> Decoded {
    let (mut events, mut found) = (Vec::new(), Vec::new());
    let mut payloads = PayloadReader::new();
    let (mut rest, mut lengths) = (bytes, lengths.iter().cycle());
    let mut error = None;
    'inputs: while !rest.is_empty() {
        let length = (*lengths.next().unwrap()).clamp(1, rest.len());
        let (mut input, behind) = rest.split_at(length);
        rest = behind;
        loop {
            let event = match decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(event)) => event,
                Err(found) => {
                    error = Some(found);
                    break 'inputs;
                }
            };
            let fact = Fact::of(&event);
            let mut inner = Vec::new();
            if let Ok(Some(Fact::Payload(payload))) = &fact {
                let each = |event: &Event<'_>| {
                    inner.push(event.header.kind);
                    std::ops::ControlFlow::Continue(())
                };
                error = payloads.read(&event, payload, each).err();
            }
            events.push(Seen {
                begin: event.begin,
                end: event.end,
                header: event.header,
                is_whole: event.is_whole(),
                fact: fact_text(fact.as_ref()),
                inner,
            });
            let added = fact.and_then(|fact| transactions.add(&event, fact.as_ref()));
            match added {
                Ok(transaction) => found.extend(transaction),
                Err(found) => error = error.or(Some(found)),
            }
            if error.is_some() {
                break 'inputs;
            }
        }
        assert!(input.is_empty(), "{} bytes left", input.len());
    }
    Decoded {
        events,
        transactions: found,
        open: transactions.open().cloned(),
        end: decoder.end(),
        whole: decoder.whole(),
        error,
    }
}

/// A payload's bytes and a statement's text come in different lengths when the event is not held whole.
fn fact_text(fact: Result<&Option<Fact<'_>>, &BinlogError>) -> String {
    format!("{fact:?}").chars().take(300).collect()
}
