//! Facts and names, asked of real servers.

use tidemark_postgres::basebackup::{ServerFacts, kind_of, query_relation_names};
use tidemark_testkit::{PgVersion, PostgresServer};

use super::support::connect;

#[tokio::test]
async fn facts_hold_what_a_fresh_host_needs() {
    for version in PgVersion::ALL {
        let server = PostgresServer::builder(version)
            .conf("max_prepared_transactions = 7")
            .start();
        let facts = ServerFacts::query(&connect(&server).await).await.unwrap();
        assert_eq!(facts.version_num / 10_000, version.major());
        assert_eq!(facts.requirements.max_prepared_transactions, 7);
        assert_eq!(facts.wal_segment_size, 16 << 20);
        assert!(facts.data_checksums && facts.wal_level == "replica");
        assert_eq!(
            facts.bootstrap_superuser,
            server.psql("SELECT rolname FROM pg_roles WHERE oid = 10").trim()
        );
        assert!(
            facts
                .databases
                .iter()
                .any(|database| database.name == "template0" && !database.allows_connections)
        );
        let file = |name: &str| {
            facts
                .configuration_files
                .iter()
                .find(|file| file.path.ends_with(name))
                .unwrap()
        };
        assert!(
            file("postgresql.conf")
                .text
                .contains("max_prepared_transactions = 7")
        );
        assert!(!file("pg_hba.conf").text.is_empty());
        let copy: ServerFacts = serde_json::from_str(&serde_json::to_string(&facts).unwrap()).unwrap();
        assert_eq!(copy, facts);
    }
}

#[tokio::test]
async fn what_a_plain_user_may_not_see_is_left_out() {
    let server = PostgresServer::start_new(PgVersion::V17);
    server.psql("CREATE ROLE plain LOGIN");
    let conninfo = server.url_as("plain");
    let (client, connection) = tokio_postgres::connect(&conninfo, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let facts = ServerFacts::query(&client).await.unwrap();
    assert_eq!(facts.data_directory, None);
    assert!(facts.configuration_files.is_empty());
    assert!(facts.requirements.max_connections > 0);
}

#[tokio::test]
async fn names_lead_to_the_files_that_the_server_names() {
    for version in PgVersion::ALL {
        let server = PostgresServer::start_new(version);
        server.create_tablespace("space");
        server.psql(
            "CREATE TABLE here (id int); CREATE TABLE there (id int) TABLESPACE space; VACUUM FULL pg_class",
        );
        let names = query_relation_names(&connect(&server).await).await.unwrap();
        for table in ["here", "there", "pg_class", "pg_database"] {
            let name = names.iter().find(|name| name.name == table).unwrap();
            let path = server.psql(&format!("SELECT pg_relation_filepath('{table}')"));
            let segment = kind_of(path.trim()).main_fork().unwrap();
            assert_eq!(segment.relation, name.relation(), "{table} at {path}");
        }
    }
}
