//! A restore of a test.

use std::io::Read;
use std::path::PathBuf;
use std::thread::JoinHandle;

use tidemark_testkit::{MysqlClient, Scratch};

use super::source::{Moment, Source, checksums, flavor, prepared};
use crate::restore::{
    Ending, Held, LogFile, PrivateOptions, RelayFeed, Replay, ReplayStart, Replayed, RestoreError, Series,
    ServerLaunch, ServerProgram,
};

/// Where a test restores to.
pub(super) struct Place {
    _scratch: Scratch,
    pub(super) launch: ServerLaunch,
}

impl Place {
    /// Lays the base down.
    pub(super) fn new(source: &Source) -> Place {
        let scratch = Scratch::new("to");
        let data_directory = scratch.path().join("data");
        source.lay_down(&data_directory);
        let mut options = PrivateOptions::new(scratch.path().join("p"), 128);
        options.is_read_only = true;
        let program = source.version().server_program();
        let number = source.version().number().split_once('.').unwrap();
        let series = Series {
            flavor: flavor(source.version()),
            number: (number.0.parse().unwrap(), number.1.parse().unwrap()),
        };
        let launch = ServerLaunch {
            program: ServerProgram::find(series, Some(&program), None).unwrap(),
            data_directory,
            options,
        };
        Place {
            _scratch: scratch,
            launch,
        }
    }

    /// Restores to a moment, with the log from `first` on.
    pub(super) async fn restore(
        &self,
        source: &Source,
        first: &str,
        until: &Moment,
        ending: Ending,
    ) -> Result<Replayed, RestoreError> {
        let files = source.files(first, until);
        let (mut replay, feeding) = self.begin(source, files).await?;
        let applied = replay.apply(&mut |_| {}).await;
        // What kept the feed from going on is the reason of a replay that lacks files.
        if let Err(error) = feeding.join().unwrap().and(applied) {
            // Of a server that was killed nothing is left to be stopped.
            let _ = replay.stop().await;
            return Err(error);
        }
        replay.finish(ending).await
    }

    /// Begins a replay, and feeds it from another thread.
    pub(super) async fn begin(
        &self,
        source: &Source,
        files: Vec<(LogFile, PathBuf)>,
    ) -> Result<(Replay, JoinHandle<Result<(), RestoreError>>), RestoreError> {
        let start = ReplayStart {
            offset: Some(source.base.offset),
            held: Held::Exactly(source.executed()),
        };
        let (log_files, paths): (Vec<_>, Vec<_>) = files.into_iter().unzip();
        let (replay, feed) = Replay::begin(self.launch.clone(), start, log_files).await?;
        let runtime = tokio::runtime::Handle::current();
        let feeding = std::thread::spawn(move || feed_all(feed, &paths, &runtime));
        Ok((replay, feeding))
    }
}

/// Feeds file after file, never far ahead of what is applied.
fn feed_all(
    mut feed: RelayFeed,
    paths: &[PathBuf],
    runtime: &tokio::runtime::Handle,
) -> Result<(), RestoreError> {
    const AHEAD_BYTES: u64 = 50_000;
    for path in paths {
        runtime.block_on(feed.wait_for_room(AHEAD_BYTES));
        feed.begin_file()?.expect("a file is wanted");
        let mut file = std::fs::File::open(path).unwrap();
        // The archive holds a file as its server closed it.
        let mut buffer = vec![0; 100_000];
        let mut is_beginning = true;
        loop {
            let count = file.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            if std::mem::take(&mut is_beginning) {
                buffer[4 + 17] &= !1;
            }
            feed.write(&buffer[..count])?;
        }
        feed.end_file()?;
    }
    assert_eq!(feed.begin_file()?, None);
    Ok(())
}

/// Panics unless the restored server, left running, holds what the original held at that moment. Ends it.
#[track_caller]
pub(super) fn assert_restored(source: &Source, replayed: &Replayed, moment: &Moment) {
    assert_eq!(replayed.executed.to_string(), moment.executed);
    assert_eq!(replayed.binlog_state, moment.binlog_state);
    let running = replayed.running.as_ref().expect("it was left running");
    let client = MysqlClient::new(source.version(), &running.socket);
    assert_eq!(checksums(|sql| client.query(sql)), moment.checksums);
    assert_eq!(prepared(|sql| client.query(sql)), moment.prepared);
    let executed = if source.version().is_mariadb() {
        "SELECT @@gtid_current_pos"
    } else {
        "SELECT @@gtid_executed"
    };
    assert_eq!(client.query(executed).replace('\n', ""), moment.executed);
    // Nothing of ours stays behind.
    assert_eq!(
        client.query("SELECT user FROM mysql.user WHERE user LIKE 'tidemark%'"),
        ""
    );
    let is_replica = if source.version().is_mariadb() {
        "SHOW SLAVE STATUS"
    } else {
        "SHOW REPLICA STATUS"
    };
    assert_eq!(client.query(is_replica), "");
}

/// Stops a server that was left running.
pub(super) fn stop(source: &Source, replayed: &Replayed) {
    let running = replayed.running.as_ref().expect("it was left running");
    MysqlClient::new(source.version(), &running.socket).query("SHUTDOWN");
    let pid = running.pid;
    tidemark_testkit::wait_for(
        "the restored server to end",
        std::time::Duration::from_secs(60),
        || {
            // Reaped by nobody, as its starter let go of it: gone, or a zombie.
            std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| {
                stat.rsplit(')')
                    .next()
                    .is_some_and(|rest| rest.trim_start().starts_with('Z'))
            })
        },
    );
}
