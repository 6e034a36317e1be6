//! The user that servers, and what stands beside them, run as: PostgreSQL refuses to run as root.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

const SERVER_USER: &str = "postgres";

/// The user that test servers run as: `postgres` when the tests run as root, else the tests' own.
#[derive(Debug, Clone, Copy)]
pub struct ServerUser {
    /// User and group to switch to; `None` when no switch is possible or needed.
    switch_to: Option<(u32, u32)>,
}

impl ServerUser {
    /// The one of this process. Panics when it runs as root and there is no `postgres` user.
    pub fn current() -> ServerUser {
        static CURRENT: OnceLock<ServerUser> = OnceLock::new();
        *CURRENT.get_or_init(|| ServerUser {
            switch_to: rustix::process::getuid().is_root().then(look_up),
        })
    }

    /// A command that runs as this user, in a neutral place, with an environment in which messages are English.
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some((uid, gid)) = self.switch_to {
            command
                .uid(uid)
                .gid(gid)
                .env("HOME", "/tmp")
                .env("USER", SERVER_USER);
        }
        command.current_dir("/").env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        command
    }

    /// Makes the user the owner of one file or directory.
    pub fn own(self, path: &Path) {
        if let Some((uid, gid)) = self.switch_to {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .unwrap_or_else(|error| panic!("give {} to {SERVER_USER}: {error}", path.display()));
        }
    }

    /// Makes the user the owner of a directory and all that is in it.
    pub fn own_all(self, directory: &Path) {
        self.own(directory);
        let entries =
            fs::read_dir(directory).unwrap_or_else(|error| panic!("list {}: {error}", directory.display()));
        for entry in entries {
            let path = entry.expect("read a directory").path();
            if path.is_dir() {
                self.own_all(&path);
            } else {
                self.own(&path);
            }
        }
    }
}

fn look_up() -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields[0] == SERVER_USER)
        .and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))
        .unwrap_or_else(|| panic!("there is no user {SERVER_USER}: run scripts/install-test-servers.sh"))
}
