//! The statements that mend what was found.

use crate::binlog::Flavor;

/// Sets a variable at once and for the starts to come. MariaDB forgets what is set when it stops: its option file has to say it.
pub(super) fn set(flavor: Flavor, name: &str, value: &str) -> String {
    match flavor {
        Flavor::MySql => format!("SET PERSIST {name} = {value};"),
        Flavor::MariaDb => {
            format!("SET GLOBAL {name} = {value};  -- and {name} = {value} under [mysqld] in the option file")
        }
    }
}

/// For what cannot be set while the server runs.
pub(super) fn configure(line: &str) -> String {
    format!("{line}  -- under [mysqld] in the option file; then restart the server")
}

/// Grants privileges on all databases. `account` is quoted.
pub(super) fn grant(privileges: &[&str], account: &str) -> String {
    format!("GRANT {} ON *.* TO {account};", privileges.join(", "))
}
