//! Packets over a transport (manual: "MySQL Packets"): three bytes of length, a sequence number, a payload. A payload of
//! 16 MiB - 1 bytes goes on in the next packet.
//!
//! Payloads come whole ([`Wire::receive`]) or in portions as they arrive ([`Wire::portion`]). Waiting is cancellation safe:
//! nothing is taken from the buffer before it is handed out. Whoever waits also drives what is queued to be sent.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tidemark_net::{Transport, is_connection_loss};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use crate::error::MysqlError;

/// A packet of this length goes on in the next.
const PACKET_BYTES_MAX: usize = 0xFF_FFFF;
const HEADER_BYTES: usize = 4;

/// The longest payload that is put together: a row. What is longer comes in portions only.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// A packet up to this long is one portion.
pub(super) const PORTION_BYTES_MAX: usize = 512 << 10;

/// How much is read at a time.
const READ_BYTES: usize = 512 << 10;

/// Below this much room the buffer is made anew rather than filled in small reads.
const ROOM_BYTES_MIN: usize = 32 << 10;

/// More than this unsent is a peer that does not read.
const QUEUE_BYTES_MAX: usize = 1 << 20;

/// Where in a payload the next portion lies.
#[derive(Debug, Clone, Copy, Default)]
struct Within {
    /// What is left of the packet.
    packet_left: usize,
    /// The payload goes on in another packet.
    goes_on: bool,
}

/// A part of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Portion {
    /// How many bytes, at the front of what [`Wire::bytes`] gives.
    pub length: usize,
    /// It is the payload's first.
    pub is_first: bool,
    /// It is the payload's last.
    pub is_last: bool,
}

/// A framed connection.
#[derive(Debug)]
pub(super) struct Wire {
    transport: Transport,
    host: String,
    read: BytesMut,
    /// Handed out, and to be dropped before anything else is looked at.
    handed_out: usize,
    /// `None` between payloads.
    within: Option<Within>,
    write: BytesMut,
    flushed: bool,
    sequence: u8,
    /// When bytes came last.
    heard: Instant,
}

impl Wire {
    pub fn new(transport: Transport, host: String) -> Wire {
        Wire {
            transport,
            host,
            read: BytesMut::new(),
            handed_out: 0,
            within: None,
            write: BytesMut::new(),
            flushed: true,
            sequence: 0,
            heard: Instant::now(),
        }
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The transport itself, when nothing was read ahead or waits to be sent. The server sends nothing ahead of its turn, so
    /// anything else is another's word.
    pub fn into_transport(self) -> Option<(Transport, u8)> {
        let is_clean = self.read.len() == self.handed_out && self.write.is_empty();
        is_clean.then_some((self.transport, self.sequence))
    }

    /// Goes on with this sequence number: TLS has begun in mid-exchange.
    pub fn set_sequence(&mut self, sequence: u8) {
        self.sequence = sequence;
    }

    /// Begins an exchange: the next packet that is sent has number 0.
    pub fn begin(&mut self) {
        self.sequence = 0;
    }

    /// Queues a payload. It goes out when a payload is waited for, or by [`Wire::send`].
    ///
    /// # Errors
    /// The peer has not taken a mebibyte that was queued before.
    pub fn queue(&mut self, operation: &'static str, payload: &[u8]) -> Result<(), MysqlError> {
        if self.write.len() > QUEUE_BYTES_MAX {
            return Err(self.lost(operation, io::ErrorKind::WriteZero.into()));
        }
        let mut packets = payload.chunks(PACKET_BYTES_MAX).peekable();
        loop {
            let packet = packets.next().unwrap_or_default();
            // At most 24 bits: see the chunks.
            self.write.put_uint_le(packet.len() as u64, 3);
            self.write.put_u8(self.sequence);
            self.write.extend_from_slice(packet);
            self.sequence = self.sequence.wrapping_add(1);
            if packet.len() < PACKET_BYTES_MAX {
                return Ok(());
            }
        }
    }

    /// Sends what is queued. Cancellation safe.
    pub async fn send(&mut self, operation: &'static str) -> Result<(), MysqlError> {
        std::future::poll_fn(|cx| self.poll_send(cx))
            .await
            .map_err(|error| self.lost(operation, error))
    }

    /// Gives queued bytes to the operating system without waiting for it to take more than it does at once.
    pub async fn send_now(&mut self, operation: &'static str) -> Result<(), MysqlError> {
        std::future::poll_fn(|cx| match self.poll_send(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await
        .map_err(|error| self.lost(operation, error))
    }

    /// The next payload, whole. Cancellation safe, but a payload that is begun stays begun.
    pub async fn receive(
        &mut self,
        operation: &'static str,
        deadline: Instant,
    ) -> Result<Vec<u8>, MysqlError> {
        let begun = Instant::now();
        let mut payload = Vec::new();
        loop {
            let portion = match timeout_at(deadline, self.portion(operation)).await {
                Ok(portion) => portion?,
                Err(_) => return Err(self.timed_out(operation, deadline.saturating_duration_since(begun))),
            };
            if payload.len() + portion.length > PAYLOAD_BYTES_MAX {
                let problem = format!("a payload of more than {PAYLOAD_BYTES_MAX} bytes");
                return Err(MysqlError::Protocol { operation, problem });
            }
            payload.extend_from_slice(self.bytes(portion));
            if portion.is_last {
                return Ok(payload);
            }
        }
    }

    /// As [`Wire::portion`], but gives up when nothing came for `limit`.
    pub async fn portion_within(
        &mut self,
        operation: &'static str,
        limit: Duration,
    ) -> Result<Portion, MysqlError> {
        match timeout_at(self.heard + limit, self.portion(operation)).await {
            Ok(portion) => portion,
            Err(_) => Err(self.timed_out(operation, limit)),
        }
    }

    /// The next portion of a payload: a packet of up to [`PORTION_BYTES_MAX`] as a whole; of a longer one what has come, at
    /// first not less than [`Wire::FIRST_BYTES_MIN`]. Its bytes are [`Wire::bytes`], until the next call. Cancellation safe.
    pub async fn portion(&mut self, operation: &'static str) -> Result<Portion, MysqlError> {
        std::future::poll_fn(|cx| self.poll_portion(cx, operation)).await
    }

    /// A first portion holds at least as much of a longer packet: an event's header, with what stands before it.
    const FIRST_BYTES_MIN: usize = 64;

    /// The bytes of the portion that was handed out last.
    pub fn bytes(&self, portion: Portion) -> &[u8] {
        self.read.get(..portion.length).unwrap_or_default()
    }

    fn poll_portion(
        &mut self,
        cx: &mut Context<'_>,
        operation: &'static str,
    ) -> Poll<Result<Portion, MysqlError>> {
        // A failed write shows in the next read too, behind whatever the server had to say before it went.
        if let Poll::Ready(Err(_)) = self.poll_send(cx) {
            self.write.clear();
        }
        self.read.advance(self.handed_out);
        self.handed_out = 0;
        loop {
            match self.take_portion() {
                Ok(portion) => return Poll::Ready(Ok(portion)),
                Err(missing) => ready!(self.poll_fill(cx, operation, missing))?,
            }
        }
    }

    /// What can be handed out at once, else how many bytes the buffer must hold.
    fn take_portion(&mut self) -> Result<Portion, usize> {
        let mut is_first = false;
        let mut within = match self.within {
            Some(within) if within.packet_left > 0 => within,
            before => {
                let header = self.read.first_chunk::<HEADER_BYTES>().ok_or(HEADER_BYTES)?;
                let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
                is_first = before.is_none();
                let needed = match length {
                    0..=PORTION_BYTES_MAX => length,
                    _ => Wire::FIRST_BYTES_MIN,
                };
                if self.read.len() < HEADER_BYTES + needed {
                    return Err(HEADER_BYTES + needed);
                }
                self.sequence = header[3].wrapping_add(1);
                self.read.advance(HEADER_BYTES);
                Within {
                    packet_left: length,
                    goes_on: length == PACKET_BYTES_MAX,
                }
            }
        };
        let length = within.packet_left.min(self.read.len());
        if length == 0 && within.packet_left > 0 {
            return Err(1);
        }
        within.packet_left -= length;
        let is_last = within.packet_left == 0 && !within.goes_on;
        self.within = (!is_last).then_some(within);
        self.handed_out = length;
        Ok(Portion {
            length,
            is_first,
            is_last,
        })
    }

    /// Reads once, with room for `needed` bytes in all.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        operation: &'static str,
        needed: usize,
    ) -> Poll<Result<(), MysqlError>> {
        let missing = needed.saturating_sub(self.read.len());
        let room = self.read.capacity() - self.read.len();
        if room < missing.max(ROOM_BYTES_MIN) {
            self.read.reserve(missing.max(READ_BYTES));
        }
        // One poll of a fresh future each time: `read_buf` keeps no state of its own.
        let result = ready!(pin!(self.transport.read_buf(&mut self.read)).poll(cx));
        Poll::Ready(match result {
            Ok(0) => Err(self.lost(operation, io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {
                self.heard = Instant::now();
                Ok(())
            }
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

    pub fn timed_out(&self, operation: &'static str, after: Duration) -> MysqlError {
        MysqlError::Timeout {
            operation,
            host: self.host.clone(),
            after,
        }
    }

    /// Under TLS 1.3 a server's refusal of our certificate comes as an alert on the first read.
    pub fn lost(&self, operation: &'static str, source: io::Error) -> MysqlError {
        let host = self.host.clone();
        match self.transport {
            Transport::Tls(_) if !is_connection_loss(&source) => MysqlError::Tls { host, source },
            _ => MysqlError::ConnectionLost {
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
    use tokio::time::timeout;

    fn pair() -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Wire::new(Transport::Unix(ours), "test".to_owned()), theirs)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn a_payload_survives_dropped_waits_between_its_bytes() {
        let (mut wire, mut server) = pair();
        for byte in b"\x04\0\0\x07abcd" {
            let waiting = timeout(Duration::from_millis(1), wire.portion("test")).await;
            assert!(waiting.is_err(), "not whole yet");
            server.write_all(&[*byte]).await.unwrap();
        }
        assert_eq!(wire.receive("test", soon()).await.unwrap(), b"abcd");
        assert_eq!(wire.sequence, 8);
    }

    /// Payloads around a packet's greatest length, both ways.
    #[tokio::test]
    async fn long_payloads_take_several_packets() {
        for length in [0, 1, PACKET_BYTES_MAX - 1, PACKET_BYTES_MAX, PACKET_BYTES_MAX + 1] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut sender = Wire::new(Transport::Unix(theirs), "test".to_owned());
            let mut receiver = Wire::new(Transport::Unix(ours), "test".to_owned());
            let payload: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            sender.queue("test", &payload).unwrap();
            let (sent, received) = tokio::join!(sender.send("test"), receiver.receive("test", soon()));
            sent.unwrap();
            assert!(received.unwrap() == payload, "{length}");
            assert!(receiver.within.is_none(), "{length}");
            assert!(
                receiver.read.capacity() <= 4 * READ_BYTES,
                "{}",
                receiver.read.capacity()
            );
        }
    }

    #[tokio::test]
    async fn a_closed_peer_is_a_lost_connection_and_a_silent_one_a_timeout() {
        let (mut wire, server) = pair();
        let error = wire
            .portion_within("test", Duration::from_millis(5))
            .await
            .unwrap_err();
        assert!(matches!(error, MysqlError::Timeout { .. }), "{error}");
        drop(server);
        let error = wire.receive("test", soon()).await.unwrap_err();
        assert!(matches!(error, MysqlError::ConnectionLost { .. }), "{error}");
    }

    /// A peer that takes nothing is noticed before what waits for it fills the memory.
    #[tokio::test]
    async fn the_queue_is_bounded() {
        let (mut wire, _server) = pair();
        let payload = [0; 1 << 18];
        let error = (0..100).find_map(|_| wire.queue("test", &payload).err()).unwrap();
        assert!(matches!(error, MysqlError::ConnectionLost { .. }), "{error}");
        assert!(wire.write.len() < 2 * QUEUE_BYTES_MAX);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn arbitrary_streams_never_panic(bytes: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (mut wire, mut server) = pair();
                server.write_all(&bytes).await.unwrap();
                drop(server);
                while wire.portion("test").await.is_ok() {}
            });
        }
    }
}
