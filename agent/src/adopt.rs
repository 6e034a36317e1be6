//! `adopt`: lets another cluster take over a server's name. What is stored under it stays restorable as an older
//! generation.

use tidemark_repository::Repository;
use tidemark_repository::lease::{STALE_AFTER, read_lease};
use tidemark_types::{Clock, ErrorClass, Generation, SystemClock};

use crate::archive::{mysql, postgresql};
use crate::base::host::is_dead;
use crate::config::{Server, ServerSettings, Settings};
use crate::exit::Failure;
use crate::supervisor::open_storage;

/// Begins a new generation for the server that answers now.
///
/// # Errors
/// `Conflict` while an agent holds a live lease on the name; what the server or the repository says.
pub async fn command(settings: &Settings, server: &Server) -> anyhow::Result<()> {
    let storage = open_storage(&settings.repository, &settings.repository.storage_options()).await?;
    let repository = Repository::open_or_create(storage, SystemClock.now()).await?;
    let common = server.common();
    refuse_under_live_lease(&repository, common).await?;
    let newest = repository.generations(&common.name).await?.last().copied();
    let next = Generation(newest.map_or(0, |generation| generation.0).saturating_add(1));
    let archive = match server {
        Server::Postgresql(server) => {
            let source = postgresql::source::Source::connect(server).await?;
            source.begin_generation(&repository, common, next).await?
        }
        Server::Mysql(server) => {
            let source = mysql::source::Source::connect(server).await?;
            source.begin_generation(&repository, common, next).await?
        }
    };
    let record = archive.record();
    println!(
        "{} is now generation {}: system id {}, {} {}. A base backup follows as soon as the agent runs.",
        record.name, record.generation, record.system_id, record.engine, record.version
    );
    if let Some(older) = newest {
        println!(
            "Generation {older} stays restorable: tidemark-restore … --server {} --generation {older}",
            record.name
        );
    }
    Ok(())
}

async fn refuse_under_live_lease(repository: &Repository, server: &ServerSettings) -> anyhow::Result<()> {
    let Some(found) = read_lease(&**repository.storage(), &server.name).await? else {
        return Ok(());
    };
    let lease = found.lease;
    let dead = is_dead(&lease.host, &lease.boot_id, lease.pid);
    if lease.released || dead || SystemClock.now().since(lease.beat) >= STALE_AFTER {
        return Ok(());
    }
    let message = format!(
        "an agent (pid {} on {}) streams {} and renewed its lease at {}",
        lease.pid, lease.host, server.name, lease.beat
    );
    let hint = "stop it first; a lease that was not given back goes stale after five minutes";
    Err(Failure::new(ErrorClass::Conflict, message).hint(hint).into())
}
