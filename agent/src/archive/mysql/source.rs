//! The server being followed: its identity, its files, and the archive that belongs to it.

use std::path::Path;

use tidemark_mysql::archive::{BinlogBranch, BranchEnd};
use tidemark_mysql::binlog::{Flavor, Logged};
use tidemark_mysql::client::{ConnectOptions, ReplicaIdentity, ServerFacts, Sql};
use tidemark_mysql::replication::Replica;
use tidemark_repository::base::BackupHeader;
use tidemark_repository::log::run_to_continue;
use tidemark_repository::{Archive, Branch, NewServer, Repository};
use tidemark_types::{BinlogBasename, Clock, ErrorClass, Generation, LogFiles, SystemClock};

use super::directory::BinlogDirectory;
use super::gtids::{gtids_before, has_all, is_among, is_empty, stored_gtids};
use super::start::{Anew, ServerFiles, Stored};
use crate::archive::adopt_hint;
use crate::base::host;
use crate::config::{MysqlSettings, ServerSettings};
use crate::exit::Failure;

/// A server that answers.
pub struct Source {
    /// For questions.
    pub sql: Sql,
    /// How it was reached.
    pub options: ConnectOptions,
    /// What does not change while it runs.
    pub facts: ServerFacts,
    /// Which server it is: [`ServerFacts::identity`].
    pub identity: String,
    /// What the names of its binlog files begin with.
    pub basename: BinlogBasename,
}

impl Source {
    /// Connects and asks who is there.
    ///
    /// # Errors
    /// What the server says; that it is of another engine, or writes no binlog.
    pub async fn connect(settings: &MysqlSettings) -> anyhow::Result<Source> {
        let options = settings.connect_options()?;
        let mut sql = Sql::connect(&options).await?;
        let facts = sql.server_facts().await?;
        check_engine(settings, facts.version.flavor)?;
        let basename = facts
            .log_bin_basename
            .as_deref()
            .filter(|_| facts.log_bin)
            .and_then(|path| path.rsplit('/').next())
            .map(BinlogBasename::new)
            .ok_or_else(|| {
                Failure::new(
                    ErrorClass::Config,
                    format!("the server at {} writes no binlog", sql.host()),
                )
                .hint("set log_bin in its option file and restart it")
            })?;
        Ok(Source {
            sql,
            options,
            identity: facts.identity(),
            facts,
            basename,
        })
    }

    /// The generation of the archive that belongs to this server; begins the first one when the name is new.
    ///
    /// # Errors
    /// `Conflict` when the name belongs to a server of another engine; what the repository says.
    pub async fn archive(
        &self,
        repository: &Repository,
        settings: &ServerSettings,
    ) -> anyhow::Result<Archive> {
        let Some(archive) = repository.find_archive(&settings.name, None).await? else {
            return self.begin_generation(repository, settings, Generation(1)).await;
        };
        let stored = &archive.record().engine;
        if stored != settings.engine.label() {
            let message = format!(
                "the archive of {} belongs to a {stored} server, and the one at {} is {}",
                settings.name,
                self.sql.host(),
                settings.engine.label()
            );
            return Err(Failure::new(ErrorClass::Conflict, message)
                .hint(adopt_hint(settings))
                .into());
        }
        Ok(archive)
    }

    /// Begins a generation for this server.
    ///
    /// # Errors
    /// What the repository says.
    pub async fn begin_generation(
        &self,
        repository: &Repository,
        settings: &ServerSettings,
        generation: Generation,
    ) -> anyhow::Result<Archive> {
        let new = NewServer {
            engine: settings.engine.label().to_owned(),
            system_id: self.identity.clone(),
            version: self.facts.version.text.clone(),
            log_file_len: None,
        };
        Ok(repository
            .create_archive(&settings.name, generation, new, SystemClock.now())
            .await?)
    }

    /// Where its binlog files lie on this host: at `path`, or where the server says.
    ///
    /// # Errors
    /// There is no such directory here.
    pub fn binlog_directory(&self, path: Option<&Path>) -> Result<BinlogDirectory, Failure> {
        let told = self.facts.log_bin_basename.as_deref().map(Path::new);
        let path = path.or(told.and_then(Path::parent)).unwrap_or(Path::new("/"));
        if path.is_dir() {
            return Ok(BinlogDirectory {
                path: path.to_owned(),
                basename: self.basename,
            });
        }
        let message = format!(
            "the server's binlogs are to be read in {}, which is no directory here",
            path.display()
        );
        Err(Failure::new(ErrorClass::Config, message)
            .hint("run the agent on the server's host, or name the directory as log_directory"))
    }

    /// The files that the server has.
    ///
    /// # Errors
    /// What the server says.
    pub async fn files(&mut self) -> anyhow::Result<ServerFiles> {
        let files = self.sql.binlog_files().await?;
        Ok(ServerFiles::listed(&files))
    }

    /// What is stored of the newest branch that holds any log. `None` when none does.
    ///
    /// # Errors
    /// What the repository says.
    pub async fn stored(
        &self,
        archive: &Archive,
        backups: &[BackupHeader],
    ) -> anyhow::Result<Option<Stored>> {
        let Some(branch) = archive.branches().await?.into_iter().max() else {
            return Ok(None);
        };
        let record = read_branch(archive, branch).await?;
        // Everything before the newest base backup is settled; listing it again would cost for nothing.
        let newest = backups.last().map(|backup| &backup.facts.begin);
        let from_file = newest
            .filter(|begin| begin.branch == branch.0)
            .map_or(0, |begin| begin.file);
        let mut slices = archive.slices(branch, from_file).await?;
        Ok(run_to_continue(&mut slices).map(|run| Stored {
            branch,
            record,
            run,
            slices,
        }))
    }

    /// Whether this server, by what it says of itself, wrote a branch.
    pub fn wrote(&self, record: &BinlogBranch) -> bool {
        record.server == self.identity && record.basename == self.basename.as_str()
    }

    /// The transactions that another server wrote, when this one has all of them; `None` when it has not, or nothing tells.
    ///
    /// # Errors
    /// What the server or the repository says; damage in what is stored.
    pub async fn continues(&mut self, archive: &Archive, stored: &Stored) -> anyhow::Result<Option<Logged>> {
        let gtids = stored_gtids(archive, stored).await?;
        let state = self.sql.gtid_state().await?;
        Ok(gtids.filter(|gtids| !is_empty(gtids) && has_all(&state, gtids)))
    }

    /// Goes on from what another server wrote: behind a failover, this one has all of it, and its own log begins somewhere
    /// among it.
    ///
    /// # Errors
    /// `Conflict` when it has not, or nothing tells; what the server or the repository says.
    pub async fn fail_over(
        &mut self,
        archive: &Archive,
        stored: &Stored,
        files: &ServerFiles,
        replica: &Replica,
        settings: &ServerSettings,
    ) -> anyhow::Result<Anew> {
        let Some(gtids) = self.continues(archive, stored).await? else {
            return Err(self.stranger(&stored.record, settings).into());
        };
        for file in files.newest_first() {
            let name = self.basename.file_name(file);
            let before = gtids_before(&self.options, replica, &name).await?;
            if before.is_some_and(|before| is_among(&before, &gtids)) {
                let end = stored.run.end.position;
                tracing::warn!(
                    server = self.identity,
                    file = name,
                    "following another server, which has all that is stored"
                );
                return Ok(Anew {
                    first_file: file,
                    follows: Some(BranchEnd {
                        branch: stored.branch.0,
                        file: end.file,
                        offset: end.offset,
                    }),
                    reason: "failover to another server",
                });
            }
        }
        Ok(Anew::behind_nothing(
            files,
            "failover to another server, which had purged the binlog that follows what is stored",
        ))
    }

    fn stranger(&self, record: &BinlogBranch, settings: &ServerSettings) -> Failure {
        let message = format!(
            "the archive of {} holds binlogs {} of server {}, and the one at {} is {} with binlogs {} and lacks transactions \
             that are stored",
            settings.name,
            record.basename,
            record.server,
            self.sql.host(),
            self.identity,
            self.basename.as_str()
        );
        Failure::new(ErrorClass::Conflict, message).hint(adopt_hint(settings))
    }

    /// Writes down a new branch, before any of its log.
    ///
    /// # Errors
    /// What the repository says.
    pub async fn begin_branch(&self, archive: &Archive, anew: &Anew) -> anyhow::Result<Branch> {
        let mut number = archive
            .branches()
            .await?
            .into_iter()
            .max()
            .map_or(1, |newest| newest.0 + 1);
        let record = BinlogBranch {
            basename: self.basename.as_str().to_owned(),
            flavor: self.facts.version.flavor,
            server: self.identity.clone(),
            first_file: anew.first_file,
            reason: anew.reason.to_owned(),
            follows: anew.follows,
        };
        // An agent that was killed may have written one down and stored nothing of it.
        while archive
            .read_branch_file(Branch(number), BinlogBranch::FILE_NAME)
            .await?
            .is_some()
        {
            number += 1;
        }
        let branch = Branch(number);
        let mut text = serde_json::to_vec_pretty(&record)?;
        text.push(b'\n');
        archive
            .put_branch_file(branch, BinlogBranch::FILE_NAME, text.into())
            .await?;
        Ok(branch)
    }

    /// How positions of a branch of this server are written.
    pub fn log_files(&self, branch: Branch) -> LogFiles {
        LogFiles::Binlog {
            branch: branch.0,
            basename: self.basename,
        }
    }
}

/// Reads what a branch is.
///
/// # Errors
/// `Corrupt` when that is not there, or cannot be read; what the repository says.
pub async fn read_branch(archive: &Archive, branch: Branch) -> anyhow::Result<BinlogBranch> {
    let text = archive.read_branch_file(branch, BinlogBranch::FILE_NAME).await?;
    let record = text.and_then(|text| serde_json::from_slice(&text).ok());
    record.ok_or_else(|| {
        let message = format!(
            "{} of branch {branch} of {} is missing or cannot be read",
            BinlogBranch::FILE_NAME,
            archive.record().name
        );
        Failure::new(ErrorClass::Corrupt, message).into()
    })
}

/// Who the agent is to the server: the same for every run on this host.
pub fn replica_identity(settings: &MysqlSettings) -> ReplicaIdentity {
    ReplicaIdentity::new(&format!("{} on {}", settings.server.name, host::host_name()))
}

/// Refuses a server that is not of the configured engine.
///
/// # Errors
/// `Config`, with what to do.
pub fn check_engine(settings: &MysqlSettings, found: Flavor) -> Result<(), Failure> {
    if settings.flavor == found {
        return Ok(());
    }
    let engine = settings.server.engine.label();
    let message = format!(
        "the server of {} is {found}, and the configuration says {engine}",
        settings.server.name
    );
    Err(Failure::new(ErrorClass::Config, message).hint("correct its engine in the configuration"))
}
