"""The examples, for real: processes that are killed and stopped, by Althing and by a driver of Tooz's own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from tooz import coordination

from conftest import Host, eventually

EXAMPLES = Path(__file__).parents[1] / "examples"


class Running:
    """An example in a process of its own, and what it says."""

    def __init__(self, example: str, *args: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(EXAMPLES / f"{example}.py"), *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def said(self, *words: str) -> list[list[str]]:
        """Returns the lines that begin so, in words."""
        lines = [line.split() for line in list(self.lines)]
        return [line for line in lines if line[: len(words)] == list(words)]

    def wait_for(self, *words: str, within: float = 20) -> list[str]:
        """Waits for such a line, and returns the last one."""
        eventually(lambda: self.said(*words), within)
        return self.said(*words)[-1]

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def send(self, sign: signal.Signals) -> None:
        self.process.send_signal(sign)

    def end(self) -> list[str]:
        """Waits for its end. Returns all that it said."""
        self.process.wait(30)
        self.reader.join(10)
        return self.lines

    def kill(self) -> list[str]:
        self.process.kill()
        return self.end()


Run = Callable[..., Running]


@pytest.fixture
def run() -> Iterator[Run]:
    running: list[Running] = []

    def begin(example: str, *args: Any) -> Running:
        running.append(Running(example, *map(str, args)))
        return running[-1]

    yield begin
    for each in running:
        each.kill()
        each.process.stdout.close()
        each.process.stdin.close()


@pytest.fixture(params=["althing", "file"])
def url(request: pytest.FixtureRequest, host: Host, tmp_path: Path) -> str:
    """A short lease by Althing, and Tooz's own driver for files."""
    return f"{host.tooz}?timeout=2" if request.param == "althing" else f"file://{tmp_path}/tooz?timeout=2"


@pytest.fixture
def althing_url(host: Host) -> str:
    return f"{host.tooz}?timeout=2"


# Cinder: a decorator.


def test_one_works_on_a_volume_at_a_time_and_the_next_goes_on_when_it_is_killed(run: Run, url, name):
    first = run("volume_lock", url, "1", name, "--steps", 10000)
    first.wait_for("step")
    second, other = run("volume_lock", url, "2", name, "--steps", 3), run("volume_lock", url, "3", name + "-2", "--steps", 1)
    assert other.end()[-1] == "done\n"
    first.wait_for("step", "20")
    assert second.lines == []
    token = first.said("step")[-1][2]
    first.kill()
    assert [line.split()[:2] for line in second.end()] == [["step", "0"], ["step", "1"], ["step", "2"], ["done"]]
    assert int(second.said("step")[0][2]) > int(token) or url.startswith("file")


def test_a_worker_that_stood_still_takes_no_further_step(run: Run, althing_url, name):
    first = run("volume_lock", althing_url, "1", name, "--steps", 10000)
    first.wait_for("step")
    first.send(signal.SIGSTOP)
    second = run("volume_lock", althing_url, "2", name, "--steps", 3)
    second.wait_for("step")
    steps = len(first.said("step"))
    first.send(signal.SIGCONT)
    assert first.end()[-1].startswith("lost") and len(first.said("step")) <= steps + 1
    assert int(second.said("step")[0][2]) > int(first.said("step")[-1][2])


def test_a_decorated_function_is_told_when_the_lock_is_not_free(coordinators, name, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import volume_lock

    one, two = coordinators(), coordinators()

    @volume_lock.synchronized(name + "-{volume}", one)
    def outer(volume: str) -> str:
        with pytest.raises(coordination.LockAcquireFailed):
            inner(volume)
        return inner("b") + volume

    @volume_lock.synchronized(name + "-{volume}", two, blocking=0.1)
    def inner(volume: str) -> str:
        return volume

    assert outer("a") == "ba" and inner("a") == "a"


# Ceilometer, Designate: a partitioned worker.


def _cycles(worker: Running) -> list[dict[str, Any]]:
    return [json.loads(line) for line in list(worker.lines) if line.startswith("{") and line.endswith("\n")]


def _last(workers: list[Running]) -> list[str]:
    shares = [(_cycles(worker) or [{"objects": []}])[-1]["objects"] for worker in workers]
    return sorted(obj for share in shares for obj in share)


def _overlaps(workers: list[Running]) -> list[tuple[Any, Any]]:
    cycles = [[cycle for cycle in _cycles(worker) if cycle["objects"]] for worker in workers]
    return [
        (a, b)
        for first, second in combinations(cycles, 2)
        for a in first
        for b in second
        if a["from"] < b["until"] and b["from"] < a["until"] and set(a["objects"]) & set(b["objects"])
    ]


def test_workers_share_all_objects_and_take_over_from_one_that_is_killed(run: Run, url, name):
    objects = sorted(f"object-{index}" for index in range(40))
    workers = [run("partitioned_worker", url, name, "1")]
    eventually(lambda: _last(workers) == objects, 20)
    workers += [run("partitioned_worker", url, name, member) for member in ("2", "3")]
    eventually(lambda: _last(workers) == objects and all(_last([worker]) for worker in workers), 20)
    workers[1].kill()
    rest = [workers[0], workers[2]]
    eventually(lambda: _last(rest) == objects, 20)
    for worker in rest:
        worker.kill()
    if not url.startswith("file"):
        assert _overlaps(workers) == []


def test_a_worker_that_stood_still_works_on_nothing_that_others_took(run: Run, althing_url, name):
    objects = sorted(f"object-{index}" for index in range(40))
    workers = [run("partitioned_worker", althing_url, name, member) for member in ("1", "2")]
    eventually(lambda: _last(workers) == objects and all(_last([worker]) for worker in workers), 20)
    workers[0].send(signal.SIGSTOP)
    eventually(lambda: _last(workers[1:]) == objects, 20)
    workers[0].send(signal.SIGCONT)
    count = len(_cycles(workers[0]))
    eventually(lambda: len(_cycles(workers[0])) > count + 5 and _last(workers[:1]) and _last(workers) == objects, 20)
    for worker in workers:
        worker.kill()
    # The cycle in which it was stopped is not one that it began: a service would look again before each step.
    longest = max(_cycles(workers[0]), key=lambda cycle: cycle["until"] - cycle["from"])
    assert [pair for pair in _overlaps(workers) if longest not in pair] == []


# ironic-inspector: a leader.


def test_the_next_leads_when_the_leader_is_killed(run: Run, althing_url, name):
    first = run("leader", althing_url, name, "1")
    token = int(first.wait_for("tick")[1])
    second = run("leader", althing_url, name, "2")
    first.kill()
    assert int(second.wait_for("elected")[1]) > token
    assert int(second.wait_for("tick")[1]) > token


def test_a_leader_that_stood_still_is_told_that_it_lost_and_does_nothing_more(run: Run, althing_url, client, name):
    first = run("leader", althing_url, name, "1")
    first.wait_for("tick")
    second = run("leader", althing_url, name, "2")
    eventually(lambda: sum(member.candidate for member in client.members(name)) == 2)
    first.send(signal.SIGSTOP)
    token = int(second.wait_for("tick")[1])
    ticks = len(first.said("tick"))
    first.send(signal.SIGCONT)
    first.wait_for("lost")
    second.kill()
    eventually(lambda: int(first.said("tick")[-1][1]) > token, 20)
    assert len(first.said("elected")) == 2
    # At most one tick was on its way when it was stopped.
    assert len([line for line in first.said("tick") if int(line[1]) < token]) <= ticks + 1


def test_a_leader_that_stands_down_is_told(run: Run, althing_url, client, name):
    first = run("leader", althing_url, name, "1")
    first.wait_for("tick")
    second = run("leader", althing_url, name, "2")
    eventually(lambda: sum(member.candidate for member in client.members(name)) == 2)
    assert client.stand_down(name) == "stopped"
    first.wait_for("lost")
    second.wait_for("tick")
    assert client.leader(name).member == "2"


def test_where_there_are_no_elections_nobody_assumes_to_lead(run: Run, tmp_path):
    assert run("leader", f"file://{tmp_path}", "g", "1").end() == ["no elections\n"]


# Nova: a service group.


def _status(run: Run, url: str, name: str, *hosts: str) -> dict[str, str]:
    lines = run("service_group", url, name, "list", *hosts).end()
    return dict(line.split() for line in lines)


def test_a_service_is_up_while_its_process_lives(run: Run, url, name):
    assert _status(run, url, name, "c1", "c2") == {"c1": "down", "c2": "down"}
    first, second = (run("service_group", url, name, "serve", host) for host in ("c1", "c2"))
    for service in (first, second):
        service.wait_for("serving")
    assert _status(run, url, name, "c1", "c2", "c3") == {"c1": "up", "c2": "up", "c3": "down"}
    first.kill()
    second.wait_for("down", "c1")
    assert _status(run, url, name, "c1", "c2") == {"c1": "down", "c2": "up"}
    again = run("service_group", url, name, "serve", "c1")
    again.wait_for("serving")
    second.wait_for("up", "c1")
    assert _status(run, url, name, "c1", "c2") == {"c1": "up", "c2": "up"}


def test_a_service_started_again_at_once_takes_the_place_of_its_ghost(run: Run, althing_url, name):
    run("service_group", althing_url + "0", name, "serve", "c1").wait_for("serving")
    with pytest.raises(coordination.MemberAlreadyExist):
        one = coordination.get_coordinator(althing_url, b"c1")
        one.start()
        one.join_group(name).get()
    one.stop()
    run("service_group", althing_url, name, "serve", "c1").wait_for("serving", within=10)


def test_a_disabled_service_stays_and_says_so_and_one_that_is_killed_is_down_at_once(run: Run, host, name):
    url = f"{host.tooz}?timeout=60&drop_on_disconnect=true"
    first, second = (run("service_group", url, name, "serve", each) for each in ("c1", "c2"))
    for service in (first, second):
        service.wait_for("serving")
    first.type("maintenance")
    eventually(lambda: _status(run, url, name, "c1", "c2") == {"c1": "disabled", "c2": "up"}, 20)
    first.type("")
    eventually(lambda: _status(run, url, name, "c1") == {"c1": "up"}, 20)
    first.kill()
    second.wait_for("down", "c1", within=5)
