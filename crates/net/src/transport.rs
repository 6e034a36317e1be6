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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};

    const KEEPALIVES: Keepalives = Keepalives {
        enabled: true,
        idle: Some(Duration::from_secs(31)),
        interval: Some(Duration::from_secs(11)),
        count: Some(4),
        user_timeout: Some(Duration::from_secs(45)),
    };

    fn block_on<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(future)
    }

    #[test]
    fn a_peer_that_goes_away_is_noticed_as_asked_for() {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = dial_tcp(listener.local_addr().unwrap(), &KEEPALIVES)
                .await
                .unwrap();
            let socket = socket2::SockRef::from(&stream);
            assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(31));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(11));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
            let off = Keepalives {
                enabled: false,
                ..KEEPALIVES
            };
            let stream = dial_tcp(listener.local_addr().unwrap(), &off).await.unwrap();
            assert!(!socket2::SockRef::from(&stream).keepalive().unwrap());
        });
    }

    #[test]
    fn bytes_go_both_ways_over_tcp_and_a_socket_and_a_socket_alone_is_private() {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (stream, peer) = tokio::join!(dial_tcp(address, &KEEPALIVES), listener.accept());
            let tcp = Transport::Tcp(stream.unwrap());
            assert!(!tcp.is_private());
            echo(tcp, Transport::Tcp(peer.unwrap().0)).await;

            let path = std::env::temp_dir().join(format!("tidemark-net-{}", std::process::id()));
            let listener = UnixListener::bind(&path).unwrap();
            let (stream, peer) = tokio::join!(Transport::dial_unix(&path), listener.accept());
            std::fs::remove_file(&path).unwrap();
            let unix = stream.unwrap();
            assert!(unix.is_private());
            echo(unix, Transport::Unix(peer.unwrap().0)).await;
        });
    }

    async fn echo(mut one: Transport, mut other: Transport) {
        let mut heard = [0; 4];
        one.write_all(b"ping").await.unwrap();
        other.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");
        other.write_all(b"pong").await.unwrap();
        one.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"pong");
        one.shutdown().await.unwrap();
        let gone = other.read_exact(&mut heard).await.unwrap_err();
        assert!(crate::is_connection_loss(&gone), "{gone}");
    }
}
