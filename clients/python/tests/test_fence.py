"""Fencing: the same claims as those of the Rust crate ``althing-fence``, and a holder who was overtaken."""

from __future__ import annotations

import pickle
import random
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import althing
from althing import Revision, fence
from althing.fence import Fence, Malformed, Mark, Missing, Refused, Stale


def check(tried, resource, token, refused_for=None):
    if refused_for is None:
        return tried.admit(resource, token)
    with pytest.raises(Stale) as stale:
        tried.admit(resource, token)
    assert (stale.value.token, stale.value.seen) == (token, refused_for)


def test_equal_and_higher_tokens_are_let_in_and_a_lower_one_changes_nothing():
    mark = Mark()
    for token in (3, 3, 8, 8):
        mark.admit(token)
    with pytest.raises(Stale) as stale:
        mark.admit(7)
    assert mark.seen == 8 and str(mark.seen) == "00000000000000000008"
    assert isinstance(stale.value, althing.Conflict) and stale.value.kind == "conflict" and stale.value.effect == "none"
    assert str(stale.value) == "token 7 is stale: somebody has written by token 8 since"
    assert pickle.loads(pickle.dumps(stale.value)).seen == 8


def test_each_resource_refuses_what_is_lower_than_it_has_seen():
    tried = Fence()
    check(tried, "a", 5)
    check(tried, "a", 5)
    check(tried, "b", 3)
    check(tried, "a", 4, 5)
    check(tried, "a", 6)
    check(tried, "a", 5, 6)
    assert (tried.seen("a"), tried.seen("b"), tried.seen("c")) == (6, 3, 0)


def test_what_was_forgotten_is_refused_and_never_let_in():
    tried = Fence(resources_max=2)
    check(tried, "a", 5)
    check(tried, "b", 9)
    check(tried, "c", 7)
    check(tried, "a", 4, 5)
    check(tried, "never seen", 4, 5)
    check(tried, "b", 8, 9)
    check(tried, "a", 5)
    assert len(tried.all_seen()[0]) == 2


def test_long_names_are_told_apart_and_take_little_room():
    tried, name = Fence(), "n" * 513
    check(tried, name, 5)
    check(tried, name, 4, 5)
    check(tried, name + "n", 4)
    assert all(len(known) < 100 for known in tried.all_seen()[0])


def test_a_resumed_fence_refuses_what_the_former_one_would():
    former = Fence(resources_max=2)
    for resource, token in (("a", 5), ("b", 9), ("c", 7)):
        check(former, resource, token)
    seen, floor = former.all_seen()
    resumed = Fence(seen, floor=floor, resources_max=2)
    check(resumed, "a", 4, 5)
    check(resumed, "b", 8, 9)
    assert resumed.all_seen() == former.all_seen()
    check(Fence(seen, floor=floor, resources_max=1), "c", 6, 7)


def test_no_token_is_let_in_below_what_its_resource_has_seen():
    chance = random.Random(7)
    for _ in range(50):
        tried, truth = Fence(resources_max=chance.randrange(1, 6)), {}
        for _ in range(200):
            resource, token = str(chance.randrange(9)), chance.randrange(99)
            try:
                tried.admit(resource, token)
            except Stale:
                continue
            assert token >= truth.get(resource, 0)
            truth[resource] = token


def test_a_refused_write_is_not_begun_and_one_that_fails_leaves_its_token():
    tried = Fence()
    with pytest.raises(ZeroDivisionError), tried.admitted("a", 5):
        raise ZeroDivisionError
    with pytest.raises(Stale), tried.admitted("a", 4):
        raise AssertionError("it was let in")
    with tried.admitted("a", 5):
        pass


def test_writes_of_many_threads_land_in_the_order_of_their_tokens():
    tried, written = Fence(), []

    def write(first):
        for token in range(first, 800, 8):
            try:
                with tried.admitted("a", token):
                    written.append(token)
            except Stale:
                pass

    threads = [threading.Thread(target=write, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written == sorted(written) and written[-1] == 799


def test_a_token_is_read_with_and_without_leading_zeros():
    assert fence.token(["42"]) == fence.token([str(Revision(42))]) == fence.token([b"42"]) == fence.token("42") == 42
    assert fence.token(["18446744073709551615"]) == (1 << 64) - 1


@pytest.mark.parametrize(
    "values",
    [[text] for text in ("", "0", "-1", "+1", " 1", "1 ", "0x1", "1,2", "١", "18446744073709551616", "0" * 20 + "1")]
    + [["1", "2"], [b"\xff"], ["²"]],
)
def test_what_is_not_one_token_is_refused(values):
    with pytest.raises(Malformed) as refused:
        fence.token(values)
    assert refused.value.status == 400 and refused.value.headers == {}


def test_a_lower_token_is_answered_with_what_was_seen():
    tried = Fence()
    assert fence.admit(tried, "a", ["7"]) == fence.admit(tried, "a", ["7"]) == 7
    with pytest.raises(Refused) as refused:
        fence.admit(tried, "a", ["6"])
    assert (refused.value.status, refused.value.headers) == (412, {"althing-token-seen": "00000000000000000007"})
    with pytest.raises(Missing) as missing:
        fence.admit(tried, "a", [])
    assert missing.value.status == 428


def test_a_service_refuses_the_holder_who_was_overtaken(session, other, name):
    guard, stored = Fence(), {}

    class Service(BaseHTTPRequestHandler):
        def do_PUT(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            try:
                with guard.admitted(self.path, fence.token(self.headers.get_all(fence.TOKEN, []))):
                    stored[self.path] = body
                status, headers = 204, {}
            except Refused as refused:
                status, headers = refused.status, refused.headers
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    def put(body, headers):
        connection = HTTPConnection(*server.server_address)
        connection.request("PUT", "/orders", body, headers)
        answer = connection.getresponse()
        connection.close()
        return answer.status, answer.headers[fence.SEEN]

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        late, next = session.lock(name), other.lock(name)
        late.acquire()
        token = str(late.token)
        session.client.break_lock(name)
        next.acquire()
        assert put(b"new", {fence.TOKEN: str(next.token)}) == (204, None)
        assert put(b"old", {fence.TOKEN: token}) == (412, str(next.token))
        assert put(b"none", {})[0] == 428 and put(b"bad", {fence.TOKEN: "yes"})[0] == 400
        assert stored == {"/orders": b"new"}
        server.shutdown()
