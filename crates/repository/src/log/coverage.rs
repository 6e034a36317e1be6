//! What the stored slices of one branch add up to. Pure: from names alone.
//!
//! Every slice is an edge from (begin, hash there) to (end, hash there). Slices join only where position *and* hash
//! meet, so that two writers whose logs diverged are never spliced. What can be reached from one start is a [`Run`];
//! a hole between runs is a gap.

use super::{ChainHash, LogPosition, SliceKey};

/// A point of the chain: where, and the hash there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainPoint {
    /// Where.
    pub position: LogPosition,
    /// The chain's hash there.
    pub hash: ChainHash,
}

/// An unbroken stretch of log: the fewest slices that lead from its begin to its farthest end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Where it begins.
    pub begin: ChainPoint,
    /// Where it ends.
    pub end: ChainPoint,
    /// Slices that lead there, in order; each begins at the point where the one before ends.
    pub path: Vec<SliceKey>,
    /// Points that other slices of the same stretch claim and that the path does not pass: ends from which nothing
    /// leads on, and begins to which nothing leads. They are harmless (a reply that was lost, an interrupted
    /// clean-up) when the path's bytes have that hash there, and betray a second, diverged writer when not.
    pub claims: Vec<ChainPoint>,
}

impl Run {
    /// Every point on the path and every claim, sorted: what re-received bytes can be compared with.
    pub fn known_points(&self, slices: &[SliceKey]) -> Vec<ChainPoint> {
        let mut points: Vec<ChainPoint> = slices
            .iter()
            .flat_map(|slice| [begin_of(slice), end_of(slice)])
            .filter(|point| point.position >= self.begin.position && point.position <= self.end.position)
            .collect();
        points.sort_unstable();
        points.dedup();
        points
    }

    /// The part of the path that holds any byte of `[begin, end)`.
    pub fn slices_within(&self, begin: LogPosition, end: LogPosition) -> &[SliceKey] {
        let first = self.path.partition_point(|slice| slice.end_position() <= begin);
        let last = self.path.partition_point(|slice| slice.begin_position() < end);
        &self.path[first.min(last)..last]
    }

    /// The point as names write it: the begin of the next file where `position` is the end of a file that has ended.
    pub fn normalize(&self, position: LogPosition) -> LogPosition {
        let ends_there = |slice: &&SliceKey| slice.file == position.file && slice.end == position.offset;
        let next = self
            .path
            .partition_point(|slice| slice.begin_position() < position);
        // The next one may hold nothing, and tell of the end alone.
        let around = self.path.get(next.saturating_sub(1)..).unwrap_or_default();
        let ends = around
            .iter()
            .take(2)
            .filter(ends_there)
            .map(SliceKey::end_position);
        ends.max().unwrap_or(position)
    }

    /// Whether `position`, which is not behind its end, is a place in one of its files: a file that has ended has none
    /// behind its end.
    pub fn has_place(&self, position: LogPosition) -> bool {
        position.offset == 0
            || self
                .slice_before(position)
                .is_none_or(|slice| slice.file != position.file || position.offset <= slice.end)
    }

    /// The last slice of the path that begins before `position`.
    fn slice_before(&self, position: LogPosition) -> Option<&SliceKey> {
        let after = self
            .path
            .partition_point(|slice| slice.begin_position() < position);
        after.checked_sub(1).and_then(|before| self.path.get(before))
    }

    /// Whether it begins where a log can begin: a branch's first file, or the first after a gap. One that does not is what
    /// a killed writer stored past a slice that it had not stored yet, or what lies behind a lost object.
    pub fn is_anchored(&self) -> bool {
        self.begin.position.offset == 0 && self.begin.hash == ChainHash::ORIGIN
    }

    /// Whether `position` lies in it, its end included.
    pub fn contains(&self, position: LogPosition) -> bool {
        self.begin.position <= position && position <= self.end.position
    }
}

fn begin_of(slice: &SliceKey) -> ChainPoint {
    ChainPoint {
        position: slice.begin_position(),
        hash: slice.begin_hash,
    }
}

fn end_of(slice: &SliceKey) -> ChainPoint {
    ChainPoint {
        position: slice.end_position(),
        hash: slice.end_hash,
    }
}

/// What is known of a point while slices are joined.
#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// The begin of the run it belongs to; `None` before any slice has led here, or begun here.
    run: Option<u32>,
    /// Fewest slices from there to here.
    hops: u32,
    /// The last of those slices.
    last: Option<u32>,
    /// Whether a slice leads on from here.
    leads_on: bool,
}

/// The points at which slices begin and end, sorted, with what is known of each: a million take 40 MB.
struct Nodes {
    points: Vec<ChainPoint>,
    nodes: Vec<Node>,
}

impl Nodes {
    /// `slices` are sorted by their begins.
    fn of(slices: &[SliceKey]) -> Nodes {
        let mut points: Vec<ChainPoint> = Vec::with_capacity(slices.len() + 1);
        points.extend(slices.iter().map(begin_of));
        points.sort_unstable();
        points.dedup();
        // Most ends are begins of other slices.
        let mut ends: Vec<ChainPoint> = slices.iter().map(end_of).collect();
        ends.retain(|end| points.binary_search(end).is_err());
        points.append(&mut ends);
        points.sort_unstable();
        points.dedup();
        let nodes = vec![Node::default(); points.len()];
        Nodes { points, nodes }
    }

    fn index_of(&self, point: ChainPoint) -> usize {
        // Every point that is asked for is an end of a slice that the nodes were made of.
        self.points.partition_point(|other| *other < point)
    }
}

/// Joins the slices of one branch to runs, in order of their begins.
pub fn coverage(slices: &mut [SliceKey]) -> Vec<Run> {
    slices.sort_unstable_by(|a, b| {
        a.begin_position()
            .cmp(&b.begin_position())
            .then_with(|| b.end_position().cmp(&a.end_position()))
    });
    let (nodes, origins) = join(slices);
    let mut ends: Vec<Option<ChainPoint>> = vec![None; origins.len()];
    let mut leaves: Vec<Vec<ChainPoint>> = vec![Vec::new(); origins.len()];
    for (point, node) in nodes.points.iter().zip(&nodes.nodes) {
        let Some(run) = node.run.filter(|_| !node.leads_on) else {
            continue;
        };
        let run = find(&origins, run);
        leaves[run].push(*point);
        ends[run] = ends[run].max(Some(*point));
    }
    let mut runs: Vec<Run> = Vec::new();
    for (index, origin) in origins.iter().enumerate() {
        let Some(end) = ends[index].filter(|_| origin.joined == index) else {
            continue;
        };
        let path = path_to(&nodes, slices, end);
        let mut claims: Vec<ChainPoint> = leaves[index]
            .iter()
            .copied()
            .filter(|leaf| *leaf != end)
            .collect();
        claims.extend(origins.iter().enumerate().filter_map(|(other, joined)| {
            (other != index && find(&origins, short(other)) == index).then_some(joined.point)
        }));
        // The path may start at another origin that was joined to this one; what it does not pass is a claim.
        let begin = path.first().map_or(end, begin_of);
        claims.retain(|claim| *claim != begin);
        if begin != origin.point {
            claims.push(origin.point);
        }
        claims.sort_unstable();
        runs.push(Run {
            begin,
            end,
            path,
            claims,
        });
    }
    runs.sort_by_key(|run| (run.begin, std::cmp::Reverse(run.end)));
    absorb_contained(runs)
}

/// The run that a writer goes on from: the last one that is anchored, or else the first, when it begins with a file, as
/// listings do. What lies past it unanchored is written again, and joined then. `None` when there is only such: a writer
/// was killed before it had stored what comes first.
pub fn run_to_continue(slices: &mut [SliceKey]) -> Option<Run> {
    let mut runs = coverage(slices);
    let begins_listing = || runs.first().is_some_and(|run| run.begin.position.offset == 0);
    let chosen = runs
        .iter()
        .rposition(Run::is_anchored)
        .or_else(|| begins_listing().then_some(0))?;
    Some(runs.swap_remove(chosen))
}

/// A point where a run may begin, and the run that it was found to be part of.
struct Origin {
    point: ChainPoint,
    joined: usize,
}

fn find(origins: &[Origin], run: u32) -> usize {
    let mut run = run as usize;
    while origins[run].joined != run {
        run = origins[run].joined;
    }
    run
}

/// Walks over the edges in order of their begins: every way to a point is known before it is left.
fn join(slices: &[SliceKey]) -> (Nodes, Vec<Origin>) {
    let mut nodes = Nodes::of(slices);
    let mut origins: Vec<Origin> = Vec::new();
    for (index, slice) in slices.iter().enumerate() {
        let from = nodes.index_of(begin_of(slice));
        let from = &mut nodes.nodes[from];
        let begun = *from.run.get_or_insert_with(|| {
            let number = origins.len();
            origins.push(Origin {
                point: begin_of(slice),
                joined: number,
            });
            short(number)
        });
        from.leads_on = true;
        let (run, hops) = (find(&origins, begun), from.hops + 1);
        let to = nodes.index_of(end_of(slice));
        let node = &mut nodes.nodes[to];
        let other = node.run.map(|other| find(&origins, other));
        let keep = other.map_or(run, |other| run.min(other));
        if let Some(other) = other {
            // Origins are numbered in order of position: the run of the earlier one swallows the later.
            origins[run.max(other)].joined = keep;
        }
        let better = other.is_none_or(|other| run < other || (run == other && hops < node.hops));
        if better {
            *node = Node {
                run: Some(short(keep)),
                hops,
                last: Some(short(index)),
                leads_on: node.leads_on,
            };
        }
    }
    (nodes, origins)
}

/// Numbers of slices and runs take half the room. Four billion names would not fit into memory.
fn short(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn path_to(nodes: &Nodes, slices: &[SliceKey], end: ChainPoint) -> Vec<SliceKey> {
    let hops = nodes.nodes[nodes.index_of(end)].hops;
    let mut path = Vec::with_capacity(hops as usize);
    let mut point = end;
    while let Some(last) = nodes.nodes[nodes.index_of(point)].last {
        let slice = &slices[last as usize];
        path.push(*slice);
        point = begin_of(slice);
    }
    path.reverse();
    path
}

/// A run inside another is a leftover of it (an interrupted clean-up), or the work of a diverged writer: either way
/// its ends become claims of the greater one.
fn absorb_contained(runs: Vec<Run>) -> Vec<Run> {
    let mut kept: Vec<Run> = Vec::new();
    for run in runs {
        match kept
            .last_mut()
            .filter(|outer| run.end.position <= outer.end.position)
        {
            Some(outer) => {
                outer.claims.push(run.begin);
                outer.claims.push(run.end);
                outer.claims.extend(run.claims);
                outer.claims.sort_unstable();
            }
            None => kept.push(run),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::super::SliceFlags;
    use super::*;
    use proptest::prelude::*;

    fn slice(begin: u64, begin_hash: u8, end: u64, end_hash: u8) -> SliceKey {
        let hash = |byte: u8| ChainHash([byte; 8]);
        SliceKey {
            file: begin / 100,
            begin: begin % 100,
            end: if end.is_multiple_of(100) { 100 } else { end % 100 },
            begin_hash: hash(begin_hash),
            end_hash: hash(end_hash),
            back: 0,
            times: None,
            flags: if end.is_multiple_of(100) {
                SliceFlags::ENDS_FILE
            } else {
                SliceFlags::default()
            },
        }
    }

    fn spans(runs: &[Run]) -> Vec<(u64, u64, usize)> {
        let flat = |position: LogPosition| position.file * 100 + position.offset;
        runs.iter()
            .map(|run| (flat(run.begin.position), flat(run.end.position), run.path.len()))
            .collect()
    }

    #[test]
    fn slices_join_across_files_and_the_widest_are_taken() {
        let mut slices = [
            slice(0, 0, 10, 1),
            slice(10, 1, 20, 2),
            slice(0, 0, 20, 2),
            slice(20, 2, 100, 3),
            slice(100, 3, 150, 4),
        ];
        let runs = coverage(&mut slices);
        assert_eq!(spans(&runs), [(0, 150, 3)]);
        assert_eq!(runs[0].claims, []);
    }

    #[test]
    fn a_hole_separates_runs() {
        let mut slices = [slice(0, 0, 10, 1), slice(20, 2, 30, 3)];
        assert_eq!(spans(&coverage(&mut slices)), [(0, 10, 1), (20, 30, 1)]);
    }

    #[test]
    fn other_bytes_under_the_same_range_never_join() {
        // One writer wrote to 10 and 30; another, diverged after 10, wrote to 20 and 40.
        let mut slices = [
            slice(0, 0, 10, 1),
            slice(10, 1, 30, 3),
            slice(10, 1, 20, 12),
            slice(20, 12, 40, 14),
        ];
        let runs = coverage(&mut slices);
        assert_eq!(spans(&runs), [(0, 40, 3)]);
        // The other's end is a claim that the bytes of the path must answer for.
        assert_eq!(
            runs[0].claims,
            [ChainPoint {
                position: LogPosition { file: 0, offset: 30 },
                hash: ChainHash([3; 8])
            }]
        );
    }

    #[test]
    fn a_late_narrow_slice_is_a_claim_only() {
        let mut slices = [slice(0, 0, 10, 1), slice(0, 0, 30, 3), slice(30, 3, 40, 4)];
        let runs = coverage(&mut slices);
        assert_eq!(spans(&runs), [(0, 40, 2)]);
        assert_eq!(runs[0].claims.len(), 1);
    }

    #[test]
    fn leftovers_of_an_interrupted_clean_up_are_claims_only() {
        // [0,10) and [20,30) are already gone; [10,20) is left inside the wide one.
        let mut slices = [slice(0, 0, 30, 3), slice(10, 1, 20, 2), slice(30, 3, 50, 5)];
        let runs = coverage(&mut slices);
        assert_eq!(spans(&runs), [(0, 50, 2)]);
        assert_eq!(runs[0].claims.len(), 2);
        // [10,20) is gone and [20,30) is left: it meets the wide one at its end.
        let mut slices = [slice(0, 0, 30, 3), slice(0, 0, 10, 1), slice(20, 2, 30, 3)];
        let runs = coverage(&mut slices);
        assert_eq!(spans(&runs), [(0, 30, 1)]);
        assert_eq!(runs[0].claims.len(), 2);
    }

    #[test]
    fn a_writer_goes_on_from_the_last_anchored_run() {
        // A killed writer had stored [30,40) and not [20,30).
        let mut slices = [slice(0, 0, 10, 1), slice(10, 1, 20, 2), slice(30, 3, 40, 4)];
        assert_eq!(run_to_continue(&mut slices).unwrap().end.position.offset, 20);
        // A gap: what comes after it begins anew.
        let mut slices = [slice(0, 0, 10, 1), slice(300, 0, 310, 1), slice(320, 2, 330, 3)];
        assert_eq!(
            run_to_continue(&mut slices).unwrap().end.position,
            LogPosition { file: 3, offset: 10 }
        );
        // A listing that began in mid-history.
        let mut slices = [slice(100, 7, 110, 1), slice(120, 2, 130, 3)];
        assert_eq!(
            run_to_continue(&mut slices).unwrap().end.position,
            LogPosition { file: 1, offset: 10 }
        );
        assert!(run_to_continue(&mut []).is_none());
        // Killed in its first moments: nothing leads to what it had stored.
        assert!(run_to_continue(&mut [slice(10, 1, 100, 2), slice(100, 2, 110, 3)]).is_none());
    }

    #[test]
    fn the_slices_of_a_range_are_found() {
        let mut slices = [
            slice(0, 0, 10, 1),
            slice(10, 1, 20, 2),
            slice(20, 2, 100, 3),
            slice(100, 3, 150, 4),
        ];
        let run = &coverage(&mut slices)[0];
        let at = |file, offset| LogPosition { file, offset };
        assert_eq!(run.slices_within(at(0, 10), at(0, 20)).len(), 1);
        assert_eq!(run.slices_within(at(0, 9), at(0, 21)).len(), 3);
        assert_eq!(run.slices_within(at(0, 20), at(1, 0)).len(), 1);
        assert_eq!(run.slices_within(at(1, 50), at(1, 60)).len(), 0);
    }

    #[test]
    fn the_end_of_a_file_that_has_ended_is_the_begin_of_the_next() {
        let mut closing = slice(150, 4, 150, 4);
        closing.flags = SliceFlags::ENDS_FILE;
        let mut slices = [
            slice(0, 0, 20, 2),
            slice(20, 2, 100, 3),
            slice(100, 3, 150, 4),
            closing,
        ];
        let run = &coverage(&mut slices)[0];
        let at = |file, offset| LogPosition { file, offset };
        for (position, normal) in [
            (at(1, 50), at(2, 0)),
            (at(1, 49), at(1, 49)),
            (at(0, 100), at(1, 0)),
            (at(0, 20), at(0, 20)),
            (at(0, 101), at(0, 101)),
            (at(1, 0), at(1, 0)),
        ] {
            assert_eq!(run.normalize(position), normal);
            assert_eq!(run.has_place(position), position != at(0, 101));
        }
    }

    proptest! {
        /// Any subset of the slices that one honest writer may leave yields runs whose paths are unbroken, and when
        /// the narrow ones are all there, the whole stretch.
        #[test]
        fn one_writers_slices_always_join(cuts in proptest::collection::btree_set(1u64..400, 1..40), wide in proptest::collection::vec((0usize..40, 0usize..40), 0..20)) {
            let mut points: Vec<u64> = cuts.into_iter().filter(|cut| cut % 100 != 0).collect();
            points.extend([0, 100, 200, 300, 400]);
            points.sort_unstable();
            let hash = |point: u64| (point % 251) as u8;
            let make = |a: u64, b: u64| slice(a, hash(a), b, hash(b));
            let mut slices: Vec<SliceKey> = points.windows(2).map(|pair| make(pair[0], pair[1])).collect();
            for (a, b) in wide {
                let (a, b) = (points[a % points.len()], points[b % points.len()]);
                let (a, b) = (a.min(b), a.max(b));
                if a < b && a / 100 == (b - 1) / 100 {
                    slices.push(make(a, b));
                }
            }
            let runs = coverage(&mut slices);
            prop_assert_eq!(runs.len(), 1);
            prop_assert_eq!(&runs[0].claims, &[]);
            prop_assert_eq!(runs[0].begin.position, LogPosition::start_of(0));
            prop_assert_eq!(runs[0].end.position, LogPosition::start_of(4));
            for pair in runs[0].path.windows(2) {
                prop_assert_eq!(end_of(&pair[0]), begin_of(&pair[1]));
            }
        }
    }
}
