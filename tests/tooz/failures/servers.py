"""The servers on which both sides are played, and what is done to them. Each fault is the same for both."""

from __future__ import annotations

import json
import socket
import struct
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlparse

import pymemcache
import pymysql
import redis
from kazoo.client import KazooClient

_SUPER_SECRET = 0xB3415C00
_BITS = (1 << 48) - 1

FAULTS = {
    "redis": "FLUSHALL",
    "memcached": "flush_all",
    "etcd": "all leases revoked",
    "zookeeper": "sessions expired",
    "postgresql": "connections killed",
    "mysql": "connections killed",
}
"""What `Server.lose` does to each."""


class Server:
    """One server, by the URL that Tooz has of it."""

    def __init__(self, backend: str, url: str) -> None:
        self.backend = backend
        self.url = urlparse(url)
        self.host = self.url.hostname or "127.0.0.1"
        self.port = self.url.port or 0

    @property
    def fault(self) -> str:
        """Returns in words what `lose` does."""
        return FAULTS[self.backend]

    def lose(self) -> None:
        """Lets the server forget, or end, all that was held by whoever is connected."""
        {
            "redis": self._flush_redis,
            "memcached": self._flush_memcached,
            "etcd": self._revoke,
            "zookeeper": self._expire,
            "postgresql": self._kill_postgresql,
            "mysql": self._kill_mysql,
        }[self.backend]()

    def ask(self, what: str) -> None:
        """Asks whoever started the server for what only that can do, and waits until it is done."""
        print(json.dumps({"ask": what}), flush=True)
        sys.stdin.readline()

    def _flush_redis(self) -> None:
        redis.Redis(self.host, self.port).flushall()

    def _flush_memcached(self) -> None:
        pymemcache.Client((self.host, self.port)).flush_all(noreply=False)

    # etcd

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Asks an etcd by its gateway."""
        address = f"http://{self.host}:{self.port}/v3/{path}"
        with urllib.request.urlopen(address, json.dumps(body).encode(), timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def leases(self) -> list[str]:
        """Returns the leases that an etcd has."""
        return [lease["ID"] for lease in self.post("lease/leases", {}).get("leases", [])]

    def _revoke(self) -> None:
        for lease in self.leases():
            try:
                self.post("lease/revoke", {"ID": lease})
            except OSError:
                pass  # It ended by itself meanwhile.

    # ZooKeeper

    def _expire(self) -> None:
        """Ends each session that has an ephemeral node, as if its owner had been silent for too long."""
        hosts = f"{self.host}:{self.port}"
        client = KazooClient(hosts=hosts)
        client.start()
        assert client.client_id is not None
        own, password = client.client_id
        assert password_of(own) == password, "this ZooKeeper makes its passwords in another way"
        sessions = set(_owners(client, "/"))
        # Its owner may be quicker to take a session back than the server is to close it.
        while left := sessions & set(_owners(client, "/")):
            for session in left:
                self._end(session)
        client.stop()

    def _end(self, session: int) -> None:
        """Takes a session over and closes it at once, before its owner can take it back."""
        password = password_of(session)
        hello = struct.pack(">iqiqi16s?", 0, 0, 10_000, session, len(password), password, False)
        goodbye = struct.pack(">ii", 1, -11)
        with socket.create_connection((self.host, self.port), timeout=10) as line:
            line.sendall(b"".join(struct.pack(">i", len(message)) + message for message in (hello, goodbye)))
            while line.recv(4096):
                pass  # The server hangs up when it is done.

    # SQL

    def mysql(self, *statements: str) -> list[Any]:
        """Runs statements on a MariaDB, as its user."""
        user = self.url.username or ""
        connection = pymysql.connect(
            host=self.host, port=self.port, user=user, database=self.url.path.strip("/")
        )
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def _kill_mysql(self) -> None:
        mine = "select id from information_schema.processlist where id <> connection_id()"
        for (number,) in self.mysql(mine):
            try:
                self.mysql(f"kill {number}")
            except pymysql.err.Error:
                pass  # It ended by itself meanwhile.

    def _kill_postgresql(self) -> None:
        import psycopg2

        name = parse_qs(self.url.query)["dbname"][0]
        connection = psycopg2.connect(host=self.host, port=self.port, user=self.url.username, dbname=name)
        connection.autocommit = True
        others = "pid <> pg_backend_pid() and backend_type = 'client backend'"
        connection.cursor().execute(f"select pg_terminate_backend(pid) from pg_stat_activity where {others}")
        connection.close()


def _owners(client: KazooClient, path: str) -> Iterator[int]:
    """Goes through all nodes, and returns the sessions of those that end with one."""
    found = client.exists(path)
    if found is None:
        return
    if found.ephemeralOwner:
        yield found.ephemeralOwner
    for child in client.get_children(path):
        yield from _owners(client, f"{path.rstrip('/')}/{child}")


def password_of(session: int) -> bytes:
    """Returns the password of a session: what the generator of Java gives that is seeded with its id."""
    seed = ((session ^ _SUPER_SECRET) ^ 0x5DEECE66D) & _BITS
    password = b""
    while len(password) < 16:
        seed = (seed * 0x5DEECE66D + 0xB) & _BITS
        password += (seed >> 16).to_bytes(4, "little")
    return password
