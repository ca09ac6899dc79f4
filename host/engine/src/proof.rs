//! Proving a policy: the cases of its bundle, run on this host.

use std::sync::Arc;

use althing_core::{Choice, Error, Kind, Result, Verdict};

use crate::bundle::{BehaviourCase, Case, CaseRecord, ElectionCase, Expectation, Outcome, Settings};
use crate::fault::Fault;
use crate::kinds::behaviour::BehaviourAnswer;
use crate::memory_records::MemoryRecords;
use crate::policy::Policy;
use crate::records::{Entry, RecordsError};

/// What a proof went over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The cases that were run, all of which hold.
    pub cases: usize,
}

pub(crate) async fn prove(policy: &Arc<Policy>) -> Result<Proof> {
    let cases = &policy.bundle().cases;
    for case in cases {
        run(policy, case).await.map_err(|error| error.with("case", case.name()))?;
    }
    Ok(Proof { cases: cases.len() })
}

async fn run(policy: &Policy, case: &Case) -> Result<()> {
    let settings = match case.settings() {
        Some(settings) => Arc::new(Settings::new(settings)?),
        None => policy.settings().clone(),
    };
    match case {
        Case::Election(case) => elect(policy, case, settings).await,
        Case::Behaviour(case) => handle(policy, case, settings).await,
    }
}

async fn elect(policy: &Policy, case: &ElectionCase, settings: Arc<Settings>) -> Result<()> {
    let failed = |got: String| failed(&expectation(&case.expect), &got);
    let ruling = policy.elect_with(&case.view, settings).await.map_err(|fault| failed(fault.to_string()))?;
    let has_reason = case.expect.reason.as_ref().is_none_or(|part| ruling.verdict.reason.contains(part));
    if ruling.verdict.choice == case.expect.choice && has_reason {
        return Ok(());
    }
    Err(failed(verdict(&ruling.verdict)))
}

async fn handle(policy: &Policy, case: &BehaviourCase, settings: Arc<Settings>) -> Result<()> {
    let records = MemoryRecords::new(&case.request.session);
    let before = case.entries()?;
    before.iter().for_each(|entry| records.insert(entry.clone()));
    let request = case.request.request()?;
    let handled = policy.handle_with(&request, Arc::new(records.clone()), settings).await;
    let answer = handled.map(|handled| handled.answer);
    if !is_expected(&case.expect.outcome, &answer) {
        return Err(failed(&case.expect.outcome.to_string(), &answered(&answer)));
    }
    let after = records.entries();
    let holds = match &case.expect.records {
        Some(expected) => are(expected, &after),
        None => sorted(&before) == after,
    };
    if holds {
        return Ok(());
    }
    let expected = match &case.expect.records {
        Some(expected) => listed(expected.iter().map(CaseRecord::to_string)),
        None => listed(before.iter().map(shown)),
    };
    Err(failed(&format!("afterwards {expected}"), &listed(after.iter().map(shown))))
}

fn failed(expected: &str, got: &str) -> Error {
    Error::new(Kind::Fault, "prove policy", format!("expected {expected}, got {got}"))
        .advise("Correct the policy or the case")
}

fn expectation(expect: &Expectation) -> String {
    let reason = expect.reason.as_ref().map(|part| format!(" because of {part:?}"));
    format!("{}{}", choice(&expect.choice), reason.unwrap_or_default())
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

type Answered = std::result::Result<std::result::Result<BehaviourAnswer, RecordsError>, Fault>;

fn is_expected(expected: &Outcome, got: &Answered) -> bool {
    match (expected, got) {
        (Outcome::Done(content), Ok(Ok(BehaviourAnswer::Done(bytes)))) => content.is(bytes),
        (Outcome::Wait(expected, at), Ok(Ok(BehaviourAnswer::Wait { prefix, until_ms }))) => {
            prefix == expected.as_bytes() && at.is_none_or(|at| at == *until_ms)
        }
        (Outcome::Error(part), Ok(Err(error))) => error.to_string().contains(part),
        _ => false,
    }
}

fn answered(got: &Answered) -> String {
    match got {
        Ok(Ok(BehaviourAnswer::Done(bytes))) => format!("done {}", String::from_utf8_lossy(bytes)),
        Ok(Ok(BehaviourAnswer::Wait { prefix, until_ms })) => {
            format!("wait for {} until {until_ms}", String::from_utf8_lossy(prefix))
        }
        Ok(Err(error)) => format!("the error {:?}", error.to_string()),
        Err(fault) => fault.to_string(),
    }
}

fn are(expected: &[CaseRecord], entries: &[Entry]) -> bool {
    expected.len() == entries.len()
        && entries.iter().all(|entry| expected.iter().any(|record| record.is(entry)))
}

fn sorted(entries: &[Entry]) -> Vec<Entry> {
    let mut entries = entries.to_vec();
    entries.sort_by(|left, right| left.key.cmp(&right.key));
    entries
}

fn listed(records: impl Iterator<Item = String>) -> String {
    let records: Vec<_> = records.collect();
    if records.is_empty() { "no records".into() } else { format!("the records {}", records.join("; ")) }
}

fn shown(entry: &Entry) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let owner = entry.session.as_ref().map(|session| format!(" of {session}"));
    format!("{} = {}{}", text(&entry.key), text(&entry.value), owner.unwrap_or_default())
}
