//! `backup`: takes a base backup now. The log is stored by `run`, here or elsewhere; this command only waits for it.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tidemark_repository::base::{BackupKind as StoredKind, withdraw_dead};
use tidemark_repository::{Archive, Repository};
use tidemark_types::{ByteSize, Clock, ErrorClass, SystemClock, format_duration};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::durable::LogWriter;
use super::history::Stored;
use super::host;
use super::progress::Progress;
use super::take::{Job, Taken, describe_damage, take};
use crate::cli::BackupArgs;
use crate::config::{ServerSettings, Settings};
use crate::exit::Failure;
use crate::schedule::{BackupKind, kind_due};
use crate::supervisor::{open_storage, stop_on_signal};

/// How often a progress bar moves.
const BAR_EVERY: Duration = Duration::from_millis(200);
/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Takes a base backup of the server that `args` name.
///
/// # Errors
/// `Conflict` when another one runs; `Transient` when no agent streams the log; `CheckFailed` when the backup exists and
/// holds damaged pages; what else can fail.
pub async fn command(settings: &Settings, args: &BackupArgs) -> anyhow::Result<()> {
    let server = settings.server(&args.server)?;
    let storage = open_storage(&settings.repository, &settings.repository.storage_options()).await?;
    let repository = Repository::open(storage).await?;
    let archive = find(&repository, server.common()).await?;
    let now = SystemClock.now();
    withdraw_dead(&archive.base(), now, host::is_gone).await?;
    let history = Stored::list(&archive).await?.history();
    let job = Job {
        server: server.clone(),
        archive,
        kind: if args.full {
            BackupKind::Full
        } else {
            kind_due(server.common().base_backup.full_every, &history, now)
        },
        log: LogWriter::Elsewhere,
        progress: Arc::default(),
    };
    let cancel = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(cancel.clone())?);
    let result = tokio::select! {
        taken = take(&job, &cancel) => taken,
        () = show(&job.progress) => unreachable!("progress is shown until the backup ends"),
    };
    signals.abort();
    report(&result?)
}

async fn find(repository: &Repository, server: &ServerSettings) -> anyhow::Result<Archive> {
    let found = repository.find_archive(&server.name, None).await?;
    found.ok_or_else(|| {
        let message = format!("the repository holds nothing of {} yet", server.name);
        Failure::new(ErrorClass::Transient, message)
            .hint("start \"tidemark-agent run\" with this configuration; it takes the first base backup by itself")
            .into()
    })
}

/// Shows how far the backup is, until it is dropped.
async fn show(progress: &Progress) {
    let bar = std::io::stderr().is_terminal().then(bar);
    let mut ticks = interval(if bar.is_some() { BAR_EVERY } else { LINE_EVERY });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (done, total) = progress.so_far();
        match &bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            None if total > 0 => tracing::info!("read {} of {}", ByteSize(done), ByteSize(total)),
            None => {}
        }
    }
}

fn bar() -> ProgressBar {
    let template =
        "{bar:40} {percent:>3} %  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}";
    let bar = ProgressBar::new(0);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Prints what was taken.
fn report(taken: &Taken) -> anyhow::Result<()> {
    let header = &taken.header;
    let kind = match header.kind {
        StoredKind::Full => "full",
        StoredKind::Incremental => "incremental",
    };
    writeln!(
        std::io::stdout(),
        "{} {kind}: {} in {} files, {} stored, {}",
        header.backup,
        ByteSize(header.totals.bytes),
        header.totals.files,
        ByteSize(header.totals.new_stored),
        format_duration(rounded(taken.complete.since(header.facts.started))),
    )?;
    match taken.bad_pages {
        0 => Ok(()),
        pages => Err(Failure::new(ErrorClass::CheckFailed, describe_damage(taken, pages))
            .hint("the manifest lists them; find out which relations they belong to, and look at the server's disks")
            .into()),
    }
}

/// To tenths of a second: nobody wants the nanoseconds.
fn rounded(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis() / 100 * 100).unwrap_or(u64::MAX))
}
