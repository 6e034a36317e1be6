//! The two small files that make a copy of the data directory a base backup: `backup_label` and `tablespace_map`.
//!
//! Their bytes come from the server and are restored as they came (only a remapped tablespace changes the map); they
//! are parsed here to learn what they say. Written by `build_backup_content` and `do_pg_backup_start` in the server's
//! `xlogbackup.c` and `xlog.c`, read by `read_backup_label` and `read_tablespace_map` in `xlogrecovery.c`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidemark_types::{Lsn, TimelineId};

use super::BaseBackupError;

/// Name of the label file below the data directory.
pub const BACKUP_LABEL_FILE: &str = "backup_label";
/// Name of the tablespace map below the data directory.
pub const TABLESPACE_MAP_FILE: &str = "tablespace_map";

/// What a `backup_label` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where redo begins.
    pub start: Lsn,
    /// The checkpoint record that redo starts from; at or after [`BackupLabel::start`].
    pub checkpoint: Lsn,
    /// The timeline of both. Written by every server this crate knows.
    pub timeline: TimelineId,
    /// Whether the copy was made from a standby.
    pub from_standby: bool,
    /// The label given when the backup began.
    pub label: String,
}

impl BackupLabel {
    /// Parses the file.
    ///
    /// # Errors
    /// [`BaseBackupError::Label`] when a line that must be there is missing or makes no sense.
    pub fn parse(text: &str) -> Result<BackupLabel, BaseBackupError> {
        let line = |key: &'static str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
                .ok_or_else(|| label_error(format!("no line \"{key}\"")))
        };
        let lsn = |key: &'static str| {
            let value = line(key)?;
            let first = value.split(' ').next().unwrap_or(value);
            first
                .parse::<Lsn>()
                .map_err(|error| label_error(format!("{key}: {error}")))
        };
        let timeline = line("START TIMELINE")?;
        Ok(BackupLabel {
            start: lsn("START WAL LOCATION")?,
            checkpoint: lsn("CHECKPOINT LOCATION")?,
            timeline: TimelineId(
                timeline
                    .parse()
                    .map_err(|_| label_error(format!("START TIMELINE is \"{timeline}\"")))?,
            ),
            from_standby: line("BACKUP FROM")? == "standby",
            label: line("LABEL")?.to_owned(),
        })
    }
}

fn label_error(problem: String) -> BaseBackupError {
    BaseBackupError::Label {
        file: BACKUP_LABEL_FILE,
        problem,
    }
}

/// A tablespace and where it lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its OID: the name of its link under `pg_tblspc/`.
    pub oid: u32,
    /// Where the link leads. Relative for a tablespace that lies in `pg_tblspc/` itself (`allow_in_place_tablespaces`).
    pub location: PathBuf,
}

impl Tablespace {
    /// Whether the tablespace is a plain directory in `pg_tblspc/`, which needs no link.
    pub fn is_in_place(&self) -> bool {
        self.location.is_relative()
    }
}

/// Parses a `tablespace_map`: lines of OID and location, with backslashes before backslashes and line ends.
///
/// # Errors
/// [`BaseBackupError::Label`] when a line has no OID or no location.
pub fn parse_tablespace_map(text: &str) -> Result<Vec<Tablespace>, BaseBackupError> {
    let mut tablespaces = Vec::new();
    let mut line = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => line.extend(chars.next()),
            '\n' | '\r' => push_tablespace(&mut tablespaces, &std::mem::take(&mut line))?,
            other => line.push(other),
        }
    }
    push_tablespace(&mut tablespaces, &line)?;
    Ok(tablespaces)
}

fn push_tablespace(tablespaces: &mut Vec<Tablespace>, line: &str) -> Result<(), BaseBackupError> {
    if line.is_empty() {
        return Ok(());
    }
    let parsed = line
        .split_once(' ')
        .and_then(|(oid, location)| Some((super::rules::oid(oid)?, location)))
        .filter(|(_, location)| !location.is_empty());
    let Some((oid, location)) = parsed else {
        let problem = format!("no OID and location in \"{line}\"");
        return Err(BaseBackupError::Label {
            file: TABLESPACE_MAP_FILE,
            problem,
        });
    };
    tablespaces.push(Tablespace {
        oid,
        location: PathBuf::from(location),
    });
    Ok(())
}

/// The text of a `tablespace_map` for these tablespaces; empty when none needs a link.
pub fn format_tablespace_map(tablespaces: &[Tablespace]) -> String {
    let mut text = String::new();
    for tablespace in tablespaces.iter().filter(|tablespace| !tablespace.is_in_place()) {
        text.push_str(&tablespace.oid.to_string());
        text.push(' ');
        for char in tablespace.location.to_string_lossy().chars() {
            if matches!(char, '\\' | '\n' | '\r') {
                text.push('\\');
            }
            text.push(char);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000080\nBACKUP METHOD: streamed\nBACKUP FROM: standby\n\
        START TIME: 2026-11-21 15:55:49 UTC\nLABEL: nightly: shop\nSTART TIMELINE: 3\n";

    #[test]
    fn a_label_is_understood() {
        assert_eq!(
            BackupLabel::parse(LABEL).unwrap(),
            BackupLabel {
                start: Lsn(0x200_0028),
                checkpoint: Lsn(0x200_0080),
                timeline: TimelineId(3),
                from_standby: true,
                label: "nightly: shop".to_owned(),
            }
        );
    }

    #[test]
    fn a_label_without_its_lines_is_refused() {
        for key in ["START WAL", "CHECKPOINT", "BACKUP FROM", "START TIMELINE"] {
            let cut: String = LABEL
                .lines()
                .filter(|line| !line.starts_with(key))
                .map(|line| format!("{line}\n"))
                .collect();
            assert!(BackupLabel::parse(&cut).is_err(), "{key}");
        }
    }

    #[test]
    fn a_map_line_without_a_location_is_refused() {
        for text in ["16400\n", "16400 \n", "x /a\n"] {
            assert!(parse_tablespace_map(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn maps_round_trip(places in proptest::collection::vec((1u32.., "/[ -~\n\r]{1,20}"), 0..5)) {
            let tablespaces: Vec<Tablespace> = places
                .into_iter()
                .map(|(oid, location)| Tablespace { oid, location: location.into() })
                .collect();
            prop_assert_eq!(parse_tablespace_map(&format_tablespace_map(&tablespaces)).unwrap(), tablespaces);
        }
    }
}
