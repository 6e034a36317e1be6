//! What `pg_waldump` prints, as data.

use tidemark_types::Lsn;

use super::Seen;

/// One line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) manager: String,
    pub(super) length: u32,
    pub(super) xid: u32,
    pub(super) lsn: Lsn,
    pub(super) previous: Lsn,
    pub(super) description: String,
    pub(super) blocks: Vec<(u8, String, String, u32)>,
}

/// Parses a whole output.
pub(super) fn parse(text: &str) -> Vec<Line> {
    text.lines()
        .map(|line| parse_line(line).unwrap_or_else(|| panic!("not a line of pg_waldump: {line}")))
        .collect()
}

/// `rmgr: Heap len (rec/tot): 54/ 150, tx: 740, lsn: 0/…, prev 0/…, desc: … , blkref #0: rel 1/2/3 fork fsm blk 5 FPW`
fn parse_line(line: &str) -> Option<Line> {
    let (manager, rest) = line.strip_prefix("rmgr: ")?.split_once(' ')?;
    let (_, rest) = rest.split_once('/')?; // len (rec/
    let (_, rest) = rest.split_once('/')?;
    let (length, rest) = rest.split_once(", tx:")?;
    let (xid, rest) = rest.split_once(", lsn: ")?;
    let (lsn, rest) = rest.split_once(", prev ")?;
    let (previous, description) = rest.split_once(", desc: ")?;
    let blocks = description
        .split("blkref #")
        .skip(1)
        .map(parse_block)
        .collect::<Option<_>>()?;
    Some(Line {
        manager: manager.to_owned(),
        length: length.trim().parse().ok()?,
        xid: xid.trim().parse().ok()?,
        lsn: lsn.parse().ok()?,
        previous: previous.parse().ok()?,
        description: description.to_owned(),
        blocks,
    })
}

fn parse_block(text: &str) -> Option<(u8, String, String, u32)> {
    let words: Vec<&str> = text
        .split_whitespace()
        .map(|word| word.trim_end_matches([',', ':']))
        .collect();
    let after = |key: &str| {
        let at = words.iter().position(|word| *word == key)?;
        words.get(at + 1).copied()
    };
    Some((
        words.first()?.parse().ok()?,
        after("rel")?.to_owned(),
        after("fork").unwrap_or("main").to_owned(),
        after("blk")?.parse().ok()?,
    ))
}

/// Panics unless the decoder saw exactly what `pg_waldump` printed.
#[track_caller]
pub(super) fn assert_same(seen: &[Seen], lines: &[Line]) {
    for (seen, line) in seen.iter().zip(lines) {
        let blocks: Vec<_> = line
            .blocks
            .iter()
            .map(|(id, relation, fork, block)| (*id, relation.clone(), fork.as_str(), *block))
            .collect();
        assert_eq!(seen.begin, line.lsn, "{seen:?} is {line:?}");
        assert_eq!(
            (seen.previous, seen.xid, &seen.manager, seen.length, &seen.blocks),
            (line.previous, line.xid, &line.manager, line.length, &blocks),
            "{seen:?} is {line:?}"
        );
    }
    assert_eq!(seen.len(), lines.len());
}
