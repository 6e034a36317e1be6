//! Follows one timeline of one server by its replication stream, and tells the server what is durable.
//!
//! One task does it all, so nothing is shared: whatever would block (writes, compression) runs elsewhere, and the
//! server hears from us on a timer even while the store hangs and nothing is read.

use std::sync::Arc;
use std::time::Duration;

use tidemark_postgres::wal::WalError;
use tidemark_postgres::{PostgresError, StreamEvent, WalStream};
use tidemark_repository::RepositoryError;
use tidemark_repository::log::Diverged;
use tidemark_types::{Clock, ErrorClass, Lsn, SystemClock};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::intake::Intake;
use crate::state::ServerState;

/// The server hears from us at least this often, and at least three times within its `wal_sender_timeout`.
pub const STATUS_EVERY_MAX: Duration = Duration::from_secs(10);
/// And at most this often, except to release commits: a server that shuts down asks without a pause.
const STATUS_PAUSE: Duration = Duration::from_millis(100);
/// A server in no hurry asks for a sign of life every half minute; one that shuts down as soon as it got one.
const ASKS_WITHOUT_PAUSE: Duration = Duration::from_secs(1);
/// A server that shuts down waits for us to store everything; after this long it is let go.
const CLOSING_MAX: Duration = Duration::from_secs(10);
/// How following ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The timeline did; everything on it is stored.
    Timeline,
    /// The server shut down, or was let go when it wanted to.
    ServerShutdown,
    /// We were told to stop.
    Cancelled,
}

/// Why following failed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The connection or the server.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// What the server sends is not what is stored.
    #[error(transparent)]
    Diverged(#[from] Diverged),
    /// What the server sends makes no sense; received again, it may.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The server sent zeros where a record was due; received again, it may be a record.
    #[error("the server sent zeros from {at} on where a WAL record was due")]
    Zeros {
        /// Where.
        at: Lsn,
    },
    /// What comes next is no continuation of the last record that is stored.
    #[error("the log does not go on from what is stored")]
    Unjoined(#[source] WalError),
    /// The server left bytes out.
    #[error("the server sent WAL from {received}, but {expected} was due")]
    Discontinuous {
        /// Where the bytes begin.
        received: Lsn,
        /// Where they should.
        expected: Lsn,
    },
}

impl FollowError {
    /// Where the server's bytes make no sense, when that is what failed.
    pub fn damage(&self) -> Option<Lsn> {
        match self {
            FollowError::Wal(error) => Some(error.position()),
            FollowError::Zeros { at } => Some(*at),
            _ => None,
        }
    }

    /// What kind of failure this is.
    pub fn class(&self) -> ErrorClass {
        match self {
            FollowError::Postgres(error) => error.class(),
            FollowError::Repository(error) => error.class(),
            FollowError::Diverged(_) | FollowError::Unjoined(_) => ErrorClass::Conflict,
            FollowError::Wal(WalError::UnknownMagic { .. }) => ErrorClass::Config,
            FollowError::Wal(error) if error.class() == ErrorClass::Conflict => ErrorClass::Conflict,
            FollowError::Wal(_) | FollowError::Zeros { .. } | FollowError::Discontinuous { .. } => {
                ErrorClass::Transient
            }
        }
    }
}

/// See the module.
pub struct Follower {
    stream: WalStream,
    intake: Intake,
    /// Whether flushes must not be reported for now, because of a gap.
    hold: watch::Receiver<bool>,
    /// Whether commits wait for us.
    synchronous: bool,
    state: Arc<ServerState>,
    status_every: Duration,
    last_status: Instant,
    /// The flush position told last.
    told: Lsn,
    /// The server wants to hear from us soon.
    status_wanted: bool,
    closing: Closing,
}

/// Notices a server that waits for us to let it shut down: it asks, and asks again as soon as it is answered.
#[derive(Debug, Default)]
struct Closing {
    last_asked: Option<Instant>,
    /// Since when it asks without a pause.
    since: Option<Instant>,
}

impl Closing {
    fn asked(&mut self, now: Instant) {
        let again = self
            .last_asked
            .is_some_and(|last| now - last < ASKS_WITHOUT_PAUSE);
        self.since = if again {
            self.since.or(self.last_asked)
        } else {
            None
        };
        self.last_asked = Some(now);
    }

    fn is_closing(&self) -> bool {
        self.since.is_some()
            && self
                .last_asked
                .is_some_and(|last| last.elapsed() < ASKS_WITHOUT_PAUSE)
    }

    fn is_overdue(&self) -> bool {
        self.is_closing() && self.since.is_some_and(|since| since.elapsed() > CLOSING_MAX)
    }
}

impl Follower {
    /// Follows `stream`, which must begin where `intake` does.
    pub fn new(
        stream: WalStream,
        intake: Intake,
        hold: watch::Receiver<bool>,
        synchronous: bool,
        status_every: Duration,
        state: Arc<ServerState>,
    ) -> Follower {
        Follower {
            stream,
            intake,
            hold,
            synchronous,
            state,
            status_every,
            last_status: Instant::now(),
            told: Lsn::INVALID,
            status_wanted: true,
            closing: Closing::default(),
        }
    }

    /// Works until the timeline or the server ends, or `cancel` says so. However it ends, what was received is stored,
    /// as far as that takes seconds only: a server that just died will not send it again.
    ///
    /// # Errors
    /// Whatever makes going on impossible. What could not be stored will be received again.
    pub async fn run(mut self, cancel: &CancellationToken) -> Result<Ended, FollowError> {
        let outcome = self.work(cancel).await;
        if outcome
            .as_ref()
            .is_err_and(|error| error.class() == ErrorClass::Conflict)
        {
            return outcome;
        }
        self.intake.cut();
        self.intake.shipper.store_rest().await?;
        // The server may be gone; what is stored is stored all the same.
        let _ = self.durable_moved().await;
        if outcome.as_ref().is_ok_and(|ended| *ended == Ended::Cancelled) {
            self.send_status().await?;
            // The server notices a dropped connection too; a clean end is kinder to its log.
            let _ = timeout(Duration::from_secs(1), self.stream.finish()).await;
        }
        outcome
    }

    async fn work(&mut self, cancel: &CancellationToken) -> Result<Ended, FollowError> {
        loop {
            let due = self.intake.shipper.due();
            let status_at = self.status_at();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(Ended::Cancelled),
                done = self.intake.shipper.progress() => {
                    done?;
                    self.durable_moved().await?;
                }
                () = sleep_until(due.unwrap_or(status_at)), if due.is_some() => self.intake.cut(),
                () = sleep_until(status_at) => self.send_status().await?,
                event = self.stream.next(), if self.intake.shipper.can_receive() => {
                    if let Some(ended) = self.take(event?)? {
                        return Ok(ended);
                    }
                }
            }
            if self.closing.is_overdue() {
                tracing::warn!(
                    "the server is shutting down and its last WAL cannot be stored in time; letting it go"
                );
                return Ok(Ended::ServerShutdown);
            }
        }
    }

    fn take(&mut self, event: StreamEvent) -> Result<Option<Ended>, FollowError> {
        let now = SystemClock.now();
        match event {
            StreamEvent::Data {
                start,
                server_wal_end,
                bytes,
                ..
            } => {
                self.intake.receive(start, &bytes)?;
                let intake = &self.intake;
                let server_end = intake.shown(server_wal_end.max(intake.lsn()));
                let (received, durable) = (intake.shown(intake.lsn()), intake.shown(intake.durable()));
                self.state.update(|facts| {
                    facts.note_server_end(server_end, now);
                    facts.note_received(received, now);
                    // What was stored before a restart is received again.
                    facts.note_durable(durable);
                });
                Ok(None)
            }
            StreamEvent::Keepalive {
                wal_end,
                reply_requested,
                ..
            } => {
                if reply_requested {
                    self.status_wanted = true;
                    self.closing.asked(Instant::now());
                    // It may be waiting for what we hold back.
                    self.intake.cut();
                }
                let server_end = self.intake.shown(wal_end);
                self.state.update(|facts| facts.note_server_end(server_end, now));
                Ok(None)
            }
            StreamEvent::TimelineEnded { .. } => Ok(Some(Ended::Timeline)),
            StreamEvent::ServerShutdown => Ok(Some(Ended::ServerShutdown)),
        }
    }

    fn status_at(&self) -> Instant {
        self.last_status
            + if self.status_wanted {
                STATUS_PAUSE
            } else {
                self.status_every
            }
    }

    async fn durable_moved(&mut self) -> Result<(), FollowError> {
        let (flush, durable) = (self.flush(), self.intake.shown(self.intake.durable()));
        self.state.update(|facts| facts.note_durable(durable));
        if flush > self.told {
            if self.synchronous || self.last_status.elapsed() >= STATUS_PAUSE {
                return self.send_status().await;
            }
            self.status_wanted = true;
        }
        Ok(())
    }

    /// What may be told as flushed: whole records that are durable; everything, when all of it is (a server that shuts
    /// down waits for that); nothing while a gap is open, or while what is stored has yet to be found in the server's log.
    fn flush(&self) -> Lsn {
        if *self.hold.borrow() || self.intake.shipper.is_comparing() {
            return Lsn::INVALID;
        }
        if self.closing.is_closing() {
            self.intake.durable()
        } else {
            self.intake.durable_whole()
        }
    }

    async fn send_status(&mut self) -> Result<(), FollowError> {
        let flush = self.flush();
        // Written, flushed, applied: nothing counts before it is durable, and there is no later stage to wait for.
        self.stream.send_status(flush, flush, flush, false).await?;
        self.told = flush;
        self.last_status = Instant::now();
        self.status_wanted = false;
        Ok(())
    }
}
