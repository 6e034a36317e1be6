//! The two spellings of connection settings (manual: "Connection Strings"): `postgresql://` URLs and `key=value`
//! lists, read into plain pairs. What the keys mean is not known here.

use super::ConnInfoError;

/// Key and value as written, in order; a later pair overrides an earlier one.
pub(super) type Pairs = Vec<(String, String)>;

/// Reads either spelling.
pub(super) fn parse(text: &str) -> Result<Pairs, ConnInfoError> {
    let url = ["postgresql://", "postgres://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    match url {
        Some(rest) => parse_url(rest),
        None => parse_key_values(text),
    }
}

fn syntax(problem: impl Into<String>) -> ConnInfoError {
    ConnInfoError::Syntax {
        problem: problem.into(),
    }
}

/// `[user[:password]@][host[:port],...][/dbname][?key=value&...]`, everything percent-encoded.
fn parse_url(rest: &str) -> Result<Pairs, ConnInfoError> {
    let mut pairs = Pairs::new();
    let (rest, query) = rest
        .split_once('?')
        .map_or((rest, None), |(head, query)| (head, Some(query)));
    let (authority, dbname) = rest
        .split_once('/')
        .map_or((rest, None), |(head, name)| (head, Some(name)));
    let hosts = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => {
            let (user, password) = credentials
                .split_once(':')
                .map_or((credentials, None), |(user, word)| (user, Some(word)));
            push_decoded(&mut pairs, "user", user)?;
            if let Some(password) = password {
                push_decoded(&mut pairs, "password", password)?;
            }
            hosts
        }
        None => authority,
    };
    push_hosts(&mut pairs, hosts)?;
    if let Some(name) = dbname {
        push_decoded(&mut pairs, "dbname", name)?;
    }
    for part in query
        .unwrap_or_default()
        .split('&')
        .filter(|part| !part.is_empty())
    {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| syntax(format!("no \"=\" after \"{part}\" in the URL")))?;
        // JDBC's spelling, which libpq takes too.
        match (percent_decode(key)?.as_str(), percent_decode(value)?) {
            ("ssl", value) if value == "true" => pairs.push(("sslmode".to_owned(), "require".to_owned())),
            (key, value) => pairs.push((key.to_owned(), value)),
        }
    }
    Ok(pairs)
}

/// An empty component says nothing, as in libpq: the default applies.
fn push_decoded(pairs: &mut Pairs, key: &str, value: &str) -> Result<(), ConnInfoError> {
    if !value.is_empty() {
        pairs.push((key.to_owned(), percent_decode(value)?));
    }
    Ok(())
}

fn push_hosts(pairs: &mut Pairs, text: &str) -> Result<(), ConnInfoError> {
    if text.is_empty() {
        return Ok(());
    }
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for item in text.split(',') {
        let (host, port) = split_host_port(item)?;
        let host = percent_decode(host)?;
        if host.contains(',') {
            return Err(syntax("a host name holds a comma"));
        }
        hosts.push(host);
        ports.push(percent_decode(port)?);
    }
    if hosts.iter().any(|host| !host.is_empty()) {
        pairs.push(("host".to_owned(), hosts.join(",")));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        pairs.push(("port".to_owned(), ports.join(",")));
    }
    Ok(())
}

fn split_host_port(item: &str) -> Result<(&str, &str), ConnInfoError> {
    let Some(bracketed) = item.strip_prefix('[') else {
        return Ok(item.split_once(':').unwrap_or((item, "")));
    };
    let (host, rest) = bracketed
        .split_once(']')
        .ok_or_else(|| syntax(format!("no \"]\" after the IPv6 address in \"{item}\"")))?;
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if rest.is_empty() => Ok((host, "")),
        None => Err(syntax(format!("unexpected \"{rest}\" after the IPv6 address"))),
    }
}

/// Resolves `%XX`. A stray percent sign, a NUL and bytes that are not UTF-8 are refused.
fn percent_decode(text: &str) -> Result<String, ConnInfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
        let value = digit()
            .zip(digit())
            .and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        match value {
            Some(value) if value != 0 => bytes.push(value),
            _ => {
                return Err(syntax(
                    "a \"%\" is not followed by two hexadecimal digits (write %25 for the sign itself)",
                ));
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| syntax("percent-encoded text is not UTF-8"))
}

/// `key = value key2 = 'quoted \' value'`.
fn parse_key_values(text: &str) -> Result<Pairs, ConnInfoError> {
    let mut pairs = Pairs::new();
    let mut chars = text.chars().peekable();
    let skip_spaces = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
    };
    loop {
        skip_spaces(&mut chars);
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| !c.is_whitespace() && *c != '=') {
            key.push(c);
        }
        skip_spaces(&mut chars);
        if chars.next() != Some('=') {
            // The word may be anything, a password too: it is not repeated.
            return Err(syntax(
                "a word without \"=\" (expected key=value pairs or a postgresql:// URL)",
            ));
        }
        skip_spaces(&mut chars);
        let value = parse_value(&mut chars)?;
        pairs.push((key, value));
    }
}

fn parse_value(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, ConnInfoError> {
    let quoted = chars.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    while let Some(c) = chars.next_if(|c| quoted || !c.is_whitespace()) {
        match c {
            '\'' if quoted => return Ok(value),
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(syntax("a quoted value has no closing quote"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap()
    }

    fn owned(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn urls_as_libpq_reads_them() {
        assert_eq!(
            pairs("postgresql://u%40x:p%3aw@h1:1,[::1]:2,h3/db?sslmode=require&application_name=a%20b"),
            owned(&[
                ("user", "u@x"),
                ("password", "p:w"),
                ("host", "h1,::1,h3"),
                ("port", "1,2,"),
                ("dbname", "db"),
                ("sslmode", "require"),
                ("application_name", "a b"),
            ])
        );
        assert_eq!(
            pairs("postgresql://%2Frun%2Fpg:5/x"),
            owned(&[("host", "/run/pg"), ("port", "5"), ("dbname", "x")])
        );
        assert_eq!(
            pairs("postgresql:///?host=/run/pg"),
            owned(&[("host", "/run/pg")])
        );
        assert_eq!(pairs("postgres://?ssl=true"), owned(&[("sslmode", "require")]));
        assert_eq!(pairs("postgresql://"), owned(&[]));
    }

    #[test]
    fn key_value_lists_as_libpq_reads_them() {
        assert_eq!(
            pairs(r"host = h1 password='a \'b\\ c' dbname=x\ y user="),
            owned(&[
                ("host", "h1"),
                ("password", r"a 'b\ c"),
                ("dbname", "x y"),
                ("user", "")
            ])
        );
    }

    #[test]
    fn broken_text_is_refused_without_repeating_secrets() {
        for text in [
            "postgresql://h%zz/",
            "postgresql://[::1/",
            "postgresql://h?x",
            "hunter2",
            "a='b",
            "postgresql://%00",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = parse(&text);
            let _ = parse(&format!("postgresql://{text}"));
        }

        #[test]
        fn quoting_round_trips(value in ".*") {
            let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
            prop_assert_eq!(pairs(&format!("password='{quoted}'")), owned(&[("password", &value)]));
        }
    }
}
