//! The configuration file: read as written, checked, and turned into settings that cannot be invalid.
//!
//! `raw` mirrors the file, `keys` knows which keys exist, `load` reads files and the environment, `rules` judges,
//! `settings` is what comes of it. Everything that is wrong is reported at once, with file, line, key and what was expected.

mod error;
mod keys;
mod load;
mod raw;
mod rules;
mod settings;
mod url;
mod values;

pub use error::ConfigError;
pub use load::load;
pub use rules::default_slot;
pub use settings::{
    Engine, HttpSettings, LogSource, MysqlSettings, PostgresqlSettings, RepositorySettings, Server,
    ServerSettings, Settings,
};

/// A server with the defaults.
#[cfg(test)]
pub fn server_for_tests(name: &str) -> Server {
    server_of(&format!(
        "[repository]\nurl = \"file:///r\"\n[[server]]\nname = \"{name}\"\nengine = \"postgresql\"\n\
         url = \"postgresql://u@localhost/postgres\"\n"
    ))
}

/// The first server of a configuration.
#[cfg(test)]
pub fn server_of(text: &str) -> Server {
    let loaded = load::parse(text, &|_| None).expect("a good configuration");
    loaded.settings.servers.into_iter().next().expect("a server")
}
