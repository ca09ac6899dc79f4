//! The second step of the road: one immutable view of a group, made from what this host has seen.

use std::collections::BTreeMap;

use althing_core::info::LeaderInfo;
use althing_core::{ElectionView, LeaderView, Liveness, MemberView};

use crate::mirror::Group;

/// The attribute of a member that let its turn to claim pass, or stood down.
pub(crate) const PASSED_OVER: &str = "passed-over";

/// The attribute that holds what a member says it can do, as JSON.
const CAPABILITIES: &str = "capabilities";

/// Makes the view an election rule is shown: only of members that may lead. `passed_over` tells, by incarnation, who is marked so.
pub(crate) fn election_view(
    group: &Group,
    now_ms: u64,
    tenure_ms: f64,
    passed_over: impl Fn(&str) -> bool,
) -> ElectionView {
    let candidates = group.by_seniority().into_iter().filter(|member| group.may_lead(member));
    let members = candidates.enumerate().map(|(index, member)| {
        let record = &member.record;
        let mut attributes = BTreeMap::from([("host".to_owned(), record.host.clone())]);
        if passed_over(&record.incarnation) {
            attributes.insert(PASSED_OVER.to_owned(), "true".to_owned());
        }
        if !record.capabilities.is_null() {
            attributes.insert(CAPABILITIES.to_owned(), record.capabilities.to_string());
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
    let may_lead =
        |leader: &LeaderInfo| group.members.get(&leader.member).is_some_and(|it| group.may_lead(it));
    let leader = group.leading().filter(may_lead).map(|leader| LeaderView {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use althing_core::{Digest, Revision, Stamp};
    use serde_json::json;

    use super::*;
    use crate::layout::MemberRecord;
    use crate::mirror::Member;

    fn member(id: &str, revision: u64, candidate: bool) -> (String, Arc<Member>) {
        let record = MemberRecord {
            id: id.into(),
            incarnation: format!("{id}-1"),
            host: "h".into(),
            host_incarnation: String::new(),
            joined_ms: 0,
            metadata: BTreeMap::new(),
            capabilities: if id == "b" { json!({ "gpu": true }) } else { json!(null) },
            candidate,
            updated_ms: 0,
            resume: Digest::of(""),
        };
        let stamp = Stamp { created: Revision(revision), modified: Revision(revision) };
        (id.into(), Arc::new(Member { record, stamp, session: None }))
    }

    #[test]
    fn a_rule_is_shown_what_candidates_can_do_and_nobody_else() {
        let members = [member("a", 1, false), member("b", 2, true), member("c", 3, true)].into();
        let group = Group { members, ..Group::default() };
        let view = election_view(&group, 0, 0.0, |_| false);
        let shown: Vec<_> =
            view.members.iter().map(|member| (member.id.as_str(), member.seniority)).collect();
        assert_eq!(shown, [("b", 0), ("c", 1)]);
        let capable: Vec<_> = view.members.iter().map(|member| member.attributes.get(CAPABILITIES)).collect();
        assert_eq!(capable, [Some(&r#"{"gpu":true}"#.to_owned()), None]);
    }
}
