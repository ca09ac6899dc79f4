"""Capabilities as JSON.

What JSON can say is said in JSON, with bytes as ``{"base64": "..."}``, so that every client reads it. Anything else
that Tooz takes (dates, sets, numbers JSON lacks) is one ``{"msgpack": "..."}``, made as Tooz's own drivers make it.
"""

from __future__ import annotations

import base64
from typing import Any

from tooz import coordination, utils

from althing import codec

_MARKS = ("base64", "msgpack")


def dumps(value: Any) -> Any:
    """Returns what stands for ``value`` in JSON. Fails with ``SerializationError``."""
    if _is_plain(value):
        return codec.encode(value)
    try:
        packed = utils.dumps(value)
        # Tooz packs some values that it cannot unpack. Whoever says such a thing is told, not whoever reads it.
        utils.loads(packed)
    except coordination.SerializationError:
        raise
    except Exception as error:
        raise coordination.SerializationError(str(error), cause=error) from error
    return {"msgpack": base64.b64encode(packed).decode("ascii")}


def loads(value: Any) -> Any:
    """Returns what :func:`dumps` was given."""
    if isinstance(value, dict) and len(value) == 1 and isinstance(value.get("msgpack"), str):
        try:
            return utils.loads(base64.b64decode(value["msgpack"], validate=True))
        except coordination.SerializationError:
            raise
        except Exception as error:
            raise coordination.SerializationError(str(error), cause=error) from error
    return value


def _is_plain(value: Any) -> bool:
    """Tells whether JSON says ``value`` and nothing else by what :func:`althing.codec.encode` makes of it."""
    if value is None or isinstance(value, (bool, bytes)):
        return True
    if isinstance(value, str):
        return not any("\ud800" <= sign <= "\udfff" for sign in value)
    if type(value) is int:
        return -(1 << 63) <= value < 1 << 64
    if type(value) is float:
        return value == value and abs(value) != float("inf")
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if type(value) is dict:
        if len(value) == 1 and next(iter(value)) in _MARKS:
            return False
        return all(isinstance(key, str) and _is_plain(key) for key in value) and all(
            map(_is_plain, value.values())
        )
    return False
