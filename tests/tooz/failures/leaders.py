"""Who leads, and who believes so."""

from __future__ import annotations

import time

import tooz

from stage import LEASE, Saw, Service, Stage, must, row, seconds, until


def elected(stage: Stage) -> tuple[bytes, Service, Service]:
    """Lets A lead a group in which B stands too."""
    group = stage.name("group")
    first, second = stage.service("a"), stage.service("b")
    for service in (first, second):
        service.enter(group)
    first.stand(group)
    must(lambda: first.leads, "A leads", first)
    second.stand(group)
    second.look()
    return group, first, second


@row("{fault} while A leads", zookeeper="2.1", redis="1.15", memcached="2.3")
def two_leaders(stage: Stage) -> Saw:
    """Two leaders for ever: nothing takes the leadership away from A when another is elected.

    Both may lead for a moment, shorter than a lease: what only the server knows, A's host learns at its next
    renewal. Tokens tell the two apart.
    """
    group, first, second = elected(stage)
    before = first.elected
    stage.server.lose()
    begin = time.monotonic()
    both, told, over = 0.0, None, None
    while time.monotonic() - begin < 3 * LEASE:
        # B's turn comes first: else it is chance whom a forgetful server elects.
        second.look()
        first.look()
        now = time.monotonic() - begin
        if first.leads and second.leads:
            both = now
        if told is None and (not first.leads or first.elected > before):
            told = now
        if over is None and second.leads:
            over = now
        time.sleep(0.03)
    if first.leads and second.leads:
        return Saw(f"A and B both lead, {seconds(both)} on", right=False)
    if told is None and not second.leads:
        return Saw("A leads on, and alone", right=True)
    if told is None or first.leads == second.leads:
        return Saw(
            f"A {'leads' if first.leads else 'was told'}, B {'leads' if second.leads else 'does not'}",
            right=False,
        )
    who = "B leads" if second.leads else "A leads again"
    overlap = f", both led until {both:.2f} s" if both else ""
    return Saw(f"A told after {seconds(told)}, {who}{overlap}", right=both < LEASE)


@row("the leader stands still for longer than its lease", zookeeper="1.15", redis="1.15", memcached="1.15")
def a_paused_leader(stage: Stage) -> Saw:
    """Whoever was paused goes on as if it led, while another does."""
    group, first, second = stage.name("group"), stage.remote("a"), stage.service("b")
    first.do("enter", group)
    second.join(group)
    first.do("stand", group)
    must(lambda: first.do("leads"), "A leads", first)
    second.stand(group)
    second.look()
    first.pause()
    took = until(lambda: second.leads, 10 * LEASE, second)
    first.resume()
    leads = first.do("leads")
    time.sleep(LEASE)
    first.look()
    later = first.do("leads")
    if took is None:
        return Saw("B never leads", right=False)
    if leads or later:
        return Saw(f"B leads; A back: leads {leads}, {LEASE} s later {later}", right=False)
    return Saw(f"B leads after {seconds(took)}; A back: does not lead", right=True)


@row("A leaves the group that it leads", zookeeper="1.7", redis="1.7", memcached="1.7")
def a_leader_that_left(stage: Stage) -> Saw:
    """Leaving a group keeps its leadership."""
    group, first, second = elected(stage)
    first.coordinator.leave_group(group).get()
    took = until(lambda: second.leads, 2 * LEASE, first, second)
    if took is None:
        return Saw("A, no member, keeps the leadership", right=False)
    return Saw(f"B leads after {seconds(took)}", right=not first.leads)


@row("A stops standing: unwatch_elected_as_leader", zookeeper="1.7", redis="1.7", memcached="1.7")
def a_leader_that_stands_no_more(stage: Stage) -> Saw:
    """Whoever no longer wants to hear of elections still leads, contrary to the tutorial."""
    group, first, second = elected(stage)
    for callback in list(first.coordinator._hooks_elected_leader[group]):
        first.coordinator.unwatch_elected_as_leader(group, callback)
    took = until(lambda: second.leads, 2 * LEASE, first, second)
    if took is None:
        return Saw("A keeps the leadership and hears nothing", right=False)
    return Saw(f"B leads after {seconds(took)}", right=not first.leads)


@row("unwatch_elected_as_leader of what was never watched", zookeeper="1.7", redis="1.7", memcached="1.7")
def a_leader_by_mistake(stage: Stage) -> Saw:
    """A failed call makes a silent candidate, which keeps all others from leading."""
    group = stage.name("group")
    first, second = stage.service("a"), stage.service("b")
    first.join(group)
    second.join(group)
    try:
        first.coordinator.unwatch_elected_as_leader(group, print)
    except tooz.ToozError:
        pass
    first.look()
    first.look()
    second.stand(group)
    took = until(lambda: second.leads, 2 * LEASE, first, second)
    if took is None:
        return Saw("A leads unasked and B never does", right=False)
    return Saw(f"B leads after {seconds(took)}", right=True)


@row("standing in a group that does not exist", redis="1.7")
def a_leader_of_nothing(stage: Stage) -> Saw:
    """The group need not exist."""
    first = stage.service("a")
    first.stand(stage.name("group"))
    took = until(lambda: first.leads, 1.5, first)
    return Saw("nobody leads" if took is None else "A leads what does not exist", right=took is None)


@row("standing for election", ipc="1.7")
def an_election_without_end(stage: Stage) -> Saw:
    """Accepts the registration, and never elects."""
    group, first = stage.name("group"), stage.service("a")
    first.coordinator.create_group(group).get()
    first.stand(group)
    took = until(lambda: first.leads, 2, first)
    return Saw(
        "taken, and nobody ever leads" if took is None else f"A leads after {seconds(took)}", took is not None
    )


@row("A locks the name leader_of_<group>", redis="2.2")
def a_lock_named_like_a_leadership(stage: Stage) -> Saw:
    """A lock of an application collides with an election."""
    group = stage.name("group")
    first, second = stage.service("a"), stage.service("b")
    second.join(group)
    assert first.acquire(b"leader_of_" + group, blocking=False)
    second.stand(group)
    took = until(lambda: second.leads, 2 * LEASE, second)
    return Saw("B can never lead" if took is None else f"B leads after {seconds(took)}", took is not None)
