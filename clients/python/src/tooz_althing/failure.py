"""Errors of Althing as those of Tooz. Nothing else leaves the driver."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tooz
from tooz import coordination

import althing
from tooz_althing import names


class WatchCallbackNotFound(coordination.WatchCallbackNotFound):
    """Tells that a callback was not registered. Takes any id and any callable."""

    def __init__(self, group_id: str | bytes, callback: Any) -> None:
        group = names.shown(group_id)
        name = getattr(callback, "__name__", None) or repr(callback)
        tooz.ToozError.__init__(self, f"Callback {name} is not registered on group {group}")
        self.group_id = group
        self.callback = callback


def group_not_created(group: str | bytes) -> coordination.GroupNotCreated:
    """Makes the error that there is no such group."""
    return coordination.GroupNotCreated(names.shown(group))


def member_not_joined(group: str | bytes, member: str | bytes) -> coordination.MemberNotJoined:
    """Makes the error that a member is not in a group."""
    return coordination.MemberNotJoined(names.shown(group), names.shown(member))


def member_already_exist(group: str | bytes, member: str | bytes) -> coordination.MemberAlreadyExist:
    """Makes the error that a member is in a group already."""
    return coordination.MemberAlreadyExist(names.shown(group), names.shown(member))


def translate(error: althing.Error) -> tooz.ToozError:
    """Returns the error of Tooz that says the same."""
    text = str(error)
    if isinstance(error, althing.Unsupported):
        return tooz.NotImplemented(text)
    gone = (althing.Unavailable, althing.NoAnswer, althing.Closed, althing.SessionLost, althing.Busy)
    if isinstance(error, gone):
        return coordination.ToozConnectionError(text, cause=error)
    if isinstance(error, althing.Timeout):
        return coordination.OperationTimedOut(text, cause=error)
    return tooz.ToozError(text, cause=error)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turns errors of Althing into those of Tooz. Callbacks of users are not called in here."""
    try:
        yield
    except althing.Error as error:
        raise translate(error) from error
    except tooz.ToozError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OSError) as error:
        message = f"what the host answered was not understood: {error!r}"
        raise tooz.ToozError(message, cause=error) from error
