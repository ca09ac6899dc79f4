"""Locks by the contract of Tooz, and what the driver adds to it."""

from __future__ import annotations

import os
import threading
import time

import pytest
import tooz
from tooz import coordination

from conftest import Host, eventually, free_port


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        ((0.3,), 0.3), ((True, False, 0.3), 0.3), ((0.3, False, 9), 0.3), ((9, False, 0.3), 0.3),
        ((False,), 0), ((False, False, 9), 0), ((0,), 0), ((-1,), 0), ((True, False, 0), 0),
        ((0.3, True), 0.3), ((False, True), 0), (("0.3",), 0.3),
    ],
)  # fmt: skip
def test_a_lock_that_others_hold_is_false_after_the_time_that_was_said(coordinators, name, arguments, seconds):
    holder, waiter = coordinators().get_lock(name), coordinators().get_lock(name)
    assert holder.acquire()
    begun = time.monotonic()
    assert waiter.acquire(*arguments) is False
    assert seconds <= time.monotonic() - begun < seconds + 1
    assert not waiter.acquired and waiter.token is None and waiter.release() is False
    assert holder.release() is True


@pytest.mark.parametrize("arguments", [(), (True,), (5,), (True, False, 5), (float("inf"),), (1e300,), (5, True)])
def test_a_wait_ends_as_soon_as_the_lock_is_released(coordinators, name, arguments):
    one, two = coordinators(), coordinators()
    holder, waiter = one.get_lock(name), two.get_lock(name)
    holder.acquire()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(waiter.acquire(*arguments)))
    thread.start()
    eventually(lambda: one.client.lock(name).waiters)
    holder.release()
    thread.join(2)
    assert answers == [True] and waiter.acquired


def test_nonsense_in_place_of_seconds_is_an_error_of_tooz(coordinators, name):
    with pytest.raises(tooz.ToozError):
        coordinators().get_lock(name).acquire("soon")


def test_tokens_rise_over_all_holders(coordinators, name):
    last = 0
    for _ in range(3):
        lock = coordinators().get_lock(name)
        with lock:
            assert lock.token > last
            last = lock.token
        assert lock.token is None


def test_a_lock_that_was_broken_is_truly_not_acquired_and_says_so(coordinators, name):
    one, two = coordinators(), coordinators()
    lock, lost = one.get_lock(name), []
    lock.on_lost(lambda it: lost.append((it, it.acquired)))
    lock.acquire()
    assert two.get_lock(name).break_() is True
    assert not lock.acquired and not lock.is_still_owner() and not lock.heartbeat()
    eventually(lambda: lost == [(lock, False)])
    assert lock.release() is False
    assert two.get_lock(name).break_() is False, "nobody holds it"
    assert lock.acquire(False) and lock.release() is True


def test_a_lock_whose_lease_ran_out_is_not_acquired_though_nobody_said_so(coordinators, name):
    silent, other = coordinators(timeout=0.8), coordinators()
    lock, lost = silent.get_lock(name), []
    silent.on_lost(lost.append)
    assert lock.acquire() and lock.is_still_owner()
    eventually(lambda: not lock.acquired, 2)
    eventually(lambda: lost)
    assert other.get_lock(name).acquire(5)
    assert not lock.acquired and not lock.is_still_owner() and lock.release() is False


def test_heartbeats_keep_a_lock_and_so_does_the_heart(coordinators, host, name):
    beaten, hearty = coordinators(timeout=2), coordinators(timeout=2)
    hearty.heart.start()
    locks = [beaten.get_lock(name + "1"), hearty.get_lock(name + "2")]
    assert all(lock.acquire() for lock in locks)
    until = time.monotonic() + 2.6
    while time.monotonic() < until:
        assert locks[0].heartbeat()
        assert all(lock.acquired for lock in locks)
        time.sleep(0.1)
    assert all(lock.release() for lock in locks)


def test_whoever_waits_for_a_lock_keeps_its_session_without_a_heart(coordinators, name):
    one, two = coordinators(keepalive=True), coordinators(timeout=1.5)
    holder, waiter = one.get_lock(name), two.get_lock(name)
    holder.acquire()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(waiter.acquire()))
    thread.start()
    time.sleep(2.5)
    holder.release()
    thread.join(5)
    assert answers == [True] and waiter.acquired


def test_a_waiting_writer_does_not_keep_a_reader_from_its_own_lock(coordinators, name):
    one, two = coordinators(), coordinators()
    reader, writer = one.get_lock(name), two.get_lock(name)
    assert reader.acquire(shared=True)
    thread = threading.Thread(target=writer.acquire)
    thread.start()
    eventually(lambda: one.client.lock(name).waiters)
    assert reader.acquire(shared=True), "it has it already"
    assert one.get_lock(name).acquire(False, shared=True) is False, "others do not overtake"
    assert reader.release() and reader.acquired and reader.release() and not reader.acquired
    thread.join(5)
    assert writer.acquired


@pytest.mark.parametrize("given", ["text", "ü", b"raw", b"\xff\x00", b"base64:", b"a/b", "x" * 400])
def test_any_name_is_a_name_of_a_lock(coordinators, given):
    coordinator = coordinators()
    lock = coordinator.get_lock(given)
    assert lock.name == given
    with lock:
        assert not coordinators().get_lock(given).acquire(False)


def test_a_name_as_text_and_as_bytes_is_one_lock(coordinators, name):
    assert coordinators().get_lock(name).acquire()
    assert not coordinators().get_lock(name.encode()).acquire(False)


def test_namespaces_keep_services_apart(coordinators, name):
    one, two = coordinators(namespace="cinder"), coordinators(namespace="manila")
    assert one.get_lock(name).acquire(False) and two.get_lock(name).acquire(False)


def test_a_host_that_is_gone_is_a_connection_error_at_once(coordinators, own_host: Host, name):
    coordinator = coordinators(url=own_host.tooz, timeout=5)
    lock, held = coordinator.get_lock(name), coordinator.get_lock(name + "2")
    held.acquire()
    own_host.kill()
    for act in (lock.acquire, held.release, coordinator.heartbeat, lock.break_, coordinator.get_groups().get):
        begun = time.monotonic()
        with pytest.raises(coordination.ToozConnectionError):
            act()
        assert time.monotonic() - begun < 1
    coordinator.stop()


def test_a_host_that_stands_still_is_a_connection_error_within_the_deadline(coordinators, own_host: Host, name):
    coordinator = coordinators(url=own_host.tooz, timeout=20, request_timeout=0.5)
    lock = coordinator.get_lock(name)
    lock.acquire()
    own_host.pause()
    for act in (coordinator.get_lock("b").acquire, lock.release, coordinator.heartbeat, coordinator.get_groups().get):
        begun = time.monotonic()
        with pytest.raises(coordination.ToozConnectionError):
            act()
        assert time.monotonic() - begun < 1.5
    begun = time.monotonic()
    coordinator.stop()
    assert time.monotonic() - begun < 1.5


def test_nobody_to_connect_to_is_a_connection_error(host):
    for url in (f"althing://127.0.0.1:{free_port()}", "althing:///nowhere.sock", f"althing://127.0.0.1:{host.port}"):
        coordinator = coordination.get_coordinator(url, b"m")
        with pytest.raises(coordination.ToozConnectionError):
            coordinator.start()
        assert not coordinator.is_started


def test_a_lost_session_is_replaced_when_a_lock_is_asked_for(coordinators, name):
    coordinator = coordinators(timeout=0.6)
    first = coordinator.session()
    eventually(lambda: first.ended, 5)
    lock = coordinator.get_lock(name)
    assert lock.acquire() and coordinator.session() is not first and lock.release()


def test_stopping_takes_milliseconds_and_releases_everything(coordinators, name):
    times = []
    for _ in range(10):
        coordinator = coordinators()
        coordinator.heart.start()
        lock = coordinator.get_lock(name)
        assert lock.acquire(False)
        coordinator.get_groups().get()
        begun = time.monotonic()
        coordinator.stop()
        times.append(time.monotonic() - begun)
        assert not lock.acquired and lock.release() is False
    assert sorted(times)[5] < 0.05, times


def test_a_stopped_coordinator_locks_nothing_and_can_start_again(coordinators, name):
    coordinator = coordinators()
    lock = coordinator.get_lock(name)
    coordinator.stop()
    for act in (lock.acquire, coordinator.stop, coordinator.get_groups, coordinator.run_watchers, coordinator.session):
        with pytest.raises(tooz.ToozError):
            act()
    coordinator.start(start_heart=True)
    eventually(lambda: coordinator.heart.beats)
    assert lock.acquire(False)


def test_a_heart_whose_host_is_gone_says_so_and_stops_at_once(coordinators, own_host: Host):
    coordinator = coordinators(url=own_host.tooz, timeout=0.6)
    coordinator.heart.start()
    eventually(lambda: coordinator.heart.beats)
    own_host.kill()
    eventually(lambda: coordinator.heart.failure, 5)
    begun = time.monotonic()
    coordinator.stop()
    assert time.monotonic() - begun < 0.5
    own_host.start()
    coordinator.start(start_heart=True)
    eventually(lambda: coordinator.heart.beats and coordinator.heart.failure is None)


def test_a_forked_child_holds_nothing_and_has_a_session_of_its_own(coordinators, name):
    coordinator = coordinators()
    lock = coordinator.get_lock(name)
    lock.acquire()
    child = os.fork()
    if child == 0:
        code = 2
        try:
            fine = not lock.acquired and lock.release() is False and lock.acquire(False) is False
            fine = fine and coordinator.get_lock(name + "2").acquire(False)
            coordinator.stop()
            code = 0 if fine else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lock.acquired and lock.is_still_owner()
    assert coordinator.get_lock(name + "2").acquire(False), "the child's went with it"
    assert lock.release()


def test_a_context_whose_lock_was_lost_ends_without_complaint(coordinators, name, caplog):
    one, two = coordinators(), coordinators()
    lock = one.get_lock(name)
    with lock:
        two.get_lock(name).break_()
    assert "was lost before it was released" in caplog.text


def test_an_answer_that_no_host_gives_is_an_error_of_tooz(coordinators, name, monkeypatch):
    coordinator = coordinators()
    monkeypatch.setattr(type(coordinator.client.wire), "exchange", lambda *_, **__: {"odd": []})
    for act in (coordinator.get_lock(name).acquire, coordinator.heartbeat, coordinator.get_members(name).get):
        with pytest.raises(tooz.ToozError):
            act()
    monkeypatch.undo()


@pytest.mark.parametrize("keepalive", ["true", "false"])
def test_a_lease_longer_than_that_of_the_host_is_kept_by_beats_of_its_own_pace(coordinators, name, redis_url, keepalive):
    host = Host("--backend", redis_url, "--lease", "1s")
    try:
        coordinator = coordinators(b"1", url=f"{host.tooz}?timeout=5&keepalive={keepalive}")
        lock = coordinator.get_lock(name)
        assert lock.acquire()
        begun = time.monotonic()
        while time.monotonic() < begun + 4:
            assert lock.acquired
            time.sleep(0.01)
        if keepalive == "false":
            eventually(lambda: not lock.acquired, 2)
    finally:
        host.close()


def test_a_lock_is_not_believed_in_for_longer_than_the_host_lives(coordinators, name, redis_url):
    host = Host("--backend", redis_url, "--lease", "1s")
    lock = coordinators(b"1", url=f"{host.tooz}?timeout=60").get_lock(name)
    assert lock.acquire()
    host.pause()
    try:
        eventually(lambda: not lock.acquired, 1.5)
    finally:
        host.close()
