"""A session with a host, kept alive in the background, and what it holds."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from althing import clock, codec, errors, limits
from althing.client import Client
from althing.held import Event, Held, Key, LockLost, Rejoined, Removed
from althing.info import Hold, LockHold, PartitionInfo, Renewal
from althing.lock import Grant, Lock, label_of
from althing.member import Member, Stay
from althing.partition import Partition
from althing.revision import Revision
from althing.teller import Teller
from althing.wire import Ask, Look, Stream, path

_LOG = logging.getLogger("althing")
_SESSION_HEADER: Final = "althing-session"
_KEEP: Any = object()

#: Takes in what the host granted. Returns what to tell, and which locks to release.
Taking = Callable[[float, Renewal, float], tuple[list[Event], list[LockHold]]]
#: What says that a session can never be used again.
_FINAL = (errors.SessionLost, errors.NotFound, errors.Denied, errors.Invalid)
#: What may go well at the next try.
_PASSING = (errors.Unavailable, errors.Timeout, errors.Busy, errors.Closed, errors.SessionLost)


class Session:
    """Holds members, leaderships and locks with a host. Obtained with :meth:`Client.session`.

    Whatever is held is believed in until a deadline, counted on the boot clock from the moment the last
    acknowledged renewal was *sent*. When the host says stop, it first stops being held here, then the stop is
    confirmed, and only then it moves on. Nothing is asked of anybody to know it.

    After a fork the child has no part in it: nothing is held there, nothing can be done with it, and closing it
    does nothing.
    """

    def __init__(
        self,
        client: Client,
        ttl: float | None = None,
        *,
        renew: bool = True,
        drop_on_disconnect: bool = False,
        deadline: float | None = None,
    ) -> None:
        self.client = client
        self._options = {"renew": renew, "drop_on_disconnect": drop_on_disconnect}
        self._asked_ttl = ttl
        body: dict[str, Any] = {"drop_on_disconnect": drop_on_disconnect}
        if ttl is not None:
            body["ttl_ms"] = math.ceil(ttl * 1000)
        sent = clock.now()
        grant = client.ask(Ask("open session", "POST", path("sessions"), body), deadline=deadline)
        self.id = str(grant["id"])
        #: The lease in seconds.
        self.ttl = float(grant["ttl_ms"]) / 1000
        self._proof = {_SESSION_HEADER: f"{self.id}.{grant['secret']}"}
        self._pid = os.getpid()
        self._changed = threading.Condition(threading.Lock())
        self._held = Held(sent, Renewal.read(grant["renewal"]))
        self._retry_at = 0.0
        self._stays: dict[Key, Stay] = {}
        self._grants: dict[str, Grant] = {}
        self._callbacks: list[Callable[[Event], object]] = []
        self._teller = Teller()
        self._stream: Stream | None = None
        for work in (self._listen, self._keep):
            threading.Thread(target=work, name=f"althing {work.__name__}", daemon=True).start()

    def __repr__(self) -> str:
        return f"<Session {self.id[:8]} with {self.client.wire.address}>"

    # Its life.

    @property
    def is_foreign(self) -> bool:
        """Tells whether it belongs to another process, from which this one was forked."""
        return self._pid != os.getpid()

    def is_alive(self) -> bool:
        """Tells whether it may be believed in now. Asks nobody."""
        if self.is_foreign:
            return False
        with self._changed:
            return self._held.is_alive(clock.now())

    @property
    def ended(self) -> str | None:
        """Returns why it ended, once it has."""
        return "it belongs to the parent process" if self.is_foreign else self._held.ended

    @property
    def standing(self) -> str:
        """Returns ``held``, ``suspect`` or ``lost``."""
        return "lost" if self.ended is not None else self._held.standing

    @property
    def deadline(self) -> float:
        """Returns until when it may be believed in, on the boot clock."""
        return self._held.deadline

    def renew(self, *, deadline: float | None = None, look: Look | None = None) -> None:
        """Renews it now. Fails with :class:`~althing.SessionLost` once it has ended."""
        ask = Ask("renew session", "POST", path("sessions", self.id, "renew"), None, self._proof, True)
        self._prove(ask, self._held.renewed, deadline, look)

    def _show(self, deadline: float, look: Look) -> None:
        """Asks for how long it may be believed in, without renewing it."""
        ask = Ask("show session", "GET", path("sessions", self.id), None, self._proof, True)
        self._prove(ask, self._held.shown, deadline, look)

    def _prove(self, ask: Ask, take: Taking, deadline: float | None, look: Look | None) -> None:
        self._check()
        sent = clock.now()
        try:
            answer = self.client.wire.exchange(self.client.addressed(ask), deadline=deadline, look=look)
        except _FINAL as error:
            self._end(str(error))
            raise self._gone() from error
        with self._changed:
            told, stray = take(sent, Renewal.read(answer), clock.now())
            self._tell(told)
        for lock in stray:
            self._ask_release(lock, tries=1)

    def close(self, *, deadline: float | None = None) -> bool:
        """Ends it: its members leave, its locks are released. Returns whether the host has said so.

        Where it does not answer, the lease runs out instead.
        """
        if self.is_foreign:
            return False
        was_ended = self._held.ended is not None
        self._end("it was closed here")
        if was_ended:
            return True
        ask = Ask("end session", "DELETE", path("sessions", self.id), None, self._proof, True)
        try:
            self.client.ask(ask, deadline=deadline)
        except errors.SessionLost:
            return True
        except errors.Error as error:
            _LOG.warning("session %s could not be ended, its lease will: %s", self.id[:8], error)
            return False
        return True

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reopen(self) -> Session:
        """Opens another session like this one, and joins every member again that was joined by this.

        Each takes the place of its former stay at once, under a new incarnation. Those that cannot join again are
        left out, with a warning. Leaderships and locks do not come back. Fails where the host or its backend cannot
        be reached; then it may be tried again.
        """
        session = Session(self.client, self._asked_ttl, **self._options)
        for (group, member), stay in list(self._stays.items()):
            try:
                session._join(group, {**stay.ask, "resume": stay.resume})
                # Should a later one fail, the next try takes the place of this stay.
                stay.resume = session._stays[group, member].resume
            except _PASSING:
                session.close(deadline=1.0)
                raise
            except errors.Error as error:
                _LOG.warning("%s could not join %s again: %s", member, group, error)
        return session

    # Groups.

    def join(
        self,
        group: str,
        member: str,
        *,
        metadata: Mapping[str, str] | None = None,
        capabilities: Any = None,
        candidate: bool = True,
        create: bool = False,
        ephemeral: bool = False,
        require: Mapping[str, Any] | None = None,
        resume: str | None = None,
    ) -> Member:
        """Joins a group, in one request also where it has to be made (``create``).

        Fails with :class:`~althing.Exists` while another stay of that id is live, unless ``resume`` is its key.
        """
        ask: dict[str, Any] = {"id": member, "metadata": dict(metadata or {})}
        if capabilities is not None:
            ask["capabilities"] = codec.encode(capabilities)
        # What is as ever is not said: hosts refuse fields that they do not know.
        said = {"candidate": (candidate, True), "create": (create, False), "ephemeral": (ephemeral, False)}
        ask.update({name: value for name, (value, usual) in said.items() if value is not usual})
        if require:
            ask["require"] = dict(require)
        if resume is not None:
            ask["resume"] = resume
        self._join(group, ask)
        return Member(self, group, member)

    def _join(self, group: str, ask: dict[str, Any]) -> None:
        joined = self._own(Ask("join", "POST", path("groups", group, "members"), ask))
        kept = {name: value for name, value in ask.items() if name != "resume"}
        with self._changed:
            stay = Stay(kept, joined["member"]["incarnation"], joined["resume"])
            self._stays[group, ask["id"]] = stay
            self._held.joined((group, ask["id"]), stay.incarnation)

    def leave(self, group: str, member: str) -> None:
        """Leaves a group. If the member led, it stops being held before the host is told."""
        self._check()
        with self._changed:
            self._stays.pop((group, member), None)
            self._tell(self._held.leave(group, member))
        self._own(Ask("leave", "DELETE", path("groups", group, "members", member), repeatable=True))

    def update(
        self,
        group: str,
        member: str,
        *,
        metadata: Mapping[str, str] = _KEEP,
        capabilities: Any = _KEEP,
        candidate: bool = _KEEP,
    ) -> None:
        """Changes what a member of this session says of itself, or whether it stands for election."""
        self._check()
        change: dict[str, Any] = {}
        if metadata is not _KEEP:
            change["metadata"] = dict(metadata)
        if capabilities is not _KEEP:
            change["capabilities"] = codec.encode(capabilities)
        if candidate is not _KEEP:
            change["candidate"] = bool(candidate)
        if change.get("candidate") is False:
            with self._changed:
                self._tell(self._held.resign(group, member))
        self._own(Ask("update", "PATCH", path("groups", group, "members", member), change, repeatable=True))
        with self._changed:
            stay = self._stays.get((group, member))
            if stay is not None:
                stay.ask.update(change)

    def stay(self, group: str, member: str) -> Stay | None:
        """Returns what this session knows of a member that it joined; ``None`` once it is gone."""
        if self.is_foreign:
            return None
        with self._changed:
            return self._stays.get((group, member))

    def incarnation(self, group: str, member: str) -> str | None:
        """Returns the stay in which a member of this session surely is now. Asks nobody."""
        if self.is_foreign:
            return None
        with self._changed:
            return self._held.incarnation((group, member), clock.now())

    def stays(self) -> list[Key]:
        """Lists group and member of all that joined by this session and are still there."""
        if self.is_foreign:
            return []
        with self._changed:
            return list(self._stays)

    def leadership(self, group: str) -> Hold | None:
        """Returns the leadership that this session holds in a group now. Asks nobody."""
        if self.is_foreign:
            return None
        with self._changed:
            return self._held.term(group, clock.now())

    def term(self, group: str) -> Revision | None:
        """Returns the fencing token of the leadership held in a group now. Asks nobody."""
        hold = self.leadership(group)
        return hold.term if hold else None

    def partition(self, group: str, member: str, *, algorithm: str = "ring", points: int = 32) -> Partition:
        """Lets the members of a group share objects, and follows the part of a member that joined by this session."""
        return Partition(self, group, member, self.client.partition_group(group, algorithm=algorithm, points=points))

    def settle(self, group: str, member: str, version: int) -> PartitionInfo:
        """Says that a member works no more on what it lost by a version of the group's partition."""
        route = path("groups", group, "members", member, "settled")
        return PartitionInfo.read(self._own(Ask("settle", "POST", route, {"version": version}, repeatable=True)))

    def wait(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Waits until ``predicate`` is true, looking again whenever something is told. Returns whether it is."""
        until = time.monotonic() + timeout
        while not predicate():
            left = until - time.monotonic()
            if left <= 0:
                return False
            with self._changed:
                # What is told between the look and the wait is seen at the next look.
                self._changed.wait(min(left, 0.01))
        return True

    # Locks.

    def lock(
        self,
        *names: str,
        shared: bool = False,
        permits: int | None = None,
        label: str | None = None,
    ) -> Lock:
        """Makes a lock on a name, or on several at once: alone, ``shared``, or with so many ``permits``."""
        if shared and permits is not None:
            raise errors.Invalid("a lock is shared or has permits, not both")
        mode = "shared" if shared else "exclusive" if permits is None else "permit"
        return Lock(self, names, mode=mode, limit=permits, label=label)

    def acquire(
        self,
        names: Sequence[str],
        *,
        mode: str = "exclusive",
        limit: int | None = None,
        wait: float | None = None,
        label: str | None = None,
        require: Mapping[str, Any] | None = None,
    ) -> Grant | None:
        """Locks all of ``names`` or none, waiting for at most ``wait`` seconds; without it, for ever.

        Returns what was granted; ``None`` where it was not, in time. Whatever interrupts it, nothing stays behind.
        """
        self._check()
        self._freshen()
        lock_id = os.urandom(12).hex()
        body: dict[str, Any] = {"names": list(names), "mode": mode, "id": lock_id}
        if limit is not None:
            body["limit"] = limit
        if wait is not None and wait > limits.WAIT_MAX:
            wait = None
        if wait is not None:
            body["wait_ms"] = max(0, math.ceil(wait * 1000))
        if label:
            body["label"] = label_of(label)
        if require:
            body["require"] = dict(require)
        ask = Ask("lock", "POST", path("locks"), body, repeatable=True)
        every = min(limits.WAIT_LOOK, self.ttl / 6, self.client.wire.deadline / 8)
        look = Look(every, self._look) if wait != 0 else None
        try:
            answer = self._own(ask, wait=wait, look=look)
        except BaseException as error:
            if not isinstance(error, errors.Error) or error.effect != errors.NONE:
                self._abandon(lock_id)
            raise
        if not answer["granted"]:
            return None
        return self._granted([LockHold.read(lock) for lock in answer["locks"]], lock_id)

    def _granted(self, locks: list[LockHold], lock_id: str) -> Grant:
        grant = Grant(self, locks, lock_id)
        with self._changed:
            early = self._held.granted(locks, clock.now())
            if not early:
                self._grants[lock_id] = grant
        if early:
            # It was taken away again, or the lease ran out, before the answer was here.
            with self._changed:
                self._lose(grant, next(iter(early.values())))
            for lock in locks:
                self._give_up(lock)
                self._ask_release(lock, tries=1)
        return grant

    def holds(self, locks: Iterable[LockHold]) -> bool:
        """Tells whether all of these locks are held now. Asks nobody."""
        if self.is_foreign:
            return False
        with self._changed:
            now = clock.now()
            return all(self._held.holds_lock((lock.lock, lock.id), now) for lock in locks)

    def release(self, grant: Grant) -> bool:
        """Gives back what was granted. Returns whether it was held until then."""
        if self.is_foreign:
            return False
        with self._changed:
            self._grants.pop(grant.id, None)
        held = [lock for lock in reversed(grant.locks) if self._give_up(lock)]
        answers = []
        for lock in held:
            try:
                answers.append(self._own(self._release_ask(lock)))
            except errors.SessionLost:
                return False
            except BaseException:
                self._abandon(grant.id)
                raise
        return len(held) == len(grant.locks) and all(answer == "released" for answer in answers)

    def _give_up(self, lock: LockHold) -> bool:
        with self._changed:
            return self._held.give_up_lock((lock.lock, lock.id))

    def _abandon(self, lock_id: str) -> None:
        with self._changed:
            self._held.abandon(lock_id)

    def _release_ask(self, lock: LockHold) -> Ask:
        body = {"token": str(lock.token), "id": lock.id}
        return Ask("release", "POST", path("locks", lock.lock, "release"), body, repeatable=True)

    def _ask_release(self, lock: LockHold, tries: int) -> None:
        self._insist(self._release_ask(lock), tries)

    def _freshen(self) -> None:
        """Renews a session that nobody renewed for long, so that what is granted now can be believed in."""
        with self._changed:
            stale = clock.now() - self._held.renewed_at > self.ttl / 2
        if stale and not self._options["renew"]:
            self.renew()

    def _look(self) -> None:
        """What a thread does that waits for a lock: it asks whether the host is there, which keeps the session too."""
        self._check()
        half, now = self.client.wire.deadline / 2, clock.now()
        if now - self._held.renewed_at > min(half, self._held.interval):
            left = self._held.deadline - now
            self.renew(deadline=min(half, left) if left > 0 else half)

    # What is told.

    def on_event(self, callback: Callable[[Event], object]) -> None:
        """Calls ``callback`` with each :class:`~althing.Event`, in order, from a thread of the session."""
        self._callbacks.append(callback)

    def call_later(self, callback: Callable[[Any], object], value: Any) -> None:
        """Calls ``callback`` with ``value`` from the thread of the session's callbacks."""
        if not self.is_foreign:
            self._teller.tell(callback, value)

    def _tell(self, events: Iterable[Event]) -> None:
        """Takes note of events, under the lock, and has the callbacks called."""
        for event in events:
            if isinstance(event, Rejoined):
                stay = self._stays.get((event.group, event.member))
                if stay is not None:
                    stay.incarnation, stay.resume = event.incarnation, event.resume
            elif isinstance(event, Removed):
                self._stays.pop((event.group, event.member), None)
            elif isinstance(event, LockLost):
                grant = self._grants.pop(event.lock.id, None)
                if grant is not None:
                    self._lose(grant, event.reason)
            for callback in self._callbacks:
                self._teller.tell(callback, event)
        self._changed.notify_all()

    def on_grant_lost(self, grant: Grant, callback: Callable[[Grant], object]) -> None:
        """Calls ``callback`` when what was granted is lost; at once, if it was."""
        if self.is_foreign:
            return
        with self._changed:
            if grant.lost is None:
                grant.callbacks.append(callback)
            else:
                self._teller.tell(callback, grant)

    def _lose(self, grant: Grant, reason: str) -> None:
        if grant.lost is None:
            grant.lost = reason
            for callback in grant.callbacks:
                self._teller.tell(callback, grant)

    # The threads.

    def _listen(self) -> None:
        """Follows the session's events until it ends. A broken stream is opened again."""
        pause = limits.STREAM_PAUSE_MIN
        ask = Ask("watch session", "GET", path("sessions", self.id, "events"), None, self._proof)
        while self._held.ended is None:
            try:
                self._stream = self.client.stream(ask)
                for json in self._stream:
                    pause = limits.STREAM_PAUSE_MIN
                    self._hear(json)
            except _FINAL as error:
                return self._end(str(error))
            except errors.Error as error:
                _LOG.debug("the events of session %s broke off: %s", self.id[:8], error)
            except Exception:
                _LOG.exception("an event of session %s was not understood", self.id[:8])
            if self._options["drop_on_disconnect"] and self._stream is not None:
                return self._end("the connection to the host was lost")
            with self._changed:
                if self._held.ended is None:
                    self._changed.wait(pause)
            pause = min(pause * 2, limits.STREAM_PAUSE_MAX)

    def _hear(self, json: dict[str, Any]) -> None:
        with self._changed:
            heard = self._held.hear(json, clock.now())
            self._tell(heard.told)
        if heard.stopped is not None:
            body = {"group": heard.stopped.group, "term": str(heard.stopped.term)}
            self._insist(Ask("confirm stop", "POST", path("sessions", self.id, "stopped"), body))
        if heard.lock_stopped is not None:
            self._ask_release(heard.lock_stopped, tries=limits.CONFIRM_TRIES)
        if heard.doubtful:
            try:
                self.renew()
            except errors.Error as error:
                _LOG.debug("session %s could not be renewed: %s", self.id[:8], error)

    def _insist(self, ask: Ask, tries: int = limits.CONFIRM_TRIES) -> None:
        """Says something to the host that need not get through: else the lease runs out instead."""
        pause = limits.CONFIRM_PAUSE
        ask.repeatable = True
        for _ in range(tries):
            try:
                self._own(ask)
                return
            except (errors.Unavailable, errors.Timeout, errors.Busy) as error:
                _LOG.debug("%s did not get through: %s", ask.operation, error)
            except errors.Error as error:
                _LOG.debug("%s was refused: %s", ask.operation, error)
                return
            time.sleep(pause)
            pause *= 2

    def _keep(self) -> None:
        """Asks as often as is needed to believe in it until it ends, and gives up what is held at the deadline."""
        while True:
            with self._changed:
                if self._held.ended is not None:
                    return
                wait = self._until_due()
                if wait > 0:
                    self._changed.wait(wait)
            self._expire()
            if self._until_asked() <= 0:
                self._try_ask()

    def _until_asked(self) -> float:
        ttl = None if self._options["renew"] else self.ttl
        return max(self._held.next_ask(ttl, clock.now()), self._retry_at) - clock.now()

    def _until_due(self) -> float:
        waits = [60.0, self._until_asked()]
        if self._held.standing != "lost":
            waits.append(self._held.deadline - clock.now())
        if self._held.holds_anything():
            waits.append(limits.CLOCK_LOOK)
        return min(waits)

    def _expire(self) -> None:
        with self._changed:
            self._tell(self._held.expire(clock.now()))

    def _try_ask(self) -> None:
        interval = self._held.interval
        ask = self.renew if self._options["renew"] else self._show
        try:
            ask(deadline=interval, look=Look(min(limits.CLOCK_LOOK, interval / 4), self._expire))
        except errors.Error as error:
            self._retry_at = clock.now() + interval / 4
            _LOG.debug("session %s could not be asked for: %s", self.id[:8], error)

    def _own(self, ask: Ask, *, wait: float | None = 0.0, look: Look | None = None) -> Any:
        """Asks with the proof that the session is ours."""
        self._check()
        ask.headers = self._proof
        try:
            return self.client.wire.exchange(self.client.addressed(ask), wait=wait, look=look)
        except errors.SessionLost as error:
            self._end(str(error))
            raise

    def _check(self) -> None:
        if self.ended is not None:
            raise self._gone()

    def _gone(self) -> errors.SessionLost:
        return errors.SessionLost(f"the session has ended: {self.ended}", advice="Open a new session and join again")

    def _end(self, reason: str) -> None:
        with self._changed:
            self._tell(self._held.end(reason))
            stream = self._stream
        self._teller.end()
        if stream is not None:
            stream.close()
