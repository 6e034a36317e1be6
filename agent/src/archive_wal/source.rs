//! The file that the server hands over: whether it is what its name says.
//!
//! A segment's first page is checked; the pages after it are read by the running agent.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context;
use tidemark_types::{ErrorClass, SegmentName, WalSegmentSize};

use crate::exit::Failure;

/// A checked file, ready to be copied.
#[derive(Debug)]
pub struct Source {
    /// Open for reading, at its start.
    pub file: File,
    /// Its name in the archive.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
}

/// Opens and checks what the server calls `path` (`%p`, relative to the data directory, where the archiver runs).
pub fn open(path: &Path) -> anyhow::Result<Source> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let kind = Kind::of(name).ok_or_else(|| {
        Failure::new(
            ErrorClass::Config,
            format!("\"{name}\" is not the name of a WAL file"),
        )
        .hint("archive_command must pass %p as the last argument")
    })?;
    let file = File::open(path).context("open it")?;
    let length = file.metadata().context("look at it")?.len();
    if kind == Kind::Segment {
        check_first_page(&file, name, length)?;
    }
    Ok(Source {
        file,
        name: name.to_owned(),
        length,
    })
}

/// What a server archives, told apart by name (`xlog_internal.h`: `IsXLogFileName` and its neighbours).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A segment, or the `.partial` last one of a timeline that was left: both have a segment's length.
    Segment,
    /// A timeline's `.history`, or a base backup's `.backup`.
    Note,
}

impl Kind {
    fn of(name: &str) -> Option<Kind> {
        let is_hex = |text: &str, digits| text.len() == digits && text.bytes().all(is_upper_hex);
        match name.split('.').collect::<Vec<_>>().as_slice() {
            [segment] | [segment, "partial"] if is_hex(segment, 24) => Some(Kind::Segment),
            [timeline, "history"] if is_hex(timeline, 8) => Some(Kind::Note),
            [segment, offset, "backup"] if is_hex(segment, 24) && is_hex(offset, 8) => Some(Kind::Note),
            _ => None,
        }
    }
}

fn is_upper_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte)
}

/// Checks the long page header that every segment begins with (`XLogLongPageHeaderData` in `xlog_internal.h`).
fn check_first_page(file: &File, name: &str, length: u64) -> anyhow::Result<()> {
    let header = Header::read(file).context("read its first page")?;
    let damaged = |problem: String| Failure::new(ErrorClass::Corrupt, format!("its first page {problem}"));
    let size = WalSegmentSize::try_from(length)
        .map_err(|error| damaged(format!("cannot be judged: the file's length of {error}")))?;
    let segment = SegmentName::parse(name.get(..24).unwrap_or_default(), size)?;
    // All versions from 8.2 on have D1 here, and the flag XLP_LONG_HEADER on a first page.
    if header.magic >> 8 != 0xD1 || header.flags & 0x0002 == 0 {
        return Err(damaged("has no WAL page header".to_owned()).into());
    }
    // A promotion copies the segment of the fork, and its first pages keep the parent's timeline.
    let timeline = header.timeline;
    if timeline == 0 || timeline > segment.timeline.0 {
        return Err(damaged(format!("is of timeline {timeline}")).into());
    }
    let (start, found) = (size.start_of(segment.segment).0, header.address);
    if found != start {
        let problem = format!("says that it begins at {found:X}, and by its name it begins at {start:X}");
        return Err(damaged(problem).into());
    }
    if header.system_id == 0 {
        return Err(damaged("names no system identifier".to_owned()).into());
    }
    let found = header.segment_bytes;
    if u64::from(found) != length {
        return Err(damaged(format!(
            "is of a segment of {found} bytes, and the file has {length}"
        ))
        .into());
    }
    Ok(())
}

/// The fields of a long page header that are looked at.
struct Header {
    magic: u16,
    flags: u16,
    timeline: u32,
    address: u64,
    system_id: u64,
    segment_bytes: u32,
}

impl Header {
    /// Reads it in native byte order: the server that wrote the file runs on this host.
    fn read(file: &File) -> std::io::Result<Header> {
        fn field<const N: usize>(file: &File, offset: u64) -> std::io::Result<[u8; N]> {
            let mut bytes = [0; N];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(bytes)
        }
        Ok(Header {
            magic: u16::from_ne_bytes(field(file, 0)?),
            flags: u16::from_ne_bytes(field(file, 2)?),
            timeline: u32::from_ne_bytes(field(file, 4)?),
            address: u64::from_ne_bytes(field(file, 8)?),
            system_id: u64::from_ne_bytes(field(file, 24)?),
            segment_bytes: u32::from_ne_bytes(field(file, 32)?),
        })
    }
}
