//! Connections, the WAL stream, `BASE_BACKUP` and preflight on real servers.

mod backup;
mod connect;
mod preflight;
mod slots;
mod stream;

use std::future::Future;
use std::time::Duration;

use tidemark_postgres::{
    ConnInfo, Environment, ReplicationClient, SqlClient, Started, StreamEvent, WalStream,
};
use tidemark_testkit::PostgresServer;
use tidemark_types::{Lsn, TimelineId};

/// Runs a test's future. Multi-threaded, since the harness blocks.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), future)
            .await
            .expect("test hangs")
    })
}

/// Settings without anything from this machine's environment.
fn conninfo(text: &str) -> ConnInfo {
    ConnInfo::parse(text, &Environment::new([], "nobody", "/nonexistent")).unwrap()
}

async fn sql(server: &PostgresServer) -> SqlClient {
    SqlClient::connect(&conninfo(&server.socket_url())).await.unwrap()
}

async fn replication(server: &PostgresServer) -> ReplicationClient {
    ReplicationClient::connect(&conninfo(&server.url()))
        .await
        .unwrap()
}

async fn streaming(client: ReplicationClient, slot: Option<&str>, start: Lsn, timeline: u32) -> WalStream {
    match client
        .start_physical(slot, start, TimelineId(timeline))
        .await
        .unwrap()
    {
        Started::Streaming(stream) => stream,
        Started::TimelineEnded { switch, .. } => panic!("timeline {timeline} ended at {switch}"),
    }
}

/// Streams until `end` is reached and returns the bytes from `start` on; they are contiguous.
async fn receive_until(stream: &mut WalStream, start: Lsn, end: Lsn) -> Vec<u8> {
    let mut received = Vec::new();
    let mut position = start;
    while position < end {
        if let StreamEvent::Data { start, bytes, .. } = stream.next().await.unwrap() {
            assert_eq!(start, position);
            received.extend_from_slice(&bytes);
            position = Lsn(start.0 + bytes.len() as u64);
        }
    }
    received
}

/// The WAL that is flushed, by SQL.
fn flush_lsn(server: &PostgresServer) -> Lsn {
    server.psql("SELECT pg_current_wal_flush_lsn()").parse().unwrap()
}
