//! `list`: what can be restored.

use serde::Serialize;
use tidemark_repository::{Archive, Branch, GapRecord, Repository};
use tidemark_types::{ByteSize, Generation, Position, ServerName, Timestamp};

use crate::catalog::{self, Extent};
use crate::cli::ListArgs;
use crate::engine::Engine;
use crate::plan::{Base, DeadEnd, Hole, Listed, SetAside, Window, holes};
use crate::planning;

/// One generation of a server.
#[derive(Debug, Serialize)]
struct Shown {
    server: ServerName,
    generation: Generation,
    engine: Engine,
    system_id: String,
    version: String,
    /// What is stored of each branch of the log.
    branches: Vec<Stored>,
    /// Which targets can be reached.
    recovery_windows: Vec<Window>,
    gaps: Vec<Hole>,
    recorded_gaps: Vec<GapRecord>,
    /// Log that no branch goes on from.
    dead_ends: Vec<DeadEnd>,
    /// Log that nothing leads to.
    set_aside: Vec<SetAside>,
    base_backups: Vec<Base>,
    unreadable_base_backups: Vec<(String, String)>,
    writer: Option<Writer>,
}

/// An unbroken stretch of one branch's log.
#[derive(Debug, Serialize)]
struct Stored {
    branch: Branch,
    begin: Position,
    end: Position,
    first_time: Option<Timestamp>,
    last_time: Option<Timestamp>,
    objects: u64,
    stored_bytes: u64,
    /// Points that other slices contradict or merely end at; reading tells which.
    unjoined_points: usize,
}

/// Who writes the server's log.
#[derive(Debug, Serialize)]
struct Writer {
    host: String,
    number: u64,
    beat: Timestamp,
    released: bool,
    covered_time: Option<Timestamp>,
}

/// Runs the command.
///
/// # Errors
/// When the repository cannot be read.
pub async fn run(args: &ListArgs) -> anyhow::Result<()> {
    let repository = args.source.open().await?;
    let servers = match &args.server {
        Some(server) => vec![server.clone()],
        None => repository.servers().await?,
    };
    let mut shown = Vec::new();
    for server in servers {
        let generations = repository.generations(&server).await?;
        if generations.is_empty() {
            // Says which servers there are.
            repository.archive(&server, None).await?;
        }
        for generation in generations {
            let archive = repository.archive(&server, Some(generation)).await?;
            shown.push(show(&repository, &archive).await?);
        }
    }
    if args.json {
        return print_json(&shown);
    }
    if shown.is_empty() {
        println!("the repository holds no server yet");
    }
    for generation in &shown {
        print!("{}", render(generation));
    }
    Ok(())
}

/// Prints a value as JSON to standard output.
///
/// # Errors
/// When standard output is closed.
pub fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    use std::io::Write;
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(std::io::stdout().lock().write_all(&text)?)
}

async fn show(repository: &Repository, archive: &Archive) -> anyhow::Result<Shown> {
    let listed = catalog::list(repository, archive, Extent::All).await?;
    let record = archive.record();
    let last = || listed.branches.values().next_back().map(|log| &log.ancestry);
    let newest = listed.newest_branch().or_else(last);
    let lines = newest.map(|newest| listed.lines(newest)).unwrap_or_default();
    let recovery_windows = match newest {
        Some(newest) => planning::windows(archive, &listed, newest.branch, &lines).await,
        None => Vec::new(),
    };
    Ok(Shown {
        server: record.name.clone(),
        generation: record.generation,
        engine: listed.engine,
        system_id: record.system_id.clone(),
        version: record.version.clone(),
        branches: stored(&listed),
        recovery_windows,
        gaps: holes(&lines),
        dead_ends: newest.map(|newest| listed.dead_ends(newest)).unwrap_or_default(),
        set_aside: listed.set_aside.clone(),
        writer: listed.lease.as_ref().map(|lease| Writer {
            host: lease.host.clone(),
            number: lease.number,
            beat: lease.beat,
            released: lease.released,
            covered_time: lease.covered.map(|covered| covered.time),
        }),
        unreadable_base_backups: listed
            .unreadable_bases
            .iter()
            .map(|(id, error)| (id.clone(), error.to_string()))
            .collect(),
        recorded_gaps: listed.gaps.clone(),
        base_backups: listed.bases.clone(),
    })
}

fn stored(listed: &Listed) -> Vec<Stored> {
    let mut stored = Vec::new();
    for (branch, log) in &listed.branches {
        for run in &log.runs {
            let times = run.path.iter().filter_map(|slice| slice.times);
            stored.push(Stored {
                branch: *branch,
                begin: log.files.position(run.begin.position),
                end: log.files.position(run.end.position),
                first_time: times.clone().map(|range| range.min).min(),
                last_time: times.map(|range| range.max).max(),
                objects: run.path.len() as u64,
                stored_bytes: run.path.iter().map(|slice| log.stored.of(slice)).sum(),
                unjoined_points: run.claims.len(),
            });
        }
    }
    stored
}

/// Named facts, a line each.
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        self.0.push_str(&format!("  {name:<16} {value}\n"));
    }
}

fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| time.to_string())
}

fn render(shown: &Shown) -> String {
    let mut lines = Lines(format!(
        "server {}, generation {} ({} {}, system id {})\n",
        shown.server,
        shown.generation,
        shown.engine.key(),
        shown.version,
        shown.system_id
    ));
    render_log(shown, &mut lines);
    render_backups(shown, &mut lines);
    render_losses(shown, &mut lines);
    if let Some(writer) = &shown.writer {
        let state = if writer.released { "ended" } else { "last heard of" };
        let covered = time(writer.covered_time);
        lines.add(
            "agent",
            format!(
                "on {}, {state} {}, complete up to {covered}",
                writer.host, writer.beat
            ),
        );
    }
    lines.0
}

fn render_log(shown: &Shown, lines: &mut Lines) {
    for window in &shown.recovery_windows {
        let word = shown.engine.position_word();
        let range = format!("{} to {}", window.earliest_position, window.latest_position);
        let times = window.earliest_time.zip(window.latest_time);
        lines.add(
            "recoverable",
            times.map_or_else(
                || format!("by {word} only, {range}: nothing tells that any time can be reached"),
                |(earliest, latest)| format!("{earliest} to {latest}  ({word} {range})"),
            ),
        );
    }
    if shown.recovery_windows.is_empty() {
        lines.add(
            "recoverable",
            "nothing yet: no base backup with all the log that it needs",
        );
    }
    for stored in &shown.branches {
        let size = format!("{} in {} objects", ByteSize(stored.stored_bytes), stored.objects);
        let times = format!(
            "transactions from {} to {}",
            time(stored.first_time),
            time(stored.last_time)
        );
        lines.add(
            &format!("{} {}", shown.engine.branch_word(), stored.branch),
            format!("{} to {}, {size}, {times}", stored.begin, stored.end),
        );
    }
}

fn render_backups(shown: &Shown, lines: &mut Lines) {
    for base in &shown.base_backups {
        let parent = base.parent.as_ref();
        let kind = parent.map_or("full".to_owned(), |parent| format!("incremental on {parent}"));
        let range = format!(
            "{} to {}, ends {}",
            base.begin.position, base.end.position, base.stopped
        );
        let size = format!("{}, {} stored", ByteSize(base.bytes), ByteSize(base.stored_bytes));
        lines.add("base backup", format!("{}  {kind}, {range}, {size}", base.id));
    }
    for (id, error) in &shown.unreadable_base_backups {
        lines.add("UNREADABLE", format!("base backup {id}: {error}"));
    }
}

fn render_losses(shown: &Shown, lines: &mut Lines) {
    let word = shown.engine.branch_word();
    for gap in &shown.gaps {
        let way = format!("on the way to {word} {}", gap.branch);
        lines.add("GAP", format!("from {} to {} {way}", gap.begin, gap.end));
    }
    for gap in &shown.recorded_gaps {
        lines.add("recorded gap", format!("found {}: {}", gap.found, gap.reason));
    }
    for left in &shown.dead_ends {
        lines.add(
            "left behind",
            format!("{word} {} from {} to {}", left.branch, left.begin, left.end),
        );
    }
    for aside in &shown.set_aside {
        lines.add(
            "set aside",
            format!(
                "{word} {} from {} to {}: nothing leads there",
                aside.branch, aside.begin, aside.end
            ),
        );
    }
}
