//! How a column's values are read, and written as literals.

use crate::client::{Row, quote_name};

/// Character sets that map to utf8mb4 and back without loss.
const FAITHFUL: [&str; 5] = ["utf8mb4", "utf8mb3", "utf8", "ascii", "latin1"];

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name, quoted.
    pub name: String,
    /// What is selected.
    pub expression: String,
    shape: Shape,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    /// As it comes: digits.
    Number,
    /// In quotes.
    Text,
    /// In hexadecimal.
    Binary,
    /// In hexadecimal, behind the name of its character set.
    Encoded(String),
}

impl Column {
    /// From a row of `information_schema.columns`: `column_name`, `data_type`, `character_set_name`. `None` when the row lacks
    /// one of them.
    pub fn read(row: &Row) -> Option<Column> {
        let name = quote_name(row.text("column_name")?);
        let data_type = row.text("data_type")?.to_ascii_lowercase();
        let (shape, expression) = match &*data_type {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "year" => {
                (Shape::Number, None)
            }
            // Text of a FLOAT has six digits only (`my_gcvt` in the servers' `dtoa.cc`).
            "float" => (Shape::Text, Some(format!("CAST({name} AS DOUBLE)"))),
            "bit" | "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "geometry"
            | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon"
            | "geometrycollection" | "geomcollection" | "vector" => (Shape::Binary, None),
            // In quotes a DOUBLE keeps the sign of zero; dates, JSON, UUID and addresses are text of their own.
            _ => match row.text("character_set_name") {
                Some(set) if !FAITHFUL.contains(&set) => (
                    Shape::Encoded(set.to_owned()),
                    Some(format!("CAST({name} AS BINARY)")),
                ),
                _ => (Shape::Text, None),
            },
        };
        Some(Column {
            expression: expression.unwrap_or_else(|| name.clone()),
            name,
            shape,
        })
    }

    /// Appends a value as a literal.
    pub fn write(&self, value: Option<&[u8]>, out: &mut Vec<u8>) {
        match (value, &self.shape) {
            (None, _) => out.extend_from_slice(b"NULL"),
            (Some(digits), Shape::Number) => out.extend_from_slice(digits),
            (Some(text), Shape::Text) => write_quoted(text, out),
            (Some([]), _) => out.extend_from_slice(b"''"),
            (Some(bytes), Shape::Binary) => write_hex(bytes, out),
            (Some(bytes), Shape::Encoded(set)) => {
                out.extend_from_slice(format!("_{set} ").as_bytes());
                write_hex(bytes, out);
            }
        }
    }
}

/// In quotes, on one line: no statement of rows holds a line break.
fn write_quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'\'');
    for byte in text {
        match byte {
            0 => out.extend_from_slice(b"\\0"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0x1A => out.extend_from_slice(b"\\Z"),
            b'\'' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            byte => out.push(*byte),
        }
    }
    out.push(b'\'');
}

fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |number: u8| DIGITS.get(usize::from(number)).copied().unwrap_or_default();
    out.extend_from_slice(b"0x");
    out.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(shape: Shape, value: Option<&[u8]>) -> String {
        let column = Column {
            name: "`c`".to_owned(),
            expression: "`c`".to_owned(),
            shape,
        };
        let mut out = Vec::new();
        column.write(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn literals_stand_on_one_line_and_hold_every_byte() {
        assert_eq!(written(Shape::Number, Some(b"-12.50")), "-12.50");
        assert_eq!(written(Shape::Number, None), "NULL");
        assert_eq!(
            written(Shape::Text, Some(b"it's\n\\ \0\r\x1a")),
            r"'it\'s\n\\ \0\r\Z'"
        );
        assert_eq!(written(Shape::Binary, Some(b"\x00\xFFa")), "0x00FF61");
        assert_eq!(written(Shape::Binary, Some(b"")), "''");
        assert_eq!(
            written(Shape::Encoded("sjis".to_owned()), Some(b"\x83")),
            "_sjis 0x83"
        );
    }
}
