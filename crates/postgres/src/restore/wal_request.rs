//! What a `restore_command` is asked for: the meaning of the name in `%f`.
//!
//! During archive recovery the server asks for segments, timeline histories, and (after recovery from a base backup of
//! old servers) backup history files; it never asks for a `.partial`. pg_rewind asks for segments. Names:
//! `src/include/access/xlog_internal.h`.

use tidemark_types::{ParseSegmentNameError, SegmentName, TimelineId, WalSegmentSize};

/// A name that the server may ask for, or that an archive may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalRequest {
    /// A segment: 24 hexadecimal digits.
    Segment(SegmentName),
    /// The history of a timeline: `00000002.history`.
    History(TimelineId),
    /// A backup history file: `000000010000000000000002.00000028.backup`.
    BackupHistory {
        /// The segment in which the backup began.
        segment: SegmentName,
        /// Where in it, in bytes.
        offset: u32,
    },
    /// The last segment of a timeline that was left for a new one: `00000001000000000000000A.partial`.
    Partial(SegmentName),
}

impl WalRequest {
    /// What `name` means, in a cluster with this segment size.
    ///
    /// # Errors
    /// When it is no name of the WAL archive: an error of the caller, not "there is no such file".
    pub fn parse(name: &str, size: WalSegmentSize) -> Result<WalRequest, ParseSegmentNameError> {
        let parsed = match name.split_once('.') {
            None => return SegmentName::parse(name, size).map(WalRequest::Segment),
            Some((timeline, "history")) => hex(timeline)
                .filter(|&id| id > 0)
                .map(TimelineId)
                .map(WalRequest::History),
            Some((segment, "partial")) => SegmentName::parse(segment, size).ok().map(WalRequest::Partial),
            Some((segment, rest)) => rest
                .strip_suffix(".backup")
                .and_then(hex)
                .zip(SegmentName::parse(segment, size).ok())
                .map(|(offset, segment)| WalRequest::BackupHistory { segment, offset }),
        };
        parsed.ok_or_else(|| ParseSegmentNameError(name.to_owned()))
    }
}

/// Exactly eight hexadecimal digits, capitals as the server writes them.
fn hex(text: &str) -> Option<u32> {
    let plain = text.len() == 8
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
    plain.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidemark_types::SegmentNumber;

    fn parse(name: &str) -> Option<WalRequest> {
        WalRequest::parse(name, WalSegmentSize::DEFAULT).ok()
    }

    #[test]
    fn names_of_the_archive_are_told_apart() {
        let segment = SegmentName {
            timeline: TimelineId(1),
            segment: SegmentNumber(2),
        };
        assert_eq!(
            parse("000000010000000000000002"),
            Some(WalRequest::Segment(segment))
        );
        assert_eq!(
            parse("0000000A.history"),
            Some(WalRequest::History(TimelineId(10)))
        );
        assert_eq!(
            parse("000000010000000000000002.00000028.backup"),
            Some(WalRequest::BackupHistory {
                segment,
                offset: 0x28
            })
        );
        assert_eq!(
            parse("000000010000000000000002.partial"),
            Some(WalRequest::Partial(segment))
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for name in [
            "",
            ".",
            "../postgresql.conf",
            "RECOVERYXLOG",
            "00000000.history",
            "2.history",
            "00000002.history.gz",
            "000000010000000000000002.0028.backup",
            "000000010000000000000002.backup",
            "000000010000000000000100",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_names_never_panic(name in ".{0,50}") {
            let _ = parse(&name);
        }
    }
}
