//! Planning with I/O: lists, reads what the planner asks for, and says in words why there is no plan.

use tidemark_repository::Archive;
use tidemark_types::{ErrorClass, TimelineHistory, TimelineId};

use crate::exit::Failure;
use crate::plan::{self, Known, Line, Listed, Pending, Plan, Request, Target, Window, plan};
use crate::scan::read_slices;

/// The history of the timeline to follow: the one asked for, or the newest that a base backup leads to.
///
/// # Errors
/// When there is none.
pub fn timeline(listed: &Listed, wanted: Option<TimelineId>) -> anyhow::Result<TimelineHistory> {
    if let Some(timeline) = wanted {
        if !listed.runs.contains_key(&timeline) {
            let known: Vec<String> = listed.runs.keys().map(ToString::to_string).collect();
            let message = format!(
                "no log of timeline {timeline} is stored for server {}",
                listed.server
            );
            return Err(Failure::usage(message)
                .hint(format!("timelines stored: {}", known.join(", ")))
                .into());
        }
        return Ok(listed.history(timeline));
    }
    if let Some(newest) = listed.newest_timeline() {
        return Ok(listed.history(newest));
    }
    let server = &listed.server;
    let failure = if listed.bases.is_empty() {
        Failure::new(
            ErrorClass::Unreachable,
            format!("server {server} has no base backup yet"),
        )
        .hint("`tidemark-agent run` takes the first by itself; `tidemark-agent backup` takes one now")
    } else {
        Failure::new(
            ErrorClass::Unreachable,
            format!("no base backup of server {server} has the log that it needs: it is not stored from its begin to its end"),
        )
        .hint("`tidemark-restore list` shows base backups and what log is stored")
    };
    Err(failure.into())
}

/// Plans a restore on the timeline of `history`.
///
/// # Errors
/// Unreachable targets; what reading the log says.
pub async fn make(
    archive: &Archive,
    listed: &Listed,
    history: &TimelineHistory,
    lines: &[Line<'_>],
    request: &Request,
) -> anyhow::Result<Plan> {
    let xid = match request.target {
        Target::Xid(xid) => Some(xid),
        _ => None,
    };
    let mut known = Known::default();
    loop {
        match plan(listed, history, lines, &known, request) {
            Ok(plan) => return Ok(plan),
            Err(Pending::Read(ids)) => read_slices(archive, lines, &ids, xid, &mut known).await?,
            Err(Pending::Ambiguous(ambiguity)) => {
                let ((first, first_time), (last, last_time)) = (ambiguity.first, ambiguity.last);
                let message = format!("{} has two readings: {}", request.target, ambiguity.reason);
                return Err(Failure::new(ErrorClass::Unreachable, message)
                    .hint(format!(
                        "add --first for the state at {first} ({first_time}), or --last for that at {last} \
                         ({last_time}); or give --target-lsn"
                    ))
                    .into());
            }
            Err(Pending::Unreachable(unreachable)) => {
                let message = format!("{} cannot be reached: {}", request.target, unreachable.reason);
                let failure = Failure::new(ErrorClass::Unreachable, message);
                let hint = format!("the nearest that can: {}", unreachable.nearest.join(" or "));
                let is_known = !unreachable.nearest.is_empty();
                return Err(if is_known { failure.hint(hint) } else { failure }.into());
            }
        }
    }
}

/// The recovery windows of a timeline. Those whose log cannot be read have no times.
pub async fn windows(
    archive: &Archive,
    listed: &Listed,
    timeline: TimelineId,
    lines: &[Line<'_>],
) -> Vec<Window> {
    let mut known = Known::default();
    loop {
        let (windows, missing) = plan::windows(listed, timeline, lines, &known);
        if missing.is_empty() {
            return windows;
        }
        if let Err(error) = read_slices(archive, lines, &missing, None, &mut known).await {
            tracing::warn!(
                error = format!("{error:#}"),
                "the log at the end of a base backup cannot be read, so the times that can be reached are not known"
            );
            return windows;
        }
    }
}
