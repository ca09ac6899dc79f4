"""What a resource does so that a holder who was overtaken writes nothing more. Agrees with Althing's Rust crate.

Whoever holds a lock or leads a group may be stopped between its last look and its write. Meanwhile its lease runs out,
the next one holds and writes, and then the old write arrives. No lock can prevent that; the resource can, because the
token of each holder is higher than that of every holder before: it remembers the highest token by which somebody wrote,
and refuses a lower one.

- Each write carries the token by which its writer holds. Without one it is refused.
- The token is compared, remembered and the data written *in one step*.
- An equal token is let in: one holder writes many times. So are all who share a lock or have permits of it.
- What was seen is kept as long as the data, on the same disk.
- All writers of a resource use tokens of the same lock, or the terms of the same group.

In SQL the step is ``UPDATE jobs SET state = %s, fence = %s WHERE name = %s AND fence <= %s``: no row was changed where
somebody has written by a higher token since.
"""

from __future__ import annotations

import hashlib
import heapq
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from althing import limits
from althing.errors import Conflict, Error
from althing.revision import Revision

#: The header of a request that carries the token of its sender: one to twenty decimal digits.
TOKEN: Final = "althing-token"
#: The header of an answer that names the highest token seen.
SEEN: Final = "althing-token-seen"

_DIGITS_MAX = 20
_TOKEN_MAX = (1 << 64) - 1


class Refused(Error):
    """Tells that a request was refused, and nothing was written. Answer with :attr:`status` and :attr:`headers`."""

    kind = "invalid"
    #: The status to answer with: 428, 400 or 412.
    status: int = 400

    @property
    def headers(self) -> dict[str, str]:
        """Returns the headers to answer with."""
        return {}


class Missing(Refused):
    """Tells that a request carries no token."""

    status = 428

    def __init__(self) -> None:
        super().__init__(f"a write needs the header `{TOKEN}`: the token of the lock or the term")


class Malformed(Refused):
    """Tells that a request carries something else than one token."""

    status = 400

    def __init__(self) -> None:
        super().__init__(f"`{TOKEN}` is not one token: one to twenty digits, and not zero")


class Stale(Refused, Conflict):
    """Tells that a write was refused, and did nothing: somebody has written by a higher token since."""

    kind = "conflict"
    status = 412

    def __init__(self, token: int, seen: int) -> None:
        super().__init__(
            f"token {int(token)} is stale: somebody has written by token {int(seen)} since",
            advice="The lock was lost. Stop, and lock it again before the next write",
        )
        #: The token of the refused write.
        self.token = Revision(token)
        #: The highest token that the resource has seen.
        self.seen = Revision(seen)

    @property
    def headers(self) -> dict[str, str]:
        """Returns the headers to answer with."""
        return {SEEN: str(self.seen)}

    def __reduce__(self) -> tuple[type[Stale], tuple[int, int]]:
        return type(self), (int(self.token), int(self.seen))


class Mark:
    """Remembers the highest token by which somebody wrote to one resource. The caller locks.

    For a resource that locks and stores its own data: keep :attr:`seen` in the same record, and call :meth:`admit` in
    the same transaction as the write.
    """

    def __init__(self, seen: int = 0) -> None:
        #: The highest token that was let in; 0 before anybody wrote.
        self.seen = Revision(seen)

    def admit(self, token: int) -> None:
        """Lets a token in that is as high as all before. Fails with :class:`Stale` on a lower one, changing nothing."""
        if token < self.seen:
            raise Stale(token, self.seen)
        self.seen = Revision(token)


class Fence:
    """Remembers the highest token that each resource has seen, for the threads of one process.

    Of more resources than it may remember it forgets the one with the lowest token, and from then on lets no token
    below that in for *any* resource that it does not remember. So it never lets a lower token in than a resource has
    seen; what it may do is refuse a holder of long standing who has not written yet. All tokens given to one fence must
    come from one namespace of one backend.

    It lives as long as the process. Where the data live longer, keep :meth:`all_seen` with them and begin with that.
    """

    def __init__(
        self, seen: Mapping[str, int] | None = None, *, floor: int = 0, resources_max: int = limits.FENCE_RESOURCES_MAX
    ) -> None:
        self._resources_max = max(1, resources_max)
        self._floor = Revision(floor)
        self._marks: dict[str, Revision] = {}
        # The same in the order of tokens, with former ones among them.
        self._order: list[tuple[Revision, str]] = []
        self._gate = threading.Lock()
        for resource, token in (seen or {}).items():
            self._set(_key(resource), Revision(token))

    def admit(self, resource: str, token: int) -> None:
        """Lets a token in that is as high as all that the resource has seen. Fails with :class:`Stale` on a lower one.

        This alone does not fence a write: between this and the write, a higher token may be let in on another thread.
        Use :meth:`admitted`, or hold a lock of your own over both.
        """
        with self.admitted(resource, token):
            pass

    @contextmanager
    def admitted(self, resource: str, token: int) -> Iterator[None]:
        """Lets a token in as :meth:`admit` does, and nobody else while the ``with`` block writes.

        Writes through one fence follow one another: give resources that are written to slowly fences of their own. The
        block must not ask this fence. A write that fails leaves its token remembered.
        """
        with self._gate:
            key = _key(resource)
            mark = Mark(self._marks.get(key, self._floor))
            mark.admit(token)
            if self._marks.get(key) != mark.seen:
                self._set(key, mark.seen)
            yield

    def seen(self, resource: str) -> Revision:
        """Returns the least token that the resource lets in: the highest it has seen, where it is remembered."""
        with self._gate:
            return self._marks.get(_key(resource), self._floor)

    def all_seen(self) -> tuple[dict[str, Revision], Revision]:
        """Returns the highest token of each resource, and the floor: the least for every other one."""
        with self._gate:
            return dict(self._marks), self._floor

    def _set(self, key: str, token: Revision) -> None:
        self._marks[key] = token
        heapq.heappush(self._order, (token, key))
        while len(self._marks) > self._resources_max:
            lowest, key = heapq.heappop(self._order)
            if self._marks.get(key) == lowest:
                del self._marks[key]
                self._floor = max(self._floor, lowest)
        if len(self._order) > 2 * len(self._marks) + 64:
            self._order = [(mark, key) for key, mark in self._marks.items()]
            heapq.heapify(self._order)


def token(values: Iterable[str | bytes]) -> Revision:
    """Reads the token of a request from all values of its header :data:`TOKEN`.

    Fails with :class:`Missing` or :class:`Malformed`. Several values are refused: whoever forwarded the request might
    have meant the other one. Zero is no token: nobody holds by it.
    """
    if isinstance(values, (str, bytes)):
        values = [values]
    found = [value.decode("latin-1") if isinstance(value, bytes) else value for value in values]
    if not found:
        raise Missing
    text = found[0]
    if len(found) > 1 or not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX):
        raise Malformed
    if not 0 < int(text) <= _TOKEN_MAX:
        raise Malformed
    return Revision(text)


def admit(fence: Fence, resource: str, values: Iterable[str | bytes]) -> Revision:
    """Decides on a request: reads its token and lets it in. Fails with what to answer, as :class:`Refused`.

    What was let in has to be written before another one is: see :meth:`Fence.admit`. Where that is one step, use
    :func:`token` and :meth:`Fence.admitted`.
    """
    read = token(values)
    fence.admit(resource, read)
    return read


def _key(resource: str) -> str:
    """Two that share a key have the higher one of their tokens, which refuses too much and never too little."""
    raw = resource.encode("utf-8", "surrogatepass")
    return resource if len(raw) <= limits.NAME_BYTES_MAX else f"sha256:{hashlib.sha256(raw).hexdigest()}"
