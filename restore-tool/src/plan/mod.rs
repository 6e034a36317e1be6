//! The plan of a restore: which base backup, which log, and where exactly it ends. Pure: over what was listed and what
//! was read ([`Known`]); when more must be read, it says what and is called again.

mod ancestry;
mod base;
mod facts;
mod line;
mod listed;
mod place;
mod resolve;
mod target;
mod text;
mod window;

#[cfg(test)]
mod tests;

use serde::Serialize;
use tidemark_repository::Branch;
use tidemark_repository::base::BackupKind;
use tidemark_types::{Generation, LogFiles, Position, ServerName};

use crate::engine::Engine;

pub use ancestry::Ancestry;
pub use base::{Base, Point, RecoveryTarget};
pub use facts::{Ending, EndingKind, Known, RecordSpan, RestorePoint, SliceFacts, SliceId, TransactionId};
pub use line::{FilePart, Line, LineSlice, slices_of};
use line::{bytes_of, file_parts};
pub use listed::{BranchLog, DeadEnd, Listed, SetAside, StoredLens};
pub use resolve::{Pending, Search, Stop, Unreachable};
pub use target::{BinlogPoint, Pick, Request, Target, position_option};
pub use text::render;
pub use window::{Window, windows};

/// How a restore will go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The server.
    pub server: ServerName,
    /// Which identity under that name.
    pub generation: Generation,
    /// What it is.
    pub engine: Engine,
    /// What the server calls itself.
    pub system_id: String,
    /// What was asked for.
    pub target: Target,
    /// Whether the target itself stays out.
    pub exclusive: bool,
    /// The branch that recovery follows.
    pub branch: Branch,
    /// The branches on the way from the base backup to the end, with the log taken from each.
    pub ancestry: Vec<Leg>,
    /// The base backup.
    pub base: Base,
    /// What the server is told.
    pub recovery: RecoveryTarget,
    /// The last commit that is in; absent when the log since the backup's begin holds none.
    pub last_commit: Option<Ending>,
    /// The last commit, abort or prepare that is in.
    pub last_in: Option<Ending>,
    /// The log that is replayed.
    pub log: LogRange,
    /// The files that hold it, in order, where they are files of their own: binlogs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<LogFile>,
    /// Stored bytes to fetch: base backup and log.
    pub fetch_bytes: u64,
    /// Log past the places where the branches on the way were left: not part of this restore.
    pub dead_ends: Vec<DeadEnd>,
    /// Log that nothing leads to: not part of any restore.
    pub set_aside: Vec<SetAside>,
    /// Holes in the log of the chosen branch, none of which this restore meets.
    pub gaps: Vec<Hole>,
}

/// The log that a restore takes from one branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Leg {
    /// The branch.
    pub branch: Branch,
    /// From here.
    pub begin: Position,
    /// To here.
    pub end: Position,
}

/// What a restore takes from one binlog file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogFile {
    /// The branch it is on.
    pub branch: Branch,
    /// Its name.
    pub name: String,
    /// The first byte, and the first that is no longer wanted.
    #[serde(flatten)]
    pub part: FilePart,
}

/// The log that a restore replays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LogRange {
    /// Its first byte: where the base backup began.
    pub begin: Position,
    /// The byte after its last: nothing past it is ever given to the server.
    pub end: Position,
    /// Its length.
    pub bytes: u64,
    /// Objects that hold it.
    pub objects: u64,
    /// Their stored length.
    pub stored_bytes: u64,
}

/// A hole in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Hole {
    /// The branch that the log goes on with behind it.
    pub branch: Branch,
    /// Where what is stored ends.
    pub begin: Position,
    /// Where it goes on.
    pub end: Position,
}

/// Holes between lines.
pub fn holes(lines: &[Line<'_>]) -> Vec<Hole> {
    let pairs = lines.iter().zip(lines.iter().skip(1));
    pairs
        .filter_map(|(before, after)| {
            Some(Hole {
                branch: after.stretches().first()?.branch,
                begin: before.end(),
                end: after.begin(),
            })
        })
        .collect()
}

/// Plans a restore of `request` on the branch of `ancestry`, whose lines are `lines`.
///
/// # Errors
/// See [`Pending`]; after [`Pending::Read`], call again when `known` holds those slices.
pub fn plan(
    listed: &Listed,
    ancestry: &Ancestry,
    lines: &[Line<'_>],
    known: &Known,
    request: &Request,
) -> Result<Plan, Pending> {
    let search = Search {
        lines,
        known,
        covered: listed.covered(lines),
        logs_commit_times: listed.engine.logs_commit_times(),
    };
    let (stop, base, recovery) = if request.target == Target::Immediate {
        immediate(listed, &search)?
    } else {
        let stop = search
            .resolve(request)
            .map_err(|pending| offer_first_base(pending, listed, lines, request))?;
        let chosen = base::choose(&listed.bases, lines, &stop);
        let (base, recovery) = match chosen {
            Ok(chosen) => chosen,
            Err(no_base) => return Err(unreachable(&search, &no_base)),
        };
        (stop, base, recovery)
    };
    let Some(line) = lines.get(stop.line) else {
        return Err(Pending::Unreachable(Unreachable {
            reason: "no log is stored".to_owned(),
            nearest: Vec::new(),
        }));
    };
    let end = match recovery {
        RecoveryTarget::After(record) => record.end,
        RecoveryTarget::Consistency => consistency_end(line, &stop, base.end.position),
    };
    let begin = base.begin.position;
    let log = log_range(listed, line, begin, end);
    Ok(Plan {
        server: listed.server.clone(),
        generation: listed.generation,
        engine: listed.engine,
        system_id: listed.system_id.clone(),
        target: request.target.clone(),
        exclusive: request.exclusive,
        branch: ancestry.branch,
        ancestry: legs(line, begin, end),
        base: base.clone(),
        recovery,
        last_commit: search.last_commit_before(stop.line, end)?,
        last_in: stop.last_in,
        log,
        files: log_files(line, begin, end),
        fetch_bytes: base.stored_bytes.saturating_add(log.stored_bytes),
        dead_ends: listed.dead_ends(ancestry),
        set_aside: listed.set_aside.clone(),
        gaps: holes(lines),
    })
}

/// How far the log must reach for a server that stops at consistency. PostgreSQL does so on reading the record behind the
/// one that makes it consistent, which it does not replay (recoveryStopsBefore in xlogrecovery.c): without one it fails.
fn consistency_end(line: &Line<'_>, stop: &Stop, base_end: Position) -> Position {
    let LogFiles::Wal(size) = base_end.files else {
        return base_end;
    };
    let segment_end = base_end.files.lsn(size.end_of(size.segment_of(base_end.lsn())));
    // Up to the bound no transaction ends, so that there is nothing in it that must not be replayed.
    let end = if stop.bound > base_end {
        stop.bound
    } else {
        line.whole()
    };
    end.min(segment_end).max(base_end)
}

/// The end of the newest base backup.
fn immediate<'l>(
    listed: &'l Listed,
    search: &Search<'_>,
) -> Result<(Stop, &'l Base, RecoveryTarget), Pending> {
    let on_lines = listed.bases.iter().rev().find_map(|base| {
        let line = search.lines.iter().position(|line| base.is_on(line))?;
        Some((base, line))
    });
    let Some((base, line)) = on_lines else {
        return Err(Pending::Unreachable(Unreachable {
            reason: "no base backup of this branch has all the log that it needs".to_owned(),
            nearest: Vec::new(),
        }));
    };
    let latest = search.latest()?;
    if let Some(record) = latest.record.filter(|record| record.end == base.end.position) {
        // Nothing follows that would tell the server to stop.
        return Ok((latest, base, RecoveryTarget::After(record)));
    }
    let last_in = search.last_before(line, base.end.position)?;
    let stop = Stop {
        record: None,
        ..Stop::after(line, last_in, base.end.position)
    };
    Ok((stop, base, RecoveryTarget::Consistency))
}

/// A position before all log has the end of the first base backup after it, and nothing before.
fn offer_first_base(pending: Pending, listed: &Listed, lines: &[Line<'_>], request: &Request) -> Pending {
    let first = listed
        .bases
        .iter()
        .find(|base| lines.iter().any(|line| base.is_on(line)));
    match (pending, first) {
        (Pending::Unreachable(mut unreachable), Some(base)) if unreachable.nearest.is_empty() => {
            let end = base.end.position;
            if request.target.position_on(end.files).is_some_and(|at| at < end) {
                unreachable.nearest.push(position_option(end));
            }
            Pending::Unreachable(unreachable)
        }
        (pending, _) => pending,
    }
}

/// Names the nearest place in terms of time, too.
fn unreachable(search: &Search<'_>, no_base: &base::NoBase<'_>) -> Pending {
    let mut nearest = Vec::new();
    if let Some(base) = no_base.nearest {
        let line = search.lines.iter().position(|line| base.is_on(line));
        match line.map(|line| search.earliest_time(line, base)) {
            Some(Err(pending)) => return pending,
            Some(Ok(Some(time))) => nearest.push(format!("--target-time {time}")),
            Some(Ok(None)) | None => {}
        }
        nearest.push(position_option(base.end.position));
    }
    Pending::Unreachable(Unreachable {
        reason: no_base.reason.clone(),
        nearest,
    })
}

fn legs(line: &Line<'_>, begin: Position, end: Position) -> Vec<Leg> {
    line.part(begin, end)
        .map(|stretch| Leg {
            branch: stretch.branch,
            begin: stretch.begin,
            end: stretch.end,
        })
        .collect()
}

/// The slices of a range, and what they weigh.
pub fn log_range(listed: &Listed, line: &Line<'_>, begin: Position, end: Position) -> LogRange {
    let mut range = LogRange {
        begin,
        end,
        bytes: 0,
        objects: 0,
        stored_bytes: 0,
    };
    for stretch in line.part(begin, end) {
        let slices = slices_of(&stretch);
        range.objects += slices.len() as u64;
        range.bytes += bytes_of(&stretch);
        if let Some(log) = listed.branches.get(&stretch.branch) {
            range.stored_bytes += slices.iter().map(|slice| log.stored.of(slice)).sum::<u64>();
        }
    }
    range
}

/// The binlog files of a range. (WAL is replayed from one stream of segments, whose names follow from its positions.)
pub fn log_files(line: &Line<'_>, begin: Position, end: Position) -> Vec<LogFile> {
    let mut files = Vec::new();
    for stretch in line.part(begin, end) {
        if let LogFiles::Binlog { basename, .. } = stretch.begin.files {
            files.extend(file_parts(&stretch).into_iter().map(|part| LogFile {
                branch: stretch.branch,
                name: basename.file_name(part.file),
                part,
            }));
        }
    }
    files
}

impl Plan {
    /// Whether the backup is one that refers to others.
    pub fn is_incremental(&self) -> bool {
        self.base.kind == BackupKind::Incremental
    }
}
