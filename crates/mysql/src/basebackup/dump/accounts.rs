//! Accounts, roles and what they may do.

use super::super::BaseBackupError;
use super::catalog::{Catalog, text};
use super::script::Script;
use crate::binlog::Flavor;
use crate::client::{Row, Sql, quote};
use crate::error::MysqlError;

/// Accounts that every server has, with secrets that nobody knows.
const OWN_ACCOUNTS: &str = "('mysql.infoschema', 'mysql.session', 'mysql.sys', 'mariadb.sys', 'PUBLIC', '')";
const PATH: &str = "90-accounts.sql";

/// An account or role.
struct Account {
    /// Quoted, with its host where it has one.
    name: String,
    is_role: bool,
    /// MariaDB: the role that is in force after a login, quoted.
    default_role: Option<String>,
}

/// Adds them to the catalog; notes that they are missing when the user may not see them.
pub async fn read(sql: &mut Sql, catalog: &mut Catalog) -> Result<(), BaseBackupError> {
    let script = match sql.flavor() {
        Flavor::MySql => mysql(sql, &mut catalog.missing).await,
        Flavor::MariaDb => mariadb(sql, &mut catalog.missing).await,
    };
    match script {
        Ok(script) => catalog.scripts.push((PATH, script)),
        Err(BaseBackupError::Sql(MysqlError::Server { error, .. })) => {
            tracing::warn!(%error, "accounts and grants are not in the dump");
            catalog.missing.push("accounts and grants".to_owned());
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Accounts first, so that grants find them; those that are there already, such as root, are made alike.
async fn mysql(sql: &mut Sql, missing: &mut Vec<String>) -> Result<Script, BaseBackupError> {
    let operation = "list the accounts";
    let statement =
        format!("SELECT user, host FROM mysql.user WHERE user NOT IN {OWN_ACCOUNTS} ORDER BY user, host");
    let mut names = Vec::new();
    for row in &sql.query(operation, &statement).await? {
        let (user, host) = (text(operation, row, "user")?, text(operation, row, "host")?);
        names.push(format!("{}@{}", quote(user), quote(host)));
    }
    let (mut script, mut alike, mut grants) = (Script::default(), Vec::new(), Vec::new());
    for name in &names {
        let Some((made, granted)) = shown(sql, name, false).await? else {
            missing.push(not_in_force(name));
            continue;
        };
        for made in made {
            let made = with_credentials(&without_default_role(&made));
            if let Some(rest) = made.strip_prefix("CREATE USER ") {
                script.push(format!("CREATE USER IF NOT EXISTS {rest}"));
                alike.push(format!("ALTER USER {rest}"));
            }
        }
        grants.extend(granted);
    }
    alike
        .into_iter()
        .chain(grants)
        .for_each(|statement| script.push(statement));
    let statement = "SELECT user, host, default_role_user AS role, default_role_host AS role_host FROM mysql.default_roles \
                     ORDER BY user, host";
    let mut roles: Vec<(String, Vec<String>)> = Vec::new();
    for row in &sql.query(operation, statement).await? {
        let quoted = |column| text(operation, row, column).map(quote);
        let account = format!("{}@{}", quoted("user")?, quoted("host")?);
        let role = format!("{}@{}", quoted("role")?, quoted("role_host")?);
        match roles.last_mut() {
            Some((last, roles)) if *last == account => roles.push(role),
            _ => roles.push((account, vec![role])),
        }
    }
    for (account, roles) in roles {
        script.push(format!("ALTER USER {account} DEFAULT ROLE {}", roles.join(", ")));
    }
    Ok(script)
}

/// The clause stands between the password and REQUIRE. Roles may not be there yet.
fn without_default_role(made: &str) -> String {
    let found = made.split_once(" DEFAULT ROLE ");
    match found.and_then(|(before, rest)| Some((before, rest.split_once(" REQUIRE ")?.1))) {
        Some((before, rest)) => format!("{before} REQUIRE {rest}"),
        None => made.to_owned(),
    }
}

/// A plugin without credentials is shown without them; ALTER USER takes that for an order to have them expire.
fn with_credentials(made: &str) -> String {
    let Some((before, rest)) = made.split_once(" IDENTIFIED WITH '") else {
        return made.to_owned();
    };
    match rest.split_once("' ") {
        Some((plugin, rest)) if !rest.starts_with("AS ") => {
            format!("{before} IDENTIFIED WITH '{plugin}' AS '' {rest}")
        }
        _ => made.to_owned(),
    }
}

async fn mariadb(sql: &mut Sql, missing: &mut Vec<String>) -> Result<Script, BaseBackupError> {
    let operation = "list the accounts";
    let statement = format!(
        "SELECT user, host, is_role, default_role FROM mysql.user WHERE user NOT IN {OWN_ACCOUNTS} \
         ORDER BY is_role = 'N', user, host"
    );
    let mut accounts = Vec::new();
    for row in &sql.query(operation, &statement).await? {
        let user = quote(text(operation, row, "user")?);
        let is_role = text(operation, row, "is_role")? == "Y";
        let host = row.text("host").unwrap_or_default();
        accounts.push(Account {
            name: if is_role {
                user
            } else {
                format!("{user}@{}", quote(host))
            },
            is_role,
            default_role: row
                .text("default_role")
                .filter(|role| !role.is_empty())
                .map(quote),
        });
    }
    let (mut script, mut later, mut default_roles) = (Script::default(), Vec::new(), Vec::new());
    for account in &accounts {
        let Some((made, granted)) = shown(sql, &account.name, account.is_role).await? else {
            missing.push(not_in_force(&account.name));
            continue;
        };
        if account.is_role {
            script.push(format!("CREATE ROLE IF NOT EXISTS {}", account.name));
        }
        for made in made {
            match made.strip_prefix("CREATE USER ") {
                Some(rest) => {
                    script.push(format!("CREATE USER IF NOT EXISTS {rest}"));
                    later.push(format!("ALTER USER {rest}"));
                }
                None => later.push(made),
            }
        }
        later.extend(granted);
        if let Some(role) = &account.default_role {
            default_roles.push(format!("SET DEFAULT ROLE {role} FOR {}", account.name));
        }
    }
    let rest = later.into_iter().chain(default_roles);
    rest.for_each(|statement| script.push(statement));
    Ok(script)
}

/// The statements that make an account, and its grants; `None` for one that the server has on disk and not in force, such as
/// those with host names under `skip_name_resolve`.
async fn shown(
    sql: &mut Sql,
    account: &str,
    is_role: bool,
) -> Result<Option<(Vec<String>, Vec<String>)>, BaseBackupError> {
    let mut made = Vec::new();
    if !is_role {
        match sql
            .query("read an account", &format!("SHOW CREATE USER {account}"))
            .await
        {
            Ok(rows) => made = first_column(&rows),
            Err(MysqlError::Server { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    let rows = sql
        .query("list grants", &format!("SHOW GRANTS FOR {account}"))
        .await?;
    let mut grants = first_column(&rows);
    // Default roles come at the end, when all roles are granted.
    grants.retain(|grant| !grant.starts_with("SET DEFAULT ROLE "));
    Ok(Some((made, grants)))
}

fn first_column(rows: &[Row]) -> Vec<String> {
    let text =
        |value: &Option<Vec<u8>>| String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned();
    rows.iter()
        .filter_map(|row| row.values().first().map(text))
        .collect()
}

fn not_in_force(account: &str) -> String {
    format!("account {account}, which is not in force")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_role_is_taken_out() {
        let made =
            "CREATE USER `u`@`%` IDENTIFIED WITH 'x' AS 0x01 DEFAULT ROLE `r`@`%`,`q`@`%` REQUIRE NONE";
        let expected = "CREATE USER `u`@`%` IDENTIFIED WITH 'x' AS 0x01 REQUIRE NONE";
        assert_eq!(without_default_role(made), expected);
        assert_eq!(without_default_role(expected), expected);
    }

    #[test]
    fn no_password_is_an_empty_one() {
        let made = "CREATE USER `u`@`%` IDENTIFIED WITH 'caching_sha2_password' REQUIRE NONE";
        let expected = "CREATE USER `u`@`%` IDENTIFIED WITH 'caching_sha2_password' AS '' REQUIRE NONE";
        assert_eq!(with_credentials(made), expected);
        assert_eq!(with_credentials(expected), expected);
    }
}
