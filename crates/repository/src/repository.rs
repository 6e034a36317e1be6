//! Opening a repository, and finding servers in it.

use std::sync::Arc;

use tidemark_storage::{ObjectKey, Storage};
use tidemark_types::{Generation, ServerName, Timestamp};

use crate::archive::Archive;
use crate::envelope::FORMAT_VERSION;
use crate::layout::{self, Layout};
use crate::server::{Descriptor, ServerRecord, create_json, read_json};
use crate::{RepositoryError, log::ChainKey};

/// One storage prefix that holds any number of servers.
#[derive(Debug, Clone)]
pub struct Repository {
    storage: Arc<dyn Storage>,
    descriptor: Descriptor,
}

/// What a new generation of a server is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewServer {
    /// `postgresql`, `mysql` or `mariadb`.
    pub engine: String,
    /// What the engine calls itself.
    pub system_id: String,
    /// The engine's version, for people.
    pub version: String,
    /// Length of every log file in bytes where it is fixed.
    pub log_file_len: Option<u64>,
}

impl Repository {
    /// Opens a repository that exists.
    ///
    /// # Errors
    /// `Missing` when there is none, `TooNew`, or what the store says.
    pub async fn open(storage: Arc<dyn Storage>) -> Result<Repository, RepositoryError> {
        match read_descriptor(&*storage).await? {
            Some(descriptor) => Ok(Repository { storage, descriptor }),
            None => Err(RepositoryError::Missing(format!(
                "there is no tidemark repository at {}: check the URL (a repository holds an object named {})",
                storage.url(),
                layout::DESCRIPTOR,
            ))),
        }
    }

    /// Opens a repository for writing, making it when there is none, and finds out what the store honours.
    ///
    /// # Errors
    /// `TooNew`, or what the store says.
    pub async fn open_or_create(
        storage: Arc<dyn Storage>,
        now: Timestamp,
    ) -> Result<Repository, RepositoryError> {
        storage.probe(&probe_prefix()).await?;
        if let Some(descriptor) = read_descriptor(&*storage).await? {
            return Ok(Repository { storage, descriptor });
        }
        create_json(&*storage, &descriptor_key(), &Descriptor::new(now)).await?;
        // Whoever was first: the stored one counts.
        Repository::open(storage).await
    }

    /// The store.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Who this repository is.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The servers in it, by name.
    ///
    /// # Errors
    /// What the store says.
    pub async fn servers(&self) -> Result<Vec<ServerName>, RepositoryError> {
        let folders = self.storage.folders(layout::SERVERS).await?;
        Ok(folders.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The generations of a server, oldest first; empty when there is no such server.
    ///
    /// # Errors
    /// What the store says.
    pub async fn generations(&self, server: &ServerName) -> Result<Vec<Generation>, RepositoryError> {
        let folders = self.storage.folders(&layout::server_folder(server)).await?;
        let mut generations: Vec<Generation> = folders
            .iter()
            .filter_map(|name| layout::parse_generation(name))
            .collect();
        generations.sort_unstable();
        Ok(generations)
    }

    /// One generation of a server: the newest when none is named; `None` when there is none.
    ///
    /// # Errors
    /// What the store says, `Damaged`, `TooNew`.
    pub async fn find_archive(
        &self,
        server: &ServerName,
        generation: Option<Generation>,
    ) -> Result<Option<Archive>, RepositoryError> {
        let generation = match generation {
            Some(generation) => generation,
            None => match self.generations(server).await?.last() {
                Some(newest) => *newest,
                None => return Ok(None),
            },
        };
        let key = Layout::new(server, generation).server_json();
        let record: Option<ServerRecord> = read_json(&*self.storage, &key).await?;
        record
            .map(|record| {
                Ok(Archive::new(
                    Arc::clone(&self.storage),
                    check_version(&key, record)?,
                ))
            })
            .transpose()
    }

    /// Like [`Repository::find_archive`], for those who need one.
    ///
    /// # Errors
    /// Also `Missing`, with the servers or generations that there are.
    pub async fn archive(
        &self,
        server: &ServerName,
        generation: Option<Generation>,
    ) -> Result<Archive, RepositoryError> {
        if let Some(archive) = self.find_archive(server, generation).await? {
            return Ok(archive);
        }
        let list = |names: Vec<String>| {
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        };
        Err(RepositoryError::Missing(match generation {
            Some(generation) => format!(
                "server {server} has no generation {generation} in {} (there are: {})",
                self.storage.url(),
                list(
                    self.generations(server)
                        .await?
                        .iter()
                        .map(ToString::to_string)
                        .collect()
                ),
            ),
            None => format!(
                "there is no server {server} in {} (servers there: {})",
                self.storage.url(),
                list(self.servers().await?.iter().map(ToString::to_string).collect()),
            ),
        }))
    }

    /// Begins a generation of a server.
    ///
    /// # Errors
    /// `Conflict` when somebody else began it at the same time; what the store says.
    pub async fn create_archive(
        &self,
        server: &ServerName,
        generation: Generation,
        new: NewServer,
        now: Timestamp,
    ) -> Result<Archive, RepositoryError> {
        let record = ServerRecord {
            format: FORMAT_VERSION,
            name: server.clone(),
            generation,
            engine: new.engine,
            system_id: new.system_id,
            version: new.version,
            log_file_len: new.log_file_len,
            chain_key: ChainKey::random(),
            created: now,
        };
        let key = Layout::new(server, generation).server_json();
        create_json(&*self.storage, &key, &record).await?;
        let archive = self.archive(server, Some(generation)).await?;
        if archive.record().system_id != record.system_id {
            return Err(RepositoryError::Conflict {
                object: key.to_string(),
                problem: format!("it belongs to the system id {}", archive.record().system_id),
            });
        }
        Ok(archive)
    }
}

fn descriptor_key() -> ObjectKey {
    ObjectKey::new(layout::DESCRIPTOR).unwrap_or_else(|error| unreachable!("{error}"))
}

fn probe_prefix() -> ObjectKey {
    ObjectKey::new("lease/probe").unwrap_or_else(|error| unreachable!("{error}"))
}

async fn read_descriptor(storage: &dyn Storage) -> Result<Option<Descriptor>, RepositoryError> {
    let key = descriptor_key();
    let descriptor: Option<Descriptor> = read_json(storage, &key).await?;
    match descriptor {
        Some(descriptor) if descriptor.format > FORMAT_VERSION => Err(RepositoryError::TooNew {
            object: key.to_string(),
            found: descriptor.format,
            supported: FORMAT_VERSION,
        }),
        other => Ok(other),
    }
}

fn check_version(key: &ObjectKey, record: ServerRecord) -> Result<ServerRecord, RepositoryError> {
    if record.format > FORMAT_VERSION {
        return Err(RepositoryError::TooNew {
            object: key.to_string(),
            found: record.format,
            supported: FORMAT_VERSION,
        });
    }
    Ok(record)
}
