"""What scenarios are made of: coordinators as services have them, on either driver, and a row for each."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import tooz
from tooz import coordination

from servers import Server

LEASE = 2
"""How long members and locks last that nobody renews, in seconds, where a driver has such a thing."""
LOOK = 0.03
"""How often a service looks, in seconds: more often than any does, which is in favour of Tooz."""


@dataclass(frozen=True)
class Saw:
    """What a service sees, in one short phrase, and whether that is right."""

    what: str
    right: bool


Scenario = Callable[["Stage"], Saw]


@dataclass(frozen=True)
class Row:
    """A failure of Tooz: where it was described, by backend, and the scenario that shows it."""

    sections: dict[str, str]
    failure: str
    play: Scenario

    @property
    def name(self) -> str:
        """Returns the name of the scenario."""
        return self.play.__name__


ROWS: list[Row] = []


def row(failure: str, **sections: str) -> Callable[[Scenario], Scenario]:
    """Makes a scenario a row of the table, on each backend that is named with its section."""

    def add(play: Scenario) -> Scenario:
        named = {backend.replace("_", "-"): section for backend, section in sections.items()}
        ROWS.append(Row(named, failure, play))
        return play

    return add


def seconds(time_taken: float) -> str:
    """Returns a time as people write it."""
    return f"{time_taken:.1f} s"


class Service:
    """A service with one coordinator: it believes what that tells it, and asks for all that it can tell."""

    def __init__(self, url: str, member: bytes, heart: bool = True) -> None:
        # Drivers have more than Tooz says.
        self.coordinator: Any = coordination.get_coordinator(url, member)
        self.coordinator.start(start_heart=heart)
        self.member = member
        self.elected = 0
        self.locks: dict[bytes, Any] = {}
        self._led: set[bytes] = set()

    def join(self, group: bytes) -> None:
        """Joins a group, made where there is none."""
        try:
            self.coordinator.create_group(group).get()
        except coordination.GroupAlreadyExist:
            pass
        self.coordinator.join_group(group).get()

    def enter(self, group: bytes) -> None:
        """Joins a group by the call that makes it where there is none: no operator is needed to be back."""
        self.coordinator.join_group_create(group)

    def members(self, group: bytes) -> set[bytes]:
        """Returns who is in a group; nobody where there is none."""
        try:
            return set(self.coordinator.get_members(group).get())
        except coordination.GroupNotCreated:
            return set()

    def stand(self, group: bytes) -> None:
        """Stands for election. Only a driver that tells of a loss can take the leadership away again."""

        def won(_: object) -> None:
            self._led.add(group)
            self.elected += 1

        self.coordinator.watch_elected_as_leader(group, won)
        if hasattr(self.coordinator, "watch_leader_lost"):
            self.coordinator.watch_leader_lost(group, lambda _: self._led.discard(group))

    @property
    def leads(self) -> bool:
        """Tells whether this service believes that it leads."""
        is_leader = getattr(self.coordinator, "is_leader", lambda _: True)
        return any(is_leader(group) for group in list(self._led))

    def look(self) -> None:
        """Runs the watchers, as services do: what fails now is tried again."""
        try:
            self.coordinator.run_watchers()
        except Exception:
            pass

    def lock(self, name: bytes) -> Any:
        """Returns the one lock object that this service has of a name."""
        if name not in self.locks:
            self.locks[name] = self.coordinator.get_lock(name)
        return self.locks[name]

    def acquire(self, name: bytes, *args: Any, **kwargs: Any) -> bool:
        """Locks a name."""
        return bool(self.lock(name).acquire(*args, **kwargs))

    def release(self, name: bytes) -> bool:
        """Releases it."""
        return bool(self.lock(name).release())

    def holds(self, name: bytes) -> bool:
        """Tells whether this service believes that it has the lock."""
        return bool(self.lock(name).acquired)

    def owns(self, name: bytes) -> bool:
        """Tells whether the driver says so when it is asked to make sure."""
        return bool(self.lock(name).is_still_owner())

    def stop(self) -> None:
        """Ends, whatever became of its server."""
        try:
            self.coordinator.stop()
        except Exception:
            pass


class Remote:
    """A service in a process of its own, which can stand still."""

    def __init__(self, url: str, member: bytes, heart: bool = True) -> None:
        processes = multiprocessing.get_context("spawn")
        self._ours, theirs = processes.Pipe()
        self._process = processes.Process(target=serve, args=(theirs, url, member, heart), daemon=True)
        self._process.start()
        theirs.close()
        self.member = member
        self._ours.recv()

    def do(self, name: str, *args: Any) -> Any:
        """Has the service do something; an attribute is read."""
        self._ours.send((name, args))
        failed, answer = self._ours.recv()
        if failed:
            raise tooz.ToozError(answer)
        return answer

    def pause(self) -> None:
        """Stops the process where it is, with SIGSTOP."""
        os.kill(self._process.pid or 0, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        os.kill(self._process.pid or 0, signal.SIGCONT)

    def look(self) -> None:
        """Runs its watchers."""
        self.do("look")

    def stop(self) -> None:
        """Ends it."""
        self.resume()
        self._ours.close()
        self._process.join(5)
        self._process.kill()


def serve(told: Connection, url: str, member: bytes, heart: bool) -> None:
    """Is a service that does what it is told."""
    logging.disable(logging.CRITICAL)
    service = Service(url, member, heart)
    told.send(True)
    while True:
        try:
            name, args = told.recv()
        except EOFError:
            return service.stop()
        try:
            found = getattr(service, name)
            told.send((False, found(*args) if callable(found) else found))
        except Exception as error:
            told.send((True, repr(error)))


class Stage:
    """One scenario on one side: its services, names of its own, and the server for its faults."""

    _counter = itertools.count(1)

    def __init__(self, side: str, backend: str, urls: list[str], server: Server) -> None:
        self.side = side
        self.backend = backend
        self.urls = urls
        self.server = server
        self._ends: list[Callable[[], None]] = []

    def name(self, stem: str = "it") -> bytes:
        """Returns a name that nobody else has."""
        return f"{stem}-{os.getpid()}-{next(self._counter)}".encode()

    def url(self, place: int = 0, **options: object) -> str:
        """Returns the URL of one of the hosts of Althing, or of the server of Tooz."""
        url = self.urls[place % len(self.urls)]
        if not options and self.backend in ("mysql", "postgresql", "ipc") and self.side == "tooz":
            return url
        options.setdefault("timeout", LEASE)
        given = "&".join(f"{name}={value}" for name, value in options.items())
        return f"{url}{'&' if '?' in url else '?'}{given}"

    def service(self, member: str = "a", *, heart: bool = True, **options: object) -> Service:
        """Starts a service. That called `a` is at the first host, all others are at the second."""
        service = Service(self.url(int(member != "a"), **options), self.name(member), heart)
        self._ends.append(service.stop)
        return service

    def twin(self, service: Service, *, heart: bool = True) -> Service:
        """Starts a service with the id of another, such as the same one that was restarted."""
        twin = Service(self.url(), service.member, heart)
        self._ends.append(twin.stop)
        return twin

    def remote(self, member: str = "a", *, heart: bool = True, **options: object) -> Remote:
        """Starts one in a process of its own."""
        remote = Remote(self.url(int(member != "a"), **options), self.name(member), heart)
        self._ends.append(remote.stop)
        return remote

    def close(self) -> None:
        """Ends all services, at once: with Tooz each takes a second."""
        threads = [threading.Thread(target=end, daemon=True) for end in self._ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)


Looks = Service | Remote


def until(condition: Callable[[], object], within: float, *services: Looks) -> float | None:
    """Lets services look until something holds. Returns how long it took; `None` where it never did."""
    begin = time.monotonic()
    while time.monotonic() - begin < within:
        for service in services:
            service.look()
        try:
            if condition():
                return time.monotonic() - begin
        except tooz.ToozError:
            pass  # A service would ask again.
        time.sleep(LOOK)
    return None


def must(condition: Callable[[], object], what: str, *services: Looks) -> None:
    """Waits until something holds without which the scenario cannot be played."""
    if until(condition, 15, *services) is None:
        raise AssertionError(f"never: {what}")


@dataclass
class Outcome:
    """How a call ended: with a value, with an error, or not at all within the time."""

    took: float
    value: Any = None
    error: BaseException | None = None
    waits: bool = False

    def __str__(self) -> str:
        if self.waits:
            return f"still waits after {seconds(self.took)}"
        if isinstance(self.error, tooz.NotImplemented):
            return "not implemented"
        if self.error is not None:
            kind = type(self.error)
            is_its_own = isinstance(self.error, tooz.ToozError)
            return f"raises {'' if is_its_own else kind.__module__.split('.')[0] + '.'}{kind.__name__}"
        return f"{self.value} after {seconds(self.took)}"


def call(work: Callable[[], Any], within: float = 10) -> Outcome:
    """Makes a call, and waits for it no longer than that."""
    outcome = Outcome(within, waits=True)
    begin = time.monotonic()

    def run() -> None:
        try:
            value, error = work(), None
        except BaseException as raised:
            value, error = None, raised
        took = time.monotonic() - begin
        outcome.took, outcome.value, outcome.error, outcome.waits = took, value, error, False

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(within)
    if thread.is_alive():
        return Outcome(within, waits=True)
    return outcome
