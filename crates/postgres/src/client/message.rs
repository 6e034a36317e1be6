//! Messages from the server (manual: "Message Formats"), decoded without trusting a byte of them.
//!
//! Own code because the protocol crate knows no CopyBothResponse, on which replication rests.

use bytes::{Buf, Bytes};

use crate::error::ServerError;

/// One decoded message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Authentication(Authentication),
    /// A setting the server reports: name and value.
    ParameterStatus(String, String),
    /// Process number and secret key, for cancel requests.
    BackendKeyData(Bytes),
    ReadyForQuery,
    /// Column names.
    RowDescription(Vec<String>),
    DataRow(Row),
    /// The command tag.
    CommandComplete(String),
    CopyOut,
    CopyBoth,
    CopyData(Bytes),
    CopyDone,
    Error(Box<ServerError>),
    Notice(Box<ServerError>),
    /// Anything that needs no answer and tells us nothing, by its tag.
    Other(u8),
}

impl Message {
    /// The kind, for "unexpected ..." errors.
    pub(crate) fn kind(&self) -> String {
        match self {
            Message::Other(tag) => format!("a message of type '{}'", char::from(*tag).escape_default()),
            Message::Authentication(_) => "an authentication request".to_owned(),
            Message::ParameterStatus(..) => "ParameterStatus".to_owned(),
            Message::BackendKeyData(_) => "BackendKeyData".to_owned(),
            Message::ReadyForQuery => "ReadyForQuery".to_owned(),
            Message::RowDescription(_) => "RowDescription".to_owned(),
            Message::DataRow(_) => "DataRow".to_owned(),
            Message::CommandComplete(tag) => format!("CommandComplete \"{tag}\""),
            Message::CopyOut => "CopyOutResponse".to_owned(),
            Message::CopyBoth => "CopyBothResponse".to_owned(),
            Message::CopyData(_) => "CopyData".to_owned(),
            Message::CopyDone => "CopyDone".to_owned(),
            Message::Error(_) => "ErrorResponse".to_owned(),
            Message::Notice(_) => "NoticeResponse".to_owned(),
        }
    }
}

/// What the server wants to see before it lets us in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Authentication {
    Ok,
    CleartextPassword,
    Md5Password {
        salt: [u8; 4],
    },
    /// The mechanisms it offers.
    Sasl(Vec<String>),
    SaslContinue(Bytes),
    SaslFinal(Bytes),
    /// Kerberos, GSSAPI, SSPI, ...: by number.
    Unsupported(i32),
}

/// One row in text form; `None` is NULL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Row(pub(crate) Vec<Option<Bytes>>);

impl Row {
    /// A column as text; `None` where it is NULL, absent or not UTF-8.
    pub(crate) fn text(&self, column: usize) -> Option<&str> {
        std::str::from_utf8(self.0.get(column)?.as_ref()?).ok()
    }

    /// A column parsed from its text form.
    pub(crate) fn parse<T: std::str::FromStr>(&self, column: usize) -> Option<T> {
        self.text(column)?.parse().ok()
    }
}

/// A message that is shorter than it says, or has text that is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// A cursor that fails instead of panicking.
pub(crate) struct Reader(pub(crate) Bytes);

impl Reader {
    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.0.try_get_u8().map_err(|_| Malformed("message ends early"))
    }

    pub(crate) fn i16(&mut self) -> Result<i16, Malformed> {
        self.0.try_get_i16().map_err(|_| Malformed("message ends early"))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        self.0.try_get_i32().map_err(|_| Malformed("message ends early"))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        self.0.try_get_i64().map_err(|_| Malformed("message ends early"))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.0.try_get_u64().map_err(|_| Malformed("message ends early"))
    }

    /// Text up to a NUL. Bytes that are not UTF-8 are replaced: early errors come in the server's own encoding.
    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(Malformed("text without an end"))?;
        let text = String::from_utf8_lossy(&self.0.split_to(end)).into_owned();
        self.0.advance(1);
        Ok(text)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if length > self.0.len() {
            return Err(Malformed("message ends early"));
        }
        Ok(self.0.split_to(length))
    }

    pub(crate) fn rest(self) -> Bytes {
        self.0
    }
}

/// Decodes the body of a message of type `tag`.
pub(crate) fn decode(tag: u8, body: Bytes) -> Result<Message, Malformed> {
    let mut body = Reader(body);
    Ok(match tag {
        b'd' => Message::CopyData(body.rest()),
        b'R' => Message::Authentication(authentication(body)?),
        b'S' => Message::ParameterStatus(body.text()?, body.text()?),
        b'K' => Message::BackendKeyData(body.rest()),
        b'Z' => Message::ReadyForQuery,
        b'T' => Message::RowDescription(column_names(body)?),
        b'D' => Message::DataRow(row(body)?),
        b'C' => Message::CommandComplete(body.text()?),
        b'H' => Message::CopyOut,
        b'W' => Message::CopyBoth,
        b'c' => Message::CopyDone,
        b'E' => Message::Error(Box::new(server_error(body)?)),
        b'N' => Message::Notice(Box::new(server_error(body)?)),
        tag => Message::Other(tag),
    })
}

fn authentication(mut body: Reader) -> Result<Authentication, Malformed> {
    Ok(match body.i32()? {
        0 => Authentication::Ok,
        3 => Authentication::CleartextPassword,
        5 => Authentication::Md5Password {
            salt: [body.u8()?, body.u8()?, body.u8()?, body.u8()?],
        },
        10 => {
            let mut mechanisms = Vec::new();
            loop {
                match body.text()? {
                    name if name.is_empty() => break,
                    name => mechanisms.push(name),
                }
            }
            Authentication::Sasl(mechanisms)
        }
        11 => Authentication::SaslContinue(body.rest()),
        12 => Authentication::SaslFinal(body.rest()),
        other => Authentication::Unsupported(other),
    })
}

fn column_names(mut body: Reader) -> Result<Vec<String>, Malformed> {
    let count = body.i16()?;
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(body.text()?);
        // Table, column number, type, type size, type modifier, format.
        body.take(4 + 2 + 4 + 2 + 4 + 2)?;
    }
    Ok(names)
}

fn row(mut body: Reader) -> Result<Row, Malformed> {
    let count = body.i16()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let length = body.i32()?;
        columns.push(match usize::try_from(length) {
            Ok(length) => Some(body.take(length)?),
            Err(_) => None,
        });
    }
    Ok(Row(columns))
}

fn server_error(mut body: Reader) -> Result<ServerError, Malformed> {
    let mut error = ServerError::default();
    loop {
        let field = body.u8()?;
        if field == 0 {
            return Ok(error);
        }
        let value = body.text()?;
        match field {
            // 'V' is the severity that is never translated; 'S' comes first and serves where there is no 'V'.
            b'S' | b'V' => error.severity = value,
            b'C' => error.sqlstate = value,
            b'M' => error.message = value,
            b'D' => error.detail = Some(value),
            b'H' => error.hint = Some(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_error_keeps_its_fields() {
        let body = b"SFEHLER\0VERROR\0C58P01\0Mgone\0Dwhy\0Hdo\0Fxlog.c\0\0";
        let Ok(Message::Error(error)) = decode(b'E', Bytes::from_static(body)) else {
            panic!("no error")
        };
        assert_eq!(error.to_string(), "gone (SQLSTATE 58P01): why [hint: do]");
        assert_eq!(error.severity, "ERROR");
    }

    #[test]
    fn a_row_keeps_nulls_apart_from_empty_text() {
        let body = b"\0\x03\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0";
        let Ok(Message::DataRow(row)) = decode(b'D', Bytes::from_static(body)) else {
            panic!("no row")
        };
        assert_eq!(
            (row.text(0), row.text(1), row.text(2), row.text(3)),
            (Some("ab"), None, Some(""), None)
        );
    }

    #[test]
    fn a_length_past_the_end_is_malformed() {
        assert!(decode(b'D', Bytes::from_static(b"\0\x01\x7f\xff\xff\xff")).is_err());
        assert!(decode(b'E', Bytes::from_static(b"Mno end")).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(tag: u8, body: Vec<u8>) {
            let _ = decode(tag, Bytes::from(body));
        }

        #[test]
        fn known_tags_with_arbitrary_bytes_never_panic(
            tag in prop::sample::select(b"RSKZTDCHWcdEN".to_vec()),
            body: Vec<u8>,
        ) {
            if let Ok(message) = decode(tag, Bytes::from(body)) {
                prop_assert!(!message.kind().is_empty());
            }
        }
    }
}
