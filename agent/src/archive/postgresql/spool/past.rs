//! Where a timeline comes from, and how much of that is stored.

use tidemark_repository::{Archive, LogPosition};
use tidemark_types::{ErrorClass, HistoryEntry, SegmentNumber, TimelineHistory, TimelineId, WalSegmentSize};

use super::super::lsn_map::{branch_of, position_of, timeline_of};
use super::super::start::{branch_to_continue, continue_from_file};
use super::plan::Past;
use super::shipping::Parts;
use crate::archive::adopt_hint;
use crate::exit::Failure;

/// A timeline that nothing is stored of, and the newest of its ancestors that something is stored of.
pub struct Descent {
    /// The past of the timeline.
    pub history: TimelineHistory,
    /// The ancestor, and where the line of the timeline left it.
    ancestor: HistoryEntry,
    /// Where what is stored of the ancestor ends.
    end: LogPosition,
}

impl Descent {
    /// As planning wants it.
    pub fn past(&self, size: WalSegmentSize) -> Past {
        Past::Stored {
            branch: branch_of(self.ancestor.timeline),
            end: self.end,
            fork: position_of(self.ancestor.end, size),
        }
    }

    /// The timelines whose last bytes are in `segment`, and repeated by the timeline's own file of it, oldest first.
    pub fn repeated_in(
        &self,
        segment: SegmentNumber,
        size: WalSegmentSize,
    ) -> impl Iterator<Item = HistoryEntry> {
        let is_repeated = move |entry: &&HistoryEntry| {
            entry.timeline >= self.ancestor.timeline
                && size.segment_of(entry.end) == segment
                && size.offset_of(entry.end) > 0
        };
        self.history.ancestors.iter().filter(is_repeated).copied()
    }
}

/// Where `timeline` comes from; `None` when no log is stored of any timeline before it.
///
/// # Errors
/// `Conflict` when what is stored is not its past; `Transient` when its history file never came; what the repository
/// says.
pub async fn descent(parts: &Parts<'_>, timeline: TimelineId) -> anyhow::Result<Option<Descent>> {
    let (archive, size) = (parts.archive, parts.segment_size);
    let branches = archive.branches().await?;
    if branches.is_empty() {
        return Ok(None);
    }
    let Some(history) = stored_history(archive, timeline).await? else {
        let name = timeline.history_file_name();
        let message = format!("the spool has segments of timeline {timeline}, and {name} never came");
        let hint = format!("copy pg_wal/{name} of the server into the spool");
        return Err(Failure::new(ErrorClass::Transient, message).hint(hint).into());
    };
    let backup = parts.newest_backup.map(|backup| (backup.timeline, backup.end));
    let ancestor = branch_to_continue(&branches, &history, backup).map_err(|error| {
        Failure::new(ErrorClass::Conflict, error.to_string()).hint(adopt_hint(&parts.settings.server))
    })?;
    let Some(ancestor) = ancestor else { return Ok(None) };
    let mut slices = archive.slices(ancestor, 0).await?;
    let stored = continue_from_file(ancestor, &mut slices, size);
    let ancestor = timeline_of(ancestor);
    let ancestor = history.ancestors.iter().find(|entry| entry.timeline == ancestor);
    Ok(match (stored, ancestor.copied()) {
        (Some((start, _)), Some(ancestor)) => Some(Descent {
            history,
            ancestor,
            end: start.resume.durable,
        }),
        _ => None,
    })
}

/// The past of a timeline, from its history file; `None` when that never came: it was archived before the spool was
/// there.
///
/// # Errors
/// When the file makes no sense; what the repository says.
pub async fn stored_history(
    archive: &Archive,
    timeline: TimelineId,
) -> anyhow::Result<Option<TimelineHistory>> {
    if timeline == TimelineId(1) {
        return Ok(Some(TimelineHistory::root(timeline)));
    }
    let name = timeline.history_file_name();
    let text = archive.read_branch_file(branch_of(timeline), &name).await?;
    let parse = |text: Vec<u8>| TimelineHistory::parse(timeline, &String::from_utf8_lossy(&text));
    Ok(text.map(parse).transpose()?)
}
