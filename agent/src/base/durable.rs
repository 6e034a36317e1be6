//! Waits until the log that a base backup needs is in the repository. Only then may its manifest be written.

use std::sync::Arc;
use std::time::Duration;

use tidemark_repository::lease::{STALE_AFTER, read_lease};
use tidemark_repository::log::coverage;
use tidemark_repository::{Archive, Branch};
use tidemark_types::{Clock, ErrorClass, Position, SystemClock};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::lanes::cancelled;
use crate::exit::Failure;
use crate::state::ServerState;

/// Waiting ends when the end of what is durable has not moved for so long.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Pauses between listings of the repository grow up to this one: mostly the log is there in a moment, and each listing
/// costs.
const LIST_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Who stores the log.
#[derive(Debug, Clone)]
pub enum LogWriter {
    /// This process, and here it tells how far it is.
    Here(Arc<ServerState>),
    /// Another process, which holds the lease.
    Elsewhere,
}

/// The log from `begin` to `end` of a branch.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    /// The branch.
    pub branch: Branch,
    /// Where the log is needed from.
    pub begin: Position,
    /// Up to where.
    pub end: Position,
}

/// Fails unless the log of the server is being stored.
///
/// # Errors
/// `Transient` when it is not; what the repository says.
pub async fn check_stored(archive: &Archive, log: &LogWriter) -> anyhow::Result<()> {
    if let LogWriter::Here(_) = log {
        return Ok(());
    }
    let name = &archive.record().name;
    let now = SystemClock.now();
    let lease = read_lease(&**archive.storage(), name).await?;
    let is_live =
        lease.is_some_and(|found| !found.lease.released && now.since(found.lease.beat) < STALE_AFTER);
    if is_live {
        return Ok(());
    }
    let message = format!("no agent streams the log of {name}, and a base backup is of no use without it");
    Err(Failure::new(ErrorClass::Transient, message)
        .hint("start \"tidemark-agent run\" with this configuration")
        .into())
}

/// Waits until the log of `stretch` is in the repository without a hole.
///
/// # Errors
/// `Transient` when it makes no progress, or has a hole; what the repository says; `Cancelled`.
pub async fn wait(
    archive: &Archive,
    log: &LogWriter,
    stretch: Stretch,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let mut reached = None;
    let mut moved = Instant::now();
    let mut pause = LOOK_EVERY;
    loop {
        let now = match log {
            LogWriter::Here(state) => durable_here(state, stretch.branch),
            LogWriter::Elsewhere => stored_to(archive, stretch).await?,
        };
        if now >= Some(stretch.end) {
            break;
        }
        if now > reached {
            (reached, moved) = (now, Instant::now());
        }
        if moved.elapsed() > PATIENCE {
            check_stored(archive, log).await?;
            return Err(stuck(stretch, reached));
        }
        tokio::select! {
            () = cancel.cancelled() => return Err(cancelled()),
            () = sleep(pause) => {}
        }
        if let LogWriter::Elsewhere = log {
            pause = (pause * 2).min(LIST_PAUSE_MAX);
        }
    }
    match stored_to(archive, stretch).await? {
        reached if reached >= Some(stretch.end) => Ok(()),
        reached => Err(stuck(stretch, reached)),
    }
}

fn durable_here(state: &ServerState, branch: Branch) -> Option<Position> {
    state.update(|facts| facts.durable.filter(|_| facts.branch == Some(branch)))
}

/// How far the log is stored from the stretch's begin on without a hole.
async fn stored_to(archive: &Archive, stretch: Stretch) -> anyhow::Result<Option<Position>> {
    let begin = stretch.begin.at;
    let mut slices = archive.slices(stretch.branch, begin.file).await?;
    let runs = tokio::task::spawn_blocking(move || coverage(&mut slices)).await?;
    let end = runs
        .iter()
        .filter(|run| run.contains(begin))
        .map(|run| run.end.position)
        .max();
    Ok(end.map(|end| stretch.begin.files.position(end)))
}

fn stuck(stretch: Stretch, reached: Option<Position>) -> anyhow::Error {
    let branch = stretch.branch;
    let message = match reached.filter(|reached| *reached >= stretch.begin) {
        None => format!(
            "the repository lacks the log of branch {branch} at {}, where the base backup begins",
            stretch.begin
        ),
        Some(reached) => format!(
            "the log of branch {branch} is stored up to {reached}, and the base backup needs it up to {}",
            stretch.end
        ),
    };
    Failure::new(ErrorClass::Transient, message)
        .hint("see what keeps the agent from storing the log; the base backup is taken again")
        .into()
}
