"""The ring and rendezvous hashing, against Tooz's own and the vectors of the Rust crate, which lie there."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tooz import hashring

import althing
from althing.rendezvous import _cost


VECTORS = Path(__file__).parents[3] / "host" / "ring" / "tests"


def _vectors(name):
    return json.loads((VECTORS / f"{name}.json").read_text())


def _name(value):
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


@pytest.mark.parametrize("vector", _vectors("tooz"))
def test_every_vector_of_tooz_holds(vector):
    nodes = [_name(node) for node in vector["nodes"]]
    weights = {node: vector["weights"].get(node, 1) if isinstance(node, str) else 1 for node in nodes}
    ring = althing.Ring(weights, partitions=vector["partitions"], hash=vector["hash"])
    assert len(ring.points) == vector["points"]
    assert [hex(point) for point in ring.points[:3]] == vector["first_points"]
    assert hex(ring.points[-1]) == vector["last_point"]
    for lookup in vector["lookups"]:
        ignore = {_name(node) for node in lookup["ignore"]}
        owners = ring.owners(lookup["key"], lookup["replicas"], ignore=ignore)
        assert set(owners) == {_name(node) for node in lookup["result"]}
        assert len(owners) == len(set(owners))


def test_a_ring_that_was_changed_is_one_that_was_made_so():
    chance = random.Random(7)
    ring, weights = althing.Ring(), {}
    for step in range(200):
        node = f"n{chance.randrange(12)}"
        weight = chance.randrange(4)
        ring.set(node, weight)
        weights[node] = weight
        weights = {node: weight for node, weight in weights.items() if weight}
        assert ring.points == althing.Ring(weights).points, step
    tooz = hashring.HashRing([])
    for node, weight in weights.items():
        tooz.add_node(node, weight)
    for key in range(500):
        assert set(ring.owners(str(key), 3)) == tooz.get_nodes(str(key).encode(), replicas=3)


def test_equal_points_go_to_the_greater_name_and_back():
    ring = althing.Ring(["a"])
    alone = ring.points
    shared = set(alone) & set(althing.Ring(["aa"]).points)
    assert shared, "every second point of a is one of aa"
    ring.set("aa")
    assert all(ring._owners[point][-1] == "aa" for point in shared)
    ring.remove("aa")
    assert ring.points == alone and {ring.owner(str(key)) for key in range(100)} == {"a"}


def test_owners_come_in_their_order_and_an_empty_ring_has_none():
    ring = althing.Ring(["a", "b", "c"])
    for key in map(str, range(100)):
        owners = ring.owners(key, 3)
        assert owners[0] == ring.owner(key) and sorted(owners) == ["a", "b", "c"]
        assert ring.owners(key, 2, ignore={owners[0]}) == owners[1:]
    assert althing.Ring().owners("a", 3) == [] and althing.Ring().owner("a") is None


def _bytes(value):
    name = _name(value)
    return name.encode() if isinstance(name, str) else name


@pytest.mark.parametrize("vector", _vectors("ring"))
def test_every_ring_of_the_rust_crate_is_the_same(vector):
    weights = {_bytes(node): weight for node, weight in vector["nodes"]}
    ring = althing.Ring(weights, partitions=vector["partitions"], hash=vector["hash"])
    assert len(ring.points) == vector["points"]
    for point, node in vector["first_points"]:
        assert ring._owners[int(point, 16)][-1] == _bytes(node)
    for lookup in vector["lookups"]:
        owners = ring.owners(_bytes(lookup["key"]), len(lookup["owners"]))
        assert owners == [_bytes(node) for node in lookup["owners"]]


@pytest.mark.parametrize("vector", _vectors("rendezvous"))
def test_every_rendezvous_of_the_rust_crate_is_the_same(vector):
    rendezvous = althing.Rendezvous({_bytes(node): weight for node, weight in vector["nodes"]})
    for lookup in vector["lookups"]:
        key, expected = _bytes(lookup["key"]), [_bytes(node) for node in lookup["owners"]]
        assert rendezvous.owners(key, len(expected)) == expected
        assert rendezvous.owner(key) == expected[0]
        assert rendezvous.owners(key, len(expected) - 1, ignore={expected[0]}) == expected[1:]


def test_a_cost_is_that_of_the_vectors():
    for row in _vectors("costs"):
        assert _cost(int(row["draw"])) == int(row["cost"])


def test_a_node_changes_only_its_own_keys():
    rendezvous = althing.Rendezvous({"a": 1, "b": 2, "c": 3})
    before = {str(key): rendezvous.owner(str(key)) for key in range(300)}
    rendezvous.set("d", 2)
    moved = {key for key in before if rendezvous.owner(key) != before[key]}
    assert moved and all(rendezvous.owner(key) == "d" for key in moved)
    assert rendezvous.remove("d") and not rendezvous.remove("d")
    assert all(rendezvous.owner(key) == owner for key, owner in before.items())
    assert althing.Rendezvous().owner("a") is None and len(rendezvous) == 3
