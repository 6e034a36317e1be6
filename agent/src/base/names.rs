//! Stores what relations are called beside a base backup, so that names can be told for file numbers later.
//!
//! It is of use without being needed: a restore does without it. So failures only warn.

use std::time::Duration;

use anyhow::Context;
use tidemark_postgres::basebackup::{DatabaseFacts, RelationName, query_relation_names};
use tidemark_postgres::{ConnInfo, SqlClient};
use tidemark_repository::base::BackupWriter;
use tokio::time::timeout;

/// All databases together take no longer than this: a backup does not wait for names.
const NAMES_MAX: Duration = Duration::from_secs(60);

/// Lists the relations of all databases that can be connected to, and stores their names.
pub async fn store(info: &ConnInfo, databases: &[DatabaseFacts], writer: &BackupWriter) {
    let stored = timeout(NAMES_MAX, async {
        let names = query(info, databases).await?;
        let mut plain = Vec::new();
        for name in &names {
            serde_json::to_writer(&mut plain, name)?;
            plain.push(b'\n');
        }
        Ok::<(), anyhow::Error>(writer.put_names(plain.into()).await?)
    });
    let failure = match stored.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => format!("it took longer than {} s", NAMES_MAX.as_secs()),
    };
    tracing::warn!(
        error = failure,
        "the names of relations are not stored with the base backup"
    );
}

async fn query(info: &ConnInfo, databases: &[DatabaseFacts]) -> anyhow::Result<Vec<RelationName>> {
    let mut names: Vec<RelationName> = Vec::new();
    for database in databases.iter().filter(|database| database.allows_connections) {
        let there = ConnInfo {
            dbname: database.name.clone(),
            ..info.clone()
        };
        let sql = SqlClient::connect(&there)
            .await
            .with_context(|| format!("connect to database {}", database.name))?;
        let mut found = query_relation_names(sql.client()).await?;
        if !names.is_empty() {
            // Every database lists the relations that all share.
            found.retain(|name| name.database != 0);
        }
        names.append(&mut found);
        sql.close().await;
    }
    Ok(names)
}
