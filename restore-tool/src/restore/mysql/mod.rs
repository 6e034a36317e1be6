//! Restoring MySQL and MariaDB: the base backup is laid down (and prepared), a private server applies the planned binlogs, and
//! a start with full durability proves that it stands where the plan ends.

mod base;
mod feed;
mod place;
mod replay;
mod summary;

use std::time::Instant;

use tidemark_mysql::restore::ReplayState;
use tidemark_types::{ErrorClass, LogPosition, Position};

use crate::cli::RestoreArgs;
use crate::exit::Failure;
use crate::plan::{Line, LogFile, Plan, Point, log_files, render};
use crate::planning::{self, Question};
use crate::restore::planned_line;
use crate::restore::summary::Phases;
use base::Base;
use place::Place;

/// Runs the command for a server of these engines.
///
/// # Errors
/// Whatever keeps the restore from being complete; nothing is written before the plan stands and the place is free.
pub async fn run(args: &RestoreArgs, question: &Question) -> anyhow::Result<()> {
    let mut phases = Phases::default();
    let begun = Instant::now();
    check_arguments(args)?;
    let ancestry = planning::branch(&question.listed, args.what.branch())?;
    let lines = question.listed.lines(ancestry);
    let plan = question.plan(ancestry, &lines).await?;
    let line = planned_line(&plan, &lines)?;
    // Standard output is the summary's.
    eprint!("{}", render(&plan));
    let place = Place::check(args, question, &plan)?;
    let earlier = place.earlier(args, question)?;
    let backup = earlier.as_ref().map_or(&plan.base.id, |earlier| &earlier.backup);
    let base = Base::open(args, question, &place, backup).await?;
    let log = PlannedLog::new(&plan, line, &base, &place)?;
    phases.plan = begun.elapsed();

    if args.verify_first {
        let begun = Instant::now();
        feed::verify(&question.archive, &log, base.start()?).await?;
        phases.verify = Some(begun.elapsed());
    }
    if earlier.is_none() {
        let begun = Instant::now();
        base.lay_down(args, question, &place).await?;
        phases.fetch = begun.elapsed();
        let begun = Instant::now();
        if base.prepare(&place).await? {
            phases.prepare = Some(begun.elapsed());
        }
        base.write_configuration(&place)?;
        place.note(question, &base)?;
    }
    replay::run(args, question, &plan, &base, &place, &log, phases).await
}

/// These servers apply their log by themselves only while they are being watched.
fn check_arguments(args: &RestoreArgs) -> Result<(), Failure> {
    if !args.start {
        let message = "binlogs are applied by a private server, which --start starts";
        return Err(Failure::usage(message)
            .hint("add --start, and --action shutdown for a server that is stopped at the end"));
    }
    if args.delta {
        return Err(Failure::usage("--delta is for PostgreSQL")
            .hint("restore into another directory; --resume goes on with an earlier restore"));
    }
    Ok(())
}

/// The log that is applied.
pub(super) struct PlannedLog<'l, 'a> {
    /// The line that it lies on.
    pub line: &'l Line<'a>,
    /// Its files, the first from its beginning on.
    pub files: Vec<LogFile>,
    /// Bytes that are applied.
    pub bytes: u64,
}

impl<'l, 'a> PlannedLog<'l, 'a> {
    /// From where the base, or an earlier replay, stands to the plan's end.
    fn new(
        plan: &Plan,
        line: &'l Line<'a>,
        base: &Base,
        place: &Place,
    ) -> anyhow::Result<PlannedLog<'l, 'a>> {
        let state = ReplayState::read(&place.server)?;
        let begin = match state.and_then(|state| state.applied) {
            Some(applied) => find(line, applied.branch, &applied.file, applied.offset),
            None => base.begin(line),
        };
        let end = plan.log.end;
        let Some(begin) = begin.filter(|begin| *begin <= end) else {
            let message =
                "the log from where the restored data stands to the target is not on one line without gaps";
            return Err(Failure::new(ErrorClass::Unreachable, message)
                .hint("the target may lie before it: restore into another directory")
                .into());
        };
        // A server reads a file from its beginning on, wherever it begins to apply it.
        let files = log_files(line, begin.file_start(), end);
        let bytes: u64 = files.iter().map(|file| file.part.end - file.part.begin).sum();
        Ok(PlannedLog {
            line,
            files,
            bytes: bytes.saturating_sub(begin.at.offset),
        })
    }
}

/// A place on a line; `None` when it is not there.
fn find(line: &Line<'_>, branch: u32, file: &str, offset: u64) -> Option<Position> {
    let (_, number) = tidemark_types::BinlogBasename::parse_file(file)?;
    let at = LogPosition { file: number, offset };
    line.stretches().iter().find_map(|stretch| {
        let position = stretch.begin.files.position(at);
        let point = Point {
            branch: stretch.branch,
            position,
        };
        (stretch.branch.0 == branch && line.holds(point)).then_some(position)
    })
}
