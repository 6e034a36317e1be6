//! Frames over a transport: whole messages in, queued bytes out.
//!
//! Reading and writing go on together: whoever waits for a message also drives what is queued, so a peer that stops
//! reading never keeps us from reading. All waiting is cancellation safe: nothing is taken from the buffers before it
//! is whole, and nothing is lost when a future is dropped.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tidemark_net::{Transport, is_connection_loss};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::timeout;

use super::message::{self, Message};
use crate::error::PostgresError;

/// The greatest message we take. The server sends WAL in 128 KiB pieces and rows far below this; a greater length is
/// a stream that is out of step.
const MAX_MESSAGE: usize = 64 << 20;

/// How much is read at a time: several of the server's 128 KiB WAL messages.
const READ_CHUNK: usize = 512 << 10;

/// Below this much room a fresh chunk is begun rather than filling the rest in small reads.
const MIN_ROOM: usize = 32 << 10;

/// Type byte and length.
const HEADER: usize = 5;

/// A framed connection.
pub(crate) struct Wire {
    transport: Transport,
    host: String,
    read: BytesMut,
    write: BytesMut,
    flushed: bool,
}

impl Wire {
    pub(super) fn new(transport: Transport, host: String) -> Wire {
        Wire {
            transport,
            host,
            read: BytesMut::new(),
            write: BytesMut::new(),
            flushed: true,
        }
    }

    /// The host, for messages.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The transport itself, and bytes that were read ahead.
    pub(super) fn into_parts(self) -> (Transport, Bytes) {
        (self.transport, self.read.freeze())
    }

    /// Where to put bytes to be sent. They go out when a message is waited for, or by [`Wire::send_now`].
    pub(crate) fn queue(&mut self) -> &mut BytesMut {
        &mut self.write
    }

    /// How many bytes are queued and not yet taken by the operating system.
    pub(crate) fn queued(&self) -> usize {
        self.write.len()
    }

    /// Takes one whole message from what was read, without waiting.
    pub(crate) fn buffered(&mut self, operation: &'static str) -> Result<Option<Message>, PostgresError> {
        let Some(total) = self.frame_length(operation)? else {
            return Ok(None);
        };
        if self.read.len() < total {
            return Ok(None);
        }
        let mut frame = self.read.split_to(total).freeze();
        let tag = frame.get_u8();
        frame.advance(HEADER - 1);
        message::decode(tag, frame)
            .map(Some)
            .map_err(|problem| self.protocol(operation, problem.0.to_owned()))
    }

    /// The length of the first frame with its type byte, once its header is here.
    fn frame_length(&self, operation: &'static str) -> Result<Option<usize>, PostgresError> {
        let Some(header) = self.read.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [_, length @ ..] = *header;
        let length = u32::from_be_bytes(length);
        match usize::try_from(length) {
            Ok(length) if (HEADER - 1..=MAX_MESSAGE).contains(&length) => Ok(Some(length + 1)),
            _ => Err(self.protocol(operation, format!("a message of {length} bytes"))),
        }
    }

    /// The next message. Cancellation safe.
    pub(crate) async fn receive(&mut self, operation: &'static str) -> Result<Message, PostgresError> {
        std::future::poll_fn(|cx| self.poll_receive(cx, operation)).await
    }

    /// As [`Wire::receive`], but gives up after `limit`.
    pub(crate) async fn receive_within(
        &mut self,
        operation: &'static str,
        limit: Duration,
    ) -> Result<Message, PostgresError> {
        if let Some(message) = self.buffered(operation)? {
            return Ok(message);
        }
        match timeout(limit, self.receive(operation)).await {
            Ok(result) => result,
            Err(_) => Err(self.timed_out(operation, limit)),
        }
    }

    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        operation: &'static str,
    ) -> Poll<Result<Message, PostgresError>> {
        // A failed write shows in the next read too, behind whatever the server had to say before it went.
        if let Poll::Ready(Err(_)) = self.poll_send(cx) {
            self.write.clear();
        }
        loop {
            if let Some(message) = self.buffered(operation)? {
                return Poll::Ready(Ok(message));
            }
            ready!(self.poll_fill(cx, operation))?;
        }
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        operation: &'static str,
    ) -> Poll<Result<(), PostgresError>> {
        let missing = self
            .frame_length(operation)?
            .unwrap_or(HEADER)
            .saturating_sub(self.read.len());
        let room = self.read.capacity() - self.read.len();
        if room < missing.max(MIN_ROOM) {
            self.read.reserve(missing.max(READ_CHUNK));
        }
        // One poll of a fresh future each time: `read_buf` keeps no state of its own.
        let result = ready!(pin!(self.transport.read_buf(&mut self.read)).poll(cx));
        Poll::Ready(match result {
            Ok(0) => Err(self.lost(operation, io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(self.lost(operation, error)),
        })
    }

    /// Gives queued bytes to the operating system; ready when all are gone.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.write.is_empty() {
            let written = ready!(Pin::new(&mut self.transport).poll_write(cx, &self.write))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.write.advance(written);
            self.flushed = false;
        }
        if !self.flushed {
            ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Gives queued bytes to the operating system without waiting for it to take more than it does at once.
    pub(crate) async fn send_now(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| match self.poll_send(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await
    }

    pub(crate) fn protocol(&self, operation: &'static str, problem: String) -> PostgresError {
        PostgresError::Protocol { operation, problem }
    }

    pub(crate) fn unexpected(&self, operation: &'static str, message: &Message) -> PostgresError {
        self.protocol(operation, message.kind())
    }

    pub(crate) fn timed_out(&self, operation: &'static str, after: Duration) -> PostgresError {
        PostgresError::Timeout {
            operation,
            host: self.host.clone(),
            after,
        }
    }

    /// Under TLS 1.3 a server's refusal of our certificate comes as an alert on the first read.
    fn lost(&self, operation: &'static str, source: io::Error) -> PostgresError {
        let host = self.host.clone();
        match self.transport {
            Transport::Tls(_) if !is_connection_loss(&source) => PostgresError::Tls { host, source },
            _ => PostgresError::ConnectionLost {
                operation,
                host,
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    fn pair() -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Wire::new(Transport::Unix(ours), "test".to_owned()), theirs)
    }

    #[tokio::test]
    async fn a_message_survives_dropped_waits_between_its_bytes() {
        let (mut wire, mut server) = pair();
        for byte in b"C\0\0\0\x09DONE\0" {
            let waiting = timeout(Duration::from_millis(1), wire.receive("test")).await;
            assert!(waiting.is_err(), "not whole yet");
            server.write_all(&[*byte]).await.unwrap();
        }
        assert_eq!(
            wire.receive("test").await.unwrap(),
            Message::CommandComplete("DONE".to_owned())
        );
    }

    #[tokio::test]
    async fn lengths_out_of_bounds_are_refused_before_memory_is_taken() {
        for length in [0_u32, 3, (64 << 20) + 1, u32::MAX] {
            let (mut wire, mut server) = pair();
            server.write_all(b"d").await.unwrap();
            server.write_all(&length.to_be_bytes()).await.unwrap();
            let error = wire.receive("test").await.unwrap_err();
            assert!(matches!(error, PostgresError::Protocol { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_closed_peer_is_a_lost_connection_and_a_silent_one_a_timeout() {
        let (mut wire, server) = pair();
        let error = wire
            .receive_within("test", Duration::from_millis(5))
            .await
            .unwrap_err();
        assert!(matches!(error, PostgresError::Timeout { .. }), "{error}");
        drop(server);
        let error = wire.receive("test").await.unwrap_err();
        assert!(matches!(error, PostgresError::ConnectionLost { .. }), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn arbitrary_streams_never_panic(bytes: Vec<u8>) {
            let (mut wire, _server) = {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let _guard = runtime.enter();
                pair()
            };
            wire.read.extend_from_slice(&bytes);
            while let Ok(Some(_)) = wire.buffered("test") {}
        }
    }
}
