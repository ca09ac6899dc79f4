"""Names, capabilities, revisions and addresses on their way to a host and back."""

from __future__ import annotations

import datetime
import json
import pickle

import pytest
import tooz

import althing
from althing import codec
from althing.address import addresses
from tooz_althing import names, values


@pytest.mark.parametrize(
    "raw",
    [b"web", "ü".encode(), b"\xff\x00bin", b"base64:web", b"base64:", b"", b"a/b?c#d %", b"\x00", b"..", b"x" * 99],
)
def test_every_id_comes_back_from_its_name(raw):
    name = names.to_name(raw)
    assert name.encode().decode() == name and name
    assert names.from_name(name) == raw


def test_readable_ids_are_their_own_names():
    assert names.to_name(b"volume-1") == "volume-1" == names.to_name("volume-1")
    assert names.to_name(b"\xff") == "base64:_w"


def test_a_name_that_no_driver_made_is_an_id_as_well():
    assert names.from_name("base64:!!") == b"base64:!!"


def test_an_id_of_another_type_is_an_error_of_tooz():
    with pytest.raises(tooz.ToozError):
        names.to_id(5)


@pytest.mark.parametrize(
    "value",
    [
        None, {}, {"a": [1, 2.5, True, None, "ü"]}, b"raw", {"k": b"\x00\xff"}, [[]], "text", 1 << 63,
        {"base64": "AAAA"}, {"msgpack": "x"}, {"t": datetime.datetime(2026, 1, 2)}, {"s": {1, 2}},
        float("inf"), {"deep": {"base64": "YQ=="}},
    ],
)  # fmt: skip
def test_capabilities_come_back_as_they_were(value):
    there = json.loads(json.dumps(values.dumps(value), allow_nan=False))
    assert values.loads(codec.decode(there)) == value


def test_usual_capabilities_can_be_read_by_anybody():
    assert values.dumps({"weight": 5, "raw": b"a"}) == {"weight": 5, "raw": {"base64": "YQ=="}}


def test_what_cannot_be_said_is_a_serialization_error():
    with pytest.raises(tooz.coordination.SerializationError):
        values.dumps({"a": object()})
    with pytest.raises(tooz.coordination.SerializationError):
        values.dumps({1: "Tooz packs this and cannot unpack it"})


def test_a_revision_orders_as_text_too():
    small, great = althing.Revision("00000000000000000009"), althing.Revision(10)
    assert small < great and str(small) < str(great) and f"{small}" == "0" * 19 + "9"


def test_errors_keep_what_the_host_said():
    info = {"kind": "conflict", "effect": "none", "message": "m", "advice": "a", "context": {"k": "v"}}
    error = althing.errors.told(409, info)
    assert isinstance(error, althing.Conflict)
    assert (error.effect, error.advice, error.context) == ("none", "a", {"k": "v"})
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is althing.Conflict and again.advice == "a"
    assert isinstance(althing.errors.told(500, "<html>"), althing.Internal)


def test_addresses_are_read_and_wrong_ones_refused_with_advice():
    assert str(addresses("unix:/run/a.sock")[0]) == "unix:/run/a.sock"
    assert [str(a) for a in addresses("http://h1:1,[::1]:2")] == ["http://h1:1", "http://[::1]:2"]
    assert addresses("https://h:4001")[0].tls
    for wrong in ("/run/a.sock", "http://h", "http://h:1/v1", "ftp://h:1", "http://h:99999", "unix:"):
        with pytest.raises(althing.Invalid):
            addresses(wrong)
