//! Making what mariadb-backup streamed fit to be started on: its copy of the redo log is applied to the files.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::RestoreError;
use super::owner::ServerUser;
use super::server::{ServerLaunch, log_tail};

const PROGRAM: &str = "mariadb-backup";
/// What it prints at a good end; its exit code alone is not trusted (manual: "mariadb-backup Overview").
const SUCCESS: &str = "completed OK!";

/// Runs `mariadb-backup --prepare` on the laid-down data directory, as its owner: the program that stands beside the server's,
/// else the one on the PATH. Its messages go to `log`.
///
/// # Errors
/// [`RestoreError::NoServer`] when there is no such program; [`RestoreError::ServerEnded`] when it failed.
pub async fn prepare_backup(launch: &ServerLaunch, log: &Path) -> Result<(), RestoreError> {
    let user = ServerUser::of(&launch.data_directory)?;
    let program = launch.program.sibling(PROGRAM);
    let output = user.create(log)?;
    let errors = output.try_clone().map_err(RestoreError::io("open", log))?;
    let mut command = Command::new(&program);
    command
        .arg("--no-defaults")
        .arg("--prepare")
        .arg(format!("--target-dir={}", launch.data_directory.display()))
        .arg(format!("--use-memory={}M", launch.options.buffer_pool_mib))
        .current_dir(&launch.data_directory)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .kill_on_drop(true);
    if let Some((user_id, group_id)) = user.ids() {
        command.uid(user_id).gid(group_id);
    }
    let status = command.status().await.map_err(|error| RestoreError::NoServer {
        path: program.clone(),
        problem: format!("{error}; install mariadb-backup beside the server"),
    })?;
    let tail = log_tail(log);
    if status.success() && tail.contains(SUCCESS) {
        return Ok(());
    }
    Err(RestoreError::ServerEnded {
        status: format!("{PROGRAM} --prepare: {status}"),
        log: log.to_owned(),
        log_tail: tail,
    })
}
