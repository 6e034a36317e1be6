//! Which base backup a restore begins with. Pure.

use serde::Serialize;
use tidemark_repository::Branch;
use tidemark_repository::base::{BackupHeader, BackupKind, LogPosition as StoredPosition};
use tidemark_types::{LogFiles, LogPosition, Position, Timestamp};

use super::facts::RecordSpan;
use super::line::Line;
use super::resolve::Stop;

/// A point of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Point {
    /// The branch.
    pub branch: Branch,
    /// The position.
    pub position: Position,
}

/// What planning needs to know of a base backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Base {
    /// Its name.
    pub id: String,
    /// Full or incremental.
    pub kind: BackupKind,
    /// The backup that an incremental one was laid over.
    pub parent: Option<String>,
    /// Log is needed from here.
    pub begin: Point,
    /// Consistent from here on.
    pub end: Point,
    /// When it began.
    pub started: Timestamp,
    /// When its last byte had been read.
    pub stopped: Timestamp,
    /// Bytes when restored.
    pub bytes: u64,
    /// Stored bytes that a restore reads: its own, and those of earlier backups.
    pub stored_bytes: u64,
}

impl Base {
    /// From the header of a manifest. `files_of` tells of the log files of the branch that a position lies on.
    pub fn new(header: &BackupHeader, files_of: impl Fn(&StoredPosition) -> LogFiles) -> Base {
        let point = |position: &StoredPosition| Point {
            branch: Branch(position.branch),
            position: files_of(position).position(LogPosition {
                file: position.file,
                offset: position.offset,
            }),
        };
        Base {
            id: header.backup.to_string(),
            kind: header.kind,
            parent: header.parent.as_ref().map(ToString::to_string),
            begin: point(&header.facts.begin),
            end: point(&header.facts.end),
            started: header.facts.started,
            stopped: header.facts.stopped,
            bytes: header.totals.bytes,
            stored_bytes: header
                .totals
                .new_stored
                .saturating_add(header.totals.referenced_stored),
        }
    }

    /// Whether the log from its begin to its end lies on `line`.
    pub fn is_on(&self, line: &Line<'_>) -> bool {
        line.holds(self.begin) && line.holds(self.end)
    }
}

/// What the server is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryTarget {
    /// Stop after this record of WAL, or this transaction of a binlog.
    After(RecordSpan),
    /// Stop as soon as the data is consistent: no transaction ended between the last that belongs in and there.
    Consistency,
}

/// The newest base backup from which `stop` can be reached, and how the server is told to stop there.
///
/// A backup whose end lies past the last transaction that belongs in serves too, as long as no other ended before its
/// end: the server refuses a target before that, so it is told to stop at consistency.
///
/// # Errors
/// When there is none: why, and the backup whose end is the nearest place that can be reached.
pub fn choose<'b>(
    bases: &'b [Base],
    lines: &[Line<'_>],
    stop: &Stop,
) -> Result<(&'b Base, RecoveryTarget), NoBase<'b>> {
    let on_line = |base: &&Base| lines.get(stop.line).is_some_and(|line| base.is_on(line));
    let chosen = bases
        .iter()
        .filter(on_line)
        .filter_map(|base| Some((base, reach(base, stop)?)))
        .max_by_key(|(base, _)| base.end.position);
    chosen.ok_or_else(|| why_not(bases, lines, stop))
}

/// How `stop` is reached from `base`, if it can be.
fn reach(base: &Base, stop: &Stop) -> Option<RecoveryTarget> {
    match stop.record {
        // The record that ends the backup makes the data consistent, before the server looks whether to stop.
        Some(record) if base.end.position <= record.end => Some(RecoveryTarget::After(record)),
        Some(_) if base.end.position <= stop.bound => Some(RecoveryTarget::Consistency),
        // The transactions before the line begins are in the backup; they ended before it began.
        None if base.end.position <= stop.bound && stop.not_after.is_none_or(|time| base.started <= time) => {
            Some(RecoveryTarget::Consistency)
        }
        _ => None,
    }
}

/// Why no base backup serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoBase<'b> {
    /// Why.
    pub reason: String,
    /// The backup whose end is the nearest place that can be reached.
    pub nearest: Option<&'b Base>,
}

fn why_not<'b>(bases: &'b [Base], lines: &[Line<'_>], stop: &Stop) -> NoBase<'b> {
    let usable = |base: &&Base| lines.iter().any(|line| base.is_on(line));
    let Some(earliest) = bases.iter().filter(usable).min_by_key(|base| base.end.position) else {
        return NoBase {
            reason: "no base backup of this branch has all the log that it needs".to_owned(),
            nearest: None,
        };
    };
    let later = bases
        .iter()
        .filter(usable)
        .filter(|base| base.end.position > stop.bound);
    let next = later.min_by_key(|base| base.end.position);
    let reason = match next {
        Some(next) if earliest.end.position <= stop.bound => format!(
            "it lies behind a gap in the log, before the end of the base backup {} that follows the gap ({})",
            next.id, next.stopped
        ),
        _ => format!(
            "it lies before the end of the first base backup, {} ({}, {})",
            earliest.id, earliest.stopped, earliest.end.position
        ),
    };
    NoBase {
        reason,
        nearest: Some(next.unwrap_or(earliest)),
    }
}
