//! TCP ports that no other test takes, even while nobody listens on them.
//!
//! The kernel's own choice (port 0) is free only at that moment: a server that is stopped and started again, or a
//! proxy that refuses for a while, would lose it to a neighbour or to an outgoing connection. So ports come from below
//! the ephemeral range, each guarded by a lock file that lives as long as the `Port`.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;

use rustix::fs::{FlockOperation, flock};

const RANGE: Range<u16> = 21_000..22_000;

/// A TCP port on 127.0.0.1, reserved until it is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Holds the lock.
    _lock: File,
}

impl Port {
    /// Reserves a free one. Panics when there is none left.
    pub fn reserve() -> Port {
        let locks =
            std::env::temp_dir().join(format!("tidemark-ports-{}", rustix::process::getuid().as_raw()));
        fs::create_dir_all(&locks).expect("create the directory of port locks");
        // Processes start at different places, so that they seldom try each other's ports.
        let offset = (std::process::id() % u32::from(RANGE.end - RANGE.start)) as usize * 7;
        let numbers = RANGE.cycle().skip(offset).take(RANGE.len());
        for number in numbers {
            let lock = OpenOptions::new()
                .create(true)
                .append(true)
                .open(locks.join(number.to_string()))
                .expect("open a port's lock file");
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && is_free(number) {
                return Port { number, _lock: lock };
            }
        }
        panic!("no free port in {RANGE:?}");
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Its address on the loopback interface.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

fn is_free(number: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
}
