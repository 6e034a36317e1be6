//! Where to begin streaming: decided from what is stored and from the files that the server has. Pure.

use tidemark_mysql::archive::{BinlogBranch, BranchEnd};
use tidemark_mysql::binlog::Flavor;
use tidemark_mysql::client::BinlogFile;
use tidemark_repository::log::{ChainPoint, Resume, Run};
use tidemark_repository::{Branch, LogPosition, SliceKey};
use tidemark_types::BinlogBasename;

/// Where to begin.
#[derive(Debug, Clone)]
pub struct Start {
    /// The branch to write.
    pub branch: Branch,
    /// Where to ask the server to begin: where an event does, at or before the first byte that is compared.
    pub event: LogPosition,
    /// What the assembler has to know.
    pub resume: Resume,
    /// The end of the last whole event that is stored.
    pub whole: LogPosition,
}

/// What is stored of the newest branch.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Which one it is.
    pub branch: Branch,
    /// What it is.
    pub record: BinlogBranch,
    /// The stretch of log to go on from.
    pub run: Run,
    /// All of its slices.
    pub slices: Vec<SliceKey>,
}

/// The binlog files that a server has: their numbers and lengths, in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles(Vec<(u64, u64)>);

impl ServerFiles {
    /// As the server lists them.
    pub fn listed(files: &[BinlogFile]) -> ServerFiles {
        let numbered = files
            .iter()
            .filter_map(|file| Some((BinlogBasename::parse_file(&file.name)?.1, file.bytes)));
        ServerFiles::new(numbered.collect())
    }

    /// From numbers and lengths.
    pub fn new(mut files: Vec<(u64, u64)>) -> ServerFiles {
        files.sort_unstable();
        ServerFiles(files)
    }

    fn len_of(&self, file: u64) -> Option<u64> {
        let found = self.0.iter().find(|(number, _)| *number == file);
        found.map(|(_, len)| *len)
    }

    /// The oldest.
    fn first(&self) -> Option<u64> {
        self.0.first().map(|(number, _)| *number)
    }

    /// The one that is written.
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|(number, _)| *number)
    }

    /// Their numbers, the newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().rev().map(|(number, _)| *number)
    }

    /// Bytes of whole files behind `file`, that of the end left out.
    pub fn bytes_behind(&self, file: u64) -> u64 {
        let last = self.last();
        let behind = self
            .0
            .iter()
            .filter(|(number, _)| *number > file && Some(*number) < last);
        behind.map(|(_, len)| *len).sum()
    }
}

/// What to do.
#[derive(Debug, Clone)]
pub enum Begin {
    /// Go on with the stored branch.
    GoOn(Box<Start>),
    /// The server's log does not hold what is stored of this file. Find out whether it holds the file before: compare from
    /// `start` up to its end.
    Prove {
        /// Where to compare from.
        start: Box<Start>,
        /// The file that differs.
        fork: u64,
    },
    /// Begin a new branch.
    Anew(Anew),
}

/// A branch to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anew {
    /// Its first file.
    pub first_file: u64,
    /// Where it leaves the branch that it goes on from; `None`: nothing leads to it.
    pub follows: Option<BranchEnd>,
    /// Why, for people.
    pub reason: &'static str,
}

impl Anew {
    /// What begins behind a gap, or is the first of all: with the file that the server writes now. Earlier ones are of no
    /// use without a base backup before them.
    pub fn behind_nothing(server: &ServerFiles, reason: &'static str) -> Anew {
        Anew {
            first_file: server.last().unwrap_or(1),
            follows: None,
            reason,
        }
    }

    /// What the server holds in place of what is stored from file `fork` on.
    pub fn at_fork(branch: Branch, fork: u64) -> Anew {
        Anew {
            first_file: fork,
            follows: Some(BranchEnd {
                branch: branch.0,
                file: fork,
                offset: 0,
            }),
            reason: "the server came back without log that it had sent",
        }
    }
}

/// Decides. `diverged` is where the server's bytes were found to differ from those stored, at an attempt before. The
/// server is the one that wrote the branch, or says so.
pub fn decide(stored: Option<&Stored>, server: &ServerFiles, diverged: Option<LogPosition>) -> Begin {
    let Some(stored) = stored else {
        return Begin::Anew(Anew::behind_nothing(server, "the first of this server"));
    };
    let end = stored.run.end.position;
    let first = server.first().unwrap_or_default();
    match (server.len_of(end.file), diverged) {
        (_, Some(diverged)) => from_fork(stored, server, diverged.file),
        (Some(len), None) if len >= end.offset => stored.go_on(server),
        (Some(_), None) => from_fork(stored, server, end.file),
        (None, None) if first > end.file => Begin::Anew(Anew::behind_nothing(server, PURGED)),
        (None, None) => Begin::Anew(Anew::behind_nothing(server, RESET)),
    }
}

const PURGED: &str = "the server had purged the binlog that follows what is stored";
/// Why a branch begins when nothing proves that the server's log is the one that is stored.
pub const RESET: &str = "the server's binlogs begin anew, or are other ones";

/// The stored bytes of file `fork` are not the server's. Those of the file before tell whether it lost the end of its log,
/// or has another one.
fn from_fork(stored: &Stored, server: &ServerFiles, fork: u64) -> Begin {
    let before = fork
        .checked_sub(1)
        .filter(|before| server.len_of(*before).is_some() && server.len_of(fork).is_some());
    let start = before.and_then(|before| stored.start_of_file(before));
    match start {
        Some(start) => Begin::Prove {
            start: Box::new(start),
            fork,
        },
        None => Begin::Anew(Anew::behind_nothing(server, RESET)),
    }
}

impl Stored {
    /// Goes on at the start of the grain that holds the last stored byte, so that something is compared; with the next file
    /// where the server has no more of that one.
    fn go_on(&self, server: &ServerFiles) -> Begin {
        let last = self.run.path.last();
        let wanted = last
            .map_or(self.run.begin.position, SliceKey::begin_position)
            .grain_start();
        let start = match server.len_of(wanted.file) {
            Some(_) => self.start_at_or_before(wanted),
            None => self.start(self.run.end, 0),
        };
        Begin::GoOn(Box::new(start))
    }

    /// The start at the last grain's border at or before `wanted` that is known.
    fn start_at_or_before(&self, wanted: LogPosition) -> Start {
        let is_far = |event: u64| self.record.flavor == Flavor::MariaDb && event > u64::from(u32::MAX);
        let mut borders = self.run.path.iter().filter_map(|slice| {
            let position = slice.end_position();
            // At a file's start no event is cut: `back` is of the file before.
            let back = if position.offset == 0 { 0 } else { slice.back };
            let is_border = position <= wanted && position == position.grain_start();
            // MariaDB's dump has a position of 32 bits.
            let is_reachable = position.offset == 0 || !is_far(position.offset - back);
            (is_border && is_reachable).then_some((slice.end_hash, position, back))
        });
        match borders.next_back() {
            Some((hash, position, back)) => self.start(ChainPoint { position, hash }, back),
            None => self.start(self.run.begin, 0),
        }
    }

    /// The start of a stored file.
    fn start_of_file(&self, file: u64) -> Option<Start> {
        let wanted = LogPosition::start_of(file);
        if wanted < self.run.begin.position {
            return None;
        }
        let start = self.start_at_or_before(wanted);
        (start.event == wanted).then_some(start)
    }

    /// Bytes are compared from `seed` on; the event that reaches over it begins `back` bytes before.
    fn start(&self, seed: ChainPoint, back: u64) -> Start {
        let end = self.run.end.position;
        let unfinished = self.run.path.last().map_or(0, |slice| slice.back);
        Start {
            branch: self.branch,
            event: LogPosition {
                offset: seed.position.offset.saturating_sub(back),
                ..seed.position
            },
            resume: Resume::within(&self.run, &self.slices, seed),
            whole: LogPosition {
                offset: end.offset.saturating_sub(unfinished),
                ..end
            },
        }
    }
}

impl Start {
    /// A branch that nothing is stored of, from `file` on.
    pub fn of_new_branch(branch: Branch, file: u64) -> Start {
        Start {
            branch,
            event: LogPosition::start_of(file),
            resume: Resume::origin(file),
            whole: LogPosition::start_of(file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_repository::log::{ChainKey, SliceAssembler, coverage};

    const MIB: u64 = 1 << 20;

    /// A branch of files 3, 4 and 5 of 20 MiB each, the last one open, whose last event begins 100 bytes before the end of
    /// each slice.
    fn stored() -> Stored {
        let mut assembler = SliceAssembler::new(ChainKey([1; 32]), Resume::origin(3));
        let mut slices = Vec::new();
        while assembler.position() < at(5, 20 * MIB) {
            let offset = assembler.position().offset;
            assembler.push(&vec![7; MIB as usize]).unwrap();
            let ends_file = offset + MIB == 20 * MIB && assembler.position().file < 5;
            slices.extend(assembler.cut(100, ends_file).into_iter().map(|draft| draft.key));
        }
        let run = coverage(&mut slices).remove(0);
        let record = BinlogBranch {
            basename: "bin".to_owned(),
            flavor: Flavor::MySql,
            server: "a".to_owned(),
            first_file: 3,
            reason: String::new(),
            follows: None,
        };
        Stored {
            branch: Branch(2),
            record,
            run,
            slices,
        }
    }

    fn at(file: u64, offset: u64) -> LogPosition {
        LogPosition { file, offset }
    }

    fn server(files: &[(u64, u64)]) -> ServerFiles {
        ServerFiles::new(files.iter().map(|(file, mib)| (*file, mib * MIB)).collect())
    }

    fn go_on(stored: &Stored, server: &ServerFiles) -> Start {
        match decide(Some(stored), server, None) {
            Begin::GoOn(start) => *start,
            other => panic!("{other:?}"),
        }
    }

    fn anew(begin: Begin) -> Anew {
        match begin {
            Begin::Anew(anew) => anew,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_stored_begins_with_the_file_in_use() {
        let anew = anew(decide(None, &server(&[(7, 1), (8, 2)]), None));
        assert_eq!((anew.first_file, anew.follows), (8, None));
    }

    #[test]
    fn streaming_goes_on_with_the_event_that_reaches_over_the_open_grains_start() {
        let start = go_on(&stored(), &server(&[(4, 20), (5, 21)]));
        assert_eq!(start.event, at(5, 16 * MIB - 100));
        assert_eq!(start.resume.start, at(5, 16 * MIB));
        assert_eq!(start.resume.durable, at(5, 20 * MIB));
        assert_eq!(start.whole, at(5, 20 * MIB - 100));
    }

    #[test]
    fn a_closed_file_is_compared_while_the_server_has_it() {
        let mut stored = stored();
        stored.slices.retain(|slice| slice.file < 5);
        stored.run = coverage(&mut stored.slices).remove(0);
        let start = go_on(&stored, &server(&[(4, 20), (5, 1)]));
        assert_eq!(
            (start.event, start.resume.durable),
            (at(4, 16 * MIB - 100), at(5, 0))
        );
        let start = go_on(&stored, &server(&[(5, 1)]));
        assert_eq!((start.event, start.resume.start), (at(5, 0), at(5, 0)));
        assert_eq!(start.resume.seed, stored.run.end.hash);
    }

    #[test]
    fn a_shorter_or_other_file_is_a_fork_if_the_one_before_is_the_same() {
        let stored = stored();
        let shorter = server(&[(4, 20), (5, 19), (6, 1)]);
        for begin in [
            decide(Some(&stored), &shorter, None),
            decide(Some(&stored), &server(&[(4, 20), (5, 30)]), Some(at(5, 17 * MIB))),
        ] {
            let Begin::Prove { start, fork } = begin else {
                panic!("{begin:?}");
            };
            assert_eq!((start.event, fork), (at(4, 0), 5));
        }
        // The file before is gone, or not stored: nothing proves what lies before.
        let unproven = anew(decide(Some(&stored), &server(&[(5, 19), (6, 1)]), None));
        assert_eq!((unproven.first_file, unproven.follows), (6, None));
        let unproven = anew(decide(Some(&stored), &server(&[(2, 1), (3, 9)]), Some(at(3, 5))));
        assert_eq!(unproven.follows, None);
        let follows = Anew::at_fork(Branch(2), 5).follows.unwrap();
        assert_eq!((follows.branch, follows.file, follows.offset), (2, 5, 0));
    }

    #[test]
    fn purged_and_reset_logs_begin_anew() {
        let stored = stored();
        let purged = anew(decide(Some(&stored), &server(&[(7, 1), (9, 1)]), None));
        assert!(
            purged.reason.contains("purged") && purged.first_file == 9,
            "{purged:?}"
        );
        let reset = anew(decide(Some(&stored), &server(&[(1, 1), (2, 1)]), None));
        assert!(
            reset.reason.contains("anew") && reset.first_file == 2,
            "{reset:?}"
        );
    }

    #[test]
    fn mariadb_is_not_asked_for_a_place_past_four_gib() {
        let mut stored = stored();
        stored.record.flavor = Flavor::MariaDb;
        for slice in stored.slices.iter_mut().chain(&mut stored.run.path) {
            if slice.file == 5 && slice.begin > 0 {
                slice.begin += 4096 * MIB;
                slice.end += 4096 * MIB;
            } else if slice.file == 5 {
                slice.end += 4096 * MIB;
            }
        }
        stored.run.end.position.offset += 4096 * MIB;
        let start = stored.start_at_or_before(at(5, 4112 * MIB));
        assert_eq!(start.event, at(5, 0));
    }

    #[test]
    fn what_lies_behind_a_file_is_counted_without_the_one_in_use() {
        assert_eq!(server(&[(3, 1), (4, 2), (5, 4), (6, 8)]).bytes_behind(3), 6 * MIB);
        assert_eq!(server(&[(3, 1)]).bytes_behind(3), 0);
    }
}
