//! Replay: from a laid-down base and its log to a server that stands at the target, proven by a clean restart.

use std::path::Path;

use tidemark_types::Timestamp;

use super::RestoreError;
use super::applier::{Applier, ReplayProgress};
use super::control;
use super::log::{Executed, Interrupted, LogChain, LogFile, LogPlace, LogStart, PreparedXa};
use super::options::{PrivateOptions, Purpose};
use super::owner::ServerUser;
use super::relay::{RelayFeed, RelayLogs};
use super::server::{LeftRunning, PrivateServer, ServerLaunch, end_earlier};
use super::state::ReplayState;
use crate::binlog::{BinlogOffset, XaId};
use crate::gtid::GtidSet;

/// What the data of a base backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// This. MySQL's data tells the same, or it is another backup's; MariaDB's is told.
    Exactly(Executed),
    /// MySQL: all of `least`, and nothing but `most`; the data itself tells exactly (a clone).
    Between {
        /// Executed before the backup began.
        least: GtidSet,
        /// Executed when it had ended.
        most: GtidSet,
    },
    /// This, of which the data knows nothing: it was loaded from a dump.
    Untold(Executed),
}

/// Where a replay begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayStart {
    /// The offset in the first file, between two transactions; `None` for MySQL with GTIDs: from the file's beginning on.
    pub offset: Option<BinlogOffset>,
    /// What the data holds there.
    pub held: Held,
}

/// What becomes of the server when all is applied and proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It goes on, on its socket.
    LeaveRunning,
    /// It is stopped.
    Stop,
}

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// What the server has executed: `gtid_executed`, or MariaDB's position.
    pub executed: Executed,
    /// MariaDB: what `gtid_binlog_state` was on the original, for a server that goes live and writes a binlog of its own.
    pub binlog_state: Option<String>,
    /// Where in the original's log it stands; `None` when there was none to apply.
    pub place: Option<LogPlace>,
    /// When the last transaction committed on the original.
    pub last_commit: Option<Timestamp>,
    /// Transactions that were applied.
    pub transactions: u64,
    /// XA transactions that are prepared: they hold locks until somebody commits them or rolls them back.
    pub prepared: Vec<XaId>,
    /// The server, if it goes on.
    pub running: Option<LeftRunning>,
}

/// A replay under way. Dropping it stops the server in order; what is applied so far is noted, and a later replay goes on.
pub struct Replay {
    server: PrivateServer,
    user: ServerUser,
    applier: Applier,
    state: ReplayState,
}

impl Replay {
    /// Starts a server on the data, ready to apply `files`, and returns it with the feed that takes them, from the first byte of
    /// the first on. Goes on where a replay in the same private directory left off: then the first file must be that of
    /// [`ReplayState::applied`], and `start` is that of the base as before.
    ///
    /// # Errors
    /// [`RestoreError::CannotResume`], [`RestoreError::OtherBase`], and whatever keeps the server from running.
    pub async fn begin(
        launch: ServerLaunch,
        start: ReplayStart,
        files: Vec<LogFile>,
    ) -> Result<(Replay, RelayFeed), RestoreError> {
        let user = ServerUser::of(&launch.data_directory)?;
        let directory = launch.options.directory.clone();
        user.make_directory(&directory)?;
        let mut earlier = ReplayState::read(&directory)?;
        if let Some(state) = &earlier {
            check_goes_on(state, &files)?;
        }
        end_earlier(&launch.options).await?;
        match &mut earlier {
            Some(state) => {
                state.is_on_disk = false;
                state.write(&directory, user)?;
            }
            None => forget_identity(&launch.data_directory)?,
        }
        let (mut server, relay) = start_with(&launch, user, &files).await?;
        let set_up = set_up(&mut server, &launch.options, &start, earlier).await;
        let (state, log_start, has) = match set_up {
            Ok(set_up) => set_up,
            Err(error) => {
                let error = server.explain(error).await;
                return Err(server.stop().await.err().unwrap_or(error));
            }
        };
        let begin = log_start.offset.unwrap_or(BinlogOffset::FIRST_EVENT);
        let (feed, feed_end) = RelayFeed::new(relay.clone(), LogChain::new(log_start));
        let applier = Applier::new(relay, feed_end, begin, has, launch.options.server_id);
        let mut replay = Replay {
            server,
            user,
            applier,
            state,
        };
        replay.write_state()?;
        Ok((replay, feed))
    }

    /// Applies everything, as it comes in place; `tell` is called a few times a second.
    ///
    /// # Errors
    /// [`RestoreError::Transaction`] when one cannot be applied; [`RestoreError::FeedEnded`] when the feed was dropped;
    /// [`RestoreError::NotAsCounted`]; whatever the server says.
    pub async fn apply(&mut self, tell: &mut (dyn FnMut(ReplayProgress) + Send)) -> Result<(), RestoreError> {
        let applied = self.apply_all(tell).await;
        match applied {
            Ok(()) => Ok(()),
            Err(error) => Err(self.server.explain(error).await),
        }
    }

    async fn apply_all(&mut self, tell: &mut (dyn FnMut(ReplayProgress) + Send)) -> Result<(), RestoreError> {
        while let Some(batch) = self.applier.next_batch().await? {
            self.state.applying_to = self.applier.end_of(batch);
            self.state.has_anonymous |= self.applier.chain().has_anonymous;
            self.write_state()?;
            self.applier.apply(&mut self.server, batch, tell).await?;
            self.mark().await?;
        }
        self.mark().await
    }

    /// Notes that all up to here is applied, so that a replay which is interrupted later need not begin before it.
    async fn mark(&mut self) -> Result<(), RestoreError> {
        control::flush_engine_logs(self.server.sql()).await?;
        if let Some(end) = self.applier.end() {
            self.state.applied = Some(end);
        }
        self.state.applying_to = None;
        self.state.executed = self.applier.executed().to_string();
        self.write_state()
    }

    /// Gives the replay up where it stands: stops the server in order, and waits for its end. A later one goes on.
    ///
    /// # Errors
    /// [`RestoreError::Timeout`], [`RestoreError::ServerEnded`].
    pub async fn stop(mut self) -> Result<(), RestoreError> {
        let launch = self.server.launch().clone();
        self.server.stop().await?;
        sync(&launch.data_directory)?;
        self.state.is_on_disk = true;
        self.state.write(&launch.options.directory, self.user)
    }

    /// Ends the replay: stops the server in order, and proves by a start with full durability that it stands where the log
    /// ends. All of the log must be applied.
    ///
    /// # Errors
    /// [`RestoreError::NotAsCounted`], and whatever the server says.
    pub async fn finish(self, ending: Ending) -> Result<Replayed, RestoreError> {
        let Replay {
            mut server,
            user,
            applier,
            mut state,
        } = self;
        let launch = server.launch().clone();
        let chain = applier.chain();
        let prepared = control::prepared_xa(server.sql()).await?;
        check_prepared(&chain.prepared, &prepared)?;
        control::forget_sources(server.sql()).await?;
        server.stop().await?;
        sync(&launch.data_directory)?;
        state.is_on_disk = true;
        state.write(&launch.options.directory, user)?;

        let mut server = PrivateServer::start(launch.clone(), Purpose::Serve).await?;
        let executed = control::executed(server.sql()).await?;
        let prepared_again = control::prepared_xa(server.sql()).await?;
        if executed != *applier.executed() || !same(&prepared, &prepared_again) {
            return Err(RestoreError::NotAsCounted {
                what: "after a clean restart",
                file: "its end".to_owned(),
                expected: format!("{} {prepared:?}", applier.executed()),
                found: format!("{executed} {prepared_again:?}"),
            });
        }
        let is_left = ending == Ending::LeaveRunning;
        state.is_open = is_left && !launch.options.is_read_only;
        state.write(&launch.options.directory, user)?;
        server.remove_account().await?;
        let running = if is_left {
            Some(server.leave_running())
        } else {
            server.stop().await?;
            sync(&launch.data_directory)?;
            None
        };
        Ok(Replayed {
            executed,
            binlog_state: chain.binlog_state.map(|state| state.to_string()),
            place: state.applied.clone(),
            last_commit: chain.last_commit,
            transactions: applier.transactions(),
            prepared,
            running,
        })
    }

    fn write_state(&mut self) -> Result<(), RestoreError> {
        self.state
            .write(&self.server.launch().options.directory, self.user)
    }
}

/// Starts a server with `files` as its relay logs, none of which has come yet. What its data knows of other sources is
/// forgotten first.
async fn start_with(
    launch: &ServerLaunch,
    user: ServerUser,
    files: &[LogFile],
) -> Result<(PrivateServer, RelayLogs), RestoreError> {
    let lay_out = || {
        let directory = launch.options.relay_directory();
        RelayLogs::lay_out(directory, user, launch.program.flavor, files.to_vec())
    };
    let relay = lay_out()?;
    let mut server = PrivateServer::start(launch.clone(), Purpose::Replay).await?;
    if !control::knows_a_source(server.sql()).await? {
        return Ok((server, relay));
    }
    // That deletes relay logs, and what the data knows names others.
    control::forget_sources(server.sql()).await?;
    server.stop().await?;
    let relay = lay_out()?;
    Ok((
        PrivateServer::start(launch.clone(), Purpose::Replay).await?,
        relay,
    ))
}

/// Looks at what the data holds, and finds where applying begins. With what it holds now.
async fn set_up(
    server: &mut PrivateServer,
    options: &PrivateOptions,
    start: &ReplayStart,
    earlier: Option<ReplayState>,
) -> Result<(ReplayState, LogStart, Executed), RestoreError> {
    let state = match earlier {
        Some(state) => state,
        None => ReplayState::of_base(hold(server, &start.held).await?.to_string()),
    };
    if state.applying_to.is_some() && !control::position_is_transactional(server.sql()).await? {
        return Err(RestoreError::cannot_resume(
            "the table mysql.gtid_slave_pos is not InnoDB's, so that it does not tell what was applied",
        ));
    }
    let has = control::executed(server.sql()).await?;
    let log_start = start_of(&state, start.offset, &has, options)?;
    Ok((state, log_start, has))
}

/// Whether an earlier replay can go on with these files.
fn check_goes_on(state: &ReplayState, files: &[LogFile]) -> Result<(), RestoreError> {
    state.check_resumable()?;
    let Some(applied) = &state.applied else {
        return Ok(());
    };
    if files.first().is_none_or(|first| first.holds(applied)) {
        return Ok(());
    }
    Err(RestoreError::cannot_resume(format!(
        "it stands at {}:{}, and the log that was planned does not begin there",
        applied.file, applied.offset
    )))
}

/// Where applying begins: behind what is noted as applied, else where the base ends.
fn start_of(
    state: &ReplayState,
    base_offset: Option<BinlogOffset>,
    has: &Executed,
    options: &PrivateOptions,
) -> Result<LogStart, RestoreError> {
    let executed = Executed::parse(has.flavor(), &state.executed)
        .map_err(|error| RestoreError::cannot_resume(format!("what was noted is no position: {error}")))?;
    let applied = state.applied.as_ref().map(|applied| BinlogOffset(applied.offset));
    if state.applying_to.is_none() && *has != executed {
        return Err(RestoreError::cannot_resume(format!(
            "the data holds '{has}', and '{executed}' was noted"
        )));
    }
    let interrupted = state.applying_to.as_ref().map(|target| Interrupted {
        has: has.clone(),
        target: target.clone(),
        in_flight: usize::try_from(options.workers).unwrap_or(usize::MAX),
    });
    Ok(LogStart {
        offset: applied.or(base_offset),
        executed,
        interrupted,
    })
}

/// A restored server is none that ever was, and follows nobody. MySQL makes itself a new uuid (manual: "server_uuid"), so that
/// what it writes one day is not taken for the original's; what it knows of sources lies in tables, and is forgotten over SQL.
/// MariaDB's lies in files, and whoever starts it one day would have it follow them.
fn forget_identity(data_directory: &Path) -> Result<(), RestoreError> {
    for name in ["auto.cnf", "master.info", "relay-log.info", "multi-master.info"] {
        let path = data_directory.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(RestoreError::io("remove", &path)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Compares what the data holds with what its backup says, or tells the data. Returns what it holds.
async fn hold(server: &mut PrivateServer, held: &Held) -> Result<Executed, RestoreError> {
    let found = control::executed(server.sql()).await?;
    let other = |expected: String| RestoreError::OtherBase {
        expected,
        found: found.to_string(),
    };
    match (held, &found) {
        (Held::Exactly(Executed::MySql(expected)), Executed::MySql(found)) if expected == found => {}
        (Held::Exactly(Executed::MySql(expected)), _) => return Err(other(expected.to_string())),
        (Held::Between { least, most }, Executed::MySql(found)) => {
            if !found.contains_all(least) || !most.contains_all(found) {
                return Err(other(format!("at least {least}, at most {most}")));
            }
        }
        (Held::Between { least, .. }, Executed::MariaDb(_)) => return Err(other(least.to_string())),
        (Held::Exactly(expected) | Held::Untold(expected), _) => {
            if found != *expected {
                control::set_executed(server.sql(), expected).await?;
            }
            return Ok(expected.clone());
        }
    }
    Ok(found)
}

/// What the log left prepared must be prepared in the data. More may be: what was prepared before the log begins.
fn check_prepared(logged: &[PreparedXa], found: &[XaId]) -> Result<(), RestoreError> {
    match logged.iter().find(|prepared| !found.contains(&prepared.id)) {
        None => Ok(()),
        Some(missing) => Err(RestoreError::NotAsCounted {
            what: "prepared XA transactions",
            file: "its end".to_owned(),
            expected: missing.id.to_string(),
            found: format!("{found:?}"),
        }),
    }
}

fn same(one: &[XaId], other: &[XaId]) -> bool {
    one.len() == other.len() && one.iter().all(|id| other.contains(id))
}

/// Hands the whole file system to the disk: engines without transactions do not sync their files at a stop.
fn sync(data_directory: &Path) -> Result<(), RestoreError> {
    let sync = || rustix::fs::syncfs(std::fs::File::open(data_directory)?).map_err(std::io::Error::from);
    sync().map_err(RestoreError::io("sync", data_directory))
}
