"""Groups and members, as Tooz asks for them."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from tooz import coordination

import althing
from althing import Client, MemberInfo, Session
from tooz_althing import failure, names, values

if TYPE_CHECKING:
    from tooz_althing.election import Elections
    from tooz_althing.options import Options
    from tooz_althing.work import Worker

T = TypeVar("T")

#: What the metadata of a candidate say that did not join: it is no member in the eyes of Tooz, and has no part in what
#: the members share.
HIDDEN = {"tooz": "candidate", "weight": "0"}


class GroupCalls(coordination.CoordinationDriverCachedRunWatchers):
    """Does what a coordinator is asked about groups and members. The driver is built on it."""

    client: Client
    options: Options
    #: The name by which the host knows this member.
    me: str
    #: Put before the names of groups and locks.
    prefix: str
    #: Taken while members of this coordinator change, so that two threads do not undo each other.
    gate: threading.RLock
    _worker: Worker
    _elections: Elections

    def session(self) -> Session:
        """Returns the session; after a fork, one of this process."""
        raise NotImplementedError

    def with_session(self, act: Callable[[Session], T]) -> T:
        """Does something with the session; once more with another one, where it turns out to be lost."""
        raise NotImplementedError

    def _submit(self, act: Callable[[], T]) -> coordination.CoordinatorResult[T]:
        self.session()

        def work() -> T:
            with failure.translated():
                return act()

        return coordination.CoordinatorResult(self._worker.submit(work))

    def name_of(self, group: bytes) -> str:
        """Returns the name by which the host knows a group or a lock."""
        return self.prefix + names.to_name(group)

    def create_group(self, group_id: bytes) -> coordination.CoordAsyncResult[None]:
        """Creates a group."""
        group = names.to_id(group_id)

        def act() -> None:
            try:
                self.client.create_group(self.name_of(group), require=self.options.require)
            except althing.Exists:
                raise coordination.GroupAlreadyExist(names.shown(group)) from None

        return self._submit(act)

    def get_groups(self) -> coordination.CoordAsyncResult[list[bytes]]:
        """Lists the groups; with a namespace, those in it."""

        def act() -> list[bytes]:
            found = [group.name for group in self.client.groups()]
            cut = len(self.prefix)
            return [names.from_name(name[cut:]) for name in found if name.startswith(self.prefix)]

        return self._submit(act)

    def delete_group(self, group_id: bytes) -> coordination.CoordAsyncResult[None]:
        """Deletes a group that has no members."""
        group = names.to_id(group_id)

        def act() -> None:
            with self.gate:
                stay = self.session().stay(self.name_of(group), self.me)
                if stay is not None and is_hidden(stay.ask.get("metadata")):
                    self.session().leave(self.name_of(group), self.me)
            try:
                self.client.delete_group(self.name_of(group))
            except althing.NotFound:
                raise failure.group_not_created(group) from None
            except althing.Conflict:
                raise coordination.GroupNotEmpty(names.shown(group)) from None

        return self._submit(act)

    def join_group(self, group_id: bytes, capabilities: Any = None) -> coordination.CoordAsyncResult[None]:
        """Joins a group."""
        group = names.to_id(group_id)
        return self._submit(lambda: self._join(group, capabilities, create=False))

    def join_group_create(self, group_id: bytes, capabilities: Any = None) -> None:
        """Joins a group, made if there is none, in one request."""
        group = names.to_id(group_id)
        self._submit(lambda: self._join(group, capabilities, create=True)).get()

    def _join(self, group: bytes, capabilities: Any, create: bool) -> None:
        value = values.dumps(capabilities)
        with self.gate:
            try:
                self.with_session(lambda session: self._join_by(session, group, value, create))
            except althing.NotFound:
                raise failure.group_not_created(group) from None
            except althing.Exists:
                raise failure.member_already_exist(group, self._member_id) from None
            self._joined_groups.add(group)
            self._elections.joined(group)

    def _join_by(self, session: Session, group: bytes, value: Any, create: bool) -> None:
        name = self.name_of(group)
        stay = session.stay(name, self.me)
        if stay is not None and is_hidden(stay.ask.get("metadata")):
            return session.update(name, self.me, metadata={}, capabilities=value)
        if stay is not None and self._is_there(name):
            raise failure.member_already_exist(group, self._member_id)
        session.join(
            name,
            self.me,
            capabilities=value,
            candidate=False,
            create=create,
            ephemeral=create and self.options.ephemeral,
            require=self.options.require,
        )

    def _is_there(self, name: str) -> bool:
        try:
            self.client.member(name, self.me)
        except althing.NotFound:
            return False
        return True

    def leave_group(self, group_id: bytes) -> coordination.CoordAsyncResult[None]:
        """Makes the member of this id leave a group, also one that joined by another coordinator."""
        group = names.to_id(group_id)
        return self._submit(lambda: self._leave(group))

    def _leave(self, group: bytes) -> None:
        name = self.name_of(group)
        with self.gate:
            stay = self.session().stay(name, self.me)
            if stay is None:
                return self._leave_elsewhere(group)
            if is_hidden(stay.ask.get("metadata")):
                raise failure.member_not_joined(group, self._member_id)
            self._elections.left(group)
            self._joined_groups.discard(group)
            self.session().leave(name, self.me)

    def _leave_elsewhere(self, group: bytes) -> None:
        self._member(group, self._member_id)
        self._joined_groups.discard(group)
        try:
            answer = self.client.evict(self.name_of(group), self.me)
        except althing.NotFound:
            raise failure.member_not_joined(group, self._member_id) from None
        if answer != "evicted":
            message = f"{names.shown(self._member_id)} was asked to leave {names.shown(group)} and has not yet"
            raise coordination.OperationTimedOut(message)

    def get_members(self, group_id: bytes) -> coordination.CoordAsyncResult[set[bytes]]:
        """Returns the ids of the members."""
        group = names.to_id(group_id)
        return self._submit(lambda: {names.from_name(member.id) for member in self._members(group)})

    def get_members_with_capabilities(self, group_id: bytes) -> coordination.CoordAsyncResult[dict[bytes, Any]]:
        """Returns the members and their capabilities, in one request."""
        group = names.to_id(group_id)
        return self._submit(lambda: capabilities_of(self._members(group)))

    def get_member_capabilities(self, group_id: bytes, member_id: bytes) -> coordination.CoordAsyncResult[Any]:
        """Returns the capabilities of a member."""
        group, member = names.to_id(group_id), names.to_id(member_id)
        return self._submit(lambda: values.loads(self._member(group, member).capabilities))

    def get_member_info(self, group_id: bytes, member_id: bytes) -> coordination.CoordAsyncResult[dict[str, Any]]:
        """Returns the capabilities of a member, and when it joined and changed, in the local time of this machine."""
        group, member = names.to_id(group_id), names.to_id(member_id)

        def act() -> dict[str, Any]:
            info = self._member(group, member)
            return {
                "capabilities": values.loads(info.capabilities),
                "created_at": datetime.datetime.fromtimestamp(info.joined_ms / 1000),
                "updated_at": datetime.datetime.fromtimestamp(info.updated_ms / 1000),
            }

        return self._submit(act)

    def update_capabilities(self, group_id: bytes, capabilities: Any) -> coordination.CoordAsyncResult[None]:
        """Changes the capabilities of this member. Partitioners follow its weight."""
        group = names.to_id(group_id)

        def act() -> None:
            value = values.dumps(capabilities)
            with self.gate:
                session = self.session()
                stay = session.stay(self.name_of(group), self.me)
                if stay is None or is_hidden(stay.ask.get("metadata")):
                    self._members(group)
                    raise failure.member_not_joined(group, self._member_id)
                try:
                    session.update(self.name_of(group), self.me, capabilities=value)
                except (althing.NotFound, althing.Denied):
                    raise failure.member_not_joined(group, self._member_id) from None

        return self._submit(act)

    def _members(self, group: bytes) -> list[MemberInfo]:
        try:
            return shown(self.client.members(self.name_of(group)))
        except althing.NotFound:
            raise failure.group_not_created(group) from None

    def _member(self, group: bytes, member: bytes) -> MemberInfo:
        try:
            info = self.client.member(self.name_of(group), names.to_name(member))
        except althing.NotFound:
            # It is the group or the member that is missing.
            self._members(group)
            raise failure.member_not_joined(group, member) from None
        if is_hidden(info.metadata):
            raise failure.member_not_joined(group, member)
        return info


def is_hidden(metadata: Any) -> bool:
    """Tells whether metadata are those of a candidate that did not join."""
    return bool(metadata) and metadata.get("tooz") == HIDDEN["tooz"]


def shown(members: list[MemberInfo]) -> list[MemberInfo]:
    """Returns those who are members in the eyes of Tooz."""
    return [member for member in members if not is_hidden(member.metadata)]


def capabilities_of(members: list[MemberInfo]) -> dict[bytes, Any]:
    """Returns the members and their capabilities."""
    return {names.from_name(member.id): values.loads(member.capabilities) for member in members}


def stays_of(members: list[MemberInfo]) -> dict[bytes, str]:
    """Returns the members and the names of their stays."""
    return {names.from_name(member.id): member.incarnation for member in members}
