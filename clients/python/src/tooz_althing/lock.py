"""Locks by the one contract of Tooz, and with what it lacks: truth about a loss, and fencing tokens."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tooz
from tooz import locking

from althing import Grant, Revision
from tooz_althing import names

if TYPE_CHECKING:
    from tooz_althing.driver import AlthingDriver

_LOG = logging.getLogger("tooz_althing")


class AlthingLock(locking.Lock):
    """Locks a name, alone or shared. Waits in the order of arrival; nobody overtakes.

    Shared, it may be acquired again by the same object, as often as it is then released. Alone it is not re-entrant.
    """

    def __init__(self, coordinator: AlthingDriver, name: bytes) -> None:
        super().__init__(name)
        self._coordinator = coordinator
        self._key = names.to_id(name)
        self._guard = threading.Lock()
        self._taken: list[_Taken] = []
        self._callbacks: list[Callable[[AlthingLock], Any]] = []
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<AlthingLock {names.shown(self._key)}: {'held' if self.acquired else 'not held'}>"

    def acquire(
        self,
        blocking: bool | float = True,
        shared: bool = False,
        timeout: float | None = None,
    ) -> bool:
        """Locks it. Returns whether it was locked.

        ``blocking`` is true (wait, at most ``timeout`` seconds where that is given), false (only try) or the number
        of seconds to wait at most. Fails with ``ToozConnectionError`` when the host cannot be reached; nothing is
        held then.
        """
        wait = _wait(blocking, timeout)
        self._adopt()
        with self._guard:
            self._taken = [taken for taken in self._taken if taken.grant.is_held()]
            for taken in self._taken:
                if shared and taken.shared:
                    taken.count += 1
                    return True
                if wait == 0 and not taken.shared:
                    return False
        grant = self._coordinator.take(self._key, shared, wait)
        if grant is None:
            return False
        with self._guard:
            self._taken.append(_Taken(grant, shared))
        grant.on_lost(self._lose)
        return True

    def release(self) -> bool:
        """Gives it back. Returns whether it was held until then."""
        self._adopt()
        with self._guard:
            if not self._taken:
                return False
            taken = self._taken[-1]
            taken.count -= 1
            if taken.count:
                return taken.grant.is_held()
            self._taken.pop()
        return self._coordinator.give_back(taken.grant)

    def break_(self, force: bool = False) -> bool:
        """Takes it away from whoever holds it. Returns whether somebody lost it.

        The holder is asked to stop and waited for a moment; its ``acquired`` is false before anybody else's is true.
        With ``force`` it is not asked: it may go on to believe so for a moment.
        """
        return self._coordinator.take_away(self._key, force)

    def is_still_owner(self) -> bool:
        """Tells whether it is held, also in the eyes of the host."""
        grant = self._grant()
        return grant is not None and self._coordinator.still_owns(grant)

    def heartbeat(self) -> bool:
        """Renews it, and all that its coordinator holds. Returns whether it is held; without that, does nothing."""
        if not self.acquired:
            return False
        self._coordinator.heartbeat()
        return self.acquired

    @property
    def acquired(self) -> bool:
        """Tells whether it is held now. Asks nobody; false once it was lost, also in the middle of a pause."""
        return self._grant() is not None

    @property
    def token(self) -> Revision | None:
        """Returns the fencing token while it is held: higher than that of whoever held it before."""
        grant = self._grant()
        return grant.token if grant is not None else None

    def on_lost(self, callback: Callable[[AlthingLock], Any]) -> None:
        """Calls ``callback`` with this lock, from a thread of the driver, each time it is lost without a release."""
        self._callbacks.append(callback)

    def __exit__(self, *exc: Any) -> None:
        was_held = self.acquired
        had_any = bool(self._taken)
        self.release()
        if had_any and not was_held:
            _LOG.warning("the lock %s was lost before it was released", names.shown(self._key))

    def _adopt(self) -> None:
        """Forgets, after a fork, what was held: it is the parent's."""
        if self._pid != os.getpid():
            self._pid, self._guard, self._taken = os.getpid(), threading.Lock(), []

    def _grant(self) -> Grant | None:
        held = [taken.grant for taken in self._taken if taken.grant.is_held()]
        return held[-1] if held else None

    def _lose(self, _: Grant) -> None:
        for callback in list(self._callbacks):
            try:
                callback(self)
            except Exception:
                _LOG.exception("a callback for the loss of %s failed", names.shown(self._key))


class _Taken:
    """What one object holds, and how often it was acquired."""

    def __init__(self, grant: Grant, shared: bool) -> None:
        self.grant = grant
        self.shared = shared
        self.count = 1


def _wait(blocking: Any, timeout: Any) -> float | None:
    """Returns for how long to wait; ``None`` is for ever."""
    try:
        limit = None if timeout is None else max(0.0, float(timeout))
        if blocking is True:
            return limit
        if blocking is False or blocking is None:
            return 0.0
        wait = max(0.0, float(blocking))
    except (TypeError, ValueError) as error:
        raise tooz.ToozError(f"blocking and timeout are numbers of seconds: {error}", cause=error) from error
    wait = wait if limit is None else min(wait, limit)
    return None if wait == float("inf") else wait
