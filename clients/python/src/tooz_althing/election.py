"""Elections: a coordinator stands while it has a callback for it, and is told once per term."""

from __future__ import annotations

import functools
import logging
import time
from typing import TYPE_CHECKING, Any

import althing
from althing import Revision, Session
from tooz_althing.events import LeaderElected
from tooz_althing.groups import HIDDEN

if TYPE_CHECKING:
    from tooz_althing.driver import AlthingDriver

_LOG = logging.getLogger("tooz_althing")

#: How long one run waits at most until an election that has begun is decided, in seconds.
_DECIDED_WITHIN = 2.0
#: How often the host is asked meanwhile.
_LOOK = 0.02


class Elections:
    """Keeps one coordinator in the elections for which it has callbacks, and in no other."""

    def __init__(self, driver: AlthingDriver, hooks: Any) -> None:
        self._driver = driver
        self._hooks = hooks
        self.clear()

    def clear(self) -> None:
        """Forgets everything: a session begins."""
        # The term that was told, by group.
        self._told: dict[bytes, Revision] = {}
        # Where this member left, or was evicted: it stands again when it joins, or asks for it.
        self._withdrawn: set[bytes] = set()
        # Where it was still open who leads when the last run had waited for it: the next one does not wait.
        self._vacant: set[bytes] = set()

    def joined(self, group: bytes) -> None:
        """Takes note that the member joined, or asked to stand."""
        self._withdrawn.discard(group)

    def left(self, group: bytes) -> None:
        """Takes note that the member left: it stands no more."""
        self._withdrawn.add(group)

    def lost(self, group: bytes, token: Revision) -> None:
        """Takes note that the member leads no longer in that term; if it leads again, that is told."""
        if self._told.get(group) == token:
            del self._told[group]

    def recovered(self) -> None:
        """Takes note that another session took the place of a lost one."""
        self._told.clear()
        self._vacant.clear()

    def run(self) -> None:
        """Stands in each election there is a callback for, and tells what was won."""
        self.settle()
        for group in sorted(group for group, hooks in self._hooks.items() if hooks):
            if group in self._withdrawn:
                continue
            began = self._driver.with_session(functools.partial(self._stand, group))
            if began is not None:
                self._await(group, began)
                self._tell(group)

    def settle(self) -> None:
        """Stands down wherever there is no callback any more. What does not get through is tried again."""
        driver = self._driver
        try:
            session = driver.session()
            for name, member in session.stays():
                stay = session.stay(name, member)
                if stay is None or not stay.is_candidate or self._is_wanted(name):
                    continue
                with driver.gate:
                    if (stay.ask.get("metadata") or {}).get("tooz"):
                        session.leave(name, member)
                    else:
                        session.update(name, member, candidate=False)
        except althing.Error as error:
            _LOG.warning("could not stand down from elections yet: %s", error)

    def _is_wanted(self, name: str) -> bool:
        return any(hooks and self._driver.name_of(group) == name for group, hooks in self._hooks.items())

    def _stand(self, group: bytes, session: Session) -> bool | None:
        """Becomes a candidate. Returns whether it was none before; ``None`` where it cannot be one."""
        driver, name = self._driver, self._driver.name_of(group)
        if session.ended is not None:
            raise althing.SessionLost(session.ended)
        with driver.gate:
            stay = session.stay(name, driver.me)
            if stay is not None and stay.is_candidate:
                return False
            try:
                if stay is None:
                    session.join(name, driver.me, metadata=HIDDEN)
                else:
                    session.update(name, driver.me, candidate=True)
            except (althing.NotFound, althing.Exists, althing.Denied) as error:
                _LOG.warning("cannot stand for election in %s: %s", name, error)
                return None
            self._vacant.discard(group)
            return True

    def _await(self, group: bytes, began: bool) -> None:
        """Waits for a moment while it is open who leads, unless it has been open for long."""
        name = self._driver.name_of(group)
        until = time.monotonic() + _DECIDED_WITHIN
        session = self._driver.session()
        while session.term(name) is None:
            try:
                leader = self._driver.client.leader(name)
            except althing.NotFound:
                return
            if leader is not None and leader.member != self._driver.me and not leader.revoked:
                if leader.successor is None:
                    self._vacant.discard(group)
                    return
            if group in self._vacant and not began:
                return
            if time.monotonic() >= until:
                self._vacant.add(group)
                return
            session.wait(lambda: session.term(name) is not None, _LOOK)
        self._vacant.discard(group)

    def _tell(self, group: bytes) -> None:
        token = self._driver.leader_token(group)
        if token is None or self._told.get(group) == token:
            return
        self._told[group] = token
        event = LeaderElected(group, self._driver._member_id, token)
        for callback in list(self._hooks.get(group, ())):
            try:
                callback(event)
            except Exception:
                _LOG.exception("a callback for the election in %r failed", group)
