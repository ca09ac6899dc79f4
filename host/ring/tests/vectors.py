"""Makes ring.json, rendezvous.json and costs.json by the algorithms that the crate's documentation writes down.

Needs Python alone and knows nothing of the crate, so that the two check each other. Whoever writes a client in another
language tests it against the same files. Names and keys are text, or {"hex": ...} where they are bytes that are no
text. `owners` are the first five, in order. (tooz.json was made by Tooz itself; its results are sets.)
"""

import hashlib
import json
from bisect import bisect_right
from fractions import Fraction
from pathlib import Path


def to_bytes(name):
    return bytes.fromhex(name["hex"]) if isinstance(name, dict) else name.encode()


def to_json(name):
    try:
        return name.decode()
    except UnicodeDecodeError:
        return {"hex": name.hex()}


def ring_points(weights, partitions, function):
    points = {}
    for node in sorted(weights):
        for number in range(partitions * weights[node]):
            digest = hashlib.new(function, node * (number + 2)).digest()
            points[int.from_bytes(digest, "big")] = node
    return points


def ring_owners(points, function, key):
    places = sorted(points)
    start = bisect_right(places, int.from_bytes(hashlib.new(function, key).digest(), "big"))
    return list(dict.fromkeys(points[place] for place in places[start:] + places[:start]))


def draw(node, key):
    data = len(node).to_bytes(8, "big") + node + key
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def cost(draw):
    draw |= 1
    log = draw.bit_length() - 1
    rest = draw << (63 - log)
    for _ in range(48):
        square = rest * rest
        bit = square >> 127
        rest = square >> (63 + bit)
        log = log << 1 | bit
    return (64 << 48) - log


def rendezvous_owners(weights, key):
    def rank(node):
        drawn = draw(node, key)
        return Fraction(cost(drawn), weights[node]), -drawn

    return sorted(sorted(weights, reverse=True), key=rank)


FLEETS = [
    {"node1": 1, "node2": 1, "node3": 1},
    {"A": 1, "B": 2, "C": 3},
    {"1": 1, "11": 1, "111": 2, "1111": 1},
    {"a": 1, "ab": 1, "": 2},
    {"чупакабра": 1, "z": 1000},
]
BINARY = {bytes.fromhex("ff0062696e"): 1, b"m1": 3}
MANY = {f"n{number}".encode(): 1 + number % 4 for number in range(40)}
KEYS = [b"", b"foo", b"bar", b"bc", b"c", b"object-1", "чупакабра".encode(), bytes.fromhex("00ff80")]
KEYS += [f"k{number}".encode() for number in range(24)]


def fleets():
    for fleet in FLEETS:
        yield {node.encode(): weight for node, weight in fleet.items()}
    yield BINARY
    yield MANY


def rows(weights):
    return [[to_json(node), weight] for node, weight in weights.items()]


def ring_case(weights, partitions, function):
    points = ring_points(weights, partitions, function)
    ordered = sorted(points)
    lookups = [(key, ring_owners(points, function, key)[:5]) for key in KEYS]
    return {
        "partitions": partitions,
        "hash": function,
        "nodes": rows(weights),
        "points": len(points),
        "first_points": [[hex(place), to_json(points[place])] for place in ordered[:3]],
        "lookups": [{"key": to_json(key), "owners": list(map(to_json, owners))} for key, owners in lookups],
    }


def rendezvous_case(weights):
    lookups = [(key, rendezvous_owners(weights, key)[:5]) for key in KEYS]
    return {
        "nodes": rows(weights),
        "lookups": [{"key": to_json(key), "owners": list(map(to_json, owners))} for key, owners in lookups],
    }


def write(name, cases):
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    Path(__file__).with_name(name).write_text(f"[\n{lines}\n]\n")


shapes = [("md5", 32), ("sha1", 8), ("sha256", 8)]
small = [weights for weights in fleets() if max(weights.values()) < 1000]
write("ring.json", [ring_case(weights, count, function) for weights in small for function, count in shapes])
last = {b"a": 2**32 - 1, b"b": 2**32 - 2, b"c": 1}
write("rendezvous.json", [rendezvous_case(weights) for weights in [*fleets(), last]])
draws = [0, 1, 2, 3, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1]
draws += [draw(b"node", key) for key in KEYS]
write("costs.json", [{"draw": str(drawn), "cost": str(cost(drawn))} for drawn in draws])
