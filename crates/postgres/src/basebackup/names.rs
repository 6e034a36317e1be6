//! Which relation a file node belongs to: kept with every base backup, so that names can be told for files later.
//!
//! Relations are listed per database, so the caller connects to each database that
//! [`super::DatabaseFacts::allows_connections`].

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::BaseBackupError;
use crate::wal::Relation;

/// A relation with files of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationName {
    /// OID of the tablespace its files lie in.
    pub tablespace: u32,
    /// OID of its database; zero for relations shared by all.
    pub database: u32,
    /// The number its files are named by.
    pub filenode: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `pg_class.relkind`: `r` table, `i` index, `S` sequence, `t` TOAST table, `m` materialized view.
    pub kind: char,
}

impl RelationName {
    /// Its files, as WAL names them.
    pub fn relation(&self) -> Relation {
        Relation {
            tablespace: self.tablespace,
            database: self.database,
            number: self.filenode,
        }
    }
}

/// `pg_relation_filenode` also answers for mapped catalogs, whose `relfilenode` is zero. A `reltablespace` of zero means
/// the database's own.
const NAMES: &str = "
    SELECT coalesce(nullif(c.reltablespace, 0), d.dattablespace),
           CASE WHEN c.relisshared THEN 0::oid ELSE d.oid END,
           pg_relation_filenode(c.oid),
           n.nspname::text, c.relname::text, c.relkind::text
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_database d ON d.datname = current_database()
    WHERE pg_relation_filenode(c.oid) IS NOT NULL AND c.relpersistence <> 't'";

/// Lists the relations of the database that `client` is connected to, and those shared by all.
///
/// # Errors
/// [`BaseBackupError::Sql`].
pub async fn query_relation_names(client: &Client) -> Result<Vec<RelationName>, BaseBackupError> {
    const OPERATION: &str = "list the names of relations";
    let rows = client
        .query(NAMES, &[])
        .await
        .map_err(BaseBackupError::sql(OPERATION))?;
    rows.iter()
        .map(|row| {
            Ok(RelationName {
                tablespace: row.try_get(0)?,
                database: row.try_get(1)?,
                filenode: row.try_get(2)?,
                schema: row.try_get(3)?,
                name: row.try_get(4)?,
                kind: row.try_get::<_, String>(5)?.chars().next().unwrap_or('?'),
            })
        })
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(BaseBackupError::sql(OPERATION))
}
