//! Ships what lies in a spool, in the order of the log, and empties it behind itself.
//!
//! A file is removed when its bytes are durable in the repository, and never before. Memory is that of streaming: files
//! are read in pieces, while the shipper has room.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tidemark_postgres::SqlClient;
use tidemark_repository::{Archive, LogPosition};
use tidemark_types::{Clock, ErrorClass, Lsn, SystemClock, TimelineHistory, TimelineId, WalSegmentSize};
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::fork::compare_with_parent;
use super::super::intake::Intake;
use super::super::lsn_map::{branch_of, lsn_of};
use super::super::start::{Start, begin_segment, continue_from_file};
use super::access::denied;
use super::files::{blocking, list, read_branch_file};
use super::hole::{Holes, Patience};
use super::name::{Kind, SpoolFile};
use super::past::{descent, stored_history};
use super::plan::{Past, Step, of_known_branch, of_new_branch};
use super::prime::primed_decoder;
use super::segment::{Expected, PIECE_LEN, chain_hash, stored_hashes};
use super::watch::{LOOK_EVERY, SpoolWatcher};
use crate::archive::adopt_hint;
use crate::archive::shipper::Cadence;
use crate::config::PostgresqlSettings;
use crate::exit::Failure;
use crate::state::ServerState;

/// How often a spool is looked at in which a file is missing.
const HOLE_LOOK: Duration = Duration::from_secs(1);

/// What shipping works with.
pub struct Parts<'a> {
    /// The spool.
    pub directory: &'a Path,
    /// Where log goes.
    pub archive: &'a Archive,
    /// Whom to ask how far the server's archiver is.
    pub sql: &'a SqlClient,
    /// The server's segment size.
    pub segment_size: WalSegmentSize,
    /// The server.
    pub settings: &'a PostgresqlSettings,
    /// Where progress is told.
    pub state: &'a Arc<ServerState>,
    /// Told when a gap was found.
    pub backups_due: &'a Notify,
    /// Damage in the log that was met once.
    pub damage_known: BTreeSet<Lsn>,
    /// Where the newest base backup begins, and the point from which it is consistent: what lies before is settled.
    pub newest_backup: Option<NewestBackup>,
}

/// The newest base backup, as far as shipping must know it.
#[derive(Debug, Clone, Copy)]
pub struct NewestBackup {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Log file in which it begins.
    pub first_file: u64,
    /// Where it ends.
    pub end: Lsn,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Taken in, or left where it is for good.
    Done,
    /// Something before it is missing.
    Waits,
    /// We were told to stop.
    Stopped,
}

/// A file whose bytes are on their way.
#[derive(Debug)]
struct InFlight {
    name: String,
    end: LogPosition,
}

/// The timeline that is being written.
struct Open {
    timeline: TimelineId,
    intake: Intake,
}

/// See the module.
pub struct Shipping<'a> {
    parts: Parts<'a>,
    expected: Expected,
    open: Option<Open>,
    /// In the order of the log, all of the open timeline.
    in_flight: VecDeque<InFlight>,
    /// Files that came too late to be joined to the log; they stay.
    late: HashSet<String>,
    /// The first name in the spool that means nothing, to tell of it once.
    stranger: Option<String>,
    holes: Holes,
}

impl<'a> Shipping<'a> {
    /// Nothing is read yet.
    pub fn new(parts: Parts<'a>) -> Shipping<'a> {
        let expected = Expected {
            system_id: parts.archive.record().system_id.clone(),
            size: parts.segment_size,
        };
        Shipping {
            parts,
            expected,
            open: None,
            in_flight: VecDeque::new(),
            late: HashSet::new(),
            stranger: None,
            holes: Holes::default(),
        }
    }

    /// Works until told to stop, and then until what was read is stored: not bounded, but it may be dropped at any time.
    /// What was read and not stored is still in the spool.
    ///
    /// # Errors
    /// Whatever makes going on impossible.
    pub async fn run(mut self, watcher: &SpoolWatcher, stop: &CancellationToken) -> anyhow::Result<()> {
        while !stop.is_cancelled() {
            let pause = match self.look(stop).await? {
                Outcome::Waits => HOLE_LOOK,
                Outcome::Done | Outcome::Stopped => LOOK_EVERY,
            };
            self.wait(pause, watcher, stop).await?;
        }
        self.settle().await
    }

    /// Takes in what is in the spool.
    async fn look(&mut self, stop: &CancellationToken) -> anyhow::Result<Outcome> {
        for file in self.list().await? {
            let outcome = match file.kind {
                Kind::Segment => self.segment(&file, stop).await?,
                _ => self.branch_file(&file).await?,
            };
            if outcome != Outcome::Done || stop.is_cancelled() {
                return Ok(outcome);
            }
        }
        self.holes.none();
        Ok(Outcome::Done)
    }

    /// The files that are to be taken in, in order.
    async fn list(&mut self) -> anyhow::Result<Vec<SpoolFile>> {
        let (directory, size) = (self.parts.directory.to_owned(), self.parts.segment_size);
        let listed = blocking(move || list(&directory, size)).await?;
        if let Some(name) = listed
            .stranger
            .filter(|name| self.stranger.as_ref() != Some(name))
        {
            tracing::warn!(
                name,
                "this is no file that a server archives; it stays in the spool"
            );
            self.stranger = Some(name);
        }
        let is_new = |file: &SpoolFile| {
            !self.late.contains(&file.name) && self.in_flight.iter().all(|known| known.name != file.name)
        };
        Ok(listed.files.into_iter().filter(is_new).collect())
    }

    /// Waits for news, taking in what becomes durable meanwhile.
    async fn wait(
        &mut self,
        pause: Duration,
        watcher: &SpoolWatcher,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                stored = progress(&mut self.open) => {
                    stored?;
                    self.durable_moved().await?;
                }
                () = watcher.changed() => return Ok(()),
                () = sleep_until(until) => return Ok(()),
            }
        }
    }

    /// Waits until everything that was read is durable.
    async fn settle(&mut self) -> anyhow::Result<()> {
        while self
            .open
            .as_ref()
            .is_some_and(|open| !open.intake.shipper.is_idle())
        {
            progress(&mut self.open).await?;
            self.durable_moved().await?;
        }
        Ok(())
    }

    /// Removes the files whose bytes are durable by now.
    async fn durable_moved(&mut self) -> anyhow::Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let intake = &open.intake;
        let (position, durable) = (intake.shipper.durable(), intake.shown(intake.durable()));
        self.parts.state.update(|facts| facts.note_durable(durable));
        while let Some(file) = self.in_flight.front().filter(|file| file.end <= position) {
            self.remove(&file.name).await?;
            self.in_flight.pop_front();
        }
        Ok(())
    }

    async fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.parts.directory.join(name);
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                // What decides is the directory that the name is taken from.
                Err(denied(
                    error,
                    "remove an archived file from",
                    self.parts.directory,
                ))
            }
            _ => Ok(()),
        }
    }

    /// Takes a file in that is no segment.
    async fn branch_file(&mut self, file: &SpoolFile) -> anyhow::Result<Outcome> {
        let path = self.parts.directory.join(&file.name);
        let (expected, checked) = (self.expected.clone(), file.clone());
        let content = blocking(move || read_branch_file(&path, &checked, &expected)).await?;
        let (archive, name) = (self.parts.archive.clone(), file.name.clone());
        let branch = branch_of(file.timeline);
        let runtime = tokio::runtime::Handle::current();
        // A .partial file is compressed on the way.
        blocking(move || {
            let stored = runtime.block_on(archive.put_branch_file(branch, &name, content));
            stored.with_context(|| format!("store {name}"))
        })
        .await?;
        self.remove(&file.name).await?;
        tracing::info!(name = file.name, "stored a file of the timeline");
        Ok(Outcome::Done)
    }

    /// Takes a segment in, compares it, or waits for what is missing before it.
    async fn segment(&mut self, file: &SpoolFile, stop: &CancellationToken) -> anyhow::Result<Outcome> {
        let hole = match self.step(file).await? {
            Step::Append => return self.receive(file, stop).await,
            Step::Compare => return self.compare(file).await,
            Step::Begin => None,
            Step::Hole(hole) => {
                if self
                    .holes
                    .patience(file, hole, self.parts.sql, self.parts.segment_size)
                    .await
                    == Patience::Wait
                {
                    return Ok(Outcome::Waits);
                }
                Some(hole)
            }
        };
        // Refused before a gap is recorded for it, or anything else made of it.
        self.open_segment(file).await?;
        self.settle().await?;
        match hole {
            Some(hole) => self.holes.record(&self.parts, hole, file).await?,
            None if self.complete_ancestors(file, stop).await? == Outcome::Stopped => {
                return Ok(Outcome::Stopped);
            }
            None => {}
        }
        let history = stored_history(self.parts.archive, file.timeline).await?;
        self.begin(file.timeline, file, history.as_ref()).await?;
        self.receive(file, stop).await
    }

    /// Stores, under the timelines that the first segment of another one repeats, what of them came in it only: the
    /// last segment of a timeline that was left is archived as `.partial`, which is no part of its log.
    async fn complete_ancestors(
        &mut self,
        file: &SpoolFile,
        stop: &CancellationToken,
    ) -> anyhow::Result<Outcome> {
        let size = self.parts.segment_size;
        let Some(descent) = descent(&self.parts, file.timeline).await? else {
            return Ok(Outcome::Done);
        };
        for ancestor in descent.repeated_in(file.segment, size) {
            if !self.reopen(ancestor.timeline).await? {
                self.begin(ancestor.timeline, file, Some(&descent.history))
                    .await?;
            }
            let Some(open) = &self.open else { continue };
            let stored = lsn_of(open.intake.shipper.durable(), size);
            if open.intake.lsn() != size.start_of(file.segment) || stored >= ancestor.end {
                continue;
            }
            if self.feed(file, ancestor.end, stop).await? == Outcome::Stopped {
                return Ok(Outcome::Stopped);
            }
            if let Some(open) = &mut self.open {
                open.intake.cut();
            }
            self.settle().await?;
            tracing::info!(timeline = %ancestor.timeline, end = %ancestor.end, "stored the end of a timeline that was left");
        }
        Ok(Outcome::Done)
    }

    /// What a segment is to what is stored. Opens its timeline when log of it is stored.
    async fn step(&mut self, file: &SpoolFile) -> anyhow::Result<Step> {
        let branch = branch_of(file.timeline);
        if self
            .open
            .as_ref()
            .is_none_or(|open| open.timeline != file.timeline)
            && !self.reopen(file.timeline).await?
        {
            let descent = descent(&self.parts, file.timeline).await?;
            let past = descent.map_or(Past::Nothing, |descent| descent.past(self.parts.segment_size));
            return Ok(of_new_branch(branch, file.segment, past));
        }
        let position = self.open.as_ref().map(|open| open.intake.shipper.position());
        Ok(of_known_branch(
            branch,
            file.segment,
            position.unwrap_or_default(),
        ))
    }

    /// Opens a timeline where what is stored of it ends; `false` when nothing is.
    async fn reopen(&mut self, timeline: TimelineId) -> anyhow::Result<bool> {
        self.settle().await?;
        let (archive, size) = (self.parts.archive, self.parts.segment_size);
        let branch = branch_of(timeline);
        let backup = self
            .parts
            .newest_backup
            .filter(|backup| backup.timeline == timeline);
        let mut slices = archive
            .slices(branch, backup.map_or(0, |backup| backup.first_file))
            .await?;
        let Some((mut start, run)) = continue_from_file(branch, &mut slices, size) else {
            return Ok(false);
        };
        if let Some(history) = stored_history(archive, timeline).await? {
            compare_with_parent(archive, &history, timeline, size, &mut start.resume).await?;
        }
        let decoder = primed_decoder(archive, &run, &start, size).await?;
        tracing::info!(position = %lsn_of(run.end.position, size), %timeline, "the log goes on from the spool");
        self.open_at(start, decoder);
        Ok(true)
    }

    /// Opens a timeline that nothing is stored of, or nothing that leads to the segment of `file`, with that segment.
    /// `history` is its own, or a descendant's.
    async fn begin(
        &mut self,
        timeline: TimelineId,
        file: &SpoolFile,
        history: Option<&TimelineHistory>,
    ) -> anyhow::Result<()> {
        let (archive, size) = (self.parts.archive, self.parts.segment_size);
        let mut start = begin_segment(timeline, size.start_of(file.segment), size);
        if let Some(history) = history {
            compare_with_parent(archive, history, timeline, size, &mut start.resume).await?;
        }
        self.open_at(start, None);
        Ok(())
    }

    fn open_at(&mut self, start: Start, decoder: Option<tidemark_postgres::wal::WalDecoder>) {
        let parts = &self.parts;
        let (timeline, lsn, whole) = (start.timeline, start.lsn, start.whole);
        let mut intake = Intake::new(
            parts.archive,
            parts.segment_size,
            start,
            Cadence::Within(parts.settings.server.max_lag),
            parts.damage_known.clone(),
            Arc::clone(parts.state),
        );
        if let Some(decoder) = decoder {
            intake.prime(decoder);
        }
        parts.state.update(|facts| {
            facts.restart_at(branch_of(timeline), intake.shown(lsn), intake.shown(whole));
            facts.note_durable(intake.shown(intake.durable()));
        });
        self.open = Some(Open { timeline, intake });
    }

    /// Opens and checks the file of a segment.
    async fn open_segment(&self, file: &SpoolFile) -> anyhow::Result<std::fs::File> {
        let (path, segment) = (self.parts.directory.join(&file.name), file.segment);
        let expected = self.expected.clone();
        blocking(move || expected.open(&path, segment)).await
    }

    /// Takes in the bytes of the next segment of the open timeline.
    async fn receive(&mut self, file: &SpoolFile, stop: &CancellationToken) -> anyhow::Result<Outcome> {
        let end = self.parts.segment_size.end_of(file.segment);
        if self.feed(file, end, stop).await? == Outcome::Stopped {
            return Ok(Outcome::Stopped);
        }
        self.in_flight.push_back(InFlight {
            name: file.name.clone(),
            end: LogPosition::start_of(file.segment.next().0),
        });
        self.durable_moved().await?;
        Ok(Outcome::Done)
    }

    /// Takes in the bytes of a segment up to `end` for the open timeline, which must stand at its start.
    async fn feed(
        &mut self,
        file: &SpoolFile,
        end: Lsn,
        stop: &CancellationToken,
    ) -> anyhow::Result<Outcome> {
        let path = self.parts.directory.join(&file.name);
        let mut source = tokio::fs::File::from_std(self.open_segment(file).await?);
        let mut piece = vec![0; PIECE_LEN];
        loop {
            while !self.has_room() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(Outcome::Stopped),
                    stored = progress(&mut self.open) => stored?,
                }
                self.durable_moved().await?;
            }
            let Some(open) = &mut self.open else {
                return Ok(Outcome::Stopped);
            };
            let at = open.intake.lsn();
            if at == end {
                return Ok(Outcome::Done);
            }
            let read = source
                .read(&mut piece)
                .await
                .map_err(|error| denied(error, "read", &path))?;
            let wanted = usize::try_from(end.bytes_since(at)).unwrap_or(usize::MAX);
            let bytes = piece.get(..read.min(wanted)).unwrap_or_default();
            if bytes.is_empty() {
                let message = format!("{} became shorter while it was read", path.display());
                return Err(Failure::new(ErrorClass::Transient, message).into());
            }
            open.intake
                .receive(at, bytes)
                .with_context(|| format!("archive {}", path.display()))?;
            self.received();
        }
    }

    fn has_room(&self) -> bool {
        self.open
            .as_ref()
            .is_some_and(|open| open.intake.shipper.can_receive())
    }

    fn received(&self) {
        let Some(open) = &self.open else { return };
        let intake = &open.intake;
        let (received, durable) = (intake.shown(intake.lsn()), intake.shown(intake.durable()));
        self.parts.state.update(|facts| {
            facts.note_received(received, SystemClock.now());
            facts.note_durable(durable);
        });
    }

    /// A server sends a file again when it crashed before it took note of the success; and an agent may have been
    /// killed before it removed one.
    async fn compare(&mut self, file: &SpoolFile) -> anyhow::Result<Outcome> {
        let source = self.open_segment(file).await?;
        let archive = self.parts.archive;
        let mut slices = archive
            .list_file(branch_of(file.timeline), file.segment.0)
            .await?;
        let Some((seed, stored)) = stored_hashes(&mut slices, file.segment.0) else {
            let text = format!(
                "{} came when log after it was stored already; it cannot be joined and stays in the spool",
                file.name
            );
            tracing::error!(text);
            self.parts
                .state
                .update(|facts| facts.alarms.insert("spool_late", text));
            self.late.insert(file.name.clone());
            return Ok(Outcome::Done);
        };
        let (path, key) = (self.parts.directory.join(&file.name), archive.record().chain_key);
        let found = blocking({
            let path = path.clone();
            move || chain_hash(source, &path, key, seed)
        })
        .await?;
        if found != stored {
            let message = format!(
                "{} differs from what is stored of that segment (hash {found}, stored {stored})",
                path.display()
            );
            let failure =
                Failure::new(ErrorClass::Conflict, message).hint(adopt_hint(&self.parts.settings.server));
            return Err(failure.into());
        }
        self.remove(&file.name).await?;
        tracing::info!(name = file.name, "was stored already");
        Ok(Outcome::Done)
    }
}

/// Waits for the next write of the open timeline; for ever when none is under way.
async fn progress(open: &mut Option<Open>) -> anyhow::Result<()> {
    match open {
        Some(open) => Ok(open.intake.shipper.progress().await?),
        None => std::future::pending().await,
    }
}
