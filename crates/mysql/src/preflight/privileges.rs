//! What an account may do on all databases, and what the agent needs.

use std::collections::BTreeSet;

use super::findings::Wanted;
use crate::binlog::Flavor;
use crate::client::{Row, Sql};
use crate::error::MysqlError;

/// Global privileges of an account and of the roles that it has switched on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Privileges(BTreeSet<String>);

impl Privileges {
    /// Asks for our own.
    ///
    /// # Errors
    /// As [`Sql::query`].
    pub async fn query(sql: &mut Sql) -> Result<Privileges, MysqlError> {
        let operation = "read our account's privileges";
        let statement = match sql.flavor() {
            // Tells of the account and of the role that is switched on.
            Flavor::MariaDb => "SHOW GRANTS".to_owned(),
            Flavor::MySql => {
                let row = sql.query_one(operation, "SELECT CURRENT_ROLE() AS roles").await?;
                match row.text("roles") {
                    // `role`@`host`,`role`@`host`
                    Some(roles) if roles != "NONE" => format!("SHOW GRANTS FOR CURRENT_USER() USING {roles}"),
                    _ => "SHOW GRANTS".to_owned(),
                }
            }
        };
        let rows = sql.query(operation, &statement).await?;
        let line = |row: &Row| Some(String::from_utf8_lossy(row.values().first()?.as_deref()?).into_owned());
        let lines: Vec<String> = rows.iter().filter_map(line).collect();
        Ok(Privileges::of_grants(lines.iter().map(String::as_str)))
    }

    /// Reads the lines of SHOW GRANTS: `GRANT SELECT, RELOAD ON *.* TO …`.
    pub fn of_grants<'a>(lines: impl Iterator<Item = &'a str>) -> Privileges {
        let global = |line: &'a str| {
            let (privileges, _) = line.strip_prefix("GRANT ")?.split_once(" ON *.* TO ")?;
            Some(privileges.split(','))
        };
        let names = lines.filter_map(global).flatten();
        Privileges(names.map(|name| name.trim().to_ascii_uppercase()).collect())
    }

    /// Whether the account has a privilege.
    pub fn has(&self, name: &str) -> bool {
        // MariaDB shows all of them as one; MySQL, one by one.
        self.0.contains("ALL PRIVILEGES") || self.0.contains(name)
    }

    /// Whether it is one that administers: it has everything, or may do everything to accounts.
    pub fn administers(&self) -> bool {
        self.has("CREATE USER") && self.has("RELOAD")
    }
}

/// What a dump of everything takes: it reads rows, views, triggers, events and accounts, and locks the server for a moment.
pub const DUMP_PRIVILEGES: [&str; 6] = ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT", "RELOAD", "LOCK TABLES"];

/// What an account needs, with what it is needed for, in the order of importance.
///
/// Streaming: COM_BINLOG_DUMP, SHOW BINARY LOGS. Copies of files: `CLONE LOCAL DATA DIRECTORY` (manual: "Cloning Data
/// Locally"); `mariadb-backup` (knowledge base: "Authentication and Privileges"). Replicas are listed to whom may replicate in MySQL, in MariaDB to
/// whom may administer sources.
pub fn needed_privileges(wanted: &Wanted, flavor: Flavor) -> Vec<(&'static str, &'static str)> {
    const STREAM: &str = "streaming the binlog";
    const WATCH: &str = "seeing which binlog files there are";
    const COPY: &str = "base backups of files";
    const DUMP: &str = "base backups by dump";
    const ACKNOWLEDGE: &str = "seeing who else acknowledges commits";
    const TABLES: &str = "finding tables that are not InnoDB";

    let mut needed = vec![("REPLICATION SLAVE", STREAM)];
    needed.push(match flavor {
        Flavor::MySql => ("REPLICATION CLIENT", WATCH),
        Flavor::MariaDb => ("BINLOG MONITOR", WATCH),
    });
    if wanted.semi_sync && flavor == Flavor::MariaDb {
        needed.push(("REPLICATION MASTER ADMIN", ACKNOWLEDGE));
    }
    let base: &[(&str, &str)] = match (flavor, wanted.copies_files) {
        (Flavor::MySql, true) => &[("BACKUP_ADMIN", COPY), ("SELECT", TABLES)],
        (Flavor::MariaDb, true) => &[
            ("RELOAD", COPY),
            ("PROCESS", COPY),
            ("LOCK TABLES", COPY),
            ("SELECT", TABLES),
        ],
        // Transactions that are prepared would be missing in a dump.
        (Flavor::MySql, false) => &[("XA_RECOVER_ADMIN", DUMP)],
        (Flavor::MariaDb, false) => &[],
    };
    needed.extend(base);
    if !wanted.copies_files {
        needed.extend(DUMP_PRIVILEGES.map(|name| (name, DUMP)));
    }
    needed
}
