"""Locks of the native client, on a host."""

from __future__ import annotations

import os
import threading
import time

import pytest

import althing
from althing import errors

from conftest import eventually


def test_one_alone_holds_a_lock_and_tokens_rise(session, other, name):
    one, two = session.lock(name), other.lock(name)
    assert one.acquire() and one.is_held() and one.token > 0
    assert not two.acquire(0) and not two.is_held() and two.token is None
    first = one.token
    assert one.release() and not one.is_held()
    assert two.acquire(0) and two.token > first
    assert two.release() and not two.release()


def test_a_wait_ends_with_the_time_or_with_the_lock(session, other, name):
    one, two = session.lock(name), other.lock(name)
    one.acquire()
    begun = time.monotonic()
    assert not two.acquire(0.3)
    assert 0.3 <= time.monotonic() - begun < 2
    waiting = threading.Thread(target=two.acquire)
    waiting.start()
    eventually(lambda: session.client.lock(name).waiters)
    one.release()
    waiting.join(5)
    assert two.is_held()
    two.release()


def test_the_shared_share_and_keep_out_the_one_alone(session, other, name):
    one, two = session.lock(name, shared=True), other.lock(name, shared=True)
    assert one.acquire(0) and two.acquire(0)
    assert not session.lock(name).acquire(0)
    assert one.release() and two.release()


def test_permits_are_as_many_as_said(session, name):
    locks = [session.lock(name, permits=2) for _ in range(3)]
    assert [lock.acquire(0) for lock in locks] == [True, True, False]
    assert locks[0].release() and locks[2].acquire(0)
    assert locks[1].release() and locks[2].release()


def test_several_names_are_locked_together_or_not_at_all(session, other, name):
    both, second = session.lock(name + "a", name + "b"), other.lock(name + "b")
    second.acquire()
    assert not both.acquire(0)
    assert not session.client.lock(name + "a").holders, "nothing of it stays"
    second.release()
    with both:
        assert both.is_held() and not second.acquire(0)
        assert set(both._grant.tokens) == {name + "a", name + "b"}
    assert second.acquire(0) and second.release()


def test_whoever_breaks_a_lock_gets_it_after_the_holder_stopped(session, other, name):
    lock, order = session.lock(name), []
    lock.on_lost(lambda lost: order.append((lost.is_held(), lost.token)))
    lock.acquire()
    token = lock.token
    assert other.client.break_lock(name).broken == [token]
    assert not lock.is_held(), "before it was broken, it was not held"
    eventually(lambda: order == [(False, None)])
    assert not lock.release()
    assert other.lock(name).acquire(0)


def test_a_forced_break_is_told(session, name):
    lock, lost = session.lock(name), threading.Event()
    lock.on_lost(lambda _: lost.set())
    lock.acquire()
    token = lock.token
    assert session.client.break_lock(name, force=True).broken == [token]
    assert lost.wait(5) and not lock.is_held() and not lock.release()


def test_an_interrupted_wait_leaves_nothing_behind(session, other, name, monkeypatch):
    one, two = session.lock(name), other.lock(name)
    one.acquire()

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(althing.Session, "_look", interrupt)
    monkeypatch.setattr(althing.limits, "WAIT_LOOK", 0.05)
    with pytest.raises(KeyboardInterrupt):
        two.acquire()
    monkeypatch.undo()
    eventually(lambda: not session.client.lock(name).waiters)
    one.release()
    assert one.acquire(0) and one.release()


def test_what_an_abandoned_request_locked_is_released_by_the_next_renewal(session, name):
    grant = session.acquire([name])
    session._abandon(grant.id)
    session.renew()
    eventually(lambda: not session.client.lock(name).holders)
    assert not grant.is_held() or not grant.release()


def test_holders_and_waiters_are_shown_in_their_order(session, other, name):
    one, two = session.lock(name, label="first\n" + "x" * 200), other.lock(name, label="zweite ü")
    one.acquire()
    waiting = threading.Thread(target=two.acquire)
    waiting.start()
    eventually(lambda: session.client.lock(name).waiters)
    info = session.client.lock(name)
    assert info.holders[0].label.startswith("first?xxx") and info.holders[0].token == one.token
    assert [(waiter.position, waiter.label) for waiter in info.waiters] == [(1, "zweite ü")]
    assert name in [lock.name for lock in session.client.locks()]
    one.release()
    waiting.join(5)
    two.release()


def test_the_end_of_a_session_releases_its_locks(client, other, name):
    with client.session() as session:
        lock = session.lock(name)
        lock.acquire()
    assert not lock.is_held() and not lock.release()
    assert other.lock(name).acquire(5)


def test_locking_what_is_held_by_the_same_object_is_refused(session, name):
    with session.lock(name) as lock, pytest.raises(althing.Invalid):
        lock.acquire()


def test_names_and_numbers_out_of_bounds_are_told_by_kind(session, name):
    with pytest.raises(althing.Error):
        session.acquire([])
    with pytest.raises(althing.Invalid):
        session.lock(name, shared=True, permits=2)
    with pytest.raises(errors.Error):
        session.acquire([name], mode="sideways")


def test_a_forked_child_has_no_part_in_what_its_parent_holds(session, name):
    lock = session.lock(name)
    lock.acquire()
    child = os.fork()
    if child == 0:
        try:
            fine = not lock.is_held() and not lock.release() and not session.is_alive()
            fine = fine and session.client.lock(name).holders and not session.close()
            with session.client.session() as own:
                fine = fine and not own.lock(name).acquire(0)
            os._exit(0 if fine else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lock.is_held() and lock.release()
