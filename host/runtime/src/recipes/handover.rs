//! What a leader's host does, and what a nominee's host does: govern, hand over, stand down.
//!
//! A hand-over never leaves two leaders and needs no clock that two hosts share: nominate → the nominee's host
//! accepts → the incumbent's client has stopped → offer → the nominee claims. Each arrow is one guarded write.
//! Without an acceptance the incumbent never stopped; without a claim the offer is withdrawn.

use std::sync::Arc;
use std::time::Duration;

use althing_core::info::{LeaderInfo, Outcome, StoodDown};
use althing_core::{BootTime, Choice, Error, Kind, Principal, Result, Revision, limits};
use tracing::info;

use super::election::{Election, Next, Seen};
use super::member::no_member;
use crate::apply::no_group;
use crate::decide::Decided;
use crate::layout::{GroupRecord, Handover, HandoverPhase, LeaderRecord, Revoke, Seat};
use crate::mirror::{Group, Member};
use crate::{Host, Runtime};

impl Election {
    /// A member of this host leads, or did and has not given up its record yet.
    pub(super) async fn lead(&mut self, seen: &Seen, leader: &LeaderRecord) -> Next {
        let is_moving = leader.handover.as_ref().is_some_and(|it| it.phase != HandoverPhase::Nominated);
        if !is_moving && seen.group.members.get(&leader.member).is_some_and(|it| !seen.group.may_lead(it)) {
            self.stop(leader).await;
            return self.resign(seen, None).await;
        }
        let asked = leader.revoke.as_ref().map(|revoke| revoke.successor.as_deref());
        let is_another = |successor: &str| {
            let nominee = leader.handover.as_ref().map(|handover| handover.incarnation.as_str());
            leader.leads() && nominee != Some(successor)
        };
        match (asked, &leader.handover) {
            (Some(None), _) => self.stand_down(seen, leader).await,
            (Some(Some(successor)), _) if is_another(successor) => {
                self.hand_to(seen, leader, successor).await
            }
            (_, Some(handover)) => self.hand_over(seen, leader, handover).await,
            (_, None) if self.is_stopped(leader) => self.resign(seen, None).await,
            // Its member is about to leave, and gives the leadership up in the same transaction.
            (_, None) if !self.holds(seen, leader) => Next::Woken,
            (_, None) => self.govern(seen, leader).await,
        }
    }

    /// Another host leads: accepts what it nominates here, claims what it offers here.
    pub(super) async fn attend(&mut self, seen: &Seen, leader: &LeaderRecord) -> Next {
        self.revisit = None;
        let Some(handover) = &leader.handover else { return Next::Woken };
        let Some(nominee) = seen.group.stay(&handover.nominee, &handover.incarnation) else {
            return Next::Woken;
        };
        if !self.is_own(seen, nominee) {
            return Next::Woken;
        }
        match handover.phase {
            HandoverPhase::Accepted => Next::Woken,
            HandoverPhase::Nominated if self.host.shelf.rule(&seen.record.bound).is_none() => Next::Woken,
            HandoverPhase::Nominated => self.advance(seen, leader, handover, HandoverPhase::Accepted).await,
            HandoverPhase::Offered => match self.claim(seen, nominee, seen.record.clone()).await {
                Ok(_) => Next::Woken,
                Err(_) => self.soon(),
            },
        }
    }

    /// Tells whether the recorded term is held here. One that was proven by reading back is taken up; one that was
    /// stopped, or whose member has left, never resumes.
    fn holds(&self, seen: &Seen, leader: &LeaderRecord) -> bool {
        let term = leader.token();
        !self.is_stopped(leader)
            && (self.host.sessions.holds(&self.name, term)
                || self.begin(seen.session, &leader.member, &leader.incarnation, term))
    }

    fn is_stopped(&self, leader: &LeaderRecord) -> bool {
        self.stopped.as_ref() == Some(&leader.nonce)
    }

    /// Decides while leading, and moves the leadership if the rule says so and tenure and cap allow it.
    async fn govern(&mut self, seen: &Seen, leader: &LeaderRecord) -> Next {
        let since = self.tenure_since(&leader.nonce, seen.now);
        let due = self.revisit.is_some_and(|moment| seen.now >= moment);
        if self.decided == Some(seen.group.version) && !due {
            return self.later();
        }
        let Some((_, decided)) = self.decide(seen).await else { return Next::Woken };
        let cap = self.move_allowed_at(seen.now);
        match &decided.decision.verdict.choice {
            Choice::Keep => self.unchanged(decided),
            Choice::Vacate if seen.now < cap => self.defer(decided, cap),
            Choice::Vacate => self.vacate(seen, leader, decided).await,
            Choice::Elect(ranked) => {
                let open = |member: &&Arc<Member>| {
                    let incarnation = &member.record.incarnation;
                    *incarnation == leader.incarnation || !self.is_passed(incarnation)
                };
                let best = ranked.iter().filter_map(|id| seen.group.members.get(id)).find(open).cloned();
                let tuning = &self.host.config.tuning;
                let kept = if leader.asked_for { tuning.passed_backoff } else { Duration::ZERO };
                let allowed = cap.max(since + tuning.tenure_min.max(kept));
                match best {
                    Some(best) if best.record.incarnation == leader.incarnation => self.unchanged(decided),
                    Some(_) if seen.now < allowed => self.defer(decided, allowed),
                    Some(best) if self.is_not_ready(seen, &best) => {
                        // Asked again when its join is done, or that host says how far it has come.
                        self.decided = None;
                        self.host.record(decided, Outcome::Waiting, None);
                        self.later()
                    }
                    Some(best) => self.move_to(seen, leader, &best, decided).await,
                    None => self.unchanged(decided),
                }
            }
        }
    }

    /// Tells whether a member cannot be moved to yet: one of this host whose join is not done, or that is about to leave;
    /// or one of a host that has not loaded the bound rule, and could not accept.
    fn is_not_ready(&self, seen: &Seen, nominee: &Member) -> bool {
        if seen.is_here(nominee) {
            return !self.is_own(seen, nominee);
        }
        let seat = Seat::Group(&self.name);
        self.host.mirror.is_behind(&nominee.record.host, seat, seen.record.bound.epoch)
    }

    fn unchanged(&self, decided: Decided) -> Next {
        self.host.record(decided, Outcome::Unchanged, None);
        self.later()
    }

    fn defer(&mut self, decided: Decided, until: BootTime) -> Next {
        self.host.record(decided, Outcome::Deferred, None);
        self.revisit = Some(self.revisit.map_or(until, |earlier| earlier.min(until)));
        Next::At(until)
    }

    async fn vacate(&mut self, seen: &Seen, leader: &LeaderRecord, decided: Decided) -> Next {
        self.stop(leader).await;
        let moves = seen.record.moves + 1;
        let record = GroupRecord { leader: None, moves, ..seen.record.clone() };
        match self.write(seen, record).await {
            Ok(_) => {
                self.host.record(decided, Outcome::Vacated, None);
                self.later()
            }
            Err(outcome) => {
                self.host.record(decided, outcome, None);
                self.soon()
            }
        }
    }

    /// Hands over to the member that somebody asked for, whatever the rule says: tenure and cap are for rules. The leader
    /// goes on when that member is gone, or not ready in time.
    async fn hand_to(&mut self, seen: &Seen, leader: &LeaderRecord, successor: &str) -> Next {
        let deadline = self.phase_since(leader, successor, "asked for", seen.now)
            + self.host.config.tuning.handover_window;
        let is_meant = |member: &&Arc<Member>| member.record.incarnation == successor;
        let nominee = seen.group.members.values().find(is_meant).filter(|member| seen.group.may_lead(member));
        let Some(nominee) = nominee.filter(|nominee| nominee.record.incarnation != leader.incarnation) else {
            return self.withdraw(seen, leader).await;
        };
        match self.is_not_ready(seen, nominee) {
            true if seen.now < deadline => Next::At(deadline),
            true => self.withdraw(seen, leader).await,
            false => match self.offer_to(seen, leader, nominee, seen.record.clone()).await {
                Ok(_) => Next::Woken,
                Err(_) => self.soon(),
            },
        }
    }

    /// Moves the leadership: within this host by one write, to another host by a nomination.
    async fn move_to(
        &mut self,
        seen: &Seen,
        leader: &LeaderRecord,
        nominee: &Member,
        decided: Decided,
    ) -> Next {
        let record = GroupRecord { moves: seen.record.moves + 1, ..seen.record.clone() };
        match self.offer_to(seen, leader, nominee, record).await {
            Ok(Some(term)) => self.claimed(decided, Ok(term)),
            Ok(None) => {
                self.host.record(decided, Outcome::Nominated, None);
                Next::Woken
            }
            Err(outcome) => {
                self.host.record(decided, outcome, None);
                self.soon()
            }
        }
    }

    /// Lets a member of this host lead, and returns its term; or nominates one of another host.
    async fn offer_to(
        &mut self,
        seen: &Seen,
        leader: &LeaderRecord,
        nominee: &Member,
        mut record: GroupRecord,
    ) -> Result<Option<Revision>, Outcome> {
        if seen.is_here(nominee) {
            self.stop(leader).await;
            if leader.revoke.is_some() {
                record.note_stood_down(&leader.incarnation);
            }
            return self.claim(seen, nominee, record).await.map(Some);
        }
        let handover = Handover {
            nominee: nominee.record.id.clone(),
            incarnation: nominee.record.incarnation.clone(),
            phase: HandoverPhase::Nominated,
        };
        info!(group = self.name, from = leader.member, to = handover.nominee, "hand-over begun");
        self.write(seen, continued(record, leader, Some(handover))).await.map(|_| None)
    }

    /// Takes a hand-over one step further, or withdraws it when the nominee is gone or too slow.
    async fn hand_over(&mut self, seen: &Seen, leader: &LeaderRecord, handover: &Handover) -> Next {
        let nominee = seen.group.stay(&handover.nominee, &handover.incarnation);
        let gone = nominee.is_none_or(|nominee| !seen.group.may_lead(nominee));
        let phase = format!("{:?}", handover.phase);
        let deadline = self.phase_since(leader, &handover.incarnation, &phase, seen.now)
            + self.host.config.tuning.handover_window;
        if gone || (handover.phase != HandoverPhase::Accepted && seen.now >= deadline) {
            info!(group = self.name, nominee = handover.nominee, gone, "hand-over withdrawn");
            self.passed.insert(handover.incarnation.clone(), seen.now);
            return self.withdraw(seen, leader).await;
        }
        if handover.phase == HandoverPhase::Accepted {
            self.stop(leader).await;
            return self.advance(seen, leader, handover, HandoverPhase::Offered).await;
        }
        Next::At(deadline)
    }

    /// Returns since when the hand-over to a stay stands in its phase, by our clock.
    fn phase_since(&mut self, leader: &LeaderRecord, to: &str, phase: &str, now: BootTime) -> BootTime {
        let phase = format!("{}/{to}/{phase}", leader.nonce);
        match &self.handover {
            Some((known, since)) if *known == phase => *since,
            _ => {
                self.handover = Some((phase, now));
                now
            }
        }
    }

    /// An incumbent that never stopped leads on; one that did begins a new term if it is still chosen.
    async fn withdraw(&mut self, seen: &Seen, leader: &LeaderRecord) -> Next {
        // Who is nominated again has its whole window again.
        self.handover = None;
        if self.is_stopped(leader) || !leader.leads() {
            return self.resign(seen, None).await;
        }
        let goes_on = LeaderRecord { revoke: None, ..leader.clone() };
        let record = continued(seen.record.clone(), &goes_on, None);
        match self.write(seen, record).await {
            Ok(_) => Next::Woken,
            Err(_) => self.soon(),
        }
    }

    async fn advance(
        &mut self,
        seen: &Seen,
        leader: &LeaderRecord,
        handover: &Handover,
        phase: HandoverPhase,
    ) -> Next {
        let handover = Handover { phase, ..handover.clone() };
        let mut record = continued(seen.record.clone(), leader, Some(handover));
        if phase == HandoverPhase::Offered && leader.revoke.is_some() {
            record.note_stood_down(&leader.incarnation);
        }
        match self.write(seen, record).await {
            Ok(_) => Next::Woken,
            Err(_) => self.soon(),
        }
    }

    /// Somebody asked the leader to stop: it does, says so in the record, and is passed over for a while.
    async fn stand_down(&mut self, seen: &Seen, leader: &LeaderRecord) -> Next {
        self.stop(leader).await;
        self.resign(seen, Some(leader.incarnation.clone())).await
    }

    /// Gives the leadership up in the store.
    async fn resign(&mut self, seen: &Seen, stood_down: Option<String>) -> Next {
        let mut record = GroupRecord { leader: None, ..seen.record.clone() };
        stood_down.iter().for_each(|incarnation| record.note_stood_down(incarnation));
        match self.write(seen, record).await {
            Ok(_) => Next::Woken,
            Err(_) => self.soon(),
        }
    }

    /// Stops the holder, and waits until it surely has.
    pub(super) async fn stop(&mut self, leader: &LeaderRecord) {
        self.stopped = Some(leader.nonce.clone());
        self.host.sessions.stop(&self.name, leader.token()).await;
    }
}

/// The record of a term that goes on.
fn continued(record: GroupRecord, leader: &LeaderRecord, handover: Option<Handover>) -> GroupRecord {
    let leader = LeaderRecord { handover, ..leader.clone() };
    GroupRecord { leader: Some(leader), ..record }
}

impl Runtime {
    /// Asks whoever leads to stop, and waits for its word, at most [`limits::HANDOVER_WINDOW`]. It is passed over for
    /// a while in favour of others; it leads again when there is nobody else.
    pub async fn stand_down(&self, by: &Principal, group: &str) -> Result<StoodDown> {
        let image = self.0.mirror.group(group).ok_or_else(|| no_group(group))?;
        let Some(leader) = image.leading() else { return Ok(StoodDown::Vacant) };
        let Some(asked) = self.0.revoke(by, group, leader.term, None).await? else {
            return Ok(StoodDown::Stopped);
        };
        let stopped = |group: &Group| group.leading().is_none_or(|now| now.term != leader.term);
        self.0.seen_in_time(group, asked, stopped).await;
        let stopped = self.0.mirror.group(group).is_none_or(|group| stopped(&group));
        Ok(if stopped { StoodDown::Stopped } else { StoodDown::Asked })
    }

    /// Asks whoever leads to hand over to this member, whatever the rule says, and waits until that leads, at most
    /// [`limits::HANDOVER_WINDOW`]. For a while, no rule moves the leadership on, and the former leader is passed over.
    ///
    /// `NotFound` where there is no such member. `Conflict` where it does not stand for election or leads already, and
    /// where it cannot take over in time: then the leader has not stopped, and goes on.
    pub async fn stand_down_to(&self, by: &Principal, group: &str, successor: &str) -> Result<StoodDown> {
        let image = self.0.mirror.group(group).ok_or_else(|| no_group(group))?;
        let member = image.members.get(successor).ok_or_else(|| no_member(group, successor))?;
        let refused = |message: &str| {
            let error = Error::new(Kind::Conflict, "stand down", message);
            let error = error.with("group", group).with("successor", successor);
            Err(error.advise("`althing group show` tells who leads and who stands for election"))
        };
        if !image.may_lead(member) {
            return refused("the member does not stand for election");
        }
        let Some(leader) = image.leading() else { return Ok(StoodDown::Vacant) };
        if leader.incarnation == member.record.incarnation {
            return refused("the member leads already");
        }
        let next = member.record.incarnation.clone();
        let Some(asked) = self.0.revoke(by, group, leader.term, Some(next)).await? else {
            return refused("another term has begun meanwhile");
        };
        let is_same = |now: &LeaderInfo| now.term == leader.term;
        let over = |group: &Group| group.leading().is_some_and(|now| !is_same(&now) || !now.revoked);
        self.0.seen_in_time(group, asked, over).await;
        match self.0.mirror.group(group).and_then(|group| group.leading()) {
            Some(now) if is_same(&now) && now.revoked => Ok(StoodDown::Asked),
            Some(now) if is_same(&now) => refused("the member cannot take over; the leader goes on"),
            _ => Ok(StoodDown::Stopped),
        }
    }
}

impl Host {
    /// Marks a term so that its holder is asked to stop; `None` when it is over already.
    async fn revoke(
        &self,
        by: &Principal,
        group: &str,
        term: Revision,
        successor: Option<String>,
    ) -> Result<Option<Revision>> {
        let revoke = Revoke { by: by.to_string(), at_ms: self.clock.wall_ms(), successor };
        self.change::<GroupRecord>(group, |read| {
            let still = read.record.leader.as_ref().filter(|leader| leader.token() == term);
            Ok(still.map(|leader| {
                let leader = LeaderRecord { revoke: Some(revoke.clone()), ..leader.clone() };
                GroupRecord { leader: Some(leader), ..read.record.clone() }
            }))
        })
        .await
    }

    /// Waits until this host sees a group so, after that revision, or sees it no more: at most
    /// [`limits::HANDOVER_WINDOW`].
    async fn seen_in_time(&self, group: &str, after: Revision, is_so: impl Fn(&Group) -> bool) {
        let seen = async {
            self.mirror.reach(after).await;
            self.mirror.until(|mirror| mirror.group(group).is_none_or(|group| is_so(&group))).await;
        };
        tokio::select! {
            () = seen => {}
            () = self.ended.cancelled() => {}
            () = self.clock.sleep(limits::HANDOVER_WINDOW) => {}
        }
    }
}
