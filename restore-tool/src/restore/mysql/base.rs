//! The base backup: what its manifest says, its files, what makes them fit to be started on.

use std::sync::Arc;

use anyhow::Context;
use tidemark_mysql::basebackup::{BackupMethod, ManifestFacts};
use tidemark_mysql::binlog::{BinlogOffset, Flavor};
use tidemark_mysql::restore::{
    Executed, Held, PrivateOptions, ReplayStart, Series, ServerLaunch, ServerProgram, load_dump,
    prepare_backup,
};
use tidemark_repository::base::BackupReader;
use tidemark_types::{ErrorClass, Position};

use super::find;
use super::place::Place;
use crate::cli::{Action, RestoreArgs};
use crate::engine::Engine;
use crate::exit::Failure;
use crate::plan::Line;
use crate::planning::Question;
use crate::restore::configuration::LostConfiguration;
use crate::restore::files;
use crate::restore::place::{check_room, make_private};
use crate::restore::run::buffers_mib;
use crate::restore::summary::Progress;

/// `innodb_buffer_pool_size` where nothing tells how much memory there is, in MiB.
const BUFFERS_MIB: u64 = 256;

/// How many times its own length a dump takes, while it is loaded: the statements, and tables with their indexes.
const DUMP_ROOM: u64 = 3;

/// A base backup, and the server that it is for.
pub struct Base {
    id: String,
    reader: Arc<BackupReader>,
    facts: ManifestFacts,
    launch: ServerLaunch,
}

impl Base {
    /// Reads the manifest of `backup`, and finds the server program.
    ///
    /// # Errors
    /// Damage; a backup that this version cannot restore; no program.
    pub async fn open(
        args: &RestoreArgs,
        question: &Question,
        place: &Place,
        backup: &str,
    ) -> anyhow::Result<Base> {
        let id = backup.parse()?;
        let reader = BackupReader::open(question.archive.base(), &id)
            .await
            .with_context(|| format!("open base backup {backup}"))?;
        let facts = reader.header().facts.engine_facts.clone();
        let lacking = |problem: String| {
            let message =
                format!("the manifest of base backup {backup} lacks what a restore needs: {problem}");
            Failure::new(ErrorClass::Corrupt, message)
        };
        let facts: ManifestFacts =
            serde_json::from_value(facts).map_err(|error| lacking(error.to_string()))?;
        let flavor = flavor_of(question.listed.engine);
        let version = &facts.server.version;
        let series = Series::of_version(flavor, version)
            .ok_or_else(|| lacking(format!("\"{version}\" is no version")))?;
        let search_path = std::env::var_os("PATH");
        let program = ServerProgram::find(series, args.mysqld.as_deref(), search_path.as_deref())?;
        place.owner.check_reaches(&program.path, "its program")?;
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let mut options = PrivateOptions::new(&place.server, buffers_mib(&meminfo).unwrap_or(BUFFERS_MIB));
        options.take_settings(&facts.server.settings);
        options.is_read_only = args.action == Action::Pause;
        Ok(Base {
            id: backup.to_owned(),
            reader: Arc::new(reader),
            launch: ServerLaunch {
                program,
                data_directory: place.data.clone(),
                options,
            },
            facts,
        })
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How the private server is started.
    pub fn launch(&self) -> ServerLaunch {
        self.launch.clone()
    }

    /// Where the log that it needs begins on `line`; `None` when it is not there.
    pub fn begin(&self, line: &Line<'_>) -> Option<Position> {
        let branch = self.reader.header().facts.begin.branch;
        let ((file, offset), _) = self.facts.bounds();
        find(line, branch, file, offset)
    }

    /// Where applying begins, and what the data holds there.
    ///
    /// # Errors
    /// When the manifest makes no sense, or the method is one that cannot be restored yet.
    pub fn start(&self) -> anyhow::Result<ReplayStart> {
        let flavor = self.launch.program.flavor;
        let read = |text: &Option<String>| {
            let text = text.as_deref().unwrap_or_default();
            Executed::parse(flavor, text).map_err(|error| {
                let message = format!("the manifest of base backup {}: {error}", self.id);
                Failure::new(ErrorClass::Corrupt, message)
            })
        };
        match (self.facts.method, &self.facts.exact) {
            (BackupMethod::MariadbBackup, Some(exact)) => Ok(ReplayStart {
                offset: Some(BinlogOffset(exact.offset)),
                held: Held::Exactly(read(&exact.gtid_binlog_pos)?),
            }),
            (BackupMethod::Clone, _) => {
                let (least, most) = (
                    read(&self.facts.before.gtid_executed)?,
                    read(&self.facts.after.gtid_executed)?,
                );
                let (Executed::MySql(least), Executed::MySql(most)) = (least, most) else {
                    return Err(self.unsupported().into());
                };
                Ok(ReplayStart {
                    offset: None,
                    held: Held::Between { least, most },
                })
            }
            (BackupMethod::Dump, Some(exact)) => {
                let executed = exact.gtid_executed.as_ref().or(exact.gtid_binlog_pos.as_ref());
                Ok(ReplayStart {
                    offset: Some(BinlogOffset(exact.offset)),
                    held: Held::Untold(read(&executed.cloned())?),
                })
            }
            (_, _) => Err(self.unsupported().into()),
        }
    }

    fn unsupported(&self) -> Failure {
        let method = self.facts.method.label();
        let message = format!(
            "base backup {} was taken by {method}, which cannot be restored yet",
            self.id
        );
        Failure::new(ErrorClass::Config, message)
    }

    /// Lays its files down.
    ///
    /// # Errors
    /// Damage in the backup; a file that cannot be written.
    pub async fn lay_down(
        &self,
        args: &RestoreArgs,
        question: &Question,
        place: &Place,
    ) -> anyhow::Result<()> {
        // Before anything is written.
        self.start()?;
        if self.facts.method == BackupMethod::Dump {
            let bytes = self.reader.header().totals.bytes;
            check_room(&place.data, bytes.saturating_mul(DUMP_ROOM))?;
        }
        place.make()?;
        let to = match self.facts.method {
            BackupMethod::Dump => place.statements(),
            BackupMethod::Clone | BackupMethod::MariadbBackup => place.data.clone(),
        };
        make_private(&to)?;
        place.owner.give(&to)?;
        files::fetch(args, &question.archive, &self.reader, &to, place.owner).await?;
        tokio::task::spawn_blocking(move || files::sync_file_system(&to)).await?
    }

    /// Makes of the files what a server can be started on, if they are not yet; says whether it did.
    ///
    /// # Errors
    /// When a program is not there, or fails; a statement that the server refuses.
    pub async fn prepare(&self, place: &Place) -> anyhow::Result<bool> {
        match self.facts.method {
            BackupMethod::Clone => return Ok(false),
            BackupMethod::MariadbBackup => {
                prepare_backup(&self.launch, &place.state.join("prepare.log")).await?;
            }
            BackupMethod::Dump => self.load(place).await?,
        }
        Ok(true)
    }

    /// Makes a server of the statements.
    async fn load(&self, place: &Place) -> anyhow::Result<()> {
        let statements = place.statements();
        let progress = Progress::new("load dump", self.reader.header().totals.bytes);
        let mut tell = |bytes| progress.add(bytes);
        load_dump(&self.launch, &statements.join("dump"), &mut tell).await?;
        progress.finish();
        std::fs::remove_dir_all(&statements).with_context(|| format!("remove {}", statements.display()))
    }

    /// Lays what the backup keeps of the lost server's configuration beside the data, for whoever puts it into service.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_configuration(&self, place: &Place) -> anyhow::Result<()> {
        // Those of the data directory too: a clone comes without, and a restored server is none that ever was.
        let lost = LostConfiguration {
            files: self
                .facts
                .server
                .configuration_files
                .iter()
                .map(|file| (file.path.as_str(), file.text.as_str()))
                .collect(),
            data_directory: None,
        };
        let Some(folder) = lost.folder(&place.state) else {
            return Ok(());
        };
        lost.write(&folder)?;
        place.owner.give_all(&folder)
    }

    /// What the original had and the backup lacks.
    pub fn missing(&self) -> &[String] {
        &self.facts.missing
    }
}

fn flavor_of(engine: Engine) -> Flavor {
    match engine {
        Engine::Mariadb => Flavor::MariaDb,
        Engine::Mysql | Engine::Postgresql => Flavor::MySql,
    }
}
