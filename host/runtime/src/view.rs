//! The second step of the road: one immutable view of a group, made from what this host has seen.

use std::collections::BTreeMap;

use althing_core::{ElectionView, LeaderView, Liveness, MemberView};

use crate::mirror::Group;

/// The attribute of a member that let its turn to claim pass, or stood down.
pub(crate) const PASSED_OVER: &str = "passed-over";

/// Makes the view an election rule is shown. `passed_over` tells, by incarnation, who is marked so.
pub(crate) fn election_view(
    group: &Group,
    now_ms: u64,
    tenure_ms: f64,
    passed_over: impl Fn(&str) -> bool,
) -> ElectionView {
    let members = group.by_seniority().into_iter().enumerate().map(|(index, member)| {
        let record = &member.record;
        let mut attributes = BTreeMap::from([("host".to_owned(), record.host.clone())]);
        if passed_over(&record.incarnation) {
            attributes.insert(PASSED_OVER.to_owned(), "true".to_owned());
        }
        MemberView {
            id: record.id.clone(),
            incarnation: record.incarnation.clone(),
            seniority: index as u32,
            metadata: record.metadata.clone(),
            liveness: Liveness::default(),
            attributes,
        }
    });
    let leader = group.leading().map(|leader| LeaderView {
        member: leader.member,
        incarnation: leader.incarnation,
        term: leader.term,
        tenure_ms,
        attributes: BTreeMap::new(),
    });
    ElectionView {
        group: group.name.clone(),
        now_ms: now_ms as f64,
        members: members.collect(),
        leader,
        attributes: BTreeMap::new(),
    }
}
