//! Row events and the table maps before them: which table, what is done to it. Rows are not looked into.
//!
//! Layouts: `Table_map_event` and `Rows_event` in MySQL's `rows_event.h`, the same in MariaDB's `sql/log_event.h`.

use std::borrow::Cow;

use super::event::EventType;
use crate::bytes::ReadMysql;
use tidemark_types::ByteReader;

/// Which table a number means, until the end of the statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableMap<'a> {
    /// The number.
    pub table_id: u64,
    /// The table's database; bytes that are not UTF-8 are replaced, here and in the name.
    pub database: Cow<'a, str>,
    /// The table's name.
    pub table: Cow<'a, str>,
}

impl<'a> TableMap<'a> {
    pub(super) fn read(body: &'a [u8], post_header_bytes: usize) -> Option<TableMap<'a>> {
        let mut reader = ByteReader::new(body);
        let table_id = read_head(&mut reader, post_header_bytes)?.0;
        let mut name = || {
            let bytes = reader.length_encoded_bytes()?;
            // Each ends with a zero byte that its length does not count.
            (reader.u8()? == 0).then(|| String::from_utf8_lossy(bytes))
        };
        Some(TableMap {
            table_id,
            database: name()?,
            table: name()?,
        })
    }
}

/// Rows of one table were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// The table's number.
    pub table_id: u64,
    /// What was done to them.
    pub change: RowsChange,
    /// The statement ends with this event (`STMT_END_F`).
    pub ends_statement: bool,
}

/// What was done to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowsChange {
    /// Inserted.
    Insert,
    /// Updated.
    Update,
    /// Deleted.
    Delete,
}

impl RowsChange {
    /// `None` when it is no row event.
    pub(super) fn of(kind: EventType) -> Option<RowsChange> {
        Some(match kind {
            EventType::WRITE_ROWS_V1
            | EventType::WRITE_ROWS
            | EventType::WRITE_ROWS_COMPRESSED_V1
            | EventType::WRITE_ROWS_COMPRESSED => RowsChange::Insert,
            EventType::UPDATE_ROWS_V1
            | EventType::UPDATE_ROWS
            | EventType::PARTIAL_UPDATE_ROWS
            | EventType::UPDATE_ROWS_COMPRESSED_V1
            | EventType::UPDATE_ROWS_COMPRESSED => RowsChange::Update,
            EventType::DELETE_ROWS_V1
            | EventType::DELETE_ROWS
            | EventType::DELETE_ROWS_COMPRESSED_V1
            | EventType::DELETE_ROWS_COMPRESSED => RowsChange::Delete,
            _ => return None,
        })
    }
}

impl Rows {
    pub(super) fn read(body: &[u8], post_header_bytes: usize, change: RowsChange) -> Option<Rows> {
        const STATEMENT_END: u16 = 0x1;
        let (table_id, flags) = read_head(&mut ByteReader::new(body), post_header_bytes)?;
        Some(Rows {
            table_id,
            change,
            ends_statement: flags & STATEMENT_END != 0,
        })
    }
}

/// Table number and flags. A post-header of six bytes has a number of four (`ROWS_HEADER_LEN_V1` and before).
fn read_head(reader: &mut ByteReader<'_>, post_header_bytes: usize) -> Option<(u64, u16)> {
    let mut header = ByteReader::new(reader.take(post_header_bytes)?);
    let table_id = header.uint(if post_header_bytes == 6 { 4 } else { 6 })?;
    Some((table_id, header.u16()?))
}
