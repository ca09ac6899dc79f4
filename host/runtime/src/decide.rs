//! The third step of the road: a view goes to the bound rule, and its verdict comes back, or the stated default.

use std::sync::Arc;

use althing_core::info::{BindingInfo, Decision, Outcome};
use althing_core::{Choice, Digest, ElectionView, Revision, Verdict, limits};
use althing_engine::Policy;

use crate::Host;
use crate::view::PASSED_OVER;

/// The rule that decides for a group now.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub epoch: u64,
    /// The bound policy, loaded; `None` is the native rule.
    pub policy: Option<(BindingInfo, Arc<Policy>)>,
}

/// A verdict, not yet acted on, with the bytes of the view it was made from.
#[derive(Clone, Debug)]
pub(crate) struct Decided {
    pub decision: Decision,
    pub view: Vec<u8>,
}

impl Host {
    /// Asks the rule.
    pub(crate) async fn decide(&self, rule: &Rule, view: &ElectionView) -> Decided {
        let bytes = view.to_bytes();
        let mut decision = Decision {
            group: view.group.clone(),
            at_ms: view.now_ms as u64,
            epoch: rule.epoch,
            policy: None,
            digest: None,
            engine: self.engine.digest(),
            view: Digest::of(&bytes),
            verdict: Verdict { choice: Choice::Keep, reason: String::new(), revisit_ms: None },
            fault: None,
            log: Vec::new(),
            outcome: Outcome::Unchanged,
            term: None,
        };
        match &rule.policy {
            None => decision.verdict = native(view),
            Some((binding, policy)) => ask(binding, policy, view, &mut decision).await,
        }
        Decided { decision, view: bytes }
    }

    /// Records a decision with what came of it.
    pub(crate) fn record(&self, decided: Decided, outcome: Outcome, term: Option<Revision>) {
        self.audit.keep(Decision { outcome, term, ..decided.decision }, decided.view);
    }
}

async fn ask(binding: &BindingInfo, policy: &Policy, view: &ElectionView, decision: &mut Decision) {
    let name = binding.policy.clone();
    decision.policy = Some(name.clone());
    decision.digest = Some(binding.digest);
    metrics::counter!("althing_decisions_total", "policy" => name.clone()).increment(1);
    match policy.elect(view).await {
        Ok(ruling) => {
            decision.verdict = ruling.verdict;
            decision.log = ruling.log;
        }
        Err(fault) => {
            metrics::counter!("althing_faults_total", "policy" => name).increment(1);
            decision.verdict = fallback(view);
            decision.fault = Some(fault.to_string());
            decision.log = fault.log;
        }
    }
}

/// The native rule: whoever leads goes on; of the others, the oldest that was not passed over.
pub fn native(view: &ElectionView) -> Verdict {
    if let Some(leader) = &view.leader {
        let choice = Choice::Elect(vec![leader.member.clone()]);
        return Verdict { choice, reason: "it leads already".into(), revisit_ms: None };
    }
    let passed = |index: &usize| view.members[*index].attributes.contains_key(PASSED_OVER);
    let mut order: Vec<usize> = (0..view.members.len()).collect();
    order.sort_by_key(passed);
    let ranked: Vec<String> =
        order.into_iter().take(limits::RANKED_MAX).map(|index| view.members[index].id.clone()).collect();
    match ranked.is_empty() {
        true => Verdict { choice: Choice::Vacate, reason: "there is no member".into(), revisit_ms: None },
        false => Verdict { choice: Choice::Elect(ranked), reason: "the oldest".into(), revisit_ms: None },
    }
}

/// What stands in for a faulty answer: while somebody leads, nothing changes; a vacancy is filled natively.
fn fallback(view: &ElectionView) -> Verdict {
    if view.leader.is_none() {
        return native(view);
    }
    Verdict { choice: Choice::Keep, reason: "the policy failed; the leader is kept".into(), revisit_ms: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use althing_core::{LeaderView, Liveness, MemberView};
    use std::collections::BTreeMap;

    fn view(members: &[(&str, bool)], leader: Option<&str>) -> ElectionView {
        let member = |(index, (id, passed)): (usize, &(&str, bool))| MemberView {
            id: (*id).into(),
            incarnation: format!("{id}-1"),
            seniority: index as u32,
            metadata: BTreeMap::new(),
            liveness: Liveness::default(),
            attributes: passed.then(|| (PASSED_OVER.to_owned(), "true".to_owned())).into_iter().collect(),
        };
        let leader = leader.map(|id| LeaderView {
            member: id.into(),
            incarnation: format!("{id}-1"),
            term: Default::default(),
            tenure_ms: 0.0,
            attributes: BTreeMap::new(),
        });
        ElectionView {
            group: "g".into(),
            now_ms: 0.0,
            members: members.iter().enumerate().map(member).collect(),
            leader,
            attributes: BTreeMap::new(),
        }
    }

    #[track_caller]
    fn check(members: &[(&str, bool)], leader: Option<&str>, expected: Choice) {
        assert_eq!(native(&view(members, leader)).choice, expected);
    }

    #[test]
    fn the_oldest_leads_and_whoever_leads_goes_on() {
        check(&[], None, Choice::Vacate);
        check(&[("a", false), ("b", false)], None, Choice::Elect(vec!["a".into(), "b".into()]));
        check(&[("a", true), ("b", false)], None, Choice::Elect(vec!["b".into(), "a".into()]));
        check(&[("a", false), ("b", false)], Some("b"), Choice::Elect(vec!["b".into()]));
    }

    #[test]
    fn a_fault_keeps_a_leader_and_fills_a_vacancy() {
        let led = view(&[("a", false)], Some("a"));
        assert_eq!(fallback(&led).choice, Choice::Keep);
        let vacant = view(&[("a", false)], None);
        assert_eq!(fallback(&vacant).choice, Choice::Elect(vec!["a".into()]));
    }
}
