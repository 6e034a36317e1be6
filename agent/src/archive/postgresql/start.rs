//! Where to begin streaming: decided from what is stored and from the history of the server's timeline. Pure.

use tidemark_repository::log::{ChainPoint, Resume, Run, run_to_continue};
use tidemark_repository::{Branch, LogPosition, SliceKey};
use tidemark_types::{Lsn, TimelineHistory, TimelineId, WalSegmentSize};

use super::lsn_map::{lsn_of, position_of, timeline_of};

/// Where to begin.
#[derive(Debug, Clone)]
pub struct Start {
    /// The timeline to ask for.
    pub timeline: TimelineId,
    /// The position to ask for.
    pub lsn: Lsn,
    /// What the assembler has to know.
    pub resume: Resume,
    /// The end of the last whole record that is stored.
    pub whole: Lsn,
}

/// Why a server's log cannot follow what is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotFollow {
    /// The server is behind what another of its kind has written.
    #[error("the repository holds timeline {stored}, and the server is on timeline {server}")]
    OlderTimeline {
        /// The newest stored timeline.
        stored: TimelineId,
        /// The server's.
        server: TimelineId,
    },
    /// The newest base backup is not part of the server's past.
    #[error(
        "timeline {server} of the server left timeline {timeline} before {backup_end}, where the newest base backup ends"
    )]
    ForksBeforeBackup {
        /// The server's timeline.
        server: TimelineId,
        /// The backup's.
        timeline: TimelineId,
        /// Where the backup ends.
        backup_end: Lsn,
    },
}

/// The stored branch to go on from: the newest one that is part of the server's past; `None` when none is.
///
/// # Errors
/// [`CannotFollow`] when what is stored is not the server's past. `newest_backup` is the end of the newest base backup
/// and its timeline.
pub fn branch_to_continue(
    stored: &[Branch],
    history: &TimelineHistory,
    newest_backup: Option<(TimelineId, Lsn)>,
) -> Result<Option<Branch>, CannotFollow> {
    if let Some(newest) = stored
        .iter()
        .max()
        .map(|branch| timeline_of(*branch))
        .filter(|newest| *newest > history.timeline)
    {
        return Err(CannotFollow::OlderTimeline {
            stored: newest,
            server: history.timeline,
        });
    }
    if let Some((timeline, backup_end)) =
        newest_backup.filter(|(timeline, end)| !history.contains(*timeline, *end))
    {
        return Err(CannotFollow::ForksBeforeBackup {
            server: history.timeline,
            timeline,
            backup_end,
        });
    }
    Ok(stored
        .iter()
        .copied()
        .filter(|branch| history.end_of(timeline_of(*branch)).is_some())
        .max())
}

/// How far back to begin again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// At the start of the grain that holds the last byte of the last whole record, so that some of what is stored is
    /// always received again and compared.
    Compared,
    /// At the start of the grain that the next record begins in: less, where the server has removed what came before.
    Least,
}

/// Where to go on from the slices of `branch`, as far back as `overlap` says, or on the next timeline where this one has
/// ended before that. `None` when there are no slices.
pub fn continue_from(
    branch: Branch,
    slices: &mut [SliceKey],
    history: &TimelineHistory,
    size: WalSegmentSize,
    overlap: Overlap,
) -> Option<Start> {
    let run = run_to_continue(slices)?;
    let end = lsn_of(run.end.position, size);
    let timeline = timeline_of(branch);
    if let Some(Some(switch)) = history
        .end_of(timeline)
        .filter(|switch| switch.is_some_and(|switch| end >= switch))
    {
        let next = next_timeline(history, timeline);
        return Some(begin_segment(next, switch, size));
    }
    let whole = last_whole(&run, size);
    let held = match overlap {
        Overlap::Compared => Lsn(whole.0.saturating_sub(1)).max(lsn_of(run.begin.position, size)),
        Overlap::Least => whole,
    };
    let wanted = position_of(held, size).grain_start();
    Some(resume_in(&run, slices, timeline, whole, wanted, size))
}

/// Where to go on from the slices of `branch` when the log comes in whole files: at the start of the one that what is
/// stored ends in; and what is stored. `None` when there are no slices.
pub fn continue_from_file(
    branch: Branch,
    slices: &mut [SliceKey],
    size: WalSegmentSize,
) -> Option<(Start, Run)> {
    let run = run_to_continue(slices)?;
    let wanted = LogPosition::start_of(run.end.position.file);
    let whole = last_whole(&run, size);
    let start = resume_in(&run, slices, timeline_of(branch), whole, wanted, size);
    Some((start, run))
}

/// The end of the last whole record in `run`; its begin when there is none.
fn last_whole(run: &Run, size: WalSegmentSize) -> Lsn {
    let back = run.path.last().map_or(0, |slice| slice.back);
    let end = lsn_of(run.end.position, size);
    Lsn(end.0.saturating_sub(back)).max(lsn_of(run.begin.position, size))
}

/// The timeline that follows `timeline` on `history`.
fn next_timeline(history: &TimelineHistory, timeline: TimelineId) -> TimelineId {
    let later = history
        .ancestors
        .iter()
        .map(|entry| entry.timeline)
        .find(|ancestor| *ancestor > timeline);
    later.unwrap_or(history.timeline)
}

/// Streaming from the start of the segment that holds `lsn`, with nothing stored of it.
pub fn begin_segment(timeline: TimelineId, lsn: Lsn, size: WalSegmentSize) -> Start {
    let segment = size.segment_of(lsn);
    let lsn = size.start_of(segment);
    Start {
        timeline,
        lsn,
        resume: Resume::origin(segment.0),
        whole: lsn,
    }
}

/// Whether receiving again from the end of `slice` on compares what only this server can have written. Where a file or a
/// record goes on, it does; where neither does, there may be nothing but the zeros behind a segment switch, which every
/// server writes alike, and no decoder can begin there.
fn tells_the_writer(slice: &SliceKey) -> bool {
    slice.back > 0 || slice.end_position().offset == 0
}

fn resume_in(
    run: &Run,
    slices: &[SliceKey],
    timeline: TimelineId,
    whole: Lsn,
    wanted: LogPosition,
    size: WalSegmentSize,
) -> Start {
    // Complete grains are slices of their own, so the path passes their borders; if one was lost, an earlier point of
    // a grain's start does as well.
    let seed = run
        .path
        .iter()
        .filter(|slice| tells_the_writer(slice))
        .map(|slice| ChainPoint {
            position: slice.end_position(),
            hash: slice.end_hash,
        })
        .filter(|point| point.position <= wanted && point.position == point.position.grain_start())
        .max()
        .unwrap_or(run.begin);
    let resume = Resume::within(run, slices, seed);
    Start {
        timeline,
        lsn: lsn_of(seed.position, size),
        resume,
        whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_repository::log::{ChainHash, ChainKey, SliceAssembler};
    use tidemark_types::HistoryEntry;

    const MIB: u64 = 1 << 20;

    fn size() -> WalSegmentSize {
        WalSegmentSize::try_from(MIB).unwrap()
    }

    fn history(timeline: u32, ancestors: &[(u32, u64)]) -> TimelineHistory {
        let entry = |(timeline, end): &(u32, u64)| HistoryEntry {
            timeline: TimelineId(*timeline),
            end: Lsn(*end),
        };
        TimelineHistory {
            timeline: TimelineId(timeline),
            ancestors: ancestors.iter().map(entry).collect(),
        }
    }

    /// Slices of segments 5 and following, of `len` bytes in all, in steps of `step`; the last record is whole
    /// `back` bytes before the end.
    fn slices(len: u64, step: u64, back: u64) -> Vec<SliceKey> {
        let mut assembler = SliceAssembler::new(ChainKey([1; 32]), Resume::origin(5));
        let mut keys = Vec::new();
        let mut done = 0;
        while done < len {
            let offset = assembler.position().offset;
            let take = step.min(len - done).min(MIB - offset);
            assembler.push(&vec![7; usize::try_from(take).unwrap()]).unwrap();
            done += take;
            let back = if done == len { back } else { 0 };
            keys.extend(
                assembler
                    .cut(back, offset + take == MIB)
                    .into_iter()
                    .map(|draft| draft.key),
            );
        }
        keys
    }

    #[test]
    fn nothing_stored_is_no_start() {
        assert!(continue_from(Branch(1), &mut [], &history(1, &[]), size(), Overlap::Compared).is_none());
        assert_eq!(branch_to_continue(&[], &history(1, &[]), None), Ok(None));
    }

    #[test]
    fn streaming_goes_on_at_the_start_of_the_open_segment() {
        let mut stored = slices(MIB + 3000, 1000, 100);
        let start = continue_from(
            Branch(1),
            &mut stored,
            &history(1, &[]),
            size(),
            Overlap::Compared,
        )
        .unwrap();
        assert_eq!((start.timeline, start.lsn), (TimelineId(1), Lsn(6 * MIB)));
        assert_eq!(
            start.resume.durable,
            LogPosition {
                file: 6,
                offset: 3000
            }
        );
        assert_eq!(start.whole, Lsn(6 * MIB + 2900));
        assert_ne!(start.resume.seed, ChainHash::ORIGIN);
    }

    #[test]
    fn a_record_from_the_segment_before_is_received_from_its_begin() {
        let mut stored = slices(2 * MIB + 3000, 1000, MIB + 3500);
        let start = continue_from(
            Branch(1),
            &mut stored,
            &history(1, &[]),
            size(),
            Overlap::Compared,
        )
        .unwrap();
        assert_eq!(start.lsn, Lsn(5 * MIB));
        assert_eq!(
            start.resume.durable,
            LogPosition {
                file: 7,
                offset: 3000
            }
        );
    }

    #[test]
    fn what_may_be_padding_behind_a_segment_switch_is_not_begun_in() {
        let size = WalSegmentSize::try_from(64 * MIB).unwrap();
        let start_after = |backs: &[u64]| {
            let mut assembler = SliceAssembler::new(ChainKey([1; 32]), Resume::origin(2));
            let mut stored = Vec::new();
            for back in backs {
                assembler.push(&vec![0; 16 << 20]).unwrap();
                stored.extend(assembler.cut(*back, false).into_iter().map(|draft| draft.key));
            }
            let start = continue_from(Branch(1), &mut stored, &history(1, &[]), size, Overlap::Compared);
            start.unwrap().lsn.0 / MIB
        };
        assert_eq!(
            start_after(&[100, 100, 100]),
            128 + 32,
            "a record reaches over each border"
        );
        assert_eq!(
            start_after(&[100, 0, 0]),
            128 + 16,
            "a switch in the second grain"
        );
        assert_eq!(start_after(&[0, 0, 0]), 128, "a switch in the first grain");
    }

    #[test]
    fn whole_files_go_on_at_the_start_of_the_file_that_is_open_or_next() {
        let mut stored = slices(MIB + 3000, 1000, MIB);
        let (start, run) = continue_from_file(Branch(1), &mut stored, size()).unwrap();
        assert_eq!((start.lsn, start.whole), (Lsn(6 * MIB), Lsn(5 * MIB + 3000)));
        assert_eq!(start.resume.durable, run.end.position);
        assert_ne!(start.resume.seed, ChainHash::ORIGIN);

        let mut stored = slices(MIB, MIB, 700);
        let (start, run) = continue_from_file(Branch(1), &mut stored, size()).unwrap();
        assert_eq!((start.lsn, start.whole), (Lsn(6 * MIB), Lsn(6 * MIB - 700)));
        assert_eq!(start.resume.durable, LogPosition::start_of(6));
        assert_eq!(start.resume.seed, run.end.hash);
    }

    #[test]
    fn a_timeline_that_ended_is_left_at_the_segment_of_the_fork() {
        let mut stored = slices(3000, 1000, 0);
        let fork = 5 * MIB + 3000;
        let start = continue_from(
            Branch(1),
            &mut stored,
            &history(3, &[(1, fork), (2, fork + 9)]),
            size(),
            Overlap::Compared,
        )
        .unwrap();
        assert_eq!((start.timeline, start.lsn), (TimelineId(2), Lsn(5 * MIB)));
        assert_eq!(start.resume.durable, start.resume.start);
        // Not all of the old timeline is stored yet: go on there, the server tells where it ends.
        let start = continue_from(
            Branch(1),
            &mut stored,
            &history(3, &[(1, fork + 1)]),
            size(),
            Overlap::Compared,
        )
        .unwrap();
        assert_eq!(start.timeline, TimelineId(1));
    }

    #[test]
    fn a_server_that_is_not_what_was_stored_is_refused() {
        let forked = history(3, &[(1, 500)]);
        assert_eq!(
            branch_to_continue(&[Branch(1), Branch(2)], &forked, None),
            Ok(Some(Branch(1)))
        );
        assert!(matches!(
            branch_to_continue(&[Branch(1), Branch(4)], &forked, None),
            Err(CannotFollow::OlderTimeline { .. })
        ));
        assert!(matches!(
            branch_to_continue(&[Branch(1)], &forked, Some((TimelineId(1), Lsn(501)))),
            Err(CannotFollow::ForksBeforeBackup { .. })
        ));
        assert_eq!(
            branch_to_continue(&[Branch(1)], &forked, Some((TimelineId(1), Lsn(500)))),
            Ok(Some(Branch(1)))
        );
    }
}
