//! `export`: plain WAL segment files, byte for byte the server's.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::Context;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use tidemark_types::{Clock, ErrorClass, Lsn, SegmentName, SystemClock, TimelineId, Timestamp, parse_time};

use crate::catalog::{Extent, list, read_history_text};
use crate::cli::ExportArgs;
use crate::command::list::print_json;
use crate::exit::Failure;
use crate::plan::{Line, Listed};
use crate::wal::fetch::SegmentSource;
use crate::wal::segments::PlannedLog;
use crate::wal::state::StateDir;

/// Segments assembled at once: each takes a few times its size in memory.
const SEGMENTS_AT_ONCE: usize = 3;

/// What was written.
#[derive(Debug, Serialize)]
struct Summary {
    timeline: TimelineId,
    begin: Lsn,
    end: Lsn,
    files: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When the range is not stored; damage; a file that cannot be written or is there already.
pub async fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let repository = args.source.open().await?;
    let archive = args.server.open(&repository).await?;
    let listed = list(&repository, &archive, Extent::All).await?;
    let newest = args.timeline.map(TimelineId).or_else(|| listed.newest_timeline());
    let timeline = newest
        .or_else(|| listed.runs.keys().next_back().copied())
        .ok_or_else(|| {
            Failure::new(
                ErrorClass::Unreachable,
                format!("no log of server {} is stored", listed.server),
            )
        })?;
    let history = listed.history(timeline);
    let lines = listed.lines(&history);
    let (line, log) = range(args, &listed, &lines, history.clone())?;

    std::fs::create_dir_all(&args.output).with_context(|| format!("make {}", args.output.display()))?;
    // The state that wal-get works from serves here as well, for the time of the export.
    let scratch = args.output.join(".tidemark-export");
    let dir = StateDir::new(&scratch);
    dir.write(&archive, &args.source, &log, line).await?;
    let source = SegmentSource::new(archive.clone(), dir.clone(), dir.read()?, None);
    let written = write_all(&source, &log, &args.output).await;
    std::fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()))?;
    let mut files = written?;
    for timeline in log
        .history
        .ancestors
        .iter()
        .map(|entry| entry.timeline)
        .chain([timeline])
    {
        if let Some(text) = read_history_text(&archive, timeline).await? {
            let name = timeline.history_file_name();
            write_new(&args.output.join(&name), text.as_bytes())?;
            files.push(name);
        }
    }
    let summary = Summary {
        timeline,
        begin: log.begin,
        end: log.end,
        files,
    };
    if args.json {
        return print_json(&summary);
    }
    println!(
        "wrote {} files of timeline {timeline}, {} to {}, into {}",
        summary.files.len(),
        summary.begin,
        summary.end,
        args.output.display()
    );
    Ok(())
}

/// The unbroken log that holds what was asked for, cut to whole segments where it begins.
fn range<'l, 'a>(
    args: &ExportArgs,
    listed: &Listed,
    lines: &'l [Line<'a>],
    history: tidemark_types::TimelineHistory,
) -> anyhow::Result<(&'l Line<'a>, PlannedLog)> {
    let from = args
        .from
        .as_deref()
        .map(|text| Edge::parse("--from", text))
        .transpose()?;
    let to = args
        .to
        .as_deref()
        .map(|text| Edge::parse("--to", text))
        .transpose()?;
    let holds = |line: &&Line<'_>| match from {
        Some(Edge::Lsn(lsn)) => line.begin() <= lsn && lsn < line.end(),
        Some(Edge::Time(time)) => line.slices().any(|slice| slice.may_be_later(time, true)),
        None => true,
    };
    let line = match from {
        Some(_) => lines.iter().find(holds),
        None => lines.last(),
    };
    let line = line.ok_or_else(|| {
        Failure::new(
            ErrorClass::Unreachable,
            format!("what --from names is not stored for server {}", listed.server),
        )
        .hint("`tidemark-restore list` shows what is")
    })?;
    let size = listed.segment_size;
    let begin = match from {
        Some(Edge::Lsn(lsn)) => lsn,
        Some(Edge::Time(time)) => first_at(line, time),
        None => line.begin(),
    };
    let end = match to {
        Some(Edge::Lsn(lsn)) => size.end_of(size.segment_of(lsn)).min(line.end()),
        Some(Edge::Time(time)) => size.end_of(size.segment_of(last_at(line, time))).min(line.end()),
        None => line.end(),
    };
    let begin = size.start_of(size.segment_of(begin)).max(line.begin());
    if begin >= end {
        return Err(Failure::usage(format!("--to ends before --from: {end} is not after {begin}")).into());
    }
    let log = PlannedLog {
        history,
        segment_size: size,
        begin,
        end,
    };
    Ok((line, log))
}

/// Where the first slice begins in which a transaction ended at `time` or later.
fn first_at(line: &Line<'_>, time: Timestamp) -> Lsn {
    let mut slices = line.slices();
    slices
        .find(|slice| slice.may_be_later(time, true))
        .map_or(line.begin(), |slice| slice.begin)
}

/// Within the last slice in which a transaction ended at `time` or earlier.
fn last_at(line: &Line<'_>, time: Timestamp) -> Lsn {
    let is_in = |slice: &crate::plan::LineSlice<'_>| slice.key.times.is_some_and(|range| range.min <= time);
    line.slices()
        .rfind(is_in)
        .map_or(line.begin(), |slice| slice.begin)
}

/// One end of a range.
#[derive(Debug, Clone, Copy)]
enum Edge {
    Lsn(Lsn),
    Time(Timestamp),
}

impl Edge {
    fn parse(option: &str, text: &str) -> Result<Edge, Failure> {
        if let Ok(lsn) = text.parse() {
            return Ok(Edge::Lsn(lsn));
        }
        let time = parse_time(text, SystemClock.now());
        time.map(Edge::Time)
            .map_err(|error| Failure::usage(format!("{option}: neither an LSN nor a time: {error}")))
    }
}

async fn write_all(source: &SegmentSource, log: &PlannedLog, output: &Path) -> anyhow::Result<Vec<String>> {
    let writes = log
        .sequence()
        .map(|name| write_segment(source, log, output, name));
    stream::iter(writes)
        .buffered(SEGMENTS_AT_ONCE)
        .try_collect()
        .await
}

/// Writes one segment; as `.partial`, padded with zeros as pg_receivewal does it, when it is not stored to its end.
async fn write_segment(
    source: &SegmentSource,
    log: &PlannedLog,
    output: &Path,
    name: SegmentName,
) -> anyhow::Result<String> {
    let size = log.segment_size;
    let mut file_name = name.file_name(size);
    let bytes = source.segment(name).await?;
    let bytes = bytes.with_context(|| format!("{file_name} is planned and yet absent"))?;
    if size.end_of(name.segment) > log.end {
        file_name.push_str(".partial");
    }
    let path = output.join(&file_name);
    tokio::task::spawn_blocking(move || write_new(&path, &bytes)).await??;
    Ok(file_name)
}

/// Writes a file that must not be there, and syncs it.
fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let opened = File::options().write(true).create_new(true).open(path);
    let mut file = match opened {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let message = format!("{} is there already", path.display());
            return Err(Failure::new(ErrorClass::Conflict, message)
                .hint("choose an empty directory")
                .into());
        }
        other => other.with_context(|| format!("make {}", path.display()))?,
    };
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("write {}", path.display()))
}
