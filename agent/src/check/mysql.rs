//! One MySQL or MariaDB server: can it be reached, does it serve a replica, is everything granted and set, and is there a way
//! to take base backups.

use std::time::Duration;

use tidemark_mysql::basebackup::BackupMethod;
use tidemark_mysql::binlog::BinlogOffset;
use tidemark_mysql::client::{BinlogStream, ReplicaIdentity, Sql, StreamItem};
use tidemark_mysql::preflight::{self, SourceFacts, Wanted};
use tidemark_mysql::replication::{DumpRequest, Replica};
use tidemark_repository::Archive;

use super::ADOPT_OR_RENAME;
use super::finding::Finding;
use crate::archive::backups;
use crate::archive::mysql::source::{Source, check_engine, replica_identity};
use crate::base::mysql::survey::{self, Survey};
use crate::config::MysqlSettings;
use crate::exit;

/// How long the source may be silent while a dump is tried.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Looks at a server, of which the repository holds this.
pub async fn examine(settings: &MysqlSettings, archive: Option<&Archive>) -> Vec<Finding> {
    let subject = settings.server.name.as_str();
    let (mut sql, facts) = match ask(settings).await {
        Ok(asked) => asked,
        Err(error) => {
            let mend = exit::hint_of(&error)
                .unwrap_or("check the url, that the server runs, and the account's host and password");
            return vec![Finding::error(
                subject,
                "connection",
                exit::one_line(&error),
                mend,
            )];
        }
    };
    let text = format!("connects to {} as {}", facts.host, facts.account);
    let mut findings = vec![Finding::good(subject, "connection", text)];
    if facts.server.log_bin {
        findings.push(replication(settings, &mut sql).await);
    }
    if let Some(archive) = archive.filter(|_| facts.server.log_bin) {
        findings.extend(identity(settings, archive).await);
    }
    let survey = survey::survey(settings).await;
    let method = survey.as_ref().ok().map(|survey| survey.way.method());
    let judged = preflight::findings(&facts, &wanted(settings, method)).into_iter();
    findings.extend(judged.map(|finding| Finding::of_server(subject, finding)));
    findings.push(base_backups(settings, survey));
    findings
}

async fn ask(settings: &MysqlSettings) -> anyhow::Result<(Sql, SourceFacts)> {
    let mut sql = Sql::connect(&settings.connect_options()?).await?;
    check_engine(settings, sql.flavor())?;
    let facts = SourceFacts::query(&mut sql).await?;
    Ok((sql, facts))
}

/// `method`: by which way base backups are taken, when there is one.
fn wanted(settings: &MysqlSettings, method: Option<BackupMethod>) -> Wanted {
    let [by_files, _] = BackupMethod::of(settings.flavor);
    let method = method.or(settings.copy.method).unwrap_or(by_files);
    Wanted {
        semi_sync: settings.semi_sync,
        server_id: settings.server_id,
        identity: Some(replica_identity(settings)),
        copies_files: method != BackupMethod::Dump,
    }
}

/// Whether the server goes on with the log that is stored.
async fn identity(settings: &MysqlSettings, archive: &Archive) -> Option<Finding> {
    const CHECK: &str = "server identity";
    let subject = settings.server.name.as_str();
    match continues(settings, archive).await {
        Ok(Continuity::Same) => None,
        Ok(Continuity::Followed { writer }) => {
            let text = format!(
                "another server ({writer}) wrote what is stored; this one has all of it, and is followed"
            );
            Some(Finding::good(subject, CHECK, text))
        }
        Ok(Continuity::Stranger { writer }) => {
            let text = format!(
                "another server ({writer}) wrote what is stored, and this one lacks transactions of it"
            );
            Some(Finding::error(subject, CHECK, text, ADOPT_OR_RENAME))
        }
        Err(error) => {
            let mend =
                exit::hint_of(&error).unwrap_or("see what the repository holds: tidemark-restore list");
            Some(Finding::error(subject, CHECK, exit::one_line(&error), mend))
        }
    }
}

/// How a server stands to the log that is stored.
enum Continuity {
    /// It wrote it, or nothing is stored yet.
    Same,
    /// Another wrote it, and this one has all of it.
    Followed { writer: String },
    /// Another wrote it, and this one does not go on with it.
    Stranger { writer: String },
}

async fn continues(settings: &MysqlSettings, archive: &Archive) -> anyhow::Result<Continuity> {
    let mut source = Source::connect(settings).await?;
    let backups = backups(archive).await?;
    let stored = source.stored(archive, &backups).await?;
    let Some(stored) = stored.filter(|stored| !source.wrote(&stored.record)) else {
        return Ok(Continuity::Same);
    };
    let writer = stored.record.server.clone();
    Ok(match source.continues(archive, &stored).await? {
        Some(_) => Continuity::Followed { writer },
        None => Continuity::Stranger { writer },
    })
}

/// The account may come from elsewhere for SQL than for a dump, and proxies pass on the one and not the other: so a dump is
/// tried, from the end of the log and under another number than the agent's own.
async fn replication(settings: &MysqlSettings, sql: &mut Sql) -> Finding {
    const CHECK: &str = "replication";
    let subject = settings.server.name.as_str();
    match try_dump(settings, sql).await {
        Ok(()) => Finding::good(subject, CHECK, "serves the binlog to a replica"),
        Err(error) => {
            let mend = "let the account replicate, and the agent reach the server itself instead of a proxy";
            Finding::error(subject, CHECK, exit::one_line(&error), mend)
        }
    }
}

async fn try_dump(settings: &MysqlSettings, sql: &mut Sql) -> anyhow::Result<()> {
    let identity = ReplicaIdentity::new(&format!("check of {}", settings.server.name));
    let replica = Replica {
        server_id: sql.unused_server_id(&identity).await?,
        uuid: identity.uuid,
        heartbeat: HEARTBEAT,
        semi_sync: false,
    };
    // Without the right to see files, the oldest that there is.
    let end = sql.log_end().await.ok();
    let request = DumpRequest {
        file: end.as_ref().map_or("", |end| end.file.as_str()),
        position: end.as_ref().map_or(BinlogOffset::FIRST_EVENT, |end| end.position),
        ends_with_log: true,
    };
    let mut stream = BinlogStream::start(&settings.connect_options()?, &replica, &request).await?;
    while !matches!(stream.next().await?, StreamItem::File { .. } | StreamItem::End) {}
    Ok(())
}

fn base_backups(settings: &MysqlSettings, survey: anyhow::Result<Survey>) -> Finding {
    const CHECK: &str = "base backups";
    let subject = settings.server.name.as_str();
    match survey {
        Ok(survey) => Finding::good(subject, CHECK, survey.way.to_string()),
        Err(error) => {
            let mend = exit::hint_of(&error).unwrap_or(
                "see data_directory and method in the configuration's [server.base_backup]; the agent must run on the \
                 server's host, as a user who may read its files",
            );
            Finding::error(subject, CHECK, exit::one_line(&error), mend)
        }
    }
}
