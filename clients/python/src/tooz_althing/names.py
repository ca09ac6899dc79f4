"""Ids of Tooz, which are bytes, as names of Althing, which are text.

Bytes that are UTF-8 are themselves, so that ``althing group list`` shows them as they are. All others, and those that
begin with the mark itself, are written as ``base64:`` and their URL-safe base64. Each name stands for one id, and each
id has one name.
"""

from __future__ import annotations

import base64
import binascii

import tooz

_MARK = "base64:"


def to_id(given: str | bytes) -> bytes:
    """Returns an id as bytes, whichever way it was given."""
    if isinstance(given, str):
        try:
            return given.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return given.encode("utf-8", "surrogatepass")
    if isinstance(given, (bytes, bytearray, memoryview)):
        return bytes(given)
    raise tooz.ToozError(f"an id is bytes or text, not {type(given).__name__}")


def to_name(given: str | bytes) -> str:
    """Returns the name of an id."""
    raw = to_id(given)
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    if name and not name.startswith(_MARK):
        return name
    return _MARK + base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def from_name(name: str) -> bytes:
    """Returns the id of a name; of one that :func:`to_name` does not make, its UTF-8."""
    if name.startswith(_MARK):
        text = name[len(_MARK) :]
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            return name.encode()
        if to_name(raw) == name:
            return raw
    return name.encode()


def shown(given: str | bytes) -> str:
    """Returns an id for people."""
    return to_id(given).decode("utf-8", "backslashreplace")
