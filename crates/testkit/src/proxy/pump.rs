//! Moving the bytes of one direction of one connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::{ProxyMode, Shared, TICK};

const CHUNK: usize = 16 * 1024;

/// A throttled direction moves its bytes in this many portions a second.
const PORTIONS_PER_SECOND: u64 = 20;

/// Forwards until either side closes, fails, or the proxy cuts. An orderly end is passed on, leaving the other
/// direction open; all else closes both.
pub(super) fn run(shared: &Shared, from: &TcpStream, to: &TcpStream, epoch: u64) {
    match forward(shared, from, to, epoch) {
        Ok(End::Closed) => {
            let _ = to.shutdown(Shutdown::Write);
        }
        Ok(End::Cut) | Err(_) => {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        }
    }
}

enum End {
    /// The sender has no more to say.
    Closed,
    /// The proxy gives the connection up.
    Cut,
}

fn forward(shared: &Shared, mut from: &TcpStream, mut to: &TcpStream, epoch: u64) -> io::Result<End> {
    from.set_read_timeout(Some(TICK))?;
    // Without a limit, a receiver that stopped reading would keep this thread beyond the proxy's end.
    to.set_write_timeout(Some(Duration::from_secs(60)))?;
    let mut buffer = [0; CHUNK];
    loop {
        if shared.is_cut(epoch) {
            return Ok(End::Cut);
        }
        let mode = shared.mode();
        let portion = match mode {
            ProxyMode::Hang => {
                thread::sleep(TICK);
                continue;
            }
            ProxyMode::Throttle(rate) => CHUNK.min((rate / PORTIONS_PER_SECOND).max(1) as usize),
            _ => CHUNK,
        };
        let length = match from.read(&mut buffer[..portion]) {
            Ok(0) => return Ok(End::Closed),
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(error) => return Err(error),
        };
        match mode {
            ProxyMode::Throttle(rate) => {
                thread::sleep(Duration::from_secs_f64(length as f64 / rate.max(1) as f64));
            }
            ProxyMode::Delay(delay) => thread::sleep(delay),
            _ => {}
        }
        // The mode may have changed while this thread waited for bytes: these are held as well.
        while shared.mode() == ProxyMode::Hang {
            if shared.is_cut(epoch) {
                return Ok(End::Cut);
            }
            thread::sleep(TICK);
        }
        let allowed = shared.take_budget(length);
        // Counted first: whoever has got the bytes finds them counted.
        shared.forwarded.fetch_add(allowed as u64, Ordering::Relaxed);
        to.write_all(&buffer[..allowed])?;
        if allowed < length {
            return Ok(End::Cut);
        }
    }
}
