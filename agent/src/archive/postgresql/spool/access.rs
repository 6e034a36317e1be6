//! Whether the agent may do with the spool what it must: the server's user writes there, and the agent may be another.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use rustix::fs::{Access, access};
use tidemark_types::ErrorClass;

use crate::exit::Failure;

/// Proves that the agent can list `directory` and remove files from it.
///
/// # Errors
/// `Config`, naming both users, when it may not.
pub fn check_directory(directory: &Path) -> anyhow::Result<()> {
    access(directory, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| denied(error.into(), "list and empty the spool", directory))
}

/// An error about `path`; when it is about permission, with both users in it and what to do.
pub fn denied(error: io::Error, what: &str, path: &Path) -> anyhow::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        let failed = Err::<(), _>(error).with_context(|| format!("{what} {}", path.display()));
        return failed.expect_err("it is an error");
    }
    let me = user_name(rustix::process::geteuid().as_raw());
    let owner = std::fs::metadata(path).map_or_else(
        |_| "somebody else".to_owned(),
        |found| format!("{} (mode {:o})", user_name(found.uid()), found.mode() & 0o7777),
    );
    let message = format!(
        "{what} {}: the agent runs as {me}, and it belongs to {owner}",
        path.display()
    );
    Failure::new(ErrorClass::Config, message)
        .hint(
            "let the spool directory belong to the server's user and to a group that both users are in, with mode 2770: \
             chgrp GROUP DIR && chmod 2770 DIR; archive-wal makes its files readable for the group",
        )
        .into()
}

/// The name of a user of this host, or the number where the password file does not tell.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("user {uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_refusal_names_both_users() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o750)).expect("set its mode");
        let refusal = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = denied(refusal, "open", directory.path()).to_string();
        let me = user_name(rustix::process::geteuid().as_raw());
        assert_eq!(
            error,
            format!(
                "open {}: the agent runs as {me}, and it belongs to {me} (mode 750)",
                directory.path().display()
            )
        );
        let error = denied(io::Error::from(io::ErrorKind::NotFound), "open", Path::new("/x"));
        assert_eq!(error.to_string(), "open /x");
        assert_eq!(user_name(0), "root");
        assert_eq!(user_name(4_000_000_001), "user 4000000001");
    }
}
