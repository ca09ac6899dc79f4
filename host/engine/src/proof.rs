//! Proving a policy: the cases of its bundle, run on this host.

use std::sync::Arc;

use althing_core::{Choice, Error, Kind, Result, Verdict};

use crate::bundle::{Case, Settings};
use crate::policy::Policy;

/// What a proof went over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The cases that were run, all of which hold.
    pub cases: usize,
}

pub(crate) async fn prove(policy: &Arc<Policy>) -> Result<Proof> {
    let cases = &policy.bundle().cases;
    for case in cases {
        run(policy, case).await.map_err(|error| error.with("case", &case.name))?;
    }
    Ok(Proof { cases: cases.len() })
}

async fn run(policy: &Policy, case: &Case) -> Result<()> {
    let settings = match &case.settings {
        Some(settings) => Arc::new(Settings::new(settings)?),
        None => policy.settings().clone(),
    };
    let failed = |got: String| {
        let expected = expectation(case);
        Error::new(Kind::Fault, "prove policy", format!("expected {expected}, got {got}"))
            .advise("Correct the policy or the case")
    };
    let ruling = policy.elect_with(&case.view, settings).await.map_err(|fault| failed(fault.to_string()))?;
    let has_reason = case.expect.reason.as_ref().is_none_or(|part| ruling.verdict.reason.contains(part));
    if ruling.verdict.choice == case.expect.choice && has_reason {
        return Ok(());
    }
    Err(failed(verdict(&ruling.verdict)))
}

fn expectation(case: &Case) -> String {
    let reason = case.expect.reason.as_ref().map(|part| format!(" because of {part:?}"));
    format!("{}{}", choice(&case.expect.choice), reason.unwrap_or_default())
}

fn verdict(verdict: &Verdict) -> String {
    format!("{} because of {:?}", choice(&verdict.choice), verdict.reason)
}

fn choice(choice: &Choice) -> String {
    match choice {
        Choice::Elect(ranked) => format!("elect {ranked:?}"),
        Choice::Keep => "keep".into(),
        Choice::Vacate => "vacate".into(),
    }
}
