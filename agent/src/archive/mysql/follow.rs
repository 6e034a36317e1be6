//! Follows the binlog of one server by its dump, and acknowledges what is durable where commits wait for that.
//!
//! One task does it all, so nothing is shared: whatever would block (writes, compression) runs elsewhere.

use std::collections::VecDeque;
use std::sync::Arc;

use tidemark_mysql::MysqlError;
use tidemark_mysql::binlog::{BinlogError, BinlogOffset};
use tidemark_mysql::client::{BinlogStream, StreamItem};
use tidemark_repository::log::Diverged;
use tidemark_repository::{LogPosition, RepositoryError};
use tidemark_types::{Clock, ErrorClass, LogFiles, Position, SystemClock};
use tokio::sync::watch;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::directory::{DirectoryError, DirectoryTail};
use super::intake::Intake;
use crate::state::ServerState;

/// Why following failed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The connection or the server.
    #[error(transparent)]
    Mysql(#[from] MysqlError),
    /// The files, where they are read.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// What the server sends is not what is stored.
    #[error(transparent)]
    Diverged(#[from] Diverged),
    /// What the server sends makes no sense; received again, it may.
    #[error("file {}: {source}", at.file)]
    Damaged {
        /// Where.
        at: LogPosition,
        /// What is wrong.
        source: BinlogError,
    },
    /// The format of a file that is sent from its middle on cannot be read.
    #[error("read the binlog's format: {0}")]
    Format(#[from] BinlogError),
    /// A file does not follow the one before it.
    #[error(
        "binlog file {file} says that {listed} lies before it, but {logged} does: transactions are missing"
    )]
    NotJoined {
        /// The file's number.
        file: u64,
        /// What it says.
        listed: String,
        /// What was received.
        logged: String,
    },
    /// The server goes on in another file, or at another place, than the next.
    #[error(
        "the server sends binlog {name} from {position} on, which does not follow {}",
        after.map_or_else(|| "what was asked for".to_owned(), |after| after.to_string())
    )]
    UnexpectedFile {
        /// Its name.
        name: String,
        /// Where in it.
        position: u64,
        /// Where received bytes end.
        after: Option<LogPosition>,
    },
    /// The dump ended, which was to wait for more.
    #[error("the server ended the stream of its binlog")]
    Ended,
    /// The server left bytes out.
    #[error(
        "the server sent binlog from offset {received} on, but {} was due",
        expected.map_or_else(|| "a file's name".to_owned(), |expected| expected.to_string())
    )]
    Discontinuous {
        /// Where the bytes begin.
        received: u64,
        /// Where they should.
        expected: Option<LogPosition>,
    },
}

impl FollowError {
    /// Where the server's bytes make no sense, when that is what failed.
    pub fn damage(&self) -> Option<LogPosition> {
        match self {
            FollowError::Damaged { at, .. } => Some(*at),
            _ => None,
        }
    }

    /// Where the server's bytes differ from what is stored, when that is what failed.
    pub fn divergence(&self) -> Option<LogPosition> {
        match self {
            FollowError::Diverged(diverged) => Some(diverged.position),
            _ => None,
        }
    }

    /// What kind of failure this is.
    pub fn class(&self) -> ErrorClass {
        match self {
            FollowError::Mysql(error) => error.class(),
            FollowError::Repository(error) => error.class(),
            FollowError::Directory(error) if error.is_missing() => ErrorClass::Transient,
            FollowError::Directory(_) => ErrorClass::Config,
            FollowError::Diverged(_) => ErrorClass::Conflict,
            FollowError::Format(error) | FollowError::Damaged { source: error, .. }
                if error.class() == ErrorClass::Config =>
            {
                ErrorClass::Config
            }
            FollowError::Format(_)
            | FollowError::Damaged { .. }
            | FollowError::UnexpectedFile { .. }
            | FollowError::NotJoined { .. }
            | FollowError::Ended
            | FollowError::Discontinuous { .. } => ErrorClass::Transient,
        }
    }
}

/// What brings the binlog.
pub enum Input {
    /// The server sends it.
    Dump(Box<BinlogStream>),
    /// Its files are read.
    Directory(DirectoryTail),
}

impl Input {
    /// The next item. May be dropped.
    ///
    /// # Errors
    /// What keeps it from coming.
    pub async fn next(&mut self) -> Result<StreamItem<'_>, FollowError> {
        match self {
            Input::Dump(stream) => Ok(stream.next().await?),
            Input::Directory(tail) => Ok(tail.next().await?),
        }
    }
}

/// How following ended without an error.
pub enum Ended {
    /// We were told to stop.
    Cancelled,
    /// The file was torn by a crash of the server, and its dump ends there: what was received is to be gone on with at the
    /// next file. The transaction that the tear cut was never committed.
    Torn(Box<Intake>),
}

/// See the module.
pub struct Follower {
    input: Input,
    intake: Intake,
    /// Whether nothing must be acknowledged for now, because of a gap.
    hold: watch::Receiver<bool>,
    /// Ends of transactions whose commits wait for us, in log order.
    awaited: VecDeque<Position>,
    state: Arc<ServerState>,
}

impl Follower {
    /// Follows `input`, which must begin where `intake` does.
    pub fn new(
        input: Input,
        intake: Intake,
        hold: watch::Receiver<bool>,
        state: Arc<ServerState>,
    ) -> Follower {
        Follower {
            input,
            intake,
            hold,
            awaited: VecDeque::new(),
            state,
        }
    }

    /// Works until `cancel` says so. However it ends, what was received is stored, as far as that takes seconds only: a
    /// server that just died will not send it again.
    ///
    /// # Errors
    /// Whatever makes going on impossible. What could not be stored will be received again.
    pub async fn run(mut self, cancel: &CancellationToken) -> Result<Ended, FollowError> {
        let outcome = self.work(cancel).await;
        if let Err(FollowError::Mysql(MysqlError::TornFile { .. })) = &outcome {
            return Ok(Ended::Torn(Box::new(self.intake)));
        }
        if outcome
            .as_ref()
            .is_err_and(|error| error.class() == ErrorClass::Conflict)
        {
            return outcome.map(|()| Ended::Cancelled);
        }
        self.intake.cut();
        self.intake.shipper.store_rest().await?;
        // The server may be gone; what is stored is stored all the same.
        let _ = self.durable_moved().await;
        outcome.map(|()| Ended::Cancelled)
    }

    async fn work(&mut self, cancel: &CancellationToken) -> Result<(), FollowError> {
        loop {
            let due = self.intake.shipper.due();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                done = self.intake.shipper.progress() => {
                    done?;
                    self.durable_moved().await?;
                }
                () = sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => self.intake.cut(),
                // Nothing was acknowledged while a gap was open.
                Ok(()) = self.hold.changed() => self.durable_moved().await?,
                item = self.input.next(), if self.intake.shipper.can_receive() => {
                    let item = item?;
                    take(item, &mut self.intake, &mut self.awaited)?;
                    self.received();
                }
            }
        }
    }

    fn received(&self) {
        let (received, durable) = (self.intake.received(), self.intake.durable());
        self.state.update(|facts| {
            if let Some(received) = received {
                facts.note_received(received, SystemClock.now());
            }
            // What was stored before a restart is received again.
            facts.note_durable(durable);
        });
    }

    async fn durable_moved(&mut self) -> Result<(), FollowError> {
        let durable = self.intake.durable();
        self.state.update(|facts| facts.note_durable(durable));
        if *self.hold.borrow_and_update() || self.intake.shipper.is_comparing() {
            return Ok(());
        }
        let done = self.awaited.partition_point(|end| *end <= durable);
        let last = self.awaited.drain(..done).next_back();
        match last {
            Some(end) => self.acknowledge(end).await,
            None => Ok(()),
        }
    }

    async fn acknowledge(&mut self, end: Position) -> Result<(), FollowError> {
        let LogFiles::Binlog { basename, .. } = end.files else {
            return Ok(());
        };
        let (file, offset) = (basename.file_name(end.at.file), BinlogOffset(end.at.offset));
        match &mut self.input {
            Input::Dump(stream) => Ok(stream.acknowledge(&file, offset).await?),
            Input::Directory(_) => Ok(()),
        }
    }
}

/// Takes one item of a dump in.
fn take(
    item: StreamItem<'_>,
    intake: &mut Intake,
    awaited: &mut VecDeque<Position>,
) -> Result<(), FollowError> {
    match item {
        StreamItem::File { name, position } => intake.begin_file(name, position),
        StreamItem::Format(event) => intake.format(event),
        StreamItem::Bytes {
            begin,
            bytes,
            wants_acknowledgement,
        } => {
            intake.receive(begin, bytes)?;
            if wants_acknowledgement {
                awaited.extend(intake.received());
            }
            Ok(())
        }
        StreamItem::Heartbeat => Ok(()),
        StreamItem::End => Err(FollowError::Ended),
    }
}
