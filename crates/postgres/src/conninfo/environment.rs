//! What connection settings take from their surroundings: `PG...` variables, the home directory, the user's name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Variables, home and user, given as a value so that defaults can be tested.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    home: Option<PathBuf>,
    user: Option<String>,
    socket_directory: Option<PathBuf>,
}

/// Debian's and Red Hat's default socket directory, and upstream's.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// The variables that are looked at, and the key each is a default for (manual: "Environment Variables").
const VARIABLES: [(&str, &str); 17] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGAPPNAME", "application_name"),
    ("PGOPTIONS", "options"),
    ("PGSERVICE", "service"),
];

impl Environment {
    /// That of this process.
    pub fn of_process() -> Environment {
        let variables = VARIABLES
            .iter()
            .filter_map(|(name, _)| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .collect();
        Environment {
            variables,
            home: std::env::home_dir(),
            user: whoami::username().ok(),
            socket_directory: SOCKET_DIRECTORIES
                .iter()
                .map(PathBuf::from)
                .find(|dir| dir.is_dir()),
        }
    }

    /// An empty one with these variables, for a user `user` whose home is `home`.
    pub fn new<'a>(
        variables: impl IntoIterator<Item = (&'a str, &'a str)>,
        user: &str,
        home: impl Into<PathBuf>,
    ) -> Environment {
        Environment {
            variables: variables
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
            home: Some(home.into()),
            user: Some(user.to_owned()),
            socket_directory: None,
        }
    }

    /// The value that the variable for `key` gives; an empty variable counts as unset.
    pub(super) fn default_of(&self, key: &str) -> Option<&str> {
        let (name, _) = VARIABLES.iter().find(|(_, of)| *of == key)?;
        self.variables
            .get(*name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// A file below the home directory.
    pub(super) fn home_file(&self, name: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(name))
    }

    /// Where a server on this host has its socket when nobody says otherwise.
    pub(super) fn socket_directory(&self) -> PathBuf {
        self.socket_directory
            .clone()
            .unwrap_or_else(|| PathBuf::from(SOCKET_DIRECTORIES[1]))
    }
}

/// Whether `directory` is one in which a socket goes by `localhost` in the password file.
pub(crate) fn is_default_socket_directory(directory: &Path) -> bool {
    SOCKET_DIRECTORIES
        .iter()
        .any(|default| Path::new(default) == directory)
        || directory == Path::new("/run/postgresql")
}

/// Names what is there, never a value: one of them is a password.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment")
            .field("variables", &self.variables.keys())
            .field("home", &self.home)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}
