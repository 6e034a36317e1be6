//! Running the private server: it applies what is fed to it, and ends as asked.

use std::time::Instant;

use tidemark_mysql::restore::{Ending, RelayFeed, Replay, ReplayProgress, Replayed};
use tidemark_repository::Archive;
use tidemark_types::ErrorClass;
use tokio::signal::unix::{SignalKind, signal};

use super::base::Base;
use super::place::Place;
use super::summary::Summary;
use super::{PlannedLog, feed};
use crate::cli::{Action, RestoreArgs};
use crate::exit::Failure;
use crate::plan::Plan;
use crate::planning::Question;
use crate::restore::summary::{Phases, Progress};

/// Starts the server, has it apply the log, proves where it stands, and ends as `--action` asks. Called off by SIGINT and
/// SIGTERM, so that no server is left that nobody watches; what is applied by then is not lost.
///
/// # Errors
/// When a transaction cannot be applied, or the server ends or stands elsewhere; what the store says; `Cancelled`.
pub async fn run(
    args: &RestoreArgs,
    question: &Question,
    plan: &Plan,
    base: &Base,
    place: &Place,
    log: &PlannedLog<'_, '_>,
    mut phases: Phases,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let (mut replay, feed) = Replay::begin(base.launch(), base.start()?, feed::applied_files(log)).await?;
    phases.start = Some(begun.elapsed());
    let begun = Instant::now();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let applied = tokio::select! {
        applied = apply(&question.archive, log, &mut replay, feed) => applied,
        _ = interrupt.recv() => Err(called_off(place).into()),
        _ = terminate.recv() => Err(called_off(place).into()),
    };
    if let Err(error) = applied {
        if let Err(stopping) = replay.stop().await {
            tracing::warn!(error = %stopping, "the private server did not stop in order");
        }
        return Err(error);
    }
    phases.replay = Some(begun.elapsed());

    let begun = Instant::now();
    let (ending, state) = match args.action {
        Action::Promote => (Ending::LeaveRunning, "open"),
        Action::Pause => (Ending::LeaveRunning, "read-only"),
        Action::Shutdown => (Ending::Stop, "shut down"),
    };
    let replayed: Replayed = replay.finish(ending).await?;
    phases.checks = Some(begun.elapsed());
    Summary::new(place, plan, &phases, base.missing(), state, &replayed).print(args.json)
}

/// Feeds and applies side by side. What keeps the feed from going on is the reason of a replay that lacks files.
async fn apply(
    archive: &Archive,
    log: &PlannedLog<'_, '_>,
    replay: &mut Replay,
    feed: RelayFeed,
) -> anyhow::Result<()> {
    let progress = Progress::new("replay", log.bytes);
    let mut tell = |now: ReplayProgress| {
        let time = now
            .log_time
            .map_or(String::new(), |time| format!(", log time {time}"));
        progress.set(now.bytes, &format!("{} transactions{time}", now.transactions));
    };
    let mut bringing = std::pin::pin!(feed::bring(archive, log, feed));
    let mut applying = std::pin::pin!(replay.apply(&mut tell));
    tokio::select! {
        brought = &mut bringing => {
            brought?;
            applying.await?;
        }
        applied = &mut applying => applied?,
    }
    progress.finish();
    Ok(())
}

fn called_off(place: &Place) -> Failure {
    let message = format!("called off; the server on {} shuts down", place.data.display());
    Failure::new(ErrorClass::Cancelled, message).hint("the same command with --resume goes on")
}
