//! The settings that make a server recover to a planned point, and nowhere else.
//!
//! They go to the end of `postgresql.auto.conf`, which overrides whatever configuration file the server is started
//! with. What that file held of an earlier recovery, of archiving or of replication is switched off: a restored cluster
//! must not write into the archive it came from, wait behind `recovery_min_apply_delay`, or stop at an old target.
//! A target is always an LSN or `immediate`, on a numeric timeline: times, names and transactions are resolved before
//! (the server's own handling of them has traps).

use std::io::Write;
use std::path::Path;

use tidemark_types::{Lsn, TimelineId};

use super::RestoreError;
use super::settings_file::{setting_line, setting_name};

/// Where recovery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// After the record that begins here (`recovery_target_lsn`, inclusive).
    Lsn(Lsn),
    /// As soon as the data is consistent (`recovery_target = 'immediate'`).
    Immediate,
}

/// What the server does at the target. For a restore whose end is checked before anybody may write: `Pause`, check,
/// then promote or shut down over SQL ([`super::RestoredServer`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetAction {
    /// Open for writes on a new timeline.
    Promote,
    /// Stay readable, replay no further.
    Pause,
    /// Shut down; a later start goes on from there.
    Shutdown,
}

impl TargetAction {
    /// The value of `recovery_target_action`.
    pub fn setting(self) -> &'static str {
        match self {
            TargetAction::Promote => "promote",
            TargetAction::Pause => "pause",
            TargetAction::Shutdown => "shutdown",
        }
    }
}

/// A recovery, as the server must be told about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverySettings {
    /// Where it ends.
    pub target: RecoveryTarget,
    /// The timeline it follows.
    pub timeline: TimelineId,
    /// What happens then.
    pub action: TargetAction,
    /// The whole command line, as [`restore_command`] makes it.
    pub restore_command: String,
}

/// One word of a `restore_command`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandWord<'a> {
    /// Passed on as it is.
    Literal(&'a str),
    /// `%f`: the name of the wanted file.
    FileName,
    /// `%p`: where to put it.
    Path,
}

/// A shell command line of these words, each quoted, `%` doubled (`BuildRestoreCommand` in the server).
pub fn restore_command(words: &[CommandWord<'_>]) -> String {
    let quoted = |word: &CommandWord<'_>| match word {
        CommandWord::Literal(text) => format!("'{}'", text.replace('%', "%%").replace('\'', r"'\''")),
        CommandWord::FileName => "\"%f\"".to_owned(),
        CommandWord::Path => "\"%p\"".to_owned(),
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Settings of `postgresql.auto.conf` that are switched off, beside all that begin with `recovery_`.
const SWITCHED_OFF: [&str; 9] = [
    "archive_cleanup_command",
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "restore_command",
];

/// Targets that must be unset, or the server refuses the one that is set ("multiple recovery targets specified").
const OTHER_TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

const BEGIN_MARK: &str = "# ---- written by tidemark-restore: recovery of this cluster ----\n";
const OFF_MARK: &str = "# switched off by tidemark-restore: ";

impl RecoverySettings {
    /// The new text of `postgresql.auto.conf`, given the one in the backup.
    ///
    /// # Errors
    /// [`RestoreError::Setting`] when the restore command holds a line end.
    pub fn auto_conf(&self, existing: &str) -> Result<String, RestoreError> {
        let mut text = String::new();
        for line in existing.lines() {
            if setting_name(line).is_some_and(|name| is_switched_off(&name)) {
                text.push_str(OFF_MARK);
            }
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(BEGIN_MARK);
        for (name, value) in self.settings() {
            text.push_str(&setting_line(name, &value)?);
        }
        Ok(text)
    }

    /// In the order in which they are written. Empty targets come before the one that is set: the server applies
    /// settings in order, and assigning an empty one after it would be a second target to it.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let (target, value) = match self.target {
            RecoveryTarget::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
            RecoveryTarget::Immediate => ("recovery_target", "immediate".to_owned()),
        };
        let off = [
            ("archive_mode", "off"),
            ("archive_cleanup_command", ""),
            ("primary_conninfo", ""),
            ("primary_slot_name", ""),
            ("recovery_end_command", ""),
            ("recovery_min_apply_delay", "0"),
        ];
        let mut settings: Vec<(&'static str, String)> = off
            .iter()
            .map(|&(name, value)| (name, value.to_owned()))
            .collect();
        settings.extend(
            OTHER_TARGETS
                .iter()
                .filter(|&&name| name != target)
                .map(|&name| (name, String::new())),
        );
        settings.push((target, value));
        settings.push(("recovery_target_inclusive", "on".to_owned()));
        settings.push(("recovery_target_timeline", self.timeline.to_string()));
        settings.push(("recovery_target_action", self.action.setting().to_owned()));
        settings.push(("restore_command", self.restore_command.clone()));
        settings
    }

    /// Writes `postgresql.auto.conf` and `recovery.signal` into a restored data directory, and removes what would make
    /// the server a standby of somebody (`standby.signal`). Files and directory are synced. Blocks.
    ///
    /// The files get the owner of the data directory when we are root.
    ///
    /// # Errors
    /// [`RestoreError::Io`], [`RestoreError::Setting`].
    pub fn write(&self, data_directory: &Path) -> Result<(), RestoreError> {
        let auto_conf = data_directory.join("postgresql.auto.conf");
        let existing = match std::fs::read_to_string(&auto_conf) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(RestoreError::io("read", &auto_conf)(error)),
        };
        write_synced(
            data_directory,
            "postgresql.auto.conf",
            &self.auto_conf(&existing)?,
        )?;
        write_synced(data_directory, "recovery.signal", "")?;
        let standby = data_directory.join("standby.signal");
        match std::fs::remove_file(&standby) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(RestoreError::io("remove", &standby)(error));
            }
            _ => {}
        }
        sync_directory(data_directory)
    }
}

fn is_switched_off(name: &str) -> bool {
    name.starts_with("recovery_") || SWITCHED_OFF.contains(&name)
}

/// Replaces `name` in `directory` in one step, with the owner of the directory.
pub(super) fn write_synced(directory: &Path, name: &str, text: &str) -> Result<(), RestoreError> {
    let temporary = directory.join(format!("{name}.tidemark"));
    let path = directory.join(name);
    let written = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&temporary)?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        give_to_owner(directory, &temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)
    };
    written().map_err(RestoreError::io("write", &path))
}

/// As root, gives `path` to the owner of `directory`; a server must be able to read what is in its directory.
pub(super) fn give_to_owner(directory: &Path, path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    if rustix::process::geteuid().is_root() {
        let owner = std::fs::metadata(directory)?;
        std::os::unix::fs::lchown(path, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

pub(super) fn sync_directory(directory: &Path) -> Result<(), RestoreError> {
    std::fs::File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(RestoreError::io("sync", directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(target: RecoveryTarget) -> RecoverySettings {
        RecoverySettings {
            target,
            timeline: TimelineId(3),
            action: TargetAction::Pause,
            restore_command: restore_command(&[CommandWord::Literal("wal-get"), CommandWord::FileName]),
        }
    }

    #[test]
    fn words_are_quoted_for_the_shell_and_for_the_server() {
        let command = restore_command(&[
            CommandWord::Literal("/opt/it's 100%/wal-get"),
            CommandWord::FileName,
            CommandWord::Path,
        ]);
        assert_eq!(command, r#"'/opt/it'\''s 100%%/wal-get' "%f" "%p""#);
    }

    #[test]
    fn old_recovery_and_archive_settings_are_switched_off_and_others_kept() {
        let existing = "work_mem = '8MB'\nrecovery_target_time = '2020-01-01'\nArchive_Mode = 'on'\n# note\n";
        let text = settings(RecoveryTarget::Lsn(Lsn(0x200_0028)))
            .auto_conf(existing)
            .unwrap();
        let active: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(active.contains(&"work_mem = '8MB'"));
        assert!(active.contains(&"archive_mode = 'off'"));
        assert!(active.contains(&"recovery_target_lsn = '0/02000028'"));
        assert!(active.contains(&"recovery_target_timeline = '3'"));
        assert!(!text.contains("\nrecovery_target_time = '2020-01-01'"));
        assert!(text.contains("# switched off by tidemark-restore: Archive_Mode = 'on'"));
    }

    #[test]
    fn empty_targets_come_before_the_one_that_is_set() {
        let text = settings(RecoveryTarget::Immediate).auto_conf("").unwrap();
        let set = text.find("recovery_target = 'immediate'").unwrap();
        for other in [
            "recovery_target_lsn",
            "recovery_target_time",
            "recovery_target_xid",
            "recovery_target_name",
        ] {
            assert!(text.find(&format!("{other} = ''")).unwrap() < set, "{other}");
        }
    }

    #[test]
    fn writing_twice_leaves_one_recovery_and_no_standby() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("standby.signal"), "").unwrap();
        settings(RecoveryTarget::Immediate)
            .write(directory.path())
            .unwrap();
        settings(RecoveryTarget::Lsn(Lsn(40)))
            .write(directory.path())
            .unwrap();
        let text = std::fs::read_to_string(directory.path().join("postgresql.auto.conf")).unwrap();
        let targets: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("recovery_target_lsn"))
            .collect();
        assert_eq!(targets, ["recovery_target_lsn = '0/00000028'"]);
        assert!(directory.path().join("recovery.signal").exists());
        assert!(!directory.path().join("standby.signal").exists());
    }
}
