"""Locks, semaphores and what one request locked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from althing import limits
from althing.errors import Invalid, NoAnswer
from althing.info import LockHold
from althing.revision import Revision

if TYPE_CHECKING:
    from althing.session import Session

_LOG = logging.getLogger("althing")


class Grant:
    """Holds what one request locked: one name, or several at once.

    The contract: while :meth:`is_held` is true here, no other holder's is, as long as the backend keeps what it
    promises. It becomes false at the session's deadline, whatever the network or this process did meanwhile, and
    when the host says stop. It never becomes true again.
    """

    def __init__(self, session: Session, locks: Sequence[LockHold], lock_id: str) -> None:
        self.session = session
        #: What is held, in the order of the names' bytes.
        self.locks = tuple(locks)
        self.id = lock_id
        #: Why it was lost, once it was.
        self.lost: str | None = None
        #: Who is to be told of that. The session keeps this.
        self.callbacks: list[Callable[[Grant], object]] = []

    def __repr__(self) -> str:
        names = ", ".join(lock.lock for lock in self.locks)
        return f"<Grant of {names} by {self.token}, {'held' if self.is_held() else 'not held'}>"

    @property
    def token(self) -> Revision:
        """Returns the fencing token: of several names, the highest."""
        return max(lock.token for lock in self.locks)

    @property
    def tokens(self) -> dict[str, Revision]:
        """Returns the fencing token of each name."""
        return {lock.lock: lock.token for lock in self.locks}

    def is_held(self) -> bool:
        """Tells whether all of it is held now. Asks nobody."""
        return self.lost is None and self.session.holds(self.locks)

    def release(self) -> bool:
        """Gives it back. Returns whether it was held until then; false as well when it was released before.

        Where no host answers, this fails, and the session releases it as soon as it is renewed again.
        """
        return self.session.release(self)

    def on_lost(self, callback: Callable[[Grant], object]) -> None:
        """Calls ``callback`` from a thread of the session when it is lost; at once, if it was."""
        self.session.on_grant_lost(self, callback)


class Lock:
    """Locks a name, or several at once, alone, shared or with a number of permits.

    Obtained with :meth:`Session.lock`. Not re-entrant. Waits in the order of arrival; nobody overtakes.
    """

    def __init__(
        self,
        session: Session,
        names: Sequence[str],
        *,
        mode: str = "exclusive",
        limit: int | None = None,
        label: str | None = None,
    ) -> None:
        self.session = session
        self.names = tuple(names)
        self.mode = mode
        self.limit = limit
        self.label = label
        self._grant: Grant | None = None
        self._callbacks: list[Callable[[Lock], object]] = []

    def acquire(self, timeout: float | None = None) -> bool:
        """Waits for it, for at most ``timeout`` seconds; 0 only tries, without one it waits for ever.

        Returns whether it is held. Cancelled or failed, it leaves nothing behind.
        """
        if self.is_held():
            raise Invalid(f"{', '.join(self.names)} is held by this object already")
        grant = self.session.acquire(
            self.names, mode=self.mode, limit=self.limit, wait=timeout, label=self.label
        )
        if grant is None:
            return False
        self._grant = grant
        grant.on_lost(self._tell)
        return True

    def release(self) -> bool:
        """Gives it back. Returns whether it was held until then."""
        grant, self._grant = self._grant, None
        return grant is not None and grant.release()

    def is_held(self) -> bool:
        """Tells whether it is held now. Asks nobody; false once it was lost."""
        grant = self._grant
        return grant is not None and grant.is_held()

    @property
    def token(self) -> Revision | None:
        """Returns the fencing token while it is held. Give it along wherever a step can be fenced."""
        grant = self._grant
        return grant.token if grant is not None and grant.is_held() else None

    def on_lost(self, callback: Callable[[Lock], object]) -> None:
        """Calls ``callback`` from a thread of the session each time it is lost."""
        self._callbacks.append(callback)

    def _tell(self, _: Grant) -> None:
        for callback in list(self._callbacks):
            self.session.call_later(callback, self)

    def __enter__(self) -> Lock:
        if not self.acquire():
            raise NoAnswer(f"{', '.join(self.names)} was not granted")
        return self

    def __exit__(self, *_: object) -> None:
        if not self.release():
            _LOG.warning("the lock %s was lost before it was released", ", ".join(self.names))


def label_of(text: str) -> str:
    """Makes of a text what a host takes as a label: short, and without control characters."""
    plain = "".join(sign if sign.isprintable() else "?" for sign in text)
    return plain.encode("utf-8", "replace")[: limits.LABEL_BYTES_MAX].decode("utf-8", "ignore")
