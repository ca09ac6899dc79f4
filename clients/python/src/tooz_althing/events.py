"""Events of Tooz, with what Althing knows besides."""

from __future__ import annotations

from tooz import coordination

from althing import Revision
from tooz_althing import names


class MemberJoinedGroup(coordination.MemberJoinedGroup):
    """Tells that a member joined. ``incarnation`` names its stay: another one after a leave and a join."""

    def __init__(self, group_id: bytes, member_id: bytes, incarnation: str = "") -> None:
        super().__init__(group_id, member_id)
        self.incarnation = incarnation

    def __repr__(self) -> str:
        return f"<MemberJoinedGroup: group {names.shown(self.group_id)}: +member {names.shown(self.member_id)}>"


class MemberLeftGroup(coordination.MemberLeftGroup):
    """Tells that a member left, or was lost."""

    def __init__(self, group_id: bytes, member_id: bytes, incarnation: str = "") -> None:
        super().__init__(group_id, member_id)
        self.incarnation = incarnation

    def __repr__(self) -> str:
        return f"<MemberLeftGroup: group {names.shown(self.group_id)}: -member {names.shown(self.member_id)}>"


class LeaderElected(coordination.LeaderElected):
    """Tells that this coordinator leads. ``token`` is the fencing token of its term."""

    def __init__(self, group_id: bytes, member_id: bytes, token: Revision) -> None:
        super().__init__(group_id, member_id)
        self.token = token


class LeaderLost(coordination.Event):
    """Tells that this coordinator leads no longer."""

    def __init__(self, group_id: bytes, member_id: bytes, token: Revision, reason: str) -> None:
        self.group_id = group_id
        self.member_id = member_id
        self.token = token
        self.reason = reason


class SessionLost(coordination.Event):
    """Tells that nothing this coordinator held can be believed in any longer: no lock, no leadership."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class MemberRemoved(coordination.Event):
    """Tells that this coordinator is in a group no longer, though it did not leave: somebody evicted it."""

    def __init__(self, group_id: bytes, member_id: bytes, reason: str) -> None:
        self.group_id = group_id
        self.member_id = member_id
        self.reason = reason
