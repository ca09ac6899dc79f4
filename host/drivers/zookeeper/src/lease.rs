//! For how long the store surely keeps a session.
//!
//! A server that a client is connected to tells the leader of the client's requests only with its next answer to
//! the leader's ping, every half tick; and it answers pings of the client even when it is cut off from the
//! leader. So an answered read proves nothing by itself. An acknowledged *write* does: it passed through the
//! leader on the same way as those answers. What the server had acknowledged a whole tick before the write was
//! sent has therefore reached the leader when the write is acknowledged, and the session runs from then. What this
//! rests on is that a leader that answers pings its followers no later than twice the time it should. Over a change
//! of servers nothing is lost: the leader itself lets a session go on with another server, and counts from then.

use std::collections::VecDeque;
use std::time::Duration;

use althing_core::BootTime;

/// The most touches that are remembered; at four per tick, some ticks.
const TOUCHES_MAX: usize = 64;
/// How often per tick a session is touched.
pub(crate) const TOUCHES_PER_TICK: u32 = 4;
/// The least time that a machine may be busy without a lease getting shorter.
const SLACK_MIN: Duration = Duration::from_millis(250);

/// Returns how much shorter than the store's time-out a lease is: one tick until a touch has surely reached the
/// leader, a quarter until the next touch, and what is left of another for a busy machine.
pub(crate) fn lost_time(tick: Duration) -> Duration {
    tick + tick.max(SLACK_MIN)
}

/// The requests on a session's connection that were answered.
#[derive(Debug)]
pub(crate) struct Touches {
    /// When each was sent and answered, in order.
    seen: VecDeque<(BootTime, BootTime)>,
    /// The latest one that the leader surely knows of.
    known: BootTime,
}

impl Touches {
    /// Begins with the opening of the session, sent at `opened`, which is a write by itself.
    pub(crate) fn new(opened: BootTime) -> Touches {
        Touches { seen: VecDeque::new(), known: opened }
    }

    /// Notes an answered request.
    pub(crate) fn note(&mut self, sent: BootTime, answered: BootTime) {
        if self.seen.len() == TOUCHES_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back((sent, answered));
    }

    /// Returns for how long after `sent` the store keeps the session at least, once a write that was sent then
    /// is acknowledged. `granted` is the store's time-out.
    pub(crate) fn proven(&mut self, sent: BootTime, granted: Duration, tick: Duration) -> Duration {
        let reached = self.seen.iter().filter(|(_, answered)| *answered + tick <= sent);
        self.known = reached.map(|(sent, _)| *sent).fold(self.known, BootTime::max);
        granted.saturating_sub(sent.since(self.known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(2000);
    const GRANTED: Duration = Duration::from_millis(10_000);

    fn at(ms: u64) -> BootTime {
        BootTime::new(Duration::from_millis(1_000_000 + ms))
    }

    #[track_caller]
    fn check(touches: &[(u64, u64)], sent: u64, expected_ms: u64) {
        let mut all = Touches::new(at(0));
        for (sent, answered) in touches {
            all.note(at(*sent), at(*answered));
        }
        assert_eq!(all.proven(at(sent), GRANTED, TICK), Duration::from_millis(expected_ms));
    }

    #[test]
    fn opening_counts_at_once_and_a_touch_only_after_a_tick() {
        check(&[], 0, 10_000);
        check(&[], 1_000, 9_000);
        check(&[(500, 510)], 2_509, 7_491);
        check(&[(500, 510)], 2_510, 7_990);
    }

    #[test]
    fn the_latest_touch_that_has_reached_the_leader_counts_from_when_it_was_sent() {
        let steady: Vec<_> = (0..20).map(|index| (500 * index, 500 * index + 5)).collect();
        // At 9500 the touches up to 7495 have reached the leader; the last of them was sent at 7000.
        check(&steady, 9_500, 7_500);
        // One that took long proves no more than that it was sent early.
        check(&[(500, 6_000)], 8_000, 2_500);
        check(&[(500, 6_000)], 7_999, 2_001);
    }

    #[test]
    fn silence_proves_nothing() {
        check(&[(500, 510)], 20_000, 0);
    }

    #[test]
    fn old_touches_are_forgotten_and_what_they_proved_is_not() {
        let mut all = Touches::new(at(0));
        for index in 0..500 {
            all.note(at(index * 500), at(index * 500 + 5));
            all.proven(at(index * 500 + 100), GRANTED, TICK);
        }
        assert_eq!(all.seen.len(), TOUCHES_MAX);
        assert!(all.proven(at(250_000), GRANTED, TICK) >= Duration::from_millis(7_490));
    }
}
