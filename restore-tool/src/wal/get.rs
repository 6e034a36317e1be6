//! `wal-get`: the restore_command. PostgreSQL gives its exit codes a meaning of their own: 0 is "here it is", 1 to 125
//! "there is no such file", which ends recovery, and everything above "something is wrong", which aborts it. So 1 is
//! said of what is known to be absent only; whatever else happens, a panic or a wrong argument included, is
//! [`FAILED`].
//!
//! It is started for every segment, so the usual case does little: ask the prefetcher of a running restore over its
//! socket, and move the file into place. Without one it fetches by itself, some segments ahead.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use futures::future::join_all;
use tidemark_postgres::restore::WalRequest;
use tidemark_types::{SegmentName, SegmentNumber};

use crate::exit::{class_of, render};
use crate::wal::fetch::SegmentSource;
use crate::wal::segments::Answer;
use crate::wal::state::{State, StateDir};

/// Exit code for "there is no such file".
const ABSENT: i32 = 1;
/// Exit code for everything that went wrong: above 125, so that the server aborts instead of ending recovery.
const FAILED: i32 = 200;
/// Segments fetched together with the wanted one.
const AHEAD: u64 = 3;
/// Attempts, after those of the storage layer, while the store cannot be reached.
const ATTEMPTS: u32 = 5;
/// Pause between them.
const PAUSE: Duration = Duration::from_secs(5);

/// Runs `wal-get` with the arguments that follow it; returns the exit code.
pub fn main(arguments: impl Iterator<Item = OsString>) -> i32 {
    let arguments: Vec<OsString> = arguments.collect();
    let outcome = std::panic::catch_unwind(|| parse(&arguments).and_then(|wanted| run(&wanted)));
    match outcome {
        Ok(Ok(true)) => 0,
        Ok(Ok(false)) => ABSENT,
        Ok(Err(error)) => {
            // Standard error is the server's log.
            let _ = std::io::stderr()
                .write_all(format!("tidemark-restore wal-get: {}", render(&error)).as_bytes());
            FAILED
        }
        // The panic has printed itself.
        Err(_) => FAILED,
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    dir: StateDir,
    name: String,
    path: PathBuf,
}

/// Reads `--state DIR NAME PATH`. By hand: a command-line parser would end the process with a code of its own.
fn parse(arguments: &[OsString]) -> anyhow::Result<Wanted> {
    let usage = "usage: tidemark-restore wal-get --state DIR %f %p";
    let [option, dir, name, path] = arguments else {
        anyhow::bail!("{usage}")
    };
    let name = name.to_str().filter(|_| option == "--state").context(usage)?;
    Ok(Wanted {
        dir: StateDir::new(dir),
        name: name.to_owned(),
        path: path.into(),
    })
}

/// Puts the wanted file in place; false when it is known to be absent.
fn run(wanted: &Wanted) -> anyhow::Result<bool> {
    let state = wanted.dir.read()?;
    let request = WalRequest::parse(&wanted.name, state.log.segment_size)?;
    match request {
        WalRequest::Segment(segment) => match state.log.segment(segment) {
            Answer::Absent => Ok(false),
            Answer::Pieces(_) | Answer::Before => segment_file(wanted, &state, segment),
        },
        WalRequest::History(timeline) if state.log.has_history(timeline) => history_file(wanted),
        // Backup history and partial segments are never needed; newer timelines are not part of the plan.
        WalRequest::History(_) | WalRequest::BackupHistory { .. } | WalRequest::Partial(_) => Ok(false),
    }
}

fn history_file(wanted: &Wanted) -> anyhow::Result<bool> {
    let source = wanted.dir.history(&wanted.name);
    match std::fs::copy(&source, &wanted.path) {
        Ok(_) => Ok(true),
        // The plan fetched all that there are: the first timeline has none.
        Err(error) if error.kind() == ErrorKind::NotFound && !source.exists() => Ok(false),
        Err(error) => {
            Err(error).with_context(|| format!("copy {} to {}", source.display(), wanted.path.display()))
        }
    }
}

fn segment_file(wanted: &Wanted, state: &State, segment: SegmentName) -> anyhow::Result<bool> {
    if ask_prefetcher(wanted)? && take(wanted)? {
        return Ok(true);
    }
    if take(wanted)? {
        return Ok(true);
    }
    fetch(wanted, state, segment)?;
    if take(wanted)? {
        return Ok(true);
    }
    anyhow::bail!(
        "{} was fetched and is gone again",
        wanted.dir.waiting(&wanted.name).display()
    )
}

/// Asks the prefetcher of a running restore; false when there is none.
fn ask_prefetcher(wanted: &Wanted) -> anyhow::Result<bool> {
    let Ok(mut stream) = UnixStream::connect(wanted.dir.socket()) else {
        return Ok(false);
    };
    let mut answer = String::new();
    let asked = stream
        .write_all(format!("{}\n", wanted.name).as_bytes())
        .and_then(|()| BufReader::new(&stream).read_line(&mut answer));
    match (asked, answer.trim_end().split_once(' ')) {
        (Ok(_), None) if answer.trim_end() == "ready" => Ok(true),
        (Ok(_), Some(("error", message))) => anyhow::bail!("{message}"),
        // It ended while we asked: fetch by ourselves.
        _ => Ok(false),
    }
}

/// Moves the waiting file into place; false when none waits.
fn take(wanted: &Wanted) -> anyhow::Result<bool> {
    let waiting = wanted.dir.waiting(&wanted.name);
    match std::fs::rename(&waiting, &wanted.path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound && !waiting.exists() => Ok(false),
        Err(error) if error.kind() == ErrorKind::CrossesDevices => {
            copy(&waiting, &wanted.path).map(|()| true)
        }
        Err(error) => {
            Err(error).with_context(|| format!("move {} to {}", waiting.display(), wanted.path.display()))
        }
    }
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::copy(from, to)
        .and_then(|_| std::fs::remove_file(from))
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// Fetches the segment and some that follow it.
fn fetch(wanted: &Wanted, state: &State, segment: SegmentName) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut attempt = 1;
    loop {
        let result = runtime.block_on(fetch_ahead(wanted, state, segment));
        match result {
            Err(error) if class_of(&error).is_transient() && attempt < ATTEMPTS => {
                let _ = std::io::stderr().write_all(
                    format!(
                        "tidemark-restore wal-get: attempt {attempt} of {ATTEMPTS}: {}",
                        render(&error)
                    )
                    .as_bytes(),
                );
                attempt += 1;
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

async fn fetch_ahead(wanted: &Wanted, state: &State, segment: SegmentName) -> anyhow::Result<()> {
    let source = SegmentSource::open(wanted.dir.clone()).await?;
    let size = state.log.segment_size;
    let last = segment.segment.0.saturating_add(AHEAD);
    let from = state
        .log
        .sequence()
        .skip_while(|name| name.segment <= segment.segment);
    let following: Vec<SegmentName> = from
        .take_while(|name| name.segment <= SegmentNumber(last))
        .filter(|name| !wanted.dir.waiting(&name.file_name(size)).exists())
        .collect();
    let (own, _ahead) = tokio::join!(
        source.bring(segment),
        join_all(following.iter().map(|name| source.bring(*name)))
    );
    // What failed ahead is fetched again, and reported, when it is asked for.
    own.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn anything_but_the_expected_arguments_fails_above_125() {
        for words in [
            &[][..],
            &["--help"],
            &["--state", "/nowhere", "x"],
            &["--stat", "/nowhere", "a", "b"],
        ] {
            assert_eq!(main(arguments(words).into_iter()), FAILED, "{words:?}");
        }
    }

    #[test]
    fn a_state_that_is_not_there_is_no_missing_segment() {
        let words = ["--state", "/nowhere", "000000010000000000000001", "x"];
        assert_eq!(main(arguments(&words).into_iter()), FAILED);
    }
}
