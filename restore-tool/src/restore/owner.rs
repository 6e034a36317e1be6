//! Who restored files belong to. Servers refuse to run as root, so a restore by root hands them over.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

use anyhow::Context;

use crate::engine::Engine;
use crate::exit::Failure;

/// The owner of restored files; nobody in particular unless we are root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(Option<(u32, u32)>);

impl Owner {
    /// The user that was named, else the owner of the directory that will hold `to`, else the account that servers of
    /// `engine` have on most systems.
    ///
    /// # Errors
    /// When we are root and there is no such user, or when one was named and we are not root.
    pub fn find(named: Option<&str>, to: &Path, engine: Engine) -> anyhow::Result<Owner> {
        if !rustix::process::geteuid().is_root() {
            return match named {
                None => Ok(Owner(None)),
                Some(_) => Err(Failure::usage("--owner can be given by root only").into()),
            };
        }
        if let Some(name) = named {
            let found = look_up(name)?;
            let found =
                found.ok_or_else(|| Failure::usage(format!("--owner: there is no user \"{name}\"")))?;
            return Ok(Owner(Some(found)));
        }
        let parent = to
            .ancestors()
            .skip(1)
            .find_map(|parent| std::fs::metadata(parent).ok());
        if let Some(parent) = parent.filter(|parent| parent.uid() != 0) {
            return Ok(Owner(Some((parent.uid(), parent.gid()))));
        }
        let account = engine.server_account();
        let account = look_up(account)?.ok_or_else(|| {
            let message = format!(
                "the restore runs as root, and {} refuses to: there is no user {account} either",
                engine.name()
            );
            Failure::usage(message).hint("name the user that the server shall run as with --owner")
        })?;
        Ok(Owner(Some(account)))
    }

    /// User and group id; `None` for our own.
    pub fn ids(self) -> Option<(u32, u32)> {
        self.0
    }

    /// Makes sure that a server of this owner gets as far as `path`, as far as that is there yet: what root sees at once
    /// may lie in a home directory that is closed to everybody else.
    ///
    /// # Errors
    /// When a directory on the way is closed to the owner; `purpose` says what the server needs the path for.
    pub fn check_reaches(self, path: &Path, purpose: &str) -> anyhow::Result<()> {
        let Some((user, _)) = self.0 else {
            return Ok(());
        };
        let closed =
            |directory: &&Path| std::fs::metadata(directory).is_ok_and(|found| !may_enter(&found, user));
        let Some(closed) = path.ancestors().skip(1).find(closed) else {
            return Ok(());
        };
        let message = format!(
            "the server will run as user {user}, to whom {} is closed, and {} is {purpose}",
            closed.display(),
            path.display()
        );
        Err(Failure::usage(message)
            .hint("move it to where everybody may look, or open that directory with chmod o+x")
            .into())
    }

    /// Hands one path over, without following it.
    ///
    /// # Errors
    /// When that is refused.
    pub fn give(self, path: &Path) -> anyhow::Result<()> {
        let Some((user, group)) = self.0 else {
            return Ok(());
        };
        lchown(path, Some(user), Some(group)).with_context(|| format!("give {} to its user", path.display()))
    }

    /// Hands a small folder over with everything in it.
    ///
    /// # Errors
    /// When that is refused.
    pub fn give_all(self, path: &Path) -> anyhow::Result<()> {
        if self.0.is_none() {
            return Ok(());
        }
        self.give(path)?;
        if !std::fs::symlink_metadata(path)?.is_dir() {
            return Ok(());
        }
        for entry in std::fs::read_dir(path).with_context(|| format!("read {}", path.display()))? {
            self.give_all(&entry?.path())?;
        }
        Ok(())
    }
}

/// Whether a user may be able to search a directory. Open to a group counts as open: the user may belong to it, and an
/// access list shows in those bits.
fn may_enter(directory: &Metadata, user: u32) -> bool {
    let bits = if directory.uid() == user { 0o100 } else { 0o011 };
    directory.mode() & bits != 0
}

/// User and group id of an account, from /etc/passwd.
fn look_up(name: &str) -> anyhow::Result<Option<(u32, u32)>> {
    let text = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    Ok(parse(&text, name))
}

fn parse(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = passwd
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
    let (user, group) = (fields.nth(1)?, fields.next()?);
    Some((user.parse().ok()?, group.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres2:x:5:6::/:\npostgres:x:101:103:PostgreSQL,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(parse(passwd, "postgres"), Some((101, 103)));
        assert_eq!(parse(passwd, "post"), None);
    }
}
