//! The WAL stream: its bytes, its ends, its silence.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemark_postgres::{PostgresError, Started, StreamEvent};
use tidemark_testkit::{PgVersion, PostgresServer, StopMode, wait_for};
use tidemark_types::{ErrorClass, Lsn, TimelineHistory, TimelineId};

use super::{block_on, conninfo, flush_lsn, receive_until, replication, streaming};

const SEGMENT: usize = 16 << 20;

#[test]
fn received_bytes_are_the_servers_segments() {
    for version in PgVersion::ALL {
        let server = PostgresServer::start_new(version);
        block_on(async {
            let mut client = replication(&server).await;
            let identity = client.identify_system().await.unwrap();
            let by_sql = server.psql("SELECT system_identifier FROM pg_control_system()");
            assert_eq!(identity.system_id.to_string(), by_sql);
            assert_eq!(identity.timeline, TimelineId(1));
            assert_eq!(client.version().major(), version.major());
            let size = client.wal_segment_size().await.unwrap();
            client.create_physical_slot("tide").await.unwrap();
            server.psql("CREATE TABLE t AS SELECT g, repeat('x', 500) FROM generate_series(1, 60000) g");
            let end = flush_lsn(&server);
            let start = size.start_of(size.segment_of(identity.wal_end));
            let mut stream = streaming(client, Some("tide"), start, 1).await;
            let received = receive_until(&mut stream, start, end).await;
            let name = server.psql(&format!("SELECT pg_walfile_name('{start}'::pg_lsn + 1)"));
            let file = std::fs::read(server.data_directory().join("pg_wal").join(name)).unwrap();
            assert!(received[..SEGMENT] == file[..SEGMENT], "{version:?}");

            stream.send_status(end, end, end, false).await.unwrap();
            let flushed = || {
                let flush = server.psql("SELECT flush_lsn FROM pg_stat_replication");
                flush.parse::<Lsn>().is_ok_and(|flush| flush == end)
            };
            wait_for("the status to arrive", Duration::from_secs(10), flushed);
            let mut client = stream.finish().await.unwrap();
            assert!(
                client.identify_system().await.unwrap().wal_end >= end,
                "usable after the stream"
            );
            client.close().await;
        });
    }
}

#[test]
fn a_dropped_wait_loses_nothing() {
    let server = PostgresServer::start_new(PgVersion::V17);
    block_on(async {
        let start = flush_lsn(&server);
        let mut stream = streaming(replication(&server).await, None, start, 1).await;
        server.psql("CREATE TABLE t AS SELECT g, repeat('x', 500) FROM generate_series(1, 20000) g");
        let end = flush_lsn(&server);
        let mut position = start;
        while position < end {
            // Ready at once in most rounds: half of the waits are dropped in the middle.
            tokio::select! {
                biased;
                () = tokio::time::sleep(Duration::from_micros(10)) => {}
                event = stream.next() => {
                    if let StreamEvent::Data { start, bytes, .. } = event.unwrap() {
                        assert_eq!(start, position);
                        position = Lsn(position.0 + bytes.len() as u64);
                    }
                }
            }
        }
    });
}

#[test]
fn a_promotion_ends_the_timeline_and_the_child_goes_on() {
    let primary = PostgresServer::start_new(PgVersion::V17);
    let standby = primary.start_standby();
    block_on(async {
        let client = replication(&standby).await;
        primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
        let end = flush_lsn(&primary);
        let start = end.align_down(SEGMENT as u64);
        let mut stream = streaming(client, None, start, 1).await;
        receive_until(&mut stream, start, end).await;
        tokio::task::block_in_place(|| standby.promote());
        let (next, switch) = loop {
            match stream.next().await.unwrap() {
                StreamEvent::TimelineEnded { next, switch } => break (next, switch),
                StreamEvent::Data { .. } | StreamEvent::Keepalive { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(next, TimelineId(2));
        let mut client = stream.into_client().expect("the connection goes on");
        let (name, content) = client.timeline_history(next).await.unwrap();
        assert_eq!(name, next.history_file_name());
        let history = TimelineHistory::parse(next, std::str::from_utf8(&content).unwrap()).unwrap();
        assert_eq!(history.begin(), switch);

        // Exactly at the fork the server does not stream; at the start of its segment the child does.
        match client.start_physical(None, switch, TimelineId(1)).await.unwrap() {
            Started::TimelineEnded {
                client,
                next: TimelineId(2),
                switch: again,
            } => {
                assert_eq!(again, switch);
                let start = switch.align_down(SEGMENT as u64);
                let mut stream = streaming(client, None, start, 2).await;
                let end = flush_lsn(&standby);
                receive_until(&mut stream, start, end).await;
            }
            _ => panic!("streamed past the fork"),
        }
        let past = replication(&standby)
            .await
            .start_physical(None, Lsn(switch.0 + 8), TimelineId(1))
            .await;
        let error = past.map(drop).expect_err("past the fork");
        assert!(error.to_string().contains("history"), "{error}");
    });
}

#[test]
fn an_orderly_shutdown_is_told_apart_from_a_crash() {
    for (mode, orderly) in [(StopMode::Fast, true), (StopMode::Immediate, false)] {
        let server = Arc::new(PostgresServer::start_new(PgVersion::V17));
        block_on(async {
            let start = flush_lsn(&server);
            let mut stream = streaming(replication(&server).await, None, start, 1).await;
            let stopping = Arc::clone(&server);
            let stop = tokio::task::spawn_blocking(move || stopping.stop(mode));
            let follow = async {
                let mut position = start;
                loop {
                    match stream.next().await {
                        Ok(StreamEvent::Data { start, bytes, .. }) => {
                            position = Lsn(start.0 + bytes.len() as u64);
                        }
                        Ok(StreamEvent::Keepalive { .. }) => {}
                        Ok(StreamEvent::ServerShutdown) => return (position, None),
                        Ok(other) => panic!("{other:?}"),
                        Err(error) => return (position, Some(error)),
                    }
                    stream
                        .send_status(position, position, position, false)
                        .await
                        .unwrap_or_default();
                }
            };
            let ((position, error), stopped) = tokio::join!(follow, stop);
            stopped.unwrap();
            assert_eq!(error.is_none(), orderly, "{error:?}");
            assert!(error.is_none_or(|error| error.class() == ErrorClass::Transient));
            if orderly {
                server.start();
                let mut stream = streaming(replication(&server).await, None, position, 1).await;
                assert!(
                    matches!(stream.next().await.unwrap(), StreamEvent::Data { start, .. } if start == position)
                );
            }
        });
    }
}

#[test]
fn a_silent_server_is_asked_and_a_frozen_one_given_up() {
    let server = PostgresServer::start_new(PgVersion::V17);
    block_on(async {
        let mut stream = streaming(replication(&server).await, None, flush_lsn(&server), 1).await;
        stream.set_silence_limit(Duration::from_secs(1));
        let mut answers = 0;
        let idle = async {
            loop {
                stream.next().await.unwrap();
                answers += 1;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(4), idle).await;
        assert!(answers >= 3, "an idle server answers when asked: {answers}");

        let pid: i32 = server
            .psql("SELECT pid FROM pg_stat_replication")
            .parse()
            .unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let begun = Instant::now();
        let error = loop {
            match stream.next().await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
        assert!(matches!(error, PostgresError::Timeout { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn a_commit_waits_for_our_flush_when_we_are_synchronous() {
    let server = PostgresServer::builder(PgVersion::V17)
        .conf("synchronous_standby_names = 'tide'")
        .start();
    block_on(async {
        let info = conninfo(&server.url()).with_application_name("tide");
        let client = tidemark_postgres::ReplicationClient::connect(&info)
            .await
            .unwrap();
        let start = flush_lsn(&server);
        let mut stream = streaming(client, None, start, 1).await;
        let sql = super::sql(&server).await;
        let commit = async {
            sql.client()
                .batch_execute("CREATE TABLE t (i int)")
                .await
                .map(|()| Instant::now())
        };
        let acknowledge = async {
            let mut acknowledged = None;
            let mut end = start;
            let mut first = None;
            while acknowledged.is_none() {
                let event = tokio::time::timeout(Duration::from_millis(100), stream.next()).await;
                if let Ok(Ok(StreamEvent::Data { start, bytes, .. })) = event {
                    end = Lsn(start.0 + bytes.len() as u64);
                    first.get_or_insert_with(Instant::now);
                }
                if first.is_some_and(|at: Instant| at.elapsed() > Duration::from_millis(700)) {
                    acknowledged = Some(Instant::now());
                }
                let flush = if acknowledged.is_some() { end } else { Lsn::INVALID };
                stream.send_status(end, flush, flush, false).await.unwrap();
            }
            acknowledged.unwrap()
        };
        let (committed, acknowledged) = tokio::join!(commit, acknowledge);
        assert!(
            committed.unwrap() >= acknowledged,
            "the commit returned before it was durable here"
        );
    });
}
