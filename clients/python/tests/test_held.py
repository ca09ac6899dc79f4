"""What is believed, by invented times."""

from __future__ import annotations

import math

from althing import clock
from althing.held import Elected, Held, LockLost, Lost, Standing
from althing.info import Hold, LockHold, Renewal
from althing.revision import Revision

HOLD = Hold("web", "a", Revision(5))
LOCK = LockHold("volume", "exclusive", None, Revision(7), 0, "id1")
JSON_HOLD = {"group": "web", "member": "a", "term": "00000000000000000005"}
JSON_LOCK = {"lock": "volume", "mode": "exclusive", "token": "00000000000000000007", "id": "id1"}


def renewal(holds=(), locks=(), remaining=10.0):
    return Renewal(remaining, list(holds), list(locks))


def held():
    held = Held(0.0, renewal())
    held.hear({"event": "elected", "hold": JSON_HOLD}, 0.1)
    held.granted([LOCK], 0.2)
    return held


def test_the_deadline_counts_from_the_send_less_drift_and_guard():
    assert clock.deadline(100.0, 10.0) == 100.0 + 10.0 - 0.5 - 0.01
    assert clock.deadline(100.0, 0.5) == 100.0 + 0.5 - 0.05 - 0.0005
    assert clock.deadline(100.0, 0.01) == 100.0


def test_what_is_held_is_held_until_the_deadline_and_not_at_it():
    it = held()
    assert it.term("web", it.deadline - 0.001) == HOLD
    assert it.holds_lock(("volume", "id1"), it.deadline - 0.001)
    assert it.term("web", it.deadline) is None
    assert not it.holds_lock(("volume", "id1"), it.deadline)


def test_the_host_is_asked_as_often_as_its_own_lease_needs():
    it = Held(0.0, renewal(remaining=9.0))
    assert it.next_ask(None, 0.0) == it.interval < 3.0
    assert it.next_ask(9.0, 0.0) == math.inf, "a lease of nine seconds is granted in whole"
    assert it.next_ask(30.0, 0.0) == it.interval
    it.shown(6.0, renewal(remaining=3.0), 6.1)
    assert it.next_ask(30.0, 6.1) == 6.0 + it.interval, "what a host that is late grants is no measure"
    it.shown(24.0, renewal(remaining=6.0), 24.1)
    assert it.next_ask(30.0, 24.1) == math.inf, "nobody renewed it since"
    assert it.next_ask(31.0, 40.0) == math.inf, "its own lease is over"
    it.renewed(25.0, renewal(remaining=9.0), 25.1)
    assert it.next_ask(30.0, 25.1) == 25.0 + it.interval


def test_a_renewal_takes_away_only_what_was_known_before_it_was_sent():
    it = held()
    assert it.renewed(0.05, renewal(), 0.3) == ([], [])
    told, _ = it.renewed(0.3, renewal(), 0.4)
    assert [type(event) for event in told] == [Lost, LockLost]


def test_a_renewal_of_a_host_without_locks_takes_none_away():
    it = held()
    told, _ = it.renewed(0.3, Renewal(10.0, [HOLD], None), 0.4)
    assert told == []


def test_after_the_deadline_a_leadership_comes_back_with_an_event_and_a_lock_never_does():
    it = held()
    told = it.expire(it.deadline)
    assert {type(event) for event in told} == {Lost, LockLost, Standing}
    told, stray = it.renewed(11.0, renewal([HOLD], [LOCK]), 11.1)
    assert told == [Elected(HOLD), Standing("held")]
    assert stray == [LOCK], "it is to be released"
    assert it.term("web", 11.2) == HOLD
    assert not it.holds_lock(("volume", "id1"), 11.2)


def test_a_stop_ends_the_hold_before_it_is_confirmed():
    it = held()
    heard = it.hear({"event": "stop", "hold": JSON_HOLD}, 1.0)
    assert it.term("web", 1.0) is None
    assert heard.stopped == HOLD and len(heard.told) == 1
    heard = it.hear({"event": "lock-stop", "lock": JSON_LOCK}, 1.0)
    assert not it.holds_lock(("volume", "id1"), 1.0)
    assert heard.lock_stopped is not None and len(heard.told) == 1


def test_a_lock_that_ended_before_its_grant_was_here_is_never_held():
    it = Held(0.0, renewal())
    it.hear({"event": "lock-lost", "lock": JSON_LOCK, "reason": "broken"}, 0.1)
    assert it.granted([LOCK], 0.2) == {("volume", "id1"): "broken"}
    assert not it.holds_lock(("volume", "id1"), 0.2)


def test_a_standing_after_a_gap_tells_what_was_lost_in_it():
    it = held()
    heard = it.hear({"event": "standing", "standing": "held", "holds": [], "locks": []}, 1.0)
    assert [type(event) for event in heard.told] == [Lost]
    assert heard.doubtful, "whether the lock is lost, a renewal tells"
    assert it.holds_lock(("volume", "id1"), 1.0)


def test_a_lost_standing_takes_everything():
    it = held()
    heard = it.hear({"event": "standing", "standing": "lost", "holds": []}, 1.0)
    assert {type(event) for event in heard.told} == {Lost, LockLost, Standing}


def test_an_event_nobody_knows_changes_nothing():
    it = held()
    assert it.hear({"event": "of a newer host"}, 1.0).told == []
    assert it.term("web", 1.0) == HOLD


def test_what_an_abandoned_request_locked_is_released():
    it = held()
    it.abandon("id2")
    stray = LockHold("other", "exclusive", None, Revision(9), 0, "id2")
    assert it.renewed(1.0, renewal([HOLD], [LOCK, stray]), 1.1) == ([], [stray])


def test_a_member_is_surely_in_a_stay_until_it_leaves_is_removed_or_its_host_lost_its_lease():
    key, joined = ("web", "a"), {"group": "web", "member": "a"}
    known = held()
    assert known.incarnation(key, 0.5) is None
    known.joined(key, "first")
    assert known.incarnation(key, 0.5) == "first" and known.incarnation(key, 9.9) is None
    known.resign(*key)
    known.hear({"event": "standing", "standing": "suspect", "holds": []}, 0.6)
    assert known.incarnation(key, 0.6) == "first"
    known.hear({"event": "standing", "standing": "lost", "holds": []}, 0.7)
    assert known.incarnation(key, 0.7) is None
    known.hear({"event": "rejoined", "incarnation": "second", "resume": "r", **joined}, 0.8)
    assert known.incarnation(key, 0.8) == "second"
    known.hear({"event": "removed", "reason": "evicted", **joined}, 0.9)
    assert known.incarnation(key, 0.9) is None
    for end in (lambda: known.leave(*key), lambda: known.end("closed")):
        known.joined(key, "third")
        end()
        assert known.incarnation(key, 1.0) is None


def test_a_lease_that_was_renewed_late_keeps_the_stay():
    known = held()
    known.joined(("web", "a"), "first")
    known.expire(9.9)
    assert known.incarnation(("web", "a"), 9.9) is None
    known.renewed(9.9, renewal(), 10.0)
    assert known.incarnation(("web", "a"), 10.0) == "first"
