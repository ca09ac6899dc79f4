"""Sessions of the native client: how they live, and how their end is told."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

import althing

from conftest import Host, eventually


def test_a_session_keeps_itself_alive(host, name):
    with althing.Client(host.url).session(ttl=2) as session:
        lock = session.lock(name)
        lock.acquire()
        first = session.deadline
        eventually(lambda: session.deadline > first + 2.2)
        assert session.is_alive() and lock.is_held()


def test_one_that_nobody_renews_ends_by_its_deadline_and_says_so(host, name):
    session = althing.Client(host.url).session(ttl=0.6, renew=False)
    told, lock = [], session.lock(name)
    session.on_event(told.append)
    lock.acquire()
    eventually(lambda: not lock.is_held(), 2)
    assert time.clock_gettime(time.CLOCK_BOOTTIME) >= session.deadline
    eventually(lambda: any(isinstance(event, althing.Ended) for event in told), 5)
    assert any(isinstance(event, althing.LockLost) for event in told)
    with pytest.raises(althing.SessionLost):
        session.renew()
    with pytest.raises(althing.SessionLost):
        session.join(name, "a", create=True)


def test_a_host_that_stands_still_takes_everything_by_the_deadline(own_host: Host, name):
    session = althing.Client(own_host.url).session(ttl=1)
    told, lost = [], threading.Event()
    session.on_event(told.append)
    lock = session.lock(name)
    lock.on_lost(lambda _: lost.set())
    lock.acquire()
    own_host.pause()
    assert lost.wait(5) and not lock.is_held()
    assert session.standing == "lost"
    own_host.resume()
    # What the host still had for us is released, not silently held again.
    eventually(lambda: session.ended or session.standing == "held")
    assert not lock.is_held()
    eventually(lambda: not althing.Client(own_host.url).lock(name).holders)


def test_a_host_that_was_started_again_knows_no_session_of_before(own_host: Host, name):
    session = althing.Client(own_host.url).session(ttl=1)
    own_host.kill()
    with pytest.raises(althing.Unavailable):
        session.client.groups()
    own_host.start()
    eventually(lambda: session.ended)
    with pytest.raises(althing.SessionLost):
        session.renew()


def test_whoever_waits_for_a_lock_hears_of_the_end_of_its_host(own_host: Host, name):
    client = althing.Client(own_host.url)
    holder, waiter = client.session(ttl=1), client.session(ttl=1)
    holder.lock(name).acquire()
    for end in (own_host.pause, own_host.kill):
        caught = []

        def wait():
            try:
                waiter.lock(name).acquire()
            except althing.Error as error:
                caught.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        if end == own_host.pause:
            eventually(lambda: client.lock(name).waiters)
        end()
        thread.join(5)
        assert caught and isinstance(caught[0], (althing.Unavailable, althing.NoAnswer, althing.SessionLost)), end


def test_a_process_that_is_killed_drops_what_it_held_at_once(host, client, other, name):
    program = (
        "import sys, althing, time\n"
        f"session = althing.Client({host.url!r}).session(ttl=60, drop_on_disconnect=True)\n"
        f"print(session.lock({name!r}).acquire(), flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"True\n"
    # The stream by which the host notices is opened in the background.
    lock = other.lock(name)
    assert not lock.acquire(0.3)
    process.kill()
    process.wait()
    process.stdout.close()
    assert lock.acquire(5) and lock.release()


def test_closing_tells_whether_the_host_has_heard(own_host: Host):
    client = althing.Client(own_host.url, deadline=0.5)
    assert client.session().close()
    session = client.session()
    own_host.pause()
    begun = time.monotonic()
    assert not session.close()
    assert time.monotonic() - begun < 2
    assert session.ended and not session.is_alive()


def test_no_thread_outlives_its_session(host):
    def ours():
        return [thread for thread in threading.enumerate() if thread.name.startswith("althing")]

    before = len(ours())
    session = althing.Client(host.url).session()
    session.on_event(lambda _: None)
    session.lock("no thread").acquire()
    session.close()
    eventually(lambda: len(ours()) <= before)


def test_a_port_asks_for_the_token(host):
    url = f"http://127.0.0.1:{host.port}"
    with pytest.raises(althing.Denied):
        althing.Client(url).host()
    with pytest.raises(althing.Denied):
        althing.Client(url, token="wrong").host()
    with pytest.raises(althing.Denied, match="cannot be read"):
        althing.Client(url, token_file="/nowhere").host()
    client = althing.Client(url, token_file=host.token_file)
    with client.session() as session:
        assert session.lock("over tcp").acquire() and client.host().standing == "held"


def test_a_backend_nobody_knows_is_told(host):
    with pytest.raises(althing.Error, match="nowhere"):
        althing.Client(host.url, backend="nowhere").groups()
