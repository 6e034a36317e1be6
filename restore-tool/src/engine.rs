//! Which database an archive is of, and what its people call things.

use serde::{Serialize, Serializer};
use tidemark_repository::ServerRecord;
use tidemark_types::ErrorClass;

use crate::exit::Failure;

/// A database that can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// PostgreSQL.
    Postgresql,
    /// MySQL.
    Mysql,
    /// MariaDB.
    Mariadb,
}

impl Engine {
    const ALL: [Engine; 3] = [Engine::Postgresql, Engine::Mysql, Engine::Mariadb];

    /// The engine of a server.
    ///
    /// # Errors
    /// When this version knows none of that name.
    pub fn of(record: &ServerRecord) -> Result<Engine, Failure> {
        let known = Engine::ALL
            .into_iter()
            .find(|engine| engine.key() == record.engine);
        known.ok_or_else(|| {
            let message = format!(
                "server {} is a {} server, which this version cannot restore",
                record.name, record.engine
            );
            Failure::new(ErrorClass::Config, message)
        })
    }

    /// As the repository names it.
    pub fn key(self) -> &'static str {
        match self {
            Engine::Postgresql => "postgresql",
            Engine::Mysql => "mysql",
            Engine::Mariadb => "mariadb",
        }
    }

    /// As its vendor writes it.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Postgresql => "PostgreSQL",
            Engine::Mysql => "MySQL",
            Engine::Mariadb => "MariaDB",
        }
    }

    /// The account that its servers have on most systems.
    pub fn server_account(self) -> &'static str {
        match self {
            Engine::Postgresql => "postgres",
            Engine::Mysql | Engine::Mariadb => "mysql",
        }
    }

    /// What a branch of its log is called.
    pub fn branch_word(self) -> &'static str {
        match self {
            Engine::Postgresql => "timeline",
            Engine::Mysql | Engine::Mariadb => "branch",
        }
    }

    /// What a point in its log is called.
    pub fn position_word(self) -> &'static str {
        match self {
            Engine::Postgresql => "LSN",
            Engine::Mysql | Engine::Mariadb => "position",
        }
    }

    /// Whether its log tells when transactions committed. MariaDB's tells when the last statement of each began: one that
    /// ran for long looks like a clock that was set back.
    pub fn logs_commit_times(self) -> bool {
        self != Engine::Mariadb
    }
}

impl Serialize for Engine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.key())
    }
}
