//! `plan`: how a restore would go.

use crate::cli::PlanArgs;
use crate::command::list::print_json;
use crate::plan::render;
use crate::planning::{self, Question};

/// Runs the command.
///
/// # Errors
/// When there is no plan.
pub async fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let question = Question::open(&args.what).await?;
    let ancestry = planning::branch(&question.listed, args.what.branch())?;
    let lines = question.listed.lines(ancestry);
    let plan = question.plan(ancestry, &lines).await?;
    if args.json {
        print_json(&plan)
    } else {
        print!("{}", render(&plan));
        Ok(())
    }
}
