//! Listing one generation of a server: what planning works on. I/O only; what it means is decided elsewhere.

use std::collections::BTreeMap;

use anyhow::Context;
use tidemark_repository::base::list_backups;
use tidemark_repository::log::{Run, coverage};
use tidemark_repository::{Archive, Branch, LogPosition, Repository, lease};
use tidemark_types::{ErrorClass, TimelineHistory, TimelineId, WalSegmentSize};

use crate::exit::Failure;
use crate::plan::{Base, Listed, SetAside, StoredLens};
use crate::positions::{branch_of, lsn_of, position_of, timeline_of};

/// A position on a branch. A position on a later branch is a later one.
type Place = (Branch, LogPosition);

/// How much of the log to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    All,
    /// What some base backup can be rolled forward with.
    FromFirstBase,
}

/// The segment size of a PostgreSQL archive.
///
/// # Errors
/// When the archive is of another engine, or its record makes no sense.
pub fn segment_size(archive: &Archive) -> anyhow::Result<WalSegmentSize> {
    let record = archive.record();
    if record.engine != "postgresql" {
        let message = format!(
            "server {} is a {} server, which this version cannot restore",
            record.name, record.engine
        );
        return Err(Failure::new(ErrorClass::Config, message).into());
    }
    let len = record.log_file_len.unwrap_or_default();
    WalSegmentSize::try_from(len).map_err(|error| {
        Failure::new(
            ErrorClass::Corrupt,
            format!("the record of server {}: {error}", record.name),
        )
        .into()
    })
}

/// Lists what an archive holds.
///
/// # Errors
/// What the store says; damage in small objects.
pub async fn list(repository: &Repository, archive: &Archive, extent: Extent) -> anyhow::Result<Listed> {
    let size = segment_size(archive)?;
    let record = archive.record();
    let backups = list_backups(&archive.base())
        .await
        .context("list the base backups")?;
    let bases: Vec<Base> = backups
        .backups
        .iter()
        .map(|header| Base::new(header, size))
        .collect();
    let lease = lease::read_lease(&**repository.storage(), &record.name).await?;
    let lease = lease
        .map(|stored| stored.lease)
        .filter(|lease| lease.generation == record.generation);
    let covered = lease.as_ref().and_then(|lease| lease.covered);

    let mut listed = Listed {
        server: record.name.clone(),
        generation: record.generation,
        system_id: record.system_id.clone(),
        segment_size: size,
        runs: BTreeMap::new(),
        stored: BTreeMap::new(),
        set_aside: Vec::new(),
        histories: BTreeMap::new(),
        unreadable_bases: Vec::new(),
        gaps: archive.gaps().await.context("list the recorded gaps")?,
        lease,
        bases,
    };
    let unreadable = backups
        .unreadable
        .into_iter()
        .map(|(id, error)| (id.to_string(), error));
    listed.unreadable_bases = unreadable.collect();
    for branch in archive.branches().await.context("list the timelines")? {
        let timeline = timeline_of(branch);
        if let Some(history) = read_history(archive, timeline).await? {
            listed.histories.insert(timeline, history);
        }
        let from = match extent {
            Extent::All => 0,
            Extent::FromFirstBase => first_file(&listed.bases, timeline, size),
        };
        let last = covered
            .filter(|covered| covered.branch == branch)
            .map(|covered| covered.position.file);
        let mut list = archive.list_slices(branch, from, last).await?;
        listed.stored.insert(timeline, StoredLens::new(&list));
        list.stored_lens = Vec::new();
        // Joining a million names takes a moment of CPU.
        let runs = tokio::task::spawn_blocking(move || coverage(&mut list.slices)).await?;
        let place = covered.map(|covered| (covered.branch, covered.position));
        let (runs, aside) = set_aside(runs, timeline, &listed.bases, place, size);
        listed.runs.insert(timeline, runs);
        listed.set_aside.extend(aside.iter().map(|run| SetAside {
            timeline,
            begin: lsn_of(run.begin.position, size),
            end: lsn_of(run.end.position, size),
        }));
    }
    Ok(listed)
}

/// Parts the runs of one timeline into those that count and those that nothing leads to: what a killed writer stored
/// past a slice that it had not stored yet. Those would pass for log behind a gap, and the true end of the log for
/// something that is not the latest. A hole before `covered` is no such thing: a writer went on behind it, so what is
/// missing there is lost.
fn set_aside(
    runs: Vec<Run>,
    timeline: TimelineId,
    bases: &[Base],
    covered: Option<Place>,
    size: WalSegmentSize,
) -> (Vec<Run>, Vec<Run>) {
    let has_base = |run: &Run| {
        let mut begins = bases
            .iter()
            .filter(|base| base.begin.timeline == timeline)
            .map(|base| base.begin.lsn);
        begins.any(|begin| run.contains(position_of(begin, size)))
    };
    let mut before = None;
    runs.into_iter().partition(|run| {
        let hole = before.replace((branch_of(timeline), run.end.position));
        let is_lost = |hole: Place| covered.is_some_and(|covered| hole < covered);
        hole.is_none_or(is_lost) || run.is_anchored() || has_base(run)
    })
}

/// The first file of `timeline` that any base backup needs; all of them for timelines that begin later.
fn first_file(bases: &[Base], timeline: TimelineId, size: WalSegmentSize) -> u64 {
    let begins = bases.iter().filter(|base| base.begin.timeline <= timeline);
    let first = begins.map(|base| position_of(base.begin.lsn, size).file).min();
    first.unwrap_or_default()
}

/// The ancestry of a timeline as its history file tells it.
///
/// # Errors
/// When the file is damaged; what the store says.
pub async fn read_history(
    archive: &Archive,
    timeline: TimelineId,
) -> anyhow::Result<Option<TimelineHistory>> {
    let Some(text) = read_history_text(archive, timeline).await? else {
        return Ok(None);
    };
    let history = TimelineHistory::parse(timeline, &text)
        .map_err(|error| Failure::new(ErrorClass::Corrupt, error.to_string()))?;
    Ok(Some(history))
}

/// The text of a history file.
///
/// # Errors
/// When the file is damaged; what the store says.
pub async fn read_history_text(archive: &Archive, timeline: TimelineId) -> anyhow::Result<Option<String>> {
    let name = timeline.history_file_name();
    let bytes = archive.read_branch_file(branch_of(timeline), &name).await?;
    let text = bytes.map(String::from_utf8).transpose();
    text.map_err(|_| Failure::new(ErrorClass::Corrupt, format!("the stored {name} is no text")).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Point;
    use tidemark_repository::base::BackupKind;
    use tidemark_repository::log::{ChainHash, SliceFlags, SliceKey};
    use tidemark_types::{Lsn, Timestamp};

    const MIB: u64 = 1 << 20;
    const TIMELINE: TimelineId = TimelineId(2);

    fn size() -> WalSegmentSize {
        WalSegmentSize::try_from(MIB).unwrap()
    }

    /// A slice of `[begin, end)`, which lies in one segment.
    fn slice(begin: u64, end: u64, begin_hash: ChainHash) -> SliceKey {
        SliceKey {
            file: begin / MIB,
            begin: begin % MIB,
            end: begin % MIB + (end - begin),
            begin_hash,
            end_hash: ChainHash(end.to_be_bytes()),
            back: 0,
            times: None,
            flags: SliceFlags::default(),
        }
    }

    /// From the begin of segment 1, a hole, and then what this slice holds.
    fn runs_with(behind: SliceKey) -> Vec<Run> {
        let runs = coverage(&mut [slice(MIB, MIB + 1000, ChainHash::ORIGIN), behind]);
        assert_eq!(runs.len(), 2);
        runs
    }

    fn unanchored() -> SliceKey {
        slice(MIB + 3000, MIB + 5000, ChainHash((MIB + 3000).to_be_bytes()))
    }

    fn place(timeline: u32, lsn: u64) -> Option<Place> {
        Some((branch_of(TimelineId(timeline)), position_of(Lsn(lsn), size())))
    }

    fn base_at(timeline: TimelineId, lsn: u64) -> Base {
        let point = |lsn| Point {
            timeline,
            lsn: Lsn(lsn),
        };
        Base {
            id: "base".to_owned(),
            kind: BackupKind::Full,
            parent: None,
            begin: point(lsn),
            end: point(lsn + 40),
            started: Timestamp(0),
            stopped: Timestamp(0),
            bytes: 0,
            stored_bytes: 0,
        }
    }

    /// How many of two runs are kept; the first always is.
    fn kept(behind: SliceKey, bases: &[Base], covered: Option<Place>) -> usize {
        let (kept, aside) = set_aside(runs_with(behind), TIMELINE, bases, covered, size());
        assert_eq!(kept.len() + aside.len(), 2);
        assert_eq!(kept[0].begin.hash, ChainHash::ORIGIN);
        kept.len()
    }

    #[test]
    fn a_hole_that_a_writer_went_past_is_a_gap() {
        assert_eq!(kept(unanchored(), &[], place(2, MIB + 1001)), 2);
        assert_eq!(kept(unanchored(), &[], place(2, MIB + 5000)), 2);
        // It went on to a later timeline, and so past everything on this one.
        assert_eq!(kept(unanchored(), &[], place(3, MIB)), 2);
    }

    #[test]
    fn what_lies_behind_a_hole_that_no_writer_went_past_is_set_aside() {
        assert_eq!(
            kept(unanchored(), &[], place(2, MIB + 1000)),
            1,
            "covered up to the hole"
        );
        assert_eq!(kept(unanchored(), &[], place(2, MIB + 500)), 1);
        assert_eq!(
            kept(unanchored(), &[], place(1, 9 * MIB)),
            1,
            "covered on an earlier timeline"
        );
        assert_eq!(kept(unanchored(), &[], None), 1, "nobody told of coverage");
    }

    #[test]
    fn log_that_can_begin_there_is_kept_behind_any_hole() {
        let after_gap = slice(3 * MIB, 3 * MIB + 1000, ChainHash::ORIGIN);
        assert_eq!(kept(after_gap, &[], None), 2);
        assert_eq!(kept(after_gap, &[], place(2, MIB + 500)), 2);
    }

    #[test]
    fn log_that_a_base_backup_begins_in_is_kept() {
        assert_eq!(kept(unanchored(), &[base_at(TIMELINE, MIB + 4000)], None), 2);
        assert_eq!(
            kept(unanchored(), &[base_at(TIMELINE, MIB + 2000)], None),
            1,
            "in the hole"
        );
        assert_eq!(
            kept(unanchored(), &[base_at(TimelineId(1), MIB + 4000)], None),
            1,
            "elsewhere"
        );
    }

    #[test]
    fn the_first_run_is_kept_whatever_it_begins_with() {
        let runs = coverage(&mut [unanchored()]);
        let (kept, aside) = set_aside(runs, TIMELINE, &[], None, size());
        assert_eq!((kept.len(), aside.len()), (1, 0));
    }
}
