use proptest::prelude::*;

use super::super::coverage;
use super::*;

const KEY: ChainKey = ChainKey([9; 32]);

fn bytes_of(draft: &SliceDraft) -> Vec<u8> {
    draft.chunks.concat()
}

fn byte_at(file: u64, offset: u64) -> u8 {
    ((offset.wrapping_mul(2_654_435_761) >> 7) ^ file) as u8
}

fn content(file: u64, begin: u64, end: u64) -> Vec<u8> {
    (begin..end).map(|offset| byte_at(file, offset)).collect()
}

/// Feeds a file of `len` bytes in steps, cutting after each; returns the drafts.
fn feed(assembler: &mut SliceAssembler, len: u64, steps: &[u64]) -> Vec<SliceDraft> {
    let mut drafts = Vec::new();
    let mut steps = steps.iter().cycle();
    let file = assembler.position().file;
    while assembler.position().file == file && assembler.position().offset < len {
        let position = assembler.position();
        let step = (*steps.next().unwrap())
            .min(assembler.room())
            .min(len - position.offset)
            .max(1);
        assembler
            .push(&content(position.file, position.offset, position.offset + step))
            .unwrap();
        let ends_file = assembler.position().offset == len;
        drafts.extend(assembler.cut(0, ends_file));
    }
    drafts
}

#[test]
fn a_full_grain_is_one_slice_from_its_begin() {
    let mut assembler = SliceAssembler::new(KEY, Resume::origin(5));
    let drafts = feed(&mut assembler, GRAIN_LEN, &[GRAIN_LEN / 4]);
    let spans: Vec<(u64, u64)> = drafts
        .iter()
        .map(|draft| (draft.key.begin, draft.key.end))
        .collect();
    let quarter = GRAIN_LEN / 4;
    assert_eq!(
        spans,
        [
            (0, quarter),
            (quarter, 2 * quarter),
            (2 * quarter, 3 * quarter),
            (3 * quarter, GRAIN_LEN),
            (0, GRAIN_LEN)
        ]
    );
    assert_eq!(bytes_of(&drafts[4]), content(5, 0, GRAIN_LEN));
    assert!(drafts[4].key.flags.has(SliceFlags::ENDS_FILE));
    assert_eq!(assembler.position(), LogPosition::start_of(6));
}

#[test]
fn a_slow_log_leaves_few_slices_that_count() {
    let mut assembler = SliceAssembler::new(KEY, Resume::origin(0));
    let drafts = feed(&mut assembler, 5000, &[1]);
    let mut keys: Vec<SliceKey> = drafts.iter().map(|draft| draft.key).collect();
    for draft in &drafts {
        assert_eq!(bytes_of(draft), content(0, draft.key.begin, draft.key.end));
    }
    // The last two end the file, one holding it whole; before that the path needs a few wide ones.
    keys.truncate(keys.len() - 2);
    let runs = coverage(&mut keys);
    assert_eq!(runs.len(), 1);
    assert_eq!(
        runs[0].path.len(),
        1 + 14 + 7,
        "one of 4096 bytes, then 14 of 64, then single ones"
    );
}

#[test]
fn facts_of_narrow_slices_reach_the_wide_ones() {
    let mut assembler = SliceAssembler::new(KEY, Resume::origin(0));
    assembler.push(b"abc").unwrap();
    assembler.note_time(Timestamp(5_000_000));
    assembler.note_flags(SliceFlags::DDL);
    let first = assembler.cut(1, false)[0].key;
    assert_eq!(
        (first.times, first.back),
        (Some(TimeRange::at(Timestamp(5_000_000))), 1)
    );
    assembler.push(b"def").unwrap();
    assembler.note_time(Timestamp(3_999_999));
    let second = assembler.cut(0, false)[0].key;
    assert!(second.flags.has(SliceFlags::TIME_WENT_BACK) && !second.flags.has(SliceFlags::DDL));
    assembler.push(b"ghi").unwrap();
    let last = assembler.cut(0, true)[1].key;
    assert_eq!((last.begin, last.end), (0, 9));
    assert_eq!(
        last.times,
        Some(TimeRange {
            min: Timestamp(3_999_999),
            max: Timestamp(5_000_000)
        })
    );
    assert!(last.flags.has(SliceFlags::DDL.with(SliceFlags::TIME_WENT_BACK)));
}

#[test]
fn nothing_new_is_no_slice() {
    let mut assembler = SliceAssembler::new(KEY, Resume::origin(0));
    assert!(assembler.cut(0, false).is_empty());
    assembler.push(b"abc").unwrap();
    assert_eq!(assembler.cut(0, false).len(), 1);
    assert!(assembler.cut(0, false).is_empty());
}

/// What a restarted agent finds after `stored` bytes in slices of `step`.
fn resume_after(stored: u64, step: u64) -> (Resume, Vec<SliceKey>) {
    let mut assembler = SliceAssembler::new(KEY, Resume::origin(0));
    let mut keys = Vec::new();
    while assembler.position().offset < stored {
        let at = assembler.position().offset;
        assembler.push(&content(0, at, (at + step).min(stored))).unwrap();
        assembler.note_time(Timestamp(1000 + at as i64));
        keys.push(assembler.cut(0, false)[0].key);
    }
    let run = coverage(&mut keys.clone()).remove(0);
    let resume = Resume {
        start: LogPosition::start_of(0),
        seed: ChainHash::ORIGIN,
        durable: run.end.position,
        known: run.known_points(&keys),
        stored_facts: keys
            .iter()
            .map(|key| {
                (
                    key.end_position(),
                    SliceFacts {
                        times: key.times,
                        flags: key.flags,
                    },
                )
            })
            .collect(),
    };
    (resume, keys)
}

#[test]
fn a_restart_compares_and_goes_on_where_the_archive_ends() {
    let (resume, mut keys) = resume_after(1000, 100);
    let mut assembler = SliceAssembler::new(KEY, resume);
    assembler.push(&content(0, 0, 1000)).unwrap();
    assert!(!assembler.has_new_bytes() && !assembler.is_comparing());
    assert!(assembler.cut(0, false).is_empty());
    assembler.push(&content(0, 1000, 1010)).unwrap();
    let next = assembler.cut(0, false).remove(0);
    assert_eq!((next.key.begin, next.key.end), (1000, 1010));
    keys.push(next.key);
    let runs = coverage(&mut keys);
    assert_eq!((runs.len(), runs[0].end.position.offset), (1, 1010));
    // The final slice knows the stored times although this parser noted none.
    assembler.push(&content(0, 1010, 1020)).unwrap();
    let last = assembler.cut(0, true)[1].key;
    assert_eq!(
        last.times,
        Some(TimeRange {
            min: Timestamp(1000),
            max: Timestamp(1900)
        })
    );
}

#[test]
fn a_diverged_log_is_found_at_the_first_stored_end_after_the_difference() {
    let (resume, _) = resume_after(1000, 100);
    let mut assembler = SliceAssembler::new(KEY, resume);
    let mut bytes = content(0, 0, 1000);
    bytes[333] ^= 1;
    let diverged = assembler.push(&bytes).unwrap_err();
    assert_eq!(diverged.position, LogPosition { file: 0, offset: 400 });
}

/// A log that repeats another one up to `fork`, whose points are known there and at the borders of grains.
fn resume_of_repeated(fork: u64) -> Resume {
    let mut hash = RunningHash::new(KEY, ChainHash::ORIGIN);
    let mut resume = Resume::origin(0);
    for begin in (0..fork).step_by(GRAIN_LEN as usize) {
        let end = fork.min(begin + GRAIN_LEN);
        hash.update(&content(0, begin, end));
        resume.known.push(ChainPoint {
            position: LogPosition { file: 0, offset: end },
            hash: hash.current(),
        });
        hash.next_grain();
    }
    resume
}

#[test]
fn nothing_is_cut_of_what_a_log_repeats_until_it_was_compared() {
    let mut assembler = SliceAssembler::new(KEY, resume_of_repeated(1000));
    assembler.push(&content(0, 0, 999)).unwrap();
    assert!(assembler.is_comparing());
    assert!(assembler.cut(0, false).is_empty());
    assembler.push(&content(0, 999, 1200)).unwrap();
    assert!(!assembler.is_comparing());
    let drafts = assembler.cut(0, false);
    assert_eq!(
        (drafts.len(), drafts[0].key.begin, drafts[0].key.end),
        (1, 0, 1200)
    );
    assert_eq!(bytes_of(&drafts[0]), content(0, 0, 1200));
}

#[test]
fn a_log_that_repeats_other_bytes_than_it_should_is_not_cut() {
    let mut assembler = SliceAssembler::new(KEY, resume_of_repeated(1000));
    let mut bytes = content(0, 0, 1200);
    bytes[400] ^= 1;
    assembler.push(&bytes[..900]).unwrap();
    assert!(assembler.cut(0, false).is_empty());
    let diverged = assembler.push(&bytes[900..]).unwrap_err();
    assert_eq!(
        diverged.position,
        LogPosition {
            file: 0,
            offset: 1000
        }
    );
}

#[test]
fn a_grain_that_repeats_another_log_is_compared_at_its_border_and_cut_there() {
    let fork = GRAIN_LEN + 1000;
    let mut assembler = SliceAssembler::new(KEY, resume_of_repeated(fork));
    assembler.push(&content(0, 0, GRAIN_LEN)).unwrap();
    let first = assembler.cut(0, false).remove(0).key;
    assert_eq!((first.begin, first.end), (0, GRAIN_LEN));
    assembler.push(&content(0, GRAIN_LEN, fork - 1)).unwrap();
    assert!(assembler.cut(0, false).is_empty());
    // A restart there: what is stored is received again, and the rest compared all the same.
    let mut resume = resume_of_repeated(fork);
    resume.durable = first.end_position();
    let mut assembler = SliceAssembler::new(KEY, resume);
    assembler.push(&content(0, 0, GRAIN_LEN)).unwrap();
    assert!(assembler.cut(0, false).is_empty());
    let mut bytes = content(0, GRAIN_LEN, fork);
    bytes[1] ^= 1;
    assert!(assembler.push(&bytes).is_err());

    let mut assembler = SliceAssembler::new(KEY, resume_of_repeated(fork));
    let mut bytes = content(0, 0, GRAIN_LEN);
    bytes[1] ^= 1;
    assert!(assembler.push(&bytes).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However a log arrives and wherever it is cut, the slices join to one run that holds its bytes.
    #[test]
    fn slices_give_the_log_back(steps in proptest::collection::vec(1u64..700, 1..50), files in 1u64..4, len in 500u64..6000) {
        let mut assembler = SliceAssembler::new(KEY, Resume::origin(3));
        let mut drafts = Vec::new();
        for _ in 0..files {
            drafts.extend(feed(&mut assembler, len, &steps));
        }
        let mut keys: Vec<SliceKey> = drafts.iter().map(|draft| draft.key).collect();
        let runs = coverage(&mut keys);
        prop_assert_eq!(runs.len(), 1);
        prop_assert_eq!(&runs[0].claims, &[]);
        prop_assert_eq!(runs[0].path.len() as u64, files, "a complete file is one slice");
        for draft in &drafts {
            prop_assert_eq!(bytes_of(draft), content(draft.key.file, draft.key.begin, draft.key.end));
        }
    }

    /// A restart anywhere goes on with slices that join what is stored.
    #[test]
    fn restarts_join(stored in 1u64..3000, step in 1u64..500, more in 1u64..2000) {
        let (resume, mut keys) = resume_after(stored, step);
        let mut assembler = SliceAssembler::new(KEY, resume);
        assembler.push(&content(0, 0, stored + more)).unwrap();
        keys.push(assembler.cut(0, false)[0].key);
        let runs = coverage(&mut keys);
        prop_assert_eq!(runs.len(), 1);
        prop_assert_eq!(runs[0].end.position.offset, stored + more);
    }
}
