//! MySQL's sets of GTIDs.
//!
//! Text: the manual's "GTID Format and Storage". Binary, in PREVIOUS_GTIDS events and COM_BINLOG_DUMP_GTID: `Gtid_set::encode`
//! and `add_gtid_encoding` in MySQL's `sql/rpl_gtid_set.cc`, `Tsid::encode_tsid` in `libs/mysql/gtid/tsid.cpp`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::ParseGtidError;
use super::interval::{Interval, Intervals};
use super::source::{ServerUuid, SourceId, Tag};
use crate::bytes::ReadMysql;
use tidemark_types::ByteReader;

/// One transaction: who numbered it, and its number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gtid {
    /// Who numbered it.
    pub source: SourceId,
    /// Its number, from 1 to [`Interval::NUMBER_MAX`].
    pub number: u64,
}

/// `uuid:number` or `uuid:tag:number`.
impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.number)
    }
}

impl FromStr for Gtid {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Gtid, ParseGtidError> {
        let set: GtidSet = text.parse()?;
        let mut intervals = set.intervals();
        match (intervals.next(), intervals.next()) {
            (Some((source, interval)), None) if interval.count() == 1 => Ok(Gtid {
                source: source.clone(),
                number: interval.begin(),
            }),
            _ => Err(ParseGtidError::new(
                text,
                "expected one transaction: UUID:NUMBER or UUID:TAG:NUMBER",
            )),
        }
    }
}

/// A set of MySQL's GTIDs. Equal sets compare equal, however they were written.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct GtidSet {
    /// No list is empty.
    sources: BTreeMap<SourceId, Intervals>,
}

impl GtidSet {
    /// The set of nothing.
    pub fn new() -> GtidSet {
        GtidSet::default()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// How many transactions are in it. Saturates.
    pub fn count(&self) -> u64 {
        self.intervals()
            .fold(0, |count, (_, interval)| count.saturating_add(interval.count()))
    }

    /// Its intervals, in the order in which they are printed.
    pub fn intervals(&self) -> impl Iterator<Item = (&SourceId, Interval)> {
        self.sources
            .iter()
            .flat_map(|(source, intervals)| intervals.iter().map(move |interval| (source, interval)))
    }

    /// Adds one transaction. `false`, and nothing is added, when its number is out of range.
    pub fn add(&mut self, gtid: &Gtid) -> bool {
        let interval = Interval::of(gtid.number);
        if let Some(interval) = interval {
            self.add_interval(&gtid.source, interval);
        }
        interval.is_some()
    }

    /// Adds an interval of one source's transactions.
    pub fn add_interval(&mut self, source: &SourceId, interval: Interval) {
        if let Some(intervals) = self.sources.get_mut(source) {
            intervals.add(interval);
        } else {
            let mut intervals = Intervals::default();
            intervals.add(interval);
            self.sources.insert(source.clone(), intervals);
        }
    }

    /// Adds all of `other`.
    pub fn add_all(&mut self, other: &GtidSet) {
        for (source, interval) in other.intervals() {
            self.add_interval(source, interval);
        }
    }

    /// What is in either set.
    #[must_use]
    pub fn union(&self, other: &GtidSet) -> GtidSet {
        let mut union = self.clone();
        union.add_all(other);
        union
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &GtidSet) -> GtidSet {
        let nothing = Intervals::default();
        let left = self.sources.iter().filter_map(|(source, intervals)| {
            let left = intervals.minus(other.sources.get(source).unwrap_or(&nothing));
            (!left.is_empty()).then(|| (source.clone(), left))
        });
        GtidSet {
            sources: left.collect(),
        }
    }

    /// What is in both sets.
    #[must_use]
    pub fn intersection(&self, other: &GtidSet) -> GtidSet {
        self.minus(&self.minus(other))
    }

    /// Whether the transaction is in this set.
    pub fn contains(&self, gtid: &Gtid) -> bool {
        let intervals = self.sources.get(&gtid.source);
        Interval::of(gtid.number)
            .is_some_and(|wanted| intervals.is_some_and(|intervals| intervals.contains(wanted)))
    }

    /// Whether all of `other` is in this set.
    pub fn contains_all(&self, other: &GtidSet) -> bool {
        let mut intervals = other.intervals();
        intervals.all(|(source, wanted)| {
            self.sources
                .get(source)
                .is_some_and(|intervals| intervals.contains(wanted))
        })
    }

    /// Reads the binary form. The whole of `bytes` must be one set.
    ///
    /// # Errors
    /// The bytes are no set, as the server sees it.
    pub fn decode(bytes: &[u8]) -> Result<GtidSet, DecodeGtidSetError> {
        let mut reader = ByteReader::new(bytes);
        let set = GtidSet::read(&mut reader).filter(|_| reader.is_empty());
        set.ok_or(DecodeGtidSetError {
            at: bytes.len() - reader.rest().len(),
            length: bytes.len(),
        })
    }

    /// The number of sources, with the format in its highest byte. In the tagged format it lies one byte higher, and the
    /// lowest byte repeats the format, so that older servers see a number that cannot be (`encode_nsids_format`).
    fn read(reader: &mut ByteReader<'_>) -> Option<GtidSet> {
        let head = reader.u64()?;
        let is_tagged = match head >> 56 {
            0 => false,
            1 => true,
            _ => return None,
        };
        let count = if is_tagged { head << 8 >> 16 } else { head };
        let mut set = GtidSet::new();
        for _ in 0..count {
            let uuid = ServerUuid(reader.array()?);
            let tag = if is_tagged { read_tag(reader)? } else { Tag::none() };
            let source = SourceId { uuid, tag };
            let mut last = 0;
            for _ in 0..reader.u64()? {
                let interval =
                    Interval::new(reader.u64()?, reader.u64()?).filter(|next| next.begin() > last)?;
                last = interval.end();
                set.add_interval(&source, interval);
            }
        }
        Some(set)
    }

    /// The binary form, as the server writes it: tagged only if there is a tag.
    pub fn encode(&self) -> Vec<u8> {
        let is_tagged = self.sources.keys().any(|source| !source.tag.is_none());
        let count = self.sources.len() as u64;
        let head = if is_tagged {
            1 << 56 | count << 8 | 1
        } else {
            count
        };
        let mut bytes = head.to_le_bytes().to_vec();
        for (source, intervals) in &self.sources {
            bytes.extend(source.uuid.0);
            if is_tagged {
                // A length below 64 takes one byte, with its lowest bit clear (`ReadMysql::varlen`).
                let length = u8::try_from(source.tag.as_str().len()).unwrap_or(u8::MAX);
                bytes.push(length << 1);
                bytes.extend(source.tag.as_str().bytes());
            }
            bytes.extend((intervals.len() as u64).to_le_bytes());
            for interval in intervals.iter() {
                bytes.extend(interval.begin().to_le_bytes());
                bytes.extend(interval.end().to_le_bytes());
            }
        }
        bytes
    }
}

/// A tag behind its length (`Tag::encode_tag`, by the serialization library's integers).
fn read_tag(reader: &mut ByteReader<'_>) -> Option<Tag> {
    let length = reader.varlen()?;
    Tag::from_bytes(reader.take(usize::try_from(length).ok()?)?)
}

/// As servers print it, on one line: `uuid:1-5:7,uuid:1:tag:1-2`. A uuid is not repeated for its tags.
impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before: Option<&SourceId> = None;
        for (source, intervals) in &self.sources {
            match before {
                Some(before) if before.uuid == source.uuid => write!(f, ":{}", source.tag)?,
                Some(_) => write!(f, ",{source}")?,
                None => write!(f, "{source}")?,
            }
            for interval in intervals.iter() {
                write!(f, ":{interval}")?;
            }
            before = Some(source);
        }
        Ok(())
    }
}

impl fmt::Debug for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// White space may stand anywhere between the parts, and commas may be superfluous, as for the server.
impl FromStr for GtidSet {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<GtidSet, ParseGtidError> {
        let mut set = GtidSet::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let mut parts = item.split(':').map(str::trim);
            let uuid = parts.next().unwrap_or_default().parse()?;
            let mut source = SourceId {
                uuid,
                tag: Tag::none(),
            };
            let mut lacks_interval = true;
            for part in parts {
                if part.starts_with(|c: char| c.is_ascii_digit()) {
                    set.add_interval(&source, part.parse()?);
                    lacks_interval = false;
                } else if lacks_interval && !source.tag.is_none() {
                    return Err(ParseGtidError::new(item, "a tag needs an interval"));
                } else {
                    source.tag = part.parse()?;
                    lacks_interval = true;
                }
            }
            if lacks_interval {
                return Err(ParseGtidError::new(
                    item,
                    "expected UUID:INTERVAL or UUID:TAG:INTERVAL",
                ));
            }
        }
        Ok(set)
    }
}

/// Bytes that are no set of GTIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("set of GTIDs is damaged at byte {at} of {length}")]
pub struct DecodeGtidSetError {
    at: usize,
    length: usize,
}
