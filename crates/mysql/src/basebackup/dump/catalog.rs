//! What a server has beside rows: read under the lock, because none of it is kept in versions.

use super::super::BaseBackupError;
use super::script::Script;
use super::table::Table;
use crate::client::{Row, Sql, quote, quote_name};

/// Schemas that are the server's own.
const NOT_OWN: &str = "NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')";

/// Everything but rows.
#[derive(Debug, Default)]
pub struct Catalog {
    /// The tables, in order of their names.
    pub tables: Vec<Table>,
    /// Statements for all the rest, by the file that they go into.
    pub scripts: Vec<(&'static str, Script)>,
    /// What is not in the dump.
    pub missing: Vec<String>,
}

impl Catalog {
    /// Reads it.
    pub async fn read(sql: &mut Sql) -> Result<Catalog, BaseBackupError> {
        let mut catalog = Catalog::default();
        let databases = databases(sql).await?;
        catalog.scripts.push(("10-databases.sql", databases));
        catalog.read_relations(sql).await?;
        let routines = catalog.routines(sql).await?;
        catalog.scripts.push(("50-routines.sql", routines));
        let triggers = triggers(sql).await?;
        catalog.scripts.push(("70-triggers.sql", triggers));
        let events = events(sql).await?;
        catalog.scripts.push(("80-events.sql", events));
        Ok(catalog)
    }

    /// Tables, sequences and views: all are listed as tables.
    async fn read_relations(&mut self, sql: &mut Sql) -> Result<(), BaseBackupError> {
        let operation = "list the tables";
        let statement = format!(
            "SELECT table_schema, table_name, table_type, LOWER(COALESCE(engine, '')) AS engine, \
             COALESCE(data_length, 0) AS size FROM information_schema.tables \
             WHERE table_schema {NOT_OWN} ORDER BY table_schema, table_name"
        );
        let rows = sql.query(operation, &statement).await?;
        let (mut sequences, mut outlines, mut views) = (Script::default(), Script::default(), Vec::new());
        for row in &rows {
            let (schema, name) = (
                text(operation, row, "table_schema")?,
                text(operation, row, "table_name")?,
            );
            let quoted = format!("{}.{}", quote_name(schema), quote_name(name));
            match text(operation, row, "table_type")? {
                "VIEW" => {
                    outlines.push(outline(sql, schema, name, &quoted).await?);
                    views.extend(definition(sql, "VIEW", schema, &quoted).await?);
                }
                "SEQUENCE" => sequence(sql, schema, &quoted, &mut sequences).await?,
                kind => {
                    if kind == "SYSTEM VERSIONED" {
                        self.missing.push(format!("history of {schema}.{name}"));
                    }
                    self.tables.push(Table {
                        schema: schema.to_owned(),
                        name: name.to_owned(),
                        engine: text(operation, row, "engine")?.to_owned(),
                        size: row.parse("size").unwrap_or_default(),
                    });
                }
            }
        }
        for statement in views {
            let replacing = statement
                .strip_prefix("CREATE ")
                .map(|rest| format!("CREATE OR REPLACE {rest}"));
            outlines.push(replacing.unwrap_or(statement));
        }
        self.scripts.push(("20-sequences.sql", sequences));
        self.scripts.push(("60-views.sql", outlines));
        Ok(())
    }

    async fn routines(&mut self, sql: &mut Sql) -> Result<Script, BaseBackupError> {
        let operation = "list the routines";
        let statement = format!(
            "SELECT routine_schema, routine_name, routine_type FROM information_schema.routines \
             WHERE routine_schema {NOT_OWN} ORDER BY routine_schema, routine_type, routine_name"
        );
        let mut script = Script::default();
        for row in &sql.query(operation, &statement).await? {
            let schema = text(operation, row, "routine_schema")?;
            let quoted = format!(
                "{}.{}",
                quote_name(schema),
                quote_name(text(operation, row, "routine_name")?)
            );
            let kind = text(operation, row, "routine_type")?;
            let statements = definition(sql, kind, schema, &quoted).await?;
            if statements.is_empty() {
                self.missing
                    .push(format!("{} {quoted}", kind.to_ascii_lowercase()));
            }
            statements
                .into_iter()
                .for_each(|statement| script.push(statement));
        }
        Ok(script)
    }
}

async fn databases(sql: &mut Sql) -> Result<Script, BaseBackupError> {
    let operation = "list the databases";
    let statement = format!(
        "SELECT schema_name FROM information_schema.schemata WHERE schema_name {NOT_OWN} ORDER BY schema_name"
    );
    let mut script = Script::default();
    for row in &sql.query(operation, &statement).await? {
        let name = quote_name(text(operation, row, "schema_name")?);
        let row = sql
            .query_one(operation, &format!("SHOW CREATE DATABASE IF NOT EXISTS {name}"))
            .await?;
        script.push(text(operation, &row, "Create Database")?);
    }
    Ok(script)
}

/// A view of the same columns that depends on nothing.
async fn outline(sql: &mut Sql, schema: &str, name: &str, quoted: &str) -> Result<String, BaseBackupError> {
    let operation = "list a view's columns";
    let statement = format!(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = {} AND table_name = {} \
         ORDER BY ordinal_position",
        quote(schema),
        quote(name)
    );
    let rows = sql.query(operation, &statement).await?;
    let columns: Vec<String> = rows
        .iter()
        .map(|row| {
            Ok(format!(
                "1 AS {}",
                quote_name(text(operation, row, "column_name")?)
            ))
        })
        .collect::<Result<_, BaseBackupError>>()?;
    Ok(format!(
        "CREATE OR REPLACE VIEW {quoted} AS SELECT {}",
        columns.join(", ")
    ))
}

async fn sequence(
    sql: &mut Sql,
    schema: &str,
    quoted: &str,
    script: &mut Script,
) -> Result<(), BaseBackupError> {
    let operation = "read a sequence";
    let row = sql
        .query_one(operation, &format!("SHOW CREATE SEQUENCE {quoted}"))
        .await?;
    let made = text(operation, &row, "Create Table")?.to_owned();
    let row = sql
        .query_one(
            operation,
            &format!("SELECT next_not_cached_value AS next, cycle_count AS round FROM {quoted}"),
        )
        .await?;
    let (next, round) = (text(operation, &row, "next")?, text(operation, &row, "round")?);
    script.push(format!("USE {}", quote_name(schema)));
    script.push(made);
    script.push(format!("DO SETVAL({quoted}, {next}, 0, {round})"));
    Ok(())
}

/// The statements that make an object as it was made, in the session that it was made in; none when the account may not see
/// its body.
async fn definition(
    sql: &mut Sql,
    kind: &str,
    schema: &str,
    quoted: &str,
) -> Result<Vec<String>, BaseBackupError> {
    let operation = "read a definition";
    let row = sql
        .query_one(operation, &format!("SHOW CREATE {kind} {quoted}"))
        .await?;
    let body = row
        .text(&format!("Create {kind}"))
        .or(row.text("SQL Original Statement"));
    let Some(body) = body else { return Ok(Vec::new()) };
    // The text comes in our character set, and is sent in it, unless it reads the same in its own.
    let client = row.text("character_set_client").filter(|_| body.is_ascii());
    let mut settings = format!("character_set_client = {}", client.unwrap_or("utf8mb4"));
    for variable in ["sql_mode", "collation_connection", "time_zone"] {
        if let Some(value) = row.text(variable) {
            settings.push_str(&format!(", {variable} = {}", quote(value)));
        }
    }
    let mut statements = vec![
        format!("USE {}", quote_name(schema)),
        format!("SET SESSION {settings}"),
    ];
    statements.push(body.to_owned());
    Ok(statements)
}

async fn triggers(sql: &mut Sql) -> Result<Script, BaseBackupError> {
    let operation = "list the triggers";
    // In the order in which those of one table and event run.
    let statement = format!(
        "SELECT trigger_schema AS s, trigger_name AS n FROM information_schema.triggers WHERE trigger_schema {NOT_OWN} \
         ORDER BY event_object_schema, event_object_table, action_timing, event_manipulation, action_order"
    );
    named(sql, operation, "TRIGGER", &statement).await
}

async fn events(sql: &mut Sql) -> Result<Script, BaseBackupError> {
    let operation = "list the events";
    let statement = format!(
        "SELECT event_schema AS s, event_name AS n FROM information_schema.events WHERE event_schema {NOT_OWN} \
         ORDER BY event_schema, event_name"
    );
    named(sql, operation, "EVENT", &statement).await
}

/// The definitions of what a statement lists.
async fn named(
    sql: &mut Sql,
    operation: &'static str,
    kind: &str,
    statement: &str,
) -> Result<Script, BaseBackupError> {
    let mut script = Script::default();
    for row in &sql.query(operation, statement).await? {
        let (schema, name) = (text(operation, row, "s")?, text(operation, row, "n")?);
        let quoted = format!("{}.{}", quote_name(schema), quote_name(name));
        for statement in definition(sql, kind, schema, &quoted).await? {
            script.push(statement);
        }
    }
    Ok(script)
}

/// The text in a column of a row.
pub fn text<'r>(operation: &'static str, row: &'r Row, column: &str) -> Result<&'r str, BaseBackupError> {
    row.text(column).ok_or_else(|| BaseBackupError::Answer {
        operation,
        answer: format!("nothing in column {column}"),
    })
}
