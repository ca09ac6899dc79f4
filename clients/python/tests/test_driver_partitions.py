"""Partitioners of the driver for Tooz: an object belongs to one coordinator, also while it moves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from tooz import partitioner

from conftest import Host, eventually
from tooz_althing import AlthingDriver
from tooz_althing.partition import AlthingPartitioner

OBJECTS = [f"object-{index}" for index in range(200)]


def _mine(part):
    return {obj for obj in OBJECTS if part.belongs_to_self(obj)}


def test_what_moves_belongs_to_nobody_until_the_former_owner_has_run_its_watchers(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    first = one.join_partitioned_group(name)
    assert isinstance(first, partitioner.Partitioner) and first.is_exclusive
    assert _mine(first) == set(OBJECTS)
    second = two.join_partitioned_group(name)
    two.run_watchers()
    assert _mine(first) == set(OBJECTS) and not _mine(second)
    to_move = {obj for obj in OBJECTS if second.members_for_object(obj) == {b"2"}}
    assert 50 < len(to_move) < 150
    one.run_watchers()
    assert _mine(first) == set(OBJECTS) - to_move
    eventually(lambda: two.run_watchers() or _mine(second) == to_move)
    assert second.members_for_object("x") == first.members_for_object("x") and len(second.ring.nodes) == 2


def test_what_the_ring_says_is_not_waited_with(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    one.join_partitioned_group(name)
    second = two.join_partitioned_group(name)
    assert not _mine(second)
    assert all(second.belongs_to_self(obj, replicas=2) for obj in OBJECTS)
    assert all(second.belongs_to_self(obj, ignore_members=[b"1"]) for obj in OBJECTS)
    assert any(second.belongs_to_member(obj, b"2") for obj in OBJECTS)


def test_no_object_belongs_to_two_while_coordinators_come_and_go(coordinators, name):
    """Each works as services do: it runs the watchers, sees what belongs to it, and works on that."""
    at_work: set[str] = set()
    twice: list[str] = []
    done, served, gate = threading.Event(), set(), threading.Lock()

    def work(part: AlthingPartitioner) -> None:
        part._coord.run_watchers()
        mine = {obj for obj in OBJECTS[:40] if part.belongs_to_self(obj)}
        with gate:
            twice.extend(mine & at_work)
            at_work.update(mine)
        # Work takes its time.
        time.sleep(0.005)
        with gate:
            at_work.difference_update(mine)
            served.update((part._coord.me, obj) for obj in mine)

    def stay(coordinator: AlthingDriver) -> None:
        part = coordinator.join_partitioned_group(name)
        while not done.is_set():
            work(part)
        coordinator.stop()

    def come_and_go(coordinator: AlthingDriver) -> None:
        for _ in range(6):
            part = coordinator.join_partitioned_group(name)
            for _ in range(8):
                work(part)
            coordinator.leave_partitioned_group(part)

    staying = [threading.Thread(target=stay, args=(coordinators(),)) for _ in range(2)]
    passing = [threading.Thread(target=come_and_go, args=(coordinators(),)) for _ in range(3)]
    for thread in staying + passing:
        thread.start()
    for thread in passing:
        thread.join(60)
    served.clear()
    eventually(lambda: len({obj for _, obj in served}) == 40, 20)
    done.set()
    for thread in staying:
        thread.join(20)
    assert not twice
    assert len({member for member, _ in served}) == 2


def test_a_member_that_dies_is_not_waited_for(host, coordinators, name):
    program = (
        "import sys, time\n"
        "from tooz import coordination\n"
        f"coordinator = coordination.get_coordinator({host.tooz + '?drop_on_disconnect=true'!r}, b'dead')\n"
        "coordinator.start()\n"
        f"print(coordinator.join_partitioned_group({name!r}).belongs_to_self('x'), flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"True\n"
    one = coordinators(b"1")
    part = one.join_partitioned_group(name)
    assert part.partition.pending == ("dead",) or part.partition.version == 1
    one.run_watchers()
    assert not _mine(part)
    process.kill()
    process.wait()
    process.stdout.close()
    eventually(lambda: one.run_watchers() or _mine(part) == set(OBJECTS))


def test_whoever_works_in_other_threads_settles_by_itself(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    first = one.join_partitioned_group(name)
    first.settles = False
    second = two.join_partitioned_group(name)
    eventually(lambda: one.run_watchers() or first.partition.pending == ("1",))
    two.run_watchers()
    assert not _mine(second)
    first.settle()
    assert first.partition.pending == ()
    eventually(lambda: two.run_watchers() or _mine(second))


@pytest.mark.parametrize("leaves", [True, False])
def test_one_that_stopped_its_partitioner_or_has_none_keeps_nobody_waiting(coordinators, name, leaves):
    one, two, three = coordinators(b"1"), coordinators(b"2"), coordinators(b"3")
    first = one.join_partitioned_group(name)
    two.join_group(name).get()
    third = three.join_partitioned_group(name)
    if leaves:
        one.leave_partitioned_group(first)
    else:
        first.stop()

    def is_shared():
        two.heartbeat()
        one.run_watchers()
        three.run_watchers()
        return _mine(third) and third.partition.pending == () and len(third.partition.members) == (2 if leaves else 3)

    eventually(is_shared)


def test_a_changed_weight_moves_objects_by_the_same_barrier(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    first, second = one.join_partitioned_group(name), two.join_partitioned_group(name)
    eventually(lambda: one.run_watchers() or two.run_watchers() or len(_mine(first) | _mine(second)) == 200)
    before = _mine(first), _mine(second)
    two.update_capabilities(name, {"weight": 8}).get()
    eventually(lambda: two.run_watchers() or two.client.partition(name).pending == ("1",))
    assert _mine(first) == before[0] and _mine(second) == before[1]
    eventually(lambda: one.run_watchers() or two.run_watchers() or len(_mine(second)) > len(before[1]))
    assert not _mine(first) & _mine(second)


def test_a_group_that_is_shared_in_another_way_is_told_and_follows_the_ring(coordinators, name, caplog):
    one, two = coordinators(b"1"), coordinators(b"2")
    first, second = one.join_partitioned_group(name), two.join_partitioned_group(name, partitions=8)
    assert first.is_exclusive and not second.is_exclusive and "may have two owners" in caplog.text
    two.run_watchers()
    assert {obj for obj in OBJECTS if second.members_for_object(obj) == {b"2"}} == _mine(second) != set()
    one.run_watchers()
    eventually(lambda: two.run_watchers() or one.run_watchers() or first.partition.pending == ())
    huge = coordinators(b"3").join_partitioned_group(name + "huge", partitions=2000)
    assert not huge.is_exclusive and _mine(huge) == set(OBJECTS)


def test_a_candidate_that_did_not_join_has_no_part(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    first = one.join_partitioned_group(name)
    two.watch_elected_as_leader(name, lambda _: None)
    two.run_watchers()
    assert len(one.client.members(name)) == 2
    eventually(lambda: one.run_watchers() or len(first.partition.members) == 2)
    assert _mine(first) == set(OBJECTS) and list(first.ring.nodes) == [b"1"]


def test_ids_that_are_no_text_share_as_well(coordinators, name):
    ids = [b"\xff\x01", b"\xfe", "ü".encode()]
    made = [coordinators(member) for member in ids]
    parts = [coordinator.join_partitioned_group(name) for coordinator in made]

    def is_shared():
        for coordinator in made:
            coordinator.run_watchers()
        return sum(len(_mine(part)) for part in parts) == 200

    eventually(is_shared)
    owners = parts[0].owners_for_object("x", replicas=3)
    assert sorted(owners) == sorted(ids)
    assert parts[1].owners_for_object("x", ignore_members=owners[:1], replicas=3) == owners[1:]


def test_nothing_belongs_to_a_coordinator_without_a_session_or_a_lease(coordinators, name):
    one = coordinators(b"1", timeout=1)
    part = one.join_partitioned_group(name)
    assert part.belongs_to_self("x")
    eventually(lambda: not part.belongs_to_self("x"), 3)
    one.heartbeat()
    eventually(lambda: one.heartbeat() and (one.run_watchers() or part.belongs_to_self("x")))
    one.stop()
    assert not part.belongs_to_self("x")


def test_a_forked_child_owns_nothing(coordinators, name):
    one = coordinators(b"1")
    part = one.join_partitioned_group(name)
    child = os.fork()
    if child == 0:
        os._exit(3 if part.belongs_to_self("x") else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert part.belongs_to_self("x")


def test_when_its_host_dies_a_share_is_taken_only_when_it_is_not_believed_in_any_more(coordinators, name, redis_url):
    first, second = (Host("--backend", redis_url, "--lease", "2s") for _ in range(2))
    try:
        one, two = (coordinators(host.socket.encode(), url=f"{host.tooz}?timeout=20") for host in (first, second))
        mine, theirs = one.join_partitioned_group(name), two.join_partitioned_group(name)
        eventually(lambda: one.run_watchers() or two.run_watchers() or len(_mine(mine)) + len(_mine(theirs)) == 200)
        kept = _mine(mine)
        assert kept
        first.kill()
        taken: set[str] = set()
        until = time.monotonic() + 20
        while len(taken) < 200 and time.monotonic() < until:
            two.heartbeat()
            two.run_watchers()
            taken = _mine(theirs)
            assert not _mine(mine) & taken
        assert len(taken) == 200
        first.start()

        def is_as_before() -> bool:
            for coordinator in (one, two):
                coordinator.heartbeat()
                coordinator.run_watchers()
            return _mine(mine) == kept

        eventually(is_as_before, 20)
        assert not _mine(theirs) & kept
    finally:
        first.close()
        second.close()
