//! Statements and their results as text (manual: "COM_QUERY Response").

use std::sync::Arc;

use tidemark_types::ByteReader;
use tokio::time::Instant;

use super::wire::Wire;
use crate::bytes::ReadMysql;
use crate::error::{MysqlError, ServerError};

const COM_QUERY: u8 = 0x03;

/// No result of ours has more columns; a greater number is an answer out of step.
const COLUMNS_MAX: u64 = 4096;

/// One row of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    names: Arc<[String]>,
    values: Vec<Option<Vec<u8>>>,
}

impl Row {
    /// The names of the columns.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The values in the order of the columns; `None` is NULL.
    pub fn values(&self) -> &[Option<Vec<u8>>] {
        &self.values
    }

    /// The value of a column, in either case; `None` when it is NULL or there is no such column.
    pub fn bytes(&self, column: &str) -> Option<&[u8]> {
        let index = self
            .names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(column))?;
        self.values.get(index)?.as_deref()
    }

    /// As [`Row::bytes`]; `None` also when it is no UTF-8.
    pub fn text(&self, column: &str) -> Option<&str> {
        std::str::from_utf8(self.bytes(column)?).ok()
    }

    /// As [`Row::text`], read as a number or whatever else.
    pub fn parse<T: std::str::FromStr>(&self, column: &str) -> Option<T> {
        self.text(column)?.parse().ok()
    }
}

/// Runs one statement and collects its rows. After a server's error the connection is ready again; after any other error, and
/// when the future is dropped, it is not to be used.
pub(super) async fn run(
    wire: &mut Wire,
    operation: &'static str,
    statement: &str,
    deadline: Instant,
) -> Result<Vec<Row>, MysqlError> {
    let mut rows = Vec::new();
    if let Some(names) = begin(wire, operation, statement, deadline).await? {
        while let Some(row) = next_row(wire, operation, &names, deadline).await? {
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Sends one statement, and reads the names of its result's columns; `None` when it has no result.
pub(super) async fn begin(
    wire: &mut Wire,
    operation: &'static str,
    statement: &str,
    deadline: Instant,
) -> Result<Option<Arc<[String]>>, MysqlError> {
    wire.begin();
    wire.queue(operation, &[&[COM_QUERY], statement.as_bytes()].concat())?;
    let first = wire.receive(operation, deadline).await?;
    let Some(columns) = read_front(operation, &first)? else {
        return Ok(None);
    };
    let mut names = Vec::new();
    for _ in 0..columns {
        let definition = wire.receive(operation, deadline).await?;
        names.push(read_name(&definition).ok_or(malformed(operation, "column"))?);
    }
    let end = wire.receive(operation, deadline).await?;
    if !is_end(&end) {
        return Err(malformed(operation, "end of columns"));
    }
    Ok(Some(names.into()))
}

/// The next row of a result that was begun; `None` behind the last.
pub(super) async fn next_row(
    wire: &mut Wire,
    operation: &'static str,
    names: &Arc<[String]>,
    deadline: Instant,
) -> Result<Option<Row>, MysqlError> {
    let payload = wire.receive(operation, deadline).await?;
    match payload.split_first() {
        Some((0xFF, content)) => Err(server_error(operation, content)),
        _ if is_end(&payload) => Ok(None),
        _ => Ok(Some(
            read_row(&payload, names).ok_or(malformed(operation, "row"))?,
        )),
    }
}

/// Sends a command that is answered by OK. `command` is its whole payload.
pub(super) async fn execute(
    wire: &mut Wire,
    operation: &'static str,
    command: &[u8],
    deadline: Instant,
) -> Result<(), MysqlError> {
    wire.begin();
    wire.queue(operation, command)?;
    let reply = wire.receive(operation, deadline).await?;
    match read_front(operation, &reply)? {
        None => Ok(()),
        Some(_) => Err(malformed(operation, "answer without OK")),
    }
}

/// The number of columns, or `None` for OK.
fn read_front(operation: &'static str, payload: &[u8]) -> Result<Option<u64>, MysqlError> {
    match payload.split_first() {
        Some((0x00, _)) => Ok(None),
        Some((0xFF, content)) => Err(server_error(operation, content)),
        // 0xFB would be LOAD DATA LOCAL: a server that asks for our files gets none.
        _ => match ByteReader::new(payload).length_encoded() {
            Some(columns @ 1..=COLUMNS_MAX) => Ok(Some(columns)),
            _ => Err(malformed(operation, "begin of a result")),
        },
    }
}

/// A column's name (manual: "Column Definition"): catalog, schema, table, original table, name.
fn read_name(definition: &[u8]) -> Option<String> {
    let mut reader = ByteReader::new(definition);
    for _ in 0..4 {
        reader.length_encoded_bytes()?;
    }
    Some(String::from_utf8_lossy(reader.length_encoded_bytes()?).into_owned())
}

fn read_row(payload: &[u8], names: &Arc<[String]>) -> Option<Row> {
    const NULL: u8 = 0xFB;

    let mut reader = ByteReader::new(payload);
    let mut values = Vec::with_capacity(names.len());
    for _ in 0..names.len() {
        values.push(match reader.rest().first()? {
            &NULL => {
                reader.take(1)?;
                None
            }
            _ => Some(reader.length_encoded_bytes()?.to_vec()),
        });
    }
    Some(Row {
        names: Arc::clone(names),
        values,
    })
}

/// Whether it is an EOF packet. A row that begins with 0xFE holds a value of over 16 MiB, and is longer.
fn is_end(payload: &[u8]) -> bool {
    payload.first() == Some(&0xFE) && payload.len() < 9
}

fn server_error(operation: &'static str, content: &[u8]) -> MysqlError {
    match ServerError::read(content) {
        Some(error) => MysqlError::Server {
            operation: operation.to_owned(),
            error,
        },
        None => malformed(operation, "error"),
    }
}

fn malformed(operation: &'static str, what: &str) -> MysqlError {
    MysqlError::Protocol {
        operation,
        problem: format!("a malformed {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rows_are_read_by_name() {
        let names: Arc<[String]> = vec!["Log_name".to_owned(), "size".to_owned(), "none".to_owned()].into();
        let row = read_row(b"\x05bin.1\x0212\xFB", &names).unwrap();
        assert_eq!(row.text("log_name"), Some("bin.1"));
        assert_eq!(row.parse("SIZE"), Some(12));
        assert_eq!((row.text("none"), row.text("other")), (None, None));
        assert_eq!(row.parse::<u8>("log_name"), None);
        assert_eq!(read_row(b"\x05bin.1\x0212", &names), None);
        assert_eq!(read_row(b"\x05bin", &names), None);
    }

    proptest! {
        #[test]
        fn any_packet_never_panics(payload: Vec<u8>, columns in 0_usize..5) {
            let names: Arc<[String]> = vec![String::new(); columns].into();
            let _ = (read_front("test", &payload), read_name(&payload), read_row(&payload, &names));
        }
    }
}
