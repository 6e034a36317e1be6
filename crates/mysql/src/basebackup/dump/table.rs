//! One table: its definition, and its rows as INSERT statements.

use crc_fast::{CrcAlgorithm, checksum};

use super::super::BaseBackupError;
use super::column::Column;
use super::output::{Output, OutputFile};
use super::script::{PREAMBLE, Script};
use crate::client::{Sql, quote, quote_name};

/// Bytes of a statement after which another begins: under every server's `max_allowed_packet`, unless one row is longer.
const STATEMENT_LEN: usize = 512 << 10;
/// Bytes of a file after which another begins, so that a large table is loaded by several connections.
const FILE_LEN: u64 = 128 << 20;
/// Engines whose rows lie elsewhere, or nowhere.
const WITHOUT_ROWS: [&str; 6] = [
    "mrg_myisam",
    "merge",
    "federated",
    "blackhole",
    "connect",
    "spider",
];

/// A table to be dumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The database.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The engine, in lower case.
    pub engine: String,
    /// About how many bytes it has.
    pub size: u64,
}

impl Table {
    /// Whether a snapshot holds its rows.
    pub fn is_versioned(&self) -> bool {
        matches!(&*self.engine, "innodb" | "rocksdb") || !self.has_rows()
    }

    fn has_rows(&self) -> bool {
        !WITHOUT_ROWS.contains(&&*self.engine)
    }

    fn quoted(&self) -> String {
        format!("{}.{}", quote_name(&self.schema), quote_name(&self.name))
    }

    /// Writes its files.
    pub async fn dump(&self, sql: &mut Sql, output: &Output) -> Result<(), BaseBackupError> {
        self.dump_definition(sql, output).await?;
        if self.has_rows() {
            self.dump_rows(sql, output).await?;
        }
        Ok(())
    }

    async fn dump_definition(&self, sql: &mut Sql, output: &Output) -> Result<(), BaseBackupError> {
        let operation = "read a table's definition";
        let row = sql
            .query_one(operation, &format!("SHOW CREATE TABLE {}", self.quoted()))
            .await?;
        let definition = row.text("Create Table").ok_or_else(|| self.unusable(operation))?;
        let mut script = Script::default();
        script.push(format!("USE {}", quote_name(&self.schema)));
        script.push(definition);
        let mut file = output
            .file(&format!("30-tables/{}.sql", self.file_name()))
            .await?;
        file.write(script.render().as_bytes()).await?;
        file.end().await
    }

    async fn dump_rows(&self, sql: &mut Sql, output: &Output) -> Result<(), BaseBackupError> {
        let columns = self.columns(sql).await?;
        if columns.is_empty() {
            return Ok(());
        }
        let join = |part: fn(&Column) -> &str| columns.iter().map(part).collect::<Vec<_>>().join(", ");
        let insert = format!(
            "INSERT INTO {} ({}) VALUES\n",
            self.quoted(),
            join(|column| &column.name)
        );
        let statement = format!(
            "SELECT {} FROM {}",
            join(|column| &column.expression),
            self.quoted()
        );
        let mut files = RowFiles {
            table: self,
            output,
            insert,
            part: 0,
            file: None,
            statement: Vec::new(),
        };
        let mut rows = sql.rows("read a table's rows", &statement).await?;
        while let Some(row) = rows.next().await? {
            files.begin_row();
            for (column, value) in columns.iter().zip(row.values()) {
                column.write(value.as_deref(), files.next_value());
            }
            files.end_row().await?;
        }
        files.end().await
    }

    /// Columns that are written to: not those that the server computes.
    async fn columns(&self, sql: &mut Sql) -> Result<Vec<Column>, BaseBackupError> {
        let operation = "list a table's columns";
        let statement = format!(
            "SELECT column_name, data_type, character_set_name FROM information_schema.columns \
             WHERE table_schema = {} AND table_name = {} \
             AND COALESCE(generation_expression, '') = '' AND extra NOT LIKE '%STORED GENERATED%' \
             ORDER BY ordinal_position",
            quote(&self.schema),
            quote(&self.name)
        );
        let rows = sql.query(operation, &statement).await?;
        rows.iter()
            .map(|row| Column::read(row).ok_or_else(|| self.unusable(operation)))
            .collect()
    }

    fn unusable(&self, operation: &'static str) -> BaseBackupError {
        BaseBackupError::Answer {
            operation,
            answer: format!("nothing of use for {}", self.quoted()),
        }
    }

    /// The same in every dump. A checksum keeps names apart that look alike here.
    fn file_name(&self) -> String {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || "_-".contains(c) {
                c
            } else {
                '_'
            }
        };
        let short = |name: &str| name.chars().take(60).map(plain).collect::<String>();
        let exact = checksum(CrcAlgorithm::Crc32IsoHdlc, self.quoted().as_bytes());
        format!("{}.{}.{exact:08x}", short(&self.schema), short(&self.name))
    }
}

/// The files of a table's rows.
struct RowFiles<'a> {
    table: &'a Table,
    output: &'a Output,
    insert: String,
    part: usize,
    file: Option<OutputFile>,
    statement: Vec<u8>,
}

impl RowFiles<'_> {
    fn begin_row(&mut self) {
        if self.statement.is_empty() {
            self.statement.extend_from_slice(self.insert.as_bytes());
        } else {
            self.statement.extend_from_slice(b",\n");
        }
        self.statement.push(b'(');
    }

    /// Where the next value of the row goes.
    fn next_value(&mut self) -> &mut Vec<u8> {
        if self.statement.last() != Some(&b'(') {
            self.statement.push(b',');
        }
        &mut self.statement
    }

    async fn end_row(&mut self) -> Result<(), BaseBackupError> {
        self.statement.push(b')');
        if self.statement.len() >= STATEMENT_LEN {
            self.end_statement().await?;
        }
        Ok(())
    }

    async fn end_statement(&mut self) -> Result<(), BaseBackupError> {
        if self.statement.is_empty() {
            return Ok(());
        }
        self.statement.extend_from_slice(b";\n");
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.next_file().await?,
        };
        file.write(&self.statement).await?;
        self.statement.clear();
        if file.len() >= FILE_LEN {
            file.end().await?;
        } else {
            self.file = Some(file);
        }
        Ok(())
    }

    async fn next_file(&mut self) -> Result<OutputFile, BaseBackupError> {
        self.part += 1;
        let path = format!("40-data/{}.{:05}.sql", self.table.file_name(), self.part);
        let mut file = self.output.file(&path).await?;
        file.write(PREAMBLE.as_bytes()).await?;
        Ok(file)
    }

    async fn end(mut self) -> Result<(), BaseBackupError> {
        self.end_statement().await?;
        match self.file {
            Some(file) => file.end().await,
            None => Ok(()),
        }
    }
}
