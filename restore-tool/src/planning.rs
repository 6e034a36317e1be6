//! Planning with I/O: lists, reads what the planner asks for, and says in words why there is no plan.

use tidemark_repository::{Archive, Branch};
use tidemark_types::{Clock, ErrorClass, Position, SystemClock, Timestamp};

use crate::catalog::{Extent, list};
use crate::cli::WhatArgs;
use crate::engine::Engine;
use crate::exit::Failure;
use crate::plan::{
    self, Ancestry, Known, Line, Listed, Pending, Plan, Request, Target, Window, plan, position_option,
};
use crate::scan::Scanner;

/// What a plan is made of.
#[derive(Debug)]
pub struct Question {
    /// The server's archive.
    pub archive: Archive,
    /// What it holds.
    pub listed: Listed,
    /// What is asked for.
    pub request: Request,
}

impl Question {
    /// Opens and lists what the arguments name.
    ///
    /// # Errors
    /// When the target makes no sense, or none for this server; what the store says.
    pub async fn open(what: &WhatArgs) -> anyhow::Result<Question> {
        let request = what.request(SystemClock.now())?;
        let repository = what.source.open().await?;
        let archive = what.server.open(&repository).await?;
        check_fits(&archive, what, &request)?;
        let listed = list(&repository, &archive, Extent::FromFirstBase).await?;
        Ok(Question {
            archive,
            listed,
            request,
        })
    }

    /// Plans a restore on the branch of `ancestry`, whose lines are `lines`.
    ///
    /// # Errors
    /// Unreachable targets; what reading the log says.
    pub async fn plan(&self, ancestry: &Ancestry, lines: &[Line<'_>]) -> anyhow::Result<Plan> {
        make(&self.archive, &self.listed, ancestry, lines, &self.request).await
    }
}

/// A target of another engine is a mistake on the command line.
fn check_fits(archive: &Archive, what: &WhatArgs, request: &Request) -> anyhow::Result<()> {
    let record = archive.record();
    let engine = Engine::of(record)?;
    let targets = match engine {
        Engine::Postgresql => {
            "--target-time, --target-lsn, --target-xid, --target-name, --target-immediate or --target-latest"
        }
        Engine::Mysql => {
            "--target-time, --target-gtid UUID:NUMBER, --target-position FILE:OFFSET, --target-immediate or \
             --target-latest"
        }
        Engine::Mariadb => {
            "--target-time, --target-gtid DOMAIN-SERVER-NUMBER, --target-position FILE:OFFSET, --target-immediate or \
             --target-latest"
        }
    };
    let server = format!("server {} is a {} server", record.name, engine.name());
    if !request.target.fits(engine) {
        let message = format!("{server}, which has no target \"{}\"", request.target);
        return Err(Failure::usage(message).hint(format!("give {targets}")).into());
    }
    if what.timeline.is_some() && engine != Engine::Postgresql {
        return Err(Failure::usage(format!("{server}, which has no timelines"))
            .hint("--branch NUMBER follows another branch than the newest")
            .into());
    }
    Ok(())
}

/// The branch to follow: the one asked for, or the newest that a base backup leads to.
///
/// # Errors
/// When there is none.
pub fn branch(listed: &Listed, wanted: Option<Branch>) -> anyhow::Result<&Ancestry> {
    let server = &listed.server;
    if let Some(branch) = wanted {
        return stored_branch(listed, branch);
    }
    if let Some(newest) = listed.newest_branch() {
        return Ok(newest);
    }
    let failure = if listed.bases.is_empty() {
        Failure::new(
            ErrorClass::Unreachable,
            format!("server {server} has no base backup yet"),
        )
        .hint("`tidemark-agent run` takes the first by itself; `tidemark-agent backup` takes one now")
    } else {
        Failure::new(
            ErrorClass::Unreachable,
            format!("no base backup of server {server} has the log that it needs: it is not stored from its begin to its end"),
        )
        .hint("`tidemark-restore list` shows base backups and what log is stored")
    };
    Err(failure.into())
}

/// The branch of this number.
///
/// # Errors
/// When nothing of it is stored.
pub fn stored_branch(listed: &Listed, branch: Branch) -> anyhow::Result<&Ancestry> {
    let word = listed.engine.branch_word();
    let log = listed.branches.get(&branch).ok_or_else(|| {
        let known: Vec<String> = listed.branches.keys().map(ToString::to_string).collect();
        let message = format!("no log of {word} {branch} is stored for server {}", listed.server);
        let hint = match word {
            "timeline" => format!("timelines stored: {}", known.join(", ")),
            _ => format!("branches stored: {}", known.join(", ")),
        };
        Failure::usage(message).hint(hint)
    })?;
    Ok(&log.ancestry)
}

async fn make(
    archive: &Archive,
    listed: &Listed,
    ancestry: &Ancestry,
    lines: &[Line<'_>],
    request: &Request,
) -> anyhow::Result<Plan> {
    let wanted = match &request.target {
        Target::Transaction(transaction) => Some(transaction),
        _ => None,
    };
    let scanner = Scanner::new(archive, lines);
    let mut known = Known::default();
    loop {
        match plan(listed, ancestry, lines, &known, request) {
            Ok(plan) => return Ok(plan),
            Err(Pending::Read(ids)) => scanner.read(&ids, wanted, &mut known).await?,
            Err(Pending::Ambiguous(ambiguity)) => {
                let message = format!("{} has two readings: {}", request.target, ambiguity.reason);
                let (first, last) = (reading(ambiguity.first), reading(ambiguity.last));
                return Err(Failure::new(ErrorClass::Unreachable, message)
                    .hint(format!(
                        "add --first for the state at {first}, or --last for that at {last}; or give {}",
                        position_option(ambiguity.first.0)
                    ))
                    .into());
            }
            Err(Pending::Unreachable(unreachable)) => {
                let message = format!("{} cannot be reached: {}", request.target, unreachable.reason);
                let failure = Failure::new(ErrorClass::Unreachable, message);
                let hint = format!("the nearest that can: {}", unreachable.nearest.join(" or "));
                let is_known = !unreachable.nearest.is_empty();
                return Err(if is_known { failure.hint(hint) } else { failure }.into());
            }
        }
    }
}

fn reading((position, time): (Position, Option<Timestamp>)) -> String {
    time.map_or_else(|| position.to_string(), |time| format!("{position} ({time})"))
}

/// The recovery windows of a branch. Those whose log cannot be read have no times.
pub async fn windows(archive: &Archive, listed: &Listed, branch: Branch, lines: &[Line<'_>]) -> Vec<Window> {
    let scanner = Scanner::new(archive, lines);
    let mut known = Known::default();
    loop {
        let (windows, missing) = plan::windows(listed, branch, lines, &known);
        if missing.is_empty() {
            return windows;
        }
        if let Err(error) = scanner.read(&missing, None, &mut known).await {
            tracing::warn!(
                error = format!("{error:#}"),
                "the log at the end of a base backup cannot be read, so the times that can be reached are not known"
            );
            return windows;
        }
    }
}
