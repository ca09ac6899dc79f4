"""Who may work on what while shares move. The first claims are those of the Rust crate's ``shares.rs``."""

from __future__ import annotations

import random

import pytest

import althing
from althing.shares import shares_among, shares_of, weight_of

OBJECTS = [f"object-{index}" for index in range(500)]
TWO, THREE = {"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("algorithm", ["ring", "rendezvous"])
def test_an_object_that_moves_has_no_owner_until_the_former_one_gave_it_up(algorithm):
    before, moving, half, after = (
        althing.Shares(TWO, next, pending, algorithm=algorithm)
        for next, pending in [(TWO, []), (THREE, ["a", "b"]), (THREE, ["b"]), (THREE, [])]
    )
    moved = 0
    for key in OBJECTS:
        had, has = before.owner(key), after.owner(key)
        moved += had != has
        assert moving.owner(key) == (has if had == has else None)
        assert half.owner(key) == (None if had != has and had == "b" else has)
        assert sorted(moving.owners(key, 3)) == ["a", "b", "c"]
    assert 100 <= moved < 300
    assert len(moving.moves(OBJECTS)) == moved
    assert all(gets == "c" and had in TWO for _, had, gets in moving.moves(OBJECTS))


@pytest.mark.parametrize("algorithm", ["ring", "rendezvous"])
def test_who_has_seen_a_change_and_who_has_not_never_own_the_same_object(algorithm):
    chance, weights = random.Random(7), {"a": 1}
    for _ in range(40):
        former = dict(weights)
        weights[chance.choice("abcd")] = chance.randrange(4)
        old = althing.Shares(former, former, algorithm=algorithm)
        losers = {had for _, had, _ in althing.Shares(former, weights, algorithm=algorithm).moves(OBJECTS)} - {None}
        new = althing.Shares(former, weights, losers, algorithm=algorithm)
        for key in OBJECTS[:100]:
            believers = {old.owner(key) if old.owner(key) in losers else new.owner(key), new.owner(key)} - {None}
            assert len(believers) <= 1


def test_bytes_name_nodes_and_objects_as_well():
    shares = althing.Shares({b"a": 1}, {b"a": 1, b"b": 1}, [b"a"])
    assert {shares.owner(key.encode()) for key in OBJECTS} == {b"a", None}
    assert althing.Shares({}, {}).owner("x") is None


def test_an_algorithm_nobody_knows_is_refused():
    with pytest.raises(althing.Invalid, match="jump"):
        althing.Shares({}, {}, algorithm="jump")


def _told(**partition):
    share = {"id": "a", "incarnation": "i", "weight": 2}
    return {"algorithm": "ring", "points": 8, "version": 3, "members": [share], "former": [], "pending": [], **partition}


def test_what_a_group_tells_is_read_from_both_of_its_events():
    snapshot = {"event": "snapshot", "group": {"name": "g", "partition": _told()}}
    partitioned = {"event": "partitioned", "partition": _told(pending=["a"]), "revision": "1"}
    first, second = althing.PartitionInfo.told(snapshot), althing.PartitionInfo.told(partitioned)
    assert first == althing.PartitionInfo("ring", 8, 3, (althing.Share("a", "i", 2),), (), ())
    assert second.pending == ("a",) and first.is_newer_than(second) and not second.is_newer_than(first)
    assert althing.PartitionInfo.told({"event": "joined", "member": {}}) is None
    assert shares_of(first).next.nodes == {"a": 2}
    group = althing.GroupInfo.read({"name": "g", "partition": _told()})
    assert group.partition == first and althing.GroupInfo.read({"name": "g"}).partition is None


def _member(name, capabilities=None, **metadata):
    json = {"id": name, "incarnation": f"{name}-1", "capabilities": capabilities, "metadata": metadata}
    return althing.MemberInfo.read(json)


@pytest.mark.parametrize(
    ("capabilities", "metadata", "weight"),
    [
        (None, {}, 1), ({"weight": 5}, {}, 5), ({"weight": 0}, {}, 0), ({"weight": 65}, {}, 64),
        ({"weight": -3}, {}, 1), ({"weight": 2.0}, {}, 1), ({"weight": True}, {}, 1), ({"weight": 1 << 64}, {}, 1),
        ({"weight": "9"}, {"weight": "7"}, 7), ([1], {"weight": "0"}, 0), (None, {"weight": "-1"}, 1), (None, {"weight": ""}, 1),
    ],
)  # fmt: skip
def test_a_weight_is_read_as_hosts_read_it(capabilities, metadata, weight):
    assert weight_of(_member("a", capabilities, **metadata)) == weight


def test_weights_are_those_that_the_host_shares_by(client, session, name):
    said = [{"weight": 3}, {"weight": -3}, {"weight": 2.0}, {"weight": 10**12}, {"weight": "4"}, None, [1], {"weight": 0}]
    for index, capabilities in enumerate(said):
        session.join(name, f"m{index}", capabilities=capabilities, create=True)
    told = client.partition_group(name)
    assert list(told.members) == shares_among(client.group(name).members, told.points)


def test_those_who_came_last_have_no_part_where_a_ring_is_full():
    members = [_member(f"m{index}", {"weight": 64}) for index in range(6)]
    assert len(shares_among(members, 1024)) == 4
    assert len(shares_among([_member(str(index)) for index in range(600)])) == 512
