//! Statements: QUERY events and what they mean for transactions, XA identifiers.
//!
//! Layout: `Query_event` in MySQL's `statement_events.h`, `Query_log_event` in MariaDB's `sql/log_event.h`; compressed ones:
//! `query_event_uncompress` and `binlog_buf_uncompress` in MariaDB's `sql/log_event.cc`.

use std::borrow::Cow;
use std::fmt;

use tidemark_types::ByteReader;

/// A statement. Its text is raw bytes in the character set of the session, most often UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query<'a> {
    /// The connection that executed it.
    pub thread_id: u32,
    /// Seconds from the header's timestamp to when it was logged.
    pub exec_seconds: u32,
    /// The error that it ended with on its server, else zero: a statement on tables without transactions that failed
    /// in the middle is logged with one.
    pub error_code: u16,
    /// The default database; empty when there was none.
    pub database: Cow<'a, str>,
    /// The statement, or the beginning of a long one.
    pub text: Cow<'a, [u8]>,
}

/// Of a compressed statement no more is decompressed.
const TEXT_BYTES_MAX: usize = 1 << 20;

impl<'a> Query<'a> {
    /// Reads the event from its body, or from the beginning of it.
    pub(super) fn read(body: &'a [u8], post_header_bytes: usize, is_compressed: bool) -> Option<Query<'a>> {
        let mut reader = ByteReader::new(body);
        let mut header = ByteReader::new(reader.take(post_header_bytes)?);
        let thread_id = header.u32()?;
        let exec_seconds = header.u32()?;
        let database_bytes = header.u8()?;
        let error_code = header.u16()?;
        let status_bytes = header.u16()?;
        reader.take(status_bytes.into())?;
        let database = reader.take(database_bytes.into())?;
        // A zero byte ends the database's name.
        reader.u8()?;
        let text = if is_compressed {
            Cow::Owned(decompress(reader.rest())?)
        } else {
            Cow::Borrowed(reader.rest())
        };
        Some(Query {
            thread_id,
            exec_seconds,
            error_code,
            database: String::from_utf8_lossy(database),
            text,
        })
    }

    /// What it means for the transaction that it stands in.
    ///
    /// `None`: an XA statement whose identifier cannot be read; servers write them in one form only.
    pub fn kind(&self) -> Option<StatementKind> {
        StatementKind::of(&self.text)
    }
}

/// One byte: 0x80, the algorithm (0 is zlib) in bits 4 to 6, how many bytes of length follow; then the stream.
fn decompress(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut reader = ByteReader::new(bytes);
    let head = reader.u8()?;
    if head & 0xF0 != 0x80 {
        return None;
    }
    reader.take(usize::from(head & 0x07))?;
    match miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(reader.rest(), TEXT_BYTES_MAX) {
        Ok(text) => Some(text),
        // The beginning of a long one will do.
        Err(error) => Some(error.output).filter(|text| text.len() >= TEXT_BYTES_MAX),
    }
}

/// What a statement means for the transaction that it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatementKind {
    /// `BEGIN`.
    Begin,
    /// `COMMIT`: the end of a transaction that XID does not end, as no engine with transactions takes part.
    Commit,
    /// `ROLLBACK`: the same, of one that was rolled back after it had changed what cannot be.
    Rollback,
    /// `XA START`: as BEGIN.
    XaStart,
    /// `XA COMMIT` of a transaction that was prepared earlier.
    XaCommit(XaId),
    /// `XA ROLLBACK` of a transaction that was prepared earlier.
    XaRollback(XaId),
    /// A statement that changes the schema.
    Ddl,
    /// Any other.
    Other,
}

impl StatementKind {
    /// The servers write the statements of transaction control themselves, in one form each
    /// (`Query_log_event::ends_group`, `starts_group` in MySQL's `sql/log_event.h`).
    fn of(text: &[u8]) -> Option<StatementKind> {
        let begins_with = |words: &str| {
            text.split_at_checked(words.len())
                .is_some_and(|(begin, _)| begin.eq_ignore_ascii_case(words.as_bytes()))
        };
        let rest = |words: &str| text.get(words.len()..).unwrap_or_default();
        Some(if text == b"BEGIN" {
            StatementKind::Begin
        } else if text.eq_ignore_ascii_case(b"COMMIT") {
            StatementKind::Commit
        } else if begins_with("ROLLBACK") && !begins_with("ROLLBACK TO ") {
            StatementKind::Rollback
        } else if begins_with("XA START ") {
            StatementKind::XaStart
        } else if begins_with("XA COMMIT ") {
            StatementKind::XaCommit(XaId::parse(rest("XA COMMIT "))?)
        } else if begins_with("XA ROLLBACK ") {
            StatementKind::XaRollback(XaId::parse(rest("XA ROLLBACK "))?)
        } else if is_ddl(text) {
            StatementKind::Ddl
        } else {
            StatementKind::Other
        })
    }
}

fn is_ddl(text: &[u8]) -> bool {
    const VERBS: [&str; 5] = ["CREATE", "ALTER", "DROP", "TRUNCATE", "RENAME"];
    let text = behind_comments(text);
    VERBS.iter().any(|verb| {
        text.split_at_checked(verb.len()).is_some_and(|(begin, rest)| {
            let is_word = rest
                .first()
                .is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
            is_word && begin.eq_ignore_ascii_case(verb.as_bytes())
        })
    })
}

/// The statement without the white space and comments in front of it. What stands in an executable comment (`/*!50003`,
/// `/*M!100600`) is part of the statement.
fn behind_comments(text: &[u8]) -> &[u8] {
    let mut text = text.trim_ascii_start();
    loop {
        let behind = |mark: &[u8]| {
            let at = text.windows(mark.len()).position(|window| window == mark)?;
            text.get(at + mark.len()..)
        };
        let rest = if let Some(inner) = text.strip_prefix(b"/*!").or_else(|| text.strip_prefix(b"/*M!")) {
            let digits = inner.iter().take_while(|byte| byte.is_ascii_digit()).count();
            inner.get(digits..)
        } else if text.starts_with(b"/*") {
            behind(b"*/")
        } else if text.starts_with(b"--") || text.starts_with(b"#") {
            behind(b"\n")
        } else {
            return text;
        };
        text = rest.unwrap_or_default().trim_ascii_start();
    }
}

/// The identifier of an XA transaction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XaId {
    /// Its format, 1 unless the client says otherwise.
    pub format: u32,
    /// The global transaction, up to 64 bytes.
    pub global: Box<[u8]>,
    /// The branch, up to 64 bytes.
    pub branch: Box<[u8]>,
}

impl XaId {
    /// Longest global transaction and longest branch (`MAXGTRIDSIZE`, `MAXBQUALSIZE`).
    const PART_BYTES_MAX: usize = 64;

    /// As an XA_PREPARE event holds it: format and lengths of four bytes (`XA_prepare_event` in MySQL's
    /// `control_events.cpp`; the same in MariaDB).
    pub(super) fn read_long(reader: &mut ByteReader<'_>) -> Option<XaId> {
        let format = reader.u32()?;
        let (global_bytes, branch_bytes) = (reader.u32()?, reader.u32()?);
        XaId::read_parts(
            reader,
            format,
            usize::try_from(global_bytes).ok()?,
            usize::try_from(branch_bytes).ok()?,
        )
    }

    /// As a MariaDB GTID event holds it: lengths of one byte.
    pub(super) fn read_short(reader: &mut ByteReader<'_>) -> Option<XaId> {
        let format = reader.u32()?;
        let (global_bytes, branch_bytes) = (reader.u8()?, reader.u8()?);
        XaId::read_parts(reader, format, global_bytes.into(), branch_bytes.into())
    }

    fn read_parts(
        reader: &mut ByteReader<'_>,
        format: u32,
        global_bytes: usize,
        branch_bytes: usize,
    ) -> Option<XaId> {
        if global_bytes > XaId::PART_BYTES_MAX || branch_bytes > XaId::PART_BYTES_MAX {
            return None;
        }
        Some(XaId {
            format,
            global: reader.take(global_bytes)?.into(),
            branch: reader.take(branch_bytes)?.into(),
        })
    }

    /// As servers write it into statements: `X'7831',X'',1`.
    fn parse(text: &[u8]) -> Option<XaId> {
        let text = std::str::from_utf8(text).ok()?;
        let mut parts = text.trim().split(',');
        let mut part = || {
            let digits = parts.next()?.strip_prefix("X'")?.strip_suffix('\'')?;
            let bytes = unhex(digits)?;
            (bytes.len() <= XaId::PART_BYTES_MAX).then_some(bytes)
        };
        let (global, branch) = (part()?, part()?);
        let format = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(XaId {
            format,
            global: global.into(),
            branch: branch.into(),
        })
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok();
    rest.is_empty()
        .then(|| pairs.iter().map(byte).collect())
        .flatten()
}

/// As `XA RECOVER CONVERT XID` and the binlog have it, fit to be put behind `XA COMMIT` or `XA ROLLBACK`.
impl fmt::Display for XaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.global, &self.branch] {
            f.write_str("X'")?;
            part.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            f.write_str("',")?;
        }
        write!(f, "{}", self.format)
    }
}

impl fmt::Debug for XaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Option<StatementKind> {
        StatementKind::of(text.as_bytes())
    }

    #[test]
    fn transaction_control_is_told_apart() {
        assert_eq!(kind("BEGIN"), Some(StatementKind::Begin));
        assert_eq!(kind("COMMIT"), Some(StatementKind::Commit));
        assert_eq!(kind("ROLLBACK"), Some(StatementKind::Rollback));
        assert_eq!(kind("ROLLBACK TO `s`"), Some(StatementKind::Other));
        assert_eq!(kind("SAVEPOINT `s`"), Some(StatementKind::Other));
        assert_eq!(kind("XA START X'78',X'',1"), Some(StatementKind::XaStart));
        assert_eq!(kind("BEGIN NOT ATOMIC SELECT 1; END"), Some(StatementKind::Other));
    }

    #[test]
    fn xa_identifiers_are_read_as_they_are_printed() {
        let id = XaId {
            format: 7,
            global: (*b"x2").into(),
            branch: (*b"branch").into(),
        };
        assert_eq!(id.to_string(), "X'7832',X'6272616e6368',7");
        assert_eq!(
            kind(&format!("XA COMMIT {id}")),
            Some(StatementKind::XaCommit(id.clone()))
        );
        assert_eq!(
            kind(&format!("XA ROLLBACK {id}")),
            Some(StatementKind::XaRollback(id))
        );
        for text in [
            "",
            "X'7'",
            "X'7832',X'',",
            "X'78zz',X'',1",
            "X'78',X'',1,2",
            "'a','b',1",
        ] {
            assert_eq!(kind(&format!("XA COMMIT {text}")), None, "{text}");
        }
    }

    #[test]
    fn ddl_is_seen_behind_comments() {
        for text in [
            "CREATE TABLE t (i INT)",
            "  /* app */ -- note\n# note\nalter table t add j int",
            "/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`localhost`*/ TRIGGER t",
            "/*M!100600 DROP TABLE t */",
            "TRUNCATE t",
        ] {
            assert_eq!(kind(text), Some(StatementKind::Ddl), "{text}");
        }
        for text in [
            "INSERT INTO t VALUES ('CREATE TABLE')",
            "CREATED",
            "/* CREATE TABLE",
            "",
            "UPDATE t SET i = 1",
        ] {
            assert_eq!(kind(text), Some(StatementKind::Other), "{text}");
        }
    }
}
