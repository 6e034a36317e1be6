//! One PostgreSQL server: can it be reached, is everything granted and set, and can its files be read.

use std::path::Path;

use tidemark_postgres::control_file::ControlFile;
use tidemark_postgres::preflight::{self, ServerFacts, Wanted};
use tidemark_postgres::{PostgresError, ReplicationClient, SqlClient};
use tidemark_repository::Archive;

use super::finding::Finding;
use crate::config::PostgresqlSettings;
use crate::exit;

/// Looks at a server, of which the repository holds this.
pub async fn examine(settings: &PostgresqlSettings, archive: Option<&Archive>) -> Vec<Finding> {
    let subject = settings.server.name.as_str();
    let facts = match ask(settings).await {
        Ok(facts) => facts,
        Err(error) => {
            let mend = "check the url, that the server runs, and its pg_hba.conf";
            return vec![Finding::error(
                subject,
                "connection",
                exit::one_line(&error),
                mend,
            )];
        }
    };
    let mut findings = vec![Finding::good(
        subject,
        "connection",
        format!("connects to {} as {}", facts.host, facts.role.name),
    )];
    if settings.archive_spool.is_none() || settings.server.data_directory.is_none() {
        findings.push(replication(settings).await);
    }
    let wanted = Wanted {
        system_id: archive.and_then(|archive| archive.record().system_id.parse().ok()),
        ..wanted(settings)
    };
    let judged = preflight::findings(&facts, &wanted);
    findings.extend(
        judged
            .into_iter()
            .map(|finding| Finding::of_server(subject, finding)),
    );
    if let Some(directory) = &settings.server.data_directory {
        findings.push(own_files(subject, directory, facts.system_id));
    }
    findings
}

async fn ask(settings: &PostgresqlSettings) -> anyhow::Result<ServerFacts> {
    let client = SqlClient::connect(&settings.connect_info()?).await?;
    let facts = ServerFacts::query(&client, &settings.slot).await?;
    client.close().await;
    Ok(facts)
}

/// A replication connection has rules of its own in `pg_hba.conf`, so it is tried by itself.
async fn replication(settings: &PostgresqlSettings) -> Finding {
    const CHECK: &str = "replication";
    let subject = settings.server.name.as_str();
    match identify(settings).await {
        Ok(()) => Finding::good(subject, CHECK, "accepts replication connections"),
        Err(error) => {
            let user = &settings.connection.user;
            let mend = format!(
                "add to pg_hba.conf, with this host's address: host replication {user} ADDRESS scram-sha-256"
            );
            Finding::error(subject, CHECK, exit::one_line(&error), mend)
        }
    }
}

async fn identify(settings: &PostgresqlSettings) -> anyhow::Result<()> {
    let mut client = ReplicationClient::connect(&settings.connect_info()?).await?;
    let identified: Result<_, PostgresError> = client.identify_system().await;
    identified?;
    client.close().await;
    Ok(())
}

fn wanted(settings: &PostgresqlSettings) -> Wanted {
    Wanted {
        slot: settings.slot.clone(),
        application_name: settings.application_name.clone(),
        synchronous: settings.synchronous,
        data_directory: settings.server.data_directory.clone(),
        archive_spool: settings.archive_spool.clone(),
        max_slot_retained: settings.max_slot_retained,
        system_id: None,
        // The configuration warns of one when it is read, and can tell it from a reference to the environment.
        password_in_url: false,
    }
}

/// A directory of the configured path on this host may be unreadable, or another server's.
fn own_files(subject: &str, directory: &Path, system_id: u64) -> Finding {
    const CHECK: &str = "data files";
    let shown = directory.display();
    match ControlFile::read(directory) {
        Ok((control, _)) if control.system_id == system_id => {
            Finding::good(subject, CHECK, format!("{shown} can be read"))
        }
        Ok((control, _)) => Finding::error(
            subject,
            CHECK,
            format!(
                "{shown} is of system identifier {}, the server's is {system_id}",
                control.system_id
            ),
            "correct data_directory, or leave it out when the agent runs on another host",
        ),
        Err(error) => Finding::error(
            subject,
            CHECK,
            exit::one_line(&error.into()),
            "run the agent as the server's user, or as one of its group with initdb --allow-group-access; \
             or leave data_directory out",
        ),
    }
}
