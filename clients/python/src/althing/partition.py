"""A member's part in what a group shares."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from althing import errors, limits
from althing.client import GroupEvents
from althing.held import Ended, Event
from althing.info import PartitionInfo
from althing.shares import Shares, shares_of

if TYPE_CHECKING:
    from althing.session import Session

_LOG = logging.getLogger("althing")


@dataclass(frozen=True)
class Seen:
    """Holds the shares as they were told, and who owns what by them."""

    info: PartitionInfo
    shares: Shares[str]

    @classmethod
    def of(cls, info: PartitionInfo) -> Seen:
        """Makes it of what was told."""
        return cls(info, shares_of(info))

    def owns(self, member: str, incarnation: str | None, key: str | bytes) -> bool:
        """Tells whether a member may work on an object now, if it surely is in that stay."""
        shares = any(share.id == member and share.incarnation == incarnation for share in self.info.members)
        return shares and self.shares.owner(key) == member


class Partition:
    """Knows at every moment, without asking anybody, what one member of a partitioned group may work on.

    While :meth:`owns` says so here, it says so nowhere else. When shares move, it is false at once for what this member
    loses, and becomes true for what it gains only after whoever had that has given it up. So finish what you are at,
    then :meth:`settle`: until then the others wait.

    Obtained with :meth:`Session.partition`. It ends with its session. Closing it keeps the member in the group; what
    that loses from then on is never given up, so leave as well. Safe to share among threads.
    """

    def __init__(self, session: Session, group: str, member: str, info: PartitionInfo) -> None:
        self.session = session
        self.group = group
        self.member = member
        self._seen: Seen | None = Seen.of(info)
        self._stay = session.incarnation(group, member)
        self._changed = threading.Condition(threading.Lock())
        self._callbacks: list[Callable[[Partition], object]] = []
        self._events: GroupEvents | None = None
        self._is_closed = False
        session.on_event(self._told)
        threading.Thread(target=self._follow, name="althing partition", daemon=True).start()

    def __repr__(self) -> str:
        info = self.info
        return f"<Partition of {self.group} for {self.member}, version {info.version if info else 'unknown'}>"

    def owns(self, key: str | bytes) -> bool:
        """Tells whether this member may work on an object now. Asks nobody."""
        incarnation = self.session.incarnation(self.group, self.member)
        seen = self._seen
        return incarnation is not None and seen is not None and seen.owns(self.member, incarnation, key)

    def owners(self, key: str | bytes, n: int = 1) -> list[str]:
        """Returns the members that an object is to belong to once nothing moves any more, the first owner first."""
        seen = self._seen
        return seen.shares.owners(key, n) if seen is not None else []

    @property
    def info(self) -> PartitionInfo | None:
        """Returns the shares as they were told last; ``None`` once the group was deleted."""
        seen = self._seen
        return seen.info if seen is not None else None

    @property
    def is_pending(self) -> bool:
        """Tells whether the others wait for this member to :meth:`settle`."""
        info = self.info
        return info is not None and self.member in info.pending

    def changed(self, since: PartitionInfo | None, timeout: float | None = None) -> bool:
        """Waits until the shares are others than ``since``, or somebody gave up what it lost. Returns whether they are.

        Returns at once when they are already; false when ``timeout`` seconds have passed, or this was closed.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while self.info == since:
                left = None if until is None else until - time.monotonic()
                if self._is_over() or (left is not None and left <= 0):
                    return False
                self._changed.wait(1.0 if left is None else min(left, 1.0))
            return True

    def on_changed(self, callback: Callable[[Partition], object]) -> None:
        """Calls ``callback`` with this, from a thread of the session, whenever the shares or who waits have changed."""
        self._callbacks.append(callback)

    def settle(self) -> None:
        """Says that this member has stopped working on all that it does not own any more. Saying so twice is fine."""
        info = self.info
        if info is not None and self.member in info.pending:
            self._see(self.session.settle(self.group, self.member, info.version))

    def close(self) -> None:
        """Follows the group no longer; :meth:`owns` is false from then on."""
        if self.session.is_foreign:
            return
        with self._changed:
            self._is_closed, self._seen = True, None
            self._changed.notify_all()
            events = self._events
        if events is not None:
            events.close()

    def __enter__(self) -> Partition:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _told(self, event: Event) -> None:
        if isinstance(event, Ended):
            self.close()

    def _is_over(self) -> bool:
        return self._is_closed or self.session.ended is not None

    def _see(self, info: PartitionInfo | None) -> None:
        """Takes in what was told, unless something newer was told before; ``None`` is the end of the group."""
        stay = self.session.incarnation(self.group, self.member)
        with self._changed:
            if stay is not None and stay != self._stay:
                # Versions begin anew with the group, and that may have gone only while the member was not in it.
                self._stay, self._seen = stay, None
            known = self._seen
            is_news = known is not None if info is None else known is None or info.is_newer_than(known.info)
            if not is_news or self._is_closed:
                return
            self._seen = Seen.of(info) if info is not None else None
            self._changed.notify_all()
        for callback in list(self._callbacks):
            self.session.call_later(callback, self)

    def _follow(self) -> None:
        """Follows the group. Without a connection what is known stays true: nobody takes what was not given up."""
        pause = limits.STREAM_PAUSE_MIN
        while not self._is_over():
            try:
                with self.session.client.watch(self.group) as events:
                    self._events = events
                    if self._is_over():
                        return
                    for event in events:
                        pause = limits.STREAM_PAUSE_MIN
                        self._hear(event)
            except errors.NotFound:
                self._see(None)
            except errors.Error as error:
                _LOG.debug("the events of group %s broke off: %s", self.group, error)
            except Exception:
                _LOG.exception("an event of group %s was not understood", self.group)
            with self._changed:
                if not self._is_over():
                    self._changed.wait(pause)
            pause = min(pause * 2, limits.STREAM_PAUSE_MAX)

    def _hear(self, event: dict[str, object]) -> None:
        info = PartitionInfo.told(event)
        if info is not None:
            self._see(info)
        elif event.get("event") in ("snapshot", "deleted"):
            self._see(None)
