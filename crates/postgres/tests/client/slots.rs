//! Slots and WAL that is no longer there.

use tidemark_postgres::preflight::{SlotStatus, SyncState, SyncStatus, WalStatus, WriterFacts};
use tidemark_postgres::{ConnInfo, PostgresError, ReplicationClient, Started, WalStream};
use tidemark_testkit::{PgVersion, PostgresServer};
use tidemark_types::{Lsn, TimelineId};

use super::{block_on, conninfo, flush_lsn, replication, sql, streaming};

/// Writes and drops some segments' worth of WAL.
fn churn(server: &PostgresServer) {
    for _ in 0..6 {
        server.psql("CREATE TABLE churn (i int); DROP TABLE churn; SELECT pg_switch_wal()");
    }
    server.psql("CHECKPOINT");
}

#[test]
fn a_slot_reserves_wal_and_is_read_alike_by_both_ways() {
    for version in PgVersion::ALL {
        let server = PostgresServer::start_new(version);
        block_on(async {
            let sql = sql(&server).await;
            assert_eq!(SlotStatus::query(&sql, "tide").await.unwrap(), None);
            let mut client = replication(&server).await;
            assert_eq!(client.read_slot("tide").await.unwrap(), None);
            client.create_physical_slot("tide").await.unwrap();
            let again = client.create_physical_slot("tide").await.unwrap_err();
            assert_eq!(again.sqlstate(), Some("42710"));
            let status = SlotStatus::query(&sql, "tide").await.unwrap().unwrap();
            let position = client.read_slot("tide").await.unwrap().unwrap();
            assert!(status.restart_lsn.is_some());
            assert_eq!(position.restart_lsn, status.restart_lsn);
            assert_eq!(position.timeline, Some(TimelineId(1)));
            assert_eq!(status.wal_status, Some(WalStatus::Reserved));
            assert!(!status.active && !status.is_lost());
            churn(&server);
            let held = SlotStatus::query(&sql, "tide").await.unwrap().unwrap();
            assert!(held.retained_bytes > 5 * (16 << 20), "{held:?}");

            let stream = streaming(client, Some("tide"), flush_lsn(&server), 1).await;
            let mut second = replication(&server).await;
            let busy = second.drop_slot("tide").await.unwrap_err();
            assert!(
                matches!(busy, PostgresError::SlotInUse { pid: Some(_), .. }),
                "{busy}"
            );
            let busy = second
                .start_physical(Some("tide"), flush_lsn(&server), TimelineId(1))
                .await;
            assert!(matches!(
                busy.map(drop),
                Err(PostgresError::SlotInUse { pid: Some(_), .. })
            ));
            let mut client = stream.finish().await.unwrap();
            client.drop_slot("tide").await.unwrap();
            let missing = client.drop_slot("tide").await.unwrap_err();
            assert!(matches!(missing, PostgresError::SlotMissing { .. }), "{missing}");
            let missing = client
                .start_physical(Some("tide"), flush_lsn(&server), TimelineId(1))
                .await;
            assert!(matches!(
                missing.map(drop),
                Err(PostgresError::SlotMissing { .. })
            ));
        });
    }
}

async fn first_error(stream: &mut WalStream) -> PostgresError {
    loop {
        if let Err(error) = stream.next().await {
            return error;
        }
    }
}

#[test]
fn lost_slots_and_removed_wal_are_told_apart() {
    for version in PgVersion::ALL {
        let server = PostgresServer::builder(version)
            .conf("max_slot_wal_keep_size = 16MB")
            .conf("max_wal_size = 32MB")
            .conf("min_wal_size = 32MB")
            .start();
        block_on(async {
            let mut client = replication(&server).await;
            let start = flush_lsn(&server);
            client.create_physical_slot("tide").await.unwrap();
            churn(&server);
            let status = SlotStatus::query(&sql(&server).await, "tide")
                .await
                .unwrap()
                .unwrap();
            assert!(status.is_lost(), "{version:?} {status:?}");
            let from_slot = client.start_physical(Some("tide"), start, TimelineId(1)).await;
            // Only 18 refuses a lost slot as such; earlier ones look for the WAL and find it gone.
            let lost = match from_slot {
                Err(error) => error,
                Ok(Started::Streaming(mut stream)) => first_error(&mut stream).await,
                Ok(Started::TimelineEnded { .. }) => panic!("there is one timeline"),
            };
            match version {
                PgVersion::V18 => assert!(matches!(lost, PostgresError::SlotLost { .. }), "{lost:?}"),
                _ => assert!(
                    matches!(lost, PostgresError::WalRemoved { .. }),
                    "{version:?} {lost:?}"
                ),
            }

            let mut stream = streaming(replication(&server).await, None, start, 1).await;
            let removed = first_error(&mut stream).await;
            assert!(
                matches!(removed, PostgresError::WalRemoved { .. }),
                "{version:?} {removed:?}"
            );
        });
    }
}

#[test]
fn the_writers_clock_is_paired_with_a_later_position() {
    let server = PostgresServer::start_new(PgVersion::V18);
    let standby = server.start_standby();
    block_on(async {
        let facts = WriterFacts::query(&sql(&server).await).await.unwrap();
        assert!(facts.position >= flush_lsn(&server).align_down(8192) && !facts.in_recovery);
        assert_eq!(facts.timeline, TimelineId(1));
        let facts = WriterFacts::query(&sql(&standby).await).await.unwrap();
        assert!(facts.in_recovery && facts.position > Lsn::INVALID);
    });
}

#[test]
fn whether_commits_wait_for_us_is_seen_with_the_right_to_see_it() {
    let server = PostgresServer::builder(PgVersion::V17)
        .conf("synchronous_standby_names = 'FIRST 1 (Tide, other)'")
        .conf("synchronous_commit = local")
        .start();
    server.psql("CREATE ROLE blind LOGIN");
    block_on(async {
        let client = sql(&server).await;
        assert_eq!(
            SyncState::query(&client, "tide").await.unwrap().status,
            SyncStatus::Absent
        );
        let info: ConnInfo = conninfo(&server.url()).with_application_name("tide");
        let start = flush_lsn(&server);
        let mut stream = streaming(ReplicationClient::connect(&info).await.unwrap(), None, start, 1).await;
        stream.send_status(start, start, start, false).await.unwrap();
        let state = loop {
            // Synchronous only once caught up.
            stream.send_status(start, start, start, true).await.unwrap();
            stream.next().await.unwrap();
            let state = SyncState::query(&client, "tide").await.unwrap();
            if state.status == SyncStatus::Sync {
                break state;
            }
        };
        assert!(state.named && state.may_release_commits());
        let blind = tidemark_postgres::SqlClient::connect(&conninfo(&server.url_as("blind")))
            .await
            .unwrap();
        let state = SyncState::query(&blind, "tide").await.unwrap();
        assert_eq!(
            (state.status, state.may_release_commits()),
            (SyncStatus::Hidden, true)
        );
        let unnamed = SyncState::query(&client, "stranger").await.unwrap();
        assert!(!unnamed.may_release_commits());
    });
}
