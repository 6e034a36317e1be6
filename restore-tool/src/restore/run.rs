//! Starting the restored server and rolling it forward, with the end compared to the plan before anybody can write.

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use tidemark_postgres::control_file::ControlFile;
use tidemark_postgres::restore::{
    PrivateConfig, ReplayProgress, RestoredServer, ServerLaunch, ServerPrograms, ServerState, TargetAction,
};
use tidemark_types::{ErrorClass, Lsn, WalSegmentSize};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Action, RestoreArgs};
use crate::exit::Failure;
use crate::plan::{Plan, RecoveryTarget};
use crate::restore::place::private_directory;
use crate::restore::summary::{Phases, Progress, Running, StoppedAt, Summary};
use crate::restore::{Prepared, recovery_settings};
use crate::wal::fetch::SegmentSource;
use crate::wal::prefetch::Prefetcher;

/// How often the server is asked where it is.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a promotion or a shutdown may take: both write a checkpoint.
const FINISH_TIMEOUT: Duration = Duration::from_secs(600);
/// Part of the socket's name. Nothing else uses that directory.
const PORT: u16 = 5432;
/// Segments read at once by `--verify-first`.
const VERIFY_AT_ONCE: usize = 3;

/// Reads and proves all of the planned log.
///
/// # Errors
/// Damage, missing objects, what the store says.
pub async fn verify_log(source: &SegmentSource) -> anyhow::Result<()> {
    let log = &source.state().log;
    let progress = Progress::new("verify log", log.end.bytes_since(log.begin));
    let reads = log.sequence().map(|name| source.segment(name));
    let mut reads = stream::iter(reads).buffer_unordered(VERIFY_AT_ONCE);
    while let Some(segment) = reads.try_next().await? {
        progress.add(segment.map_or(0, |bytes| bytes.len() as u64));
    }
    progress.finish();
    Ok(())
}

/// Starts the server, waits until it stands at the target, and ends as `--action` asks. Called off by SIGINT and SIGTERM,
/// so that no server is left that nobody watches.
///
/// # Errors
/// When it ends or stops elsewhere; `Cancelled`.
pub async fn start(
    args: &RestoreArgs,
    prepared: &Prepared,
    plan: &Plan,
    source: SegmentSource,
    phases: Phases,
) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        done = recover(args, prepared, plan, source, phases) => return done,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let message = format!(
        "called off; the server on {} shuts down",
        prepared.place.data.display()
    );
    Err(Failure::new(ErrorClass::Cancelled, message)
        .hint("the same command with --delta restores over what is there")
        .into())
}

async fn recover(
    args: &RestoreArgs,
    prepared: &Prepared,
    plan: &Plan,
    source: SegmentSource,
    mut phases: Phases,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let prefetcher = match Prefetcher::start(source, prepared.place.state.clone(), prepared.owner.ids()) {
        Ok(prefetcher) => Some(prefetcher),
        Err(error) => {
            // wal-get fetches by itself then.
            tracing::warn!(error = format!("{error:#}"), "the log is not fetched ahead");
            None
        }
    };
    let (mut server, stood, started) = roll_forward(prepared, plan).await?;
    phases.start = Some(started.duration_since(begun));
    phases.replay = Some(started.elapsed());

    let begun = Instant::now();
    check_end(plan, &stood, prepared.facts.server.wal_segment_size)?;
    let pg_ctl = programs(prepared)?.program("pg_ctl");
    let state = match args.action {
        Action::Pause => "paused",
        Action::Promote => {
            server.promote(FINISH_TIMEOUT).await?;
            "promoted"
        }
        Action::Shutdown => "shut down",
    };
    let running = if args.action == Action::Shutdown {
        server.shut_down(FINISH_TIMEOUT).await?;
        // A later start shall do as was asked, too.
        recovery_settings(prepared, plan, TargetAction::Shutdown)?.write(&prepared.place.data)?;
        None
    } else {
        let left = server.leave_running();
        Some(Running {
            socket: left.socket_directory,
            port: left.port,
            pid: left.pid,
            user: prepared.facts.server.bootstrap_superuser.clone(),
            pg_ctl,
        })
    };
    drop(prefetcher);
    phases.checks = Some(begun.elapsed());
    let stopped_at = StoppedAt {
        position: plan.log.end.files.lsn(stood.replayed.unwrap_or_default()),
        commit_time: plan.last_commit.as_ref().map(|commit| commit.time),
        transaction: plan.last_commit.as_ref().map(|commit| commit.transaction.clone()),
        branch: plan.branch,
    };
    Summary::started(&prepared.place, plan, &phases, state, stopped_at, running).print(args.json)
}

fn launch(prepared: &Prepared) -> anyhow::Result<ServerLaunch> {
    let data = prepared.place.data.clone();
    let (control, _) = ControlFile::read(&data)?;
    let requirements = prepared.facts.server.requirements.max(control.requirements);
    let directory = private_directory(prepared.place.state.path(), prepared.owner)?;
    let mut config = PrivateConfig::new(directory, PORT, requirements, control.wal_segment_size);
    if let Some(mib) = buffers_mib(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()) {
        config.shared_buffers = format!("{mib}MB");
    }
    Ok(ServerLaunch {
        programs: programs(prepared)?.clone(),
        config,
        data_directory: data,
        user: prepared.facts.server.bootstrap_superuser.clone(),
        database: "template1".to_owned(),
    })
}

/// `shared_buffers` for replay, in MiB: pages that do not fit are written and read again and again. A quarter of what
/// `/proc/meminfo` calls available, as PostgreSQL's manual advises, within bounds; `None` when it does not tell.
pub(super) fn buffers_mib(meminfo: &str) -> Option<u64> {
    const LEAST: u64 = 32;
    const MOST: u64 = 1024;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some((kib / 1024 / 4).clamp(LEAST, MOST))
}

fn programs(prepared: &Prepared) -> Result<&ServerPrograms, Failure> {
    prepared.programs.as_ref().ok_or_else(|| {
        Failure::usage("no server programs were found").hint("name their directory with --pg-bin")
    })
}

/// Starts the server and waits until it stands at the target; returns it, where it stands, and when it could first be
/// asked.
///
/// The log may raise a setting above what the server was given. It notes that in `pg_control` before it looks whether
/// it has enough (XLOG_PARAMETER_CHANGE in `xlog_redo`, `CheckRequiredParameterValues` in `xlogrecovery.c`), and then
/// pauses short of the target, or ends (always up to PostgreSQL 13). So it is started anew with as much, and goes on
/// from its last restart point.
async fn roll_forward(
    prepared: &Prepared,
    plan: &Plan,
) -> anyhow::Result<(RestoredServer, ReplayProgress, Instant)> {
    let mut launch = launch(prepared)?;
    let mut first_asked = None;
    loop {
        let mut server = RestoredServer::start(launch.clone())?;
        let stood = wait_for_target(&mut server, plan, &mut first_asked).await;
        let (control, _) = ControlFile::read(&launch.data_directory)?;
        let given = launch.config.requirements;
        if control.requirements.is_met_by(given) {
            return Ok((server, stood?, first_asked.unwrap_or_else(Instant::now)));
        }
        // Never less than before: what is replayed again from the restart point may have demanded more.
        launch.config.requirements = given.max(control.requirements);
        tracing::info!(needed = ?control.requirements, "the log raises settings above the server's; starting it anew");
        if server.pid().is_some() {
            server.shut_down(FINISH_TIMEOUT).await?;
        }
    }
}

/// Waits until the server pauses, which it does at the target; returns where it stands. Notes when it could first be asked.
async fn wait_for_target(
    server: &mut RestoredServer,
    plan: &Plan,
    first_asked: &mut Option<Instant>,
) -> anyhow::Result<ReplayProgress> {
    let progress = Progress::new("replay", plan.log.bytes);
    loop {
        let stood = match server.state().await? {
            ServerState::Starting => None,
            ServerState::Recovering(replay) => Some(replay),
            ServerState::Promoted(replay) => {
                let at = replay
                    .replayed
                    .map_or("nowhere".to_owned(), |lsn| lsn.to_string());
                let message = format!(
                    "the server opened for writes by itself, at {at}: recovery ended before its target"
                );
                return Err(Failure::new(ErrorClass::CheckFailed, message).into());
            }
            ServerState::Ended(status) => {
                let message = format!("the server ended before its target was reached ({status})");
                return Err(Failure::new(ErrorClass::CheckFailed, message).into());
            }
        };
        if let Some(replay) = stood {
            first_asked.get_or_insert_with(Instant::now);
            let done = replay
                .replayed
                .map_or(0, |lsn| lsn.bytes_since(plan.log.begin.lsn()));
            let time = replay
                .last_commit
                .map_or(String::new(), |time| format!("log time {time}"));
            progress.set(done, &time);
            if replay.paused {
                progress.finish();
                return Ok(replay);
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Compares where the server stands with the plan.
fn check_end(plan: &Plan, stood: &ReplayProgress, segment_size: u64) -> anyhow::Result<()> {
    let replayed = stood.replayed.unwrap_or_default();
    let is_planned = match plan.recovery {
        RecoveryTarget::After(record) => {
            replayed == record.end.lsn() || replayed == after_switch(record.end.lsn(), segment_size)
        }
        RecoveryTarget::Consistency => {
            plan.base.end.position.lsn() <= replayed && replayed <= plan.log.end.lsn()
        }
    };
    if is_planned {
        return Ok(());
    }
    let expected = match plan.recovery {
        RecoveryTarget::After(record) => format!("at {}", record.end),
        RecoveryTarget::Consistency => format!("between {} and {}", plan.base.end.position, plan.log.end),
    };
    let message = format!("the server stands at {replayed}, and the plan ends {expected}");
    Err(Failure::new(ErrorClass::CheckFailed, message).into())
}

/// Where the server says it is after a segment switch: at the end of the segment.
fn after_switch(end: Lsn, segment_size: u64) -> Lsn {
    let last = Lsn(end.0.saturating_sub(1));
    WalSegmentSize::try_from(segment_size).map_or(end, |size| size.end_of(size.segment_of(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_gets_a_quarter_of_the_memory_within_bounds() {
        let with = |kib: u64| buffers_mib(&format!("MemTotal: 9 kB\nMemAvailable:   {kib} kB\n"));
        assert_eq!(with(2 << 20), Some(512));
        assert_eq!(with(64 << 20), Some(1024));
        assert_eq!(with(1000), Some(32));
        assert_eq!(buffers_mib("MemTotal: 9 kB\n"), None);
    }
}
