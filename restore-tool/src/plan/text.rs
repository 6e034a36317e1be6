//! A plan for people.

use std::fmt::Write;

use tidemark_types::ByteSize;

use super::{Ending, EndingKind, Plan, RecoveryTarget};
use crate::engine::Engine;

/// The plan as text, one fact a line.
pub fn render(plan: &Plan) -> String {
    let mut lines: Vec<(&str, String)> = vec![
        (
            "server",
            format!(
                "{}, generation {}, system id {}",
                plan.server, plan.generation, plan.system_id
            ),
        ),
        ("target", target(plan)),
        ("base backup", base(plan)),
        (plan.engine.branch_word(), ancestry(plan)),
        ("log", log(plan)),
        ("to fetch", ByteSize(plan.fetch_bytes).to_string()),
        ("stops", stops(plan)),
        ("last commit in", last_commit(plan)),
    ];
    for dead_end in &plan.dead_ends {
        let commits = match dead_end.has_commits {
            // The file in which a server lost the end of its log is on both branches, from its begin on.
            Some(true) if plan.engine != Engine::Postgresql => {
                "commits on it that the next branch does not repeat, and which clients may have been told of, are not \
                 part of this restore"
            }
            Some(true) => "commits on it, which clients may have been told of, are not part of this restore",
            Some(false) => "no commit is on it",
            None => "commits that may be on it are not part of this restore",
        };
        lines.push((
            "left behind",
            format!(
                "{} {} from {} to {}: {commits}",
                plan.engine.branch_word(),
                dead_end.branch,
                dead_end.begin,
                dead_end.end
            ),
        ));
    }
    for aside in &plan.set_aside {
        lines.push((
            "set aside",
            format!(
                "{} {} from {} to {}: nothing leads there; stored out of order by an agent that was killed, and never \
                 acknowledged (or an object before it was lost)",
                plan.engine.branch_word(),
                aside.branch,
                aside.begin,
                aside.end
            ),
        ));
    }
    for gap in &plan.gaps {
        lines.push((
            "gap elsewhere",
            format!("from {} to {}: not on the way", gap.begin, gap.end),
        ));
    }
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in lines {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:width$}  {value}");
    }
    text
}

fn target(plan: &Plan) -> String {
    let side = if plan.exclusive { " (exclusive)" } else { "" };
    format!("{}{side}", plan.target)
}

fn base(plan: &Plan) -> String {
    let base = &plan.base;
    let parent = base
        .parent
        .as_ref()
        .map_or(String::new(), |parent| format!(" on {parent}"));
    let kind = if plan.is_incremental() {
        "incremental"
    } else {
        "full"
    };
    format!(
        "{} ({kind}{parent}, {}, {}), ends at {}",
        base.id,
        base.started,
        ByteSize(base.bytes),
        base.end.position
    )
}

fn ancestry(plan: &Plan) -> String {
    let legs: Vec<String> = plan
        .ancestry
        .iter()
        .map(|leg| format!("{} ({} to {})", leg.branch, leg.begin, leg.end))
        .collect();
    legs.join(", then ")
}

fn log(plan: &Plan) -> String {
    format!(
        "{} to {}, {} in {} objects ({} stored)",
        plan.log.begin,
        plan.log.end,
        ByteSize(plan.log.bytes),
        plan.log.objects,
        ByteSize(plan.log.stored_bytes)
    )
}

fn stops(plan: &Plan) -> String {
    match plan.recovery {
        RecoveryTarget::After(record) => match &plan.last_in {
            Some(ending) if ending.begin == record.begin => format!("after {}", describe(ending)),
            _ => format!("after the record at {}", record.begin),
        },
        RecoveryTarget::Consistency => {
            let end = plan.base.end.position;
            match &plan.last_in {
                Some(ending) => format!(
                    "at the end of the base backup, {end}: no transaction ended between {} and there",
                    describe(ending)
                ),
                None => {
                    format!("at the end of the base backup, {end}: no transaction ended in the log before")
                }
            }
        }
    }
}

fn describe(ending: &Ending) -> String {
    let kind = match ending.kind {
        EndingKind::Commit => "the commit",
        EndingKind::Abort => "the abort",
        EndingKind::Prepare => "the prepare",
    };
    format!(
        "{kind} of transaction {} at {} ({})",
        ending.transaction, ending.begin, ending.time
    )
}

fn last_commit(plan: &Plan) -> String {
    plan.last_commit.as_ref().map_or_else(
        || "none in the log: all commits are in the base backup".to_owned(),
        |commit| {
            format!(
                "transaction {} at {}, {}",
                commit.transaction, commit.begin, commit.time
            )
        },
    )
}
