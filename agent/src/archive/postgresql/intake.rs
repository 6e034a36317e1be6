//! Takes log in, whatever brings it: parses it, gathers what it tells, and hands it to the shipper.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemark_postgres::wal::{Fact, Record, WalDecoder, WalError};
use tidemark_repository::log::{ChainHash, SliceFlags};
use tidemark_repository::{Archive, LogPosition};
use tidemark_types::{ErrorClass, LogFiles, Lsn, Position, WalSegmentSize};

use super::changes::ChangesWriter;
use super::follow::FollowError;
use super::lsn_map::{branch_of, lsn_of, position_of};
use super::start::Start;
use crate::archive::shipper::{Cadence, Shipper};
use crate::state::ServerState;

/// The log of one timeline on its way to the repository.
pub struct Intake {
    /// Where bytes go.
    pub shipper: Shipper,
    changes: ChangesWriter,
    decoder: WalDecoder,
    /// Where received bytes end.
    lsn: Lsn,
    /// Where the last whole record among them ends.
    whole: Lsn,
    segment_size: WalSegmentSize,
    /// The decoder knows the last stored record, and has seen none after it.
    is_joining: bool,
    /// Damage at these positions was met before, in the same bytes received before: go on past it.
    damage_known: BTreeSet<Lsn>,
    state: Arc<ServerState>,
}

impl Intake {
    /// Begins where `start` says.
    pub fn new(
        archive: &Archive,
        segment_size: WalSegmentSize,
        start: Start,
        cadence: Cadence,
        damage_known: BTreeSet<Lsn>,
        state: Arc<ServerState>,
    ) -> Intake {
        let branch = branch_of(start.timeline);
        let is_origin = start.resume.seed == ChainHash::ORIGIN;
        Intake {
            changes: ChangesWriter::new(archive.clone(), branch, segment_size, start.lsn, is_origin),
            decoder: WalDecoder::new(start.lsn, segment_size),
            lsn: start.lsn,
            whole: start.whole,
            shipper: Shipper::new(
                archive.clone(),
                branch,
                start.resume,
                position_of(start.whole, segment_size),
                cadence,
                Arc::clone(&state),
            ),
            segment_size,
            is_joining: false,
            damage_known,
            state,
        }
    }

    /// Goes on with a decoder that has read the log before the begin: it sees a record whole that reaches over it, and
    /// that the next one follows.
    pub fn prime(&mut self, decoder: WalDecoder) {
        debug_assert_eq!(
            decoder.position(),
            self.lsn,
            "a primed decoder stands where bytes come from"
        );
        self.is_joining = decoder.whole().is_some();
        self.decoder = decoder;
        self.changes.nothing_missed();
    }

    /// Where received bytes end.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// How far everything is durable: all that was received, or the last whole record.
    pub fn durable(&self) -> Lsn {
        let shipper = &self.shipper;
        if shipper.durable() == shipper.position() {
            self.lsn
        } else {
            self.durable_whole()
        }
    }

    /// The end of the last whole record that is durable.
    pub fn durable_whole(&self) -> Lsn {
        lsn_of(self.shipper.durable_whole(), self.segment_size)
    }

    /// How the state writes an LSN.
    pub fn shown(&self, lsn: Lsn) -> Position {
        LogFiles::Wal(self.segment_size).lsn(lsn)
    }

    /// Ships what was received and no slice has taken yet.
    pub fn cut(&mut self) {
        self.cut_at(false);
    }

    fn cut_at(&mut self, ends_file: bool) {
        let back = self.lsn.bytes_since(self.whole.min(self.lsn));
        self.shipper.cut(back, ends_file);
    }

    /// Takes in the bytes of the log from `start` on.
    ///
    /// # Errors
    /// Bytes that do not follow, that differ from what is stored, that make no sense.
    pub fn receive(&mut self, start: Lsn, mut bytes: &[u8]) -> Result<(), FollowError> {
        if start != self.lsn {
            return Err(FollowError::Discontinuous {
                received: start,
                expected: self.lsn,
            });
        }
        let size = self.segment_size;
        while !bytes.is_empty() {
            let to_end = size.bytes() - size.offset_of(self.lsn);
            let room = self.shipper.room().min(to_end);
            let (now, rest) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            self.shipper.push(now)?;
            self.lsn = Lsn(self.lsn.0 + now.len() as u64);
            self.decode(now)?;
            let ends_file = size.offset_of(self.lsn) == 0;
            if ends_file || is_grain_border(self.shipper.position()) {
                self.changes.grain_ended(self.lsn);
                self.cut_at(ends_file);
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Reads the records that end in `input`.
    fn decode(&mut self, mut input: &[u8]) -> Result<(), FollowError> {
        loop {
            let result = match self.decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(record)) => {
                    self.is_joining = false;
                    note_record(
                        &record,
                        &mut self.shipper,
                        &mut self.changes,
                        &self.state,
                        LogFiles::Wal(self.segment_size),
                    )
                }
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                self.damaged(error)?;
            }
        }
        self.zeros()?;
        if let Some(whole) = self.decoder.whole() {
            self.whole = self.whole.max(whole);
            self.shipper
                .note_whole(position_of(self.whole, self.segment_size));
        }
        Ok(())
    }

    /// Bytes that make no sense are received once more; if they still make none, they are stored as they are.
    fn damaged(&mut self, error: WalError) -> Result<(), FollowError> {
        let breaks_off = matches!(
            error,
            WalError::PreviousRecord { .. } | WalError::Continuation { .. }
        );
        if breaks_off && self.is_joining {
            return Err(FollowError::Unjoined(error));
        }
        let known = self.damage_known.contains(&error.position());
        if !known || matches!(error, WalError::UnknownMagic { .. }) || error.class() == ErrorClass::Conflict {
            return Err(error.into());
        }
        self.go_on_unindexed(error.to_string());
        Ok(())
    }

    /// A partial segment ends in zeros; a log that is being received never does.
    fn zeros(&mut self) -> Result<(), FollowError> {
        let Some(at) = self.decoder.end_of_log() else {
            return Ok(());
        };
        let error = FollowError::Zeros { at };
        if !self.damage_known.contains(&at) {
            return Err(error);
        }
        self.go_on_unindexed(error.to_string());
        Ok(())
    }

    fn go_on_unindexed(&mut self, damage: String) {
        tracing::error!(
            damage,
            "the server's WAL is damaged; it is stored as it is, and its times are not indexed"
        );
        self.state
            .update(|facts| facts.alarms.insert("unindexed_range", damage));
        self.shipper.note_flags(SliceFlags::UNINDEXED);
        self.changes.give_up();
        self.decoder.resync();
    }
}

fn is_grain_border(position: LogPosition) -> bool {
    position.grain_start() == position
}

/// Takes note of one record.
fn note_record(
    record: &Record<'_>,
    shipper: &mut Shipper,
    changes: &mut ChangesWriter,
    state: &ServerState,
    files: LogFiles,
) -> Result<(), WalError> {
    let fact = Fact::of(record);
    changes.record(record, fact.as_ref().ok().and_then(Option::as_ref));
    let Some(fact) = fact? else { return Ok(()) };
    if fact.carries_commit() {
        shipper.note_commit();
    }
    if let Some(time) = fact.end_time() {
        shipper.note_time(time);
    }
    match fact {
        Fact::Commit(completion) => {
            state.update(|facts| facts.note_commit(files.lsn(record.end), completion.time));
        }
        Fact::Prepare(_) => shipper.note_flags(SliceFlags::PREPARE),
        Fact::RestorePoint { .. } => shipper.note_flags(SliceFlags::RESTORE_POINT),
        Fact::RelationCreate { .. }
        | Fact::RelationTruncate { .. }
        | Fact::DatabaseCreate { .. }
        | Fact::DatabaseDrop { .. } => shipper.note_flags(SliceFlags::DDL),
        _ => {}
    }
    Ok(())
}
