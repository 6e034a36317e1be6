//! Base backups of MySQL and MariaDB: by which way, over which parent, and where in the log they belong.
//!
//! Every way ends in a stream of files that [`receive()`] takes in; only pages that the parent does not have are stored.

mod receive;
pub mod survey;

use std::sync::Arc;

use tidemark_mysql::archive::BinlogBranch;
use tidemark_mysql::basebackup::{
    BINLOG_INFO_FILES, BackupMethod, DirectoryRead, DumpFacts, DumpRun, LogState, ManifestFacts,
    ProgramOptions, ProgramRun, ScratchDirectory, ServerDescription, clone, read_binlog_info,
};
use tidemark_mysql::client::{ConnectOptions, Sql};
use tidemark_repository::Branch;
use tidemark_repository::base::{BackupReader, BackupWriter};
use tidemark_types::{BinlogBasename, Clock, ErrorClass, LogFiles, LogPosition, Position, SystemClock};
use tokio_util::sync::CancellationToken;

use self::receive::{Received, Stream, receive};
use self::survey::{Survey, Way};
use super::durable::LogWriter;
use super::lanes::cancelled;
use super::parent::newest;
use super::take::{Copied, Job, Source, Taken, attempt, distrust};
use crate::archive::mysql::source::Source as LogSource;
use crate::config::MysqlSettings;
use crate::exit::Failure;
use crate::schedule::BackupKind;

/// A server to be copied.
#[derive(Clone, Copy)]
pub struct Dataset<'a> {
    /// Its settings.
    settings: &'a MysqlSettings,
    /// What was found out about it.
    survey: &'a Survey,
    /// What the copy is laid over.
    pub parent: Option<&'a Parent>,
}

/// A base backup whose maps can be laid over.
pub struct Parent {
    /// Its manifest and maps.
    pub reader: Arc<BackupReader>,
    /// What its manifest says about the server.
    facts: ManifestFacts,
}

/// Takes a backup of a server.
///
/// # Errors
/// As [`super::take::take`].
pub async fn take(job: &Job, settings: &MysqlSettings, cancel: &CancellationToken) -> anyhow::Result<Taken> {
    let survey = survey::survey(settings).await?;
    let parent = match job.kind {
        BackupKind::Full => None,
        BackupKind::Incremental => newest(&job.archive).await?,
    };
    let parent = parent
        .map(|(reader, facts)| Parent { reader, facts })
        .filter(|parent| parent.fits(&survey));
    let dataset = Dataset {
        settings,
        survey: &survey,
        parent: parent.as_ref(),
    };
    let result = attempt(job, &Source::Dataset(dataset), cancel).await;
    let distrusted = parent.as_ref().and_then(|_| distrust(&result));
    if distrusted.is_none() {
        return result;
    }
    let full = Dataset {
        parent: None,
        ..dataset
    };
    let taken = attempt(job, &Source::Dataset(full), cancel).await?;
    Ok(Taken { distrusted, ..taken })
}

impl Parent {
    /// Whether the server's files have the same names and pages as then.
    fn fits(&self, survey: &Survey) -> bool {
        self.facts.method == survey.way.method() && self.facts.page_size == survey.page_size
    }
}

/// What was stored, and of which point of the log it is.
struct Stored {
    received: Received,
    before: LogState,
    after: LogState,
    exact: Option<LogState>,
    program_version: Option<String>,
    missing: Vec<String>,
}

impl Dataset<'_> {
    /// Copies it.
    ///
    /// # Errors
    /// What the server, its disk or the repository says; `Transient` when the log that is being stored is not this
    /// server's; `Cancelled`.
    pub async fn copy(
        &self,
        job: &Job,
        writer: &mut BackupWriter,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Copied> {
        let mut source = LogSource::connect(self.settings).await?;
        let branch = branch(job, &source).await?;
        let server = ServerDescription::query(&mut source.sql, self.survey.way.is_local()).await?;
        let (sql, options) = (source.sql, source.options);
        let method = self.survey.way.method();
        tracing::info!(backup = %writer.backup(), method = method.label(), "base backup runs");
        let stored = match &self.survey.way {
            Way::Clone { .. } => self.by_clone(job, sql, &options, writer, cancel).await?,
            Way::Program { .. } => self.by_program(job, sql, &options, writer, cancel).await?,
            Way::Dump => self.by_dump(job, options, writer, cancel).await?,
        };
        let stopped = SystemClock.now();
        check_unchanged(job, branch)?;
        let facts = ManifestFacts {
            method,
            before: stored.before,
            after: stored.after,
            exact: stored.exact,
            page_size: self.survey.page_size,
            program_version: stored.program_version,
            missing: stored.missing,
            server,
        };
        let (begin, end) = bounds(&facts, branch)?;
        Ok(Copied {
            packs: stored.received.packs,
            branch,
            begin,
            end,
            stopped,
            server_version: facts.server.version.clone(),
            engine_facts: serde_json::to_value(&facts)?,
            bad_pages: 0,
        })
    }

    async fn by_clone(
        &self,
        job: &Job,
        sql: Sql,
        options: &ConnectOptions,
        writer: &mut BackupWriter,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Stored> {
        let Way::Clone {
            data_directory,
            scratch,
        } = &self.survey.way
        else {
            unreachable!("the caller looked")
        };
        let scratch = ScratchDirectory::new(scratch.clone());
        let (before, after) = clone(sql, options, data_directory, &scratch, cancel).await?;
        let files = DirectoryRead::open(scratch.path()).await?;
        job.progress.expect(files.total_bytes());
        let received = self
            .receive(job, &mut Stream::Directory(files), writer, cancel)
            .await?;
        if let Err(error) = scratch.remove().await {
            tracing::warn!(%error, "a clone that was stored could not be removed; the next base backup tries again");
        }
        Ok(Stored {
            received,
            before,
            after,
            exact: None,
            program_version: None,
            missing: Vec::new(),
        })
    }

    async fn by_program(
        &self,
        job: &Job,
        mut sql: Sql,
        options: &ConnectOptions,
        writer: &mut BackupWriter,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Stored> {
        let Way::Program {
            data_directory,
            program,
        } = &self.survey.way
        else {
            unreachable!("the caller looked")
        };
        let before = LogState::query(&mut sql).await?;
        let program_options = ProgramOptions {
            connection: options,
            host: &self.survey.host,
            data_directory,
            threads: job.settings().base_backup.jobs,
        };
        let run = ProgramRun::start(program, &program_options)?;
        let mut stream = Stream::Program(Box::new(run));
        let received = self.receive(job, &mut stream, writer, cancel).await?;
        let exact = read_binlog_info(&received.kept)?;
        let missing = match &stream {
            Stream::Program(program) => program.left_out().to_vec(),
            Stream::Directory(_) | Stream::Dump(_) => Vec::new(),
        };
        // The connection was idle for as long as the backup took.
        let after = LogState::query(&mut Sql::connect(options).await?).await?;
        Ok(Stored {
            received,
            before,
            after,
            exact: Some(exact),
            program_version: Some(program.version.clone()),
            missing,
        })
    }

    async fn by_dump(
        &self,
        job: &Job,
        options: ConnectOptions,
        writer: &mut BackupWriter,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Stored> {
        let mut stream = Stream::Dump(DumpRun::start(options, job.settings().base_backup.jobs));
        let received = self.receive(job, &mut stream, writer, cancel).await?;
        let facts = match &stream {
            Stream::Dump(dump) => dump.facts().cloned(),
            Stream::Directory(_) | Stream::Program(_) => None,
        };
        let DumpFacts { point, missing } = facts.ok_or_else(cancelled)?;
        if !missing.is_empty() {
            tracing::warn!(?missing, "not everything is in the dump");
        }
        Ok(Stored {
            received,
            before: point.clone(),
            after: point.clone(),
            exact: Some(point),
            program_version: None,
            missing,
        })
    }

    async fn receive(
        &self,
        job: &Job,
        stream: &mut Stream,
        writer: &mut BackupWriter,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Received> {
        let parent = self.parent.map(|parent| &parent.reader);
        let page_size = usize::try_from(self.survey.page_size)?;
        receive(job, stream, parent, page_size, &BINLOG_INFO_FILES, writer, cancel).await
    }
}

/// The branch that the server's log is being stored on.
async fn branch(job: &Job, source: &LogSource) -> anyhow::Result<Branch> {
    let current = match &job.log {
        LogWriter::Here(state) => state.update(|facts| facts.branch),
        LogWriter::Elsewhere => job.archive.branches().await?.into_iter().max(),
    };
    let name = &job.settings().name;
    let not_stored = || {
        Failure::new(
            ErrorClass::Transient,
            format!("the log of {name} is not being stored yet"),
        )
    };
    let branch = current.ok_or_else(not_stored)?;
    let record = job
        .archive
        .read_branch_file(branch, BinlogBranch::FILE_NAME)
        .await?;
    let record: BinlogBranch = serde_json::from_slice(&record.ok_or_else(not_stored)?)?;
    let (identity, basename) = (&source.identity, source.basename.as_str());
    if record.server == *identity && record.basename == basename {
        return Ok(branch);
    }
    let message = format!(
        "the log of {name} is stored of server {} ({}.*), and server {identity} ({basename}.*) answers",
        record.server, record.basename
    );
    Err(Failure::new(ErrorClass::Transient, message)
        .hint("after a failover this passes when the agent has followed it")
        .into())
}

/// Positions told during the backup are of one branch.
fn check_unchanged(job: &Job, branch: Branch) -> anyhow::Result<()> {
    let LogWriter::Here(state) = &job.log else {
        return Ok(());
    };
    if state.update(|facts| facts.branch) == Some(branch) {
        return Ok(());
    }
    let message = "the server's log began anew during the base backup; it is taken again";
    Err(Failure::new(ErrorClass::Transient, message).into())
}

/// From where on log is needed, and up to where.
fn bounds(facts: &ManifestFacts, branch: Branch) -> anyhow::Result<(Position, Position)> {
    let (begin, end) = facts.bounds();
    Ok((position(begin, branch)?, position(end, branch)?))
}

fn position((file, offset): (&str, u64), branch: Branch) -> anyhow::Result<Position> {
    let (basename, number) = BinlogBasename::parse_file(file).ok_or_else(|| {
        let message = format!("the server calls a binlog file \"{file}\"");
        Failure::new(ErrorClass::Permanent, message)
    })?;
    let files = LogFiles::Binlog {
        branch: branch.0,
        basename,
    };
    Ok(files.position(LogPosition { file: number, offset }))
}

impl Way {
    /// What configurations and manifests call it.
    pub fn method(&self) -> BackupMethod {
        match self {
            Way::Clone { .. } => BackupMethod::Clone,
            Way::Program { .. } => BackupMethod::MariadbBackup,
            Way::Dump => BackupMethod::Dump,
        }
    }

    /// Whether it reads files of this host.
    fn is_local(&self) -> bool {
        match self {
            Way::Clone { .. } | Way::Program { .. } => true,
            Way::Dump => false,
        }
    }
}

#[cfg(test)]
mod tests;
