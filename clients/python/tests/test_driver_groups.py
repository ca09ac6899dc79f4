"""Groups, watchers, elections and partitions by the driver, beyond what Tooz's own tests ask."""

from __future__ import annotations

import datetime
import functools
import os
import time

import pytest
import tooz
from tooz import coordination, partitioner

import althing
from tooz_althing import LeaderElected

from conftest import Host, eventually


def test_joining_a_group_that_is_missing_makes_it_in_one_request(coordinators, name, monkeypatch):
    coordinator = coordinators(b"me")
    asked = []
    exchange = althing.client.Wire.exchange

    def note(wire, ask, **how):
        asked.append(ask.operation)
        return exchange(wire, ask, **how)

    monkeypatch.setattr(althing.client.Wire, "exchange", note)
    coordinator.join_group_create(name)
    assert asked == ["join"]
    assert coordinator.get_members(name).get() == {b"me"}


@pytest.mark.parametrize("group", ["text", b"\xff\x00bin", "ü/..".encode(), b"base64:x"])
def test_any_bytes_are_ids(coordinators, name, group):
    group = (name + group).encode() if isinstance(group, str) else name.encode() + group
    one = coordinators(b"\xfe member")
    one.join_group_create(group, {"a": b"\xff"})
    assert group in one.get_groups().get()
    assert one.get_members_with_capabilities(group).get() == {b"\xfe member": {"a": b"\xff"}}
    for act in (lambda: one.create_group(group), lambda: one.join_group(group), lambda: one.delete_group(group)):
        with pytest.raises(tooz.ToozError):
            act().get()
    one.leave_group(group).get()
    one.delete_group(group).get()


def test_errors_of_bytes_that_are_no_text_are_errors_of_tooz(coordinators):
    one = coordinators(b"\xff")
    with pytest.raises(coordination.GroupNotCreated):
        one.get_members(b"\xff\xfe").get()
    with pytest.raises(coordination.WatchCallbackNotFound):
        one.unwatch_join_group(b"\xff\xfe", functools.partial(print))


def test_a_second_join_changes_nothing_and_is_refused(coordinators, name):
    one, twin = coordinators(b"m"), coordinators(b"m")
    one.join_group_create(name, {"n": 1})
    for coordinator in (one, twin):
        with pytest.raises(coordination.MemberAlreadyExist):
            coordinator.join_group(name, {"n": 2}).get()
    assert one.get_member_capabilities(name, b"m").get() == {"n": 1}


def test_updates_reach_everybody_and_only_for_members(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    one.join_group_create(name, {"n": 1})
    one.update_capabilities(name, {"n": 2, "when": datetime.datetime(2026, 1, 1)}).get()
    assert two.get_member_capabilities(name, b"1").get() == {"n": 2, "when": datetime.datetime(2026, 1, 1)}
    one.update_capabilities(name, None).get()
    assert two.get_member_capabilities(name, b"1").get() is None
    with pytest.raises(coordination.MemberNotJoined):
        two.update_capabilities(name, {}).get()
    info = two.get_member_info(name, b"1").get()
    now = datetime.datetime.now()
    assert now - datetime.timedelta(minutes=1) < info["created_at"] <= info["updated_at"] <= now


def test_calls_are_done_in_their_order_and_give_up_in_time(coordinators, own_host: Host, name):
    one = coordinators(b"1", url=own_host.tooz, request_timeout=5)
    one.create_group(name)
    one.join_group(name, {"n": 1})
    one.update_capabilities(name, {"n": 2})
    assert one.get_member_capabilities(name, b"1").get() == {"n": 2}
    own_host.pause()
    begun = time.monotonic()
    with pytest.raises(coordination.OperationTimedOut):
        one.get_members(name).get(timeout=0.2)
    assert time.monotonic() - begun < 1
    own_host.resume()
    assert one.get_members(name).get() == {b"1"}


def test_watchers_tell_a_member_that_came_back_between_two_runs(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    one.create_group(name).get()
    seen = []
    one.watch_join_group(name, seen.append)
    one.watch_leave_group(name, seen.append)
    two.join_group(name).get()
    assert one.run_watchers() == [None] and one.run_watchers() == []
    two.leave_group(name).get()
    two.join_group(name).get()
    one.run_watchers()
    kinds = [(type(event).__mro__[1], event.group_id, event.member_id) for event in seen]
    group = name.encode()
    assert kinds == [
        (coordination.MemberJoinedGroup, group, b"2"),
        (coordination.MemberLeftGroup, group, b"2"),
        (coordination.MemberJoinedGroup, group, b"2"),
    ]


def test_a_callback_that_fails_keeps_no_other_from_its_event_and_is_tried_again(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    one.create_group(name).get()
    failures, seen = [], []

    def fail(event):
        failures.append(event)
        raise KeyError("mine")

    one.watch_join_group(name, fail)
    one.watch_join_group(name, seen.append)
    two.join_group(name).get()
    for _ in range(3):
        with pytest.raises(KeyError):
            one.run_watchers()
    assert one.run_watchers() == [] and len(failures) == 3 and len(seen) == 1


def test_a_group_that_vanished_is_one_that_everybody_left(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    two.join_group_create(name)
    left = []
    one.watch_leave_group(name, left.append)
    two.leave_group(name).get()
    one.delete_group(name).get()
    one.run_watchers()
    assert [event.member_id for event in left] == [b"2"] and one.run_watchers() == []
    two.join_group_create(name)
    one.unwatch_leave_group(name, left.append)


def test_a_lost_session_joins_again_with_what_it_last_said(coordinators, name):
    one, two = coordinators(b"1", timeout=0.6), coordinators(b"2", keepalive=True)
    one.join_group_create(name, {"n": 1})
    one.update_capabilities(name, {"n": 2}).get()
    lost = []
    one.on_lost(lost.append)
    session = one.session()
    eventually(lambda: session.ended and lost, 5)
    eventually(lambda: two.get_members(name).get() == set())
    one.heartbeat()
    assert two.get_members_with_capabilities(name).get() == {b"1": {"n": 2}}
    one.leave_group(name).get()
    assert two.get_members(name).get() == set()


def test_one_that_is_kept_alive_comes_back_by_itself(coordinators, own_host: Host, name):
    one = coordinators(b"1", url=own_host.tooz, timeout=2, keepalive=True)
    assert not one.requires_beating
    lost = []
    one.on_lost(lost.append)
    one.join_group_create(name, {"n": 1})
    own_host.kill()
    own_host.start()
    two = coordinators(b"2", url=own_host.tooz)

    def is_there():
        try:
            return two.get_members_with_capabilities(name).get() == {b"1": {"n": 1}}
        except coordination.GroupNotCreated:
            return False

    eventually(is_there)
    assert lost


def test_an_evicted_member_does_not_come_back_by_itself(coordinators, name):
    one, twin = coordinators(b"m"), coordinators(b"m")
    removed = []
    one.on_removed(removed.append)
    one.join_group_create(name)
    twin.leave_group(name).get()
    eventually(lambda: one.session().stays() == [])
    eventually(lambda: removed)
    assert [(event.group_id, event.member_id) for event in removed] == [(name.encode(), b"m")]
    assert "evicted" in removed[0].reason
    one.heartbeat()
    one.run_watchers()
    assert one.get_members(name).get() == set()
    with pytest.raises(coordination.MemberNotJoined):
        one.leave_group(name).get()
    one.join_group(name).get()
    assert one.get_members(name).get() == {b"m"}


# Elections.


def test_only_who_has_a_callback_stands_for_election(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    one.join_group_create(name)
    two.join_group(name).get()
    one.run_watchers()
    two.run_watchers()
    assert one.get_leader(name).get() is None
    elected = []
    two.watch_elected_as_leader(name, elected.append)
    two.run_watchers()
    assert one.get_leader(name).get() == b"2" and two.is_leader(name) and not one.is_leader(name)
    assert [type(event) for event in elected] == [LeaderElected] and elected[0].token == two.leader_token(name)
    two.run_watchers()
    assert len(elected) == 1, "once per term"


def test_a_candidate_that_did_not_join_is_no_member(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    one.create_group(name).get()
    joined = []
    two.watch_join_group(name, joined.append)
    one.watch_elected_as_leader(name, lambda _: None)
    one.run_watchers()
    assert two.get_leader(name).get() == b"1"
    assert two.get_members(name).get() == set() and two.get_members_with_capabilities(name).get() == {}
    with pytest.raises(coordination.MemberNotJoined):
        two.get_member_capabilities(name, b"1").get()
    with pytest.raises(coordination.MemberNotJoined):
        one.leave_group(name).get()
    two.run_watchers()
    assert joined == []
    token = one.leader_token(name)
    one.join_group(name, {"n": 1}).get()
    two.run_watchers()
    assert [event.member_id for event in joined] == [b"1"]
    assert two.get_members_with_capabilities(name).get() == {b"1": {"n": 1}}
    assert one.leader_token(name) == token, "it leads on"


def test_without_its_callback_a_leader_resigns(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    one.join_group_create(name)
    lost = []

    def elected(_):
        pass

    for coordinator in (one, two):
        coordinator.watch_elected_as_leader(name, elected)
        coordinator.run_watchers()
    one.watch_leader_lost(name, lost.append)
    assert one.is_leader(name)
    one.unwatch_elected_as_leader(name, elected)
    assert not one.is_leader(name)
    eventually(lambda: two.is_leader(name))
    eventually(lambda: lost)
    assert one.get_members(name).get() == {b"1"}, "it is a member still"
    with pytest.raises(coordination.WatchCallbackNotFound):
        one.unwatch_elected_as_leader(name, elected)
    one.run_watchers()
    assert not one.is_leader(name), "a failed unwatch makes nobody a candidate"


def test_leaving_resigns_and_does_not_stand_again_by_itself(coordinators, name):
    one = coordinators(b"1")
    one.join_group_create(name)
    elected = []
    one.watch_elected_as_leader(name, elected.append)
    one.run_watchers()
    one.leave_group(name).get()
    one.run_watchers()
    assert one.get_leader(name).get() is None and not one.is_leader(name)
    one.join_group(name).get()
    one.run_watchers()
    assert one.is_leader(name) and len(elected) == 2


def test_a_loss_is_told_at_once_and_the_next_term_again(coordinators, name):
    one = coordinators(b"1", timeout=0.6)
    elected, lost = [], []
    one.join_group_create(name)
    one.watch_elected_as_leader(name, elected.append)
    one.watch_leader_lost(name, lost.append)
    one.run_watchers()
    eventually(lambda: lost, 5)
    assert not one.is_leader(name) and lost[0].token == elected[0].token
    eventually(lambda: one.session().ended)
    one.heartbeat()
    one.run_watchers()
    assert one.is_leader(name) and len(elected) == 2 and elected[1].token > elected[0].token


def test_standing_down_is_for_leaders_alone(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    one.create_group(name).get()
    for coordinator in (one, two):
        coordinator.watch_elected_as_leader(name, lambda _: None)
        coordinator.run_watchers()
    assert two.stand_down_group_leader(name) is False
    assert one.stand_down_group_leader(name) is True
    assert not one.is_leader(name)
    eventually(lambda: two.is_leader(name))


def test_an_election_in_a_missing_group_keeps_nothing_from_running(coordinators, name):
    one = coordinators(b"1")
    one.watch_elected_as_leader(name, lambda _: None)
    assert one.run_watchers() == []
    one.create_group(name).get()
    one.run_watchers()
    assert one.is_leader(name)


# Partitions.


def test_a_partitioner_follows_weights_and_never_wedges(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    mine = one.join_partitioned_group(name, weight=1)
    theirs = two.join_partitioned_group(name, weight=4)
    assert isinstance(mine, partitioner.Partitioner)
    one.run_watchers()
    assert mine.ring.nodes == theirs.ring.nodes == {b"1": 1, b"2": 4}
    two.update_capabilities(name, {"weight": 2}).get()
    one.run_watchers()
    assert mine.ring.nodes == {b"1": 1, b"2": 2} and len(mine.ring) == 96
    for raw in ({"weight": "heavy"}, {"weight": -3}, None, [1], {"weight": 10**12}):
        two.update_capabilities(name, raw).get()
        one.run_watchers()
        assert mine.members_for_object("x", replicas=5)
    for _ in range(3):
        two.leave_group(name).get()
        one.run_watchers()
        assert mine.ring.nodes == {b"1": 1}
        two.join_group(name).get()
        two.leave_group(name).get()
        two.join_group(name).get()
        one.run_watchers()
        assert mine.ring.nodes == {b"1": 1, b"2": 1}


def test_owners_come_in_their_order_and_agree_with_tooz(coordinators, name):
    one, two, three = (coordinators(member) for member in (b"1", b"2", b"3"))
    for coordinator in (two, three, one):
        mine = coordinator.join_partitioned_group(name)
    for obj in map(str, range(50)):
        owners = mine.owners_for_object(obj, replicas=2)
        assert set(owners) == mine.members_for_object(obj, replicas=2)
        assert mine.members_for_object(obj) == {owners[0]}
        assert mine.owners_for_object(obj, ignore_members={owners[0]}) == owners[1:]


def test_leaving_a_partitioned_group_stops_its_partitioner(coordinators, name):
    one, two = coordinators(b"1"), coordinators(b"2")
    mine = one.join_partitioned_group(name)
    other = two.join_partitioned_group(name)
    one.run_watchers()
    two.leave_partitioned_group(other)
    one.run_watchers()
    assert list(mine.ring.nodes) == [b"1"]
    mine.stop()
    mine.stop()
    assert one.run_watchers() == []


def test_a_forked_child_is_no_member_and_its_end_removes_nobody(coordinators, name):
    one = coordinators(b"1")
    one.join_group_create(name)
    child = os.fork()
    if child == 0:
        code = 2
        try:
            with pytest.raises(coordination.MemberAlreadyExist):
                one.join_group(name).get()
            one.run_watchers()
            one.stop()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert one.get_members(name).get() == {b"1"}


def test_ephemeral_groups_go_with_their_last_member(coordinators, name):
    one = coordinators(b"1", ephemeral=True)
    one.join_group_create(name)
    one.leave_group(name).get()
    eventually(lambda: name.encode() not in one.get_groups().get())


def test_namespaces_show_their_own_groups_alone(coordinators, name):
    one, two = coordinators(namespace=name), coordinators(namespace=name + "2")
    one.create_group("g").get()
    assert one.get_groups().get() == [b"g"] and two.get_groups().get() == []


def test_what_the_backend_must_promise_is_required(coordinators, name):
    with pytest.raises(tooz.NotImplemented):
        coordinators(level="L2").join_group_create(name)
    with pytest.raises(tooz.NotImplemented):
        coordinators(level="L2").get_lock(name).acquire()


def test_when_its_host_dies_a_member_goes_on_by_the_next_one(coordinators, name, tmp_path):
    """Two hosts share a directory; the URL names both."""
    backend = f"file://{tmp_path}/shared"
    first, second = (Host("--backend", backend, "--lease", "2s", token="sesame") for _ in range(2))
    try:
        url = f"althing://127.0.0.1:{first.port},127.0.0.1:{second.port}?timeout=6&token_file={second.token_file}"
        one = coordinators(b"1", url=url)
        two = coordinators(b"2", url=f"{second.tooz}?keepalive=true")
        one.join_group_create(name, {"n": 1})
        lock, lost = one.get_lock(name), []
        lock.on_lost(lost.append)
        lock.acquire()
        token = lock.token
        first.kill()
        one.heartbeat()
        assert two.get_members_with_capabilities(name).get()[b"1"] == {"n": 1}
        eventually(lambda: lost == [lock])
        assert not lock.acquired
        assert two.get_lock(name).acquire(10), "the dead host's lease ran out"
        assert lock.acquire(False) is False
        two.get_lock(name).break_()
        assert lock.acquire(5) and lock.token > token
    finally:
        first.close()
        second.close()
