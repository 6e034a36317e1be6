//! `plan`: how a restore would go.

use tidemark_types::{Clock, SystemClock};

use crate::catalog::{Extent, list};
use crate::cli::PlanArgs;
use crate::command::list::print_json;
use crate::plan::render;
use crate::planning;

/// Runs the command.
///
/// # Errors
/// When there is no plan.
pub async fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let request = args.what.request(SystemClock.now())?;
    let repository = args.what.source.open().await?;
    let archive = args.what.server.open(&repository).await?;
    let listed = list(&repository, &archive, Extent::FromFirstBase).await?;
    let history = planning::timeline(&listed, args.what.timeline())?;
    let lines = listed.lines(&history);
    let plan = planning::make(&archive, &listed, &history, &lines, &request).await?;
    if args.json {
        print_json(&plan)
    } else {
        print!("{}", render(&plan));
        Ok(())
    }
}
