//! `BASE_BACKUP`: the command in the grammar of each version, and the pieces of its answer. What is inside the tar
//! archives is not known here.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use postgres_protocol::message::frontend;
use tidemark_types::{Lsn, TimelineId};

use super::ReplicationClient;
use crate::client::{Malformed, Message, Reader, Row};
use crate::error::PostgresError;
use crate::version::ServerVersion;

const OPERATION: &str = "BASE_BACKUP";

/// The first version with options in parentheses and one copy stream for everything.
const ONE_STREAM: u32 = 15;

/// How long the server may take to begin: a spread checkpoint takes `checkpoint_timeout`, an hour at most in practice.
const START_LIMIT: Duration = Duration::from_secs(3600);

/// How long the server may be silent in mid-backup. It reads files from its disk, and may throttle itself.
const SILENCE_LIMIT: Duration = Duration::from_secs(600);

/// How the checkpoint at the beginning is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    /// At once, at full speed.
    Fast,
    /// Spread over time, as an ordinary one; the backup begins that much later.
    Spread,
}

/// What to ask `BASE_BACKUP` for (manual: "Streaming Replication Protocol").
///
/// Asked for always: a `tablespace_map` instead of links, a manifest, no WAL in the archive, and no waiting for the
/// server's own archiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// The label that `backup_label` carries.
    pub label: String,
    /// How the first checkpoint is taken.
    pub checkpoint: Checkpoint,
    /// Whether sizes and progress are wanted; the server then counts its files first.
    pub progress: bool,
    /// An upper bound of the rate in kilobytes per second: 32 to 1048576.
    pub max_rate_kb: Option<u32>,
    /// Whether the server verifies page checksums while reading, and fails at the end if one is bad.
    pub verify_checksums: bool,
}

impl BaseBackupOptions {
    fn command(&self, version: ServerVersion) -> String {
        let label = format!("'{}'", self.label.replace('\'', "''"));
        let mut text = String::from("BASE_BACKUP ");
        // Writing to a String does not fail.
        let _ = if version.major() >= ONE_STREAM {
            self.write_options(&mut text, &label)
        } else {
            self.write_words(&mut text, &label)
        };
        text
    }

    /// 15 and later.
    fn write_options(&self, text: &mut String, label: &str) -> std::fmt::Result {
        let checkpoint = match self.checkpoint {
            Checkpoint::Fast => "fast",
            Checkpoint::Spread => "spread",
        };
        write!(
            text,
            "(LABEL {label}, CHECKPOINT '{checkpoint}', WAIT false, TABLESPACE_MAP true, MANIFEST 'yes'"
        )?;
        if self.progress {
            write!(text, ", PROGRESS true")?;
        }
        if let Some(rate) = self.max_rate_kb {
            write!(text, ", MAX_RATE {rate}")?;
        }
        if !self.verify_checksums {
            write!(text, ", VERIFY_CHECKSUMS false")?;
        }
        write!(text, ")")
    }

    /// 13 and 14.
    fn write_words(&self, text: &mut String, label: &str) -> std::fmt::Result {
        write!(text, "LABEL {label}")?;
        if self.progress {
            write!(text, " PROGRESS")?;
        }
        if self.checkpoint == Checkpoint::Fast {
            write!(text, " FAST")?;
        }
        write!(text, " NOWAIT")?;
        if let Some(rate) = self.max_rate_kb {
            write!(text, " MAX_RATE {rate}")?;
        }
        write!(text, " TABLESPACE_MAP")?;
        if !self.verify_checksums {
            write!(text, " NOVERIFY_CHECKSUMS")?;
        }
        write!(text, " MANIFEST 'yes'")
    }
}

/// One archive's worth of files, as announced before the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupTablespace {
    /// The tablespace's object id; `None` for the data directory itself.
    pub oid: Option<u32>,
    /// Where it lies on the server; `None` for the data directory.
    pub location: Option<String>,
    /// Its size in KiB as counted beforehand, with `progress` only.
    pub size_kb: Option<u64>,
}

impl BackupTablespace {
    fn from_row(row: &Row) -> BackupTablespace {
        BackupTablespace {
            oid: row.parse(0),
            location: row.text(1).map(str::to_owned),
            size_kb: row.parse(2),
        }
    }

    fn archive_name(&self) -> String {
        self.oid
            .map_or_else(|| "base.tar".to_owned(), |oid| format!("{oid}.tar"))
    }
}

/// What the stream brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseBackupEvent {
    /// A tar archive begins; the [`BaseBackupEvent::Data`] that follows belongs to it.
    Archive {
        /// `base.tar`, or a tablespace's object id with `.tar`.
        name: String,
        /// Where the tablespace lies on the server; `None` for the data directory.
        tablespace: Option<String>,
    },
    /// Bytes of the current archive or of the manifest, in the memory they were read into.
    Data(Bytes),
    /// What follows is the backup manifest (`backup_manifest`, JSON).
    ManifestBegins,
    /// How much the server has sent, in bytes (15 and later, with `progress`).
    Progress {
        /// Bytes so far.
        bytes: u64,
    },
    /// The backup is over: it is consistent once WAL was replayed up to `end`.
    Done {
        /// Where WAL may end at the earliest.
        end: Lsn,
        /// The timeline of that position.
        timeline: TimelineId,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Within, or between, copies; so many were begun.
    Copies(usize),
    /// The result set with the end position, once its row is here.
    End(Option<(Lsn, TimelineId)>),
    Ended,
}

/// A running `BASE_BACKUP`. It owns the connection; dropping it makes the server give the backup up.
pub struct BaseBackupStream {
    client: ReplicationClient,
    start: Lsn,
    timeline: TimelineId,
    tablespaces: Vec<BackupTablespace>,
    state: State,
}

impl BaseBackupStream {
    /// Sends the command and waits until data is about to come, which with [`Checkpoint::Spread`] takes minutes.
    /// # Errors
    /// [`PostgresError::Server`] (42501 without the REPLICATION attribute), [`PostgresError::Timeout`] after an hour,
    /// or a connection variant. Cancelling drops the connection.
    pub async fn start(
        mut client: ReplicationClient,
        options: &BaseBackupOptions,
    ) -> Result<BaseBackupStream, PostgresError> {
        let command = options.command(client.version);
        let queued = frontend::query(&command, client.wire.queue());
        queued.map_err(|error| client.wire.protocol(OPERATION, error.to_string()))?;
        let mut results: Vec<Vec<Row>> = Vec::new();
        loop {
            match client.wire.receive_within(OPERATION, START_LIMIT).await? {
                Message::RowDescription(_) => results.push(Vec::new()),
                Message::DataRow(row) => {
                    if let Some(rows) = results.last_mut() {
                        rows.push(row);
                    }
                }
                Message::CopyOut => break,
                Message::Error(error) => return Err(server_error(error)),
                Message::CommandComplete(_)
                | Message::Notice(_)
                | Message::ParameterStatus(..)
                | Message::Other(_) => {}
                other => return Err(client.wire.unexpected(OPERATION, &other)),
            }
        }
        let position = results.first().and_then(|rows| position(rows.first()?));
        let (start, timeline) = position.ok_or_else(|| {
            client
                .wire
                .protocol(OPERATION, "no start position before the data".to_owned())
        })?;
        let tablespaces: Vec<_> = results
            .get(1)
            .map(|rows| rows.iter().map(BackupTablespace::from_row).collect())
            .unwrap_or_default();
        Ok(BaseBackupStream {
            client,
            start,
            timeline,
            tablespaces,
            state: State::Copies(0),
        })
    }

    /// Where WAL must begin for this backup.
    pub fn begin(&self) -> Lsn {
        self.start
    }

    /// The timeline of that position.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The archives to come, in their order: tablespaces first, the data directory last.
    pub fn tablespaces(&self) -> &[BackupTablespace] {
        &self.tablespaces
    }

    /// The next event. Cancellation safe.
    /// # Errors
    /// [`PostgresError::Server`]: XX001 at the end when page checksums were bad; [`PostgresError::Timeout`] for a
    /// silent server; a connection variant. The backup is lost after each of them.
    pub async fn next(&mut self) -> Result<BaseBackupEvent, PostgresError> {
        // The first copy's announcement was taken by `start`.
        if self.state == State::Copies(0)
            && let Some(event) = self.begin_copy()
        {
            return Ok(event);
        }
        loop {
            if self.state == State::Ended {
                return Err(self
                    .client
                    .wire
                    .protocol(OPERATION, "the backup is over".to_owned()));
            }
            let message = self.client.wire.receive_within(OPERATION, SILENCE_LIMIT).await?;
            if let Some(event) = self.take(message)? {
                return Ok(event);
            }
        }
    }

    /// Counts a copy. In 13 and 14 there is one for each tablespace, then one for the manifest; later versions
    /// announce both within the only one.
    fn begin_copy(&mut self) -> Option<BaseBackupEvent> {
        let State::Copies(begun) = self.state else {
            return None;
        };
        self.state = State::Copies(begun + 1);
        if self.client.version.major() >= ONE_STREAM {
            return None;
        }
        Some(
            self.tablespaces
                .get(begun)
                .map_or(BaseBackupEvent::ManifestBegins, |tablespace| {
                    BaseBackupEvent::Archive {
                        name: tablespace.archive_name(),
                        tablespace: tablespace.location.clone(),
                    }
                }),
        )
    }

    fn take(&mut self, message: Message) -> Result<Option<BaseBackupEvent>, PostgresError> {
        match (message, self.state) {
            (Message::CopyData(body), State::Copies(_)) if self.client.version.major() >= ONE_STREAM => {
                decode(body)
                    .map_err(|Malformed(problem)| self.client.wire.protocol(OPERATION, problem.to_owned()))
            }
            // 13 sends empty pieces; they say nothing.
            (Message::CopyData(body), State::Copies(_)) => {
                Ok((!body.is_empty()).then_some(BaseBackupEvent::Data(body)))
            }
            (Message::CopyOut, State::Copies(_)) => Ok(self.begin_copy()),
            (Message::RowDescription(_), State::Copies(_)) => {
                self.state = State::End(None);
                Ok(None)
            }
            (Message::DataRow(row), State::End(_)) => {
                self.state = State::End(position(&row));
                Ok(None)
            }
            (Message::ReadyForQuery, State::End(result)) => {
                self.state = State::Ended;
                let (end, timeline) = result
                    .ok_or_else(|| self.client.wire.protocol(OPERATION, "no end position".to_owned()))?;
                Ok(Some(BaseBackupEvent::Done { end, timeline }))
            }
            (Message::Error(error), _) => {
                self.state = State::Ended;
                Err(server_error(error))
            }
            (Message::Notice(notice), _) => {
                tracing::warn!(%notice, "the server says during the base backup");
                Ok(None)
            }
            (
                Message::CopyDone
                | Message::CommandComplete(_)
                | Message::ParameterStatus(..)
                | Message::Other(_),
                _,
            ) => Ok(None),
            (other, _) => Err(self.client.wire.unexpected(OPERATION, &other)),
        }
    }

    /// The connection, after [`BaseBackupEvent::Done`]; `None` before.
    pub fn into_client(self) -> Option<ReplicationClient> {
        (self.state == State::Ended).then_some(self.client)
    }
}

fn server_error(error: Box<crate::error::ServerError>) -> PostgresError {
    PostgresError::Server {
        operation: OPERATION.to_owned(),
        error,
    }
}

/// A row of position and timeline.
fn position(row: &Row) -> Option<(Lsn, TimelineId)> {
    Some((row.parse(0)?, TimelineId(row.parse(1)?)))
}

/// Decodes a CopyData payload of 15 and later (`bbsink_copystream` in the server's `basebackup_copy.c`).
fn decode(body: Bytes) -> Result<Option<BaseBackupEvent>, Malformed> {
    let mut body = Reader(body);
    match body.u8()? {
        b'n' => {
            let (name, location) = (body.text()?, body.text()?);
            Ok(Some(BaseBackupEvent::Archive {
                name,
                tablespace: Some(location).filter(|path| !path.is_empty()),
            }))
        }
        b'm' => Ok(Some(BaseBackupEvent::ManifestBegins)),
        b'd' => {
            let data = body.rest();
            Ok((!data.is_empty()).then_some(BaseBackupEvent::Data(data)))
        }
        b'p' => Ok(Some(BaseBackupEvent::Progress { bytes: body.u64()? })),
        _ => Err(Malformed("a backup message of unknown kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options() -> BaseBackupOptions {
        BaseBackupOptions {
            label: "it's ours".to_owned(),
            checkpoint: Checkpoint::Fast,
            progress: true,
            max_rate_kb: Some(1024),
            verify_checksums: false,
        }
    }

    #[test]
    fn each_version_gets_its_own_grammar() {
        assert_eq!(
            options().command(ServerVersion(150_000)),
            "BASE_BACKUP (LABEL 'it''s ours', CHECKPOINT 'fast', WAIT false, TABLESPACE_MAP true, MANIFEST 'yes', \
             PROGRESS true, MAX_RATE 1024, VERIFY_CHECKSUMS false)"
        );
        assert_eq!(
            options().command(ServerVersion(140_005)),
            "BASE_BACKUP LABEL 'it''s ours' PROGRESS FAST NOWAIT MAX_RATE 1024 TABLESPACE_MAP NOVERIFY_CHECKSUMS \
             MANIFEST 'yes'"
        );
    }

    #[test]
    fn pieces_are_decoded() {
        let event = |bytes: &'static [u8]| decode(Bytes::from_static(bytes));
        assert_eq!(
            event(b"nbase.tar\0\0"),
            Ok(Some(BaseBackupEvent::Archive {
                name: "base.tar".to_owned(),
                tablespace: None
            }))
        );
        assert_eq!(
            event(b"n16384.tar\0/srv/x\0"),
            Ok(Some(BaseBackupEvent::Archive {
                name: "16384.tar".to_owned(),
                tablespace: Some("/srv/x".to_owned())
            }))
        );
        assert_eq!(event(b"d"), Ok(None));
        assert!(event(b"q").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_pieces_never_panic(kind in prop::sample::select(b"nmdpx".to_vec()), body: Vec<u8>) {
            let _ = decode(Bytes::from([vec![kind], body].concat()));
        }
    }
}
