"""Hosts for tests: real ones, each on a socket and a port of its own, in memory."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tooz import coordination

import althing
from tooz_althing import AlthingDriver

BINARY = os.environ.get("ALTHING_BIN", "althing")


class Host:
    """A host of its own process."""

    def __init__(self, *options: str, token: str | None = None) -> None:
        # Not below pytest's folder: the path of a socket is short.
        self.folder = Path(tempfile.mkdtemp(prefix="althing-py-"))
        self.socket = str(self.folder / "a.sock")
        self.token_file = str(self.folder / "state" / "token")
        self.port = free_port()
        self.options = options
        if token is not None:
            (self.folder / "state").mkdir(mode=0o700)
            with open(os.open(self.token_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(token)
        self.start()

    @property
    def url(self) -> str:
        return f"unix:{self.socket}"

    @property
    def tooz(self) -> str:
        return f"althing://{self.socket}"

    def start(self) -> None:
        command = [BINARY, "serve", "--socket", self.socket, "--state", str(self.folder / "state")]
        command += ["--listen", f"127.0.0.1:{self.port}", *self.options]
        self.log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(b"ready"), (self.folder / "log").read_text()

    def pause(self) -> None:
        """Has it stand still. Returns when all of its threads do."""
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        eventually(lambda: all(_state(task) in "Tt" for task in tasks.iterdir()))

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.resume()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def eventually(predicate: Callable[[], object], within: float = 10.0) -> None:
    """Waits until something is true, and fails if it is not in time."""
    until = time.monotonic() + within
    while not predicate():
        assert time.monotonic() < until, "it did not become true in time"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """A host for all tests that leave it as it is."""
    host = Host()
    yield host
    host.close()


@pytest.fixture
def own_host() -> Iterator[Host]:
    """A host that a test may pause and kill."""
    host = Host("--lease", "2s")
    yield host
    host.close()


@pytest.fixture
def client(host: Host) -> Iterator[althing.Client]:
    with althing.Client(host.url) as client:
        yield client


@pytest.fixture
def session(client: althing.Client) -> Iterator[althing.Session]:
    with client.session() as session:
        yield session


@pytest.fixture
def other(client: althing.Client) -> Iterator[althing.Session]:
    with client.session() as session:
        yield session


@pytest.fixture
def name() -> str:
    """A name that no other test has."""
    return os.urandom(8).hex()


@pytest.fixture
def coordinators(host: Host) -> Iterator[Callable[..., AlthingDriver]]:
    """Makes started coordinators of the shared host, or of the one at ``url``, and stops them in the end."""
    made: list[AlthingDriver] = []

    def make(member: str | bytes | None = None, url: str = host.tooz, **options: Any) -> AlthingDriver:
        member = os.urandom(8).hex().encode() if member is None else member
        coordinator = coordination.get_coordinator(url, member, **options)
        coordinator.start()
        made.append(coordinator)
        return coordinator

    yield make
    for coordinator in made:
        if coordinator.is_started:
            coordinator.stop()


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """A private Redis."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server")
    port = free_port()
    command = [program, "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    eventually(lambda: _answers(port))
    yield f"redis://127.0.0.1:{port}/0"
    process.kill()
    process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
