"""Times Tooz on a backend, for `cargo xtask bench --backend` to set beside Althing.

Usage: tooz_peer.py URL

Each line of the input is a figure and how often to take it, such as `lock 100`. The answer is one line of JSON:
`{"samples": [0.00012, ...]}` in seconds, `{"none": "why"}` where the driver of the URL has nothing of the kind, or
`{"failed": "why"}`. The process ends with its input.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import tooz
from tooz import coordination
from tooz.coordination import CoordinationDriver

SIZE = 20
"""How many members the group has whose members are asked for."""


def started(url: str) -> CoordinationDriver:
    """Connects as a member that nobody else is."""
    coordinator = coordination.get_coordinator(url, uuid.uuid4().hex.encode())
    coordinator.start()
    return coordinator


def timed(work: Callable[[], object]) -> float:
    """Returns how long some work took."""
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


class Peer:
    """Coordinators of one backend, and what was made with them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.coordinators = [started(url)]
        self.first = self.coordinators[0]
        self.lock = self.first.get_lock(b"counted")
        self.groups: dict[str, bytes] = {}
        self.heard: list[float] = []
        self.writer: Connection | None = None

    def answer(self, figure: str, rounds: int) -> dict[str, object]:
        """Takes a figure so often."""
        figures = {
            "beat": self.beat,
            "lock": self.take_lock,
            "acquire": lambda: timed(self.lock.acquire),
            "release": lambda: timed(self.lock.release),
            "join": self.join,
            "members": self.members,
            "change": self.change,
        }
        try:
            return {"samples": [figures[figure]() for _ in range(rounds)]}
        except tooz.NotImplemented:
            return {"none": "not implemented"}
        except Exception as error:  # Whatever it is, whoever asked has to hear of it.
            return {"failed": repr(error)}

    def beat(self) -> float:
        """Renews what all coordinators hold. None has a heart of its own: that would beat into what is timed."""
        return timed(lambda: [coordinator.heartbeat() for coordinator in self.coordinators])

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
            self.writer = begin_writer(self.url, group)
        self.heard.clear()
        self.writer.send("join")
        while not self.heard:
            self.first.run_watchers()
        begin = self.writer.recv()
        self.writer.send("leave")
        self.writer.recv()
        self.first.run_watchers()
        return self.heard[0] - begin

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
        if self.writer is not None:
            self.writer.close()
        with ThreadPoolExecutor(len(self.coordinators)) as pool:
            list(pool.map(lambda coordinator: coordinator.stop(), self.coordinators))


def begin_writer(url: str, group: bytes) -> Connection:
    """Starts a process that joins and leaves a group when it is told to."""
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    processes.Process(target=write, args=(url, group, theirs), daemon=True).start()
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


def main() -> None:
    """Answers line by line."""
    peer = Peer(sys.argv[1])
    for line in sys.stdin:
        figure, rounds = line.split()
        print(json.dumps(peer.answer(figure, int(rounds))), flush=True)
    peer.stop()


if __name__ == "__main__":
    main()
