//! Physical replication (manual: "Streaming Replication Protocol"): commands, the WAL stream, `BASE_BACKUP`.
//!
//! What arrives is handed on as it is: contiguity, hashes and parsing are the caller's.

mod base_backup;
mod stream;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemark_types::{Lsn, TimelineId, WalSegmentSize};

use crate::client::{Message, Purpose, Row, Session, Wire, connect, simple_query};
use crate::conninfo::ConnInfo;
use crate::error::{PostgresError, ServerError};
use crate::version::ServerVersion;

pub use base_backup::{BackupTablespace, BaseBackupEvent, BaseBackupOptions, BaseBackupStream, Checkpoint};
pub use stream::{StreamEvent, WalStream};

/// How long a short command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// What `IDENTIFY_SYSTEM` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's identifier, made by `initdb`.
    pub system_id: u64,
    /// The timeline the server is on.
    pub timeline: TimelineId,
    /// The end of WAL: flushed on a primary, replayed on a standby.
    pub wal_end: Lsn,
    /// The database, on connections that have one.
    pub dbname: Option<String>,
}

/// Where a slot stands, as `READ_REPLICATION_SLOT` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotPosition {
    /// The oldest WAL it holds back; `None` while it holds nothing.
    pub restart_lsn: Option<Lsn>,
    /// The timeline of that position.
    pub timeline: Option<TimelineId>,
}

/// What a start of streaming led to.
pub enum Started {
    /// WAL is coming.
    Streaming(WalStream),
    /// The timeline ends exactly where streaming should begin: there is nothing on it, and the server says so
    /// without streaming.
    TimelineEnded {
        /// The connection, ready for the next command.
        client: ReplicationClient,
        /// The timeline that goes on.
        next: TimelineId,
        /// Where it leaves this one.
        switch: Lsn,
    },
}

/// A physical replication connection between two commands.
pub struct ReplicationClient {
    wire: Wire,
    parameters: BTreeMap<String, String>,
    version: ServerVersion,
}

impl ReplicationClient {
    /// Connects in replication mode, to the host that `info` leads to.
    /// # Errors
    /// Any of [`PostgresError`]'s connection variants.
    pub async fn connect(info: &ConnInfo) -> Result<ReplicationClient, PostgresError> {
        let Session {
            wire,
            parameters,
            version,
            ..
        } = connect(info, Purpose::Replication).await?;
        Ok(ReplicationClient {
            wire,
            parameters,
            version,
        })
    }

    /// The server's version.
    pub fn version(&self) -> ServerVersion {
        self.version
    }

    /// A setting that the server reported at connect, such as `in_hot_standby` (14 and later).
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The host that serves: `host:port` or the socket's path.
    pub fn host(&self) -> &str {
        self.wire.host()
    }

    /// Asks who the server is and where it stands.
    /// # Errors
    /// [`PostgresError`]; after a connection variant this client is of no more use.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, PostgresError> {
        let operation = "IDENTIFY_SYSTEM";
        let row = self.one_row("IDENTIFY_SYSTEM", operation).await?;
        let identity = || {
            Some(SystemIdentity {
                system_id: row.parse(0)?,
                timeline: TimelineId(row.parse(1)?),
                wal_end: row.parse(2)?,
                dbname: row.text(3).map(str::to_owned),
            })
        };
        identity().ok_or_else(|| {
            self.wire
                .protocol(operation, "a row that is not its result".to_owned())
        })
    }

    /// The value of a setting, in the server's text form.
    /// # Errors
    /// [`PostgresError`]; [`PostgresError::Server`] for a setting that does not exist.
    pub async fn show(&mut self, setting: &str) -> Result<String, PostgresError> {
        let row = self
            .one_row(&format!("SHOW {}", quote_identifier(setting)), "SHOW")
            .await?;
        row.text(0)
            .map(str::to_owned)
            .ok_or_else(|| self.wire.protocol("SHOW", "a row without a value".to_owned()))
    }

    /// The size of a WAL segment.
    /// # Errors
    /// As [`ReplicationClient::show`].
    pub async fn wal_segment_size(&mut self) -> Result<WalSegmentSize, PostgresError> {
        let text = self.show("wal_segment_size").await?;
        parse_memory_unit(&text)
            .and_then(|bytes| WalSegmentSize::try_from(bytes).ok())
            .ok_or_else(|| self.wire.protocol("SHOW wal_segment_size", format!("\"{text}\"")))
    }

    /// Makes a physical slot that holds WAL back from now on (`RESERVE_WAL`): without that a slot holds nothing
    /// until the first stream from it.
    /// # Errors
    /// [`PostgresError::Server`] with SQLSTATE 42710 if there is one of that name.
    pub async fn create_physical_slot(&mut self, slot: &str) -> Result<(), PostgresError> {
        let command = format!(
            "CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL",
            quote_identifier(slot)
        );
        self.command(&command, "CREATE_REPLICATION_SLOT").await.map(drop)
    }

    /// Reads where a slot stands; `None` if there is none. Servers before 15 have no such command: there
    /// [`SlotStatus::query`](crate::preflight::SlotStatus::query) tells it over SQL.
    /// # Errors
    /// [`PostgresError::UnsupportedVersion`] before 15.
    pub async fn read_slot(&mut self, slot: &str) -> Result<Option<SlotPosition>, PostgresError> {
        if self.version.major() < 15 {
            return Err(PostgresError::UnsupportedVersion {
                found: self.version.to_string(),
                needed: "15",
            });
        }
        let command = format!("READ_REPLICATION_SLOT {}", quote_identifier(slot));
        let row = self.one_row(&command, "READ_REPLICATION_SLOT").await?;
        Ok(row.text(0).map(|_| SlotPosition {
            restart_lsn: row.parse(1),
            timeline: row.parse(2).map(TimelineId),
        }))
    }

    /// Drops a slot.
    /// # Errors
    /// [`PostgresError::SlotMissing`], [`PostgresError::SlotInUse`].
    pub async fn drop_slot(&mut self, slot: &str) -> Result<(), PostgresError> {
        let command = format!("DROP_REPLICATION_SLOT {}", quote_identifier(slot));
        let result = self.command(&command, "DROP_REPLICATION_SLOT").await;
        result.map(drop).map_err(|error| slot_error(error, slot))
    }

    /// The history file of a timeline: its name and its bytes as the server has them. Timeline 1 has none.
    /// # Errors
    /// [`PostgresError::Server`] with SQLSTATE 58P01 if the server has no such file.
    pub async fn timeline_history(&mut self, timeline: TimelineId) -> Result<(String, Bytes), PostgresError> {
        let operation = "TIMELINE_HISTORY";
        let row = self
            .one_row(&format!("TIMELINE_HISTORY {timeline}"), operation)
            .await?;
        let name = row.text(0).map(str::to_owned);
        let content = row.0.into_iter().nth(1).flatten();
        name.zip(content).ok_or_else(|| {
            self.wire
                .protocol(operation, "a row that is not its result".to_owned())
        })
    }

    /// Starts streaming at `start` of `timeline`, from `slot` if given.
    ///
    /// Before 18 the server takes a lost slot too, and streams from it if it still has the WAL: ask
    /// [`SlotStatus`](crate::preflight::SlotStatus) whether the slot holds anything back.
    /// # Errors
    /// [`PostgresError::WalRemoved`], [`PostgresError::SlotLost`], [`PostgresError::SlotInUse`],
    /// [`PostgresError::SlotMissing`]; [`PostgresError::Server`] where `start` lies past the end of the timeline.
    /// The connection is gone in each case.
    pub async fn start_physical(
        mut self,
        slot: Option<&str>,
        start: Lsn,
        timeline: TimelineId,
    ) -> Result<Started, PostgresError> {
        let operation = "START_REPLICATION";
        let from = slot
            .map(|slot| format!("SLOT {} ", quote_identifier(slot)))
            .unwrap_or_default();
        let command = format!("START_REPLICATION {from}PHYSICAL {start} TIMELINE {timeline}");
        let queued = postgres_protocol::message::frontend::query(&command, self.wire.queue());
        queued.map_err(|error| self.wire.protocol(operation, error.to_string()))?;
        let mut ended = None;
        loop {
            match self.wire.receive_within(operation, COMMAND_TIMEOUT).await? {
                Message::CopyBoth => return Ok(Started::Streaming(WalStream::new(self, start, timeline))),
                Message::DataRow(row) => ended = stream::next_timeline(&row),
                Message::ReadyForQuery => {
                    return match ended {
                        Some((next, switch)) => Ok(Started::TimelineEnded {
                            client: self,
                            next,
                            switch,
                        }),
                        None => Err(self
                            .wire
                            .protocol(operation, "neither a stream nor a next timeline".to_owned())),
                    };
                }
                Message::Error(error) => {
                    return Err(start_error(error, slot, start, timeline));
                }
                Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::ParameterStatus(..)
                | Message::Notice(_)
                | Message::Other(_) => {}
                other => return Err(self.wire.unexpected(operation, &other)),
            }
        }
    }

    /// Says farewell. Best effort: the server notices a dropped connection too.
    pub async fn close(mut self) {
        postgres_protocol::message::frontend::terminate(self.wire.queue());
        self.wire.send_now().await.unwrap_or_default();
    }

    async fn command(&mut self, command: &str, operation: &'static str) -> Result<Vec<Row>, PostgresError> {
        simple_query(&mut self.wire, command, operation, COMMAND_TIMEOUT).await
    }

    async fn one_row(&mut self, command: &str, operation: &'static str) -> Result<Row, PostgresError> {
        let rows = self.command(command, operation).await?;
        rows.into_iter()
            .next()
            .ok_or_else(|| self.wire.protocol(operation, "no row".to_owned()))
    }
}

/// Gives errors that concern a slot their own variants.
fn slot_error(error: PostgresError, slot: &str) -> PostgresError {
    let PostgresError::Server { operation, error } = error else {
        return error;
    };
    let slot = slot.to_owned();
    match error.sqlstate.as_str() {
        "42704" => PostgresError::SlotMissing { slot },
        "55006" => PostgresError::SlotInUse {
            slot,
            pid: error.active_pid(),
            error,
        },
        _ if error.tells_slot_lost() => PostgresError::SlotLost { slot, error },
        _ => PostgresError::Server { operation, error },
    }
}

/// The server's refusal to stream. 58P01 is "no such file": the segment is gone, whatever the message's language.
fn start_error(
    error: Box<ServerError>,
    slot: Option<&str>,
    start: Lsn,
    timeline: TimelineId,
) -> PostgresError {
    if error.sqlstate == "58P01" {
        return PostgresError::WalRemoved {
            start,
            timeline,
            error,
        };
    }
    let operation = format!("stream WAL from {start} on timeline {timeline}");
    let error = PostgresError::Server { operation, error };
    match slot {
        Some(slot) => slot_error(error, slot),
        None => error,
    }
}

/// Quotes a name for the replication grammar, which takes quoted identifiers like SQL's.
fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Reads `16MB`, `1GB`, as `SHOW` writes sizes.
fn parse_memory_unit(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit {
        "B" | "" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Queues one CopyData message.
fn queue_copy_data(queue: &mut BytesMut, body: &[u8]) {
    use bytes::BufMut;
    queue.put_u8(b'd');
    queue.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
    queue.put_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(sqlstate: &str, message: &str, detail: Option<&str>) -> Box<ServerError> {
        Box::new(ServerError {
            sqlstate: sqlstate.to_owned(),
            message: message.to_owned(),
            detail: detail.map(str::to_owned),
            ..ServerError::default()
        })
    }

    #[test]
    fn refusals_to_stream_have_variants_of_their_own() {
        let refuse = |error| start_error(error, Some("s"), Lsn(1), TimelineId(1));
        assert!(matches!(
            refuse(server("58P01", "das WAL-Segment wurde schon entfernt", None)),
            PostgresError::WalRemoved { .. }
        ));
        let lost = "can no longer get changes from replication slot \"s\"";
        assert!(matches!(
            refuse(server("55000", lost, None)),
            PostgresError::SlotLost { .. }
        ));
        let detail = "This slot has been invalidated because it exceeded the maximum reserved size.";
        assert!(matches!(
            refuse(server("55000", "x", Some(detail))),
            PostgresError::SlotLost { .. }
        ));
        let busy = refuse(server(
            "55006",
            "replication slot \"s\" is active for PID 7",
            None,
        ));
        assert!(matches!(busy, PostgresError::SlotInUse { pid: Some(7), .. }));
        assert!(matches!(
            refuse(server("42704", "", None)),
            PostgresError::SlotMissing { .. }
        ));
        let logical = server(
            "55000",
            "cannot use a logical replication slot for physical replication",
            None,
        );
        assert!(matches!(refuse(logical), PostgresError::Server { .. }));
    }

    #[test]
    fn sizes_as_show_writes_them() {
        assert_eq!(parse_memory_unit("16MB"), Some(16 << 20));
        assert_eq!(parse_memory_unit("1GB"), Some(1 << 30));
        assert_eq!(parse_memory_unit("99999999999999999999GB"), None);
        assert_eq!(parse_memory_unit("16 apples"), None);
    }
}
