//! Which transactions are stored, and which lie before a server's files: what a failover to another server is decided by.

use futures::TryStreamExt;
use tidemark_mysql::binlog::{BinlogOffset, Logged, LoggedReader};
use tidemark_mysql::client::{BinlogStream, ConnectOptions, GtidState, StreamItem};
use tidemark_mysql::replication::{DumpRequest, Replica};
use tidemark_repository::log::LogReader;
use tidemark_repository::{Archive, LogPosition};

use super::start::Stored;

/// Slices fetched at once.
const FETCHES: usize = 4;

/// Which transactions lie in the log up to the end of what is stored, read from the last file that tells what lies before
/// it. `None` when no file does.
///
/// # Errors
/// What the repository says; damage in what is stored.
pub async fn stored_gtids(archive: &Archive, stored: &Stored) -> anyhow::Result<Option<Logged>> {
    let mut files: Vec<u64> = stored.run.path.iter().map(|slice| slice.file).collect();
    files.dedup();
    for file in files.into_iter().rev() {
        // One without a word of what lies before it was torn at its very beginning.
        let logged = read_file(archive, stored, file).await?;
        if logged.is_some() {
            return Ok(logged);
        }
    }
    Ok(None)
}

async fn read_file(archive: &Archive, stored: &Stored, file: u64) -> anyhow::Result<Option<Logged>> {
    let run = &stored.run;
    let (begin, end) = (LogPosition::start_of(file), LogPosition::start_of(file + 1));
    let reader = LogReader::new(archive, stored.branch, run, begin, end.min(run.end.position));
    let mut verifier = reader.verifier(run);
    let mut gtids = LoggedReader::new();
    let mut fetched = Box::pin(reader.fetch(FETCHES));
    while let Some(slice) = fetched.try_next().await? {
        (verifier, gtids) = tokio::task::spawn_blocking(move || {
            if let Some(chunk) = verifier.next(&slice)? {
                gtids.feed(&chunk.bytes)?;
            }
            anyhow::Ok((verifier, gtids))
        })
        .await??;
    }
    Ok(gtids.logged().cloned())
}

/// What a file of the server says lies before it; `None` when it does not say.
///
/// # Errors
/// What the server says; damage in the file's beginning.
pub async fn gtids_before(
    options: &ConnectOptions,
    replica: &Replica,
    file: &str,
) -> anyhow::Result<Option<Logged>> {
    let request = DumpRequest {
        file,
        position: BinlogOffset::FIRST_EVENT,
        ends_with_log: true,
    };
    let mut stream = BinlogStream::start(options, replica, &request).await?;
    let mut reader = LoggedReader::new();
    let mut is_begun = false;
    loop {
        match stream.next().await? {
            StreamItem::File { .. } if is_begun => return Ok(None),
            StreamItem::File { .. } => {
                is_begun = true;
                reader.feed(b"\xFEbin")?;
            }
            StreamItem::Bytes { bytes, .. } => reader.feed(bytes)?,
            StreamItem::Format(_) | StreamItem::Heartbeat => {}
            StreamItem::End => return Ok(None),
        }
        if let Some(logged) = reader.logged() {
            return Ok(Some(logged.clone()));
        }
    }
}

/// Whether a server with `state` has all of `stored`.
pub fn has_all(state: &GtidState, stored: &Logged) -> bool {
    match (state, stored) {
        (GtidState::MySql { executed, .. }, Logged::MySql(stored)) => executed.contains_all(stored),
        (GtidState::MariaDb { binlog, .. }, Logged::MariaDb(stored)) => {
            binlog.is_at_or_past_all(&stored.position())
        }
        (_, _) => false,
    }
}

/// Whether all of `before`, which lies before a file, is among `stored`: then nothing is missing between the two.
pub fn is_among(before: &Logged, stored: &Logged) -> bool {
    match (before, stored) {
        (Logged::MySql(before), Logged::MySql(stored)) => stored.contains_all(before),
        (Logged::MariaDb(before), Logged::MariaDb(stored)) => {
            stored.position().is_at_or_past_all(&before.position())
        }
        (_, _) => false,
    }
}

/// Whether there is any transaction to go by.
pub fn is_empty(logged: &Logged) -> bool {
    match logged {
        Logged::MySql(set) => set.is_empty(),
        Logged::MariaDb(state) => state.position().is_empty(),
    }
}
