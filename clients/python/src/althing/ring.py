"""A hash ring, bit for bit that of OpenStack Tooz (``tooz.hashring.HashRing``) and of Althing's Rust crate.

1. A node named ``k`` with a weight has ``partitions × weight`` points. The point of number *r* lies at the digest of
   ``k`` written *r* + 2 times, read as a big-endian number.
2. A key lies at its digest. It is owned by the node of the first point that lies *after* it; behind the last point
   the ring begins anew.
3. The owners of a key are the distinct nodes met on the way onward from there, in that order.

Where points of two nodes are equal, the node whose name is greater by its bytes has the point, and the other one gets
it back when that node goes.

Where Tooz fails, this does not follow: a weight may shrink and leaves no stale points, the order of owners is kept,
and a change costs what the points of the changed node cost.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from althing.errors import Invalid

Name = TypeVar("Name", str, bytes)


class Ring(Generic[Name]):
    """Maps keys to nodes, and keeps to that where a change of the nodes lets it. The caller locks."""

    def __init__(
        self,
        nodes: Mapping[Name, int] | Iterable[Name] = (),
        *,
        partitions: int = 32,
        hash: str = "md5",
    ) -> None:
        if hash not in hashlib.algorithms_available:
            raise Invalid(f"no hash function {hash} on this machine")
        self.partitions = partitions
        self.hash = hash
        self._weights: dict[Name, int] = {}
        self._owners: dict[int, list[Name]] = {}
        self._places: list[int] = []
        weights = nodes if isinstance(nodes, Mapping) else dict.fromkeys(nodes, 1)
        for node, weight in weights.items():
            self._weights[node] = weight
            for place in self._points(node, weight):
                self._own(place, node)
        self._places = sorted(self._owners)

    def __len__(self) -> int:
        """Counts the nodes."""
        return len(self._weights)

    @property
    def nodes(self) -> dict[Name, int]:
        """Returns the nodes and their weights."""
        return dict(self._weights)

    @property
    def points(self) -> list[int]:
        """Returns the points in the order of the ring. Equal points are one."""
        return list(self._places)

    def set(self, node: Name, weight: int = 1) -> None:
        """Adds a node, or changes its weight. A weight of zero removes it."""
        if weight < 0:
            raise Invalid(f"a weight of {weight}")
        before = self._weights.pop(node, 0)
        if weight > 0:
            self._weights[node] = weight
        had = self._points(node, before)
        have = self._points(node, weight)
        gone = [place for place in had.keys() - have.keys() if self._disown(place, node)]
        new = [place for place in have.keys() - had.keys() if self._own(place, node)]
        if len(gone) + len(new) > len(self._places) // 16:
            # So many that sorting once is less than moving what lies behind each.
            self._places = sorted(self._owners)
            return
        for place in gone:
            del self._places[bisect_left(self._places, place)]
        for place in new:
            insort(self._places, place)

    def remove(self, node: Name) -> bool:
        """Removes a node. Returns whether it was there."""
        was_there = node in self._weights
        self.set(node, 0)
        return was_there

    def follow(self, weights: Mapping[Name, int]) -> bool:
        """Makes the ring be of exactly these nodes and weights. Returns whether that changed anything."""
        changed = False
        for node in [node for node in self._weights if node not in weights]:
            changed = self.remove(node) or changed
        for node, weight in weights.items():
            if self._weights.get(node, 0) != weight:
                self.set(node, weight)
                changed = True
        return changed

    def owner(self, key: str | bytes) -> Name | None:
        """Returns the owner of a key; ``None`` where there is no point."""
        return next(self._onward(key), None)

    def owners(self, key: str | bytes, n: int = 1, *, ignore: Container[Name] = ()) -> list[Name]:
        """Returns the first ``n`` owners of a key, the primary first; fewer where there are fewer nodes."""
        found: dict[Name, None] = {}
        met: dict[Name, None] = {}
        for node in self._onward(key):
            if len(found) >= n or len(met) >= len(self._weights):
                break
            met[node] = None
            if node not in ignore:
                found[node] = None
        return list(found)

    def _onward(self, key: str | bytes) -> Iterator[Name]:
        if not self._places:
            return
        at = bisect_right(self._places, self._place(key))
        for step in range(len(self._places)):
            place = self._places[(at + step) % len(self._places)]
            yield self._owners[place][-1]

    def _points(self, node: Name, weight: int) -> dict[int, None]:
        name = _bytes(node)
        digest = hashlib.new(self.hash, name, usedforsecurity=False)
        points: dict[int, None] = {}
        # All points of a node without a name are the same one.
        for _ in range(self.partitions * weight if name else min(1, self.partitions * weight)):
            digest.update(name)
            points[int.from_bytes(digest.digest(), "big")] = None
        return points

    def _place(self, key: str | bytes) -> int:
        return int.from_bytes(hashlib.new(self.hash, _bytes(key), usedforsecurity=False).digest(), "big")

    def _own(self, place: int, node: Name) -> bool:
        """Notes who has a point. Returns whether the place is new."""
        owners = self._owners.setdefault(place, [])
        insort(owners, node, key=_bytes)
        return len(owners) == 1

    def _disown(self, place: int, node: Name) -> bool:
        """Notes who has a point no longer. Returns whether the place is gone."""
        owners = self._owners[place]
        owners.remove(node)
        if not owners:
            del self._owners[place]
        return not owners


def _bytes(name: str | bytes) -> bytes:
    return name.encode() if isinstance(name, str) else bytes(name)
