//! Decides for each file how an incremental backup takes it in. Pure.

use tidemark_postgres::basebackup::FileKind;
use tidemark_postgres::page::PAGE_SIZE;
use tidemark_postgres::wal::{ChangedBlocks, Fork, Relation};

use super::work::Run;

/// Pages looked at together when unchanged pages are checked: neighbours cost next to nothing.
const CHECK_PAGES: u32 = 8;

/// How a file is taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilePlan {
    /// All of it is stored: the parent has no such file.
    Whole,
    /// All of it is read, and stored where it is not as the parent has it.
    Compare,
    /// It is as the parent has it.
    Keep,
    /// These blocks are stored, the rest is as the parent has it. May be none, of a file that shrank.
    Runs(Vec<Run>),
}

/// What the log says about a stretch of it.
#[derive(Debug)]
pub struct Delta {
    changed: ChangedBlocks,
    pages_per_segment: u32,
    /// The blocks of the relation that was asked about last: its segments are asked about one after the other.
    last: Option<(Relation, Vec<u32>)>,
}

impl Delta {
    /// Plans with these changed blocks.
    pub fn new(changed: ChangedBlocks, pages_per_segment: u32) -> Delta {
        Delta {
            changed,
            pages_per_segment,
            last: None,
        }
    }

    /// How a file of this kind and size is taken in; `base` is its size in the parent. Only main forks are trusted to
    /// the log: the others change past it.
    pub fn plan(&mut self, kind: FileKind, size: u64, base: Option<u64>) -> FilePlan {
        let Some(base) = base else { return FilePlan::Whole };
        let Some(segment) = kind.main_fork() else {
            return FilePlan::Compare;
        };
        let (Some(pages), Some(base_pages)) = (pages(size), pages(base)) else {
            return FilePlan::Compare;
        };
        let first = segment.number.saturating_mul(self.pages_per_segment);
        if self.is_all_changed(segment.relation, first) {
            return FilePlan::Compare;
        }
        let limit = self.limit_within(segment.relation, first);
        let rewritten_from = base_pages.min(limit).min(pages);
        let mut runs = self.runs(segment.relation, first, rewritten_from);
        if rewritten_from < pages {
            add(&mut runs, rewritten_from, pages - rewritten_from);
        }
        if runs.is_empty() && size == base {
            FilePlan::Keep
        } else {
            FilePlan::Runs(runs)
        }
    }

    /// Whether every block of the segment that begins at block `first` counts as changed.
    fn is_all_changed(&self, relation: Relation, first: u32) -> bool {
        let is_listed = self.changed.get(relation).is_some();
        if is_listed {
            self.limit_within(relation, first) == 0
        } else {
            // Of a database that changed as a whole every block did.
            self.changed.is_changed(relation, first)
        }
    }

    /// From which block of the segment on everything counts as changed.
    fn limit_within(&self, relation: Relation, first: u32) -> u32 {
        let limit = self
            .changed
            .get(relation)
            .and_then(|changes| changes.limit(Fork::Main));
        limit.map_or(u32::MAX, |limit| limit.saturating_sub(first))
    }

    /// The changed blocks below `end`, counted within the segment that begins at block `first`.
    fn runs(&mut self, relation: Relation, first: u32, end: u32) -> Vec<Run> {
        let blocks = self.blocks(relation);
        let from = blocks.partition_point(|block| *block < first);
        let to = blocks.partition_point(|block| *block < first.saturating_add(end));
        let mut runs = Vec::new();
        for block in blocks.get(from..to).unwrap_or_default() {
            add(&mut runs, block - first, 1);
        }
        runs
    }

    fn blocks(&mut self, relation: Relation) -> &[u32] {
        let is_last = self.last.as_ref().is_some_and(|(last, _)| *last == relation);
        if !is_last {
            let blocks = self
                .changed
                .get(relation)
                .map(|changes| changes.blocks().iter().collect());
            self.last = Some((relation, blocks.unwrap_or_default()));
        }
        self.last.as_ref().map_or(&[], |(_, blocks)| blocks)
    }
}

/// Adds blocks after all others.
fn add(runs: &mut Vec<Run>, first: u32, count: u32) {
    match runs.last_mut() {
        Some(last) if last.first + last.count == first => last.count += count,
        _ => runs.push(Run { first, count }),
    }
}

/// The number of pages in so many bytes, if they are whole pages.
fn pages(size: u64) -> Option<u32> {
    let page = PAGE_SIZE as u64;
    size.is_multiple_of(page)
        .then(|| u32::try_from(size / page).ok())
        .flatten()
}

/// Picks a share of the pages of a file of `size` bytes that are in none of `changed`, `random` choosing where.
pub fn sample(size: u64, changed: &[Run], share: f64, mut random: impl FnMut() -> f64) -> Vec<Run> {
    let all = u32::try_from(size / PAGE_SIZE as u64).unwrap_or(u32::MAX);
    let mut picked = Vec::new();
    if share <= 0.0 {
        return picked;
    }
    let mut changed = changed.iter().peekable();
    // Steps of a random length whose mean is what the share asks for.
    let mut step = || (f64::from(CHECK_PAGES) / share * 2.0 * random()).max(f64::from(CHECK_PAGES));
    let mut at = step() - f64::from(CHECK_PAGES);
    while at < f64::from(all) {
        // In range: checked against a u32 above.
        let first = at as u32;
        let end = all.min(first.saturating_add(CHECK_PAGES));
        while changed.next_if(|run| run.first + run.count <= first).is_some() {}
        if changed.peek().is_none_or(|run| end <= run.first) {
            picked.push(Run {
                first,
                count: end - first,
            });
        }
        at += step();
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_postgres::basebackup::kind_of;

    const PAGE: u64 = PAGE_SIZE as u64;

    /// Changed blocks as their encoding has them: one relation with a limit and runs in the first chunk, or a database.
    fn changed(limit: Option<u32>, runs: &[(u8, u8)], database: bool) -> ChangedBlocks {
        let mut bytes = b"TMCB\x01\0\0\0\0\0\0\0\0".to_vec();
        let number = |bytes: &mut Vec<u8>, number: u32| bytes.extend_from_slice(&number.to_le_bytes());
        bytes.push(u8::from(database));
        if database {
            number(&mut bytes, 1663);
            number(&mut bytes, 5);
            bytes.push(0);
        } else {
            bytes.push(1);
            [1663, 5, 16384]
                .into_iter()
                .for_each(|part| number(&mut bytes, part));
            bytes.push(u8::from(limit.is_some()));
            limit.into_iter().for_each(|limit| number(&mut bytes, limit));
            bytes.push(u8::from(!runs.is_empty()));
            if !runs.is_empty() {
                bytes.extend([0, u8::try_from(runs.len()).unwrap()]);
                runs.iter().for_each(|(gap, more)| bytes.extend([*gap, *more]));
            }
        }
        ChangedBlocks::decode(&bytes).unwrap()
    }

    fn plan(changed: ChangedBlocks, path: &str, pages: u64, base: Option<u64>) -> FilePlan {
        Delta::new(changed, 100).plan(kind_of(path), pages * PAGE, base.map(|pages| pages * PAGE))
    }

    fn runs(runs: &[(u32, u32)]) -> FilePlan {
        FilePlan::Runs(runs.iter().map(|&(first, count)| Run { first, count }).collect())
    }

    #[test]
    fn only_main_forks_are_trusted_to_the_log() {
        let none = ChangedBlocks::default;
        assert_eq!(plan(none(), "base/5/16384", 10, Some(10)), FilePlan::Keep);
        for path in [
            "base/5/16384_vm",
            "base/5/16384_fsm",
            "pg_xact/0000",
            "base/5/pg_filenode.map",
        ] {
            assert_eq!(plan(none(), path, 10, Some(10)), FilePlan::Compare, "{path}");
        }
        assert_eq!(plan(none(), "base/5/16384", 10, None), FilePlan::Whole);
    }

    #[test]
    fn changed_blocks_and_what_lies_past_the_parents_length_are_stored() {
        let some = || changed(None, &[(3, 1), (4, 0)], false);
        assert_eq!(
            plan(some(), "base/5/16384", 20, Some(20)),
            runs(&[(3, 2), (9, 1)])
        );
        assert_eq!(
            plan(some(), "base/5/16384", 20, Some(10)),
            runs(&[(3, 2), (9, 11)])
        );
        assert_eq!(plan(some(), "base/5/16384", 4, Some(20)), runs(&[(3, 1)]));
        assert_eq!(plan(some(), "base/5/16384", 2, Some(20)), runs(&[]));
        assert_eq!(plan(some(), "base/5/16385", 20, Some(20)), FilePlan::Keep);
    }

    #[test]
    fn blocks_are_counted_across_segments() {
        let some = || changed(None, &[(98, 3)], false);
        assert_eq!(plan(some(), "base/5/16384", 100, Some(100)), runs(&[(98, 2)]));
        assert_eq!(plan(some(), "base/5/16384.1", 50, Some(50)), runs(&[(0, 2)]));
        assert_eq!(plan(some(), "base/5/16384.2", 50, Some(50)), FilePlan::Keep);
    }

    #[test]
    fn from_the_smallest_truncation_on_everything_changed() {
        let cut = |limit| changed(Some(limit), &[(3, 0)], false);
        assert_eq!(
            plan(cut(7), "base/5/16384", 20, Some(20)),
            runs(&[(3, 1), (7, 13)])
        );
        assert_eq!(plan(cut(107), "base/5/16384.1", 20, Some(20)), runs(&[(7, 13)]));
        assert_eq!(plan(cut(7), "base/5/16384.1", 20, Some(20)), FilePlan::Compare);
    }

    #[test]
    fn a_database_that_was_made_is_compared_whole() {
        let made = || changed(None, &[], true);
        assert_eq!(plan(made(), "base/5/16384", 20, Some(20)), FilePlan::Compare);
        assert_eq!(plan(made(), "base/6/16384", 20, Some(20)), FilePlan::Keep);
    }

    #[test]
    fn a_sample_has_about_the_size_asked_for_and_no_changed_page() {
        let changed: Vec<Run> = (0..1000)
            .map(|n| Run {
                first: n * 1000,
                count: 300,
            })
            .collect();
        let mut state = 1u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let picked = sample(1_000_000 * PAGE, &changed, 0.01, &mut random);
        let pages: u32 = picked.iter().map(|run| run.count).sum();
        assert!((5000..9000).contains(&pages), "{pages} of 700000 unchanged pages");
        let is_changed = |page: u32| page % 1000 < 300;
        assert!(
            picked
                .iter()
                .all(|run| (run.first..run.first + run.count).all(|page| !is_changed(page)))
        );
        assert!(sample(1_000_000 * PAGE, &[], 0.0, &mut random).is_empty());
    }
}
