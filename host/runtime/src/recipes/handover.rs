//! What a leader's host does, and what a nominee's host does: govern, hand over, stand down.
//!
//! A hand-over never leaves two leaders and needs no clock that two hosts share: nominate → the nominee's host
//! accepts → the incumbent's client has stopped → offer → the nominee claims. Each arrow is one guarded write.
//! Without an acceptance the incumbent never stopped; without a claim the offer is withdrawn.

use std::sync::Arc;

use althing_core::info::{Outcome, StoodDown};
use althing_core::{BootTime, Choice, Principal, Result, limits};
use tracing::info;

use super::election::{Election, Next, Seen};
use crate::Runtime;
use crate::apply::no_group;
use crate::decide::Decided;
use crate::layout::{GroupRecord, Handover, HandoverPhase, LeaderRecord, Revoke, Seat};
use crate::mirror::Member;

impl Election {
    /// A member of this host leads, or did and has not given up its record yet.
    pub(super) async fn lead(&mut self, seen: &Seen, leader: &LeaderRecord) -> Next {
        if leader.revoke.is_some() {
            return self.stand_down(seen, leader).await;
        }
        match &leader.handover {
            Some(handover) => self.hand_over(seen, leader, handover).await,
            None if self.is_stopped(leader) => self.resign(seen, None).await,
            // Its member is about to leave, and gives the leadership up in the same transaction.
            None if !self.holds(seen, leader) => Next::Woken,
            None => self.govern(seen, leader).await,
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
                let allowed = cap.max(since + self.host.config.tuning.tenure_min);
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

    /// Moves the leadership: within this host by one write, to another host by a nomination.
    async fn move_to(
        &mut self,
        seen: &Seen,
        leader: &LeaderRecord,
        nominee: &Member,
        decided: Decided,
    ) -> Next {
        let record = GroupRecord { moves: seen.record.moves + 1, ..seen.record.clone() };
        if seen.is_here(nominee) {
            self.stop(leader).await;
            let claim = self.claim(seen, nominee, record).await;
            return self.claimed(decided, claim);
        }
        let handover = Handover {
            nominee: nominee.record.id.clone(),
            incarnation: nominee.record.incarnation.clone(),
            phase: HandoverPhase::Nominated,
        };
        info!(group = self.name, from = leader.member, to = handover.nominee, "hand-over begun");
        let written = self.write(seen, continued(record, leader, Some(handover))).await;
        let outcome = written.map_or_else(|outcome| outcome, |_| Outcome::Nominated);
        let next = if outcome == Outcome::Nominated { Next::Woken } else { self.soon() };
        self.host.record(decided, outcome, None);
        next
    }

    /// Takes a hand-over one step further, or withdraws it when the nominee is gone or too slow.
    async fn hand_over(&mut self, seen: &Seen, leader: &LeaderRecord, handover: &Handover) -> Next {
        let gone = seen.group.stay(&handover.nominee, &handover.incarnation).is_none();
        let deadline = self.phase_since(leader, handover, seen.now) + self.host.config.tuning.handover_window;
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

    /// Returns since when the hand-over stands in its phase, by our clock.
    fn phase_since(&mut self, leader: &LeaderRecord, handover: &Handover, now: BootTime) -> BootTime {
        let phase = format!("{}/{}/{:?}", leader.nonce, handover.incarnation, handover.phase);
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
        if self.is_stopped(leader) || !leader.leads() {
            return self.resign(seen, None).await;
        }
        let record = continued(seen.record.clone(), leader, None);
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
        let record = continued(seen.record.clone(), leader, Some(handover));
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
        record.stood_down.extend(stood_down);
        let surplus = record.stood_down.len().saturating_sub(limits::BINDINGS_KEPT_MAX);
        record.stood_down.drain(..surplus);
        match self.write(seen, record).await {
            Ok(_) => Next::Woken,
            Err(_) => self.soon(),
        }
    }

    /// Stops the holder, and waits until it surely has.
    async fn stop(&mut self, leader: &LeaderRecord) {
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
        let host = &self.0;
        let image = host.mirror.group(group).ok_or_else(|| no_group(group))?;
        let Some(term) = image.leading().map(|leader| leader.term) else { return Ok(StoodDown::Vacant) };
        host.change::<GroupRecord>(group, |read| {
            let still = read.record.leader.as_ref().filter(|leader| leader.token() == term);
            let revoke = Revoke { by: by.to_string(), at_ms: host.clock.wall_ms() };
            Ok(still.map(|leader| {
                let leader = LeaderRecord { revoke: Some(revoke), ..leader.clone() };
                GroupRecord { leader: Some(leader), ..read.record.clone() }
            }))
        })
        .await?;
        let mut events = self.watch_group(group)?;
        let deadline = host.clock.now() + limits::HANDOVER_WINDOW;
        loop {
            if host.mirror.group(group).is_none_or(|group| group.leading().is_none_or(|now| now.term != term))
            {
                return Ok(StoodDown::Stopped);
            }
            tokio::select! {
                event = events.next() => if event.is_none() { return Ok(StoodDown::Stopped) },
                () = host.clock.sleep_until(deadline) => return Ok(StoodDown::Asked),
            }
        }
    }
}
