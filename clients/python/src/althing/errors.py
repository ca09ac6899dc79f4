"""One tree of errors: what went wrong, whether it landed, and where.

Branch on the class (or on :attr:`Error.kind`, which is the same in every language), retry on
:attr:`Error.effect`, print the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: Nothing was written; the operation may be sent again.
NONE: Final = "none"
#: It may have been written; read back before sending it again.
UNKNOWN: Final = "unknown"


class Error(Exception):
    """Tells that something failed. The root of all that this package raises on purpose."""

    #: What went wrong, as a host names it.
    kind: str = "internal"

    def __init__(
        self,
        message: str,
        *,
        effect: str = NONE,
        advice: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        #: The whole sentence.
        self.message = message
        #: Whether it may have been written: ``none`` or ``unknown``.
        self.effect = effect
        #: What to do about it.
        self.advice = advice
        #: Where it happened: a group, a member, a lock.
        self.context: dict[str, str] = dict(context or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.message, self.effect, self.advice, self.context)


def _again(
    cls: type[Error], message: str, effect: str, advice: str | None, context: dict[str, str]
) -> Error:
    return cls(message, effect=effect, advice=advice, context=context)


class Invalid(Error):
    """Tells that the input is malformed, or not allowed in this place."""

    kind = "invalid"


class TooLarge(Error):
    """Tells that a stated limit on size or count was passed."""

    kind = "too-large"


class NotFound(Error):
    """Tells that what was named does not exist."""

    kind = "not-found"


class Exists(Error):
    """Tells that what should be made exists already."""

    kind = "exists"


class Conflict(Error):
    """Tells that somebody else wrote first, or that the state does not allow it."""

    kind = "conflict"


class SessionLost(Error):
    """Tells that the session has ended. It will not come back; open a new one."""

    kind = "session-lost"


class Unavailable(Error):
    """Tells that the host, or its backend, cannot be reached or refuses service now."""

    kind = "unavailable"


class Timeout(Error):
    """Tells that the backend did not answer the host within its deadline."""

    kind = "timeout"


class NoAnswer(Timeout):
    """Tells that the host itself did not answer within this client's deadline."""


class Unsupported(Error):
    """Tells that this backend, as configured, does not promise what was asked."""

    kind = "unsupported"


class Denied(Error):
    """Tells that this principal may not do this."""

    kind = "denied"


class Busy(Error):
    """Tells that a bounded resource is in use; try later."""

    kind = "busy"


class Format(Error):
    """Tells that the namespace holds another layout, or a newer one."""

    kind = "format"


class Fault(Error):
    """Tells that a policy failed: it trapped, ran out of its budget or answered nonsense."""

    kind = "fault"


class Closed(Error):
    """Tells that the host is ending, or that this client was closed."""

    kind = "closed"


class Internal(Error):
    """Tells of a bug, or of an answer that no host gives."""

    kind = "internal"


_BY_KIND: dict[str, type[Error]] = {
    cls.kind: cls
    for cls in (
        Invalid, TooLarge, NotFound, Exists, Conflict, SessionLost, Unavailable, Timeout,
        Unsupported, Denied, Busy, Format, Fault, Closed, Internal,
    )
}  # fmt: skip


def told(status: int, info: object) -> Error:
    """Turns what a host answered into the error that it was there."""
    if not isinstance(info, dict) or "kind" not in info:
        return Internal(f"status {status} with a body that no host sends: {str(info)[:200]}", effect=UNKNOWN)
    cls = _BY_KIND.get(str(info["kind"]), Internal)
    if cls is NotFound and str(info.get("message")).startswith("find route"):
        # It is not something of that name that is missing: the host is older than this client.
        cls = Unsupported
    advice = info.get("advice")
    context = info.get("context") or {}
    return cls(
        str(info.get("message") or info["kind"]),
        effect=str(info.get("effect") or NONE),
        advice=str(advice) if advice else None,
        context={str(name): str(value) for name, value in context.items()},
    )
