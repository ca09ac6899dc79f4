"""Times calls of Tooz on a backend, by its own driver or by ours, for `cargo xtask bench --backend` to set side by side.

Usage: tooz_peer.py URL

The same code runs by either driver: the URL says which. It connects when something is asked of it first. Each line of the
input is a figure and how often to take it, such as `lock 100`. The answer is one line of JSON:
`{"samples": [0.00012, ...]}` in seconds, `{"none": "why"}` where the driver of the URL has nothing of the kind, or
`{"failed": "why"}`. The process ends with its input.
"""

from __future__ import annotations

import functools
import json
import logging
import multiprocessing
import random
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import tooz
from tooz import coordination
from tooz.coordination import CoordinationDriver
from tooz.locking import Lock

SIZE = 20
"""How many members the group has whose members are asked for."""

HOLD = (0.02, 0.5)
"""For how long a lock is held at least and at most that another process waits for, in seconds: one that looks for it time
after time is met at any moment of its pause."""

DEADLINE = 2
"""How long a server that died or hangs may keep a coordinator waiting, as the coordinator is told, in seconds."""


def started(url: str, start_heart: bool = False) -> CoordinationDriver:
    """Connects as a member that nobody else is."""
    coordinator = coordination.get_coordinator(url, uuid.uuid4().hex.encode())
    coordinator.start(start_heart)
    return coordinator


def deadline_of(url: str) -> str:
    """Returns the option that bounds how long one request may take. Tooz has one for that and for leases."""
    return "request_timeout" if url.startswith("althing") else "timeout"


def timed(work: Callable[[], object]) -> float:
    """Returns how long some work took."""
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


class Peer:
    """Coordinators of one backend, and what was made with them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.coordinators: list[CoordinationDriver] = []
        self.groups: dict[str, bytes] = {}
        self.heard: list[float] = []
        self.writer: Connection | None = None
        self.waiter: Connection | None = None
        self.made: list[bytes] = []

    @functools.cached_property
    def first(self) -> CoordinationDriver:
        """Returns the coordinator that is timed."""
        self.coordinators.append(started(self.url))
        return self.coordinators[-1]

    @functools.cached_property
    def lock(self) -> Lock:
        """Returns the lock whose requests are counted."""
        return self.first.get_lock(b"counted")

    def answer(self, figure: str, rounds: int) -> dict[str, object]:
        """Takes a figure so often."""
        figures: dict[str, Callable[[], float]] = {
            "beat": self.beat,
            "lock": self.take_lock,
            "acquire": lambda: timed(self.lock.acquire),
            "release": lambda: timed(self.lock.release),
            "join": self.join,
            "members": self.members,
            "change": self.change,
            "handoff": self.hand_off,
            "create": self.create,
            "remove": self.remove,
            "join-create": self.join_create,
            "stop": self.stop_one,
            "dead": lambda: self.dead(coordination.ToozConnectionError),
            "dead, by any error": lambda: self.dead(Exception),
        }
        try:
            return {"samples": [figures[figure]() for _ in range(rounds)]}
        except tooz.NotImplemented:
            return {"none": "not implemented"}
        except Exception as error:  # Whatever it is, whoever asked has to hear of it.
            return {"failed": repr(error)}

    def beat(self) -> float:
        """Renews what all coordinators hold, at least one. None has a heart of its own: that would beat into what is timed."""
        return timed(lambda: [coordinator.heartbeat() for coordinator in {self.first, *self.coordinators}])

    def take_lock(self) -> float:
        """Takes and releases a lock that nobody wants, found by its name each time as services do."""

        def work() -> None:
            lock = self.first.get_lock(b"free")
            assert lock.acquire() and lock.release()

        return timed(work)

    def join(self) -> float:
        """Joins and leaves a group in which one member stays."""
        group = self.group_of("join", 1)

        def work() -> None:
            self.first.join_group(group).get()
            self.first.leave_group(group).get()

        return timed(work)

    def members(self) -> float:
        """Asks for the members of a group."""
        group = self.group_of("members", SIZE)
        found: set[bytes] = set()
        took = timed(lambda: found.update(self.first.get_members(group).get()))
        assert len(found) == SIZE, found
        return took

    def change(self) -> float:
        """Lets another process join, and looks without pause until a watch tells of it."""
        group = self.group_of("change", 0)
        if self.writer is None:
            self.first.watch_join_group(group, lambda _: self.heard.append(time.monotonic()))
            self.writer = spawned(write, self.url, group)
        self.heard.clear()
        self.writer.send("join")
        while not self.heard:
            self.first.run_watchers()
        begin: float = self.writer.recv()
        self.writer.send("leave")
        self.writer.recv()
        self.first.run_watchers()
        return self.heard[0] - begin

    def hand_off(self) -> float:
        """Releases a lock that another process waits for. Returns the time from there until that one has it."""
        lock = self.first.get_lock(b"contended")
        if self.waiter is None:
            self.waiter = spawned(wait, self.url)
        assert lock.acquire()
        self.waiter.send("wait")
        self.waiter.recv()
        time.sleep(random.uniform(*HOLD))
        released = time.monotonic()
        assert lock.release()
        had: float = self.waiter.recv()
        return had - released

    def join_create(self) -> float:
        """Joins a group that there is not, and leaves nothing of it."""
        took = self.create()
        self.remove()
        return took

    def create(self) -> float:
        """Joins a group that there is not."""
        self.made.append(f"made-{uuid.uuid4().hex}".encode())
        return timed(lambda: self.first.join_group_create(self.made[-1]))

    def remove(self) -> float:
        """Leaves the group that was made last, and deletes it."""
        group = self.made.pop()

        def work() -> None:
            self.first.leave_group(group).get()
            self.first.delete_group(group).get()

        return timed(work)

    def stop_one(self) -> float:
        """Stops a coordinator that is a member of a group, had a lock, and beats by itself as those of services do."""
        coordinator = started(self.url, start_heart=True)
        group = f"stop-{uuid.uuid4().hex}".encode()
        coordinator.create_group(group).get()
        coordinator.join_group(group).get()
        lock = coordinator.get_lock(group)
        assert lock.acquire() and lock.release()
        return timed(coordinator.stop)

    def dead(self, error: type[Exception]) -> float:
        """Starts a coordinator whose server died or hangs, and tries a lock. Returns how long the longer of both kept it waiting
        until one said so, by an error of that kind."""
        deadline: dict[str, Any] = {deadline_of(self.url): DEADLINE}
        coordinator = coordination.get_coordinator(self.url, uuid.uuid4().hex.encode(), **deadline)
        calls: list[Callable[[], object]] = [
            coordinator.start,
            lambda: coordinator.get_lock(b"dead").acquire(blocking=False),
        ]
        took = 0.0
        for call in calls:
            begin = time.monotonic()
            try:
                call()
            except error:
                return max(took, time.monotonic() - begin)
            took = max(took, time.monotonic() - begin)
        raise AssertionError("a lock answers where there is no server")

    def group_of(self, name: str, size: int) -> bytes:
        """Returns a group of so many other members, made when it is first asked for."""
        if name not in self.groups:
            group = f"{name}-{uuid.uuid4().hex}".encode()
            self.first.create_group(group).get()
            for _ in range(size):
                self.coordinators.append(started(self.url))
                self.coordinators[-1].join_group(group).get()
            self.groups[name] = group
        return self.groups[name]

    def stop(self) -> None:
        """Ends all coordinators, at once: each takes its time."""
        for other in filter(None, [self.writer, self.waiter]):
            other.close()
        if not self.coordinators:
            return
        with ThreadPoolExecutor(len(self.coordinators)) as pool:
            list(pool.map(lambda coordinator: coordinator.stop(), self.coordinators))


def spawned(work: Callable[..., None], *given: object) -> Connection:
    """Starts a process that does some work when it is told to."""
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    processes.Process(target=work, args=(*given, theirs), daemon=True).start()
    theirs.close()
    ours.recv()
    return ours


def write(url: str, group: bytes, told: Connection) -> None:
    """Joins and leaves when told to, and says when it began to."""
    coordinator = started(url)
    told.send(time.monotonic())
    while True:
        try:
            word = told.recv()
        except EOFError:
            return coordinator.stop()
        begin = time.monotonic()
        (coordinator.join_group if word == "join" else coordinator.leave_group)(group).get()
        if word == "leave":
            coordinator.heartbeat()
        told.send(begin)


def wait(url: str, told: Connection) -> None:
    """Waits for a lock when told to, and says when it had it, once it was given back."""
    coordinator = started(url)
    lock = coordinator.get_lock(b"contended")
    told.send(time.monotonic())
    while True:
        try:
            told.recv()
        except EOFError:
            return coordinator.stop()
        coordinator.heartbeat()
        told.send(time.monotonic())
        assert lock.acquire()
        had = time.monotonic()
        assert lock.release()
        told.send(had)


def main() -> None:
    """Answers line by line. What goes wrong is in the answers, and nowhere else."""
    logging.disable()
    peer = Peer(sys.argv[1])
    for line in sys.stdin:
        figure, rounds = line.rsplit(maxsplit=1)
        print(json.dumps(peer.answer(figure, int(rounds))), flush=True)
    peer.stop()


if __name__ == "__main__":
    main()
