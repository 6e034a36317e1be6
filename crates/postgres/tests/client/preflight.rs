//! Preflight on real servers: what is found, and that the remedies mend it.

use tidemark_postgres::SqlClient;
use tidemark_postgres::preflight::{ServerFacts, Wanted, findings};
use tidemark_testkit::{PgVersion, PostgresServer};
use tidemark_types::{Finding, Severity};

use super::{block_on, conninfo};

fn wanted(server: &PostgresServer) -> Wanted {
    Wanted {
        slot: "tide".to_owned(),
        application_name: "tide".to_owned(),
        synchronous: true,
        data_directory: Some(server.data_directory().to_owned()),
        ..Wanted::default()
    }
}

async fn look(server: &PostgresServer) -> Vec<Finding> {
    let client = SqlClient::connect(&conninfo(&server.url_as("tide")))
        .await
        .unwrap();
    let facts = ServerFacts::query(&client, "tide").await.unwrap();
    assert_eq!(
        facts.system_id.to_string(),
        server.psql("SELECT system_identifier FROM pg_control_system()")
    );
    findings(&facts, &wanted(server))
}

#[test]
fn remedies_are_statements_that_mend_what_was_found() {
    for version in PgVersion::ALL {
        let server = PostgresServer::builder(version).without_data_checksums().start();
        server.psql("CREATE ROLE tide LOGIN; SELECT pg_create_physical_replication_slot('tide')");
        block_on(async {
            let before = look(&server).await;
            let subjects = |list: &[Finding], severity| {
                let mut found: Vec<_> = list
                    .iter()
                    .filter(|f| f.severity == severity)
                    .map(|f| f.subject)
                    .collect();
                found.sort_unstable();
                found
            };
            let errors = ["backup right", "replication right", "synchronous_standby_names"];
            assert_eq!(
                subjects(&before, Severity::Error),
                errors,
                "{version:?} {before:#?}"
            );
            let warnings = [
                "data_checksums",
                "fsync",
                "max_slot_wal_keep_size",
                "monitoring right",
            ];
            assert_eq!(
                subjects(&before, Severity::Warning),
                warnings,
                "{version:?} {before:#?}"
            );
            // Nothing streams yet: a synchronous server would make the remedies themselves wait.
            for finding in before {
                if let Some(remedy) = finding.remedy {
                    server.psql(&format!("SET synchronous_commit = local; {remedy}"));
                }
            }
            server.psql("SELECT pg_reload_conf()");
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            let after = look(&server).await;
            assert_eq!(
                subjects(&after, Severity::Error),
                [""; 0],
                "{version:?} {after:#?}"
            );
            assert_eq!(
                subjects(&after, Severity::Warning),
                ["data_checksums"],
                "{version:?} {after:#?}"
            );
        });
    }
}
