"""Who may work on what while shares move: never two. Agrees with Althing's Rust crate.

A member that is to get an object waits until the one that had it has said that it gave it up. So an object has one
owner or, while it moves, none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Generic

from althing import limits
from althing.errors import Invalid
from althing.info import MemberInfo, PartitionInfo, Share
from althing.rendezvous import Rendezvous
from althing.ring import Name, Ring


class Shares(Generic[Name]):
    """Holds the shares of nodes, on their way from one assignment to the next.

    ``former`` and ``next`` say what every node had and is to have, by its weight; ``pending`` names those that have
    not said yet that they gave up what they lose.
    """

    def __init__(
        self,
        former: Mapping[Name, int],
        next: Mapping[Name, int],
        pending: Iterable[Name] = (),
        *,
        algorithm: str = "ring",
        points: int = 32,
    ) -> None:
        if algorithm not in ("ring", "rendezvous"):
            raise Invalid(f"shares are assigned by ring or by rendezvous, not by {algorithm}")
        self.algorithm = algorithm
        self.points = points
        self.pending: frozenset[Name] = frozenset(pending)
        self._weights: tuple[dict[Name, int], dict[Name, int]] = (dict(former), dict(next))

    def owner(self, key: str | bytes) -> Name | None:
        """Returns who may work on an object now; ``None`` while it moves, and when there is nobody."""
        next = self.next.owner(key)
        if next is not None and self.pending:
            former = self.former.owner(key)
            if former != next and former in self.pending:
                return None
        return next

    def owners(self, key: str | bytes, n: int = 1) -> list[Name]:
        """Returns up to ``n`` nodes that an object is to belong to in the end, the first owner first."""
        return self.next.owners(key, n)

    def moves(self, keys: Iterable[str]) -> list[tuple[str, Name | None, Name | None]]:
        """Returns which of these objects change hands: each with who had it and who is to get it."""
        owners = ((key, self.former.owner(key), self.next.owner(key)) for key in keys)
        return [(key, had, gets) for key, had, gets in owners if had != gets]

    # Made when they are needed: who was there before matters only while somebody is pending.

    @cached_property
    def former(self) -> Ring[Name] | Rendezvous[Name]:
        """Returns what every node had."""
        return self._assigned(self._weights[0])

    @cached_property
    def next(self) -> Ring[Name] | Rendezvous[Name]:
        """Returns what every node is to have."""
        return self._assigned(self._weights[1])

    def _assigned(self, weights: dict[Name, int]) -> Ring[Name] | Rendezvous[Name]:
        weights = {node: weight for node, weight in weights.items() if weight}
        if self.algorithm == "rendezvous":
            return Rendezvous(weights)
        return Ring(weights, partitions=self.points)


def shares_of(info: PartitionInfo) -> Shares[str]:
    """Makes the shares of what is shown of a partition."""
    return Shares(
        {share.id: share.weight for share in info.former},
        {share.id: share.weight for share in info.members},
        info.pending,
        algorithm=info.algorithm,
        points=info.points,
    )


def shares_among(members: Iterable[MemberInfo], points: int = 32) -> list[Share]:
    """Returns the parts that a host gives the members of a group, listed oldest first, in its next version.

    Where they are too many for one ring, those who came last have none.
    """
    shares: list[Share] = []
    size = places = 0
    for member in members:
        share = Share(member.id, member.incarnation, weight_of(member))
        size += len(share.id.encode()) + len(share.incarnation.encode())
        places += share.weight * points
        is_full = len(shares) >= limits.PARTITION_MEMBERS_MAX
        if is_full or size > limits.PARTITION_NAMES_BYTES_MAX or places > limits.PARTITION_RING_POINTS_MAX:
            break
        shares.append(share)
    return shares


def weight_of(member: MemberInfo) -> int:
    """Returns the weight of a member: the number ``weight`` of its capabilities, else of its metadata, else 1."""
    said = member.capabilities.get("weight") if isinstance(member.capabilities, dict) else None
    if isinstance(said, bool) or not isinstance(said, int) or not 0 <= said < 1 << 64:
        text = member.metadata.get("weight", "")
        is_number = text.isascii() and text.removeprefix("+").isdigit() and len(text) <= 20
        said = int(text) if is_number and int(text) < 1 << 64 else 1
    return min(said, limits.PARTITION_WEIGHT_MAX)
