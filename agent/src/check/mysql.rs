//! One MySQL or MariaDB server: can it be reached, does it serve a replica, is everything granted and set, and is there a way
//! to take base backups.

use std::time::Duration;

use tidemark_mysql::basebackup::BackupMethod;
use tidemark_mysql::binlog::BinlogOffset;
use tidemark_mysql::client::{BinlogStream, ReplicaIdentity, Sql, StreamItem};
use tidemark_mysql::preflight::{self, SourceFacts, Wanted};
use tidemark_mysql::replication::{DumpRequest, Replica};

use super::finding::Finding;
use super::repository::Known;
use crate::archive::mysql::source::{check_engine, replica_identity};
use crate::base::mysql::survey::{self, Survey};
use crate::config::MysqlSettings;
use crate::exit;

/// How long the source may be silent while a dump is tried.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Looks at a server, of which the repository knows this.
pub async fn examine(settings: &MysqlSettings, known: Option<&Known>) -> Vec<Finding> {
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
    findings.extend(known.and_then(|known| identity(settings, &facts, known)));
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

/// Whether the server is the one that the repository knows under this name.
fn identity(settings: &MysqlSettings, facts: &SourceFacts, known: &Known) -> Option<Finding> {
    const CHECK: &str = "server identity";
    let subject = settings.server.name.as_str();
    let (engine, found) = (settings.server.engine.label(), facts.server.identity());
    if (known.engine.as_str(), known.system_id.as_str()) == (engine, found.as_str()) {
        return None;
    }
    let text = format!(
        "this is {engine} server {found}, and the repository knows {} server {} under this name",
        known.engine, known.system_id
    );
    let mend = "if this server takes the name over (a failover, a restore that went live, a new host): tidemark-agent adopt\n\
                if it is another one: give it a name of its own";
    Some(Finding::error(subject, CHECK, text, mend))
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
