//! What a session holds, as far as its client may believe it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use althing_core::info::{Hold, Renewal, SessionEvent, Standing};
use althing_core::{BootTime, Revision, limits};

/// Returns until when a client may believe in what a host granted for `remaining` when asked at `sent`.
///
/// Clocks drift, and the client needs a moment to notice: the host waits longer than this.
pub fn deadline(sent: BootTime, remaining: Duration) -> BootTime {
    let guard = limits::LEASE_GUARD_MIN.max(remaining.mul_f64(limits::LEASE_GUARD_SHARE));
    let drift = remaining.mul_f64(limits::CLOCK_DRIFT);
    sent + remaining.saturating_sub(guard + drift)
}

/// The state behind a membership: what is held, until when, and the events nobody has fetched yet.
///
/// Events and renewals travel on two connections, so their order is not known. A renewal never adds a
/// hold, and takes away only what was known before it was sent; events alone add.
#[derive(Debug)]
pub(crate) struct Held {
    holds: BTreeMap<String, Known>,
    /// What was given up at the deadline, and comes back if a renewal shows that the host kept it.
    expired: Vec<Hold>,
    deadline: BootTime,
    standing: Standing,
    ended: bool,
    events: VecDeque<SessionEvent>,
}

#[derive(Debug)]
struct Known {
    hold: Hold,
    since: BootTime,
}

impl Held {
    pub(crate) fn new(sent: BootTime, granted: &Renewal) -> Self {
        Held {
            holds: BTreeMap::new(),
            expired: Vec::new(),
            deadline: deadline(sent, remaining(granted)),
            standing: Standing::Held,
            ended: false,
            events: VecDeque::new(),
        }
    }

    pub(crate) fn term(&self, group: &str, now: BootTime) -> Option<Revision> {
        if self.ended || now >= self.deadline {
            return None;
        }
        self.holds.get(group).map(|known| known.hold.term)
    }

    pub(crate) fn deadline(&self) -> BootTime {
        self.deadline
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Takes in an event. Returns the hold whose end the host waits to hear confirmed.
    pub(crate) fn hear(&mut self, event: SessionEvent, now: BootTime) -> Option<Hold> {
        let mut stop = None;
        match &event {
            SessionEvent::Standing { standing, holds } => {
                self.standing = *standing;
                self.holds.clear();
                self.expired.clear();
                if *standing != Standing::Lost {
                    holds.iter().for_each(|hold| self.add(hold, now));
                }
            }
            SessionEvent::Elected { hold } => self.add(hold, now),
            SessionEvent::Stop { hold } => {
                self.remove(|known| known == hold);
                stop = Some(hold.clone());
            }
            SessionEvent::Lost { hold } => self.remove(|known| known == hold),
            SessionEvent::Rejoined { group, member, .. } | SessionEvent::Removed { group, member, .. } => {
                self.remove(|known| known.group == *group && known.member == *member);
            }
            SessionEvent::Ended { .. } => {
                self.ended = true;
                self.lose(|_| true);
            }
        }
        self.tell(event);
        stop
    }

    /// Takes in what a renewal sent at `sent` granted. A hold that was given up at the deadline, and that
    /// the host kept, comes back with an event: nobody else can have had it meanwhile.
    pub(crate) fn renewed(&mut self, sent: BootTime, renewal: &Renewal) {
        self.deadline = self.deadline.max(deadline(sent, remaining(renewal)));
        self.lose(|known| known.since <= sent && !renewal.holds.contains(&known.hold));
        if self.deadline <= sent {
            return;
        }
        for hold in std::mem::take(&mut self.expired) {
            if renewal.holds.contains(&hold) {
                self.add(&hold, sent);
                self.tell(SessionEvent::Elected { hold });
            }
        }
        if self.standing == Standing::Lost {
            self.standing = Standing::Held;
            self.tell_standing();
        }
    }

    /// Gives up what is held if the deadline has passed.
    pub(crate) fn expire(&mut self, now: BootTime) {
        if now < self.deadline || self.standing == Standing::Lost {
            return;
        }
        self.standing = Standing::Lost;
        let expired = self.holds.values().map(|known| known.hold.clone()).collect();
        self.lose(|_| true);
        self.expired = expired;
        self.tell_standing();
    }

    /// Gives up what this member holds, because it leaves.
    pub(crate) fn leave(&mut self, group: &str, member: &str) {
        self.lose(|known| known.hold.group == group && known.hold.member == member);
    }

    /// Ends it all, once.
    pub(crate) fn end(&mut self, reason: impl Into<String>) {
        if !self.ended {
            self.ended = true;
            self.lose(|_| true);
            self.tell(SessionEvent::Ended { reason: reason.into() });
        }
    }

    pub(crate) fn next_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    fn add(&mut self, hold: &Hold, since: BootTime) {
        self.holds.insert(hold.group.clone(), Known { hold: hold.clone(), since });
    }

    fn remove(&mut self, is_gone: impl Fn(&Hold) -> bool) {
        self.holds.retain(|_, known| !is_gone(&known.hold));
        self.expired.retain(|hold| !is_gone(hold));
    }

    fn lose(&mut self, is_lost: impl Fn(&Known) -> bool) {
        let lost: Vec<_> = self.holds.extract_if(.., |_, known| is_lost(known)).collect();
        for (_, known) in lost {
            self.tell(SessionEvent::Lost { hold: known.hold });
        }
    }

    fn tell_standing(&mut self) {
        let holds = self.holds.values().map(|known| known.hold.clone()).collect();
        self.tell(SessionEvent::Standing { standing: self.standing, holds });
    }

    /// Queues an event. Who fetches too slowly gets one that says how things stand, in place of many.
    fn tell(&mut self, event: SessionEvent) {
        if self.events.len() < limits::SUBSCRIBER_EVENTS_MAX {
            return self.events.push_back(event);
        }
        self.events.clear();
        self.tell_standing();
        if self.ended {
            self.events.push_back(event);
        }
    }
}

fn remaining(renewal: &Renewal) -> Duration {
    Duration::try_from_secs_f64(renewal.remaining_ms / 1000.0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootTime {
        BootTime::new(Duration::from_millis(ms))
    }

    fn hold(term: u64) -> Hold {
        Hold { group: "web".into(), member: "a".into(), term: Revision(term) }
    }

    fn renewal(remaining_ms: f64, holds: &[Hold]) -> Renewal {
        Renewal { remaining_ms, holds: holds.to_vec() }
    }

    fn leading() -> Held {
        let mut held = Held::new(at(0), &renewal(10_000.0, &[]));
        held.hear(SessionEvent::Elected { hold: hold(5) }, at(100));
        assert_eq!(held.term("web", at(200)), Some(Revision(5)));
        held
    }

    #[test]
    fn nothing_is_held_from_the_deadline_on_and_the_loss_is_told() {
        let mut held = leading();
        assert_eq!(held.deadline(), at(9490));
        assert_eq!(held.term("web", at(9489)), Some(Revision(5)));
        assert_eq!(held.term("web", at(9490)), None);
        held.expire(at(9490));
        let events: Vec<_> = std::iter::from_fn(|| held.next_event()).collect();
        assert!(matches!(events[1], SessionEvent::Lost { .. }), "{events:?}");
        assert!(matches!(events[2], SessionEvent::Standing { standing: Standing::Lost, .. }), "{events:?}");
        assert_eq!(events.len(), 3);
    }

    #[test]
    fn what_the_host_kept_over_a_passed_deadline_comes_back_with_an_event_and_what_it_stopped_does_not() {
        let mut held = leading();
        held.expire(at(9490));
        held.renewed(at(9600), &renewal(5_000.0, &[hold(5)]));
        assert_eq!(held.term("web", at(9700)), Some(Revision(5)));
        let events: Vec<_> = std::iter::from_fn(|| held.next_event()).collect();
        assert!(events.contains(&SessionEvent::Elected { hold: hold(5) }), "{events:?}");

        let mut held = leading();
        held.expire(at(9490));
        held.hear(SessionEvent::Stop { hold: hold(5) }, at(9650));
        held.renewed(at(9600), &renewal(5_000.0, &[hold(5)]));
        assert_eq!(held.term("web", at(9700)), None);
    }

    #[test]
    fn a_late_answer_to_a_renewal_brings_back_nothing_that_was_stopped() {
        let mut held = leading();
        assert_eq!(held.hear(SessionEvent::Stop { hold: hold(5) }, at(300)), Some(hold(5)));
        held.renewed(at(250), &renewal(10_000.0, &[hold(5)]));
        assert_eq!(held.term("web", at(400)), None);
    }

    #[test]
    fn a_renewal_takes_away_what_it_knows_to_be_lost_and_not_what_came_after_it_was_sent() {
        let mut held = leading();
        held.renewed(at(99), &renewal(10_000.0, &[]));
        assert_eq!(held.term("web", at(200)), Some(Revision(5)));
        held.renewed(at(101), &renewal(10_000.0, &[hold(4)]));
        assert_eq!(held.term("web", at(200)), None);
    }

    #[test]
    fn a_renewal_that_was_overtaken_does_not_shorten_the_lease() {
        let mut held = leading();
        held.renewed(at(5000), &renewal(10_000.0, &[hold(5)]));
        held.renewed(at(3000), &renewal(10_000.0, &[hold(5)]));
        assert_eq!(held.deadline(), at(14_490));
    }

    #[test]
    fn who_fetches_no_events_gets_one_that_says_how_things_stand() {
        let mut held = Held::new(at(0), &renewal(10_000.0, &[]));
        for term in 0..=limits::SUBSCRIBER_EVENTS_MAX as u64 {
            held.hear(SessionEvent::Elected { hold: hold(term) }, at(term));
        }
        let last = hold(limits::SUBSCRIBER_EVENTS_MAX as u64);
        let standing = SessionEvent::Standing { standing: Standing::Held, holds: vec![last] };
        assert_eq!(held.next_event(), Some(standing));
        assert_eq!(held.next_event(), None);
    }

    #[test]
    fn a_broken_grant_grants_nothing() {
        for remaining_ms in [f64::NAN, f64::INFINITY, -1.0, 0.0, 49.0] {
            assert_eq!(Held::new(at(7), &renewal(remaining_ms, &[])).deadline(), at(7));
        }
    }
}
