//! A dump from a source: the bytes of its binlog files, as they come.

use std::time::Duration;

use tidemark_types::ErrorClass;
use tokio::time::Instant;

use super::connect::{Session, connect};
use super::greeting::ServerVersion;
use super::options::ConnectOptions;
use super::text_result::{execute, run};
use crate::binlog::BinlogOffset;
use crate::error::MysqlError;
use crate::replication::{Dump, DumpRequest, Dumped, Replica, SourcePacket, semi_sync_acknowledgement};

const OPERATION: &str = "stream binlog";

/// The source is taken for gone after so many heartbeats that did not come.
const HEARTBEATS_MISSED: u32 = 3;

/// What comes next of a dump. Bytes lie in the connection's buffer: copy them before the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamItem<'a> {
    /// The dump goes on in this file; see [`Dumped::File`].
    File {
        /// Its name.
        name: &'a str,
        /// Where in it the next bytes lie.
        position: BinlogOffset,
    },
    /// The format of the file, as the dump begins in mid-file. It lies in the file, but not here.
    Format(
        /// The event.
        &'a [u8],
    ),
    /// Bytes of the file: an event, or a part of a long one.
    Bytes {
        /// Where in the file they lie.
        begin: BinlogOffset,
        /// The bytes.
        bytes: &'a [u8],
        /// A commit waits for the acknowledgement of the position behind these bytes.
        wants_acknowledgement: bool,
    },
    /// The source is there and has nothing for the file.
    Heartbeat,
    /// The log has come to its end, and the dump was not to wait. Nothing follows.
    End,
}

/// A dump that was begun.
#[derive(Debug)]
pub struct BinlogStream {
    session: Session,
    replica: Replica,
    dump: Dump,
    /// Where the dump was to begin.
    requested: (String, BinlogOffset),
    /// Of the event whose bytes are coming.
    wants_acknowledgement: bool,
    /// How long the source may be silent.
    patience: Option<Duration>,
}

impl BinlogStream {
    /// Connects as a replica and asks for a dump. Whether the source has what is asked for, the first items tell.
    ///
    /// # Errors
    /// Any of [`MysqlError`]'s connection variants; [`MysqlError::MayNotReplicate`], [`MysqlError::PositionTooFar`].
    pub async fn start(
        options: &ConnectOptions,
        replica: &Replica,
        request: &DumpRequest<'_>,
    ) -> Result<BinlogStream, MysqlError> {
        let session = connect(options).await?;
        let requested = (request.file.to_owned(), request.position);
        match request.command(replica, session.version.flavor) {
            Some(command) => BinlogStream::begin(session, options, replica, requested, &command).await,
            None => Err(MysqlError::PositionTooFar {
                file: requested.0,
                position: requested.1,
            }),
        }
    }

    pub(super) async fn begin(
        mut session: Session,
        options: &ConnectOptions,
        replica: &Replica,
        requested: (String, BinlogOffset),
        command: &[u8],
    ) -> Result<BinlogStream, MysqlError> {
        let deadline = Instant::now() + options.connect_timeout;
        for statement in replica.statements(session.version.flavor) {
            run(&mut session.wire, "prepare a dump", &statement, deadline).await?;
        }
        let registration = replica.registration();
        let registered = execute(
            &mut session.wire,
            "register as a replica",
            &registration,
            deadline,
        )
        .await;
        registered.map_err(|error| match error {
            MysqlError::Server { error, .. } if error.class() == ErrorClass::Config => {
                MysqlError::MayNotReplicate {
                    user: options.user.clone(),
                    error,
                }
            }
            error => error,
        })?;
        session.wire.begin();
        session.wire.queue(OPERATION, command)?;
        session.wire.send(OPERATION).await?;
        let patience = replica.heartbeat * HEARTBEATS_MISSED;
        Ok(BinlogStream {
            session,
            replica: replica.clone(),
            dump: Dump::new(),
            requested,
            wants_acknowledgement: false,
            patience: (!patience.is_zero()).then_some(patience),
        })
    }

    /// The source's version.
    pub fn version(&self) -> &ServerVersion {
        &self.session.version
    }

    /// The host that serves: `host:port` or the socket's path.
    pub fn host(&self) -> &str {
        self.session.wire.host()
    }

    /// The next item. Cancellation safe: one that was not returned comes at the next call.
    ///
    /// # Errors
    /// [`MysqlError::LogMissing`], [`MysqlError::PastEnd`], [`MysqlError::ReplicaIdInUse`], [`MysqlError::Server`] when the
    /// source ends the dump; [`MysqlError::Timeout`], [`MysqlError::ConnectionLost`], [`MysqlError::Protocol`]. The dump is
    /// over after any of them.
    pub async fn next(&mut self) -> Result<StreamItem<'_>, MysqlError> {
        let wire = &mut self.session.wire;
        let portion = loop {
            let portion = match self.patience {
                Some(limit) => wire.portion_within(OPERATION, limit).await?,
                None => wire.portion(OPERATION).await?,
            };
            // Behind a last packet of the greatest length comes an empty one.
            if portion.is_first || portion.length > 0 {
                break portion;
            }
        };
        let mut bytes = wire.bytes(portion);
        if portion.is_first {
            let packet = SourcePacket::read(bytes, self.replica.semi_sync);
            match packet.map_err(|error| protocol(error.to_string()))? {
                SourcePacket::End => return Ok(StreamItem::End),
                SourcePacket::Error(error) => {
                    let (file, position) = match self.dump.position() {
                        Some(reached) => reached,
                        None => (self.requested.0.as_str(), self.requested.1),
                    };
                    return Err(error.of_dump(self.replica.server_id, file, position, OPERATION));
                }
                SourcePacket::Event {
                    bytes: event,
                    wants_acknowledgement,
                } => {
                    bytes = event;
                    self.wants_acknowledgement = wants_acknowledgement;
                }
            }
        }
        if portion.is_first != self.dump.is_between_events() {
            return Err(protocol(
                "an event of another length than its header says".to_owned(),
            ));
        }
        let dumped = self.dump.take(bytes, portion.is_last);
        Ok(match dumped.map_err(|error| protocol(error.to_string()))? {
            Dumped::File { file, position } => StreamItem::File { name: file, position },
            Dumped::Format(bytes) => StreamItem::Format(bytes),
            Dumped::Event { begin, bytes, ends } => StreamItem::Bytes {
                begin,
                bytes,
                wants_acknowledgement: ends && self.wants_acknowledgement,
            },
            Dumped::Aside(_) => StreamItem::Heartbeat,
        })
    }

    /// Tells the source that all up to `position` of `file` is durable. Only for a position that was asked for, and after all
    /// before it. Does not wait for the source: what it does not take at once goes out with the next [`BinlogStream::next`].
    ///
    /// # Errors
    /// [`MysqlError::ConnectionLost`]; the dump is over.
    pub async fn acknowledge(&mut self, file: &str, position: BinlogOffset) -> Result<(), MysqlError> {
        let wire = &mut self.session.wire;
        wire.begin();
        wire.queue(OPERATION, &semi_sync_acknowledgement(file, position))?;
        wire.send_now(OPERATION).await
    }
}

fn protocol(problem: String) -> MysqlError {
    MysqlError::Protocol {
        operation: OPERATION,
        problem,
    }
}
