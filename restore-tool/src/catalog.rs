//! Listing one generation of a server: what planning works on. I/O only; what it means is decided elsewhere.

use std::collections::BTreeMap;

use anyhow::Context;
use tidemark_mysql::archive::BinlogBranch;
use tidemark_repository::base::{LogPosition as StoredPosition, list_backups};
use tidemark_repository::log::{Run, coverage};
use tidemark_repository::{Archive, Branch, LogPosition, Repository, lease};
use tidemark_types::{BinlogBasename, ErrorClass, LogFiles, TimelineHistory, TimelineId, WalSegmentSize};

use crate::engine::Engine;
use crate::exit::Failure;
use crate::plan::{Ancestry, Base, BranchLog, Listed, SetAside, StoredLens};

/// A position on a branch. A position on a later branch is a later one.
type Place = (Branch, LogPosition);

/// What is known of a branch before its log is listed.
type BranchFacts = (LogFiles, Ancestry);

/// How much of the log to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    All,
    /// What some base backup can be rolled forward with.
    FromFirstBase,
}

/// The segment size of a PostgreSQL archive.
fn segment_size(archive: &Archive) -> Result<WalSegmentSize, Failure> {
    let record = archive.record();
    let len = record.log_file_len.unwrap_or_default();
    WalSegmentSize::try_from(len).map_err(|error| {
        Failure::new(
            ErrorClass::Corrupt,
            format!("the record of server {}: {error}", record.name),
        )
    })
}

/// Lists what an archive holds.
///
/// # Errors
/// What the store says; damage in small objects.
pub async fn list(repository: &Repository, archive: &Archive, extent: Extent) -> anyhow::Result<Listed> {
    let record = archive.record();
    let engine = Engine::of(record)?;
    let wal = match engine {
        Engine::Postgresql => Some(segment_size(archive)?),
        Engine::Mysql | Engine::Mariadb => None,
    };
    let branches = branch_facts(archive, wal).await?;
    let backups = list_backups(&archive.base())
        .await
        .context("list the base backups")?;
    let bases: Vec<Base> = backups
        .backups
        .iter()
        .map(|header| Base::new(header, |position| files_of(wal, &branches, position)))
        .collect();
    let lease = lease::read_lease(&**repository.storage(), &record.name).await?;
    let lease = lease
        .map(|stored| stored.lease)
        .filter(|lease| lease.generation == record.generation);
    let covered = lease.as_ref().and_then(|lease| lease.covered);

    let mut listed = Listed {
        server: record.name.clone(),
        generation: record.generation,
        engine,
        system_id: record.system_id.clone(),
        branches: BTreeMap::new(),
        set_aside: Vec::new(),
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
    for (branch, (files, ancestry)) in branches {
        let from = match extent {
            Extent::All => 0,
            Extent::FromFirstBase => first_file(&listed.bases, branch, files),
        };
        let last = covered
            .filter(|covered| covered.branch == branch)
            .map(|covered| covered.position.file);
        let mut list = archive.list_slices(branch, from, last).await?;
        let stored = StoredLens::new(&list);
        list.stored_lens = Vec::new();
        // Joining a million names takes a moment of CPU.
        let runs = tokio::task::spawn_blocking(move || coverage(&mut list.slices)).await?;
        let place = covered.map(|covered| (covered.branch, covered.position));
        let (runs, aside) = set_aside(runs, branch, &listed.bases, place);
        listed.set_aside.extend(aside.iter().map(|run| SetAside {
            branch,
            begin: files.position(run.begin.position),
            end: files.position(run.end.position),
        }));
        listed.branches.insert(
            branch,
            BranchLog {
                files,
                ancestry,
                runs,
                stored,
            },
        );
    }
    Ok(listed)
}

/// The branches that log is stored of, and what leads to each. `wal` is the segment size where they are timelines.
async fn branch_facts(
    archive: &Archive,
    wal: Option<WalSegmentSize>,
) -> anyhow::Result<BTreeMap<Branch, BranchFacts>> {
    let branches = archive.branches().await.context("list the branches of the log")?;
    match wal {
        Some(size) => timelines(archive, &branches, size).await,
        None => binlog_branches(archive, &branches).await,
    }
}

async fn timelines(
    archive: &Archive,
    branches: &[Branch],
    size: WalSegmentSize,
) -> anyhow::Result<BTreeMap<Branch, BranchFacts>> {
    let mut facts = BTreeMap::new();
    for branch in branches {
        let timeline = TimelineId(branch.0);
        // One without a history file has no known ancestors.
        let history = read_history(archive, timeline).await?;
        let history = history.unwrap_or_else(|| TimelineHistory::root(timeline));
        let ancestry = Ancestry::of_timeline(&history, size);
        facts.insert(*branch, (LogFiles::Wal(size), ancestry));
    }
    Ok(facts)
}

async fn binlog_branches(
    archive: &Archive,
    branches: &[Branch],
) -> anyhow::Result<BTreeMap<Branch, BranchFacts>> {
    let mut known: BTreeMap<Branch, BinlogBranch> = BTreeMap::new();
    // One that nothing was ever written on may lie between two others.
    let mut to_read = branches.to_vec();
    while let Some(branch) = to_read.pop() {
        if known.contains_key(&branch) {
            continue;
        }
        let facts = read_binlog_branch(archive, branch).await?;
        to_read.extend(facts.follows.map(|end| Branch(end.branch)));
        known.insert(branch, facts);
    }
    let facts = branches.iter().filter_map(|branch| {
        let files = known.get(branch)?.files(branch.0);
        Some((*branch, (files, Ancestry::of_binlogs(*branch, &known)?)))
    });
    Ok(facts.collect())
}

async fn read_binlog_branch(archive: &Archive, branch: Branch) -> anyhow::Result<BinlogBranch> {
    let name = BinlogBranch::FILE_NAME;
    let damaged = |problem: String| {
        Failure::new(
            ErrorClass::Corrupt,
            format!("{name} of branch {branch} of the binlog {problem}"),
        )
    };
    let bytes = archive.read_branch_file(branch, name).await?;
    let bytes =
        bytes.ok_or_else(|| damaged("is missing: nothing tells what its files are called".to_owned()))?;
    let facts =
        serde_json::from_slice(&bytes).map_err(|error| damaged(format!("cannot be read: {error}")))?;
    Ok(facts)
}

/// The log files of the branch that a base backup's position lies on, whether or not log of that is stored.
fn files_of(
    wal: Option<WalSegmentSize>,
    branches: &BTreeMap<Branch, BranchFacts>,
    position: &StoredPosition,
) -> LogFiles {
    if let Some(size) = wal {
        return LogFiles::Wal(size);
    }
    let known = branches.get(&Branch(position.branch)).map(|(files, _)| *files);
    known.unwrap_or_else(|| {
        let file = position.text.rsplit_once(':').map_or("", |(file, _)| file);
        let basename = BinlogBasename::parse_file(file).map(|(basename, _)| basename);
        LogFiles::Binlog {
            branch: position.branch,
            basename: basename.unwrap_or_else(|| BinlogBasename::new("binlog")),
        }
    })
}

/// Parts the runs of one branch into those that count and those that nothing leads to: what a killed writer stored
/// past a slice that it had not stored yet. Those would pass for log behind a gap, and the true end of the log for
/// something that is not the latest. A hole before `covered` is no such thing: a writer went on behind it, so what is
/// missing there is lost.
fn set_aside(runs: Vec<Run>, branch: Branch, bases: &[Base], covered: Option<Place>) -> (Vec<Run>, Vec<Run>) {
    let has_base = |run: &Run| {
        let mut begins = bases
            .iter()
            .filter(|base| base.begin.branch == branch)
            .map(|base| base.begin.position.at);
        begins.any(|begin| run.contains(begin))
    };
    let mut before = None;
    runs.into_iter().partition(|run| {
        let hole = before.replace((branch, run.end.position));
        let is_lost = |hole: Place| covered.is_some_and(|covered| hole < covered);
        hole.is_none_or(is_lost) || run.is_anchored() || has_base(run)
    })
}

/// The first file of `branch` that any base backup needs. Timelines number their files on from the one that they left; of
/// a branch of binlogs whatever leads on from an earlier one may be needed.
fn first_file(bases: &[Base], branch: Branch, files: LogFiles) -> u64 {
    let counts_anew = matches!(files, LogFiles::Binlog { .. });
    let begins = bases.iter().map(|base| base.begin);
    let begins = begins.filter(|begin| begin.branch <= branch);
    let first = begins.map(|begin| match begin.branch == branch || !counts_anew {
        true => begin.position.at.file,
        false => 0,
    });
    first.min().unwrap_or_default()
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
    let bytes = archive.read_branch_file(Branch(timeline.0), &name).await?;
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
    const BRANCH: Branch = Branch(2);

    fn files() -> LogFiles {
        LogFiles::Wal(WalSegmentSize::try_from(MIB).unwrap())
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

    fn place(branch: u32, lsn: u64) -> Option<Place> {
        Some((Branch(branch), files().lsn(Lsn(lsn)).at))
    }

    fn base_at(branch: Branch, lsn: u64) -> Base {
        let point = |lsn| Point {
            branch,
            position: files().lsn(Lsn(lsn)),
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
        let (kept, aside) = set_aside(runs_with(behind), BRANCH, bases, covered);
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
        assert_eq!(kept(unanchored(), &[base_at(BRANCH, MIB + 4000)], None), 2);
        assert_eq!(
            kept(unanchored(), &[base_at(BRANCH, MIB + 2000)], None),
            1,
            "in the hole"
        );
        assert_eq!(
            kept(unanchored(), &[base_at(Branch(1), MIB + 4000)], None),
            1,
            "elsewhere"
        );
    }

    #[test]
    fn the_first_run_is_kept_whatever_it_begins_with() {
        let runs = coverage(&mut [unanchored()]);
        let (kept, aside) = set_aside(runs, BRANCH, &[], None);
        assert_eq!((kept.len(), aside.len()), (1, 0));
    }
}
