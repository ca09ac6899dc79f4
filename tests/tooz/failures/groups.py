"""Who is a member, and who is shown as one."""

from __future__ import annotations

import time
from typing import Any

from tooz import coordination

from stage import LEASE, Saw, Service, Stage, call, must, row, seconds, until


@row(
    "a member stands still for longer than its lease",
    redis="2.2",
    memcached="1.15",
    etcd="1.15",
    zookeeper="1.15",
)
def a_paused_member(stage: Stage) -> Saw:
    """Whoever was evicted while it stood still never comes back, though its heart beats."""
    group, member, other = stage.name("group"), stage.remote("a"), stage.service("b")
    other.join(group)
    member.do("join", group)
    member.pause()
    gone = until(lambda: member.member not in other.members(group), 10 * LEASE)
    member.resume()
    if gone is None:
        return Saw("never evicted", right=False)
    back = until(lambda: member.member in other.members(group), 4 * LEASE, member)
    if back is None:
        return Saw(f"evicted; {4 * LEASE} s after it went on no member", right=False)
    return Saw(f"evicted; back {seconds(back)} after it went on", right=True)


@row("{fault}: is A still a member?", redis="1.15", memcached="2.3", etcd="2.4", zookeeper="2.1")
def a_lost_membership(stage: Stage) -> Saw:
    """Nobody is joined again, though heartbeats succeed."""
    group, first, second = stage.name("group"), stage.service("a"), stage.service("b")
    first.enter(group)
    second.enter(group)
    stage.server.lose()
    # Until the loss is there to be seen.
    until(lambda: first.member not in second.members(group), LEASE, first, second)
    back = until(lambda: {first.member, second.member} <= second.members(group), 4 * LEASE, first, second)
    if back is None:
        return Saw(f"gone, and not back in {4 * LEASE} s", right=False)
    return Saw(f"a member again after {seconds(back)}", right=True)


def led(stage: Stage) -> tuple[bytes, Service]:
    """Lets a member lead its group."""
    group, first = stage.name("group"), stage.service("a")
    first.join(group)
    first.stand(group)
    must(lambda: first.leads, "A leads", first)
    return group, first


@row("the members of a group after an election", zookeeper="2.1")
def a_member_that_is_none(stage: Stage) -> Saw:
    """The node of the election lies among the members."""
    group, first = led(stage)
    others = first.members(group) - {first.member}
    return Saw(f"A, and {sorted(others)}" if others else "A", right=not others)


@row("partitions of a group after an election", zookeeper="2.1")
def partitions_after_an_election(stage: Stage) -> Saw:
    """A node that is no member has no capabilities."""
    group, _ = led(stage)
    second = stage.service("b")
    joined = call(lambda: second.coordinator.join_partitioned_group(group))
    return Saw(
        "B joins" if joined.error is None and not joined.waits else str(joined), right=joined.error is None
    )


@row("deleting a group after an election", zookeeper="2.1")
def a_group_that_stays(stage: Stage) -> Saw:
    """What is left of an election keeps the group from being deleted, for ever."""
    group, first = led(stage)
    first.coordinator.leave_group(group).get()
    first.stop()
    second = stage.service("b")
    deleted = call(lambda: second.coordinator.delete_group(group).get())
    return Saw("deleted" if deleted.error is None else str(deleted), right=deleted.error is None)


@row("the groups there are, once there was a lock", zookeeper="2.1")
def locks_as_a_group(stage: Stage) -> Saw:
    """The node of the locks lies among the groups, and can be joined."""
    first = stage.service("a")
    assert first.acquire(stage.name("lock"))
    groups = set(first.coordinator.get_groups().get())
    if b"locks" not in groups:
        return Saw("no group is called locks", right=True)
    joined = call(lambda: first.coordinator.join_group(b"locks").get())
    return Saw(
        f"a group called locks; to join it: {'succeeds' if joined.error is None else joined}", right=False
    )


@row("a second service joins with the id of a member", redis="2.2")
def a_refused_join(stage: Stage) -> Saw:
    """A join that is refused has written already."""
    group, first = stage.name("group"), stage.service("a")
    first.coordinator.create_group(group).get()
    first.coordinator.join_group(group, {"of": "first"}).get()
    twin = stage.twin(first)
    joined = call(lambda: twin.coordinator.join_group(group, {"of": "second"}).get())
    refused = isinstance(joined.error, coordination.MemberAlreadyExist)
    found = first.coordinator.get_member_capabilities(group, first.member).get()
    return Saw(
        f"{'refused' if refused else joined}; capabilities: the {found['of']}'s", found == {"of": "first"}
    )


@row("the groups there are: one, with a member", etcd="2.4")
def members_as_groups(stage: Stage) -> Saw:
    """Members are listed as groups."""
    group, first = stage.name("group"), stage.service("a")
    first.join(group)
    mine = [name for name in first.coordinator.get_groups().get() if name.startswith(group)]
    return Saw(
        f"{len(mine)}" if len(mine) == 1 else f"{len(mine)}: also {mine[-1][len(group) :].decode()[:12]}…",
        len(mine) == 1,
    )


@row("the members of g, where there is a group g/sub", etcd="2.4")
def a_group_in_a_group(stage: Stage) -> Saw:
    """Names of groups reach into each other."""
    group, first, second = stage.name("group"), stage.service("a"), stage.service("b")
    first.join(group)
    second.join(group + b"/sub")
    others = first.members(group) - {first.member}
    return Saw(f"A, and {sorted(others)}"[:52] if others else "A", right=not others)


@row("a killed service starts again with its id", file="2.7")
def a_killed_member(stage: Stage) -> Saw:
    """A member that was killed is hidden once its time is over, and never removed."""
    group, first = stage.name("group"), stage.service("a", heart=False)
    first.join(group)
    other = stage.service("b")
    gone = until(lambda: first.member not in other.members(group), 4 * LEASE, other)
    again = stage.twin(first)
    joined = call(lambda: again.coordinator.join_group(group).get())
    said = "joins" if joined.error is None else str(joined)
    return Saw(
        f"{'not ' if gone is None else ''}shown as gone; then {said}",
        right=gone is not None and joined.error is None,
    )


@row("deleting the group of a killed member", file="2.7")
def the_group_of_a_killed_member(stage: Stage) -> Saw:
    """So the group is empty for all who look, and not for who deletes it."""
    group, first = stage.name("group"), stage.service("a", heart=False)
    first.join(group)
    other = stage.service("b")
    until(lambda: not other.members(group), 4 * LEASE, other)
    shown = other.members(group)
    deleted = call(lambda: other.coordinator.delete_group(group).get())
    said = "deleted" if deleted.error is None else str(deleted)
    return Saw(f"{len(shown)} members; {said}", right=deleted.error is None)


@row("another service stops", ipc="2.8")
def a_list_that_is_gone(stage: Stage) -> Saw:
    """Whoever stops first takes the list of groups away."""
    group, first, second = stage.name("group"), stage.service("a"), stage.service("b")
    first.coordinator.create_group(group).get()
    second.stop()
    third = stage.service("c")
    found = call(lambda: group in third.coordinator.get_groups().get())
    return Saw(
        "the group is there" if found.value is True else f"the group is there: {found}", found.value is True
    )


@row("B leaves and joins between two looks of A", redis="1.6", etcd="1.6", file="1.6")
def a_stay_that_was_missed(stage: Stage) -> Saw:
    """A member that restarted is the one that was there before."""
    group, first, second = stage.name("group"), stage.service("a"), stage.service("b")
    first.join(group)
    second.join(group)
    heard: list[Any] = []
    first.coordinator.watch_join_group(group, heard.append)
    first.coordinator.watch_leave_group(group, heard.append)
    first.look()
    heard.clear()
    second.coordinator.leave_group(group).get()
    second.coordinator.join_group(group).get()
    until(lambda: heard, 1, first)
    told = [type(event).__name__ for event in heard]
    return Saw("A is told nothing" if not told else "A is told: left, joined", right=len(told) == 2)


@row("one of two callbacks fails", redis="1.6", etcd="1.6", file="1.6")
def a_callback_that_fails(stage: Stage) -> Saw:
    """It keeps the other from being called, and the event comes again for ever."""
    group, first, second = stage.name("group"), stage.service("a"), stage.service("b")
    first.join(group)
    calls = {"first": 0, "second": 0}

    def fails(_: object) -> None:
        calls["first"] += 1
        raise ValueError("this callback fails")

    def counts(_: object) -> None:
        calls["second"] += 1

    first.coordinator.watch_join_group(group, fails)
    first.coordinator.watch_join_group(group, counts)
    second.join(group)
    until(lambda: calls["first"], 3, first)
    for _ in range(15):
        first.look()
        time.sleep(0.02)
    said = f"the other called {calls['second']}×, this one {calls['first']}×"
    return Saw(said, right=calls["second"] == 1 and calls["first"] < 10)
