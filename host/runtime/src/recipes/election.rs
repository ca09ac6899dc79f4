//! Elections: one task per group watches, decides when it is this host's turn to, and claims.
//!
//! While a member of this host leads, this host decides. A vacant group is decided by every host that has a
//! candidate; it claims for its own candidate once each better-ranked one has let its turn pass. Every step
//! looks at the group anew, does at most one write, and is repeated when something changed: there is
//! no state here that could not be lost, except clocks.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use althing_core::info::{Hold, Outcome};
use althing_core::{BootTime, Choice, ElectionView, Guard, Revision, SessionId, Stamp, Txn, limits};
use tokio::sync::{Notify, RwLock};
use tracing::{debug, info};

use super::group::Closed;
use crate::apply::Applied;
use crate::decide::{Decided, Rule, native};
use crate::layout::{GroupRecord, LeaderRecord, group_key, member_key};
use crate::mirror::{Group, Member};
use crate::view::election_view;
use crate::{Host, Runtime};

/// The tasks of all groups.
#[derive(Debug)]
pub(crate) struct Elections {
    host: Weak<Host>,
    chairs: Mutex<HashMap<String, Arc<Chair>>>,
}

/// What others may do to the task of one group.
#[derive(Debug, Default)]
pub(crate) struct Chair {
    wake: Notify,
    /// Held for reading while a decision is made; whoever swaps the rule takes it for writing.
    gate: RwLock<()>,
}

impl Elections {
    pub(crate) fn new(host: Weak<Host>) -> Self {
        Elections { host, chairs: Mutex::default() }
    }

    /// Lets a group's task look again; starts it if there is none.
    pub(crate) fn wake(&self, group: &str) {
        self.chair(group).wake.notify_one();
    }

    /// Lets every task look again.
    pub(crate) fn wake_all(&self) {
        for chair in self.chairs.lock().unwrap_or_else(PoisonError::into_inner).values() {
            chair.wake.notify_one();
        }
    }

    /// Waits until no decision is under way that was begun before.
    pub(crate) async fn pass_gate(&self, group: &str) {
        drop(self.chair(group).gate.write().await);
    }

    fn chair(&self, group: &str) -> Arc<Chair> {
        let mut chairs = self.chairs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chair) = chairs.get(group) {
            return chair.clone();
        }
        let chair = Arc::new(Chair::default());
        chairs.insert(group.to_owned(), chair.clone());
        if let Some(host) = self.host.upgrade() {
            let election = Election::new(host.clone(), group.to_owned(), chair.clone());
            host.spawn(election.run());
        }
        chair
    }

    /// Ends the task of a group that is gone; not if it came back meanwhile.
    fn retire(&self, host: &Host, group: &str) -> bool {
        let mut chairs = self.chairs.lock().unwrap_or_else(PoisonError::into_inner);
        if host.mirror.group(group).is_some() {
            return false;
        }
        chairs.remove(group);
        host.audit.forget(group);
        true
    }
}

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// When something changed.
    Woken,
    /// When something changed, and at this moment at the latest.
    At(BootTime),
    /// Never: the group is gone.
    Over,
}

/// A group as one step sees it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub group: Arc<Group>,
    pub record: GroupRecord,
    pub stamp: Stamp,
    pub session: SessionId,
    pub now: BootTime,
}

impl Seen {
    /// Tells whether a member is of this host, though its join may not be done yet.
    pub(super) fn is_here(&self, member: &Member) -> bool {
        member.session == Some(self.session)
    }
}

/// The task of one group.
#[derive(Debug)]
pub(super) struct Election {
    pub host: Arc<Host>,
    pub name: String,
    chair: Arc<Chair>,
    /// In this vacancy, since when a candidate before ours is first in line, by incarnation.
    first_since: HashMap<String, BootTime>,
    /// Who is passed over, and since when, by incarnation.
    pub passed: HashMap<String, BootTime>,
    stood_down: HashSet<String>,
    moves_seen: Option<u64>,
    moves: VecDeque<BootTime>,
    /// The term whose holder was told to stop, by nonce: it never resumes.
    pub stopped: Option<String>,
    /// The term that this host saw begin, by nonce.
    tenure: Option<(String, BootTime)>,
    /// Since when a hand-over stands in its phase.
    pub handover: Option<(String, BootTime)>,
    /// The version of the group that was decided on last.
    pub decided: Option<Revision>,
    pub revisit: Option<BootTime>,
    /// When an ephemeral group that has lost its last member is deleted.
    deleted_at: Option<BootTime>,
    /// A timer was so late that this process must have stood still.
    stalled: bool,
}

/// The pause after a write that failed.
const PAUSE: Duration = Duration::from_millis(50);

impl Election {
    fn new(host: Arc<Host>, name: String, chair: Arc<Chair>) -> Self {
        Election {
            host,
            name,
            chair,
            first_since: HashMap::new(),
            passed: HashMap::new(),
            stood_down: HashSet::new(),
            moves_seen: None,
            moves: VecDeque::new(),
            stopped: None,
            tenure: None,
            handover: None,
            decided: None,
            revisit: None,
            deleted_at: None,
            stalled: false,
        }
    }

    async fn run(mut self) {
        loop {
            let next = self.step().await;
            match self.after_rebalance(next).await {
                Next::Woken => self.chair.wake.notified().await,
                Next::At(moment) => tokio::select! {
                    () = self.chair.wake.notified() => {}
                    () = self.host.clock.sleep_until(moment) => {
                        self.stalled = self.host.clock.now().since(moment) > limits::STALL;
                    }
                },
                Next::Over if self.host.elections.retire(&self.host, &self.name) => return,
                Next::Over => {}
            }
        }
    }

    /// Sees to the group's shares as well; where that fails, it is tried again soon.
    async fn after_rebalance(&self, next: Next) -> Next {
        match (self.host.rebalance(&self.name).await, next) {
            (Err(error), Next::Woken) => {
                debug!(group = self.name, %error, "the shares cannot be moved yet");
                self.soon()
            }
            (_, next) => next,
        }
    }

    async fn step(&mut self) -> Next {
        let Some(group) = self.host.mirror.group(&self.name) else { return Next::Over };
        let Some((record, stamp)) = group.record.clone() else { return Next::Woken };
        let now = self.host.clock.now();
        self.observe(&group, &record, now);
        let Some(session) = self.host.anchor.held() else { return Next::Woken };
        if self.stalled && !self.is_current(stamp).await {
            return self.soon();
        }
        self.stalled = false;
        let seen = Seen { group, record, stamp, session, now };
        if seen.record.ephemeral && seen.group.members.is_empty() {
            return self.sweep(&seen).await;
        }
        self.deleted_at = None;
        if self.expel(&seen).await {
            return self.soon();
        }
        match seen.group.term() {
            None => self.campaign(&seen).await,
            Some(leader) => {
                self.first_since.clear();
                match leader.session == session {
                    true => self.lead(&seen, leader).await,
                    false => self.attend(&seen, leader).await,
                }
            }
        }
    }

    /// Deletes an ephemeral group that has lost its last member. A moment later, and where a member of this host may be
    /// about to join again, a lease later: the group of whoever comes back soon keeps its rule.
    async fn sweep(&mut self, seen: &Seen) -> Next {
        let patience = match self.host.sessions.is_home(&self.name) {
            true => self.host.config.lease,
            false => self.host.chance.jitter(PAUSE),
        };
        let due = *self.deleted_at.get_or_insert(seen.now + patience);
        if seen.now < due {
            return Next::At(due);
        }
        self.deleted_at = None;
        match self.host.is_occupied(&self.name).await {
            Ok(true) => self.soon(),
            Ok(false) => match self.host.close_group(&self.name, |record| record.ephemeral).await {
                Ok(Closed::Gone) => {
                    info!(group = self.name, "deleted with its last member");
                    Next::Woken
                }
                Ok(Closed::Occupied | Closed::Overtaken) | Err(_) => self.soon(),
            },
            Err(_) => self.soon(),
        }
    }

    /// Lets members of this host go that were asked to. One that leads stops first, and is waited for. Returns whether any
    /// went.
    async fn expel(&mut self, seen: &Seen) -> bool {
        let mut any = false;
        if seen.record.evicted.is_empty() {
            return any;
        }
        for member in seen.group.members.values().filter(|member| seen.is_here(member)) {
            let Some(mark) = seen.record.eviction(&member.record.incarnation) else { continue };
            if let Some(leader) = seen.group.term().filter(|leader| leader.incarnation == mark.incarnation) {
                self.stop(leader).await;
            }
            any |= self.host.expel(&self.name, member, &mark.by).await;
        }
        any
    }

    /// Looks at the store: after a pause of this whole process, what was seen may be long past. A decision made on it
    /// could not take effect, but it would be one by a rule that may have been retired.
    async fn is_current(&self, seen: Stamp) -> bool {
        self.host.read_group(&self.name).await.is_ok_and(|read| read.modified == seen.modified)
    }

    /// Takes note of what others wrote down, by our own clock.
    fn observe(&mut self, group: &Group, record: &GroupRecord, now: BootTime) {
        let before = self.moves_seen.replace(record.moves).unwrap_or(record.moves);
        let kept = self.host.config.tuning.moves_per_minute as usize;
        for _ in 0..record.moves.saturating_sub(before).min(kept as u64) {
            self.moves.push_back(now);
        }
        while self.moves.len() > kept {
            self.moves.pop_front();
        }
        for incarnation in &record.stood_down {
            if self.stood_down.insert(incarnation.clone()) {
                self.passed.insert(incarnation.clone(), now);
            }
        }
        self.stood_down.retain(|incarnation| record.stood_down.contains(incarnation));
        let backoff = self.host.config.tuning.passed_backoff;
        let here = |incarnation: &String| {
            group.members.values().any(|member| member.record.incarnation == *incarnation)
        };
        let passed_before = self.passed.len();
        self.passed.retain(|incarnation, since| now < *since + backoff && here(incarnation));
        if self.passed.len() < passed_before {
            // Who is open again may be the one the rule prefers.
            self.decided = None;
        }
    }

    /// Fills a vacancy, or waits for whoever has the turn.
    async fn campaign(&mut self, seen: &Seen) -> Next {
        self.tenure = None;
        self.handover = None;
        if !seen.group.members.values().any(|member| self.is_own(seen, member)) {
            return Next::Woken;
        }
        let Some((view, decided)) = self.decide(seen).await else { return Next::Woken };
        let ranked = match &decided.decision.verdict.choice {
            Choice::Elect(ranked) => ranked.clone(),
            Choice::Keep | Choice::Vacate => {
                self.host.record(decided, Outcome::Unchanged, None);
                return self.later();
            }
        };
        let order = self.order(seen, &view, &ranked);
        let first_own = order.iter().position(|member| self.is_own(seen, member));
        match (first_own, order.first()) {
            (Some(0), Some(candidate)) => {
                let claim = self.claim(seen, candidate, seen.record.clone()).await;
                self.claimed(decided, claim)
            }
            (turn, _) => {
                let before = &order[..turn.unwrap_or(order.len())];
                let until = self.let_pass(before, seen.now);
                self.host.record(decided, Outcome::Waiting, None);
                until
            }
        }
    }

    /// Records a claim and says when to look again.
    pub(super) fn claimed(&mut self, decided: Decided, claim: Result<Revision, Outcome>) -> Next {
        match claim {
            Ok(term) => {
                self.host.record(decided, Outcome::Claimed, Some(term));
                Next::Woken
            }
            Err(outcome) => {
                self.host.record(decided, outcome, None);
                self.soon()
            }
        }
    }

    /// Returns the candidates in the order of their turns: as ranked, without those that were passed over. When the
    /// rule names only such, the others follow natively: a vacancy is filled, whatever the rule says.
    fn order(&self, seen: &Seen, view: &ElectionView, ranked: &[String]) -> Vec<Arc<Member>> {
        let open = |ids: &[String]| -> Vec<Arc<Member>> {
            let members = ids.iter().filter_map(|id| seen.group.members.get(id));
            members.filter(|member| !self.is_passed(&member.record.incarnation)).cloned().collect()
        };
        let ranked = open(ranked);
        if !ranked.is_empty() {
            return ranked;
        }
        if let Choice::Elect(natural) = native(view).choice {
            let natural = open(&natural);
            if !natural.is_empty() {
                return natural;
            }
        }
        seen.group.by_seniority().into_iter().filter(|member| self.is_own(seen, member)).cloned().collect()
    }

    /// Tells whether this host may claim for a member: it may lead, it joined here, and is not about to leave.
    pub(super) fn is_own(&self, seen: &Seen, member: &Member) -> bool {
        let stay = &member.record;
        seen.group.may_lead(member)
            && seen.is_here(member)
            && self.host.sessions.is_placed(&self.name, &stay.id, &stay.incarnation)
    }

    pub(super) fn is_passed(&self, incarnation: &str) -> bool {
        self.passed.contains_key(incarnation)
    }

    /// Gives whoever is first in line its window, from when it came to be first; when that is over, it is passed over.
    fn let_pass(&mut self, before: &[Arc<Member>], now: BootTime) -> Next {
        let Some(first) = before.first() else { return Next::Woken };
        let incarnation = &first.record.incarnation;
        let since = *self.first_since.entry(incarnation.clone()).or_insert(now);
        let over = since + self.host.config.tuning.claim_window;
        if now < over {
            return Next::At(over);
        }
        info!(group = self.name, member = first.record.id, "let its turn to claim pass");
        self.passed.insert(incarnation.clone(), now);
        Next::At(now)
    }

    /// Begins a term for a member of this host: one transaction proves that the group was not changed since it was
    /// looked at, that the member is in its stay, and with it that our session lives.
    pub(super) async fn claim(
        &mut self,
        seen: &Seen,
        member: &Member,
        base: GroupRecord,
    ) -> Result<Revision, Outcome> {
        let stay = &member.record;
        let leader = LeaderRecord {
            member: stay.id.clone(),
            incarnation: stay.incarnation.clone(),
            host: self.host.identity.id.clone(),
            session: seen.session,
            term: None,
            nonce: self.host.nonce(),
            since_ms: self.host.clock.wall_ms(),
            epoch: base.bound.epoch,
            handover: None,
            revoke: None,
            asked_for: base.leader.as_ref().is_some_and(|former| former.is_to_give_way_to(&stay.incarnation)),
        };
        let nonce = leader.nonce.clone();
        let record = GroupRecord { leader: Some(leader), ..base };
        let stays = Txn::new().guard(Guard::Unchanged(member_key(&self.name, &stay.id), member.stamp));
        let term = self.write_with(seen, record, stays).await?;
        self.tenure = Some((nonce, self.host.clock.now()));
        self.first_since.clear();
        self.begin(seen.session, &stay.id, &stay.incarnation, term);
        Ok(term)
    }

    /// Lets a member of this host hold a term that is proven to be its own. Returns whether it does.
    pub(super) fn begin(&self, session: SessionId, member: &str, incarnation: &str, term: Revision) -> bool {
        let hold = Hold { group: self.name.clone(), member: member.to_owned(), term };
        let held = self.host.sessions.begin_hold(hold, incarnation);
        if held && self.host.anchor.held() != Some(session) {
            self.host.sessions.lose(&self.name, term);
            return false;
        }
        info!(group = self.name, member, %term, held, "a term began");
        held
    }

    /// Writes the group's record under the guard it was seen with.
    pub(super) async fn write(&self, seen: &Seen, record: GroupRecord) -> Result<Revision, Outcome> {
        self.write_with(seen, record, Txn::new()).await
    }

    async fn write_with(&self, seen: &Seen, record: GroupRecord, txn: Txn) -> Result<Revision, Outcome> {
        let guard = Guard::Unchanged(group_key(&self.name), seen.stamp);
        match self.host.write(&self.name, guard, record, txn).await {
            Ok(Applied::At(revision)) => {
                self.host.settle(revision).await;
                Ok(revision)
            }
            Ok(Applied::Conflict) => Err(Outcome::Conflict),
            Err(error) => {
                debug!(group = self.name, %error, "a write failed");
                Err(Outcome::Failed(error.to_string()))
            }
        }
    }

    /// Asks the bound rule; `None` while this host has not loaded it, or when the view is no longer current.
    pub(super) async fn decide(&mut self, seen: &Seen) -> Option<(ElectionView, Decided)> {
        let chair = self.chair.clone();
        let _deciding = chair.gate.read().await;
        let (rule, view) =
            self.host.question(seen, |incarnation| self.is_passed(incarnation), self.tenure_ms(seen))?;
        let decided = self.host.decide(&rule, &view).await;
        self.decided = Some(seen.group.version);
        self.revisit = decided.decision.verdict.revisit_ms.map(|wait| {
            let wait = Duration::try_from_secs_f64(wait / 1000.0).unwrap_or(limits::REVISIT_MAX);
            self.host.clock.now() + wait.clamp(limits::REVISIT_MIN, limits::REVISIT_MAX)
        });
        Some((view, decided))
    }

    fn tenure_ms(&self, seen: &Seen) -> f64 {
        let since = self.tenure.as_ref().map_or(seen.now, |(_, since)| *since);
        seen.now.since(since).as_secs_f64() * 1000.0
    }

    /// Returns since when this term is known to stand, by our clock.
    pub(super) fn tenure_since(&mut self, nonce: &str, now: BootTime) -> BootTime {
        match &self.tenure {
            Some((known, since)) if known == nonce => *since,
            _ => {
                self.tenure = Some((nonce.to_owned(), now));
                now
            }
        }
    }

    /// Returns the earliest moment at which the cap allows one more voluntary move.
    pub(super) fn move_allowed_at(&self, now: BootTime) -> BootTime {
        match self.moves.front() {
            Some(oldest) if self.moves.len() >= self.host.config.tuning.moves_per_minute as usize => {
                now.max(*oldest + Duration::from_secs(60))
            }
            _ => now,
        }
    }

    /// Looks again when the rule asked for it, or somebody is passed over no longer.
    pub(super) fn later(&self) -> Next {
        let open_again =
            self.passed.values().min().map(|since| *since + self.host.config.tuning.passed_backoff);
        self.revisit.into_iter().chain(open_again).min().map_or(Next::Woken, Next::At)
    }

    pub(super) fn soon(&self) -> Next {
        Next::At(self.host.clock.now() + self.host.chance.jitter(PAUSE))
    }
}

impl Host {
    /// Puts a question together: the rule that is bound now, and the view it is shown. `None` when the bound rule
    /// is not loaded here, or when the group was bound to another one since it was seen.
    fn question(
        &self,
        seen: &Seen,
        passed: impl Fn(&str) -> bool,
        tenure_ms: f64,
    ) -> Option<(Rule, ElectionView)> {
        let current = self.mirror.group(&seen.group.name)?;
        let epoch = current.record.as_ref()?.0.bound.epoch;
        if epoch != seen.record.bound.epoch {
            return None;
        }
        let rule = self.shelf.rule(&seen.record.bound)?;
        Some((rule, election_view(&seen.group, self.clock.wall_ms(), tenure_ms, passed)))
    }
}

impl Runtime {
    /// Decides for a group as if it were this host's turn, and does nothing about it. `Unavailable` while this host
    /// has not loaded the bound rule.
    pub async fn rehearse(&self, group: &str) -> althing_core::Result<althing_core::info::Decision> {
        let host = &self.0;
        let chair = host.elections.chair(group);
        let _deciding = chair.gate.read().await;
        let image = host.mirror.group(group).ok_or_else(|| crate::apply::no_group(group))?;
        let (record, _) = image.record.as_ref().ok_or_else(|| crate::apply::no_group(group))?;
        let rule = host.shelf.rule(&record.bound).ok_or_else(|| {
            althing_core::Error::new(
                althing_core::Kind::Unavailable,
                "rehearse",
                "the bound rule is not loaded here yet",
            )
            .with("group", group)
            .advise("Try again shortly")
        })?;
        let view = election_view(&image, host.clock.wall_ms(), 0.0, |_| false);
        let mut decided = host.decide(&rule, &view).await;
        decided.decision.outcome = Outcome::Rehearsed;
        Ok(decided.decision)
    }
}
