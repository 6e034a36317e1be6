//! `restore`: from a plan to a data directory, and with `--start` to a server that stands at the target.

mod configuration;
mod delta;
mod files;
mod mysql;
mod owner;
mod place;
mod run;
mod summary;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use tidemark_postgres::basebackup::{ManifestFacts, ServerFacts};
use tidemark_postgres::restore::{
    CommandWord, RecoverySettings, RecoveryTarget as ServerTarget, ServerPrograms, TargetAction,
    restore_command,
};
use tidemark_repository::Archive;
use tidemark_repository::base::BackupReader;
use tidemark_types::{ErrorClass, LogFiles, TimelineId};

use crate::cli::{Action, RestoreArgs};
use crate::engine::Engine;
use crate::exit::Failure;
use crate::plan::{Ancestry, Line, Plan, RecoveryTarget, render};
use crate::planning::{self, Question};
use crate::restore::configuration::LostConfiguration;
use crate::restore::owner::Owner;
use crate::restore::place::Place;
use crate::restore::summary::{Phases, Summary};
use crate::wal::fetch::SegmentSource;
use crate::wal::segments::PlannedLog;

/// Runs the command.
///
/// # Errors
/// Whatever keeps the restore from being complete; nothing is written before the plan stands and the place is free.
pub async fn run(args: &RestoreArgs) -> anyhow::Result<()> {
    let mut phases = Phases::default();
    let begun = Instant::now();
    let question = Question::open(&args.what).await?;
    let (archive, listed) = (&question.archive, &question.listed);
    if listed.engine != Engine::Postgresql {
        return mysql::run(args, &question).await;
    }
    let ancestry = planning::branch(listed, args.what.branch())?;
    let lines = listed.lines(ancestry);
    let plan = question.plan(ancestry, &lines).await?;
    // Standard output is the summary's.
    eprint!("{}", render(&plan));
    phases.plan = begun.elapsed();

    let prepared = prepare(args, archive, &plan).await?;
    let log = planned_log(&plan, planned_line(&plan, &lines)?, ancestry)?;
    let source = write_state(
        args,
        archive,
        &prepared,
        &plan,
        &log,
        planned_line(&plan, &lines)?,
    )
    .await?;
    if args.verify_first {
        let begun = Instant::now();
        run::verify_log(&source).await?;
        phases.verify = Some(begun.elapsed());
    }
    let begun = Instant::now();
    files::lay_down(args, archive, &prepared).await?;
    write_recovery(args, &prepared, &plan).await?;
    phases.fetch = begun.elapsed();
    if args.start {
        return run::start(args, &prepared, &plan, source, phases).await;
    }
    let summary = Summary::not_started(&prepared.place, &plan, &phases);
    summary.print(args.json)?;
    if !args.json {
        println!("{}", how_to_start(args, &prepared));
    }
    Ok(())
}

/// What is known before the first byte is written.
struct Prepared {
    reader: Arc<BackupReader>,
    facts: ManifestFacts,
    place: Place,
    owner: Owner,
    programs: Option<ServerPrograms>,
}

/// Reads the manifest and makes sure that everything is there and nothing is in the way.
async fn prepare(args: &RestoreArgs, archive: &Archive, plan: &Plan) -> anyhow::Result<Prepared> {
    let backup = plan.base.id.parse()?;
    let reader = BackupReader::open(archive.base(), &backup)
        .await
        .with_context(|| format!("open base backup {backup}"))?;
    let facts: ManifestFacts =
        serde_json::from_value(reader.header().facts.engine_facts.clone()).map_err(|error| {
            Failure::new(
                ErrorClass::Corrupt,
                format!("the manifest of base backup {backup} lacks what a restore needs: {error}"),
            )
        })?;
    let major = facts.server.version_num / 10_000;
    let search_path = std::env::var_os("PATH");
    let programs = ServerPrograms::find(major, args.pg_bin.as_deref(), search_path.as_deref());
    let programs = match programs {
        Ok(programs) => Some(programs),
        // Files can be laid down without a server.
        Err(_) if !args.start && args.pg_bin.is_none() => None,
        Err(error) => return Err(error.into()),
    };
    let place = Place::check(args, &facts, plan)?;
    let owner = Owner::find(args.owner.as_deref(), &place.data, Engine::Postgresql)?;
    owner.check_reaches(&place.data, "its data directory")?;
    owner.check_reaches(&this_program()?, "its restore_command")?;
    Ok(Prepared {
        reader: Arc::new(reader),
        facts,
        place,
        owner,
        programs,
    })
}

/// What a PostgreSQL backup keeps of the lost server's configuration.
fn lost_configuration(facts: &ServerFacts) -> LostConfiguration<'_> {
    LostConfiguration {
        files: facts
            .configuration_files
            .iter()
            .map(|file| (file.path.as_str(), file.text.as_str()))
            .collect(),
        data_directory: facts.data_directory.as_deref(),
    }
}

/// The line that the plan lies on.
fn planned_line<'l, 'a>(plan: &Plan, lines: &'l [Line<'a>]) -> anyhow::Result<&'l Line<'a>> {
    let on_it = |line: &&Line<'_>| {
        line.begin() <= plan.log.begin && plan.log.end <= line.end() && plan.base.is_on(line)
    };
    lines
        .iter()
        .find(on_it)
        .context("the planned log lies on no line")
}

/// The log that the server may ask for.
fn planned_log(plan: &Plan, line: &Line<'_>, ancestry: &Ancestry) -> anyhow::Result<PlannedLog> {
    let LogFiles::Wal(size) = plan.log.begin.files else {
        return Err(Failure::new(ErrorClass::Permanent, "only WAL comes as segments").into());
    };
    Ok(PlannedLog {
        history: ancestry.to_history(),
        segment_size: size,
        // The server asks for whole segments; a standby's backup begins anywhere in one.
        begin: plan.log.begin.file_start().max(line.begin()).lsn(),
        end: plan.log.end.lsn(),
    })
}

async fn write_state(
    args: &RestoreArgs,
    archive: &Archive,
    prepared: &Prepared,
    plan: &Plan,
    log: &PlannedLog,
    line: &Line<'_>,
) -> anyhow::Result<SegmentSource> {
    let dir = &prepared.place.state;
    prepared.place.make_state_dir()?;
    dir.write(archive, &args.what.source, log, line).await?;
    let path = dir.path().join("plan.json");
    std::fs::write(&path, serde_json::to_vec_pretty(plan)?)
        .with_context(|| format!("write {}", path.display()))?;
    if let Some(folder) = &prepared.place.configuration {
        lost_configuration(&prepared.facts.server).write(folder)?;
    }
    prepared.owner.give_all(dir.path())?;
    Ok(SegmentSource::new(
        archive.clone(),
        dir.clone(),
        dir.read()?,
        prepared.owner.ids(),
    ))
}

/// Tells the server where to recover to. With `--start` it pauses there, so that the end is checked before anybody can
/// write.
async fn write_recovery(args: &RestoreArgs, prepared: &Prepared, plan: &Plan) -> anyhow::Result<()> {
    let action = match args.action {
        _ if args.start => TargetAction::Pause,
        Action::Promote => TargetAction::Promote,
        Action::Pause => TargetAction::Pause,
        Action::Shutdown => TargetAction::Shutdown,
    };
    let settings = recovery_settings(prepared, plan, action)?;
    let data = prepared.place.data.clone();
    Ok(tokio::task::spawn_blocking(move || settings.write(&data)).await??)
}

fn this_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("find the path of this program")
}

fn recovery_settings(
    prepared: &Prepared,
    plan: &Plan,
    action: TargetAction,
) -> anyhow::Result<RecoverySettings> {
    let program = this_program()?;
    let not_text =
        || Failure::usage("paths that are not valid UTF-8 cannot be written into a restore_command");
    let program = program.to_str().ok_or_else(not_text)?;
    let state = prepared.place.state.path().to_str().ok_or_else(not_text)?;
    let target = match plan.recovery {
        RecoveryTarget::After(record) => ServerTarget::Lsn(record.begin.lsn()),
        RecoveryTarget::Consistency => ServerTarget::Immediate,
    };
    Ok(RecoverySettings {
        target,
        timeline: TimelineId(plan.branch.0),
        action,
        restore_command: restore_command(&[
            CommandWord::Literal(program),
            CommandWord::Literal("wal-get"),
            CommandWord::Literal("--state"),
            CommandWord::Literal(state),
            CommandWord::FileName,
            CommandWord::Path,
        ]),
    })
}

fn how_to_start(args: &RestoreArgs, prepared: &Prepared) -> String {
    let program = prepared.programs.as_ref().map_or_else(
        || "postgres".to_owned(),
        |programs| programs.program("postgres").display().to_string(),
    );
    let end = match args.action {
        Action::Promote => "opens for writes on a new timeline",
        Action::Pause => "pauses there, readable",
        Action::Shutdown => "shuts down there",
    };
    // The server refuses to run as root.
    let by = prepared
        .owner
        .ids()
        .map_or("", |_| ", as the owner of its files,");
    let lacking = if prepared.place.data.join("postgresql.conf").exists() {
        ""
    } else {
        "it has no postgresql.conf, so it needs -c config_file=… with one that does not name another data_directory; or \
         restore with --start\n"
    };
    format!(
        "{lacking}start it{by} with: {program} -D {}\nit fetches its log by itself from the repository, recovers to the target and {end}; \
         archiving is off\nkeep {} until it has recovered",
        prepared.place.data.display(),
        prepared.place.state.path().display()
    )
}
