//! The WAL stream: CopyBoth after `START_REPLICATION`, until the timeline, the server or we end it.

use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tidemark_types::{Lsn, TimelineId, Timestamp};
use tokio::time::{Instant, timeout, timeout_at};

use super::{ReplicationClient, queue_copy_data, start_error};
use crate::client::{Malformed, Message, Reader, Row};
use crate::error::PostgresError;

const OPERATION: &str = "stream WAL";

/// How long the server may say nothing before it counts as gone: the server's own `wal_sender_timeout` and
/// `wal_receiver_timeout` are as long by default. Half of it must pass before it is asked for a sign of life.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// How long a clean end may take.
const FINISH_LIMIT: Duration = Duration::from_secs(10);

/// How many bytes of status messages may wait for a server that does not read: minutes' worth at ten a second.
const QUEUE_LIMIT: usize = 64 << 10;

/// What the stream brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// WAL bytes `[start, start + bytes.len())`.
    Data {
        /// Position of the first byte.
        start: Lsn,
        /// How far the server's own WAL reaches.
        server_wal_end: Lsn,
        /// The server's clock when it sent this.
        server_time: Timestamp,
        /// The bytes, in the memory they were read into: to keep them for long, copy them.
        bytes: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// How far the server's own WAL reaches.
        wal_end: Lsn,
        /// The server's clock when it sent this.
        server_time: Timestamp,
        /// Whether the server wants a status at once; many come while a server waits for us to let it shut down.
        reply_requested: bool,
    },
    /// The timeline ended: everything on it was sent. The connection can take the next command
    /// ([`WalStream::into_client`]).
    TimelineEnded {
        /// The timeline that goes on.
        next: TimelineId,
        /// Where it leaves this one.
        switch: Lsn,
    },
    /// The server ended the stream in good order: it shuts down, and has sent everything.
    ServerShutdown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Streaming,
    /// The server said CopyDone and so did we; its result row, once seen.
    Ending(Option<(TimelineId, Lsn)>),
    Ended,
}

/// What was last told to the server; said again when it is asked for a sign of life.
#[derive(Debug, Clone, Copy, Default)]
struct Status {
    write: Lsn,
    flush: Lsn,
    apply: Lsn,
}

/// A running WAL stream. It owns the connection.
///
/// A server is asked for a sign of life after half a minute of silence and counts as gone after a whole one; that
/// clock runs only while [`WalStream::next`] is being waited for.
pub struct WalStream {
    client: ReplicationClient,
    state: State,
    begin: Lsn,
    timeline: TimelineId,
    told: Status,
    silence_limit: Duration,
    last_heard: Instant,
    asked: Option<Instant>,
}

impl WalStream {
    pub(super) fn new(client: ReplicationClient, begin: Lsn, timeline: TimelineId) -> WalStream {
        WalStream {
            client,
            state: State::Streaming,
            begin,
            timeline,
            told: Status::default(),
            silence_limit: SILENCE_LIMIT,
            last_heard: Instant::now(),
            asked: None,
        }
    }

    /// The timeline being streamed.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Where streaming began.
    pub fn begin(&self) -> Lsn {
        self.begin
    }

    /// Sets how long the server may be silent (one minute unless set).
    pub fn set_silence_limit(&mut self, limit: Duration) {
        self.silence_limit = limit;
    }

    /// The next event. Cancellation safe: made for `select!`.
    /// # Errors
    /// [`PostgresError::WalRemoved`] when the server has lost the segment that is due; [`PostgresError::Timeout`] for
    /// a silent server; [`PostgresError::ConnectionLost`]; [`PostgresError::Server`] for any other word of the server
    /// (57P01 when it is stopped or the slot is taken away). The stream is over after each of them.
    pub async fn next(&mut self) -> Result<StreamEvent, PostgresError> {
        loop {
            let message = match self.client.wire.buffered(OPERATION)? {
                Some(message) => message,
                None => self.wait().await?,
            };
            self.last_heard = Instant::now();
            self.asked = None;
            if let Some(event) = self.take(message)? {
                return Ok(event);
            }
        }
    }

    async fn wait(&mut self) -> Result<Message, PostgresError> {
        if self.state == State::Ended {
            return Err(self
                .client
                .wire
                .protocol(OPERATION, "the stream is over".to_owned()));
        }
        let half = self.silence_limit / 2;
        loop {
            let deadline = self.asked.unwrap_or(self.last_heard) + half;
            if let Ok(result) = timeout_at(deadline, self.client.wire.receive(OPERATION)).await {
                return result;
            }
            if self.asked.is_some() {
                return Err(self.client.wire.timed_out(OPERATION, self.silence_limit));
            }
            self.asked = Some(Instant::now());
            if self.state == State::Streaming {
                self.queue_status(true);
            }
        }
    }

    /// What a message means here; `None` if nothing to the caller.
    fn take(&mut self, message: Message) -> Result<Option<StreamEvent>, PostgresError> {
        match (message, self.state) {
            (Message::CopyData(body), State::Streaming) => match decode(body) {
                Ok(event) => Ok(Some(event)),
                Err(Malformed(problem)) => Err(self.client.wire.protocol(OPERATION, problem.to_owned())),
            },
            (Message::CopyDone, State::Streaming) => {
                frontend::copy_done(self.client.wire.queue());
                self.state = State::Ending(None);
                Ok(None)
            }
            // A server that shuts down says "COPY 0" without a CopyDone (WalSndDone in walsender.c).
            (Message::CommandComplete(_), State::Streaming) => {
                self.state = State::Ended;
                Ok(Some(StreamEvent::ServerShutdown))
            }
            (Message::DataRow(row), State::Ending(_)) => {
                self.state = State::Ending(next_timeline(&row));
                Ok(None)
            }
            (Message::ReadyForQuery, State::Ending(result)) => {
                self.state = State::Ended;
                let (next, switch) = result.ok_or_else(|| {
                    self.client
                        .wire
                        .protocol(OPERATION, "the stream ended without a next timeline".to_owned())
                })?;
                Ok(Some(StreamEvent::TimelineEnded { next, switch }))
            }
            (Message::Error(error), _) => {
                self.state = State::Ended;
                Err(start_error(error, None, self.begin, self.timeline))
            }
            (Message::RowDescription(_) | Message::CommandComplete(_), State::Ending(_))
            | (Message::Notice(_) | Message::ParameterStatus(..) | Message::Other(_), _) => Ok(None),
            (other, _) => Err(self.client.wire.unexpected(OPERATION, &other)),
        }
    }

    /// Tells the server how far we are. `flush` is what releases synchronous commits and the slot's WAL: only durable
    /// positions belong there.
    ///
    /// Never waits: what the operating system does not take at once goes out while [`WalStream::next`] is waited for,
    /// or with the next status. Nothing is told once the stream has ended.
    /// # Errors
    /// [`PostgresError::ConnectionLost`], also for a server that has not read for so long that 64 KiB wait for it.
    pub async fn send_status(
        &mut self,
        write: Lsn,
        flush: Lsn,
        apply: Lsn,
        reply_requested: bool,
    ) -> Result<(), PostgresError> {
        if self.state != State::Streaming {
            return Ok(());
        }
        self.told = Status { write, flush, apply };
        self.queue_status(reply_requested);
        let sent = self.client.wire.send_now().await;
        let stuck = || io::Error::new(io::ErrorKind::TimedOut, "the server does not read what is sent");
        let checked = sent.and_then(|()| {
            if self.client.wire.queued() > QUEUE_LIMIT {
                Err(stuck())
            } else {
                Ok(())
            }
        });
        checked.map_err(|source| PostgresError::ConnectionLost {
            operation: OPERATION,
            host: self.client.host().to_owned(),
            source,
        })
    }

    /// Standby status update (manual: "Streaming Replication Protocol", message `r`).
    fn queue_status(&mut self, reply_requested: bool) {
        let mut body = BytesMut::with_capacity(34);
        body.put_u8(b'r');
        body.put_u64(self.told.write.0);
        body.put_u64(self.told.flush.0);
        body.put_u64(self.told.apply.0);
        let now = chrono::Utc::now();
        body.put_i64(Timestamp::from_chrono(now).to_postgres());
        body.put_u8(u8::from(reply_requested));
        queue_copy_data(self.client.wire.queue(), &body);
    }

    /// Ends the stream in good order, dropping what still arrives, and gives the connection back. Takes ten seconds
    /// at most. Cancelling it drops the connection.
    /// # Errors
    /// As [`WalStream::next`].
    pub async fn finish(mut self) -> Result<ReplicationClient, PostgresError> {
        if self.state == State::Streaming {
            frontend::copy_done(self.client.wire.queue());
        }
        match timeout(FINISH_LIMIT, self.drain()).await {
            Ok(result) => result?,
            Err(_) => return Err(self.client.wire.timed_out("end the WAL stream", FINISH_LIMIT)),
        }
        Ok(self.client)
    }

    async fn drain(&mut self) -> Result<(), PostgresError> {
        while self.state != State::Ended {
            match self.client.wire.receive("end the WAL stream").await? {
                Message::ReadyForQuery => self.state = State::Ended,
                Message::Error(error) => {
                    return Err(start_error(error, None, self.begin, self.timeline));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The connection, after [`StreamEvent::TimelineEnded`]; `None` before, and after every other end.
    pub fn into_client(self) -> Option<ReplicationClient> {
        (self.state == State::Ended).then_some(self.client)
    }
}

/// The row that ends a timeline: the next one, and where it begins.
pub(super) fn next_timeline(row: &Row) -> Option<(TimelineId, Lsn)> {
    Some((TimelineId(row.parse(0)?), row.parse(1)?))
}

/// Decodes the payload of a CopyData message.
fn decode(body: Bytes) -> Result<StreamEvent, Malformed> {
    let mut body = Reader(body);
    match body.u8()? {
        b'w' => {
            let (start, server_wal_end) = (Lsn(body.u64()?), Lsn(body.u64()?));
            let server_time = Timestamp::from_postgres(body.i64()?);
            let bytes = body.rest();
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            start
                .checked_add(length)
                .ok_or(Malformed("WAL past the end of the number space"))?;
            Ok(StreamEvent::Data {
                start,
                server_wal_end,
                server_time,
                bytes,
            })
        }
        b'k' => Ok(StreamEvent::Keepalive {
            wal_end: Lsn(body.u64()?),
            server_time: Timestamp::from_postgres(body.i64()?),
            reply_requested: body.u8()? != 0,
        }),
        _ => Err(Malformed("a stream message of unknown kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stream_messages_are_decoded() {
        let mut body = BytesMut::from(&b"w"[..]);
        body.put_u64(0x100);
        body.put_u64(0x200);
        body.put_i64(0);
        body.put_slice(b"wal");
        assert_eq!(
            decode(body.freeze()),
            Ok(StreamEvent::Data {
                start: Lsn(0x100),
                server_wal_end: Lsn(0x200),
                server_time: Timestamp::from_postgres(0),
                bytes: Bytes::from_static(b"wal"),
            })
        );
    }

    proptest! {
        #[test]
        fn arbitrary_stream_messages_never_panic(
            kind in prop::sample::select(vec![b'w', b'k', b'x']),
            body: Vec<u8>,
        ) {
            let _ = decode(Bytes::from([vec![kind], body].concat()));
        }
    }
}
