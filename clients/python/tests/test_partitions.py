"""A member's part in what a group shares, by the native client."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

import althing
from conftest import Host, eventually

OBJECTS = [f"object-{index}" for index in range(200)]


def _owned(partition):
    return {key for key in OBJECTS if partition.owns(key)}


def test_the_only_member_owns_all_and_a_second_one_nothing_before_the_first_has_settled(session, other, client, name):
    session.join(name, "a", create=True)
    with session.partition(name, "a") as first:
        eventually(lambda: len(_owned(first)) == 200)
        other.join(name, "b")
        with other.partition(name, "b") as second:
            eventually(lambda: first.is_pending and second.info.version == first.info.version)
            kept = _owned(first)
            assert 50 < len(kept) < 150 and not _owned(second)
            moving = client.owners(name, OBJECTS, replicas=2).objects
            assert {told.object for told in moving if told.owner == "a"} == kept
            assert {told.owners[0] for told in moving if told.owner is None} == {"b"}
            first.settle()
            first.settle()
            eventually(lambda: len(_owned(second)) == 200 - len(kept))
            assert _owned(first) == kept and not _owned(second) & kept
            assert second.owners("x", 2) == first.owners("x", 2) == list(client.owners(name, ["x"], replicas=2).objects[0].owners)


def test_a_change_is_waited_for_and_told(session, other, name):
    session.join(name, "a", create=True)
    with session.partition(name, "a", algorithm="rendezvous") as part:
        since, told = part.info, threading.Event()
        assert since is not None and since.algorithm == "rendezvous" and not part.changed(since, timeout=0.05)
        part.on_changed(lambda _: told.set())
        waited = []
        thread = threading.Thread(target=lambda: waited.append(part.changed(since, 10)))
        thread.start()
        other.join(name, "b")
        thread.join(10)
        assert waited == [True] and told.wait(5) and part.info.version > since.version


def test_whoever_leaves_or_dies_is_not_waited_for(host, session, client, name):
    program = (
        "import sys, althing, time\n"
        f"session = althing.Client({host.url!r}).session(ttl=60, drop_on_disconnect=True)\n"
        f"session.join({name!r}, 'dead', create=True)\n"
        f"part = session.partition({name!r}, 'dead')\n"
        "print(part.owns('x'), flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"True\n"
    session.join(name, "b")
    with session.partition(name, "b") as part:
        eventually(lambda: part.info.pending == ("dead",))
        assert not _owned(part)
        process.kill()
        process.wait()
        process.stdout.close()
        eventually(lambda: len(_owned(part)) == 200)
        left = session.join(name, "c")
        eventually(lambda: part.is_pending)
        left.leave()
        part.settle()
        eventually(lambda: len(_owned(part)) == 200)


def test_nothing_is_owned_without_a_session_a_lease_or_a_stay(own_host: Host, name):
    session = althing.Client(own_host.url).session(ttl=1)
    member = session.join(name, "a", create=True)
    part = session.partition(name, "a")
    eventually(lambda: part.owns("x"))
    own_host.pause()
    eventually(lambda: not part.owns("x"), 5)
    assert part.info is not None
    own_host.resume()
    eventually(lambda: part.owns("x") or session.ended)
    if session.ended is None:
        member.leave()
        assert not part.owns("x")
        session.join(name, "a")
        eventually(lambda: part.owns("x"))
    session.close()
    eventually(lambda: part.info is None)
    assert not part.owns("x") and not part.changed(None, 0.01)


def test_a_group_that_was_made_anew_is_followed(session, client, name):
    member = session.join(name, "a", create=True)
    part = session.partition(name, "a")
    for weight in (2, 3, 4):
        member.update(capabilities={"weight": weight})
        eventually(lambda: (part.settle() or True) and part.info.members[0].weight == weight)
    member.leave()
    client.delete_group(name)
    eventually(lambda: part.info is None)
    session.join(name, "a", create=True)
    client.partition_group(name)
    eventually(lambda: part.owns("x"))
    assert part.info.version < 4
    part.close()


def test_a_group_that_is_shared_otherwise_or_not_at_all_is_told(session, client, name):
    session.join(name, "a", create=True)
    with pytest.raises(althing.NotFound):
        client.partition(name)
    assert client.group(name).partition is None
    made = client.partition_group(name, points=8)
    assert client.partition_group(name, points=8) == client.partition(name) == client.group(name).partition == made
    with pytest.raises(althing.Conflict):
        session.partition(name, "a")
    with pytest.raises(althing.Invalid):
        client.partition_group(name, points=0)
    with pytest.raises(althing.Denied):
        client.session().settle(name, "a", 1)


def test_its_thread_ends_with_it_and_with_its_session(host, name):
    def ours():
        return sum(thread.name == "althing partition" for thread in threading.enumerate())

    before = ours()
    session = althing.Client(host.url).session()
    session.join(name, "a", create=True)
    with session.partition(name, "a"):
        session.partition(name, "a")
        assert ours() == before + 2
    session.close()
    eventually(lambda: ours() <= before)
