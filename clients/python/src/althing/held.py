"""What a session holds, as far as its client may believe it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from althing import clock, limits
from althing.info import Hold, LockHold, Renewal


@dataclass(frozen=True)
class Event:
    """Tells what happened to a session."""


@dataclass(frozen=True)
class Standing(Event):
    """Tells that the standing of the lease changed: ``held``, ``suspect`` or ``lost``."""

    standing: str


@dataclass(frozen=True)
class Elected(Event):
    """Tells that a member of this session leads from now on."""

    hold: Hold


@dataclass(frozen=True)
class Lost(Event):
    """Tells that a member of this session leads no longer."""

    hold: Hold
    reason: str


@dataclass(frozen=True)
class LockLost(Event):
    """Tells that a lock is held no longer, though nobody released it here."""

    lock: LockHold
    reason: str


@dataclass(frozen=True)
class Rejoined(Event):
    """Tells that after a loss a member was joined again, under a new incarnation."""

    group: str
    member: str
    incarnation: str
    resume: str = field(repr=False)


@dataclass(frozen=True)
class Removed(Event):
    """Tells that a member is in its group no longer: it was evicted, or could not be joined again."""

    group: str
    member: str
    reason: str


@dataclass(frozen=True)
class Ended(Event):
    """Tells that the session ended."""

    reason: str


@dataclass
class Heard:
    """Says what came of an event: what to tell, and what the host waits to hear confirmed."""

    told: list[Event] = field(default_factory=list)
    stopped: Hold | None = None
    lock_stopped: LockHold | None = None
    #: What the host says is held differs from what was known: a renewal tells which is true.
    doubtful: bool = False


Key = tuple[str, str]


class Held:
    """Keeps what is held, and until when. The caller locks.

    Events and renewals travel on two connections, so their order is not known. A renewal never adds a leadership
    and takes away only what was known before it was sent. A lock is added by the answer to who asked for it.
    """

    def __init__(self, sent: float, granted: Renewal) -> None:
        self.deadline = clock.deadline(sent, granted.remaining)
        self.renewed_at = self.asked_at = sent
        #: For how long one answer was good at best: the host's own lease bounds what it grants.
        self.good_for = self.deadline - sent
        self.standing = "held"
        self.ended: str | None = None
        self._holds: dict[str, tuple[Hold, float]] = {}
        # What was given up at the deadline, and comes back if a renewal shows that the host kept it.
        self._expired: list[Hold] = []
        self._locks: dict[Key, tuple[LockHold, float]] = {}
        # The incarnations of members, by group and id.
        self._stays: dict[Key, str] = {}
        # Ends that were told, and may have been told before the grant was.
        self._ended_locks: OrderedDict[Key, str] = OrderedDict()
        # Requests whose grants nobody here knows of: what they locked is to be released.
        self._abandoned: OrderedDict[str, None] = OrderedDict()

    def is_alive(self, now: float) -> bool:
        """Tells whether the session may be believed in."""
        return self.ended is None and now < self.deadline

    @property
    def interval(self) -> float:
        """Returns the seconds between two questions, so that several go into what one answer is good for."""
        return max(limits.LEASE_GUARD_MIN, self.good_for / limits.RENEWALS_PER_LEASE)

    def next_ask(self, ttl: float | None, now: float) -> float:
        """Returns when the host is to be asked again; never where all was granted that a lease of ``ttl`` allows.

        Who renews less often than the host renews its own lease asks meanwhile, else that would be the bound of what
        may be believed in. Without a ``ttl`` each question is a renewal.
        """
        if ttl is not None and max(now, self.deadline) >= clock.deadline(self.renewed_at, ttl):
            return math.inf
        return self.asked_at + self.interval

    def term(self, group: str, now: float) -> Hold | None:
        """Returns the leadership held in a group now."""
        known = self._holds.get(group)
        return known[0] if known and self.is_alive(now) else None

    def incarnation(self, key: Key, now: float) -> str | None:
        """Returns the stay in which a member, named by group and id, surely is now."""
        return self._stays.get(key) if self.is_alive(now) else None

    def joined(self, key: Key, incarnation: str) -> None:
        """Takes note that a member joined."""
        self._stays[key] = incarnation

    def holds_lock(self, key: Key, now: float) -> bool:
        """Tells whether a lock is held now."""
        return key in self._locks and self.is_alive(now)

    def holds_anything(self) -> bool:
        """Tells whether there is something that the deadline would take away."""
        return bool(self._holds or self._locks)

    def hear(self, json: dict[str, Any], now: float) -> Heard:
        """Takes in an event of the host."""
        kind, heard = json.get("event"), Heard()
        if kind == "standing":
            self._stand(json, now, heard)
        elif kind == "elected":
            hold = Hold.read(json["hold"])
            self._holds[hold.group] = (hold, now)
            heard.told.append(Elected(hold))
        elif kind in ("stop", "lost"):
            hold = Hold.read(json["hold"])
            reason = "it was asked to stop" if kind == "stop" else "it moved on, or its host lost its lease"
            heard.told += self._end_holds(lambda known: known == hold, reason)
            heard.stopped = hold if kind == "stop" else None
        elif kind in ("lock-stop", "lock-lost"):
            lock = LockHold.read(json["lock"])
            reason = "it was asked to stop" if kind == "lock-stop" else str(json.get("reason") or "it was lost")
            heard.told += self._end_lock(lock, reason)
            heard.lock_stopped = lock if kind == "lock-stop" else None
        elif kind in ("rejoined", "removed"):
            self._change_member(json, heard)
        elif kind == "ended":
            heard.told += self.end(str(json.get("reason") or "the host ended it"))
        return heard

    def _stand(self, json: dict[str, Any], now: float, heard: Heard) -> None:
        standing = str(json.get("standing") or "held")
        holds = {hold.group: hold for hold in map(Hold.read, json.get("holds") or ())}
        if standing == "lost":
            heard.told += self._lose("the host lost its lease")
            # The others may have seen them go: each stay is over until the host says that it joined again.
            self._stays.clear()
        else:
            gone = "it moved on while the host could not be heard"
            heard.told += self._end_holds(lambda known: holds.get(known.group) != known, gone)
            for hold in holds.values():
                if hold.group not in self._holds:
                    self._holds[hold.group] = (hold, now)
                    heard.told.append(Elected(hold))
            locks = {(lock["lock"], str(lock.get("id") or "")) for lock in json.get("locks") or ()}
            heard.doubtful = bool(self._locks.keys() - locks)
        self._expired.clear()
        if standing != self.standing:
            self.standing = standing
            heard.told.append(Standing(standing))

    def _change_member(self, json: dict[str, Any], heard: Heard) -> None:
        group, member = str(json["group"]), str(json["member"])
        reason = str(json.get("reason") or "it was joined again after a loss")
        heard.told += self._end_holds(lambda known: known.group == group and known.member == member, reason)
        if json["event"] == "rejoined":
            heard.told.append(Rejoined(group, member, str(json["incarnation"]), str(json["resume"])))
            self.joined((group, member), str(json["incarnation"]))
        else:
            self._stays.pop((group, member), None)
            heard.told.append(Removed(group, member, reason))

    def renewed(self, sent: float, renewal: Renewal, now: float) -> tuple[list[Event], list[LockHold]]:
        """Takes in what a renewal sent at ``sent`` granted. Returns what to tell, and which locks to release."""
        self.renewed_at = max(self.renewed_at, sent)
        return self.shown(sent, renewal, now)

    def shown(self, sent: float, renewal: Renewal, now: float) -> tuple[list[Event], list[LockHold]]:
        """Takes in what the host said when asked at ``sent``. Returns what to tell, and which locks to release.

        A leadership that was given up at the deadline, and that the host kept, comes back with an event: nobody
        else can have had it meanwhile. A lock never comes back.
        """
        until = clock.deadline(sent, renewal.remaining)
        self.deadline, self.good_for = max(self.deadline, until), max(self.good_for, until - sent)
        self.asked_at = max(self.asked_at, sent)
        gone = "the host says that it is no longer held"
        known = {hold for hold, since in self._holds.values() if since <= sent}
        told = self._end_holds(known.difference(renewal.holds).__contains__, gone)
        stray: list[LockHold] = []
        if renewal.locks is not None:
            there = {(lock.lock, lock.id) for lock in renewal.locks}
            for key, (lock, since) in list(self._locks.items()):
                if since <= sent and key not in there:
                    del self._locks[key]
                    told.append(LockLost(lock, gone))
            stray = [lock for lock in renewal.locks if lock.id in self._abandoned]
        if self.deadline <= now or self.ended is not None:
            return told, stray
        expired, self._expired = self._expired, []
        for hold in expired:
            if hold in renewal.holds and hold.group not in self._holds:
                self._holds[hold.group] = (hold, sent)
                told.append(Elected(hold))
        if self.standing == "lost":
            self.standing = "held"
            told.append(Standing("held"))
        return told, stray

    def granted(self, locks: list[LockHold], now: float) -> dict[Key, str]:
        """Takes in locks that the host granted. Returns those that ended before, and why."""
        early: dict[Key, str] = {}
        for lock in locks:
            key = (lock.lock, lock.id)
            reason = self._ended_locks.pop(key, None)
            if reason is None and not self.is_alive(now):
                reason = "the lease ran out while it was waited for"
            if reason is None:
                self._locks[key] = (lock, now)
            else:
                early[key] = reason
        return early

    def give_up_lock(self, key: Key) -> bool:
        """Holds a lock no longer, because it is about to be released. Returns whether it was held."""
        return self._locks.pop(key, None) is not None

    def abandon(self, lock_id: str) -> None:
        """Remembers that whatever a request locks, or has locked, is to be released."""
        self._abandoned[lock_id] = None
        while len(self._abandoned) > limits.ENDED_KEPT_MAX:
            self._abandoned.popitem(last=False)

    def expire(self, now: float) -> list[Event]:
        """Gives up what is held if the deadline has passed."""
        if now < self.deadline or self.standing == "lost" or self.ended is not None:
            return []
        self.standing = "lost"
        expired = [hold for hold, _ in self._holds.values()]
        for _, lock_id in self._locks:
            self.abandon(lock_id)
        told = self._lose("its lease was not renewed in time")
        self._expired = expired
        return [*told, Standing("lost")]

    def leave(self, group: str, member: str) -> list[Event]:
        """Gives up what a member holds and shares, because it leaves."""
        self._stays.pop((group, member), None)
        return self.resign(group, member)

    def resign(self, group: str, member: str) -> list[Event]:
        """Gives up the leadership that a member holds, because it leaves or stands no more."""
        return self._end_holds(lambda hold: hold.group == group and hold.member == member, "it left")

    def end(self, reason: str) -> list[Event]:
        """Ends it all, once."""
        if self.ended is not None:
            return []
        self.ended = reason
        return [*self._lose(reason), Ended(reason)]

    def _lose(self, reason: str) -> list[Event]:
        told: list[Event] = self._end_holds(lambda _: True, reason)
        told += [LockLost(lock, reason) for lock, _ in self._locks.values()]
        self._locks.clear()
        return told

    def _end_holds(self, is_gone: Callable[[Hold], bool], reason: str) -> list[Event]:
        gone = [hold for hold, _ in self._holds.values() if is_gone(hold)]
        for hold in gone:
            del self._holds[hold.group]
        self._expired = [hold for hold in self._expired if not is_gone(hold)] if self._expired else []
        return [Lost(hold, reason) for hold in gone]

    def _end_lock(self, lock: LockHold, reason: str) -> list[Event]:
        key = (lock.lock, lock.id)
        if self._locks.pop(key, None) is None:
            self._ended_locks[key] = reason
            while len(self._ended_locks) > limits.ENDED_KEPT_MAX:
                self._ended_locks.popitem(last=False)
            return []
        return [LockLost(lock, reason)]
