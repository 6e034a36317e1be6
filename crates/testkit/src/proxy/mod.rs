//! A TCP proxy with scripted faults: a network that refuses, hangs, cuts, crawls.
//!
//! `listener` accepts and gives up connections, `pump` moves their bytes; both look at the one shared mode often
//! enough that a switch takes effect within a few hundredths of a second.

mod listener;
mod pump;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::port::Port;

/// How long a thread waits before it looks again.
const TICK: Duration = Duration::from_millis(10);

/// What a [`TcpProxy`] does to its connections, old and new ones alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// Forwards everything.
    Pass,
    /// Cuts every connection and refuses new ones.
    Refuse,
    /// Accepts connections and holds them without moving a byte. What came meanwhile is forwarded after the switch to
    /// another mode.
    Hang,
    /// Forwards this many bytes more, both directions and all connections taken together, then cuts what is open, and
    /// each new connection when its first byte comes.
    CutAfter(u64),
    /// Forwards at most this many bytes a second, per connection and direction.
    Throttle(u64),
    /// Forwards each chunk this much later.
    Delay(Duration),
}

/// A proxy in front of one TCP address, gone on drop.
#[derive(Debug)]
pub struct TcpProxy {
    port: Port,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// What the threads of one proxy have in common.
#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    forwarded: AtomicU64,
}

#[derive(Debug)]
struct State {
    mode: ProxyMode,
    /// Bytes left to forward in [`ProxyMode::CutAfter`].
    budget: u64,
    /// Raised to cut all connections that were made before.
    epoch: u64,
    stopping: bool,
}

impl TcpProxy {
    /// Starts one in front of `target`, in mode [`ProxyMode::Pass`].
    pub fn start(target: SocketAddr) -> TcpProxy {
        let port = Port::reserve();
        let state = State {
            mode: ProxyMode::Pass,
            budget: 0,
            epoch: 0,
            stopping: false,
        };
        let shared = Arc::new(Shared {
            target,
            state: Mutex::new(state),
            forwarded: AtomicU64::new(0),
        });
        let listener = listener::bind(port.address());
        let acceptor = {
            let (shared, address) = (Arc::clone(&shared), port.address());
            thread::spawn(move || listener::accept_loop(&shared, address, listener))
        };
        TcpProxy {
            port,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// Where to connect instead of to the target.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Changes what it does, and returns when that has taken effect.
    pub fn set(&self, mode: ProxyMode) {
        self.shared.with_state(|state| {
            state.mode = mode;
            match mode {
                ProxyMode::CutAfter(bytes) => state.budget = bytes,
                ProxyMode::Refuse => state.epoch += 1,
                _ => {}
            }
        });
        // The acceptor closes or opens its socket at its next look; only then is a connection refused or accepted.
        thread::sleep(TICK * 3);
    }

    /// Cuts all connections once; new ones are served as before.
    pub fn cut_connections(&self) {
        self.shared.with_state(|state| state.epoch += 1);
    }

    /// How many bytes it has forwarded, both directions taken together.
    pub fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::Relaxed)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.shared.with_state(|state| state.stopping = true);
        if let Some(acceptor) = self.acceptor.take() {
            // Its panic has been printed; drop must not add another.
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn with_state<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Whether a connection made at `epoch` is to be given up.
    fn is_cut(&self, epoch: u64) -> bool {
        self.with_state(|state| state.stopping || state.epoch != epoch)
    }

    fn mode(&self) -> ProxyMode {
        self.with_state(|state| state.mode)
    }

    /// Takes up to `wanted` bytes from what may still be forwarded; less than `wanted` means: then cut.
    fn take_budget(&self, wanted: usize) -> usize {
        self.with_state(|state| match state.mode {
            ProxyMode::CutAfter(_) => {
                let taken = state.budget.min(wanted as u64);
                state.budget -= taken;
                taken as usize
            }
            _ => wanted,
        })
    }
}
