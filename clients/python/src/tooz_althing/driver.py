"""The driver: all that Tooz asks of a backend, by an Althing host."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import tooz
from tooz import coordination

import althing
from althing import Client, Grant, MemberInfo, Revision, Session
from tooz_althing import failure, names, options
from tooz_althing.election import Elections
from tooz_althing.events import LeaderLost, MemberRemoved, SessionLost
from tooz_althing.groups import GroupCalls, shown, stays_of
from tooz_althing.heart import Heart
from tooz_althing.lock import AlthingLock
from tooz_althing.partition import AlthingPartitioner
from tooz_althing.sharing import Sharing
from tooz_althing.watching import Watching
from tooz_althing.work import Worker

_LOG = logging.getLogger("tooz_althing")
T = TypeVar("T")

#: How long ``stop()`` waits for a host that does not answer, in seconds.
_STOP_DEADLINE = 2.0
#: The pause before a session that was lost is tried to be replaced again, in seconds; doubled up to the next one.
_PAUSE_MIN = 0.1
_PAUSE_MAX = 5.0


class AlthingDriver(GroupCalls):
    """Coordinates by an Althing host.

    URLs are ``althing:///path/to/socket.sock?backend=NAME``, ``althing://host:port?…`` and
    ``althing+https://host:port?…``; the options are those of :class:`tooz_althing.options.Options`.

    Ids and lock names are any bytes, or text, which comes back as bytes.
    """

    heart: Heart

    CHARACTERISTICS = (
        coordination.Characteristics.DISTRIBUTED_ACROSS_THREADS,
        coordination.Characteristics.DISTRIBUTED_ACROSS_PROCESSES,
        coordination.Characteristics.DISTRIBUTED_ACROSS_HOSTS,
        coordination.Characteristics.CAUSAL,
    )

    def __init__(self, member_id: bytes, parsed_url: Any, options_given: dict[str, Any]) -> None:
        super().__init__(member_id, parsed_url, options_given)
        self._member_id = names.to_id(member_id)
        self.me = names.to_name(member_id)
        self.options = options.read(options_given)
        self.prefix = f"{self.options.namespace}/" if self.options.namespace else ""
        with failure.translated():
            self.client = Client(
                hosts=options.hosts(parsed_url),
                backend=self.options.backend,
                token=self.options.token,
                token_file=self.options.token_file,
                ca_cert=self.options.ca_cert,
                cert=self.options.cert,
                key=self.options.key,
                deadline=self.options.deadline,
            )
        self.requires_beating = not self.options.keepalive
        self.heart = Heart(self)
        self._hooks_leader_lost: dict[bytes, list[Callable[[LeaderLost], Any]]] = {}
        self._hooks_lost: list[Callable[[SessionLost], Any]] = []
        self._hooks_removed: list[Callable[[MemberRemoved], Any]] = []
        self._watching = Watching(self._hooks_join_group, self._hooks_leave_group)
        self._elections = Elections(self, self._hooks_elected_leader)
        self._sharing = Sharing(self)
        self._session: Session | None = None
        self._stopping = False
        self._adopt()

    # Its life.

    def start(self, start_heart: bool = False) -> None:
        """Opens a session. Fails with ``ToozConnectionError`` where no host lets it, within ``request_timeout``."""
        self._beats_itself = start_heart
        super().start(start_heart)

    def _start(self) -> None:
        try:
            with failure.translated():
                self._session = self._open()
        except tooz.ToozError as error:
            raise coordination.ToozConnectionError(str(error), cause=error) from error
        self._adopt()
        self._elections.clear()
        self._stopping = False

    def _open(self) -> Session:
        session = Session(
            self.client,
            self.options.lease,
            renew=self.options.keepalive,
            drop_on_disconnect=self.options.drop_on_disconnect,
        )
        session.on_event(self._hear)
        return session

    def stop(self) -> None:
        """Ends the session, in one request: the member leaves its groups, its locks are released."""
        if not self._started:
            raise tooz.ToozError("Can not stop a driver which has not been started")
        if self._pid != os.getpid():
            self._adopt()
        with self._swap:
            self._stopping = True
        if self.heart.is_alive():
            self.heart.stop()
        self._worker.close(self.options.deadline)
        # From here on nobody opens another one.
        session, self._session = self._session, None
        if session is not None:
            session.close(deadline=min(_STOP_DEADLINE, self.options.deadline))
        self.client.close()
        self._joined_groups = set()
        self._started = False

    def heartbeat(self) -> float:
        """Renews all that this coordinator holds. Returns how many seconds may pass until the next beat at most.

        Where the session was lost, another is opened and its groups are joined again; locks and leaderships are not.
        """
        if self._stopping:
            return 1.0
        with failure.translated():
            self.with_session(lambda session: session.renew())
            self._elections.settle()
            self._sharing.settle_idle()
        return self.options.lease * 2 / 3

    def session(self) -> Session:
        """Returns the session; after a fork, one of this process."""
        session = self._session
        if session is None:
            raise tooz.ToozError("the coordinator has not been started")
        if session.is_foreign:
            session = self._refound()
        return session

    def with_session(self, act: Callable[[Session], T]) -> T:
        """Does something with the session; once more with another one, where it turns out at once to be lost."""
        session, begun = self.session(), time.monotonic()
        try:
            return act(session)
        except althing.SessionLost:
            # Whoever was kept waiting for that is told so: another try would take as long.
            if self._stopping or time.monotonic() - begun > self.options.deadline / 2:
                raise
            return act(self._recover(session))

    def _recover(self, lost: Session) -> Session:
        with self.gate:
            if self._session is not lost:
                return self.session()
            _LOG.warning("the session was lost (%s): opening another, joining again", lost.ended)
            session = lost.reopen()
            session.on_event(self._hear)
            with self._swap:
                if not self._stopping:
                    self._session = session
            if self._session is not session:
                session.close(deadline=_STOP_DEADLINE)
                raise althing.Closed("the coordinator was stopped")
            self._elections.recovered()
            return session

    def _adopt(self) -> None:
        """Takes this object into the hands of this process: what the parent's threads had locked is not locked here."""
        self._pid = os.getpid()
        self.gate = threading.RLock()
        self._swap = threading.Lock()
        self._worker = Worker(self.options.executor)
        self._watching.gate = threading.RLock()
        self.heart.adopt()

    def _refound(self) -> Session:
        """Begins anew in a forked process: the groups and locks are the parent's."""
        if self._pid != os.getpid():
            self._adopt()
        with self.gate:
            session = self._session
            assert session is not None
            if session.is_foreign:
                self._joined_groups = set()
                self._elections.clear()
                with failure.translated():
                    session = self._session = self._open()
                if self._beats_itself and not self.heart.is_alive():
                    self.heart.start()
        return session

    # Partitions.

    def join_partitioned_group(
        self,
        group_id: bytes,
        weight: int = 1,
        partitions: int = AlthingPartitioner.DEFAULT_PARTITION_NUMBER,
    ) -> AlthingPartitioner:
        """Joins a group, made if there is none, and returns a partitioner of it."""
        self.join_group_create(group_id, capabilities={"weight": weight})
        return AlthingPartitioner(self, group_id, partitions=partitions)

    def attach(self, group: bytes, partitioner: AlthingPartitioner) -> None:
        """Has a partitioner follow its group."""
        self._submit(lambda: self._sharing.attach(group, partitioner)).get()

    def detach(self, group: bytes, partitioner: AlthingPartitioner) -> None:
        """Has it follow no longer."""
        self._sharing.detach(group, partitioner)

    def settle(self, group: bytes) -> None:
        """Says that this member works no more on what it lost in a partitioned group."""
        self._submit(lambda: self._sharing.settle(group)).get()

    def incarnation(self, group: bytes) -> str | None:
        """Returns the stay in which this member surely is in a group now. Asks nobody."""
        session = self._session
        return session.incarnation(self.name_of(group), self.me) if session is not None else None

    def joined(self) -> set[bytes]:
        """Returns the groups that this member joined."""
        return set(self._joined_groups)

    # Watching.

    def watch_join_group(self, group_id: bytes, callback: Any) -> None:
        """Calls ``callback`` by ``run_watchers()`` when a member has joined."""
        self._watch(self._hooks_join_group, group_id, callback)

    def watch_leave_group(self, group_id: bytes, callback: Any) -> None:
        """Calls ``callback`` by ``run_watchers()`` when a member has left or was lost."""
        self._watch(self._hooks_leave_group, group_id, callback)

    def unwatch_join_group(self, group_id: bytes, callback: Any) -> None:
        """Calls it no longer."""
        self._unwatch(self._hooks_join_group, group_id, callback)

    def unwatch_leave_group(self, group_id: bytes, callback: Any) -> None:
        """Calls it no longer."""
        self._unwatch(self._hooks_leave_group, group_id, callback)

    def watch_elected_as_leader(self, group_id: bytes, callback: Any) -> None:
        """Stands for election, and calls ``callback`` by ``run_watchers()`` when this member leads."""
        group = names.to_id(group_id)
        self._hooks_elected_leader[group].append(callback)
        self._elections.joined(group)

    def unwatch_elected_as_leader(self, group_id: bytes, callback: Any) -> None:
        """Calls it no longer. Without a callback this member stands no more, and resigns if it leads."""
        _remove(self._hooks_elected_leader, names.to_id(group_id), callback)
        if self._started:
            self._elections.settle()

    def watch_leader_lost(self, group_id: bytes, callback: Callable[[LeaderLost], Any]) -> None:
        """Calls ``callback``, from a thread of the driver, as soon as this member leads no longer."""
        self._hooks_leader_lost.setdefault(names.to_id(group_id), []).append(callback)

    def unwatch_leader_lost(self, group_id: bytes, callback: Callable[[LeaderLost], Any]) -> None:
        """Calls it no longer."""
        _remove(self._hooks_leader_lost, names.to_id(group_id), callback)

    def on_lost(self, callback: Callable[[SessionLost], Any]) -> None:
        """Calls ``callback``, from a thread of the driver, when all that this coordinator holds is lost."""
        self._hooks_lost.append(callback)

    def on_removed(self, callback: Callable[[MemberRemoved], Any]) -> None:
        """Calls ``callback``, from a thread of the driver, when somebody removed this coordinator from a group."""
        self._hooks_removed.append(callback)

    def _watch(self, hooks: Any, group_id: bytes, callback: Any) -> None:
        group = names.to_id(group_id)
        if not self._watching.knows(group):
            self._watching.begin(group, self._submit(lambda: stays_of(self._members(group))).get())
        hooks[group].append(callback)

    def _unwatch(self, hooks: Any, group_id: bytes, callback: Any) -> None:
        group = names.to_id(group_id)
        _remove(hooks, group, callback)
        if not self._has_hooks_for_group(group):
            self._watching.forget(group)

    def run_watchers(self, timeout: float | None = None) -> list[Any]:
        """Calls the callbacks for all that changed since the last run. Returns what they returned.

        One that fails does not keep the others from being called; the first failure is raised at the end.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._watching.gate:
            for group in self._watched():
                self._look_at(group, None if until is None else max(0.0, until - time.monotonic()))
            self._sharing.settle_idle()
            results, failed = self._watching.pay()
            self.run_elect_coordinator()
        if failed is not None:
            raise failed
        return results

    def _watched(self) -> list[bytes]:
        groups = {*self._hooks_join_group, *self._hooks_leave_group, *self._sharing.groups()}
        session = self.session()
        for group in list(self._joined_groups):
            if session.stay(self.name_of(group), self.me) is None:
                self._joined_groups.discard(group)
        return sorted(groups)

    def _look_at(self, group: bytes, timeout: float | None) -> None:
        seen = stays_of(self._look(group, timeout))
        if self._member_id not in seen:
            self._joined_groups.discard(group)
        if self._has_hooks_for_group(group):
            self._watching.look(group, seen)

    def _look(self, group: bytes, timeout: float | None) -> list[MemberInfo]:
        is_shared = group in self._sharing
        try:
            if not is_shared:
                return self._submit(lambda: self._members(group)).get(timeout)
            info = self._submit(lambda: self._sharing.look(group)).get(timeout)
        except coordination.GroupNotCreated:
            if is_shared:
                self._sharing.follow(group, None)
            return []
        self._sharing.follow(group, info)
        return shown(info.members)

    # Leaders.

    def run_elect_coordinator(self) -> None:
        """Stands for election wherever there is a callback, and calls those of the groups it leads."""
        self.session()
        with failure.translated():
            self._elections.run()

    def get_leader(self, group_id: bytes) -> coordination.CoordAsyncResult[Any]:
        """Returns the id of who leads a group."""
        group = names.to_id(group_id)

        def act() -> bytes | None:
            try:
                leader = self.client.leader(self.name_of(group))
            except althing.NotFound:
                raise failure.group_not_created(group) from None
            return names.from_name(leader.member) if leader is not None else None

        return self._submit(act)

    def stand_down_group_leader(self, group_id: bytes) -> bool:
        """Hands the leadership over to whoever is next, if this member has it. Returns whether it had."""
        group = names.to_id(group_id)
        if not self.is_leader(group):
            return False
        with failure.translated():
            return self.client.stand_down(self.name_of(group)) in ("stopped", "asked")

    def is_leader(self, group_id: bytes) -> bool:
        """Tells whether this member leads a group now. Asks nobody; false once that was lost."""
        return self.leader_token(group_id) is not None

    def leader_token(self, group_id: bytes) -> Revision | None:
        """Returns the fencing token of the term in which this member leads now. Asks nobody."""
        session = self._session
        return session.term(self.name_of(names.to_id(group_id))) if session is not None else None

    # Locks.

    def get_lock(self, name: bytes) -> AlthingLock:
        """Returns a lock of that name. It is locked by nobody until it is acquired."""
        return AlthingLock(self, name)

    def take(self, key: bytes, shared: bool, wait: float | None) -> Grant | None:
        """Locks a name for a lock."""
        mode = "shared" if shared else "exclusive"
        label = f"{names.shown(self._member_id)} pid {os.getpid()}"
        begun = time.monotonic()

        def act(session: Session) -> Grant | None:
            left = None if wait is None else max(0.0, wait - (time.monotonic() - begun)) if wait else 0.0
            return session.acquire(
                [self.name_of(key)], mode=mode, wait=left, label=label, require=self.options.require
            )

        with failure.translated():
            grant = self.with_session(act)
        if grant is not None and not grant.is_held():
            self.give_back(grant)
            raise coordination.ToozConnectionError(f"the lock was lost as soon as it was granted: {grant.lost}")
        return grant

    def give_back(self, grant: Grant) -> bool:
        """Releases what a lock holds."""
        with failure.translated():
            return grant.release()

    def take_away(self, key: bytes, force: bool) -> bool:
        """Breaks a lock. Returns whether somebody lost it."""
        self.session()
        with failure.translated():
            try:
                return bool(self.client.break_lock(self.name_of(key), force=force).broken)
            except althing.NotFound:
                return False

    def still_owns(self, grant: Grant) -> bool:
        """Tells whether the host says so too."""
        with failure.translated():
            lock = grant.locks[0]
            holders = self.client.lock(lock.lock).holders
        there = any(h.token == lock.token and h.session == grant.session.id and not h.breaking for h in holders)
        return there and grant.is_held()

    # What the session tells.

    def _hear(self, event: althing.Event) -> None:
        if isinstance(event, althing.Lost):
            self._lose_leadership(event)
        elif isinstance(event, althing.Removed) and event.member == self.me:
            # Unless it joined again meanwhile.
            if self._session is not None and self._session.stay(event.group, self.me) is None:
                group = self._group_of(event.group)
                self._elections.left(group)
                _call(self._hooks_removed, MemberRemoved(group, self._member_id, event.reason))
        elif isinstance(event, althing.Standing) and event.standing == "lost":
            self._lose("the lease was not renewed in time")
        elif isinstance(event, althing.Ended) and not self._stopping:
            self._lose(event.reason)
            if self.options.keepalive:
                self._come_back()

    def _come_back(self) -> None:
        """Replaces a lost session, however long that takes, in the thread of its callbacks: this is the last one."""
        pause = _PAUSE_MIN
        while not self._stopping:
            lost = self._session
            if lost is None or lost.ended is None:
                return
            try:
                self._recover(lost)
                return
            except (althing.Error, tooz.ToozError) as error:
                _LOG.debug("another session could not be opened yet: %s", error)
            time.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 2, _PAUSE_MAX)

    def _lose_leadership(self, event: althing.Lost) -> None:
        group = self._group_of(event.hold.group)
        self._elections.lost(group, event.hold.term)
        told = LeaderLost(group, self._member_id, event.hold.term, event.reason)
        _call(self._hooks_leader_lost.get(group, []), told)

    def _lose(self, reason: str) -> None:
        _call(self._hooks_lost, SessionLost(reason))

    def _group_of(self, name: str) -> bytes:
        return names.from_name(name[len(self.prefix) :])


def _remove(hooks: Any, group: bytes, callback: Any) -> None:
    """Removes one registration. Makes no entry where there is none."""
    if callback not in hooks.get(group, ()):
        raise failure.WatchCallbackNotFound(group, callback)
    hooks[group].remove(callback)
    if not hooks[group]:
        del hooks[group]


def _call(callbacks: list[Callable[[Any], Any]], event: Any) -> None:
    for callback in list(callbacks):
        try:
            callback(event)
        except Exception:
            _LOG.exception("a callback for %r failed", event)
