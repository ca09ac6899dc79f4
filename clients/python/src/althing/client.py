"""One method per route of a host."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from althing import errors, limits
from althing.address import Address, addresses
from althing.info import (
    GroupInfo,
    GroupSummary,
    HostInfo,
    LeaderInfo,
    LockBroken,
    LockInfo,
    LockSummary,
    MemberInfo,
    OwnersInfo,
    PartitionInfo,
)
from althing.revision import Revision
from althing.wire import Ask, Stream, Wire, path

if TYPE_CHECKING:
    from althing.session import Session

BACKEND_HEADER = "althing-backend"


class Client:
    """Speaks to one host, or to the first that answers of several.

    ``url`` is ``unix:PATH``, ``http://HOST:PORT`` or ``https://HOST:PORT`` (several hosts separated by commas);
    without one it is ``$ALTHING_SERVER`` or the default socket. A host asks for a ``token`` on TCP; ``token_file``
    is looked at again from time to time, so that it may be replaced. ``ca_cert``, ``cert`` and ``key`` are
    files in PEM form for TLS; the host's name is always checked. ``backend`` picks one of several backends of the
    host. ``deadline`` is how long a request waits for its answer, in seconds. ``hosts`` stands in place of a URL.

    Safe to share among threads, and after a fork. Connects at the first request.

    Every method fails with what the host answered, as an :class:`~althing.Error`; with
    :class:`~althing.Unavailable` where no host answers; with :class:`~althing.NoAnswer` where it does not answer
    in time.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        backend: str | None = None,
        token: str | None = None,
        token_file: str | None = None,
        ca_cert: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        deadline: float = limits.CALL_DEADLINE,
        hosts: list[Address] | None = None,
    ) -> None:
        token_file = token_file or (None if token else os.environ.get("ALTHING_TOKEN_FILE"))
        self.backend = backend
        self.wire = Wire(
            hosts or addresses(url),
            token=_token(token, token_file),
            tls=lambda: _tls(ca_cert, cert, key),
            deadline=deadline,
        )

    def __repr__(self) -> str:
        return f"Client({str(self.wire.address)!r})"

    def close(self) -> None:
        """Closes idle connections. Sessions live on; end them first."""
        self.wire.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def session(
        self, ttl: float | None = None, *, renew: bool = True, drop_on_disconnect: bool = False
    ) -> Session:
        """Opens a session, which keeps itself alive in the background unless ``renew`` is false.

        It ends ``ttl`` seconds after its last renewal; with ``drop_on_disconnect`` also as soon as its event
        stream breaks, which is at once when this process dies.
        """
        from althing.session import Session

        return Session(self, ttl, renew=renew, drop_on_disconnect=drop_on_disconnect)

    # What is asked without a session.

    def host(self) -> HostInfo:
        """Describes the host itself."""
        return HostInfo.read(self.get("show host", "host"))

    def backends(self) -> list[dict[str, Any]]:
        """Lists the backends of the host, and what each promises."""
        return list(self.get("list drivers", "drivers"))

    def groups(self) -> list[GroupSummary]:
        """Lists the groups."""
        return [GroupSummary.read(group) for group in self.get("list groups", "groups")]

    def create_group(self, name: str, *, require: Mapping[str, Any] | None = None) -> None:
        """Creates a group that requires so much of its backend, such as ``{"level": "L1"}``."""
        body: dict[str, Any] = {"name": name}
        if require:
            body["require"] = dict(require)
        self.ask(Ask("create group", "POST", path("groups"), body))

    def delete_group(self, name: str) -> None:
        """Deletes a group that has no members."""
        self.ask(Ask("delete group", "DELETE", path("groups", name)))

    def group(self, name: str) -> GroupInfo:
        """Shows a group."""
        return GroupInfo.read(self.get("show group", "groups", name))

    def members(self, group: str, *, deadline: float | None = None) -> list[MemberInfo]:
        """Lists the members of a group, oldest first."""
        ask = Ask("list members", "GET", path("groups", group, "members"), repeatable=True)
        return [MemberInfo.read(member) for member in self.ask(ask, deadline=deadline)]

    def member(self, group: str, member: str) -> MemberInfo:
        """Shows a member of a group."""
        return MemberInfo.read(self.get("show member", "groups", group, "members", member))

    def leader(self, group: str) -> LeaderInfo | None:
        """Tells who leads a group."""
        leader = self.get("show leader", "groups", group, "leader")
        return LeaderInfo.read(leader) if leader else None

    def stand_down(self, group: str, *, successor: str | None = None) -> str:
        """Asks the leader of a group to stand down, in favour of ``successor`` if one is named.

        Returns ``stopped``, ``asked`` (it has not confirmed yet) or ``vacant`` (nobody led).
        """
        route = path("groups", group, "stand-down")
        if successor is not None:
            # The name takes one place in the query, escaped as in a path.
            route += "?successor=" + path(successor).rsplit("/", 1)[1]
        return str(self.ask(Ask("stand down", "POST", route)))

    def evict(self, group: str, member: str) -> str:
        """Makes a member leave a group, whoever joined it. Returns ``evicted``, or ``asked`` where it takes longer."""
        return str(self.ask(Ask("evict", "POST", path("groups", group, "members", member, "evict"))))

    def partition_group(self, group: str, *, algorithm: str = "ring", points: int = 32) -> PartitionInfo:
        """Lets the members of a group share objects, by ``ring`` or by ``rendezvous``.

        Asked again with the same settings it changes nothing; fails with :class:`~althing.Conflict` with others.
        """
        body = {"algorithm": algorithm, "points": points}
        ask = Ask("partition group", "PUT", path("groups", group, "partition"), body, repeatable=True)
        return PartitionInfo.read(self.ask(ask))

    def partition(self, group: str) -> PartitionInfo:
        """Shows what the members of a group share. Fails with :class:`~althing.NotFound` where they share nothing."""
        return PartitionInfo.read(self.get("show partition", "groups", group, "partition"))

    def owners(self, group: str, objects: Iterable[str], *, replicas: int = 1) -> OwnersInfo:
        """Tells whom objects of a partitioned group belong to, naming so many members for each."""
        body = {"objects": list(objects), "replicas": replicas}
        ask = Ask("show owners", "POST", path("groups", group, "owners"), body, repeatable=True)
        return OwnersInfo.read(self.ask(ask))

    def watch(self, group: str) -> GroupEvents:
        """Follows a group: first a snapshot, then each change in order."""
        return GroupEvents(self.stream(Ask("watch group", "GET", path("groups", group, "events"))))

    def locks(self) -> list[LockSummary]:
        """Lists the locks that are held or waited for."""
        return [LockSummary.read(lock) for lock in self.get("list locks", "locks")]

    def lock(self, name: str) -> LockInfo:
        """Shows who holds a lock and who waits for it."""
        return LockInfo.read(self.get("show lock", "locks", name))

    def break_lock(self, name: str, *, token: int | None = None, force: bool = False) -> LockBroken:
        """Takes a lock away from all who hold it, or from the one of that token.

        Each is asked to stop, and waited for a moment. With ``force`` nobody is asked: whoever holds it may go on
        to believe so for a moment.
        """
        body: dict[str, Any] = {"force": force}
        if token is not None:
            body["token"] = str(Revision(token))
        return LockBroken.read(self.ask(Ask("break lock", "POST", path("locks", name, "break"), body)))

    # The way to every route, also to those without a method here.

    def get(self, operation: str, *parts: str) -> Any:
        """Asks for what lies at a path."""
        return self.ask(Ask(operation, "GET", path(*parts), repeatable=True))

    def ask(self, ask: Ask, *, deadline: float | None = None) -> Any:
        """Sends a request and returns its answer, read as JSON."""
        return self.wire.exchange(self.addressed(ask), deadline=deadline)

    def stream(self, ask: Ask) -> Stream:
        """Sends a request whose answer is an event stream."""
        return self.wire.stream(self.addressed(ask))

    def addressed(self, ask: Ask) -> Ask:
        """Names the backend that a request is for."""
        if self.backend is not None:
            ask.headers = {**ask.headers, BACKEND_HEADER: self.backend}
        return ask


class GroupEvents:
    """Yields what happens in a group, each event as JSON, beginning with ``{"event": "snapshot", ...}``.

    Ends after ``deleted``; fails with :class:`~althing.Unavailable` when the connection breaks.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._stream)

    def close(self) -> None:
        """Ends it; safe from any thread."""
        self._stream.close()

    def __enter__(self) -> GroupEvents:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _token(token: str | None, token_file: str | None) -> Callable[[], str | None]:
    if token is not None or token_file is None:
        return lambda: token
    seen: tuple[float, str] | None = None

    def read() -> str:
        nonlocal seen
        now = time.monotonic()
        if seen is None or now - seen[0] > limits.TOKEN_LOOK:
            try:
                with open(token_file, encoding="utf-8") as file:
                    seen = now, file.read().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise errors.Denied(f"the token file {token_file} cannot be read: {error}") from None
        return seen[1]

    return read


def _tls(ca_cert: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_cert)
        if cert is not None:
            context.load_cert_chain(cert, key)
        return context
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(name for name in (ca_cert, cert, key) if name)
        raise errors.Invalid(f"no TLS with {files or 'the certificates of this machine'}: {error}") from None
