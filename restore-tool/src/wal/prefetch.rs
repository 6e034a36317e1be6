//! The prefetcher of a running restore: fetches segments ahead of the server, and answers `wal-get` over a socket when
//! one is in place. One line in, the file's name; one line out, `ready` or `error <why>`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tidemark_types::SegmentName;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::exit::render;
use crate::wal::fetch::SegmentSource;
use crate::wal::state::StateDir;

/// Bytes of log that may wait to be taken.
const AHEAD_BYTES: u64 = 256 << 20;
/// Most segments that may wait or be under way, however small they are.
const AHEAD_MAX: u64 = 16;

type Bringing = Shared<BoxFuture<'static, Result<(), String>>>;

/// A running prefetcher; ends when dropped.
#[derive(Debug)]
pub struct Prefetcher {
    task: JoinHandle<()>,
    dir: StateDir,
}

impl Prefetcher {
    /// Begins to fetch the planned log, and to listen.
    ///
    /// # Errors
    /// When the socket cannot be made (its path may be too long).
    pub fn start(
        source: SegmentSource,
        dir: StateDir,
        owner: Option<(u32, u32)>,
    ) -> anyhow::Result<Prefetcher> {
        let path = dir.socket();
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
        std::os::unix::fs::chown(&path, owner.map(|(user, _)| user), owner.map(|(_, group)| group))
            .with_context(|| format!("give {} to the server's user", path.display()))?;
        let size = source.state().log.segment_size;
        let ahead = (AHEAD_BYTES / size.bytes()).clamp(2, AHEAD_MAX);
        let names: Vec<SegmentName> = source.state().log.sequence().collect();
        let numbers = names
            .iter()
            .enumerate()
            .map(|(number, name)| (name.file_name(size), number))
            .collect();
        let work = Arc::new(Work {
            source,
            names,
            numbers,
            ahead: usize::try_from(ahead).unwrap_or(2),
            under_way: Mutex::default(),
        });
        work.bring_from(0);
        Ok(Prefetcher {
            task: tokio::spawn(serve(listener, work)),
            dir,
        })
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.task.abort();
        // From here on wal-get fetches by itself.
        let _ = std::fs::remove_file(self.dir.socket());
    }
}

struct Work {
    source: SegmentSource,
    /// In the order of recovery.
    names: Vec<SegmentName>,
    numbers: HashMap<String, usize>,
    ahead: usize,
    under_way: Mutex<HashMap<usize, Bringing>>,
}

impl Work {
    /// Sees to it that segment `number` and those after it are fetched; forgets those before.
    fn bring_from(self: &Arc<Work>, number: usize) -> Option<Bringing> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|other, _| *other >= number);
        for (next, name) in self.names.iter().enumerate().skip(number).take(self.ahead) {
            under_way.entry(next).or_insert_with(|| self.bring(*name));
        }
        under_way.get(&number).cloned()
    }

    fn bring(self: &Arc<Work>, name: SegmentName) -> Bringing {
        let work = Arc::clone(self);
        let task = tokio::spawn(async move { work.source.bring(name).await });
        let brought = task.map(|brought| match brought {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("the plan says that this segment is absent".to_owned()),
            Ok(Err(error)) => Err(render(&error).replace('\n', " ")),
            Err(error) => Err(error.to_string()),
        });
        brought.boxed().shared()
    }

    /// Waits until the file is in place. One that was taken before, or failed, is fetched again.
    async fn provide(self: &Arc<Work>, name: &str) -> Result<(), String> {
        let Some(number) = self.numbers.get(name).copied() else {
            // An older file of a segment whose newer one is planned: fetched by wal-get itself.
            return Err(String::new());
        };
        let bringing = self.bring_from(number).ok_or_else(String::new)?;
        let brought = bringing.await;
        let size = self.source.state().log.segment_size;
        let is_waiting = self
            .names
            .get(number)
            .is_some_and(|name| self.source.dir().waiting(&name.file_name(size)).exists());
        if brought.is_ok() && is_waiting {
            return Ok(());
        }
        let again = self
            .names
            .get(number)
            .map(|name| self.bring(*name))
            .ok_or_else(String::new)?;
        again.await
    }
}

async fn serve(listener: UnixListener, work: Arc<Work>) {
    while let Ok((stream, _)) = listener.accept().await {
        // One at a time: the server asks for one after the other.
        if let Err(error) = answer(stream, &work).await {
            tracing::debug!(%error, "wal-get went away");
        }
    }
}

async fn answer(stream: UnixStream, work: &Arc<Work>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut name = String::new();
    stream.read_line(&mut name).await?;
    let reply = match work.provide(name.trim_end()).await {
        Ok(()) => "ready\n".to_owned(),
        Err(why) if why.is_empty() => "unknown\n".to_owned(),
        Err(why) => format!("error {why}\n"),
    };
    stream.get_mut().write_all(reply.as_bytes()).await
}
