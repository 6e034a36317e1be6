//! What a segment in the spool is to what is stored: decided from positions. Pure.

use tidemark_repository::{Branch, LogPosition};
use tidemark_types::SegmentNumber;

/// What is to be done with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It goes on where what is stored of its timeline ends.
    Append,
    /// It lies before that: it must be what is stored.
    Compare,
    /// It is the first of its timeline, and nothing is missing before it.
    Begin,
    /// Log is missing before it.
    Hole(Hole),
}

/// Log that is missing before a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// The branch that has it.
    pub branch: Branch,
    /// Where it begins.
    pub begin: LogPosition,
}

/// What is stored of the past of a timeline that nothing is stored of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// No log of any timeline that it comes from.
    Nothing,
    /// Log of an ancestor.
    Stored {
        /// The ancestor.
        branch: Branch,
        /// Where what is stored of it ends.
        end: LogPosition,
        /// Where the line of the new timeline left it.
        fork: LogPosition,
    },
}

/// What to do with `segment` of `branch`, of which everything up to `stored_end` is stored.
pub fn of_known_branch(branch: Branch, segment: SegmentNumber, stored_end: LogPosition) -> Step {
    match segment.0.cmp(&stored_end.file) {
        std::cmp::Ordering::Less => Step::Compare,
        std::cmp::Ordering::Equal => Step::Append,
        std::cmp::Ordering::Greater => Step::Hole(Hole {
            branch,
            begin: stored_end,
        }),
    }
}

/// What to do with `segment` of `branch`, of which nothing is stored. A server begins a timeline with a copy of the
/// segment of the fork: that one holds the ancestor's bytes before the fork too.
pub fn of_new_branch(branch: Branch, segment: SegmentNumber, past: Past) -> Step {
    let Past::Stored {
        branch: ancestor,
        end,
        fork,
    } = past
    else {
        return Step::Begin;
    };
    if segment.0 <= end.file.min(fork.file) {
        Step::Begin
    } else if end < fork {
        Step::Hole(Hole {
            branch: ancestor,
            begin: end,
        })
    } else {
        Step::Hole(Hole {
            branch,
            begin: LogPosition::start_of(fork.file),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Branch = Branch(1);
    const NEW: Branch = Branch(2);

    fn at(file: u64, offset: u64) -> LogPosition {
        LogPosition { file, offset }
    }

    #[test]
    fn a_segment_goes_on_is_compared_or_has_a_hole_before_it() {
        let step = |segment, end| of_known_branch(OLD, SegmentNumber(segment), end);
        assert_eq!(step(7, at(7, 0)), Step::Append);
        // Streaming had stored the beginning of it.
        assert_eq!(step(7, at(7, 4000)), Step::Append);
        assert_eq!(step(6, at(7, 0)), Step::Compare);
        assert_eq!(
            step(8, at(7, 4000)),
            Step::Hole(Hole {
                branch: OLD,
                begin: at(7, 4000)
            })
        );
    }

    #[test]
    fn a_timeline_without_a_stored_past_begins_anywhere() {
        assert_eq!(of_new_branch(NEW, SegmentNumber(900), Past::Nothing), Step::Begin);
    }

    #[test]
    fn a_timeline_begins_with_the_segment_of_its_fork() {
        let step = |segment, end, fork| {
            let past = Past::Stored {
                branch: OLD,
                end,
                fork,
            };
            of_new_branch(NEW, SegmentNumber(segment), past)
        };
        // The ancestor's last segment was never complete, so it is stored up to the fork's segment only.
        assert_eq!(step(7, at(7, 0), at(7, 300)), Step::Begin);
        // The old primary went on past the fork.
        assert_eq!(step(7, at(9, 0), at(7, 300)), Step::Begin);
        let hole = |branch, begin| Step::Hole(Hole { branch, begin });
        // Segments of the ancestor never came.
        assert_eq!(step(7, at(5, 0), at(7, 300)), hole(OLD, at(5, 0)));
        // The first segments of the new timeline never came.
        assert_eq!(step(8, at(7, 0), at(7, 300)), hole(OLD, at(7, 0)));
        assert_eq!(step(9, at(9, 0), at(7, 300)), hole(NEW, at(7, 0)));
    }
}
