//! Frames on their way into packs: workers make them, each for a sink of its own, and one task keeps the books.
//!
//! Every queue is bounded, so that a slow store slows reading down. Work ends in order: workers run out of it, their
//! sinks out of frames, then the last event arrives. An error anywhere stops everything.

use tidemark_postgres::page::PAGE_SIZE;
use tidemark_repository::base::{
    BackupWriter, EncodedFrame, FileMeta, FrameBuffer, FrameEncoder, PACK_LEN_DEFAULT, PackEntry, PackSink,
};
use tidemark_types::ErrorClass;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::books::Event;
use super::take::Job;
use crate::exit::{Failure, class_of};

/// Frames that wait for each sink: enough that neither side waits for a single slow call of the other.
const FRAMES_WAITING: usize = 4;
/// Events that wait for the books, which handle each in microseconds, but for a map object now and then.
const EVENTS_WAITING: usize = 256;

/// Workers and sinks of one backup.
pub struct Lanes {
    /// Tells everything to stop; cancelled by whatever fails.
    pub stop: CancellationToken,
    /// What workers and sinks tell; ends when all of them have.
    pub events: mpsc::Receiver<Event>,
    workers: JoinSet<anyhow::Result<()>>,
    sinks: JoinSet<anyhow::Result<PackSink>>,
}

/// Where a worker sends what it makes.
pub struct Outlet {
    /// To its sink.
    pub frames: mpsc::Sender<EncodedFrame>,
    /// To the books.
    pub events: mpsc::Sender<Event>,
}

impl Lanes {
    /// Starts `count` sinks, and a worker for each, which `worker` makes.
    ///
    /// # Errors
    /// Those of `worker`.
    pub fn start<W: FnOnce() -> anyhow::Result<()> + Send + 'static>(
        count: usize,
        writer: &BackupWriter,
        mut worker: impl FnMut(Outlet, &CancellationToken) -> anyhow::Result<W>,
    ) -> anyhow::Result<Lanes> {
        let (events, received) = mpsc::channel(EVENTS_WAITING);
        let mut lanes = Lanes {
            stop: CancellationToken::new(),
            events: received,
            workers: JoinSet::new(),
            sinks: JoinSet::new(),
        };
        for _ in 0..count {
            let (frames, waiting) = mpsc::channel(FRAMES_WAITING);
            let outlet = Outlet {
                frames,
                events: events.clone(),
            };
            let (work, guard) = (worker(outlet, &lanes.stop)?, lanes.stop.clone().drop_guard());
            lanes.workers.spawn_blocking(move || {
                let done = work();
                if done.is_ok() {
                    guard.disarm();
                }
                done
            });
            let sink = writer.pack_sink(PACK_LEN_DEFAULT);
            lanes
                .sinks
                .spawn(fill(sink, waiting, events.clone(), lanes.stop.clone()));
        }
        Ok(lanes)
    }

    /// Ends all of it. `kept` is how keeping the books ended: unless well, the backup is given up.
    ///
    /// # Errors
    /// The first error that is more than "given up".
    pub async fn finish(self, kept: anyhow::Result<()>, encoder: FrameEncoder) -> anyhow::Result<Sinks> {
        let Lanes {
            stop,
            events,
            workers,
            sinks,
        } = self;
        if kept.is_err() {
            stop.cancel();
        }
        // Nobody waits for room in the queue of events any more.
        drop(events);
        let mut errors: Vec<anyhow::Error> = kept.err().into_iter().collect();
        let sinks = join(workers, sinks, &mut errors).await;
        errors.sort_by_key(|error| class_of(error) == ErrorClass::Cancelled);
        match errors.into_iter().next() {
            None => Ok(Sinks { sinks, encoder }),
            Some(error) => {
                for sink in sinks {
                    // What a sink leaves is no part of any backup; upkeep removes it.
                    let _ = sink.abort().await;
                }
                Err(error)
            }
        }
    }
}

/// Appends frames to packs until there are no more; gives its pack up when the backup is given up.
async fn fill(
    mut sink: PackSink,
    mut frames: mpsc::Receiver<EncodedFrame>,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) -> anyhow::Result<PackSink> {
    let guard = stop.clone().drop_guard();
    loop {
        let placed = tokio::select! {
            () = stop.cancelled() => None,
            frame = frames.recv() => match frame {
                None => break,
                Some(frame) => tokio::select! {
                    () = stop.cancelled() => None,
                    placed = sink.append(frame) => Some(placed?),
                },
            },
        };
        let sent = match placed {
            Some(placed) => events.send(Event::Placed(placed)).await.is_ok(),
            None => false,
        };
        if !sent {
            sink.abort().await?;
            return Err(cancelled());
        }
    }
    guard.disarm();
    Ok(sink)
}

/// Joins everything. A panic is a bug of ours: it goes on here.
async fn join(
    mut workers: JoinSet<anyhow::Result<()>>,
    mut sinks: JoinSet<anyhow::Result<PackSink>>,
    errors: &mut Vec<anyhow::Error>,
) -> Vec<PackSink> {
    while let Some(worker) = workers.join_next().await {
        errors.extend(worker.unwrap_or_else(resume_panic).err());
    }
    let mut filled = Vec::new();
    while let Some(sink) = sinks.join_next().await {
        match sink.unwrap_or_else(resume_panic) {
            Ok(sink) => filled.push(sink),
            Err(error) => errors.push(error),
        }
    }
    filled
}

fn resume_panic<T>(error: tokio::task::JoinError) -> anyhow::Result<T> {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => Err(error.into()),
    }
}

/// Sinks that took everything so far, for the few small files that come last.
pub struct Sinks {
    sinks: Vec<PackSink>,
    encoder: FrameEncoder,
}

/// An encoder of the backup's frames.
///
/// # Errors
/// zstd out of memory.
pub fn encoder(job: &Job) -> anyhow::Result<FrameEncoder> {
    let hash_key = job.archive.base().hash_key();
    Ok(FrameEncoder::new(hash_key, job.settings().base_backup.level)?)
}

/// The backup was called off.
pub fn cancelled() -> anyhow::Error {
    Failure::new(ErrorClass::Cancelled, "the base backup was called off").into()
}

impl Sinks {
    /// Stores small files, all in one frame, and closes the packs.
    ///
    /// # Errors
    /// What the repository says.
    pub async fn finish(
        mut self,
        files: Vec<(FileMeta, Vec<u8>)>,
        writer: &mut BackupWriter,
    ) -> anyhow::Result<Vec<PackEntry>> {
        let Some(mut sink) = self.sinks.pop() else {
            unreachable!("there is at least one worker, and each has a sink")
        };
        if !files.is_empty() {
            let frame = self.last_frame(files, writer).await?;
            let placed = sink.append(frame).await?;
            writer.place(placed).await?;
        }
        let mut packs = sink.finish().await?;
        for sink in self.sinks {
            packs.extend(sink.finish().await?);
        }
        Ok(packs)
    }

    /// Files that are small, as one frame.
    async fn last_frame(
        &mut self,
        files: Vec<(FileMeta, Vec<u8>)>,
        writer: &mut BackupWriter,
    ) -> anyhow::Result<EncodedFrame> {
        let len = files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        let mut buffer = FrameBuffer::new(len.max(PAGE_SIZE) + files.len() * PAGE_SIZE, PAGE_SIZE);
        for (meta, bytes) in files {
            let file = writer.begin_file(meta);
            let pushed = buffer.push(file, 0, &bytes);
            if pushed < bytes.len() {
                let message = format!("a file that should be small has {} bytes", bytes.len());
                return Err(Failure::new(ErrorClass::Permanent, message).into());
            }
            writer
                .end_file(file, bytes.len() as u64, bytes.len() as u64)
                .await?;
        }
        Ok(self.encoder.encode(&buffer)?)
    }
}
