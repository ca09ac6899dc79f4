"""The options of a coordinator: of its URL, and of the arguments of ``get_coordinator``, which prevail."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import unquote

import tooz

import althing
from althing.address import Address, default_socket, tcp

#: What other drivers call what is an option here, or what became of it.
_ELSEWHERE = {
    "membership_timeout": "ttl",
    "lock_timeout": "ttl",
    "leader_timeout": "ttl",
    "lease": "ttl",
    "socket_timeout": "request_timeout",
    "socket_connect_timeout": "request_timeout",
    "ca": "ca_cert",
    "ssl_ca": "ca_cert",
    "ssl_ca_certs": "ca_cert",
    "cafile": "ca_cert",
    "certfile": "cert",
    "cert_cert": "cert",
    "ssl_cert": "cert",
    "ssl_certfile": "cert",
    "keyfile": "key",
    "cert_key": "key",
    "ssl_key": "key",
    "ssl_keyfile": "key",
    "acl_token": "token_file",
    "password": "token_file",
}


@dataclass
class Options:
    """Holds what may be set. Times are in seconds."""

    #: The backend of the host, by its name there.
    backend: str | None = None
    #: The lease of members and locks, and at most 10 of it how long a request waits for its answer.
    timeout: float = 30.0
    #: The lease alone.
    ttl: float | None = None
    #: How long a request waits for its answer, alone.
    request_timeout: float | None = None
    token: str | None = None
    token_file: str | None = None
    ca_cert: str | None = None
    cert: str | None = None
    key: str | None = None
    #: Put before the names of groups and locks, so that services that share a host do not meet.
    namespace: str | None = None
    #: Renew the session in the background, also while nobody calls ``heartbeat()``.
    keepalive: bool = False
    #: End the session as soon as the connection breaks, such as when this process is killed.
    drop_on_disconnect: bool = False
    #: Groups made by ``join_group_create`` go with their last member.
    ephemeral: bool = False
    #: The least level of the backend: ``L0``, ``L1`` or ``L2``.
    level: str | None = None
    #: ``threaded`` or ``sync``.
    executor: str = "threaded"

    @property
    def lease(self) -> float:
        """Returns the lease of the session."""
        return self.ttl if self.ttl is not None else self.timeout

    @property
    def deadline(self) -> float:
        """Returns how long a request waits for its answer."""
        return self.request_timeout if self.request_timeout is not None else min(self.timeout, 10.0)

    @property
    def require(self) -> dict[str, Any] | None:
        """Returns what is required of the backend."""
        return {"level": self.level} if self.level else None


def read(given: dict[str, Any]) -> Options:
    """Reads options. Fails with ``ToozError`` on one that is not known, or that says nothing."""
    options = Options()
    readers: dict[str, Callable[[str, Any], Any]] = {
        "timeout": _seconds,
        "ttl": _seconds,
        "request_timeout": _seconds,
        "keepalive": _flag,
        "drop_on_disconnect": _flag,
        "ephemeral": _flag,
    }
    known = [option.name for option in fields(Options)]
    for name, values in given.items():
        if name not in known:
            raise _unknown(name, known)
        value = values[-1] if isinstance(values, (list, tuple)) and values else values
        if value is None:
            continue
        reader = readers[name] if name in readers else _text
        setattr(options, name, reader(name, value))
    if options.level not in (None, "L0", "L1", "L2"):
        raise tooz.ToozError(f"option level is L0, L1 or L2, not {options.level!r}")
    if (options.cert is None) != (options.key is None):
        raise tooz.ToozError("options cert and key go together")
    return options


def hosts(parsed_url: Any) -> list[Address]:
    """Reads where the hosts answer, from the URL of a coordinator."""
    netloc = parsed_url.netloc
    scheme, secure = parsed_url.scheme, parsed_url.scheme.endswith("+https")
    if "@" in netloc:
        raise tooz.ToozError("no user and password in the URL: name the file with the token by token_file")
    if not netloc:
        if secure:
            raise tooz.ToozError(f"no host in the URL: {scheme}://host:port")
        return [Address(path=unquote(parsed_url.path) or default_socket())]
    try:
        return [tcp(part, secure, f"{scheme}://{netloc}") for part in netloc.split(",")]
    except althing.Invalid as error:
        raise tooz.ToozError(str(error), cause=error) from error


def _unknown(name: str, known: list[str]) -> tooz.ToozError:
    close = _ELSEWHERE.get(name) or next(iter(difflib.get_close_matches(name, known, 1, 0.5)), None)
    hint = f"Did you mean {close}?" if close else f"There are {', '.join(known)}"
    return tooz.ToozError(f"the althing driver has no option {name!r}. {hint}")


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if seconds > 0 and math.isfinite(seconds):
        return seconds
    raise tooz.ToozError(f"option {name} is a number of seconds, not {value!r}")


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise tooz.ToozError(f"option {name} is true or false, not {value!r}")


def _text(_: str, value: Any) -> str:
    return str(value)
