//! Election rules: an [`ElectionView`] in, a [`Verdict`] out.

use std::collections::BTreeMap;
use std::time::Duration;

use althing_core::{Choice, ElectionView, LeaderView, MemberView, Verdict, limits};
use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use crate::bindings::election::althing::policy::types;
use crate::bindings::election::exports::althing::policy::election as wit;
use crate::bindings::election::{ElectionPolicy, ElectionPolicyPre};
use crate::store::Call;
use crate::words;

impl types::Host for Call {}

/// An election rule, linked and ready for any number of calls.
#[derive(Clone)]
pub(crate) struct Rule(ElectionPolicyPre<Call>);

impl Rule {
    /// Fails when the component exports no election.
    pub(crate) fn new(linked: InstancePre<Call>) -> wasmtime::Result<Self> {
        ElectionPolicyPre::new(linked).map(Rule)
    }

    /// Fails when what the component exports is of other types than the world's.
    pub(crate) fn check_types(store: &mut Store<Call>, instance: &Instance) -> wasmtime::Result<()> {
        ElectionPolicy::new(store, instance).map(drop)
    }

    /// Asks the guest who shall lead.
    pub(crate) async fn elect(
        &self,
        mut store: Store<Call>,
        view: &ElectionView,
    ) -> wasmtime::Result<Result<Verdict, String>> {
        let guest = self.0.instantiate_async(&mut store).await?;
        let texts = texts(view);
        let mut texts = Texts(&texts);
        let attributes = texts.take(&view.attributes);
        let term = view.leader.as_ref().map(|leader| leader.term.to_string()).unwrap_or_default();
        let leader = view.leader.as_ref().map(|leader| leader_of(leader, &term, &mut texts));
        let members: Vec<_> = view.members.iter().map(|member| member_of(member, &mut texts)).collect();
        let shown = wit::View { group: &view.group, now: view.now_ms, members: &members, leader, attributes };
        let answer = guest.althing_policy_election().call_elect(&mut store, shown).await?;
        Ok(answer.map(from_guest))
    }
}

type Text<'a> = (&'a str, &'a str);
type Attributes = BTreeMap<String, String>;

/// Collects the names and values of all maps of a view in one place, in the order in which [`Texts`] gives them out: a
/// guest is shown slices, and one list for all costs less than one for each.
fn texts(view: &ElectionView) -> Vec<Text<'_>> {
    let leader = view.leader.iter().map(|leader| &leader.attributes);
    let members = view.members.iter().flat_map(|member| [&member.metadata, &member.attributes]);
    let maps = std::iter::once(&view.attributes).chain(leader).chain(members);
    maps.flatten().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// Gives out the slices of [`texts`], map by map.
struct Texts<'a>(&'a [Text<'a>]);

impl<'a> Texts<'a> {
    fn take(&mut self, map: &Attributes) -> &'a [Text<'a>] {
        let (taken, rest) = self.0.split_at(map.len().min(self.0.len()));
        self.0 = rest;
        taken
    }
}

fn member_of<'a>(member: &'a MemberView, texts: &mut Texts<'a>) -> types::Member<'a> {
    types::Member {
        id: &member.id,
        incarnation: &member.incarnation,
        seniority: member.seniority,
        metadata: texts.take(&member.metadata),
        liveness: types::Liveness { state: &member.liveness.state, level: member.liveness.level },
        attributes: texts.take(&member.attributes),
    }
}

fn leader_of<'a>(leader: &'a LeaderView, term: &'a str, texts: &mut Texts<'a>) -> wit::Leader<'a> {
    wit::Leader {
        member: &leader.member,
        incarnation: &leader.incarnation,
        term,
        tenure: leader.tenure_ms,
        attributes: texts.take(&leader.attributes),
    }
}

fn from_guest(verdict: wit::Verdict) -> Verdict {
    let choice = match verdict.choice {
        wit::Choice::Elect(ranked) => Choice::Elect(ranked),
        wit::Choice::Keep => Choice::Keep,
        wit::Choice::Vacate => Choice::Vacate,
    };
    let reason = words::plain(&verdict.reason, limits::REASON_BYTES_MAX);
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    let revisit_ms = verdict
        .revisit
        .filter(|after| after.is_finite())
        .map(|after| after.clamp(millis(limits::REVISIT_MIN), millis(limits::REVISIT_MAX)));
    Verdict { choice, reason, revisit_ms }
}
