"""Bytes in JSON: ``{"base64": "..."}`` by convention, the same in every client."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from althing.errors import Invalid


def encode(value: Any) -> Any:
    """Returns what stands for ``value`` in JSON: bytes become ``{"base64": "..."}``, tuples lists.

    Fails with :class:`~althing.Invalid` on what JSON cannot say.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if -(1 << 63) <= value < 1 << 64:
            return int(value)
        raise Invalid(f"{value} has more than 64 bits")
    if isinstance(value, float):
        if value == value and abs(value) != float("inf"):
            return value
        raise Invalid(f"JSON has no {value}")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"base64": base64.b64encode(bytes(value)).decode("ascii")}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: encode(item) for key, item in value.items()}
        raise Invalid("JSON has only text as keys")
    raise Invalid(f"JSON has no {type(value).__name__}")


def decode(value: Any) -> Any:
    """Returns what :func:`encode` was given; ``{"base64": "..."}`` becomes bytes again."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(value.get("base64"), str):
            try:
                return base64.b64decode(value["base64"], validate=True)
            except (binascii.Error, ValueError):
                return value
        return {key: decode(item) for key, item in value.items()}
    return value
