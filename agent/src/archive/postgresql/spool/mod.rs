//! The second way in: the log of a server that cannot be streamed from, as `archive-wal` leaves it in a spool.
//!
//! One task ships; beside it the lease is kept and the server is asked how far its log reaches, so that the lag of an
//! unfinished segment shows. Whatever brings the log, it is stored the same: through [`super::intake::Intake`].

mod access;
mod files;
mod hole;
mod name;
mod past;
mod plan;
mod prime;
mod segment;
mod shipping;
mod watch;

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use tidemark_postgres::SqlClient;
use tidemark_repository::Archive;
use tidemark_types::{Clock, ErrorClass, LogFiles, Lsn, SystemClock};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::WalPipeline;
use super::mark::WalMarks;
use super::source::{self, Source};
use crate::archive::lease_keeper::{LeaseKeeper, Marks};
use crate::archive::{LAST_MARK_MAX, Next, backups};
use crate::exit::{class_of, one_line};
use crate::state::{Pipeline, ServerState};

use self::shipping::{NewestBackup, Parts, Shipping};
use self::watch::SpoolWatcher;

/// How often the server is asked for the end of its log.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How long an agent that was told to stop goes on storing what it has read.
const STOPPING_MAX: Duration = Duration::from_secs(10);
/// A server that shuts down ends its sessions before its archiver hands over the last segments: shipping goes on for
/// this long after the server was lost.
const LAST_FILES_MAX: Duration = Duration::from_secs(15);

impl WalPipeline {
    /// Ships what comes into the spool under the lease, and gives the lease back at the end.
    pub(super) async fn ship_spool(
        &self,
        directory: &Path,
        source: &Source,
        archive: &Archive,
        mut keeper: LeaseKeeper,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Next> {
        access::check_directory(directory)?;
        let watcher = SpoolWatcher::new(directory);
        let newest_backup = newest_backup(archive, source).await?;
        self.task.state.update(|facts| {
            facts.pipeline = Pipeline::Streaming;
            facts.alarms.remove("spool");
        });
        self.task.backups_due.notify_one();
        tracing::info!(spool = %directory.display(), "shipping what comes into the spool");
        let (sql, size) = (&source.sql, source.segment_size);
        let marks = WalMarks {
            sql,
            segment_size: size,
        };
        let stop = CancellationToken::new();
        let shipping = Shipping::new(Parts {
            directory,
            archive,
            sql,
            segment_size: size,
            settings: &self.settings,
            state: &self.task.state,
            backups_due: &self.task.backups_due,
            damage_known: self.memory.damage.clone(),
            newest_backup,
        });
        let mut shipping = pin!(shipping.run(&watcher, &stop));
        let lost = tokio::select! {
            ended = &mut shipping => return self.shipped(ended, Next::Again),
            lost = keeper.keep(&marks) => lost,
            lost = ask(sql, LogFiles::Wal(size), &self.task.state) => lost,
            () = cancel.cancelled() => {
                let mark = timeout(LAST_MARK_MAX, marks.mark()).await;
                stop.cancel();
                let ended = within_seconds(&mut shipping).await;
                keeper.release(mark.ok().and_then(Result::ok).flatten()).await;
                return self.shipped(ended, Next::Stop);
            }
        };
        if let Err(error) = &lost
            && class_of(error) == ErrorClass::Transient
        {
            tracing::warn!(
                error = one_line(error),
                "the server is gone; shipping what it still archives"
            );
            tokio::select! {
                ended = &mut shipping => return self.shipped(ended, Next::Again),
                () = sleep(LAST_FILES_MAX) => {}
                () = cancel.cancelled() => {}
            }
            stop.cancel();
            self.shipped(within_seconds(&mut shipping).await, Next::Again)?;
        }
        lost.map(|()| Next::Again)
    }

    /// Raises the alarm for a file that stays in the spool until somebody has looked at it.
    fn shipped(&self, ended: anyhow::Result<()>, next: Next) -> anyhow::Result<Next> {
        if let Err(error) = &ended
            && !class_of(error).is_transient()
        {
            let text = one_line(error);
            self.task.state.update(|facts| facts.alarms.insert("spool", text));
        }
        ended.map(|()| next)
    }
}

/// Awaits the end of shipping that was told to stop.
async fn within_seconds(shipping: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    timeout(STOPPING_MAX, shipping).await.unwrap_or_else(|_| {
        tracing::warn!("what was read last could not be stored in time; it stays in the spool");
        Ok(())
    })
}

async fn newest_backup(archive: &Archive, source: &Source) -> anyhow::Result<Option<NewestBackup>> {
    let backups = backups(archive).await?;
    Ok(backups.last().map(|backup| {
        let (timeline, end) = source::backup_end(backup, source.segment_size);
        NewestBackup {
            timeline,
            first_file: backup.facts.begin.file,
            end,
        }
    }))
}

/// Asks the server how far its log reaches, now and then. Never returns otherwise than with an error.
///
/// An idle server's log grows a little by itself (checkpoints, lists of running transactions), and it does not end its
/// segment for that, whatever `archive_timeout` says (`CheckArchiveTimeout` in the server's `checkpointer.c`). So log
/// counts as waiting only up to where it reached when a transaction began or ended last.
async fn ask(sql: &SqlClient, files: LogFiles, state: &ServerState) -> anyhow::Result<()> {
    // PostgreSQL evaluates the columns of a select list in their order.
    let statement = "select pg_current_snapshot()::text, case when pg_is_in_recovery() then pg_last_wal_replay_lsn() \
                     else pg_current_wal_flush_lsn() end::text";
    let mut quiet: Option<(String, Lsn)> = None;
    loop {
        let row = sql
            .query_one("ask for the end of the server's log", statement, &[])
            .await?;
        let snapshot: String = row.get(0);
        if let Some(end) = row.get::<_, Option<String>>(1) {
            let end: Lsn = end.parse()?;
            let since = match quiet.take().filter(|(known, _)| *known == snapshot) {
                Some((_, since)) => since,
                None => end,
            };
            quiet = Some((snapshot, since));
            let (since, end) = (files.lsn(since), files.lsn(end));
            state.update(|facts| facts.note_server_log(since, end, SystemClock.now()));
        }
        sleep(ASK_EVERY).await;
    }
}
