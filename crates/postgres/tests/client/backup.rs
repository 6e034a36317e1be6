//! `BASE_BACKUP` as a stream of pieces.

use tidemark_postgres::{BaseBackupEvent, BaseBackupOptions, BaseBackupStream, Checkpoint};
use tidemark_testkit::{PgVersion, PostgresServer};

use super::{block_on, flush_lsn, replication};

fn options() -> BaseBackupOptions {
    BaseBackupOptions {
        label: "tide's base backup".to_owned(),
        checkpoint: Checkpoint::Fast,
        progress: true,
        max_rate_kb: None,
        verify_checksums: true,
    }
}

#[test]
fn every_version_sends_archives_a_manifest_and_its_bounds() {
    for version in PgVersion::ALL {
        let server = PostgresServer::start_new(version);
        let location = server.create_tablespace("extra");
        server.psql("CREATE TABLE t TABLESPACE extra AS SELECT generate_series(1, 100000)");
        block_on(async {
            let before = flush_lsn(&server);
            let mut stream = BaseBackupStream::start(replication(&server).await, &options())
                .await
                .unwrap();
            assert!(stream.begin() >= before);
            assert_eq!(stream.tablespaces().len(), 2);
            let mut archives = Vec::new();
            let (mut manifest, mut sizes, mut progress) = (None::<Vec<u8>>, Vec::new(), 0);
            let end = loop {
                match stream.next().await.unwrap() {
                    BaseBackupEvent::Archive { name, tablespace } => {
                        archives.push((name, tablespace));
                        sizes.push(0);
                    }
                    BaseBackupEvent::ManifestBegins => manifest = Some(Vec::new()),
                    BaseBackupEvent::Data(bytes) => match &mut manifest {
                        Some(text) => text.extend_from_slice(&bytes),
                        None => *sizes.last_mut().unwrap() += bytes.len(),
                    },
                    BaseBackupEvent::Progress { bytes } => progress = bytes,
                    BaseBackupEvent::Done { end, .. } => break end,
                }
            };
            assert!(end > stream.begin());
            let oid = server.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'extra'");
            let expected = [
                (format!("{oid}.tar"), Some(location.display().to_string())),
                ("base.tar".to_owned(), None),
            ];
            assert_eq!(archives, expected, "{version:?}");
            assert!(sizes[0] > 3 << 20 && sizes[1] > 20 << 20, "{sizes:?}");
            assert!(progress > 20 << 20);
            let manifest = String::from_utf8(manifest.unwrap()).unwrap();
            assert!(
                manifest.starts_with('{') && manifest.contains("Manifest-Checksum"),
                "{version:?}"
            );
            let mut client = stream.into_client().unwrap();
            client.identify_system().await.unwrap();
        });
    }
}

#[test]
fn a_role_without_the_right_is_told_so() {
    let server = PostgresServer::start_new(PgVersion::V17);
    server.psql("CREATE ROLE nobody LOGIN");
    block_on(async {
        let info = super::conninfo(&server.url_as("nobody"));
        let error = tidemark_postgres::ReplicationClient::connect(&info)
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(error.sqlstate(), Some("42501"), "{error}");
        assert_eq!(error.class(), tidemark_types::ErrorClass::Config);
    });
}
