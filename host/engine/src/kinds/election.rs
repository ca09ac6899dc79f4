//! Election rules: an [`ElectionView`] in, a [`Verdict`] out.

use std::collections::BTreeMap;
use std::time::Duration;

use althing_core::{Choice, ElectionView, LeaderView, MemberView, Verdict, limits};
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, Store};

use crate::bindings::election::althing::policy::{clock, config, log, random, types};
use crate::bindings::election::exports::althing::policy::election as wit;
use crate::bindings::election::{ElectionPolicy, ElectionPolicyPre};
use crate::store::Call;

/// Makes the linker that says what an election rule may import. Without `may_log` the log is not among it.
pub(crate) fn linker(engine: &Engine, may_log: bool) -> wasmtime::Result<Linker<Call>> {
    let mut linker = Linker::new(engine);
    types::add_to_linker::<_, HasSelf<Call>>(&mut linker, |call| call)?;
    config::add_to_linker::<_, HasSelf<Call>>(&mut linker, |call| call)?;
    clock::add_to_linker::<_, HasSelf<Call>>(&mut linker, |call| call)?;
    random::add_to_linker::<_, HasSelf<Call>>(&mut linker, |call| call)?;
    if may_log {
        log::add_to_linker::<_, HasSelf<Call>>(&mut linker, |call| call)?;
    }
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    Ok(linker)
}

impl types::Host for Call {}

/// What an election rule may import, in words.
pub(crate) const IMPORTS: &str = "An election rule may import config, clock and random of althing:policy, log \
    where [grants] of policy.toml says `log = true`, and WASI 0.2";

/// An election rule, linked and ready for any number of calls.
#[derive(Clone)]
pub(crate) struct Rule(ElectionPolicyPre<Call>);

impl Rule {
    /// Links `component`. Fails when it imports what `linker` does not hold.
    pub(crate) fn link(linker: &Linker<Call>, component: &Component) -> wasmtime::Result<Linked> {
        let pre = linker.instantiate_pre(component)?;
        Ok(ElectionPolicyPre::new(pre).map(Rule))
    }

    /// Asks the guest whether it can work with its settings, and what settings it takes.
    pub(crate) async fn check(&self, mut store: Store<Call>) -> wasmtime::Result<Result<String, String>> {
        let guest = self.instantiate(&mut store).await?;
        let settings = guest.althing_policy_settings();
        let checked = settings.call_check(&mut store).await?;
        let schema = settings.call_schema(&mut store).await?;
        Ok(checked.map(|()| schema))
    }

    /// Asks the guest who shall lead.
    pub(crate) async fn elect(
        &self,
        mut store: Store<Call>,
        view: &ElectionView,
    ) -> wasmtime::Result<Result<Verdict, String>> {
        let guest = self.instantiate(&mut store).await?;
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

    async fn instantiate(&self, store: &mut Store<Call>) -> wasmtime::Result<ElectionPolicy> {
        self.0.instantiate_async(store).await
    }
}

/// A rule, or what its component does not export.
pub(crate) type Linked = wasmtime::Result<Rule>;

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
    let mut reason = verdict.reason;
    reason.truncate(reason.floor_char_boundary(limits::REASON_BYTES_MAX));
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    let revisit_ms = verdict
        .revisit
        .filter(|after| after.is_finite())
        .map(|after| after.clamp(millis(limits::REVISIT_MIN), millis(limits::REVISIT_MAX)));
    Verdict { choice, reason, revisit_ms }
}
