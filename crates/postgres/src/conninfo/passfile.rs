//! The password file (manual: "The Password File"): `host:port:database:user:password` lines.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tidemark_types::Secret;

/// What a look into the password file gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The password of the first line that fits.
    Found(Secret),
    /// There is no file, or no line fits.
    NotFound,
    /// The file was not used, as libpq would not use it, and why.
    Ignored(String),
}

/// Whose password is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Host name or address; for a socket in the default directory also `localhost`.
    pub hosts: &'a [&'a str],
    pub port: u16,
    /// Database names, any of which may stand in the line: a replication connection goes by `replication`.
    pub databases: &'a [&'a str],
    pub user: &'a str,
}

/// Looks `wanted` up in the file at `path`. A file that group or others can read is ignored, as libpq does.
pub(crate) fn look_up(path: &Path, wanted: Wanted<'_>) -> Lookup {
    let read = || -> io::Result<Result<String, String>> {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Ok(Err(format!(
                "password file {} is not a plain file",
                path.display()
            )));
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            return Ok(Err(format!(
                "password file {0} is readable by others and therefore ignored; run chmod 0600 {0}",
                path.display()
            )));
        }
        fs::read_to_string(path).map(Ok)
    };
    match read() {
        Ok(Ok(text)) => text
            .lines()
            .find_map(|line| password_of(line, wanted))
            .map_or(Lookup::NotFound, Lookup::Found),
        Ok(Err(reason)) => Lookup::Ignored(reason),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Lookup::NotFound,
        Err(error) => Lookup::Ignored(format!("read password file {}: {error}", path.display())),
    }
}

fn password_of(line: &str, wanted: Wanted<'_>) -> Option<Secret> {
    if line.starts_with('#') {
        return None;
    }
    let (fields, password) = split_fields(line)?;
    let [host, port, database, user] = &fields;
    let port_text = wanted.port.to_string();
    let fits = |field: &str, values: &[&str]| field == "*" || values.contains(&field);
    let all = fits(host, wanted.hosts)
        && fits(port, &[&port_text])
        && fits(database, wanted.databases)
        && fits(user, &[wanted.user]);
    (all && !password.is_empty()).then(|| Secret::new(password))
}

/// Four fields that end at a colon each, and the password; a backslash takes the next character as it is.
fn split_fields(line: &str) -> Option<([String; 4], String)> {
    let mut fields = [const { String::new() }; 4];
    let mut chars = line.chars();
    for field in &mut fields {
        loop {
            match chars.next()? {
                ':' => break,
                '\\' => field.extend(chars.next()),
                c => field.push(c),
            }
        }
    }
    let mut password = String::new();
    while let Some(c) = chars.next() {
        match c {
            // PostgreSQL takes what follows the fifth field's colon, if any, as a comment.
            ':' => break,
            '\\' => password.extend(chars.next()),
            c => password.push(c),
        }
    }
    Some((fields, password))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wanted<'a>() -> Wanted<'a> {
        Wanted {
            hosts: &["h:1"],
            port: 5432,
            databases: &["replication", "db"],
            user: "u",
        }
    }

    #[test]
    fn lines_fit_as_libpq_says() {
        for (line, password) in [
            (r"h\:1:5432:db:u:pw", Some("pw")),
            (r"*:*:*:*:a\:b\\c", Some(r"a:b\c")),
            (r"*:*:replication:u:x", Some("x")),
            ("#*:*:*:*:x", None),
            ("*:5433:*:*:x", None),
            ("*:*:*:other:x", None),
            ("*:*:*:x", None),
            ("*:*:*:*:", None),
        ] {
            assert_eq!(password_of(line, wanted()), password.map(Secret::new), "{line}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgpass");
        assert_eq!(look_up(&path, wanted()), Lookup::NotFound);
        fs::write(&path, "# mine\n*:*:*:*:pw\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(look_up(&path, wanted()), Lookup::Ignored(reason) if reason.contains("chmod 0600")));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(look_up(&path, wanted()), Lookup::Found(Secret::new("pw")));
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(line in ".*") {
            let _ = password_of(&line, wanted());
        }
    }
}
