//! `run`: owns every task of the process, starts them, and joins them when it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tidemark_repository::Repository;
use tidemark_storage::Storage;
use tidemark_types::{Clock, SystemClock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::archive::{Causes, LogTask};
use crate::base::BackupTask;
use crate::config::{RepositorySettings, Server, Settings};
use crate::state::{AgentState, FailureClass, Pipeline, ServerState};

/// Pause between attempts to open a repository that cannot be reached.
const OPEN_PAUSE: Duration = Duration::from_secs(5);
/// After the order to stop, tasks get this long: longer than each of them takes for its own end.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Protects all servers of the configuration until SIGTERM or SIGINT.
///
/// # Errors
/// What makes even starting pointless: an HTTP address that cannot be bound, a repository that cannot be used.
pub async fn run(settings: Settings, take_over: bool) -> anyhow::Result<()> {
    let cancel = CancellationToken::new();
    let servers = settings.servers;
    let states: Vec<Arc<ServerState>> = servers
        .iter()
        .map(|server| ServerState::new(server.common()))
        .collect();
    let mut tasks: JoinSet<()> = JoinSet::new();
    let options = settings.repository.storage_options();
    if let Some(http) = &settings.http {
        let agent = AgentState {
            started: SystemClock.now(),
            servers: states.clone(),
            storage: Arc::clone(&options.metrics),
        };
        serve(Api::bind(http).await?, agent, &mut tasks, cancel.clone());
    }
    tasks.spawn(stop_on_signal(cancel.clone())?);
    let storage = open_storage(&settings.repository, &options).await?;
    if let Some(repository) = open_repository(storage, &states, &cancel).await? {
        for (server, state) in servers.into_iter().zip(states) {
            protect(server, state, &repository, take_over, &mut tasks, &cancel);
        }
    }
    watch_over(&mut tasks, &cancel).await;
    join(tasks).await;
    Ok(())
}

/// Waits for the order to stop. A task that panics ends the process, loudly: its server would be unprotected, and the
/// last it told would look well for ever.
async fn watch_over(tasks: &mut JoinSet<()>, cancel: &CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            Some(Err(error)) = tasks.join_next() => {
                if error.is_panic() {
                    tracing::error!(%error, "a task panicked: this is a bug; stopping");
                    cancel.cancel();
                    std::panic::resume_unwind(error.into_panic());
                }
            }
            else => return cancel.cancelled().await,
        }
    }
}

fn serve(api: Api, agent: AgentState, tasks: &mut JoinSet<()>, cancel: CancellationToken) {
    tasks.spawn(async move {
        if let Err(error) = api.serve(Arc::new(agent), cancel).await {
            tracing::error!(%error, "HTTP ended");
        }
    });
}

/// Starts what one server needs.
fn protect(
    server: Server,
    state: Arc<ServerState>,
    repository: &Repository,
    take_over: bool,
    tasks: &mut JoinSet<()>,
    cancel: &CancellationToken,
) {
    use tracing::Instrument;
    let span = tracing::info_span!("server", name = %server.common().name);
    let (due, hold) = (Arc::new(Notify::new()), watch::Sender::new(false));
    let backups = BackupTask {
        server: server.clone(),
        repository: repository.clone(),
        state: Arc::clone(&state),
        due: Arc::clone(&due),
        hold: hold.clone(),
    };
    let log = LogTask {
        server,
        repository: repository.clone(),
        state,
        take_over,
        backups_due: due,
        hold,
    };
    tasks.spawn(log.run(cancel.clone()).instrument(span.clone()));
    tasks.spawn(backups.run(cancel.clone()).instrument(span));
}

/// Opens the store of the configuration.
///
/// # Errors
/// What the store says.
pub async fn open_storage(
    settings: &RepositorySettings,
    options: &tidemark_storage::StorageOptions,
) -> anyhow::Result<Arc<dyn Storage>> {
    tidemark_storage::open(&settings.url, options)
        .await
        .with_context(|| format!("open the repository at {}", settings.url))
}

/// Opens the repository, as soon as it can be reached; `None` when told to stop before.
async fn open_repository(
    storage: Arc<dyn Storage>,
    states: &[Arc<ServerState>],
    cancel: &CancellationToken,
) -> anyhow::Result<Option<Repository>> {
    loop {
        match Repository::open_or_create(Arc::clone(&storage), SystemClock.now()).await {
            Ok(repository) => return Ok(Some(repository)),
            Err(error) if error.class().is_transient() => {
                let reason = Causes(&error).to_string();
                tracing::error!(error = reason, "the repository cannot be reached; trying again");
                let failed = Pipeline::Failed {
                    reason,
                    class: FailureClass(error.class()),
                };
                for state in states {
                    state.update(|facts| facts.pipeline = failed.clone());
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(None),
            () = sleep(OPEN_PAUSE) => {}
        }
    }
}

/// A task that cancels everything at the first SIGTERM or SIGINT.
///
/// # Errors
/// When signals cannot be listened for.
pub fn stop_on_signal(cancel: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = cancel.cancelled() => return,
        }
        tracing::info!("told to stop");
        cancel.cancel();
    })
}

/// Joins every task. A panic is a bug of ours and ends the process loudly.
async fn join(mut tasks: JoinSet<()>) {
    let joined = timeout(STOP_MAX, async {
        while let Some(task) = tasks.join_next().await {
            if let Err(error) = task
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    });
    if joined.await.is_err() {
        tracing::warn!("some work did not end in time; what it held will be received again");
    }
}
