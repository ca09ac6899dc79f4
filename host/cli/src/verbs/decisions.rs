//! `althing decisions`.

use althing::info::{Decision, Outcome};
use althing::{Result, limits};

use crate::ask::Host;
use crate::table::{Table, moment, word};

/// Show what the host decided for a group, why, and what came of it; newest first
#[derive(clap::Args)]
pub(crate) struct Decisions {
    /// The group
    group: String,

    /// Show at most so many
    #[arg(long, value_name = "N", default_value_t = limits::DECISIONS_SHOWN_DEFAULT)]
    limit: usize,
}

impl Decisions {
    pub(super) async fn run(self, host: &Host) -> Result<()> {
        let decisions = host.client()?.decisions(&self.group, self.limit).await?;
        let table = Table::new(["TIME", "EPOCH", "POLICY", "CHOICE", "OUTCOME", "TERM", "REASON"]);
        host.show_list(&decisions, "no decisions", table, row)
    }
}

fn row(table: &mut Table, decision: &Decision) {
    let choice = match &decision.verdict.choice {
        althing::Choice::Elect(ranked) => format!("elect {}", ranked.join(" ")),
        other => word(other),
    };
    let outcome = match &decision.outcome {
        Outcome::Failed(why) => format!("failed: {why}"),
        other => word(other),
    };
    let reason = match &decision.fault {
        Some(fault) => format!("fault: {fault}"),
        None => decision.verdict.reason.clone(),
    };
    table.row([
        moment(decision.at_ms),
        decision.epoch.to_string(),
        decision.policy.clone().unwrap_or_else(|| "oldest (built in)".into()),
        choice,
        outcome,
        decision.term.map(|term| term.0.to_string()).unwrap_or_default(),
        reason,
    ]);
}
