//! MySQL and MariaDB: the binlog as a replica receives it.

mod directory;
mod follow;
mod gtids;
mod intake;
mod marks;
mod prove;
pub mod source;
mod start;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tidemark_mysql::archive::BranchEnd;
use tidemark_mysql::binlog::BinlogOffset;
use tidemark_mysql::client::{BinlogStream, ConnectOptions};
use tidemark_mysql::replication::{DumpRequest, Replica};
use tidemark_repository::base::BackupHeader;
use tidemark_repository::{Archive, Branch, GapRecord, LogPosition};
use tidemark_types::{BinlogBasename, Clock, ErrorClass, LogFiles, SystemClock};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::directory::{BinlogDirectory, DirectoryTail};
use self::follow::{Ended, Follower, Input};
use self::intake::Intake;
use self::marks::BinlogMarks;
use self::prove::holds_file;
use self::source::{Source, replica_identity};
use self::start::{Anew, Begin, Start, Stored, decide};
use super::lease_keeper::{LeaseKeeper, Marks};
use super::shipper::{Cadence, Shipper};
use super::{LAST_MARK_MAX, LogPipeline, LogTask, Next, backups, give_up, is_open};
use crate::config::{LogSource, MysqlSettings};
use crate::exit::{Failure, class_of};

pub use self::follow::FollowError;

/// The source says at least this often that it is there.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Follows the binlog of one MySQL or MariaDB server.
pub struct BinlogPipeline {
    task: LogTask,
    settings: Arc<MysqlSettings>,
    memory: Memory,
}

/// What is carried from one attempt to the next.
#[derive(Default)]
struct Memory {
    /// Where the server's binlog was damaged when it was met before.
    damage: BTreeSet<LogPosition>,
    /// Where the server's bytes were not those that are stored.
    diverged: Option<LogPosition>,
    /// Another agent took the lease from this one.
    dispossessed: bool,
}

/// A stream that was begun.
struct Begun {
    start: Start,
    input: Input,
    opening: Opening,
}

/// How the binlog is opened at some event.
enum Opening {
    /// The server is asked for it.
    Dump {
        options: Box<ConnectOptions>,
        replica: Replica,
        basename: BinlogBasename,
    },
    /// Its files are read.
    Directory(BinlogDirectory),
}

impl LogPipeline for BinlogPipeline {
    async fn attempt(&mut self, cancel: &CancellationToken) -> anyhow::Result<Next> {
        self.task.starting();
        let mut source = Source::connect(&self.settings).await?;
        let archive = source
            .archive(&self.task.repository, &self.settings.server)
            .await?;
        self.task
            .state
            .update(|facts| facts.generation = Some(archive.record().generation));
        let lease = self
            .task
            .take_lease(&archive, self.memory.dispossessed, |_| false, cancel);
        let Some(keeper) = lease.await? else {
            return Ok(Next::Stop);
        };
        let begun = match self.begin(&mut source, &archive).await {
            Ok(begun) => begun,
            Err(error) => return Err(give_up(keeper, error).await),
        };
        self.follow(source, &archive, begun, keeper, cancel).await
    }

    fn learn(&mut self, error: &anyhow::Error) -> bool {
        let failed = error.downcast_ref::<FollowError>();
        self.memory.damage.extend(failed.and_then(FollowError::damage));
        self.memory.diverged = failed.and_then(FollowError::divergence);
        self.memory.dispossessed |= class_of(error) == ErrorClass::Conflict && self.memory.diverged.is_none();
        self.memory.diverged.is_some()
    }
}

impl BinlogPipeline {
    /// A pipeline that knows nothing yet.
    pub fn new(task: LogTask, settings: Arc<MysqlSettings>) -> BinlogPipeline {
        BinlogPipeline {
            task,
            settings,
            memory: Memory::default(),
        }
    }

    /// Streams under the lease, and gives it back at the end.
    async fn follow(
        &mut self,
        source: Source,
        archive: &Archive,
        begun: Begun,
        mut keeper: LeaseKeeper,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Next> {
        let start = &begun.start;
        let (branch, files) = (start.branch, source.log_files(start.branch));
        self.task
            .streaming(branch, files.position(start.event), files.position(start.whole));
        let stop = CancellationToken::new();
        let intake = self.intake(archive, start, files);
        let state = Arc::clone(&self.task.state);
        let marks = BinlogMarks::new(source.sql, branch, files);
        let mut follower = std::pin::pin!(self.stream(begun, intake, &stop));
        tokio::select! {
            ended = &mut follower => match ended {
                Ok(()) => {}
                Err(error) => return Err(give_up(keeper, error).await),
            },
            Err(error) = keeper.keep(&marks) => {
                // Who lost the lease stops at once; else what was received is stored first.
                if class_of(&error) != ErrorClass::Conflict {
                    stop.cancel();
                    let _ = follower.await;
                }
                return Err(error);
            }
            Err(error) = marks.watch(&state) => {
                stop.cancel();
                let _ = follower.await;
                return Err(error);
            }
            () = cancel.cancelled() => {
                let mark = timeout(LAST_MARK_MAX, marks.mark()).await;
                stop.cancel();
                let ended = follower.await;
                keeper.release(mark.ok().and_then(Result::ok).flatten()).await;
                ended?;
                return Ok(Next::Stop);
            }
        }
        Ok(Next::Again)
    }

    /// Takes the log in until told to stop. Where the server's crash tore a file, its dump ends, and another begins with the
    /// next file.
    async fn stream(&self, begun: Begun, mut intake: Intake, stop: &CancellationToken) -> anyhow::Result<()> {
        let Begun {
            mut input, opening, ..
        } = begun;
        loop {
            let hold = self.task.hold.subscribe();
            let follower = Follower::new(input, intake, hold, Arc::clone(&self.task.state));
            intake = match follower.run(stop).await? {
                Ended::Cancelled => return Ok(()),
                Ended::Torn(intake) => *intake,
            };
            let next = LogPosition::start_of(intake.next_file());
            tracing::warn!(
                file = next.file - 1,
                "a crash of the server tore the file; going on with the next"
            );
            input = opening.open(next).await?;
        }
    }

    fn intake(&self, archive: &Archive, start: &Start, files: LogFiles) -> Intake {
        let cadence = if self.settings.semi_sync {
            Cadence::AtOnce
        } else {
            Cadence::Within(self.settings.server.max_lag)
        };
        let state = Arc::clone(&self.task.state);
        let shipper = Shipper::new(
            archive.clone(),
            start.branch,
            start.resume.clone(),
            start.whole,
            cadence,
            Arc::clone(&state),
        );
        Intake::new(shipper, start, files, self.memory.damage.clone(), state)
    }

    /// Finds out where to begin, and begins: where the archive ends, or on a new branch.
    async fn begin(&mut self, source: &mut Source, archive: &Archive) -> anyhow::Result<Begun> {
        let backups = backups(archive).await?;
        let gaps = archive.gaps().await?;
        if gaps.iter().any(|gap| is_open(gap, &backups)) {
            self.hold_for_gap();
        }
        let stored = source.stored(archive, &backups).await?;
        let files = source.files().await?;
        let diverged = self.memory.diverged.take();
        if let Some(stored) = stored.as_ref().filter(|stored| !source.wrote(&stored.record)) {
            let replica = self.replica(source).await?;
            let anew = source
                .fail_over(archive, stored, &files, &replica, &self.settings.server)
                .await?;
            return self
                .begin_anew(source, archive, &anew, Some(stored), &backups)
                .await;
        }
        match decide(stored.as_ref(), &files, diverged) {
            Begin::GoOn(start) => self.start(source, *start).await,
            Begin::Prove { start, fork } => {
                let begun = self.start(source, *start).await?;
                let (mut input, start) = (begun.input, begun.start);
                let branch = start.branch;
                let anew = if holds_file(&mut input, archive, start).await? {
                    Anew::at_fork(branch, fork)
                } else {
                    Anew::behind_nothing(&files, start::RESET)
                };
                drop(input);
                self.begin_anew(source, archive, &anew, stored.as_ref(), &backups)
                    .await
            }
            Begin::Anew(anew) => {
                self.begin_anew(source, archive, &anew, stored.as_ref(), &backups)
                    .await
            }
        }
    }

    /// Begins a branch; where nothing leads to it, behind a gap that is recorded.
    async fn begin_anew(
        &self,
        source: &mut Source,
        archive: &Archive,
        anew: &Anew,
        stored: Option<&Stored>,
        backups: &[BackupHeader],
    ) -> anyhow::Result<Begun> {
        let begun_before = match stored {
            Some(stored) => Some((stored.branch, stored.run.end.position)),
            None => {
                let newest = archive.branches().await?.into_iter().max();
                newest.map(|branch| (branch, LogPosition::default()))
            }
        };
        let branch = source.begin_branch(archive, anew).await?;
        let start = Start::of_new_branch(branch, anew.first_file);
        if let Some((old, end)) = begun_before {
            let files = source.log_files(old);
            let settled = anew.follows.map_or(end, |fork| LogPosition {
                file: fork.file,
                offset: fork.offset,
            });
            match anew.follows {
                Some(fork) if settled < end => self.alarm_rolled_back(files, fork, end),
                Some(_) => {}
                None => {
                    let reason = anew.reason;
                    let next = source.log_files(branch).position(start.event);
                    self.task.alarm_gap(format!(
                        "from {} to {next} of branch {branch}: {reason}",
                        files.position(end)
                    ));
                }
            }
            // A base backup of what the server no longer has leads nowhere: the next one closes that, too.
            let is_dead = |backup: &BackupHeader| {
                let end = &backup.facts.end;
                let end = LogPosition {
                    file: end.file,
                    offset: end.offset,
                };
                backup.facts.end.branch == old.0 && end > settled
            };
            if anew.follows.is_none() || backups.last().is_some_and(is_dead) {
                self.record_gap(archive, (old, settled), start.event, anew.reason)
                    .await?;
            }
        }
        self.start(source, start).await
    }

    async fn record_gap(
        &self,
        archive: &Archive,
        (branch, begin): (Branch, LogPosition),
        end: LogPosition,
        reason: &str,
    ) -> anyhow::Result<()> {
        let gap = GapRecord {
            branch,
            begin,
            end,
            found: SystemClock.now(),
            reason: reason.to_owned(),
        };
        archive.record_gap(&gap).await?;
        self.hold_for_gap();
        Ok(())
    }

    /// Commits that wait for us must not be acknowledged while what they build on is lost.
    fn hold_for_gap(&self) {
        if self.settings.semi_sync {
            self.task.hold_for_gap();
        }
    }

    fn alarm_rolled_back(&self, files: LogFiles, fork: BranchEnd, end: LogPosition) {
        let begin = files.position(LogPosition {
            file: fork.file,
            offset: fork.offset,
        });
        let text = format!(
            "the server came back without some of the log that it had sent: what is archived from {begin} to {} and not on \
             the server stays readable on branch {}, and no restore passes it",
            files.position(end),
            fork.branch
        );
        tracing::error!("{text}");
        self.task
            .state
            .update(|facts| facts.alarms.insert("rolled_back", text));
    }

    /// Who asks.
    async fn replica(&self, source: &mut Source) -> anyhow::Result<Replica> {
        let identity = replica_identity(&self.settings);
        let server_id = match self.settings.server_id {
            Some(server_id) => server_id,
            None => source.sql.unused_server_id(&identity).await?,
        };
        Ok(Replica {
            server_id,
            uuid: identity.uuid,
            heartbeat: HEARTBEAT,
            semi_sync: self.settings.semi_sync,
        })
    }

    /// Opens the log.
    async fn start(&self, source: &mut Source, start: Start) -> anyhow::Result<Begun> {
        let opening = match &self.settings.log_source {
            LogSource::Replication => Opening::Dump {
                options: Box::new(source.options.clone()),
                replica: self.replica(source).await?,
                basename: source.basename,
            },
            LogSource::Directory(path) => Opening::Directory(source.binlog_directory(path.as_deref())?),
        };
        let input = opening.open(start.event).await?;
        if let Input::Dump(stream) = &input
            && stream.host() != source.sql.host()
        {
            let message = format!(
                "connected to {} and {}: the hosts' roles are changing",
                source.sql.host(),
                stream.host()
            );
            return Err(Failure::new(ErrorClass::Transient, message).into());
        }
        Ok(Begun {
            start,
            input,
            opening,
        })
    }
}

impl Opening {
    /// The log from where an event begins.
    async fn open(&self, event: LogPosition) -> anyhow::Result<Input> {
        let (options, replica, basename) = match self {
            Opening::Directory(directory) => {
                return Ok(Input::Directory(DirectoryTail::start(directory.clone(), event)));
            }
            Opening::Dump {
                options,
                replica,
                basename,
            } => (options, replica, basename),
        };
        let file = basename.file_name(event.file);
        let request = DumpRequest {
            file: &file,
            position: BinlogOffset(event.offset.max(BinlogOffset::FIRST_EVENT.0)),
            ends_with_log: false,
        };
        let stream = BinlogStream::start(options, replica, &request).await?;
        Ok(Input::Dump(Box::new(stream)))
    }
}
