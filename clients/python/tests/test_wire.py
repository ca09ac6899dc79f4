"""HTTP, against a server that misbehaves as it is told."""

from __future__ import annotations

import socket
import threading
import time

import pytest

import althing
from althing.address import Address
from althing.wire import Ask, Look, Wire, path

from conftest import free_port


class Fake:
    """Answers each connection by a list of pieces; ``None`` waits for a request, a number pauses."""

    def __init__(self, *connections):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.seen = []
        self.thread = threading.Thread(target=self._serve, args=(connections,), daemon=True)
        self.thread.start()

    def _serve(self, connections):
        for pieces in connections:
            sock, _ = self.listener.accept()
            with sock:
                for piece in pieces:
                    if piece is None:
                        self.seen.append(sock.recv(65536))
                    elif isinstance(piece, (int, float)):
                        time.sleep(piece)
                    else:
                        sock.sendall(piece)

    @property
    def address(self):
        return Address(host="127.0.0.1", port=self.port)


GET = Ask("test", "GET", "/v1/x", repeatable=True)
POST = Ask("test", "POST", "/v1/x", {})


def answer(body, *head):
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *head, b"", body])


def test_an_answer_is_read_however_it_is_cut():
    whole = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2;x=y\r\n2]\r\n0\r\n\r\n'
    pieces = [whole[at : at + 1] for at in range(len(whole))]
    fake = Fake([None, *pieces, None, answer(b"7")])
    wire = Wire([fake.address])
    assert wire.exchange(GET) == [1, 2]
    assert wire.exchange(GET) == 7, "by the same connection"


def test_a_request_on_a_connection_that_was_closed_is_sent_again_only_if_that_is_harmless():
    fake = Fake([None, answer(b"1"), None], [None, answer(b"2"), None], [None, answer(b"3")])
    wire = Wire([fake.address])
    assert wire.exchange(GET) == 1
    assert wire.exchange(GET) == 2
    with pytest.raises(althing.Unavailable) as caught:
        wire.exchange(POST)
    assert caught.value.effect == "unknown"


def test_an_answer_that_is_cut_off_is_unavailable():
    fake = Fake([None, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123"])
    with pytest.raises(althing.Unavailable, match="middle"):
        Wire([fake.address]).exchange(GET)


def test_what_is_no_host_is_told_as_such():
    with pytest.raises(althing.Unavailable, match="no HTTP"):
        Wire([Fake([None, b"SSH-2.0 hello\r\n\r\n"]).address]).exchange(GET)
    with pytest.raises(althing.Internal, match="no JSON"):
        Wire([Fake([None, answer(b"<html>")]).address]).exchange(GET)


def test_no_answer_within_the_deadline_is_told_then():
    fake = Fake([None, 30])
    begun = time.monotonic()
    with pytest.raises(althing.NoAnswer) as caught:
        Wire([fake.address], deadline=0.2).exchange(GET)
    assert 0.2 <= time.monotonic() - begun < 1 and caught.value.effect == "unknown"


def test_whoever_waits_looks_around_and_may_give_up():
    fake = Fake([None, 30])
    looks = []

    def act():
        looks.append(1)
        if len(looks) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Wire([fake.address]).exchange(GET, wait=None, look=Look(0.01, act))


def test_the_next_host_is_asked_where_one_cannot_be_reached():
    fake = Fake([None, answer(b"1")])
    dead = Address(host="127.0.0.1", port=free_port())
    wire = Wire([dead, fake.address])
    assert wire.exchange(POST) == 1 and wire.address == fake.address


def test_nobody_there_is_told_at_once_and_nothing_was_written():
    for address in (Address(host="127.0.0.1", port=free_port()), Address(path="/nowhere/a.sock")):
        with pytest.raises(althing.Unavailable, match="no host answers") as caught:
            Wire([address]).exchange(POST)
        assert caught.value.effect == "none"


def test_a_header_that_would_be_two_is_refused():
    fake = Fake([None, answer(b"1")])
    with pytest.raises(althing.Invalid):
        Wire([fake.address], token=lambda: "a\r\nx: y").exchange(GET)


def test_a_name_takes_exactly_one_place_in_a_path():
    assert path("groups", "a/b ü", "..", "?") == "/v1/groups/a%2Fb%20%C3%BC/%2E%2E/%3F"
    with pytest.raises(althing.Invalid):
        path("groups", "")
