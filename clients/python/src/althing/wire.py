"""HTTP/1.1 to a host: requests and event streams over a Unix socket, TCP or TLS.

Names of ``socket`` and ``threading`` are looked up when they are needed, so that it does not matter whether
eventlet or gevent patched them before or after this module was imported.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from althing import errors, limits
from althing.address import Address

_BASE = "/v1"
_RECV_BYTES = 1 << 16


def path(*parts: str) -> str:
    """Makes the path of a route. Each part is escaped, so that any name takes exactly one place."""
    for part in parts:
        if not part:
            raise errors.Invalid("an empty name has no place in a path")
    return _BASE + "".join("/" + quote(part, safe="").replace(".", "%2E") for part in parts)


@dataclass
class Ask:
    """Says what a request asks for."""

    operation: str
    method: str
    path: str
    body: Any = field(default=None, repr=False)
    # The session's secret is among them.
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Sending it twice does no more than sending it once.
    repeatable: bool = False


@dataclass
class Look:
    """Says what whoever waits does meanwhile. What ``act`` raises ends the wait."""

    every: float
    act: Callable[[], None]


class _Cut(Exception):
    """The connection broke. ``sent`` tells whether the host may have read the request."""

    def __init__(self, cause: object, sent: bool) -> None:
        super().__init__(str(cause) or type(cause).__name__)
        self.sent = sent


class Wire:
    """Keeps connections to a host, or to the first that answers of several. Safe to share among threads."""

    def __init__(
        self,
        addresses: Sequence[Address],
        *,
        token: Callable[[], str | None] = lambda: None,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        deadline: float = limits.CALL_DEADLINE,
    ) -> None:
        if not addresses:
            raise errors.Invalid("no address of a host")
        self.addresses = list(addresses)
        self.deadline = deadline
        self._token = token
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._at = 0
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[tuple[float, _Connection]] = []

    @property
    def address(self) -> Address:
        """Returns where the host answers that is asked now."""
        return self.addresses[self._at % len(self.addresses)]

    def exchange(
        self,
        ask: Ask,
        *,
        deadline: float | None = None,
        wait: float | None = 0.0,
        look: Look | None = None,
    ) -> Any:
        """Sends a request and returns its answer, read as JSON.

        The answer has to come within ``wait`` (for ever, where that is ``None``) and the deadline after it.
        """
        deadline = self.deadline if deadline is None else deadline
        begun = time.monotonic()
        until = float("inf") if wait is None else begun + wait + deadline
        connection = self._take()
        if connection is not None:
            try:
                return self._on(connection, ask, until, look)
            except _Cut as cut:
                if cut.sent and not ask.repeatable:
                    raise self._broken(ask, cut) from None
        connection = self._dial(ask.operation, begun + deadline)
        try:
            return self._on(connection, ask, until, look)
        except _Cut as cut:
            raise self._broken(ask, cut) from None

    def stream(self, ask: Ask, *, deadline: float | None = None) -> Stream:
        """Sends a request whose answer is an event stream. Only its beginning has to come in time."""
        until = time.monotonic() + (self.deadline if deadline is None else deadline)
        connection = self._dial(ask.operation, until)
        try:
            status = connection.send(self._request(ask), until, None)
            if status >= 300:
                raise errors.told(status, _json(connection.read_all(until, None)))
            return Stream(connection, ask.operation)
        except _Cut as cut:
            connection.close()
            raise self._broken(ask, cut) from None
        except TimeoutError:
            connection.close()
            raise self._late(ask) from None
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Closes the idle connections."""
        if self._pid != os.getpid():
            return self._begin()
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _on(self, connection: _Connection, ask: Ask, until: float, look: Look | None) -> Any:
        try:
            status = connection.send(self._request(ask), until, look)
            body = connection.read_all(until, look)
        except TimeoutError:
            connection.close()
            if len(self.addresses) > 1 and connection.address is self.address:
                self._at += 1
            raise self._late(ask) from None
        except BaseException:
            connection.close()
            raise
        self._put(connection)
        if status >= 300:
            raise errors.told(status, _json(body))
        return _json(body) if body else None

    def _take(self) -> _Connection | None:
        if self._pid != os.getpid():
            # After a fork the connections are the parent's; closing our copies of them does it no harm.
            self._begin()
        while True:
            with self._lock:
                if not self._idle:
                    return None
                since, connection = self._idle.pop()
            if time.monotonic() - since < limits.IDLE_MAX and connection.address is self.address:
                return connection
            connection.close()

    def _put(self, connection: _Connection) -> None:
        if connection.is_over or self._pid != os.getpid():
            return connection.close()
        with self._lock:
            if len(self._idle) < limits.IDLE_CONNECTIONS_MAX:
                return self._idle.append((time.monotonic(), connection))
        connection.close()

    def _dial(self, operation: str, until: float) -> _Connection:
        """Connects to the host asked last, else to the next that answers."""
        failed: errors.Error | None = None
        for tried in range(len(self.addresses)):
            address = self.address
            share = (until - time.monotonic()) / (len(self.addresses) - tried)
            try:
                return _Connection(address, self._connect(address, operation, max(share, 0.001)))
            except errors.Error as error:
                failed = failed or error
                self._at += 1
        assert failed is not None
        raise failed

    def _connect(self, address: Address, operation: str, left: float) -> socket.socket:
        try:
            if address.path is not None:
                return _open_unix(address, operation, left)
            sock = socket.create_connection((address.host, address.port), timeout=left)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                return self._wrap(sock, address) if address.tls else sock
            except BaseException:
                sock.close()
                raise
        except TimeoutError:
            raise errors.NoAnswer(
                f"{operation}: no answer from {address} within {left:.3g} s",
                advice="See whether the host is overloaded or stopped",
            ) from None
        except OSError as error:
            raise _unreachable(operation, address, error) from error

    def _wrap(self, sock: socket.socket, address: Address) -> socket.socket:
        if self._context is None:
            self._context = self._tls()
        return self._context.wrap_socket(sock, server_hostname=address.host)

    def _request(self, ask: Ask) -> bytes:
        body = b"" if ask.body is None else json.dumps(ask.body, separators=(",", ":")).encode()
        head = [f"{ask.method} {ask.path} HTTP/1.1", f"host: {self.address.authority}"]
        if ask.body is not None:
            head.append("content-type: application/json")
        if ask.body is not None or ask.method != "GET":
            head.append(f"content-length: {len(body)}")
        token = self._token()
        if token:
            head.append(f"authorization: Bearer {token}")
        head.extend(f"{name}: {value}" for name, value in ask.headers.items())
        if any("\r" in line or "\n" in line for line in head):
            raise errors.Invalid("the token or the backend's name holds what no header may hold")
        return "\r\n".join(head).encode("utf-8", "replace") + b"\r\n\r\n" + body

    def _broken(self, ask: Ask, cut: _Cut) -> errors.Unavailable:
        message = f"{ask.operation}: the connection to {self.address} broke: {cut}"
        return errors.Unavailable(message, effect=errors.UNKNOWN if cut.sent else errors.NONE)

    def _late(self, ask: Ask) -> errors.NoAnswer:
        return errors.NoAnswer(
            f"{ask.operation}: no answer from {self.address} in time",
            effect=errors.UNKNOWN,
            advice="See whether the host is overloaded or stopped",
        )


class Stream:
    """Reads server-sent events, each as JSON."""

    def __init__(self, connection: _Connection, operation: str) -> None:
        self._connection = connection
        self._operation = operation

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields events until the stream ends; fails with :class:`~althing.Unavailable` if it breaks."""
        try:
            yield from self._events()
        finally:
            self._connection.close()

    def _events(self) -> Iterator[dict[str, Any]]:
        rest: bytes = b""
        data: list[bytes] = []
        while True:
            try:
                chunk = self._connection.read_some(time.monotonic() + limits.STREAM_SILENCE_MAX, None)
            except (TimeoutError, _Cut) as error:
                message = f"{self._operation}: the stream broke: {error or 'it fell silent'}"
                raise errors.Unavailable(message) from None
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > limits.ANSWER_BYTES_MAX:
                raise errors.TooLarge(f"an event of more than {limits.ANSWER_BYTES_MAX} bytes")
            for line in lines:
                line = line.rstrip(b"\r")
                if line.startswith(b"data:"):
                    data.append(line[5:].lstrip(b" "))
                elif not line and data:
                    event = _json(b"\n".join(data))
                    data.clear()
                    yield event

    def close(self) -> None:
        """Ends the stream; whoever reads it hears of it at once. Safe from any thread."""
        self._connection.shut()


class _Connection:
    def __init__(self, address: Address, sock: socket.socket) -> None:
        self.address = address
        self.is_over = False
        self._sock = sock
        self._buffer = bytearray()
        # Bytes of the body that are still to come; -1 where they come in chunks, -2 where its end is the connection's.
        self._left = 0

    def send(self, request: bytes, until: float, look: Look | None) -> int:
        """Sends a request and reads the head of its answer. Returns the status."""
        try:
            self._sock.settimeout(max(0.001, min(until - time.monotonic(), 3600.0)))
            self._sock.sendall(request)
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:
            raise _Cut(error, sent=False) from None
        status = 100
        while status < 200:
            while (end := self._buffer.find(b"\r\n\r\n")) < 0:
                if len(self._buffer) > _RECV_BYTES or not self._fill(until, look):
                    raise _Cut("it closed before it answered", sent=True)
            head = bytes(self._buffer[:end]).split(b"\r\n")
            del self._buffer[: end + 4]
            status = self._read_head(head)
        return status

    def _read_head(self, head: list[bytes]) -> int:
        try:
            version, code, *_ = head[0].split(b" ", 2)
            status = int(code)
        except ValueError:
            raise _Cut(f"no HTTP: {head[0][:80]!r}", sent=True) from None
        self._left = 0 if status in (204, 304) or status < 200 else -2
        self.is_over = version != b"HTTP/1.1"
        for line in head[1:]:
            name, _, value = line.partition(b":")
            name, value = name.strip().lower(), value.strip().lower()
            if name == b"content-length" and self._left == -2:
                self._left = int(value)
            elif name == b"transfer-encoding" and b"chunked" in value:
                self._left = -1
            elif name == b"connection" and b"close" in value:
                self.is_over = True
        return status

    def read_all(self, until: float, look: Look | None) -> bytes:
        """Reads the whole body."""
        if self._left == -2:
            self.is_over = True
        parts, size = [], 0
        while chunk := self.read_some(until, look):
            parts.append(chunk)
            size += len(chunk)
            if size > limits.ANSWER_BYTES_MAX:
                raise errors.TooLarge(f"an answer of more than {limits.ANSWER_BYTES_MAX} bytes")
        return b"".join(parts)

    def read_some(self, until: float, look: Look | None) -> bytes:
        """Reads what there is of the body, at least one byte; nothing at its end."""
        if self._left == -1:
            return self._read_chunk(until, look)
        if self._left == 0:
            return b""
        if not self._buffer and not self._fill(until, look):
            if self._left == -2:
                return b""
            raise _Cut("it closed in the middle of an answer", sent=True)
        take = len(self._buffer) if self._left == -2 else min(self._left, len(self._buffer))
        part = bytes(self._buffer[:take])
        del self._buffer[:take]
        if self._left > 0:
            self._left -= take
        return part

    def _read_chunk(self, until: float, look: Look | None) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._more(until, look)
        try:
            size = int(bytes(self._buffer[:end]).split(b";")[0], 16)
        except ValueError:
            raise _Cut("a chunk without a size", sent=True) from None
        if size > limits.ANSWER_BYTES_MAX:
            raise errors.TooLarge(f"a chunk of more than {limits.ANSWER_BYTES_MAX} bytes")
        whole = end + 2 + size + 2
        while len(self._buffer) < whole:
            self._more(until, look)
        part = bytes(self._buffer[end + 2 : end + 2 + size])
        del self._buffer[:whole]
        if size == 0:
            self._left = 0
        return part

    def _more(self, until: float, look: Look | None) -> None:
        if not self._fill(until, look):
            raise _Cut("it closed in the middle of an answer", sent=True)

    def _fill(self, until: float, look: Look | None) -> bool:
        """Receives at least one byte. Returns whether there was one before the end."""
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            step = min(left, look.every) if look else left
            try:
                self._sock.settimeout(max(0.001, min(step, 3600.0)))
                data = self._sock.recv(_RECV_BYTES)
            except TimeoutError:
                if look:
                    look.act()
                continue
            except (OSError, ValueError, AttributeError) as error:
                # A socket that another thread shut down says so in one of many ways.
                raise _Cut(error, sent=True) from None
            self._buffer += data
            return bool(data)

    def shut(self) -> None:
        """Ends it under whoever reads from it."""
        try:
            if isinstance(self._sock, ssl.SSLSocket):
                # Not its own method, which takes the TLS session from under a reader.
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
            else:
                self._sock.shutdown(socket.SHUT_RDWR)
        except (OSError, TypeError, AttributeError):
            self.close()

    def close(self) -> None:
        """Closes it."""
        try:
            self._sock.close()
        except OSError:
            pass


def _open_unix(address: Address, operation: str, left: float) -> socket.socket:
    assert address.path is not None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(left)
        sock.connect(address.path)
        # Elsewhere whoever may open the socket may ask, as an operator in its group does.
        if address.is_open_to_anybody():
            _check_host(sock, address, operation)
        return sock
    except BaseException:
        sock.close()
        raise


def _check_host(sock: socket.socket, address: Address, operation: str) -> None:
    """Fails unless the process behind the socket is root's or our own."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    if uid not in (0, os.geteuid()):
        raise errors.Denied(f"{operation}: {address} belongs to another user ({uid})")


def _unreachable(operation: str, address: Address, error: OSError) -> errors.Error:
    if isinstance(error, ssl.SSLError):
        advice = "Name the authority that signed its certificate with ca_cert"
        return errors.Unavailable(f"{operation}: no TLS with {address}: {error}", advice=advice)
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        advice = "Start one with `althing serve`, or name another"
        return errors.Unavailable(f"{operation}: no host answers at {address}", advice=advice)
    if isinstance(error, PermissionError):
        advice = "Ask for membership in the socket's group, or use a TCP address with a token"
        return errors.Denied(f"{operation}: {address} may not be opened", advice=advice)
    return errors.Unavailable(f"{operation}: {address} cannot be reached: {error}")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError as error:
        raise errors.Internal(f"an answer that is no JSON: {error}", effect=errors.UNKNOWN) from None
