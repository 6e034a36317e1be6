//! Servers' URLs, with the environment's values in them.

use tidemark_mysql::client::ConnectOptions;
use tidemark_postgres::{ConnInfo, Environment};
use tidemark_types::Secret;

use super::values::Parsed;

/// Never repeats the value: it may hold a password.
pub fn postgresql_url(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Parsed<ConnInfo> {
    if !(text.starts_with("postgresql://") || text.starts_with("postgres://")) {
        return Err("expected a URL that begins with postgresql://".to_owned());
    }
    let url = expand(text, environment)?;
    ConnInfo::parse(&url, &Environment::of_process()).map_err(|error| error.to_string())
}

/// Never repeats the value, either. The environment's `MYSQL_PWD` is the password, as for the vendors' clients.
pub fn mysql_url(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Parsed<ConnectOptions> {
    if !text.starts_with("mysql://") {
        return Err("expected a URL that begins with mysql://".to_owned());
    }
    let options = ConnectOptions::parse(&expand(text, environment)?).map_err(|error| error.to_string())?;
    Ok(match environment("MYSQL_PWD") {
        Some(password) => options.with_password(Secret::new(password)),
        None => options,
    })
}

/// Puts the environment's values in for `${NAME}`, percent-encoded, as a URL wants them.
fn expand(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Parsed<String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) = after
            .split_once('}')
            .ok_or_else(|| "expected a closing brace after ${".to_owned())?;
        let value = environment(name).ok_or_else(|| format!("the environment variable {name} is not set"))?;
        expanded.push_str(before);
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                expanded.push(char::from(byte));
            } else {
                expanded.push_str(&format!("%{byte:02X}"));
            }
        }
        rest = tail;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Whether a password stands in the URL itself, not as a reference to the environment.
pub fn holds_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (address, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let in_address = address
        .rsplit_once('@')
        .and_then(|(user, _)| user.split_once(':'))
        .map(|(_, password)| password);
    let in_parameters = parameters
        .split('&')
        .find_map(|parameter| parameter.strip_prefix("password="));
    let literal = |password: &str| !password.is_empty() && !password.starts_with("${");
    in_address.is_some_and(literal) || in_parameters.is_some_and(literal)
}
