//! The text form of PostgreSQL's configuration files: one `name = 'value'` per line.
//!
//! Grammar: `guc-file.l` of the server. Only what is needed to write settings and to find the name on a line.

use super::RestoreError;

/// `name = 'value'`, with the quoting the server undoes.
///
/// # Errors
/// [`RestoreError::Setting`] for a value with a line end or a zero byte, which a line cannot hold.
pub(super) fn setting_line(name: &str, value: &str) -> Result<String, RestoreError> {
    if value.contains(['\n', '\r', '\0']) {
        return Err(RestoreError::Setting {
            name: name.to_owned(),
        });
    }
    let quoted = value.replace('\\', "\\\\").replace('\'', "''");
    Ok(format!("{name} = '{quoted}'\n"))
}

/// The name of the setting that a line sets, in lower case; `None` for blank lines and comments.
pub(super) fn setting_name(line: &str) -> Option<String> {
    let line = line.trim_start();
    let end = line.find(|char: char| !(char.is_ascii_alphanumeric() || matches!(char, '_' | '$' | '.')));
    let name = line
        .get(..end.unwrap_or(line.len()))
        .filter(|name| !name.is_empty())?;
    Some(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_as_the_server_unquotes_them() {
        assert_eq!(setting_line("a", r"it's C:\x").unwrap(), "a = 'it''s C:\\\\x'\n");
        assert!(setting_line("a", "x\ny").is_err());
    }

    #[test]
    fn names_are_found_with_and_without_an_equals_sign() {
        assert_eq!(setting_name("  Work_Mem='1MB'").as_deref(), Some("work_mem"));
        assert_eq!(setting_name("work_mem 1MB").as_deref(), Some("work_mem"));
        assert_eq!(setting_name("plpgsql.x = 1").as_deref(), Some("plpgsql.x"));
        assert_eq!(setting_name("# work_mem = 1"), None);
        assert_eq!(setting_name(""), None);
    }
}
