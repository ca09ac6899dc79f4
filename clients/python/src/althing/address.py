"""Where hosts answer."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from urllib.parse import urlsplit

from althing.errors import Invalid

_NAME = "althing.sock"


@dataclass(frozen=True)
class Address:
    """Says where a host answers: at a Unix socket, or at a TCP port with or without TLS."""

    path: str | None = None
    host: str = ""
    port: int = 0
    tls: bool = False

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    @property
    def authority(self) -> str:
        """Returns what the header ``Host`` says."""
        if self.path is not None:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def is_open_to_anybody(self) -> bool:
        """Tells whether this is the socket below the temporary folder, whose folder anybody may have made."""
        return self.path is not None and self.path == _temporary_socket()


def default_socket() -> str:
    """Returns the socket at which a host answers where nobody says otherwise.

    That is ``althing.sock`` in ``$XDG_RUNTIME_DIR``, else in ``/run`` for root, else in a folder of this user
    below the temporary folder.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return os.path.join(runtime, _NAME)
    return os.path.join("/run", _NAME) if os.geteuid() == 0 else _temporary_socket()


def _temporary_socket() -> str:
    return os.path.join(tempfile.gettempdir(), f"althing-{os.geteuid()}", _NAME)


def addresses(url: str | None) -> list[Address]:
    """Reads ``unix:PATH``, ``http://HOST:PORT`` or ``https://HOST:PORT``.

    Several hosts are told apart by commas, ``http://h1:4001,h2:4001``; without a URL it is ``$ALTHING_SERVER``
    or the default socket.
    """
    url = url or os.environ.get("ALTHING_SERVER") or f"unix:{default_socket()}"
    if url.startswith("unix:"):
        path = url[len("unix:") :]
        path = path[2:] if path.startswith("//") else path
        if not path:
            raise _wrong(url, "no path")
        return [Address(path=path)]
    for scheme, tls in (("http://", False), ("https://", True)):
        if url.startswith(scheme):
            rest = url[len(scheme) :].rstrip("/")
            if any(sign in rest for sign in "/@?#"):
                raise _wrong(url, "more than hosts and ports")
            return [tcp(part, tls, url) for part in rest.split(",")]
    raise _wrong(url, "neither unix: nor http:// nor https://")


def tcp(authority: str, tls: bool, url: str) -> Address:
    """Reads one ``HOST:PORT`` of ``url``."""
    try:
        parts = urlsplit(f"//{authority}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _wrong(url, str(error)) from None
    if not host:
        raise _wrong(url, "no host")
    if not port:
        raise _wrong(url, "no port")
    return Address(host=host, port=port, tls=tls)


def _wrong(url: str, what: str) -> Invalid:
    if url.startswith(("/", ".")):
        advice = f"Did you mean unix:{url}?"
    else:
        advice = "Write unix:/run/althing.sock or http://127.0.0.1:4001"
    return Invalid(f"{what} in {url!r}. {advice}", advice=advice)
