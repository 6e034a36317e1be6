//! The byte stream below the protocol: TCP, TLS over TCP, or a Unix-domain socket.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// TCP keepalives; `None` leaves the system's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalives {
    /// Whether there are any.
    pub enabled: bool,
    /// Idle time before the first.
    pub idle: Option<Duration>,
    /// Time between two.
    pub interval: Option<Duration>,
    /// How many may stay unanswered.
    pub count: Option<u32>,
    /// How long sent data may stay unacknowledged.
    pub user_timeout: Option<Duration>,
}

/// One connected stream.
#[derive(Debug)]
pub enum Transport {
    /// In clear.
    Tcp(TcpStream),
    /// On this host.
    Unix(UnixStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Connects to a unix socket.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn dial_unix(path: &Path) -> io::Result<Transport> {
        UnixStream::connect(path).await.map(Transport::Unix)
    }

    /// Whether a password in clear could be read on the way.
    pub fn is_private(&self) -> bool {
        !matches!(self, Transport::Tcp(_))
    }
}

/// Connects over TCP, without Nagle's delay and with the wanted keepalives.
///
/// # Errors
/// The operating system's.
pub async fn dial_tcp(address: SocketAddr, keepalives: &Keepalives) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(&stream);
    if keepalives.enabled {
        let mut wanted = socket2::TcpKeepalive::new();
        if let Some(idle) = keepalives.idle {
            wanted = wanted.with_time(idle);
        }
        if let Some(interval) = keepalives.interval {
            wanted = wanted.with_interval(interval);
        }
        if let Some(count) = keepalives.count {
            wanted = wanted.with_retries(count);
        }
        socket.set_keepalive(true)?;
        socket.set_tcp_keepalive(&wanted)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(keepalives.user_timeout)?;
    Ok(stream)
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Transport::Tcp($stream) => $call,
            Transport::Unix($stream) => $call,
            Transport::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
