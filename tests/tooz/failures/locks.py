"""Who holds a lock, and who believes so."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import pymysql

from stage import LEASE, Remote, Saw, Service, Stage, call, row, seconds, until


def contended(first: Service, second: Service, name: bytes, within: float = 3 * LEASE) -> Saw:
    """Lets B try for a lock that A holds and may have lost, and tells what both believe at the end."""
    begin = time.monotonic()
    both, told, over = 0.0, None, None
    while time.monotonic() - begin < within and (told is None or over is None):
        if over is None:
            tried = call(lambda: second.acquire(name, blocking=False), within=5)
            over = time.monotonic() - begin if tried.value else None
        now = time.monotonic() - begin
        holds = first.holds(name)
        if holds and over is not None:
            both = now
        if told is None and not holds:
            told = now
        time.sleep(0.05)
    if over is None:
        return Saw(
            "A holds it, B waits" if told is None else f"A told after {seconds(told)}, B never gets it",
            told is None,
        )
    if told is None:
        return Saw(f"A and B both hold it, {seconds(both)} on", right=False)
    # Whoever is asked last may have been told a moment later: looks are so far apart.
    overlap = f" (both for at most {told - over:.2f} s)" if both >= over else ""
    return Saw(f"A told after {told:.2f} s, B has it{overlap}", right=told - over < LEASE)


@row(
    "{fault} while A holds a lock",
    zookeeper="2.1",
    redis="1.15",
    memcached="1.15",
    etcd="1.15",
    postgresql="2.5",
    mysql="2.6",
)
def a_lost_lock_is_still_acquired(stage: Stage) -> Saw:
    """Two holders for ever: a lock that was lost says that it is acquired."""
    name, first, second = stage.name("lock"), stage.service("a"), stage.service("b")
    assert first.acquire(name)
    stage.server.lose()
    return contended(first, second, name)


@row("the release of a lock after: {fault}", postgresql="2.5", mysql="2.6", etcd="1.9")
def the_release_of_a_lost_lock(stage: Stage) -> Saw:
    """A release raises where its connection died, or answers false and leaves the lock acquired."""
    name, first = stage.name("lock"), stage.service("a")
    assert first.acquire(name)
    stage.server.lose()
    until(lambda: not first.holds(name), LEASE)
    held = first.holds(name)
    released = call(lambda: first.release(name))
    believes = first.holds(name)
    is_true = released.value is held and released.error is None
    said = f"held: {held}; release: {released.error and released or released.value}"
    return Saw(said + ("; held: True" if believes else ""), right=is_true and not believes)


@row("a holder stands still for longer than its lease", redis="1.15", memcached="1.15", etcd="1.15")
def a_paused_holder(stage: Stage) -> Saw:
    """Whoever was paused goes on as if it held the lock that another has by now."""
    name, second = stage.name("lock"), stage.service("b")
    first = stage.remote("a")
    assert first.do("acquire", name)
    first.pause()
    took = until(lambda: second.acquire(name, False), 10 * LEASE)
    first.resume()
    holds = first.do("holds", name)
    time.sleep(LEASE)
    later = first.do("holds", name)
    if took is None:
        return Saw("B never gets it", right=False)
    if holds or later:
        return Saw(f"B has it; A back: acquired {holds}, {LEASE} s later {later}", right=False)
    return Saw(f"B has it after {seconds(took)}; A back: not acquired", right=True)


@row("the master dies with a lock that no replica has", redis_sentinel="2.2")
def a_lock_lost_in_a_fail_over(stage: Stage) -> Saw:
    """An acknowledged lock is gone with its master, and two hold it."""
    name, first, second = stage.name("lock"), stage.service("a", timeout=30), stage.service("b", timeout=30)
    second.acquire(stage.name("warm"))
    stage.server.ask("cut")
    taken = call(lambda: first.acquire(name, blocking=2), within=10)
    if not taken.value:
        return Saw(f"A is not told that it holds it: {taken}", right=True)
    stage.server.ask("kill")
    return contended(first, second, name, within=5 * LEASE)


@row("idle for longer than the server's wait_timeout", mysql="2.6")
def a_lock_lost_by_idling(stage: Stage) -> Saw:
    """The server ends an idle connection, and the lock with it."""
    name, first, second = stage.name("lock"), stage.service("a"), stage.service("b")
    stage.server.ask("idle 1")
    try:
        stage.server.lose()  # Connections that are there already keep their own limit.
        until(lambda: call(lambda: first.acquire(name, blocking=False)).value, 10)
        return contended(first, second, name)
    finally:
        stage.server.ask("idle 28800")


@row("a restarted service: the old one, expired, releases", memcached="2.3")
def a_stale_release(stage: Stage) -> Saw:
    """The value of a lock is the id of a member: a release frees what another of the same id holds."""
    name, old, third = stage.name("lock"), stage.service("a", heart=False), stage.service("b")
    assert old.acquire(name)
    new = stage.twin(old)
    if until(lambda: new.acquire(name, False), 4 * LEASE) is None:
        return Saw("the new one never gets it", right=False)
    released = call(lambda: old.release(name))
    stolen = third.acquire(name, False)
    if stolen:
        return Saw(f"release: {released.value}; a third takes the new one's lock", right=False)
    return Saw(f"release: {released.value}; the new one keeps it", right=released.value is False)


@row("A tries for the lock again that it holds", etcd="2.4")
def a_second_acquire(stage: Stage) -> Saw:
    """A second acquire replaces the lease, so that the heart renews the wrong one and the lock expires."""
    name, first, second = stage.name("lock"), stage.service("a"), stage.service("b")
    assert first.acquire(name)
    first.acquire(name, False)
    return contended(first, second, name, within=4 * LEASE)


@row("waiting 2 s for a lock that another holds", etcd="2.4")
def leases_left_behind(stage: Stage) -> Saw:
    """Each try grants a lease that nobody revokes."""
    name, first, second = stage.name("lock"), stage.service("a", timeout=30), stage.service("b", timeout=30)
    assert first.acquire(name)
    before = set(stage.server.leases())
    call(lambda: second.acquire(name, blocking=2))
    more = len(set(stage.server.leases()) - before)
    return Saw(f"{more} leases more on the server", right=more == 0)


@row("A holds lock-2, B wants lock-137", postgresql="2.5")
def two_names_one_lock(stage: Stage) -> Saw:
    """Of the digest of a name two bytes count."""
    first, second = stage.service("a"), stage.service("b")
    assert first.acquire(b"lock-2")
    got = second.acquire(b"lock-137", False)
    return Saw("B gets it" if got else "B does not get it", right=got)


@row("another application uses the name with GET_LOCK", mysql="2.6")
def a_name_of_another_application(stage: Stage) -> Saw:
    """Names of locks are those of the whole server."""
    name, first = stage.name("lock"), stage.service("a")
    user, url = stage.server.url.username or "", stage.server.url
    with pymysql.connect(host=url.hostname, port=url.port or 0, user=user) as other, other.cursor() as cursor:
        cursor.execute("select get_lock(%s, 0)", (name.decode(),))
        got = first.acquire(name, False)
    return Saw("A gets its lock" if got else "A cannot get its lock", right=got)


def _name(stage: Stage, name: bytes) -> Saw:
    first = stage.service("a")
    taken = call(lambda: first.acquire(name, False))
    return Saw("locked" if taken.value is True else str(taken), right=taken.value is True)


@row("a lock whose name has 300 bytes", memcached="2.3", mysql="2.6")
def a_long_name(stage: Stage) -> Saw:
    """The limits of the server are those of the names."""
    return _name(stage, stage.name("lock") + b"x" * 280)


@row("a lock whose name has a space", memcached="2.3")
def a_name_with_a_space(stage: Stage) -> Saw:
    """So are its rules."""
    return _name(stage, stage.name("a lock"))


@row("lock.name", redis="1.9", memcached="1.9", file="1.9")
def a_name_that_is_not_the_name(stage: Stage) -> Saw:
    """A lock has another name than it was given."""
    name, first = stage.name("lock"), stage.service("a")
    said = first.lock(name).name
    said = said.encode() if isinstance(said, str) else said
    return Saw("the name" if said == name else "another: decorated", right=said == name)


@row("two processes, both acquire(shared=True)", file="2.7")
def shared_by_two_processes(stage: Stage) -> Saw:
    """Shared locks are shared within one process only."""
    name, first, second = stage.name("lock"), stage.service("a"), stage.remote("b")
    assert first.acquire(name, shared=True)
    got = second.do("acquire", name, False, True)
    return Saw("both hold it" if got else "the second is refused", right=got)


def _after(name: bytes, first: Service, second: Remote) -> Saw:
    """Lets another process try for what A holds, and asks A."""
    got = second.do("acquire", name, False)
    owns = first.owns(name)
    if got:
        return Saw(f"B gets it too; A: is_still_owner {owns}", right=not owns)
    return Saw(f"B does not get it; A: is_still_owner {owns}", right=owns)


@row("A drops another object of the lock that it holds", file="2.7")
def a_sibling_that_is_dropped(stage: Stage) -> Saw:
    """Closing any descriptor of the file drops the lock; whoever tried in vain keeps one open."""
    name, first, second = stage.name("lock"), stage.service("a"), stage.remote("b")
    assert second.do("acquire", name)
    sibling = first.coordinator.get_lock(name)
    assert not sibling.acquire(blocking=False)
    second.do("release", name)
    assert first.acquire(name)
    del sibling
    gc.collect()
    return _after(name, first, second)


@row("the files named like the lock are cleaned up", file="2.7")
def a_lock_file_that_is_removed(stage: Stage) -> Saw:
    """Cinder removes lock files, because nothing else does. Althing has none: all is in one log."""
    name, first, second = stage.name("lock"), stage.service("a"), stage.remote("b")
    assert first.acquire(name)
    folder = Path(stage.server.url.path).parent
    for path, _, files in os.walk(folder):
        for file in files:
            if name.decode() in file:
                os.unlink(Path(path) / file)
    return _after(name, first, second)
