//! `export`: plain log files, byte for byte the server's.

mod binlog;
mod wal;

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use tidemark_repository::Branch;
use tidemark_types::{
    Clock, ErrorClass, LogFiles, LogPosition, Lsn, Position, SystemClock, Timestamp, parse_time,
};

use crate::catalog::{Extent, list};
use crate::cli::ExportArgs;
use crate::command::list::print_json;
use crate::engine::Engine;
use crate::exit::Failure;
use crate::plan::{Ancestry, BinlogPoint, Line, LineSlice, Listed, Target};
use crate::planning::stored_branch;

/// What was written.
#[derive(Debug, Serialize)]
struct Summary {
    branch: Branch,
    begin: Position,
    end: Position,
    files: Vec<String>,
}

/// Log of one line, from the begin of a file to the end of one, or as far as it is stored.
struct Range<'l, 'a> {
    line: &'l Line<'a>,
    begin: Position,
    end: Position,
}

/// Runs the command.
///
/// # Errors
/// When the range is not stored; damage; a file that cannot be written or is there already.
pub async fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let repository = args.source.open().await?;
    let archive = args.server.open(&repository).await?;
    let listed = list(&repository, &archive, Extent::All).await?;
    let ancestry = ancestry(args, &listed)?;
    let lines = listed.lines(&ancestry);
    let range = range(args, &listed, &lines)?;

    let make = || format!("make {}", args.output.display());
    std::fs::create_dir_all(&args.output).with_context(make)?;
    let files = match listed.engine {
        Engine::Postgresql => wal::write(args, &archive, &ancestry, &range).await?,
        Engine::Mysql | Engine::Mariadb => binlog::write(args, &archive, &range).await?,
    };
    let summary = Summary {
        branch: ancestry.branch,
        begin: range.begin,
        end: range.end,
        files,
    };
    if args.json {
        return print_json(&summary);
    }
    println!(
        "wrote {} files of {} {}, {} to {}, into {}",
        summary.files.len(),
        listed.engine.branch_word(),
        summary.branch,
        summary.begin,
        summary.end,
        args.output.display()
    );
    Ok(())
}

/// What leads to the branch that is asked for, or to the newest.
fn ancestry(args: &ExportArgs, listed: &Listed) -> anyhow::Result<Ancestry> {
    let Some(branch) = args.branch.or(args.timeline).map(Branch) else {
        let last = || listed.branches.values().next_back().map(|log| &log.ancestry);
        let newest = listed.newest_branch().or_else(last).cloned();
        return newest.ok_or_else(|| {
            let message = format!("no log of server {} is stored", listed.server);
            Failure::new(ErrorClass::Unreachable, message).into()
        });
    };
    let mut ancestry = stored_branch(listed, branch)?.clone();
    if listed.engine != Engine::Postgresql {
        // Files of several branches may have one name: this tells them apart.
        ancestry.ancestors.clear();
    }
    Ok(ancestry)
}

/// The unbroken log that holds what was asked for, as whole files where they are stored.
fn range<'l, 'a>(args: &ExportArgs, listed: &Listed, lines: &'l [Line<'a>]) -> anyhow::Result<Range<'l, 'a>> {
    let edge = |option: &str, text: &Option<String>| {
        let edge = text.as_deref().map(|text| Edge::parse(option, text));
        edge.transpose()
    };
    let (from, to) = (edge("--from", &args.from)?, edge("--to", &args.to)?);
    let line = match &from {
        Some(from) => lines.iter().find(|line| from.begins_on(line)),
        None => lines.last(),
    };
    let line = line.ok_or_else(|| {
        let message = format!("what --from names is not stored for server {}", listed.server);
        Failure::new(ErrorClass::Unreachable, message).hint("`tidemark-restore list` shows what is")
    })?;
    let begin = from.map_or(Some(line.begin()), |from| from.first_on(line));
    let end = to.map_or(Some(line.end()), |to| to.last_on(line).map(file_end));
    let (Some(begin), Some(end)) = (begin, end) else {
        let message = format!(
            "--from or --to names no place in the log from {} to {}",
            line.begin(),
            line.end()
        );
        return Err(Failure::usage(message).into());
    };
    let begin = begin.file_start().max(line.begin());
    let end = end.min(line.end());
    if begin >= end {
        return Err(Failure::usage(format!("--to ends before --from: {end} is not after {begin}")).into());
    }
    Ok(Range { line, begin, end })
}

/// Where the file that holds a position ends.
fn file_end(position: Position) -> Position {
    let next = LogPosition::start_of(position.at.file.saturating_add(1));
    position.files.position(next)
}

/// One end of a range.
#[derive(Debug, Clone)]
enum Edge {
    At(Target),
    Time(Timestamp),
}

impl Edge {
    fn parse(option: &str, text: &str) -> Result<Edge, Failure> {
        if let Ok(lsn) = text.parse::<Lsn>() {
            return Ok(Edge::At(Target::Lsn(lsn)));
        }
        if let Some(point) = BinlogPoint::parse(text) {
            return Ok(Edge::At(Target::Binlog(point)));
        }
        let time = parse_time(text, SystemClock.now());
        time.map(Edge::Time).map_err(|error| {
            Failure::usage(format!(
                "{option}: neither a position in the log nor a time: {error}"
            ))
        })
    }

    fn begins_on(&self, line: &Line<'_>) -> bool {
        self.first_on(line).is_some_and(|first| first < line.end())
    }

    /// The position itself; or where the first slice begins in which a transaction ended at the time or later.
    fn first_on(&self, line: &Line<'_>) -> Option<Position> {
        match self {
            Edge::At(target) => place_on(target, line),
            Edge::Time(time) => {
                let mut slices = line.slices();
                slices
                    .find(|slice| slice.may_be_later(*time, true))
                    .map(|slice| slice.begin)
            }
        }
    }

    /// The position itself; or a place in the last slice in which a transaction ended at the time or earlier.
    fn last_on(&self, line: &Line<'_>) -> Option<Position> {
        match self {
            Edge::At(target) => place_on(target, line).or_else(|| past(target, line)),
            Edge::Time(time) => {
                let is_in = |slice: &LineSlice<'_>| slice.key.times.is_some_and(|range| range.min <= *time);
                let last = line.slices().rfind(is_in);
                Some(last.map_or(line.begin(), |slice| slice.begin))
            }
        }
    }
}

/// A position that lies on a line.
fn place_on(target: &Target, line: &Line<'_>) -> Option<Position> {
    line.stretches().iter().find_map(|stretch| {
        let position = target.position_on(stretch.begin.files)?;
        stretch.holds(position).then_some(position)
    })
}

/// The end of a line, for a position behind it.
fn past(target: &Target, line: &Line<'_>) -> Option<Position> {
    let position = target.position_on(line.end().files)?;
    (line.end() < position).then_some(match position.files {
        LogFiles::Wal(_) => position,
        LogFiles::Binlog { .. } => line.end(),
    })
}

/// Makes a file that must not be there.
fn make_new(path: &Path) -> anyhow::Result<File> {
    match File::options().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let message = format!("{} is there already", path.display());
            Err(Failure::new(ErrorClass::Conflict, message)
                .hint("choose an empty directory")
                .into())
        }
        other => other.with_context(|| format!("make {}", path.display())),
    }
}
