//! The server being followed: connections, identity, and the generation of the archive that belongs to it.

use std::path::Path;
use std::time::Duration;

use tidemark_postgres::{ReplicationClient, SqlClient, SystemIdentity};
use tidemark_repository::base::BackupHeader;
use tidemark_repository::{Archive, NewServer, Repository};
use tidemark_types::{
    Clock, ErrorClass, Generation, Lsn, SegmentName, SystemClock, TimelineHistory, TimelineId, WalSegmentSize,
};

use super::lsn_map::branch_of;
use crate::archive::adopt_hint;
use crate::config::{PostgresqlSettings, ServerSettings};
use crate::exit::Failure;

/// A server that answers.
pub struct Source {
    /// For commands, and then for streaming; `None` also where the log comes from a spool.
    replication: Option<ReplicationClient>,
    /// For questions.
    pub sql: SqlClient,
    /// Who it is.
    pub identity: SystemIdentity,
    /// The past of its timeline.
    pub history: TimelineHistory,
    /// The text of its timeline's history file; `None` for a timeline without a past.
    pub history_file: Option<bytes::Bytes>,
    /// Its segment size.
    pub segment_size: WalSegmentSize,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// How long it waits for a sign of life from us; `None`: for ever.
    pub sender_timeout: Option<Duration>,
}

impl Source {
    /// Connects for questions, and for streaming too unless the log comes from a spool, and asks who is there.
    ///
    /// # Errors
    /// What the server says; that two hosts of the list answered.
    pub async fn connect(settings: &PostgresqlSettings) -> anyhow::Result<Source> {
        match &settings.archive_spool {
            Some(spool) => Source::over_sql(settings, spool).await,
            None => Source::for_streaming(settings).await,
        }
    }

    async fn for_streaming(settings: &PostgresqlSettings) -> anyhow::Result<Source> {
        let info = settings.connect_info()?;
        let mut replication = ReplicationClient::connect(&info).await?;
        let sql = SqlClient::connect(&info).await?;
        if sql.host() != replication.host() {
            let message = format!(
                "connected to {} and {}: the hosts' roles are changing",
                sql.host(),
                replication.host()
            );
            return Err(Failure::new(ErrorClass::Transient, message).into());
        }
        let identity = replication.identify_system().await?;
        let segment_size = replication.wal_segment_size().await?;
        let (history, history_file) = match identity.timeline {
            TimelineId(1) => (TimelineHistory::root(TimelineId(1)), None),
            timeline => {
                let (_, text) = replication.timeline_history(timeline).await?;
                (
                    TimelineHistory::parse(timeline, &String::from_utf8_lossy(&text))?,
                    Some(text),
                )
            }
        };
        // Milliseconds, whatever unit it was set in.
        let statement =
            "select pg_is_in_recovery(), setting::int8 from pg_settings where name = 'wal_sender_timeout'";
        let row = sql.query_one("look at the server", statement, &[]).await?;
        let sender_timeout = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
        Ok(Source {
            in_recovery: row.get(0),
            sender_timeout: (sender_timeout > 0).then(|| Duration::from_millis(sender_timeout)),
            replication: Some(replication),
            sql,
            identity,
            history,
            history_file,
            segment_size,
        })
    }

    /// A server that cannot be streamed from: no walsender is left, no REPLICATION privilege, a pooler in between.
    async fn over_sql(settings: &PostgresqlSettings, spool: &Path) -> anyhow::Result<Source> {
        let sql = SqlClient::connect(&settings.connect_info()?).await?;
        // A primary's control file learns of a promotion at the next checkpoint; the names of its segments show it at once.
        let statement = "select s.system_identifier, c.timeline_id, pg_is_in_recovery(), \
             case when not pg_is_in_recovery() then pg_walfile_name(pg_current_wal_lsn()) end, \
             (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end)::text, \
             (select setting::int8 from pg_settings where name = 'wal_segment_size') \
             from pg_control_system() s, pg_control_checkpoint() c";
        let row = sql.query_one("ask who the server is", statement, &[]).await?;
        let segment_size = WalSegmentSize::try_from(u64::try_from(row.get::<_, i64>(5)).unwrap_or(0))?;
        let segment: Option<String> = row.get(3);
        let timeline = match segment {
            Some(name) => SegmentName::parse(&name, segment_size)?.timeline,
            None => TimelineId(row.get::<_, i32>(1).cast_unsigned()),
        };
        let wal_end: Option<String> = row.get(4);
        // The archiver hands a history file over before any segment of its timeline.
        let text = std::fs::read(spool.join(timeline.history_file_name())).ok();
        let history = match &text {
            Some(text) => TimelineHistory::parse(timeline, &String::from_utf8_lossy(text))?,
            None => TimelineHistory::root(timeline),
        };
        Ok(Source {
            replication: None,
            identity: SystemIdentity {
                // SQL has no unsigned numbers: the same bits.
                system_id: row.get::<_, i64>(0).cast_unsigned(),
                timeline,
                wal_end: wal_end.map_or(Ok(Lsn::INVALID), |lsn| lsn.parse())?,
                dbname: None,
            },
            in_recovery: row.get(2),
            sender_timeout: None,
            sql,
            history,
            history_file: text.map(bytes::Bytes::from),
            segment_size,
        })
    }

    /// The connection for commands, until streaming takes it.
    ///
    /// # Errors
    /// When it was taken.
    pub fn replication(&mut self) -> anyhow::Result<&mut ReplicationClient> {
        self.replication.as_mut().ok_or_else(taken)
    }

    /// Hands the connection over, to stream.
    ///
    /// # Errors
    /// When it was taken.
    pub fn take_replication(&mut self) -> anyhow::Result<ReplicationClient> {
        self.replication.take().ok_or_else(taken)
    }

    /// The generation of the archive that belongs to this server; begins the first one when the name is new.
    ///
    /// # Errors
    /// `Conflict` when the name belongs to another cluster; what the repository says.
    pub async fn archive(
        &self,
        repository: &Repository,
        settings: &ServerSettings,
    ) -> anyhow::Result<Archive> {
        match repository.find_archive(&settings.name, None).await? {
            Some(archive) => {
                self.check_identity(&archive, settings)?;
                Ok(archive)
            }
            None => self.begin_generation(repository, settings, Generation(1)).await,
        }
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
            system_id: self.identity.system_id.to_string(),
            version: self.sql.version().to_string(),
            log_file_len: Some(self.segment_size.bytes()),
        };
        Ok(repository
            .create_archive(&settings.name, generation, new, SystemClock.now())
            .await?)
    }

    fn check_identity(&self, archive: &Archive, settings: &ServerSettings) -> anyhow::Result<()> {
        let record = archive.record();
        let (name, stored, found) = (&settings.name, &record.system_id, self.identity.system_id);
        let problem = if *stored != found.to_string() {
            format!(
                "the archive of {name} belongs to the cluster with system identifier {stored}, and the server at {} is {found}",
                self.sql.host()
            )
        } else if record.log_file_len != Some(self.segment_size.bytes()) {
            let size = record.log_file_len.unwrap_or_default();
            format!(
                "the archive of {name} has segments of {size} bytes, and the server now writes {}",
                self.segment_size.bytes()
            )
        } else {
            return Ok(());
        };
        Err(Failure::new(ErrorClass::Conflict, problem)
            .hint(adopt_hint(settings))
            .into())
    }

    /// Stores the history file of the server's timeline and of those before it: they come before any log of theirs.
    ///
    /// # Errors
    /// What the server or the repository says.
    pub async fn store_histories(&mut self, archive: &Archive) -> anyhow::Result<()> {
        if let Some(text) = &self.history_file {
            let timeline = self.identity.timeline;
            archive
                .put_branch_file(branch_of(timeline), &timeline.history_file_name(), text.clone())
                .await?;
        }
        let earlier: Vec<TimelineId> = self
            .history
            .ancestors
            .iter()
            .map(|entry| entry.timeline)
            .collect();
        for timeline in earlier.into_iter().filter(|timeline| timeline.0 > 1) {
            let name = timeline.history_file_name();
            if archive
                .read_branch_file(branch_of(timeline), &name)
                .await?
                .is_some()
            {
                continue;
            }
            // A server made from a base backup may lack the files of timelines before it.
            if let Ok((_, text)) = self.replication()?.timeline_history(timeline).await {
                archive.put_branch_file(branch_of(timeline), &name, text).await?;
            }
        }
        Ok(())
    }
}

fn taken() -> anyhow::Error {
    Failure::new(
        ErrorClass::Permanent,
        "the replication connection is streaming already",
    )
    .into()
}

/// Where a backup ends: its timeline and the position from which it is consistent.
pub fn backup_end(backup: &BackupHeader, size: WalSegmentSize) -> (TimelineId, Lsn) {
    let end = &backup.facts.end;
    let start = size.start_of(tidemark_types::SegmentNumber(end.file));
    (TimelineId(end.branch), Lsn(start.0.saturating_add(end.offset)))
}
