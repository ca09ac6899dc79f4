"""What hosts show: the same as in Rust and in JSON.

Unknown fields of a newer host are ignored; fields that an older one lacks take their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from althing import codec
from althing.revision import Revision

Json = Mapping[str, Any]


def _revision(value: Any) -> Revision:
    return Revision(value or 0)


@dataclass(frozen=True)
class Hold:
    """Describes a leadership that a session holds."""

    group: str
    member: str
    #: The fencing token of the term: strictly rising over all terms of the group.
    term: Revision

    @classmethod
    def read(cls, json: Json) -> Hold:
        """Reads it from JSON."""
        return cls(json["group"], json["member"], Revision(json["term"]))


@dataclass(frozen=True)
class LockHold:
    """Describes a lock that a session holds."""

    lock: str
    #: ``exclusive``, ``shared`` or ``permit``.
    mode: str
    #: How many permits there are.
    limit: int | None
    #: The fencing token: higher than that of whoever held it before. Those let in together have the same one.
    token: Revision
    #: Wall time of the grant in milliseconds since 1970, as a host saw it.
    since_ms: int
    #: Names the request by which it was locked.
    id: str

    @classmethod
    def read(cls, json: Json) -> LockHold:
        """Reads it from JSON."""
        return cls(
            json["lock"], json.get("mode") or "exclusive", json.get("limit"), Revision(json["token"]),
            int(json.get("since_ms") or 0), str(json.get("id") or ""),
        )  # fmt: skip


@dataclass(frozen=True)
class MemberInfo:
    """Describes a member of a group."""

    id: str
    #: Names this stay: another one after a leave and a join.
    incarnation: str
    #: The id of the host through which it joined.
    host: str
    metadata: dict[str, str]
    #: What it can do, as it says: any JSON value, bytes among it.
    capabilities: Any
    #: Whether it stands for election.
    candidate: bool
    #: Wall time of its joining in milliseconds since 1970, as its host saw it.
    joined_ms: int
    #: Wall time of its last change.
    updated_ms: int
    #: The revision of its joining: the order of seniority.
    since: Revision
    #: The revision of its last change.
    updated: Revision

    @classmethod
    def read(cls, json: Json) -> MemberInfo:
        """Reads it from JSON."""
        joined_ms = int(json.get("joined_ms") or 0)
        return cls(
            id=json["id"],
            incarnation=json["incarnation"],
            host=json.get("host") or "",
            metadata=dict(json.get("metadata") or {}),
            capabilities=codec.decode(json.get("capabilities")),
            candidate=bool(json.get("candidate", True)),
            joined_ms=joined_ms,
            updated_ms=int(json.get("updated_ms") or joined_ms),
            since=_revision(json.get("since")),
            updated=_revision(json.get("updated") or json.get("since")),
        )


@dataclass(frozen=True)
class LeaderInfo:
    """Describes who leads a group."""

    member: str
    incarnation: str
    host: str
    #: The fencing token of its term.
    term: Revision
    #: Wall time at which the term began in milliseconds since 1970.
    since_ms: int
    #: The member being asked to take over, while a hand-over is under way.
    successor: str | None
    #: It was asked to stop and has not confirmed yet.
    revoked: bool

    @classmethod
    def read(cls, json: Json) -> LeaderInfo:
        """Reads it from JSON."""
        return cls(
            json["member"], json.get("incarnation") or "", json.get("host") or "", Revision(json["term"]),
            int(json.get("since_ms") or 0), json.get("successor"), bool(json.get("revoked")),
        )  # fmt: skip


@dataclass(frozen=True)
class Share:
    """Describes a member's part in a partition."""

    #: The member's id.
    id: str
    #: The stay in which it shares.
    incarnation: str
    #: How large its part is beside the others'. With 0 it has none.
    weight: int

    @classmethod
    def read(cls, json: Json) -> Share:
        """Reads it from JSON."""
        return cls(json["id"], json["incarnation"], int(json.get("weight", 1)))


@dataclass(frozen=True)
class PartitionInfo:
    """Describes the shares of a group's members at one moment."""

    #: ``ring`` or ``rendezvous``.
    algorithm: str
    #: On a ring, how many points a member has for each unit of its weight.
    points: int
    #: Rises with every change of the shares.
    version: int
    #: Who shares now, the oldest member first.
    members: tuple[Share, ...]
    #: Who shared before.
    former: tuple[Share, ...]
    #: The ids of those former ones that have not said yet that they gave up what they lost.
    pending: tuple[str, ...]

    @classmethod
    def read(cls, json: Json) -> PartitionInfo:
        """Reads it from JSON."""
        return cls(
            json.get("algorithm") or "ring", int(json.get("points") or 32), int(json["version"]),
            tuple(Share.read(share) for share in json.get("members") or ()),
            tuple(Share.read(share) for share in json.get("former") or ()),
            tuple(json.get("pending") or ()),
        )  # fmt: skip

    @classmethod
    def told(cls, event: Json) -> PartitionInfo | None:
        """Reads it from an event of a group: ``partitioned``, or the ``snapshot`` of a group that is partitioned."""
        told = event.get("partition") or (event.get("group") or {}).get("partition")
        return cls.read(told) if told and event.get("event") in ("snapshot", "partitioned") else None

    def is_newer_than(self, other: PartitionInfo) -> bool:
        """Tells whether this was so after ``other``."""
        if self.version != other.version:
            return self.version > other.version
        return len(self.pending) < len(other.pending)


@dataclass(frozen=True)
class Owners:
    """Describes whom an object belongs to."""

    object: str
    #: The id of the member that may work on it now; nobody while it moves.
    owner: str | None
    #: The members it is to belong to once nothing moves any more, the first owner first.
    owners: tuple[str, ...]

    @classmethod
    def read(cls, json: Json) -> Owners:
        """Reads it from JSON."""
        return cls(json["object"], json.get("owner"), tuple(json.get("owners") or ()))


@dataclass(frozen=True)
class OwnersInfo:
    """Describes whom objects belong to at one moment."""

    #: The version of the partition.
    version: int
    #: In the order in which they were asked for.
    objects: tuple[Owners, ...]

    @classmethod
    def read(cls, json: Json) -> OwnersInfo:
        """Reads it from JSON."""
        return cls(int(json["version"]), tuple(Owners.read(owners) for owners in json.get("objects") or ()))


@dataclass(frozen=True)
class GroupInfo:
    """Describes a group at one moment."""

    name: str
    revision: Revision
    #: Oldest first.
    members: list[MemberInfo]
    leader: LeaderInfo | None
    #: It goes when its last member has gone.
    ephemeral: bool
    #: Rises with every activation and rollback of a policy; 0 before the first.
    epoch: int
    #: What its members share, where it is partitioned.
    partition: PartitionInfo | None
    #: The whole answer, as JSON.
    json: Json = field(repr=False, compare=False)

    @classmethod
    def read(cls, json: Json) -> GroupInfo:
        """Reads it from JSON."""
        leader, partition = json.get("leader"), json.get("partition")
        return cls(
            name=json["name"],
            revision=_revision(json.get("revision")),
            members=[MemberInfo.read(member) for member in json.get("members") or ()],
            leader=LeaderInfo.read(leader) if leader else None,
            ephemeral=bool(json.get("ephemeral")),
            epoch=int(json.get("epoch") or 0),
            partition=PartitionInfo.read(partition) if partition else None,
            json=json,
        )


@dataclass(frozen=True)
class GroupSummary:
    """Describes a group in one line."""

    name: str
    members: int
    leader: str | None
    policy: str | None
    ephemeral: bool

    @classmethod
    def read(cls, json: Json) -> GroupSummary:
        """Reads it from JSON."""
        return cls(
            json["name"], int(json.get("members") or 0), json.get("leader"), json.get("policy"),
            bool(json.get("ephemeral")),
        )  # fmt: skip


@dataclass(frozen=True)
class LockHolder:
    """Describes who holds a lock."""

    principal: str
    #: What the holder says of itself.
    label: str | None
    host: str
    session: str
    mode: str
    token: Revision
    since_ms: int
    #: It was asked to stop and has not said yet that it did.
    breaking: bool

    @classmethod
    def read(cls, json: Json) -> LockHolder:
        """Reads it from JSON."""
        return cls(
            json.get("principal") or "", json.get("label"), json.get("host") or "", json.get("session") or "",
            json.get("mode") or "exclusive", Revision(json["token"]), int(json.get("since_ms") or 0),
            bool(json.get("breaking")),
        )  # fmt: skip


@dataclass(frozen=True)
class LockWaiter:
    """Describes who waits for a lock."""

    #: Its place: 1 is next.
    position: int
    principal: str
    label: str | None
    host: str
    session: str
    mode: str
    since_ms: int

    @classmethod
    def read(cls, json: Json) -> LockWaiter:
        """Reads it from JSON."""
        return cls(
            int(json.get("position") or 0), json.get("principal") or "", json.get("label"),
            json.get("host") or "", json.get("session") or "", json.get("mode") or "exclusive",
            int(json.get("since_ms") or 0),
        )  # fmt: skip


@dataclass(frozen=True)
class LockInfo:
    """Describes a lock at one moment. One that nobody holds or waits for has empty lists."""

    name: str
    limit: int | None
    holders: list[LockHolder]
    waiters: list[LockWaiter]

    @classmethod
    def read(cls, json: Json) -> LockInfo:
        """Reads it from JSON."""
        return cls(
            json["name"], json.get("limit"), [LockHolder.read(holder) for holder in json.get("holders") or ()],
            [LockWaiter.read(waiter) for waiter in json.get("waiters") or ()],
        )  # fmt: skip


@dataclass(frozen=True)
class LockSummary:
    """Describes a lock in one line."""

    name: str
    mode: str | None
    limit: int | None
    holders: int
    waiters: int

    @classmethod
    def read(cls, json: Json) -> LockSummary:
        """Reads it from JSON."""
        return cls(
            json["name"], json.get("mode"), json.get("limit"), int(json.get("holders") or 0),
            int(json.get("waiters") or 0),
        )  # fmt: skip


@dataclass(frozen=True)
class LockBroken:
    """Describes what came of taking a lock away."""

    #: The tokens that hold it no longer.
    broken: list[Revision]
    #: Those whose holders were asked and have not said yet that they stopped.
    asked: list[Revision]

    @classmethod
    def read(cls, json: Json) -> LockBroken:
        """Reads it from JSON."""
        return cls(
            [Revision(token) for token in json.get("broken") or ()],
            [Revision(token) for token in json.get("asked") or ()],
        )


@dataclass(frozen=True)
class HostInfo:
    """Describes the host itself."""

    id: str
    name: str
    backend: str
    standing: str
    #: The whole answer, as JSON.
    json: Json = field(repr=False, compare=False)

    @classmethod
    def read(cls, json: Json) -> HostInfo:
        """Reads it from JSON."""
        return cls(json["id"], json.get("name") or "", json.get("backend") or "", json["standing"], json)


@dataclass(frozen=True)
class Renewal:
    """Describes what a renewal granted, counted from the moment it was *sent*."""

    #: For how many seconds the session is surely kept.
    remaining: float
    holds: list[Hold]
    #: What is locked; ``None`` from a host that knows no locks.
    locks: list[LockHold] | None

    @classmethod
    def read(cls, json: Json) -> Renewal:
        """Reads it from JSON."""
        locks = json.get("locks")
        return cls(
            max(0.0, float(json["remaining_ms"]) / 1000),
            [Hold.read(hold) for hold in json.get("holds") or ()],
            None if locks is None else [LockHold.read(lock) for lock in locks],
        )
