//! `check`: looks at everything that has to be right before and while servers are protected, and says how to mend what
//! is not. Changes nothing but a probe object that it removes.

mod cost;
mod finding;
mod mysql;
mod postgresql;
mod repository;

use tidemark_repository::Archive;
use tidemark_types::{ErrorClass, SystemClock, Timestamp};

use crate::cli::CheckArgs;
use crate::config::{Server, ServerSettings, Settings};
use crate::exit::Failure;
use finding::{Finding, Level, Report};

/// Runs the command: prints findings, and fails when one of them is an error.
///
/// # Errors
/// When a server or the repository would not work as it is.
pub async fn command(settings: &Settings, args: &CheckArgs) -> anyhow::Result<()> {
    let servers: Vec<&Server> = match &args.server {
        Some(name) => vec![settings.server(name)?],
        None => settings.servers.iter().collect(),
    };
    let report = examine(settings, &servers).await;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.render());
    }
    match report.errors() {
        0 => Ok(()),
        1 => Err(Failure::new(ErrorClass::Config, "1 finding has to be mended").into()),
        many => Err(Failure::new(ErrorClass::Config, format!("{many} findings have to be mended")).into()),
    }
}

async fn examine(settings: &Settings, servers: &[&Server]) -> Report {
    let mut findings = repository::examine(&settings.repository, &SystemClock).await;
    let is_usable = findings.iter().all(|finding| finding.level < Level::Error);
    for server in servers {
        let name = &server.common().name;
        let archive = match is_usable {
            true => repository::archive(&settings.repository, name).await,
            false => Ok(None),
        };
        let (archive, finding) = match archive {
            Ok(Some(archive)) if archive.record().engine != server.common().engine.label() => {
                (None, Some(other_engine(server.common(), &archive)))
            }
            Ok(archive) => (archive, None),
            Err(finding) => (None, Some(finding)),
        };
        findings.extend(match server {
            Server::Postgresql(server) => postgresql::examine(server, archive.as_ref()).await,
            Server::Mysql(server) => mysql::examine(server, archive.as_ref()).await,
        });
        findings.extend(finding);
        findings.extend(cost::estimate(&settings.repository, server));
    }
    Report { findings }
}

/// What to do about a server that is not the one that the repository knows under its name.
const ADOPT_OR_RENAME: &str = "if this server takes the name over (a restore that went live, a new one): tidemark-agent adopt\n\
                               if it is another one: give it a name of its own";

fn other_engine(settings: &ServerSettings, archive: &Archive) -> Finding {
    let (found, known) = (settings.engine.label(), &archive.record().engine);
    let text = format!("this is a {found} server, and the repository knows a {known} server under this name");
    Finding::error(settings.name.as_str(), "server identity", text, ADOPT_OR_RENAME)
}

/// What a clock that differs by `skew_seconds` from this host's means.
fn clock_finding(subject: &str, whose: &str, skew_seconds: f64) -> Finding {
    /// More than the margin by which the covered time lies behind the present.
    const TOO_MUCH: f64 = 10.0;
    const NOTICEABLE: f64 = 1.0;
    let text = format!("{whose} clock differs by {skew_seconds:.1} s from this host's");
    let mend = "run a time service (chrony, systemd-timesyncd) on both hosts";
    if skew_seconds.abs() > TOO_MUCH {
        Finding::error(subject, "clock", text, mend)
    } else if skew_seconds.abs() > NOTICEABLE {
        Finding::warning(subject, "clock", text, mend)
    } else {
        Finding::good(subject, "clock", text)
    }
}

/// Seconds that a clock which showed `theirs` at some time between `before` and `after` is ahead of this host's at
/// least; negative: behind.
fn skew(before: Timestamp, theirs: Timestamp, after: Timestamp) -> f64 {
    let ahead = theirs.0.saturating_sub(after.0).max(0);
    let behind = before.0.saturating_sub(theirs.0).max(0);
    (ahead - behind) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_read_within_the_interval_is_no_skew() {
        let seconds = |seconds: i64| Timestamp(seconds * 1_000_000);
        assert_eq!(skew(seconds(10), seconds(15), seconds(20)), 0.0);
        assert_eq!(skew(seconds(10), seconds(23), seconds(20)), 3.0);
        assert_eq!(skew(seconds(10), seconds(4), seconds(20)), -6.0);
    }

    #[test]
    fn clocks_further_apart_than_the_margin_are_an_error() {
        let level = |seconds| clock_finding("shop", "the server's", seconds).level;
        assert_eq!(
            [level(0.2), level(-3.0), level(11.0)],
            [Level::Good, Level::Warning, Level::Error]
        );
    }
}
