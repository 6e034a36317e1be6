//! The proxy does to connections what it is told.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use tidemark_testkit::{ProxyMode, TcpProxy};

/// A server that sends back what it gets, to any number of clients.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    address
}

fn connect(proxy: &TcpProxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn echo(stream: &mut TcpStream, bytes: usize) -> std::io::Result<()> {
    stream.write_all(&vec![7; bytes])?;
    stream.read_exact(&mut vec![0; bytes])
}

#[test]
fn pass_forwards_bytes_and_an_orderly_end() {
    let proxy = TcpProxy::start(echo_server());
    let mut stream = connect(&proxy);
    echo(&mut stream, 300_000).unwrap();
    stream.write_all(b"last words").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "last words");
    assert_eq!(proxy.forwarded(), 2 * 300_010);
}

#[test]
fn refuse_cuts_and_refuses_until_switched_back() {
    let proxy = TcpProxy::start(echo_server());
    let mut stream = connect(&proxy);
    echo(&mut stream, 10).unwrap();
    proxy.set(ProxyMode::Refuse);
    assert!(echo(&mut stream, 10).is_err());
    let refused = TcpStream::connect(proxy.address()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    proxy.set(ProxyMode::Pass);
    echo(&mut connect(&proxy), 10).unwrap();
}

#[test]
fn hang_holds_old_and_new_connections_and_loses_nothing() {
    let proxy = TcpProxy::start(echo_server());
    let mut old = connect(&proxy);
    echo(&mut old, 10).unwrap();
    proxy.set(ProxyMode::Hang);
    let mut new = connect(&proxy);
    for stream in [&mut old, &mut new] {
        stream.write_all(b"held").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let waited = stream.read(&mut [0; 4]).unwrap_err();
        assert!(matches!(
            waited.kind(),
            ErrorKind::WouldBlock | ErrorKind::TimedOut
        ));
    }
    proxy.set(ProxyMode::Pass);
    for stream in [&mut old, &mut new] {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"held");
    }
}

#[test]
fn cut_after_forwards_exactly_so_many_bytes() {
    let proxy = TcpProxy::start(echo_server());
    let mut stream = connect(&proxy);
    echo(&mut stream, 10).unwrap();
    let before = proxy.forwarded();
    proxy.set(ProxyMode::CutAfter(1000));
    assert!(echo(&mut stream, 5000).is_err());
    assert_eq!(proxy.forwarded() - before, 1000);
    assert!(echo(&mut connect(&proxy), 1).is_err());
}

#[test]
fn cut_connections_spares_later_ones() {
    let proxy = TcpProxy::start(echo_server());
    let mut stream = connect(&proxy);
    echo(&mut stream, 10).unwrap();
    proxy.cut_connections();
    assert!(echo(&mut stream, 10).is_err());
    echo(&mut connect(&proxy), 10).unwrap();
}

#[test]
fn throttle_and_delay_take_their_time() {
    let proxy = TcpProxy::start(echo_server());
    for (mode, bytes) in [
        (ProxyMode::Throttle(100_000), 50_000),
        (ProxyMode::Delay(Duration::from_millis(250)), 1),
    ] {
        proxy.set(mode);
        let begin = Instant::now();
        echo(&mut connect(&proxy), bytes).unwrap();
        assert!(
            begin.elapsed() >= Duration::from_millis(450),
            "{mode:?}: {:?}",
            begin.elapsed()
        );
    }
}
