use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const NAME: &str = "000000030000000100000002";
const SEGMENT: usize = 1 << 20;

/// A segment's first page with a good header, the rest filled with `fill`.
fn segment(fill: u8) -> Vec<u8> {
    let mut bytes = vec![fill; SEGMENT];
    let start = (1u64 << 32) + 2 * SEGMENT as u64;
    bytes[0..2].copy_from_slice(&0xD116u16.to_ne_bytes());
    bytes[2..4].copy_from_slice(&2u16.to_ne_bytes());
    bytes[4..8].copy_from_slice(&3u32.to_ne_bytes());
    bytes[8..16].copy_from_slice(&start.to_ne_bytes());
    bytes[24..32].copy_from_slice(&77u64.to_ne_bytes());
    bytes[32..36].copy_from_slice(&(SEGMENT as u32).to_ne_bytes());
    bytes
}

struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("spool")).unwrap();
        Bench { root }
    }

    fn spool(&self) -> PathBuf {
        self.root.path().join("spool")
    }

    fn archive(&self, name: &str, content: &[u8]) -> Result<(), String> {
        let path = self.root.path().join(name);
        fs::write(&path, content).unwrap();
        copy_into(&self.spool(), &path).map_err(|error| format!("{error:#}"))
    }

    fn spooled(&self) -> Vec<String> {
        let entries = fs::read_dir(self.spool()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

#[test]
fn every_kind_of_file_arrives_whole_and_readable_by_the_group() {
    let bench = Bench::new();
    bench.archive(NAME, &segment(1)).unwrap();
    bench.archive(&format!("{NAME}.partial"), &segment(2)).unwrap();
    bench
        .archive("00000003.history", b"1\t0/3000000\tno recovery target\n")
        .unwrap();
    bench
        .archive(&format!("{NAME}.00000028.backup"), b"START WAL LOCATION\n")
        .unwrap();
    assert_eq!(bench.spooled().len(), 4);
    let stored = bench.spool().join(NAME);
    assert_eq!(fs::read(&stored).unwrap(), segment(1));
    assert_eq!(fs::metadata(&stored).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn the_same_file_again_is_a_success_and_another_of_its_name_is_not() {
    let bench = Bench::new();
    bench.archive(NAME, &segment(1)).unwrap();
    bench.archive(NAME, &segment(1)).unwrap();
    let error = bench.archive(NAME, &segment(2)).unwrap_err();
    assert!(error.ends_with("is already there with other content"), "{error}");
    assert_eq!(fs::read(bench.spool().join(NAME)).unwrap(), segment(1));
}

#[test]
fn what_is_not_the_segment_its_name_says_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let with = |at: usize, byte: u8| {
        let mut bytes = segment(0);
        bytes[at] = byte;
        bytes
    };
    let cases = [
        (with(1, 0xAA), "its first page has no WAL page header"),
        (with(2, 0), "its first page has no WAL page header"),
        (with(4, 4), "its first page is of timeline 4"),
        (
            with(10, 0x31),
            "says that it begins at 100310000, and by its name it begins at 100200000",
        ),
        (with(24, 0), "its first page names no system identifier"),
        (
            segment(0)[..SEGMENT / 2].to_vec(),
            "is not a WAL segment size (a power of two from 1 MiB to 1 GiB)",
        ),
        (
            with(34, 0x20),
            "is of a segment of 2097152 bytes, and the file has 1048576",
        ),
    ];
    for (content, expected) in cases {
        let error = bench.archive(NAME, &content).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(bench.spooled(), Vec::<String>::new());
}

#[test]
fn names_that_no_server_archives_are_refused() {
    let bench = Bench::new();
    for name in [
        "x",
        "00000003.histor",
        "00000003000000010000000g",
        "000000030000000100000002.tmp",
    ] {
        let error = bench.archive(name, b"x").unwrap_err();
        assert!(error.contains("is not the name of a WAL file"), "{error}");
    }
}

#[test]
fn leftovers_of_a_killed_call_are_cleared_away() {
    let bench = Bench::new();
    fs::write(bench.spool().join(format!(".{NAME}.1.tmp")), b"half").unwrap();
    bench.archive(NAME, &segment(1)).unwrap();
    assert_eq!(bench.spooled(), [NAME]);
}

#[test]
fn a_copy_that_breaks_off_leaves_no_half_file() {
    let bench = Bench::new();
    let source = source::Source {
        file: fs::File::open("/dev/null").unwrap(),
        name: NAME.to_owned(),
        length: 1,
    };
    let error = file::store(source, &bench.spool()).unwrap_err();
    assert_eq!(error.to_string(), "it had 1 bytes, and 0 were read");
    assert_eq!(bench.spooled(), Vec::<String>::new());
}
