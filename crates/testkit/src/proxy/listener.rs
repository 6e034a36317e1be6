//! Accepting connections and giving up the listening socket while they are to be refused.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use super::{ProxyMode, Shared, TICK, pump};

/// Listens on `address`. Panics when it is taken.
pub(super) fn bind(address: SocketAddr) -> TcpListener {
    let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("listen on {address}: {error}"));
    listener
        .set_nonblocking(true)
        .expect("make the listener non-blocking");
    listener
}

/// Accepts until the proxy stops. The pumps end by themselves, at the same sign.
pub(super) fn accept_loop(shared: &Arc<Shared>, address: SocketAddr, listener: TcpListener) {
    let mut listener = Some(listener);
    loop {
        let (mode, epoch, stopping) = shared.with_state(|state| (state.mode, state.epoch, state.stopping));
        if stopping {
            return;
        }
        if mode == ProxyMode::Refuse {
            listener = None;
            thread::sleep(TICK);
            continue;
        }
        match listener.get_or_insert_with(|| bind(address)).accept() {
            Ok((client, _)) => serve(shared, client, epoch),
            // Nobody is waiting, or whoever was has left.
            Err(_) => thread::sleep(TICK),
        }
    }
}

fn serve(shared: &Arc<Shared>, client: TcpStream, epoch: u64) {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        // A client whose server is down sees its connection closed: nothing else to tell it.
        let _ = connect(&shared, &client, epoch);
    });
}

fn connect(shared: &Arc<Shared>, client: &TcpStream, epoch: u64) -> io::Result<()> {
    client.set_nonblocking(false)?;
    while shared.mode() == ProxyMode::Hang {
        if shared.is_cut(epoch) {
            return Ok(());
        }
        thread::sleep(TICK);
    }
    let server = TcpStream::connect(shared.target)?;
    let upstream = {
        let (shared, from, to) = (Arc::clone(shared), client.try_clone()?, server.try_clone()?);
        thread::spawn(move || pump::run(&shared, &from, &to, epoch))
    };
    pump::run(shared, &server, client, epoch);
    let _ = upstream.join();
    Ok(())
}
