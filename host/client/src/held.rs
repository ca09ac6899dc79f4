//! What a session holds, as far as its client may believe it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use althing_core::info::{Hold, LockHold, Renewal, SessionEvent, Standing};
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
/// Events, answers and renewals travel on several connections, so their order is not known. A renewal never adds a
/// hold, and takes away only what was known before it was sent; events alone add a leadership, answers alone a lock.
/// A lock that was given up never comes back: where the host kept it, it is released.
#[derive(Debug)]
pub(crate) struct Held {
    holds: BTreeMap<String, Known>,
    locks: BTreeMap<LockName, KnownLock>,
    /// The stays of this session's members, by group and id.
    stays: BTreeMap<(String, String), String>,
    /// Requests for locks whose answers are on their way.
    asking: BTreeSet<String>,
    /// Locks that the host is being told are released.
    releasing: BTreeSet<LockName>,
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

/// A lock and the request by which it was locked: a session may hold one name several times.
type LockName = (String, String);

/// A lock that has a guard.
#[derive(Debug)]
struct KnownLock {
    lock: LockHold,
    since: BootTime,
    /// Not once it was lost or is to stop; the guard stays until it is released.
    is_held: bool,
}

impl Held {
    pub(crate) fn new(sent: BootTime, granted: &Renewal) -> Self {
        Held {
            holds: BTreeMap::new(),
            locks: BTreeMap::new(),
            stays: BTreeMap::new(),
            asking: BTreeSet::new(),
            releasing: BTreeSet::new(),
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

    /// Returns the stay in which a member surely is.
    pub(crate) fn stay(&self, group: &str, member: &str, now: BootTime) -> Option<&str> {
        if self.ended || now >= self.deadline {
            return None;
        }
        self.stays.get(&(group.to_owned(), member.to_owned())).map(String::as_str)
    }

    /// Takes in that a member joined.
    pub(crate) fn joined(&mut self, group: &str, member: &str, incarnation: &str) {
        self.stays.insert((group.to_owned(), member.to_owned()), incarnation.to_owned());
    }

    /// Tells whether a lock is held.
    pub(crate) fn has(&self, lock: &LockHold, now: BootTime) -> bool {
        !self.ended
            && now < self.deadline
            && self.locks.get(&name_of(lock)).is_some_and(|known| known.is_held && known.lock == *lock)
    }

    /// Takes note of a request for locks before it is sent.
    pub(crate) fn ask(&mut self, id: &str) {
        self.asking.insert(id.to_owned());
    }

    /// Takes in what a request was granted; nothing where it failed, or is no longer waited for. What comes when the
    /// lease has run out is lost from the first: it must not be held later, when a renewal gets through.
    pub(crate) fn answered(&mut self, id: &str, locks: &[LockHold], now: BootTime) {
        self.asking.remove(id);
        let is_late = self.ended || now >= self.deadline;
        for lock in locks {
            let known = KnownLock { lock: lock.clone(), since: now, is_held: true };
            self.locks.insert(name_of(lock), known);
        }
        if is_late {
            self.lose_locks("the lease had run out before the grant came", |known| {
                locks.contains(&known.lock)
            });
        }
    }

    /// Gives up a lock, because its guard is released. Returns whether it had one, and whether it was held. The host is
    /// about to be told.
    pub(crate) fn unlock(&mut self, lock: &LockHold) -> Option<bool> {
        let known = self.locks.remove(&name_of(lock))?;
        self.releasing.insert(name_of(lock));
        Some(known.is_held)
    }

    /// Takes note that the host was told of a release, or could not be: then the next renewal shows it.
    pub(crate) fn unlocked(&mut self, lock: &LockHold) {
        self.releasing.remove(&name_of(lock));
    }

    /// Takes in an event. Returns the hold whose end the host waits to hear confirmed.
    pub(crate) fn hear(&mut self, event: SessionEvent, now: BootTime) -> Option<Hold> {
        let mut stop = None;
        match &event {
            // Of locks, answers and renewals tell: one may have been granted since this was said.
            SessionEvent::Standing { standing, holds, .. } => {
                self.standing = *standing;
                self.holds.clear();
                self.expired.clear();
                if *standing == Standing::Lost {
                    self.stays.clear();
                    self.lose_locks("the host has lost its lease", |_| true);
                } else {
                    holds.iter().for_each(|hold| self.add(hold, now));
                }
            }
            SessionEvent::Elected { hold } => self.add(hold, now),
            SessionEvent::Stop { hold } => {
                self.remove(|known| known == hold);
                stop = Some(hold.clone());
            }
            // Whoever has the guard confirms this, by releasing it.
            SessionEvent::LockStop { lock } | SessionEvent::LockLost { lock, .. } => {
                if let Some(known) = self.locks.get_mut(&name_of(lock)) {
                    known.is_held = false;
                }
            }
            SessionEvent::Lost { hold } => self.remove(|known| known == hold),
            SessionEvent::Rejoined { group, member, incarnation, .. } => {
                self.remove(|known| known.group == *group && known.member == *member);
                self.joined(group, member, incarnation);
            }
            SessionEvent::Removed { group, member, .. } => {
                self.remove(|known| known.group == *group && known.member == *member);
                self.stays.remove(&(group.clone(), member.clone()));
            }
            SessionEvent::Ended { .. } => {
                self.ended = true;
                self.lose(|_| true);
                self.lose_locks("the session ended", |_| true);
            }
        }
        self.tell(event);
        stop
    }

    /// Takes in what a renewal sent at `sent` granted. A hold that was given up at the deadline, and that
    /// the host kept, comes back with an event: nobody else can have had it meanwhile. Returns the locks that the
    /// host holds for us and nobody has a guard of: they are to be released.
    pub(crate) fn renewed(&mut self, sent: BootTime, renewal: &Renewal) -> Vec<LockHold> {
        self.deadline = self.deadline.max(deadline(sent, remaining(renewal)));
        self.lose(|known| known.since <= sent && !renewal.holds.contains(&known.hold));
        self.lose_locks("the host does not hold it any more", |known| {
            known.since <= sent && !renewal.locks.contains(&known.lock)
        });
        let unknown = |lock: &&LockHold| {
            let name = name_of(lock);
            !self.locks.contains_key(&name)
                && !self.asking.contains(&lock.id)
                && !self.releasing.contains(&name)
        };
        let unknown = renewal.locks.iter().filter(unknown).cloned().collect();
        if self.deadline <= sent {
            return unknown;
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
        unknown
    }

    /// Gives up what is held if the deadline has passed.
    pub(crate) fn expire(&mut self, now: BootTime) {
        if now < self.deadline || self.standing == Standing::Lost {
            return;
        }
        self.standing = Standing::Lost;
        let expired = self.holds.values().map(|known| known.hold.clone()).collect();
        self.lose(|_| true);
        self.lose_locks("the lease ran out", |_| true);
        self.expired = expired;
        self.tell_standing();
    }

    /// Gives up what this member holds, because it leaves.
    pub(crate) fn leave(&mut self, group: &str, member: &str) {
        self.stays.remove(&(group.to_owned(), member.to_owned()));
        self.lose(|known| known.hold.group == group && known.hold.member == member);
    }

    /// Ends it all, once.
    pub(crate) fn end(&mut self, reason: impl Into<String>) {
        if !self.ended {
            self.ended = true;
            self.lose(|_| true);
            self.lose_locks("the session ended", |_| true);
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

    fn lose_locks(&mut self, reason: &str, is_lost: impl Fn(&KnownLock) -> bool) {
        let mut lost = Vec::new();
        for known in self.locks.values_mut().filter(|known| known.is_held && is_lost(known)) {
            known.is_held = false;
            lost.push(known.lock.clone());
        }
        for lock in lost {
            self.tell(SessionEvent::LockLost { lock, reason: reason.to_owned() });
        }
    }

    fn tell_standing(&mut self) {
        let holds = self.holds.values().map(|known| known.hold.clone()).collect();
        let held = self.locks.values().filter(|known| known.is_held);
        let locks = held.map(|known| known.lock.clone()).collect();
        self.tell(SessionEvent::Standing { standing: self.standing, holds, locks });
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

fn name_of(lock: &LockHold) -> LockName {
    (lock.lock.clone(), lock.id.clone())
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
        Renewal { remaining_ms, holds: holds.to_vec(), locks: Vec::new() }
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
        let standing =
            SessionEvent::Standing { standing: Standing::Held, holds: vec![last], locks: Vec::new() };
        assert_eq!(held.next_event(), Some(standing));
        assert_eq!(held.next_event(), None);
    }

    fn lock(id: &str, token: u64) -> LockHold {
        let (mode, limit, token) = (Default::default(), None, Revision(token));
        LockHold { lock: "db".into(), mode, limit, token, since_ms: 0, id: id.into() }
    }

    fn locked(id: &str) -> Held {
        let mut held = Held::new(at(0), &renewal(10_000.0, &[]));
        held.ask(id);
        held.answered(id, &[lock(id, 5)], at(100));
        assert!(held.has(&lock(id, 5), at(200)));
        held
    }

    fn renewal_of(locks: &[LockHold]) -> Renewal {
        Renewal { locks: locks.to_vec(), ..renewal(10_000.0, &[]) }
    }

    #[test]
    fn a_lock_is_held_until_the_deadline_and_never_comes_back() {
        let mut held = locked("a");
        assert!(held.has(&lock("a", 5), at(9489)) && !held.has(&lock("a", 5), at(9490)));
        assert!(!held.has(&lock("a", 4), at(200)) && !held.has(&lock("b", 5), at(200)));
        held.expire(at(9490));
        let lost = std::iter::from_fn(|| held.next_event()).next();
        assert!(matches!(lost, Some(SessionEvent::LockLost { .. })), "{lost:?}");
        assert_eq!(held.renewed(at(9600), &renewal_of(&[lock("a", 5)])), []);
        assert!(!held.has(&lock("a", 5), at(9700)));
        assert_eq!(held.unlock(&lock("a", 5)), Some(false));
        held.unlocked(&lock("a", 5));
        assert_eq!(held.renewed(at(9600), &renewal_of(&[lock("a", 5)])), [lock("a", 5)]);
    }

    #[test]
    fn a_lock_whose_grant_comes_after_the_deadline_is_lost_from_the_first_and_that_is_told() {
        let mut held = Held::new(at(0), &renewal(10_000.0, &[]));
        held.ask("a");
        held.answered("a", &[lock("a", 5)], at(9490));
        let told = held.next_event();
        assert!(matches!(told, Some(SessionEvent::LockLost { .. })), "{told:?}");
        held.renewed(at(9600), &renewal_of(&[lock("a", 5)]));
        assert!(!held.has(&lock("a", 5), at(9700)));
        let mut ended = Held::new(at(0), &renewal(10_000.0, &[]));
        ended.ask("a");
        ended.end("over");
        ended.answered("a", &[lock("a", 5)], at(1));
        let told: Vec<_> = std::iter::from_fn(|| ended.next_event()).collect();
        assert!(matches!(told[1], SessionEvent::LockLost { .. }), "{told:?}");
    }

    #[test]
    fn a_lock_that_is_being_released_is_not_released_again_by_what_a_renewal_shows() {
        let mut held = locked("a");
        assert_eq!(held.unlock(&lock("a", 5)), Some(true));
        assert_eq!(held.renewed(at(200), &renewal_of(&[lock("a", 5)])), []);
        held.unlocked(&lock("a", 5));
        assert_eq!(held.renewed(at(300), &renewal_of(&[lock("a", 5)])), [lock("a", 5)]);
    }

    #[test]
    fn a_renewal_takes_a_lock_away_only_if_it_was_known_before_and_says_which_to_release() {
        let mut held = locked("a");
        assert_eq!(held.renewed(at(99), &renewal_of(&[])), []);
        held.ask("b");
        assert_eq!(held.renewed(at(150), &renewal_of(&[lock("a", 5), lock("b", 6)])), []);
        held.answered("b", &[], at(160));
        assert_eq!(held.renewed(at(170), &renewal_of(&[lock("a", 5), lock("b", 6)])), [lock("b", 6)]);
        assert!(held.has(&lock("a", 5), at(200)));
        assert_eq!(held.renewed(at(180), &renewal_of(&[])), []);
        assert!(!held.has(&lock("a", 5), at(200)));
    }

    #[test]
    fn a_lock_that_is_to_stop_is_not_held_and_its_guard_has_the_word() {
        let mut held = locked("a");
        assert_eq!(held.hear(SessionEvent::LockStop { lock: lock("a", 5) }, at(300)), None);
        assert!(!held.has(&lock("a", 5), at(301)));
        assert_eq!((held.unlock(&lock("a", 5)), held.unlock(&lock("a", 5))), (Some(false), None));
        let standing = |standing| SessionEvent::Standing { standing, holds: Vec::new(), locks: Vec::new() };
        let mut held = locked("a");
        held.hear(standing(Standing::Suspect), at(300));
        assert!(held.has(&lock("a", 5), at(301)), "suspect is not lost");
        held.hear(standing(Standing::Lost), at(302));
        assert!(!held.has(&lock("a", 5), at(303)));
    }

    #[test]
    fn a_broken_grant_grants_nothing() {
        for remaining_ms in [f64::NAN, f64::INFINITY, -1.0, 0.0, 49.0] {
            assert_eq!(Held::new(at(7), &renewal(remaining_ms, &[])).deadline(), at(7));
        }
    }
}
