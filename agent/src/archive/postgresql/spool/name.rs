//! What lies in a spool, by name: which files the agent ships, and in which order. Pure.

use tidemark_types::{SegmentName, SegmentNumber, TimelineId, WalSegmentSize};

/// What a server archives beside segments, told apart by name (`xlog_internal.h`: `IsXLogFileName` and its
/// neighbours). In the order in which files of one segment are shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A complete segment.
    Segment,
    /// The note of a base backup that began in the segment.
    BackupNote,
    /// The last segment of a timeline that was left, as far as it was filled.
    Partial,
    /// The past of a timeline.
    History,
}

/// A file in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolFile {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The timeline in its name.
    pub timeline: TimelineId,
    /// The segment in its name; zero for a history file.
    pub segment: SegmentNumber,
}

impl SpoolFile {
    /// Reads a name; `None` for anything that no server archives.
    pub fn parse(name: &str, size: WalSegmentSize) -> Option<SpoolFile> {
        let file = |kind, timeline, segment| SpoolFile {
            name: name.to_owned(),
            kind,
            timeline,
            segment,
        };
        let parts: Vec<&str> = name.split('.').collect();
        if let [timeline, "history"] = parts.as_slice() {
            let timeline = hex(timeline).filter(|timeline| *timeline > 0)?;
            return Some(file(Kind::History, TimelineId(timeline), SegmentNumber(0)));
        }
        let kind = match parts.as_slice() {
            [_] => Kind::Segment,
            [_, "partial"] => Kind::Partial,
            [_, offset, "backup"] if hex(offset).is_some() => Kind::BackupNote,
            _ => return None,
        };
        let segment = SegmentName::parse(parts.first()?, size).ok()?;
        Some(file(kind, segment.timeline, segment.segment))
    }
}

/// Eight hexadecimal digits.
fn hex(text: &str) -> Option<u32> {
    let is_hex = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u32::from_str_radix(text, 16).ok())?
}

/// Sorts files into the order in which they are shipped: the pasts of timelines before anything else, then along the
/// log.
pub fn sort(files: &mut [SpoolFile]) {
    files.sort_by(|a, b| {
        let key = |file: &SpoolFile| (file.kind != Kind::History, file.timeline, file.segment, file.kind);
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    #[test]
    fn names_that_a_server_archives_are_known_and_others_are_not() {
        let kind = |name: &str| {
            SpoolFile::parse(name, SIZE).map(|file| (file.kind, file.timeline.0, file.segment.0))
        };
        assert_eq!(kind("000000020000000100000003"), Some((Kind::Segment, 2, 0x103)));
        assert_eq!(
            kind("000000020000000100000003.partial"),
            Some((Kind::Partial, 2, 0x103))
        );
        assert_eq!(
            kind("000000020000000100000003.00000028.backup"),
            Some((Kind::BackupNote, 2, 0x103))
        );
        assert_eq!(kind("0000000A.history"), Some((Kind::History, 10, 0)));
        for stranger in [
            "",
            ".000000020000000100000003.77.tmp",
            "000000020000000100000100",
            "00000002000000010000000",
            "000000020000000100000003.backup",
            "000000020000000100000003.0000002.backup",
            "00000000.history",
            "+0000002.history",
            "lost+found",
        ] {
            assert_eq!(kind(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn histories_come_first_and_the_rest_along_the_log() {
        let mut files: Vec<SpoolFile> = [
            "000000020000000000000005",
            "000000010000000000000006",
            "00000003.history",
            "000000010000000000000005.partial",
            "000000010000000000000005.00000028.backup",
            "000000010000000000000005",
            "00000002.history",
            "0000000100000000000000FF",
            "000000010000000100000000",
        ]
        .iter()
        .filter_map(|name| SpoolFile::parse(name, SIZE))
        .collect();
        sort(&mut files);
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "00000002.history",
                "00000003.history",
                "000000010000000000000005",
                "000000010000000000000005.00000028.backup",
                "000000010000000000000005.partial",
                "000000010000000000000006",
                "0000000100000000000000FF",
                "000000010000000100000000",
                "000000020000000000000005",
            ]
        );
    }
}
