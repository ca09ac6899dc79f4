"""The arguments of `acquire` while another holds the lock: one contract on paper, nine in Tooz."""

from __future__ import annotations

from typing import Any

from stage import Outcome, Saw, Stage, call, row, seconds, until

WAIT = 1.0
"""How long the second one waits, in seconds."""


def second(stage: Stage, *args: Any, shared: bool = False, **kwargs: Any) -> Outcome:
    """Lets a second service ask for a lock that the first has, with these arguments."""
    name, first, other = stage.name("lock"), stage.service("a", timeout=30), stage.service("b", timeout=30)
    if shared:
        kwargs["shared"] = True
    assert first.acquire(name, **({"shared": True} if shared else {}))
    outcome = call(lambda: other.acquire(name, *args, **kwargs), within=3 * WAIT)
    first.release(name)
    return outcome


def gives_up(outcome: Outcome, after: float) -> Saw:
    """Says whether it was refused at the right time."""
    on_time = after - 0.2 <= outcome.took <= after + 0.9
    return Saw(str(outcome), right=outcome.value is False and outcome.error is None and on_time)


@row(
    "a held lock: acquire(blocking=1)",
    zookeeper="1.9",
    memcached="1.9",
    etcd="1.9",
    mysql="1.9",
    postgresql="1.9",
)
def a_number_of_seconds(stage: Stage) -> Saw:
    """The form that the decorators of Cinder, Manila and Masakari offer."""
    return gives_up(second(stage, blocking=WAIT), WAIT)


@row(
    "a held lock: acquire(True, timeout=1)",
    zookeeper="1.9",
    memcached="1.9",
    etcd="1.9",
    mysql="1.9",
    postgresql="1.9",
)
def a_timeout(stage: Stage) -> Saw:
    """The form that the documentation shows."""
    return gives_up(second(stage, True, timeout=int(WAIT)), WAIT)


@row(
    "a held lock: acquire(False, timeout=1)",
    zookeeper="1.9",
    memcached="1.9",
    mysql="1.9",
    postgresql="1.9",
    ipc="1.9",
)
def a_timeout_of_a_try(stage: Stage) -> Saw:
    """Not to wait is not to wait."""
    return gives_up(second(stage, False, timeout=int(WAIT)), 0)


@row("a free lock: acquire(timeout=1) with leases of 30 s", etcd="1.9")
def a_timeout_that_is_a_lease(stage: Stage) -> Saw:
    """How long to wait is taken for how long to hold."""
    name, first = stage.name("lock"), stage.service("a", heart=False, timeout=30)
    other = stage.service("b", timeout=30)
    assert first.acquire(name, True, timeout=int(WAIT))
    took = until(lambda: other.acquire(name, False), 6)
    return Saw("A holds it" if took is None else f"it lasts {seconds(took)}, B has it", right=took is None)


def _shared(stage: Stage) -> Saw:
    outcome = call(lambda: second(stage, False, shared=True).value)
    return Saw("both hold it" if outcome.value is True else str(outcome), right=outcome.value is True)


@row(
    "two acquire(shared=True)",
    zookeeper="2.0",
    redis="2.0",
    memcached="2.0",
    etcd="2.0",
    mysql="2.0",
    postgresql="2.0",
    ipc="2.0",
)
def shared_by_two(stage: Stage) -> Saw:
    """Only the file driver has shared locks."""
    return _shared(stage)
