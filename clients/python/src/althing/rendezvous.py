"""Rendezvous hashing (highest random weight), with weights, in whole numbers only, so that every language agrees.

Every node draws a number for a key; the greatest draw, seen by weight, owns it. To change one node moves keys from or
to that node only, and a node's share is its weight's share of the sum, as closely as chance has it. A look-up asks
every node: it suits some hundreds of them. Bit for bit that of Althing's Rust crate.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Container, Iterable, Mapping
from fractions import Fraction
from typing import Generic

from althing.errors import Invalid
from althing.ring import Name

_FRACTION_BITS = 48


class Rendezvous(Generic[Name]):
    """Maps keys to nodes, each by its weight. The caller locks."""

    def __init__(self, nodes: Mapping[Name, int] | Iterable[Name] = ()) -> None:
        self._weights: dict[Name, int] = {}
        weights = nodes if isinstance(nodes, Mapping) else dict.fromkeys(nodes, 1)
        for node, weight in weights.items():
            self.set(node, weight)

    def __len__(self) -> int:
        """Counts the nodes."""
        return len(self._weights)

    @property
    def nodes(self) -> dict[Name, int]:
        """Returns the nodes and their weights."""
        return dict(self._weights)

    def set(self, node: Name, weight: int = 1) -> None:
        """Adds a node, or changes its weight. A weight of zero removes it."""
        if weight < 0:
            raise Invalid(f"a weight of {weight}")
        if weight:
            self._weights[node] = weight
        else:
            self._weights.pop(node, None)

    def remove(self, node: Name) -> bool:
        """Removes a node. Returns whether it was there."""
        return self._weights.pop(node, None) is not None

    def owner(self, key: str | bytes) -> Name | None:
        """Returns the owner of a key; ``None`` where there is no node."""
        return next(iter(self.owners(key)), None)

    def owners(self, key: str | bytes, n: int = 1, *, ignore: Container[Name] = ()) -> list[Name]:
        """Returns the first ``n`` owners of a key, the primary first; fewer where there are fewer nodes."""
        data = _bytes(key)
        bids = [(_draw(_bytes(node), data), _bytes(node), node) for node in self._weights if node not in ignore]
        if len(set(self._weights.values())) <= 1:
            # Of equal weights the greater draw is the lesser cost.
            return [node for _, _, node in heapq.nlargest(n, bids, key=lambda bid: bid[:2])]
        ranked = [(-Fraction(_cost(bid[0]), self._weights[bid[2]]), bid[0], bid[1], bid[2]) for bid in bids]
        return [bid[3] for bid in heapq.nlargest(n, ranked, key=lambda bid: bid[:3])]


def _draw(node: bytes, key: bytes) -> int:
    data = len(node).to_bytes(8, "big") + node + key
    return int.from_bytes(hashlib.sha256(data, usedforsecurity=False).digest()[:8], "big")


def _cost(draw: int) -> int:
    """Returns −log2(draw / 2⁶⁴) in units of 2⁻⁴⁸: a logarithm of floating point differs from machine to machine."""
    draw |= 1
    log = draw.bit_length() - 1
    rest = draw << (63 - log)
    for _ in range(_FRACTION_BITS):
        # Squaring doubles the logarithm, which brings its next bit before the point.
        square = rest * rest
        bit = square >> 127
        rest = square >> (63 + bit)
        log = log << 1 | bit
    return (64 << _FRACTION_BITS) - log


def _bytes(name: str | bytes) -> bytes:
    return name.encode() if isinstance(name, str) else bytes(name)
