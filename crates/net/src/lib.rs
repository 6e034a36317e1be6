//! The byte stream below a database protocol: TCP with keepalives, TLS over TCP, or a unix socket. Knows no protocol: whether
//! TLS is wanted, whom to trust and when to begin it, each engine's client decides by its own words.

mod tls;
mod transport;

use std::io;

pub use tls::{ClientCertificate, Roots, TlsFile, TlsFileError, TlsSettings, TlsStartError, start_tls};
pub use transport::{Keepalives, Transport, dial_tcp};

/// Whether the peer or the network went away, as opposed to the peer having said something wrong.
pub fn is_connection_loss(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::TimedOut
    )
}
