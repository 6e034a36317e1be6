//! What a source says of itself and its log: what streaming, preflight and backups go by.

use std::collections::BTreeMap;

use tidemark_types::{ErrorClass, Timestamp};

use super::greeting::ServerVersion;
use super::sql::{Sql, quote};
use super::text_result::Row;
use crate::binlog::{BinlogOffset, Flavor};
use crate::error::MysqlError;
use crate::gtid::{GtidSet, MariaDbPosition, ServerUuid};

/// What does not change while a server runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// The version.
    pub version: ServerVersion,
    /// Its number among sources and replicas.
    pub server_id: u32,
    /// MySQL: what it calls itself. MariaDB has nothing that lasts.
    pub uuid: Option<ServerUuid>,
    /// MariaDB: `server_uid`, made of its host's network address and its port. Older versions have none.
    pub uid: Option<String>,
    /// Whether it writes a binlog.
    pub log_bin: bool,
    /// The directory and common beginning of its binlog files, `/var/lib/mysql/bin`, while it writes any.
    pub log_bin_basename: Option<String>,
    /// `gtid_mode`, of MySQL: OFF, OFF_PERMISSIVE, ON_PERMISSIVE or ON.
    pub gtid_mode: Option<String>,
}

impl ServerFacts {
    /// Which server it is, as far as it tells: MySQL's `server_uuid`; of MariaDB, which has none that lasts, `server_id` and
    /// `server_uid`.
    pub fn identity(&self) -> String {
        match self.uuid {
            Some(uuid) => uuid.to_string(),
            None => format!("{}/{}", self.server_id, self.uid.as_deref().unwrap_or_default()),
        }
    }
}

/// Which transactions a server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GtidState {
    /// Of MySQL.
    MySql {
        /// `gtid_executed`.
        executed: GtidSet,
        /// `gtid_purged`: those of them that its log does not hold.
        purged: GtidSet,
    },
    /// Of MariaDB.
    MariaDb {
        /// `gtid_binlog_pos`: the last of each domain in its log.
        binlog: MariaDbPosition,
        /// `gtid_current_pos`: those and what it has replicated.
        current: MariaDbPosition,
    },
}

/// A binlog file that the server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinlogFile {
    /// Its name, without a directory.
    pub name: String,
    /// Its length in bytes; zero when the server cannot open it.
    pub bytes: u64,
}

/// Where the log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnd {
    /// The server's clock, read before the position: what was committed earlier lies before it.
    pub time: Timestamp,
    /// The file that is written.
    pub file: String,
    /// Where the next event will begin.
    pub position: BinlogOffset,
}

/// A replica that is connected, or that the server believes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectedReplica {
    /// Its number.
    pub server_id: u32,
    /// What it calls itself, where the server tells (MySQL).
    pub uuid: Option<ServerUuid>,
}

impl Sql {
    /// Reads [`ServerFacts`]. Any account may.
    ///
    /// # Errors
    /// As [`Sql::query`], and [`MysqlError::Result`].
    pub async fn server_facts(&mut self) -> Result<ServerFacts, MysqlError> {
        let names = [
            "gtid_mode",
            "log_bin",
            "log_bin_basename",
            "server_id",
            "server_uid",
            "server_uuid",
        ];
        let mut settings = self.settings(&names).await?;
        // What is empty is not set.
        let mut take = |name: &str| settings.remove(name).filter(|value| !value.is_empty());
        let unusable = |name: &str| unusable("read the server's settings", &format!("{name} makes no sense"));
        let uuid = take("server_uuid").map(|text| text.parse().map_err(|_| unusable("server_uuid")));
        Ok(ServerFacts {
            version: self.version().clone(),
            server_id: take("server_id")
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| unusable("server_id"))?,
            uuid: uuid.transpose()?,
            uid: take("server_uid"),
            log_bin: take("log_bin").as_deref() == Some("ON"),
            log_bin_basename: take("log_bin_basename"),
            gtid_mode: take("gtid_mode"),
        })
    }

    /// Reads settings by their names, which come out in lower case. Those that the server does not know are absent. Any account
    /// may.
    ///
    /// # Errors
    /// As [`Sql::query`].
    pub async fn settings(&mut self, names: &[&str]) -> Result<BTreeMap<String, String>, MysqlError> {
        let quoted: Vec<String> = names.iter().map(|name| quote(name)).collect();
        let statement = format!(
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ({})",
            quoted.join(", ")
        );
        let rows = self.query("read the server's settings", &statement).await?;
        let setting = |row: &Row| {
            let name = row.text("Variable_name")?.to_ascii_lowercase();
            Some((name, row.text("Value").unwrap_or_default().to_owned()))
        };
        Ok(rows.iter().filter_map(setting).collect())
    }

    /// Reads the GTIDs of a server. Any account may.
    ///
    /// # Errors
    /// As [`Sql::query`], and [`MysqlError::Result`].
    pub async fn gtid_state(&mut self) -> Result<GtidState, MysqlError> {
        let operation = "read the server's GTIDs";
        let flavor = self.flavor();
        let columns = match flavor {
            // Purged first: what is purged in between is then in both.
            Flavor::MySql => "@@GLOBAL.gtid_purged AS a, @@GLOBAL.gtid_executed AS b",
            Flavor::MariaDb => "@@GLOBAL.gtid_binlog_pos AS a, @@GLOBAL.gtid_current_pos AS b",
        };
        let row = self.query_one(operation, &format!("SELECT {columns}")).await?;
        let (a, b) = (
            row.text("a").unwrap_or_default(),
            row.text("b").unwrap_or_default(),
        );
        let read = || match flavor {
            Flavor::MySql => Ok(GtidState::MySql {
                purged: a.parse()?,
                executed: b.parse()?,
            }),
            Flavor::MariaDb => Ok(GtidState::MariaDb {
                binlog: a.parse()?,
                current: b.parse()?,
            }),
        };
        read().map_err(|error: crate::gtid::ParseGtidError| unusable(operation, &error))
    }

    /// Lists the binlog files, oldest first. Needs REPLICATION CLIENT (MySQL) or BINLOG MONITOR (MariaDB).
    ///
    /// # Errors
    /// As [`Sql::query`]; number 1381 when the server writes no binlog.
    pub async fn binlog_files(&mut self) -> Result<Vec<BinlogFile>, MysqlError> {
        let operation = "list binlog files";
        let rows = self.query(operation, "SHOW BINARY LOGS").await?;
        let file = |row: &Row| {
            Ok(BinlogFile {
                name: text(operation, row, "Log_name")?.to_owned(),
                bytes: number(operation, row, "File_size")?,
            })
        };
        rows.iter().map(file).collect()
    }

    /// Reads the server's clock and then where its log ends. Needs REPLICATION CLIENT (MySQL) or BINLOG MONITOR (MariaDB).
    ///
    /// # Errors
    /// As [`Sql::query`], and [`MysqlError::Result`] when the server writes no binlog.
    pub async fn log_end(&mut self) -> Result<LogEnd, MysqlError> {
        let operation = "read where the binlog ends";
        let clock = "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED) AS micros";
        let row = self.query_one(operation, clock).await?;
        let time = Timestamp(number(operation, &row, "micros")?);
        let statement = self.log_status_statement();
        let row = self.query_one(operation, statement).await?;
        Ok(LogEnd {
            time,
            file: text(operation, &row, "File")?.to_owned(),
            position: BinlogOffset(number(operation, &row, "Position")?),
        })
    }

    /// What asks for the state of the log, in the server's words.
    pub(crate) fn log_status_statement(&self) -> &'static str {
        match self.flavor() {
            Flavor::MySql if self.version().number >= (8, 2, 0) => "SHOW BINARY LOG STATUS",
            Flavor::MySql | Flavor::MariaDb => "SHOW MASTER STATUS",
        }
    }

    /// Lists the replicas that are connected. Needs REPLICATION SLAVE (MySQL) or REPLICATION MASTER ADMIN (MariaDB).
    ///
    /// # Errors
    /// As [`Sql::query`].
    pub async fn replicas(&mut self) -> Result<Vec<ConnectedReplica>, MysqlError> {
        let operation = "list replicas";
        let statement = match self.flavor() {
            Flavor::MySql if self.version().number >= (8, 0, 22) => "SHOW REPLICAS",
            Flavor::MySql | Flavor::MariaDb => "SHOW SLAVE HOSTS",
        };
        let rows = self.query(operation, statement).await?;
        let replica = |row: &Row| {
            Ok(ConnectedReplica {
                server_id: number(operation, row, "Server_id")?,
                uuid: row.parse("Replica_UUID").or(row.parse("Slave_UUID")),
            })
        };
        rows.iter().map(replica).collect()
    }
}

/// Who an agent is to its source, from something that is its alone and stays the same, its server's name and host say. A source
/// that still holds a dump of an agent that died gives it up when the agent comes back under the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaIdentity {
    /// What it calls itself.
    pub uuid: ServerUuid,
    /// The number that it has, unless somebody else has it.
    server_id: u32,
}

impl ReplicaIdentity {
    /// The lowest number of an agent: people number their servers from 1 on, or by address or port.
    const SERVER_ID_MIN: u32 = 0xF000_0000;

    /// The identity of `seed`.
    pub fn new(seed: &str) -> ReplicaIdentity {
        let hash = ring::digest::digest(&ring::digest::SHA256, seed.as_bytes());
        let mut bytes = hash.as_ref().iter().copied();
        // The hash has 32 bytes.
        let uuid = ServerUuid(std::array::from_fn(|_| bytes.next().unwrap_or_default()));
        let number = u32::from_le_bytes(std::array::from_fn(|_| bytes.next().unwrap_or_default()));
        ReplicaIdentity {
            uuid,
            server_id: number | ReplicaIdentity::SERVER_ID_MIN,
        }
    }

    /// Whether it is this one that is connected. MariaDB tells its number only, which may be another's.
    pub fn is_of(&self, replica: &ConnectedReplica) -> bool {
        match replica.uuid {
            Some(uuid) => uuid == self.uuid,
            None => replica.server_id == self.server_id,
        }
    }

    /// Its number where `others` have theirs: the next one that is free.
    fn number_among(&self, others: &[ConnectedReplica]) -> u32 {
        let is_taken = |number: u32| {
            others
                .iter()
                .any(|other| other.server_id == number && other.uuid != Some(self.uuid))
        };
        let mut number = self.server_id;
        // Ends: there are more numbers than replicas.
        while is_taken(number) {
            number = number.wrapping_add(1) | ReplicaIdentity::SERVER_ID_MIN;
        }
        number
    }
}

impl Sql {
    /// Chooses a server_id that neither the server nor a replica of it has. Replicas are not looked at where the account may
    /// not list them.
    ///
    /// # Errors
    /// As [`Sql::query`], and [`MysqlError::Result`].
    pub async fn unused_server_id(&mut self, identity: &ReplicaIdentity) -> Result<u32, MysqlError> {
        let mut others = match self.replicas().await {
            Ok(others) => others,
            Err(MysqlError::Server { error, .. }) if error.class() == ErrorClass::Config => Vec::new(),
            Err(error) => return Err(error),
        };
        others.push(ConnectedReplica {
            server_id: self.server_facts().await?.server_id,
            uuid: None,
        });
        Ok(identity.number_among(&others))
    }
}

fn text<'r>(operation: &'static str, row: &'r Row, column: &str) -> Result<&'r str, MysqlError> {
    row.text(column)
        .ok_or_else(|| unusable(operation, &format!("no text in column {column}")))
}

fn number<T: std::str::FromStr>(operation: &'static str, row: &Row, column: &str) -> Result<T, MysqlError> {
    row.parse(column)
        .ok_or_else(|| unusable(operation, &format!("no such number in column {column}")))
}

fn unusable(operation: &'static str, problem: &dyn std::fmt::Display) -> MysqlError {
    MysqlError::Result {
        operation,
        problem: problem.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_keeps_its_number_unless_another_has_it() {
        let agent = ReplicaIdentity::new("orders on db1");
        assert_eq!(agent, ReplicaIdentity::new("orders on db1"));
        let other = ReplicaIdentity::new("orders on db2");
        assert!(agent.uuid != other.uuid && agent.server_id != other.server_id);
        let replica = |server_id, uuid| ConnectedReplica { server_id, uuid };
        let number = agent.server_id;
        // What it left behind itself is in nobody's way.
        assert_eq!(agent.number_among(&[replica(number, Some(agent.uuid))]), number);
        let taken = agent.number_among(&[replica(number, Some(other.uuid)), replica(7, None)]);
        assert!(taken != number && taken >= ReplicaIdentity::SERVER_ID_MIN);
        assert!(agent.number_among(&[replica(number, None)]) != number);
    }
}
