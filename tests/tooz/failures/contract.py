"""What a driver offers, what it takes, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tooz
from tooz import coordination

from stage import LEASE, Saw, Stage, call, must, row, seconds


def _calls(stage: Stage) -> dict[str, Callable[[], Any]]:
    """Returns all calls that there are, each to be made after those before it."""
    first = stage.service("a", timeout=30)
    coordinator, group, name = first.coordinator, stage.name("group"), stage.name("lock")
    lock = coordinator.get_lock(name)

    def noted(_: object) -> None:
        """Is called by nobody who counts."""

    return {
        "create_group": lambda: coordinator.create_group(group).get(),
        "get_groups": lambda: coordinator.get_groups().get(),
        "join_group": lambda: coordinator.join_group(group, {"a": 1}).get(),
        "get_members": lambda: coordinator.get_members(group).get(),
        "get_member_capabilities": lambda: coordinator.get_member_capabilities(group, first.member).get(),
        "get_members_with_capabilities": lambda: coordinator.get_members_with_capabilities(group).get(),
        "get_member_info": lambda: coordinator.get_member_info(group, first.member).get(),
        "update_capabilities": lambda: coordinator.update_capabilities(group, {"a": 2}).get(),
        "watch_join_group": lambda: coordinator.watch_join_group(group, noted),
        "watch_leave_group": lambda: coordinator.watch_leave_group(group, noted),
        "watch_elected_as_leader": lambda: (
            coordinator.watch_elected_as_leader(group, noted),
            coordinator.run_watchers(),
        ),
        "get_leader": lambda: coordinator.get_leader(group).get(),
        "stand_down_group_leader": lambda: coordinator.stand_down_group_leader(group),
        "join_partitioned_group": lambda: stage.service("b").coordinator.join_partitioned_group(
            stage.name("group")
        ),
        "leave_group": lambda: coordinator.leave_group(group).get(),
        "delete_group": lambda: coordinator.delete_group(stage.name("none")).get(),
        "acquire": lambda: lock.acquire(),
        "is_still_owner": lambda: lock.is_still_owner(),
        "break_": lambda: lock.break_(),
        "acquire(shared)": lambda: stage.service("c").acquire(stage.name("lock"), shared=True),
    }


@row(
    "calls of the API that are not there",
    zookeeper="2.0",
    redis="2.0",
    memcached="2.0",
    etcd="2.0",
    file="2.0",
    ipc="2.0",
    mysql="2.0",
    postgresql="2.0",
)
def calls_that_are_missing(stage: Stage) -> Saw:
    """No driver of Tooz has the whole API. Whatever else a call answers, it is there."""
    calls = _calls(stage)
    missing = [name for name, make in calls.items() if isinstance(call(make).error, NotImplementedError)]
    few = f": {', '.join(missing)}" if 0 < len(missing) <= 2 else ""
    return Saw(f"{len(missing)} of {len(calls)}{few}"[:56], right=not missing)


@row("an option that is misspelt: lock_timout=5", redis="1.2", zookeeper="1.2", etcd="1.2", mysql="1.2")
def an_option_that_is_misspelt(stage: Stage) -> Saw:
    """Options that nobody knows are taken in silence."""
    begun = call(lambda: coordination.get_coordinator(stage.url(lock_timout=5), b"a"))
    refused = isinstance(begun.error, tooz.ToozError)
    return Saw(f"{begun}" if begun.error else "taken in silence", right=refused)


@row(
    "join_group_create where there is no group",
    redis="1.5",
    zookeeper="1.5",
    etcd="1.5",
    memcached="1.5",
    file="1.5",
)
def a_join_that_creates(stage: Stage) -> Saw:
    """A pause of one second stands between the creation and the join."""
    first = stage.service("a", timeout=30)
    done = call(lambda: first.coordinator.join_group_create(stage.name("group")))
    return Saw(
        f"{1000 * done.took:.0f} ms" if done.error is None else str(done),
        done.error is None and done.took < 0.9,
    )


@row("stop()", redis="1.3", etcd="1.3", memcached="1.3", file="1.3")
def a_stop(stage: Stage) -> Saw:
    """The executor is waited for, for a second."""
    first = stage.service("a", timeout=30)
    first.join(stage.name("group"))
    done = call(first.coordinator.stop)
    return Saw(
        f"{1000 * done.took:.0f} ms" if done.error is None else str(done),
        done.error is None and done.took < 0.9,
    )


@row("start() where nobody listens", etcd="1.3", redis="2.2")
def a_start_without_a_server(stage: Stage) -> Saw:
    """It raises what is no error of Tooz, or tries for a minute."""
    url = "althing://127.0.0.1:1" if stage.side == "althing" else f"{stage.server.url.scheme}://127.0.0.1:1"
    coordinator = coordination.get_coordinator(f"{url}?timeout={LEASE}", b"a")
    begun = call(coordinator.start, within=3 * LEASE)
    is_said = isinstance(begun.error, coordination.ToozConnectionError)
    return Saw(f"{begun} in {seconds(begun.took)}" if begun.error else str(begun), right=is_said)


@row("a heart that cannot beat for 3 leases", redis="1.3", etcd="1.3")
def a_heart_that_fails(stage: Stage) -> Saw:
    """However long beating has failed, nothing tells the service."""
    name, first = stage.name("lock"), stage.service("a")
    assert first.acquire(name)
    must(lambda: first.coordinator.heart.beats > 0, "a beat")
    told: list[object] = []
    if hasattr(first.coordinator, "on_lost"):
        first.coordinator.on_lost(told.append)

    def fails() -> float:
        raise coordination.ToozConnectionError("the server cannot be reached")

    first.coordinator.heartbeat = fails  # As if the network were cut between the service and the world.
    begin = time.monotonic()
    while time.monotonic() - begin < 3 * LEASE and first.holds(name):
        time.sleep(0.05)
    took = time.monotonic() - begin
    if first.holds(name):
        return Saw("the lock still says acquired", right=False)
    return Saw(f"not acquired after {seconds(took)}", right=True)
